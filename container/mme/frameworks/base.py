"""What a framework must offer to be served: an ``Adapter`` finds and loads a model, a ``Predictor`` predicts.

One framework is one short module beside this one, named in ``registry.py``. Importing that module must not import the
framework: many containers never load a model of it.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from mme import threads
from mme.errors import InsufficientMemory
from mme.frameworks.description import Description
from mme.settings import Settings


@dataclass(frozen=True)
class TensorSpec:
    """An input of a model: ``shape`` is that of one pass as the artifact gives it, the batch first (1, 3, 224, 224)."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float32)
    allows_missing: bool = False  # may a number be missing (NaN)? Trees know what to do with that, networks do not.

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: all but the batch."""
        return self.shape[1:]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(['N', *map(str, self.sample_shape)])}) {self.dtype}"


class ImageCodec(Protocol):
    """How a model's framework itself reads images, so that an image becomes the numbers that it was trained on."""

    def read(self, body: bytes | bytearray, channels: int, height: int, width: int) -> np.ndarray | None:
        """Decodes and resizes to (``height``, ``width``, ``channels``) uint8, RGB; None for unknown formats."""

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """Resizes a uint8 image (any height, any width, channels) without regard to its aspect."""


class Predictor(ABC):
    """A loaded model. It lives in one worker process and is called by one thread."""

    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...]
    image_codec: ImageCodec | None = None

    @abstractmethod
    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs N samples: arrays (N, *sample shape) of each input's dtype in, one (N, …) array per output back.

        The arrays that it returns are the caller's own. Raises ``InsufficientMemory``.
        """

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """The first output (N, classes) as probabilities; here it already holds them."""
        return scores

    def unload(self) -> None:  # noqa: B027 (most models have nothing to do)
        """Frees what the process would otherwise keep; the model is not used afterwards."""


class Adapter(ABC):
    """How a framework's models are loaded, and all else about it that needs NumPy. One per process, without state."""

    name: str
    description: Description
    artifacts: str  # the files of a model, in words, for error messages
    sample_shape: tuple[int, ...] | None = None  # of what ``write_sample`` writes, the batch first; None: there is none

    def recognises(self, model_dir: Path) -> bool:
        """Is the model in this folder one of this framework? Looks at file names alone, without the framework."""
        return any(any(model_dir.glob(pattern)) for pattern in self.description.well_known_files)

    @abstractmethod
    def import_framework(self, settings: Settings) -> Any:
        """Imports the framework after ``configure_process``, and returns it. Calling it again costs nothing."""

    def configure_process(self, settings: Settings) -> None:
        """Sets the variables that the framework reads at its import, as far as they are not set.

        A worker of the server has them already (``mms_config.environment``); a template or a script may not.
        """
        for name, value in self.description.environment(settings).items():
            os.environ.setdefault(name, value)
        threads.set_default(os.environ)

    @abstractmethod
    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> Predictor:
        """Loads the model. Raises ``ModelLoadError`` for what is wrong with it and ``InsufficientMemory``."""

    def check_folder(self, model_dir: Path) -> None:  # noqa: B027 (a framework may do with whatever there is)
        """Checks without the framework that no file is missing. Raises ``ModelLoadError``."""

    def check_file(self, path: Path, name: str) -> bool:
        """Checks without the framework that the file at ``path`` is what ``name``, which it is to have, says.

        False for a name that says nothing to this framework. Raises ``ModelLoadError``.
        """
        return False

    def warm_template(self, settings: Settings) -> None:  # noqa: B027 (nothing to warm is a fine answer)
        """Called once in the process that workers are forked from: imports the framework and runs a dummy model.

        It must leave no second thread behind: a fork would not carry it over.
        """

    def write_sample(self, folder: Path, settings: Settings) -> None:  # noqa: B027 (there may be none)
        """Writes the artifacts of a tiny model with one input of ``sample_shape``.

        The template loads it through the handler and sends it a few requests before it forks: the code that a load
        and an invocation run through has then been run once, and the workers share the pages that this filled. It may
        be killed meanwhile: all files go into ``folder``, which is removed then, too.
        """


# How MXNet, oneDNN, NumPy and the operating system word the lack of memory. MXNet's C API prints std: :bad_alloc too.
_NO_MEMORY = re.compile(
    r"failed to allocate|bad_alloc|memory allocation|cannot allocate memory|out of memory|unable to allocate"
    r"|could not create a memory|could not allocate|failed to map segment",
    re.IGNORECASE,
)


def means_no_memory(error: BaseException) -> bool:
    """Is there not enough memory, in whatever words this error says so?"""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # MXNetError is a RuntimeError; a library that finds no room for its code makes an OSError or an ImportError
    worded = isinstance(error, RuntimeError | ValueError | OSError | ImportError)
    return worded and bool(_NO_MEMORY.search(str(error)))


def memory_errors(doing: str) -> MemoryErrors:
    """Turns every error inside that means a lack of memory into ``InsufficientMemory``; ``doing`` completes "to …"."""
    return MemoryErrors(doing)


class MemoryErrors:
    """See ``memory_errors``. Each request enters a few of these: a class takes a tenth of the time of a generator."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, InsufficientMemory) or not means_no_memory(error):
            return
        raise InsufficientMemory(
            f"Not enough memory to {self._doing}. Unload other models, send less at a time, or use a larger instance "
            "(or raise MME_WORKER_MEMORY_LIMIT_MB where it is set)."
        ) from error


def describe_inputs(inputs: Sequence[TensorSpec]) -> str:
    """The inputs in words: ``data (N, 3, 224, 224) float32``."""
    return ", ".join(map(str, inputs))
