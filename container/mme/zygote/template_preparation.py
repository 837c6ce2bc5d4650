"""The state that all workers of a template start from: its framework imported, a sample model run, all made immortal.

Nothing stays that a fork would break: one thread, no open connection.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from mme.errors import StartError
from mme.frameworks import registry
from mme.libc import LIBC
from mme.settings import DEFAULT_HANDLER, Settings
from mme.zygote import heap, hot_code, immortal
from mme.zygote.worker_process import Inherited

logger = logging.getLogger("mme.zygote")

# What every handler ends up importing; importing it in each worker anew would cost time and memory.
_COMMON_MODULES = (
    "encodings.idna",
    "mms.metrics.metrics_store",
    "mms.model_loader",
    "mms.service",
    "multiprocessing.process",
    "numpy",
    "uuid",
    "mme.zygote.session",
)
# What handlers of one's own are often made of. It imports SciPy: 30 MB that ours needs not.
_TOOLKIT_MODULES = (
    "sagemaker_inference.default_handler_service",
    "sagemaker_inference.default_inference_handler",
    "sagemaker_inference.transformer",
)
# The largest first: a smaller piece would break a larger hole.
_HOLE_SIZES = (65536, 32768, 16384, 8192, *range(4096, 1024, -64), *range(1032, 8, -16))


class PartFailed(StartError):
    """Part of a template (a framework, the handler) cannot be part of it."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part} cannot be imported before workers are forked: {reason}")
        self.part = part


def prepare(
    framework: str,
    left_out: frozenset[str],
    settings: Settings,
    runtime_dir: Path,
    on_part: Callable[[str], None],
) -> Inherited:
    """Makes this process a template for models of ``framework`` (of none: "").

    Returns what its workers must know about it. ``on_part`` is told what comes next of the parts that may fail: the
    handler and the framework. Those in ``left_out`` have failed before. ``runtime_dir`` is where the sample model is
    written. Raises ``PartFailed``.
    """
    started_s = time.monotonic()
    search_path = _search_path_without(settings.python_path)
    before = _open_descriptors()
    handler = settings.handler
    for module in (*_COMMON_MODULES, DEFAULT_HANDLER, *(_TOOLKIT_MODULES if handler else ())):
        _import(module)
    if handler or (framework and registry.description(framework).runs_code):
        _import_image_plugins()
    if handler and handler not in left_out:
        on_part(handler)
        _import(handler)
        _check_threads(handler)
    if framework and framework not in left_out:
        on_part(framework)
        _warm(framework, settings, runtime_dir)
        _check_threads(framework)
    _settle()
    logger.info(
        "ready to fork workers %s after %.1f s",
        f"for {framework}" if framework else "without a framework",
        time.monotonic() - started_s,
    )
    return Inherited(
        descriptors=frozenset(_open_descriptors() - before),
        search_path=search_path,
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE),
    )


def import_modules(modules: Iterable[str]) -> None:
    """Imports more into a template that is prepared already. Raises ``PartFailed`` where one starts a thread."""
    for module in modules:
        _import(module)
        _check_threads(module)
    _settle()


def _settle() -> None:
    """Makes what there is now the workers' common property, which they neither collect nor count nor write to."""
    gc.collect()
    gc.disable()  # a collection would touch, and so copy, pages that the workers share
    _make_immortal()
    gc.freeze()
    _fill_holes()


def _make_immortal() -> None:
    reason = immortal.why_not()
    if reason is None:
        immortal.make_all_immortal()
    else:
        logger.info("objects are counted, which costs each worker a few MB: %s", reason)


def _warm(framework: str, settings: Settings, runtime_dir: Path) -> None:
    from mme.zygote.template_warmup import warm_up_template

    try:
        registry.adapter(framework).warm_template(settings)
        warm_up = partial(warm_up_template, framework, DEFAULT_HANDLER, runtime_dir, settings)
        warm_up(rounds=1)  # what runs once is done
        with hot_code.code_that_runs() as hot:
            warm_up(rounds=1)
        gc.collect()
        _fill_holes()
        hot_code.move(hot)
        warm_up()
    except Exception as error:
        logger.exception("%s could not be warmed up", framework)
        raise PartFailed(framework, f"{type(error).__name__}: {error}") from None


def _import_image_plugins() -> None:
    """Those that Pillow would import at the first image that is none of the usual ones. Our handler names what it reads
    (handler/images.py), and has it imported."""
    if importlib.util.find_spec("PIL") is not None:
        from PIL import Image

        Image.init()


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as error:
        logger.info("%s is not imported beforehand: %s", module, error)


def _search_path_without(python_path: str) -> tuple[str, ...]:
    folders = {Path(entry).absolute() for entry in python_path.split(os.pathsep) if entry}
    return tuple(entry for entry in sys.path if entry and Path(entry).absolute() not in folders)


def _open_descriptors() -> set[int]:
    found = list(Path("/proc/self/fd").iterdir())
    return {int(entry.name) for entry in found if entry.is_symlink()}  # without the one that the listing was read from


def _check_threads(part: str) -> None:
    """Raises ``PartFailed`` where ``part`` has started a thread: only one can be forked."""
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        raise PartFailed(part, f"it starts threads, and there are {len(threads)} now ({', '.join(threads)})")


def _fill_holes() -> None:
    _fill_holes_among_python_objects()
    _fill_holes_in_heap()


def _fill_holes_among_python_objects() -> None:
    """The same for objects of up to 512 bytes, which Python keeps in pools of equal size: 0.5 MB for a tiny model."""
    allocate = ctypes.pythonapi.PyObject_Malloc
    allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
    for line in _allocator_statistics().splitlines():
        numbers = line.split()
        # class, size in bytes, number of pools, blocks in use, blocks available
        if len(numbers) == 5 and all(number.isdigit() for number in numbers):
            for _ in range(int(numbers[4])):
                allocate(int(numbers[1]))  # never freed


def _allocator_statistics() -> str:
    """What CPython's allocator says of itself; nothing where it is another interpreter or allocator."""
    write = getattr(sys, "_debugmallocstats", None)
    if write is None:
        return ""
    sys.stderr.flush()
    before, said = os.dup(2), os.memfd_create("allocator", os.MFD_CLOEXEC)
    try:
        os.dup2(said, 2)
        write()
    finally:
        os.dup2(before, 2)
        os.close(before)
    with os.fdopen(said, encoding="ascii", errors="replace") as file:
        file.seek(0)
        return file.read()


def _fill_holes_in_heap() -> None:
    """Takes every free piece inside the C heap, so that workers allocate on new pages at its end.

    What has been freed during the warm-up lies scattered among what is in use. A worker that allocated there would
    copy a page of the template for each few bytes: 3 MB of them for a tiny MXNet model.
    """
    for size in _HOLE_SIZES:
        at_a_time = 8 if size > 4096 else 64
        while True:
            before = heap.state()
            for _ in range(at_a_time):
                LIBC.malloc(size)  # never freed
            after = heap.state()
            if before is None or after is None:
                return
            # All of them taken from the end of the heap: there is no hole of this size any more.
            if after.arena != before.arena or before.keepcost - after.keepcost >= at_a_time * size:
                break
