"""Evicts models of one container: from its memory, by unloading them, and from the disk.

Only a model that nobody uses is evicted, the least recently used first. Which one AWS takes is not documented.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from local_endpoint.configuration import Limits
from local_endpoint.container_client import Answer, ContainerClient
from local_endpoint.errors import AwsError, ContainerError, ContainerGone, service_unavailable
from local_endpoint.events import Event, ModelUnloaded, Where
from local_endpoint.model_cache.artifacts import ArtifactStore, larger_than_disk
from local_endpoint.model_cache.table import EVICTABLE, Entry, ModelTable, State, least_recently_used
from local_endpoint.storage.location import S3Location

logger = logging.getLogger(__name__)

# The container would not unload what the disk could be freed of: it is asked again, until the deadline.
REFUSED_UNLOAD_PAUSE_S = 0.1


@dataclass(frozen=True)
class CacheContext:
    """What a cache must know of its container."""

    where: Where
    emit: Callable[[Event], None]
    model_error: Callable[[Answer], AwsError]
    model_timeout: Callable[[], AwsError]
    container_models_dir: str
    """The folder of models as the container sees it."""


def instance_ended() -> ContainerGone:
    return ContainerGone("the instance was ended")


class Eviction:
    """Unloads and removes what the cache's table holds. Safe to use from many threads."""

    def __init__(
        self,
        models: ModelTable,
        client: ContainerClient,
        store: ArtifactStore,
        limits: Limits,
        context: CacheContext,
        disk_bytes: int,
    ) -> None:
        self._models = models
        self._changed = models.changed
        self._client = client
        self._store = store
        self._limits = limits
        self._context = context
        self._disk_limit_bytes = disk_bytes
        self._loading: set[str] = set()  # names that the container is loading at this moment
        self.unloads = 0
        """How many models have been unloaded so far."""

    # ---- memory ----

    def load_begins(self, name: str) -> int:
        """Returns how many models have been unloaded by now."""
        with self._changed:
            self._loading.add(name)
            return self.unloads

    def load_ended(self, name: str) -> None:
        with self._changed:
            self._loading.discard(name)
            self._changed.notify_all()

    def unload_one(self, unloads_before: int, deadline_s: float, keep: Entry | None = None) -> bool:
        """Unloads the least recently used model that nobody uses, waiting for one for a while; never ``keep``.

        True where another try is worth it, also because somebody else unloaded one since ``unloads_before``.
        """
        give_up_s = min(deadline_s, time.monotonic() + self._limits.victim_wait_s)
        spared = [] if keep is None else [keep]
        while True:
            with self._changed:
                victim = self._wait_for_victim(unloads_before, give_up_s, spared)
                if victim is None:
                    return self.unloads != unloads_before
                state = victim.state
                self._models.set_state(victim, State.UNLOADING)
            if self.unload(victim, state) or state is State.LOADED:
                return True
            spared.append(victim)  # its load timed out, and the container does not have it (yet): nothing was freed

    def _wait_for_victim(self, unloads_before: int, give_up_s: float, spared: list[Entry]) -> Entry | None:
        """None where memory was freed meanwhile, or none will be in time. Call it holding the condition."""
        while self.unloads == unloads_before:
            if self._models.closed:
                raise instance_ended()
            candidates = [entry for entry in self._models.in_state(*EVICTABLE) if entry not in spared]
            idle = [entry for entry in candidates if entry.users == 0]
            if idle:
                return least_recently_used(idle)
            # what is being unloaded has memory that is about to be free
            if not candidates and not self._loading and not self._models.in_state(State.UNLOADING):
                return None
            if not self._changed.wait(max(0.0, give_up_s - time.monotonic())):
                return None
        return None

    def unload(self, entry: Entry, state: State, remove: bool = False) -> bool:
        """Takes an entry that is UNLOADING, and was in ``state``, out of memory; with ``remove`` off the disk too.

        False where it stays in ``state``: the container refused, or does not know a model whose load timed out (it may
        be loading it still).
        """
        started_s = time.monotonic()
        is_gone = False
        try:
            answer = self._client.unload(entry.model.name, entry.model.target, self._limits.response_timeout_s)
            is_gone = answer.status == 200 or (answer.status == 404 and state is State.LOADED)
            if answer.status not in (200, 404):
                logger.warning("unloading %s was answered %d", entry.model.target, answer.status)
        except ContainerError as error:
            logger.warning("unloading %s failed: %s", entry.model.target, error)
        if is_gone:
            self._context.emit(ModelUnloaded(self._context.where, entry.model.target, time.monotonic() - started_s))
            if remove:
                self.remove(entry)
        with self._changed:
            if is_gone:
                self.unloads += 1
                self._models.settle_unloaded(entry)
            else:
                self._models.set_state(entry, state)
                self._models.mark_used(entry)  # so that the next victim is another one
            self._changed.notify_all()
        return is_gone

    # ---- disk ----

    def check_disk(self, location: S3Location, archive_bytes: int) -> None:
        """Raises ``AwsError`` for an archive that would not fit if all others went."""
        if archive_bytes > self._disk_limit_bytes:
            raise larger_than_disk(location, archive_bytes, self._disk_limit_bytes)

    def free_disk(self, needed_bytes: int, deadline_s: float) -> None:
        """Drops artifacts that nobody uses, those not loaded first, until ``needed_bytes`` more fit on the disk.

        An archive's own size is only a lower bound of what it unfolds to, so the limit may be passed for a moment.
        Raises ``AwsError`` where all that is left is in use, and ``TimeoutError`` after ``deadline_s`` (a container
        may refuse to unload).
        """
        while True:
            with self._changed:
                if self._models.closed:
                    raise instance_ended()
                if time.monotonic() > deadline_s:
                    raise TimeoutError("the disk could not be freed in time")
                if self._models.disk_bytes + needed_bytes <= self._disk_limit_bytes:
                    return
                candidates = [
                    entry
                    for entry in self._models.in_state(State.ON_DISK, *EVICTABLE)
                    if entry.on_disk and entry.users == 0
                ]
                if not candidates:
                    if needed_bytes == 0:
                        return  # over the limit by what is in use: the next download will have to evict
                    raise service_unavailable(
                        f"The instance's disk ({self._disk_limit_bytes:,} bytes) cannot take another "
                        f"{needed_bytes:,} bytes: all models on it are in use."
                    )
                on_disk_only = [entry for entry in candidates if entry.state is State.ON_DISK]
                victim = least_recently_used(on_disk_only or candidates)
                state = victim.state
                self._models.set_state(victim, State.UNLOADING)
            if state is State.ON_DISK:
                self.remove(victim)
                with self._changed:
                    self._models.settle_unloaded(victim)
                    self._changed.notify_all()
            elif not self.unload(victim, state, remove=True):
                time.sleep(REFUSED_UNLOAD_PAUSE_S)

    def remove(self, entry: Entry) -> None:
        self._store.remove(entry.model.name)
        with self._changed:
            self._models.take_off_disk(entry)
