"""PyTorch: exported programs (``torch.export``) and TorchScript. What is known without importing it stands here."""

from __future__ import annotations

from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

EXPORTED = ".pt2"
SCRIPTS = (".pt", ".pth")  # TorchScript; a file of weights alone has the same names, and is no model
SHAPES_SUFFIX = "-shapes.json"

# Not measured model by model: the weights are held once, and the archive's bytes beside them while they are read.
GROWTH = Growth((EXPORTED, *SCRIPTS), 2, working_factor=1, most_working_mib=64, module="torch", import_mib=160)

DESCRIPTION = Description(
    module="torch",
    well_known_files=tuple(f"*{suffix}" for suffix in (EXPORTED, *SCRIPTS)),
    growth=GROWTH,
    packages=("torch", "numpy"),
    data_formats=("torch.export",),
    build_argument="FLAVOUR=torch",
)
