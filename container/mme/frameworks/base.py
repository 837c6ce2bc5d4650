"""What a framework must offer to be served: an ``Adapter`` loads a model, a ``Predictor`` predicts.

Models that are programs have a ``CodeAdapter``, and become a ``Service``.

One framework is one short module beside this one, named in ``registry.py``. Importing that module must not import the
framework: many containers never load a model of it.
"""

from __future__ import annotations

import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from mme import threads
from mme.errors import InsufficientMemory
from mme.frameworks.description import Description
from mme.frameworks.table import Table
from mme.settings import Settings

FREE = -1  # as a size in ``TensorSpec.shape``: a dimension of any length


@dataclass(frozen=True)
class TensorSpec:
    """An input of a model: ``shape`` is that of one pass as the artifact gives it, the batch first (1, 3, 224, 224).

    Dimensions of a sample that may be of any length are ``FREE``. Text is of the type ``object``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float32)
    allows_missing: bool = False  # may a number be missing (NaN)? Trees know what to do with that, networks do not.

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: all but the batch."""
        return self.shape[1:]

    @property
    def is_free(self) -> bool:
        """May a dimension of a sample be of any length?"""
        return FREE in self.sample_shape

    @property
    def holds_text(self) -> bool:
        """Is it text, not numbers?"""
        return self.dtype == object

    def takes(self, shape: tuple[int, ...]) -> bool:
        """May a sample have this shape?"""
        own = self.sample_shape
        return shape == own or (
            len(shape) == len(own) and all(size in (FREE, given) for size, given in zip(own, shape, strict=True))
        )

    def blank(self, length: int = 1) -> np.ndarray:
        """A sample of zeros, or of empty texts: (1, *sample shape), with ``length`` for what is ``FREE``."""
        shape = (1, *(length if size == FREE else size for size in self.sample_shape))
        return np.full(shape, "", object) if self.holds_text else np.zeros(shape, self.dtype)

    def __str__(self) -> str:
        sizes = ", ".join(["N", *("any" if size == FREE else str(size) for size in self.sample_shape)])
        return f"{self.name} ({sizes}) {'text' if self.holds_text else self.dtype}"


class ImageCodec(Protocol):
    """How a model's framework itself reads images, so that an image becomes the numbers that it was trained on."""

    def read(self, body: bytes | bytearray, channels: int, height: int, width: int) -> np.ndarray | None:
        """Decodes and resizes to (``height``, ``width``, ``channels``) uint8, RGB; None for unknown formats."""

    def resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """Resizes a uint8 image (any height, any width, channels) without regard to its aspect."""


class Predictor(ABC):
    """A loaded model. It lives in one worker process and is called by one thread.

    Requests are read as tensors (``inputs``) and answers written as those of networks; as rows and scores where the
    model has a ``table``.
    """

    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...]
    native: Any = None  # the library's own object (an estimator, a booster), which a script beside the files is given
    image_codec: ImageCodec | None = None
    table: Table | None = None
    # Of a sample of the first output, where loading the model has told that, and that it runs: it needs no first pass
    # then. A session of ONNX Runtime, for one, has a kernel for each node, and shapes that fit from end to end.
    output_shape: tuple[int, ...] | None = None

    @abstractmethod
    def predict(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs N samples: arrays (N, *sample shape) of each input's dtype in, one (N, …) array per output back.

        The arrays that it returns are the caller's own. Raises ``InsufficientMemory``.
        """

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """The first output (N, classes) as probabilities; here it already holds them."""
        return scores

    def sample(self) -> dict[str, np.ndarray]:
        """A made-up sample for the first pass. Where the model cannot use it, ``predict`` raises ``BadRequest``."""
        return {each.name: each.blank() for each in self.inputs}

    def unload(self) -> None:  # noqa: B027 (most models have nothing to do)
        """Frees what the process would otherwise keep; the model is not used afterwards."""


class Service(Protocol):
    """A loaded model that answers requests by itself: what a model's own program becomes."""

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[Any]:
        """Answers a batch, as MMS gives it: a body per request, its status and headers set on the context."""


class DataModel(Protocol):
    """The model of the files beside a program: what answers requests where the program has no step of its own."""

    model: Any  # what a program's own step is given: the library's object, else one with ``predict``

    def read(self, parts: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's inputs from a request, as MMS gives it. Raises ``RequestError``."""

    def for_program(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """These inputs as a program's own step is given them: an array, a data frame, or arrays by name."""

    def predict(self, data: Any) -> list[np.ndarray]:
        """One array for each output. ``data``: arrays by input, or what NumPy makes an array of, for one input."""

    def write(self, prediction: Any, parts: Mapping[str, Any], headers: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body of an answer, and its content type. Raises ``NotAcceptable``."""


class AnyAdapter(ABC):
    """How models of one kind are recognised and prepared for; all about it that may need NumPy. Without state."""

    name: str
    description: Description
    artifacts: str  # the files of a model, in words, for error messages
    sample_shape: tuple[int, ...] | None = None  # of what ``write_sample`` writes, the batch first; None: there is none

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


class Adapter(AnyAdapter):
    """Of a framework whose models are data: ``ModelHandler`` reads requests and writes responses for them."""

    @abstractmethod
    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> Predictor:
        """Loads the model. Raises ``ModelLoadError`` for what is wrong with it and ``InsufficientMemory``."""

    def kernels_of(self, model_dir: Path) -> Hashable | None:
        """The same for models that run the same code for their shapes; None where the framework generates none.

        Called in the process that workers are forked from, after one of them has loaded the model. Takes no longer
        than to read a small file. Raises ``ModelLoadError``.
        """
        return None

    def generate_kernels(self, model_dir: Path, settings: Settings, room_bytes: int) -> bool:
        """Has that code generated in this process, once for all its workers; called once for what ``kernels_of`` says.

        Returns whether there is any. Takes a fraction of a second, and no code of the model's. Raises
        ``InsufficientMemory`` where it may take more than ``room_bytes``, and what the framework raises.
        """
        return False


class CodeAdapter(AnyAdapter):
    """Of a way to write models as programs (``Description.runs_code``), which answer requests themselves."""

    @abstractmethod
    def load_service(
        self, model_dir: Path, settings: Settings, context: Any, load_data: Callable[[], DataModel | None]
    ) -> Service:
        """Runs the model's program as far as its load. ``context`` is MMS's.

        ``load_data`` loads the files of a model that lie beside the program; it returns None where there are none.

        Raises ``ModelLoadError`` for what is wrong with it, ``InsufficientMemory``, and whatever it raises itself.
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
    return worded and says_no_memory(str(error))


def says_no_memory(text: str) -> bool:
    """Do these words of a library mean that there was not enough memory?"""
    return bool(_NO_MEMORY.search(text))


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


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of scores (N, classes)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def describe_inputs(inputs: Sequence[TensorSpec]) -> str:
    """The inputs in words: ``data (N, 3, 224, 224) float32``."""
    return ", ".join(map(str, inputs))
