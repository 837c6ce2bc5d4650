"""The state that all workers start from: frameworks imported, a dummy model run, nothing that a fork would break."""

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
from pathlib import Path

from mme.errors import StartError
from mme.frameworks import registry
from mme.settings import Settings
from mme.supervisor.mms_config import DEFAULT_HANDLER
from mme.zygote.template_warmup import warm_up_template
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
    "sagemaker_inference.default_handler_service",
    "sagemaker_inference.default_inference_handler",
    "sagemaker_inference.transformer",
    "uuid",
    "mme.zygote.session",
)
# The largest first: a smaller piece would break a larger hole.
_HOLE_SIZES = (65536, 32768, 16384, 8192, *range(4096, 1024, -64), *range(1032, 8, -16))


def warm_up(settings: Settings, python_path: str) -> Inherited:
    """Makes this process the template, and returns what its workers must know about it.

    ``python_path`` is the PYTHONPATH that this process was started with. Raises ``StartError`` if it ends up with a
    second thread.
    """
    started_s = time.monotonic()
    search_path = _search_path_without(python_path)
    before = _open_descriptors()
    for module in (*_COMMON_MODULES, *_image_modules(), settings.handler or DEFAULT_HANDLER):
        _import(module)
    warmed = [name for name in frameworks_to_preload(settings) if _warm(name, settings)]
    _restrict_to_one_thread()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would touch, and so copy, pages that the workers share
    _fill_holes_in_heap()
    logger.info("ready to fork after %.1f s, warmed up: %s", time.monotonic() - started_s, ", ".join(warmed) or "none")
    return Inherited(
        descriptors=frozenset(_open_descriptors() - before),
        search_path=search_path,
        open_files_limit=resource.getrlimit(resource.RLIMIT_NOFILE),
    )


def frameworks_to_preload(settings: Settings) -> tuple[str, ...]:
    """The frameworks of ``MME_PRELOAD``, else all known ones that are installed here."""
    if settings.preload is not None:
        return settings.preload
    return tuple(name for name in registry.ADAPTERS if importlib.util.find_spec(name) is not None)


def _warm(name: str, settings: Settings) -> bool:
    """Warms one framework. One that cannot be is left to the workers: their models then say what is wrong."""
    try:
        registry.adapter(name).warm_template(settings)
        warm_up_template(name, DEFAULT_HANDLER)
    except Exception:
        logger.exception("%s could not be warmed up; its models will load slowly, or not at all", name)
        return False
    return True


def _image_modules() -> tuple[str, ...]:
    """Pillow and those of its plugins that it would import at the first image."""
    if importlib.util.find_spec("PIL") is None:
        return ()
    from PIL import Image

    Image.init()
    return ("PIL.Image", "PIL.ImageFile", "PIL.ImageOps")


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


def _restrict_to_one_thread() -> None:
    threads = [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        raise StartError(
            f"the zygote has {len(threads)} threads ({', '.join(threads)}) after its imports; only one can be "
            "forked. Leave the framework that starts them out of MME_PRELOAD, or set MME_WORKERS=spawn."
        )


class _HeapState(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def _fill_holes_in_heap() -> None:
    """Takes every free piece inside the C heap, so that workers allocate on new pages at its end.

    What has been freed during the warm-up lies scattered among what is in use. A worker that allocated there would
    copy a page of the template for each few bytes: 3 MB of them for a tiny MXNet model.
    """
    libc = ctypes.CDLL(None)
    try:
        heap_state, allocate = libc.mallinfo2, libc.malloc
    except AttributeError:
        return  # not glibc, or one before 2.33
    heap_state.restype = _HeapState
    allocate.argtypes, allocate.restype = [ctypes.c_size_t], ctypes.c_void_p
    for size in _HOLE_SIZES:
        at_a_time = 8 if size > 4096 else 64
        while True:
            before = heap_state()
            for _ in range(at_a_time):
                allocate(size)  # never freed
            after = heap_state()
            # All of them taken from the end of the heap: there is no hole of this size any more.
            if after.arena != before.arena or before.keepcost - after.keepcost >= at_a_time * size:
                break
