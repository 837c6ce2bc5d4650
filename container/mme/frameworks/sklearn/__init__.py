"""scikit-learn. What is known of it without importing it, or NumPy, stands here."""

from __future__ import annotations

from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

SKOPS_SUFFIX = ".skops"
JOBLIB_SUFFIX = ".joblib"
PICKLE_FILE = "model.pkl"
PREDICT_METHOD = "option.predict_method"  # in serving.properties

# Measured for scikit-learn 1.9, private MiB of a forked worker after load and two passes, beside the estimate:
#
#     model                          file   at once   trimmed   estimate
#     linear model, joblib            0.0       2.9       3.0        8.0
#     linear model, skops             0.0       4.0       4.1        8.1
#     nearest neighbours, joblib      0.3       5.1       4.4        9.2
#     5 trees, joblib                 1.7       8.0       6.3       14.1
#     5 trees, skops                  1.8      11.3       7.8       14.4
#     50 trees, joblib               17.3      41.0      23.9       68.7
#     the same, compressed            5.1      43.5      24.4       25.7
GROWTH = Growth((JOBLIB_SUFFIX, SKOPS_SUFFIX, ".pkl"), 3.5, module="sklearn", import_mib=110)

DESCRIPTION = Description(
    module="sklearn",
    well_known_files=(f"*{SKOPS_SUFFIX}", f"*{JOBLIB_SUFFIX}", PICKLE_FILE),
    growth=GROWTH,
    options=(PREDICT_METHOD,),
    packages=("scikit-learn", "joblib", "skops", "numpy", "scipy", "pandas"),
    data_formats=("skops",),
)
