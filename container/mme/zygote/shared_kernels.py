"""Kernels that a template has its framework generate for a model that a worker has loaded, so that others inherit them.

A framework that generates machine code for the shapes of a model would do so in each worker anew. Most models of a
server are alike: one network, trained on other data. When the first of a kind has loaded, the template generates that
code itself (``Adapter.generate_kernels``); whoever is forked from then on finds it: the next models, and each wake-up.

    NEW KIND   a session begins ─► its worker has loaded the model ─► there is room ─► generated, or left out for good
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Hashable
from functools import cached_property
from pathlib import Path

from mme.errors import InsufficientMemory, MmeError
from mme.frameworks import registry
from mme.frameworks.base import Adapter
from mme.settings import Settings
from mme.zygote import heap
from mme.zygote.event_loop import EventLoop
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.model_slot import SessionHandle

logger = logging.getLogger("mme.zygote")

MOST_KINDS = 16  # each takes a few MB of the template
_LOOK_S = 0.1
# How long nothing is tried where there was no room.
_NO_ROOM_S = 30.0


class SharedKernels:
    """Of a template with ``framework`` ("": none).

    ``room_bytes`` says how much memory is free beyond the reserve; it may raise ``OSError``.
    """

    def __init__(
        self,
        loop: EventLoop,
        framework: str,
        settings: Settings,
        load_policy: LoadPolicy,
        room_bytes: Callable[[], int],
    ) -> None:
        self._loop = loop
        self._framework = framework
        self._settings = settings
        self._load_policy = load_policy
        self._room_bytes = room_bytes
        self._kinds: set[Hashable] = set()
        self._generated = 0
        self._loading: list[SessionHandle] = []

    def on_load(self, session: SessionHandle) -> None:
        """A worker has been forked that is to load a model."""
        if self._generated < MOST_KINDS and self._adapter is not None:
            self._loading.append(session)
            self._look_later(_LOOK_S)

    @cached_property
    def _adapter(self) -> Adapter | None:
        """None where the framework is not part of this process. First asked when it is as workers find it."""
        if not self._framework or registry.description(self._framework).module not in sys.modules:
            return None
        adapter = registry.adapter(self._framework)
        return adapter if isinstance(adapter, Adapter) else None

    def _look_later(self, delay_s: float) -> None:
        self._loop.after(delay_s, self, self._look)

    def _look(self) -> None:
        """One model, that the loop may see to what else there is."""
        self._loading = [each for each in self._loading if each in each.model.sessions]  # the others have ended
        loaded = next((each for each in self._loading if each.has_loaded), None)
        delay_s = _LOOK_S
        if loaded is not None:
            self._loading.remove(loaded)
            if not self._generate(Path(loaded.model.launch.arguments["--model-path"])):
                self._loading.append(loaded)
                delay_s = _NO_ROOM_S
        if self._generated >= MOST_KINDS:
            self._loading.clear()
        if self._loading:
            self._look_later(delay_s)

    def _generate(self, path: Path) -> bool:
        """Returns False where there is no room now."""
        assert self._adapter is not None
        folder = self._load_policy.folder_of(str(path))
        try:
            kind = self._adapter.kernels_of(folder) if self._load_policy.is_below_root(folder) else None
        except (OSError, MmeError):
            return True  # it is being exchanged or removed
        if kind is None or kind in self._kinds:
            return True
        self._kinds.add(kind)
        try:
            if self._adapter.generate_kernels(folder, self._settings, self._room_bytes()):
                self._generated += 1
                logger.info("workers share the kernels of models like %s", folder)
        except (InsufficientMemory, OSError) as error:
            logger.debug("no kernels are generated for models like %s yet: %s", folder, error)
            self._kinds.discard(kind)
            return False
        except Exception as error:
            logger.warning("workers generate the kernels of models like %s themselves: %s", folder, error)
        finally:
            heap.trim()  # what was freed, each worker would take for its own
        return True
