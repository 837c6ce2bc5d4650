"""Models that are programs: how their modules are imported, and what becomes of whatever they raise.

A program may do anything: raise, end the process, answer with what is no answer. Whoever loads or asks it hears of it
in one sentence; the stack trace goes to the log.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mme import imports
from mme.errors import MmeError, ModelLoadError, ModelRefused, ProgramError, Refusal
from mme.frameworks import registry
from mme.frameworks.base import memory_errors
from mme.settings import Settings

logger = logging.getLogger(__name__)

JSON = "application/json"
CODE_FOLDER = "code"


def import_program(model_dir: Path, file: Path) -> ModuleType:
    """Runs ``file`` of the model in ``model_dir`` as a module called as the file is.

    Its own folder, ``code/`` and the model's folder come first where it looks for modules, in this order. Raises
    ``ModelLoadError`` for whatever the file raises, ``ModelRefused`` for a link out of the model's folder, and
    ``InsufficientMemory``.
    """
    if not file.resolve().is_relative_to(model_dir.resolve()):
        raise ModelRefused(f"{file} is a link that leads out of the model's folder.")
    folders = [str(each) for each in (file.parent, model_dir / CODE_FOLDER, model_dir) if each.is_dir()]
    sys.path[:] = dict.fromkeys([*folders, *sys.path])
    sys.dont_write_bytecode = True  # it would be taken for that of another file of this size, written in this second
    for folder in folders:
        sys.path_importer_cache.pop(folder, None)  # it may have changed since it was last looked at
    imports.forget_shadowed_modules(folders)
    name = file.stem
    with load_errors(f"{file.relative_to(model_dir)} cannot be imported"):
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError("it is no file of Python")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pickled objects name it
        spec.loader.exec_module(module)
    return module


def check_allowed(model_dir: Path, settings: Settings, what: str) -> None:
    """Raises ``ModelRefused`` where models may not bring code. ``what`` they bring is named."""
    if settings.refuses_model_code:
        raise registry.code_refused(model_dir, what)


@contextmanager
def load_errors(what: str) -> Iterator[None]:
    """Makes whatever is raised inside a ``ModelLoadError`` that begins with ``what``; the stack trace is logged."""
    with _errors(what, "load the model", ModelLoadError):
        yield


@contextmanager
def request_errors(what: str) -> Iterator[None]:
    """Makes whatever is raised inside an error that the caller may read: a ``ProgramError`` that begins with ``what``.

    Errors of ours stay as they are, and what means a lack of memory becomes ``InsufficientMemory``.
    """
    with _errors(what, "answer the request", ProgramError):
        yield


@contextmanager
def _errors(what: str, doing: str, kind: type[MmeError]) -> Iterator[None]:
    try:
        with memory_errors(doing):
            yield
    except MmeError:
        raise
    except BaseException as error:
        logger.error("%s:", what, exc_info=True)
        raise kind(f"{what}: {_worded(error)}") from None


def _worded(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ended the program (SystemExit: {error.code})"
    try:
        text = str(error)
    except Exception:  # an exception of the model's own may raise even here
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def fail(context: Any, index: int, error: MmeError, model_dir: Path) -> bytes:
    """Answers request ``index`` of a batch with ``error``; returns the body."""
    context.set_response_status(error.status, header_text(error.phrase), index)
    context.set_response_content_type(index, JSON)
    message = Refusal.of(error, model_dir).message  # no stack trace, no path of the server
    return json.dumps({**error.to_dict(), "message": message}).encode()


def header_text(text: Any) -> str:
    """``text`` as it may stand in a header or a reason phrase: one line of ASCII."""
    return " ".join(str(text).split()).encode("ascii", "replace").decode()


def as_body(value: Any) -> bytes | bytearray | None:
    """A body as bytes where ``value`` is one: bytes-like or text; else None."""
    if isinstance(value, bytes | bytearray):
        return value
    if isinstance(value, memoryview):
        return value.tobytes()
    return value.encode() if isinstance(value, str) else None
