"""Models that are pickles: whether they may be read, and what is said where they cannot.

A pickle is a program: whoever reads it runs what it says. Joblib's files are pickles, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mme.errors import MmeError, ModelLoadError, ModelRefused
from mme.frameworks.base import means_no_memory
from mme.settings import Settings

_NEWEST_PROTOCOL = 5


def is_pickle(head: bytes) -> bool:
    """Do these first bytes begin a pickle (of protocol 2 or later, or of protocol 0 as Python 2 wrote them)?"""
    return (head[:1] == b"\x80" and 2 <= int.from_bytes(head[1:2], "big") <= _NEWEST_PROTOCOL) or (
        head[:1] in (b"c", b"(") and b"\n" in head
    )


def check_allowed(path: Path, settings: Settings, instead: str) -> None:
    """Raises ``ModelRefused`` where models may not bring code; ``instead`` is the format to use, and how to make it."""
    if settings.refuses_model_code:
        raise ModelRefused(
            f"{path} is a pickle, which can run any code when it is read, and MME_MODEL_CODE=refuse allows models that "
            f"are data alone. Save it as {instead}."
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes whatever goes wrong inside while ``path`` is unpickled a ``ModelLoadError``; a lack of memory is not."""
    try:
        yield
    except MmeError:
        raise
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{path} needs the module {error.name}, which is not installed here. Bring it with the model "
            "(code/inference.py and code/requirements.txt), or save the model without it."
        ) from error
    except (Exception, SystemExit) as error:
        if means_no_memory(error):
            raise
        raise ModelLoadError(
            f"{path} cannot be unpickled: {type(error).__name__}: {error}. The file must be whole, and what it holds "
            "must be of versions that fit those here (docs/frameworks.md)."
        ) from error
