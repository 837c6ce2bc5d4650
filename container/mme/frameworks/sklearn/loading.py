"""From the file of a scikit-learn model to an estimator.

skops reads what it trusts: scikit-learn's own types (trees only where models may bring code), NumPy's, SciPy's and
Python's. A file with any other type is refused by the type's name, and nothing of it is run. Joblib's files and pickles
are programs: they are read unless MME_MODEL_CODE=refuse.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from mme.errors import MmeError, ModelLoadError, ModelRefused
from mme.frameworks import pickles
from mme.frameworks.base import means_no_memory
from mme.frameworks.sklearn import SKOPS_SUFFIX
from mme.settings import Settings

logger = logging.getLogger(__name__)

_MOST_SHOWN = 10
# Beside skops's own: what the categories of texts are described by. It is data.
_TRUSTED = ("numpy.dtype",)
# Trees and the like of scikit-learn itself, which skops leaves out: their C code takes the state that it is given as it
# is. A file can run nothing by them, but may crash its worker.
_TRUSTED_BESIDE_CODE = "sklearn."
_INSTEAD = "model.skops (skops.io.dump(model, 'model.skops')), which holds no code"


def check(path: Path, settings: Settings) -> None:
    """Raises ``ModelRefused`` for a pickle that may not be read, ``ModelLoadError`` for an empty file."""
    if path.suffix != SKOPS_SUFFIX:
        pickles.check_allowed(path, settings, _INSTEAD)
    if path.stat().st_size == 0:
        raise ModelLoadError(f"{path} is empty. It must hold a fitted estimator or pipeline.")


def load(path: Path, settings: Settings) -> Any:
    """The estimator. What is said about versions is said once in the log.

    Raises ``ModelLoadError``, and ``ModelRefused`` for types that are not trusted where models may bring no code.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = _read_skops(path, settings) if path.suffix == SKOPS_SUFFIX else _unpickled(path)
    _log(path, caught)
    if not any(hasattr(estimator, method) for method in ("predict", "transform", "fit_predict")):
        raise ModelLoadError(
            f"{path} holds a {type(estimator).__name__}, not a fitted estimator or pipeline with predict. Save that, "
            "or add code/inference.py, which says how it is used."
        )
    return estimator


def _unpickled(path: Path) -> Any:
    import joblib

    with pickles.reading(path):
        return joblib.load(path)  # plain pickles, too


def _read_skops(path: Path, settings: Settings) -> Any:
    try:
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException
    except ImportError as error:
        raise ModelLoadError(f"{path} needs skops, which is not installed here: {error}.") from None
    try:
        found = skops.io.get_untrusted_types(file=path)
        trusted = [each for each in found if each in _TRUSTED]
        if not settings.refuses_model_code:
            trusted += [each for each in found if each.startswith(_TRUSTED_BESIDE_CODE)]
        untrusted = [each for each in found if each not in trusted]
        if untrusted:
            raise _untrusted(path, untrusted, settings)
        return skops.io.load(path, trusted=trusted)
    except UntrustedTypesFoundException as error:
        raise _untrusted(path, [str(error)], settings) from None
    except (MmeError, MemoryError):
        raise
    except Exception as error:
        if means_no_memory(error):
            raise
        raise ModelLoadError(
            f"{path} is not read by skops: {type(error).__name__}: {error}. The file must be whole, as "
            "skops.io.dump wrote it."
        ) from error


def _untrusted(path: Path, types: list[str], settings: Settings) -> MmeError:
    shown = ", ".join(types[:_MOST_SHOWN]) + (" …" if len(types) > _MOST_SHOWN else "")
    found = (
        f"{path} holds types that are not trusted: {shown}. Trusted are those of scikit-learn, NumPy and SciPy that "
        "skops knows. Build the model of these, or convert it to ONNX"
    )
    if settings.refuses_model_code:
        return ModelRefused(f"{found}: MME_MODEL_CODE=refuse allows models that are data alone.")
    return ModelLoadError(f"{found}; joblib, which runs what a file says, reads any.")


def _log(path: Path, caught: list[warnings.WarningMessage]) -> None:
    """One line for all that was saved by another version; other warnings once each."""
    versions: dict[tuple[str, str], list[str]] = {}
    others: list[str] = []
    for each in caught:
        message: Any = each.message
        saved, here = (
            getattr(message, "original_sklearn_version", None),
            getattr(message, "current_sklearn_version", None),
        )
        if saved and here:
            versions.setdefault((saved, here), []).append(str(message.estimator_name))
        elif str(message) not in others and not issubclass(each.category, DeprecationWarning):
            others.append(str(message))
    for (saved, here), names in versions.items():
        logger.warning(
            "%s was saved by scikit-learn %s and is read by %s (%s): answers may differ. Save it anew to be sure.",
            *(path.name, saved, here, ", ".join(dict.fromkeys(names))),
        )
    for text in others[:_MOST_SHOWN]:
        logger.warning("%s: %s", path.name, " ".join(text.split()))
