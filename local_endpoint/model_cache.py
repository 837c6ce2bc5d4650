"""One instance's models: which are on its disk, which are loaded, who uses them, and which has to go.

    ABSENT ──fetch──► ON_DISK ──POST /models──► LOADED ──DELETE──► ON_DISK ──remove──► ABSENT
    PREPARING covers fetch and load, UNLOADING the DELETE (and the removal where nothing is to be kept).

One thread prepares a model, however many callers wait for it. A model with ``users`` (waiting or in flight) is never
unloaded or removed.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from local_endpoint.artifact_store import ArtifactStore
from local_endpoint.configuration import Limits
from local_endpoint.container_client import Answer, ContainerClient
from local_endpoint.errors import AwsError, ContainerError, ContainerTimeout, model_not_ready, service_unavailable
from local_endpoint.events import Event, ModelDownloaded, ModelLoaded, ModelUnloaded, Where
from local_endpoint.s3_location import TargetModel

logger = logging.getLogger(__name__)


class State(enum.Enum):
    """Where a model is."""

    ABSENT = "absent"
    PREPARING = "preparing"
    ON_DISK = "on disk"
    LOADED = "loaded"
    UNLOADING = "unloading"


@dataclass
class Attempt:
    """One try to make a model ready; those who wait for it share its error."""

    error: Exception | None = None


@dataclass
class Entry:
    """One model. Guarded by the cache's condition."""

    model: TargetModel
    state: State = State.ABSENT
    users: int = 0
    last_used: int = 0
    size_bytes: int = 0
    on_disk: bool = False
    attempt: Attempt = field(default_factory=Attempt)


@dataclass(frozen=True)
class CacheOwner:
    """What a cache must know of its instance."""

    where: Where
    emit: Callable[[Event], None]
    model_error: Callable[[Answer], AwsError]
    model_timeout: Callable[[], AwsError]
    container_models_dir: str
    """The folder of models as the container sees it."""


class ModelCache:
    """Brings models into one container and out again. Safe to use from many threads."""

    def __init__(
        self,
        client: ContainerClient,
        store: ArtifactStore,
        limits: Limits,
        owner: CacheOwner,
        *,
        keep: bool = True,
        disk_bytes: int | None = None,
    ) -> None:
        """``keep`` False is ``ModelCacheSetting=Disabled``: a model goes as soon as nobody uses it."""
        self._client = client
        self._store = store
        self._limits = limits
        self._owner = owner
        self._keep = keep
        self._disk_limit_bytes = disk_bytes or limits.disk_bytes
        self._disk_bytes = 0
        self._loaded_count = 0
        self._unloads = 0
        self._room = threading.Lock()
        self._loading: set[str] = set()  # names that the container is loading at this moment
        self._entries: dict[str, Entry] = {}
        self._changed = threading.Condition()
        self._clock = itertools.count(1)
        workers = limits.loads_at_once * (1 if keep else 2)
        self._preparers = ThreadPoolExecutor(workers, thread_name_prefix=f"prepare-{owner.where.instance}")
        self._tidiers = ThreadPoolExecutor(2, thread_name_prefix=f"tidy-{owner.where.instance}")

    # ---- what a router looks at ----

    def state(self, name: str) -> State:
        entry = self._entries.get(name)
        return entry.state if entry else State.ABSENT

    def users(self, name: str) -> int:
        entry = self._entries.get(name)
        return entry.users if entry else 0

    @property
    def loaded_count(self) -> int:
        return self._loaded_count

    def loaded(self) -> list[str]:
        """Targets of the loaded models, sorted."""
        with self._changed:
            return sorted(entry.model.target for entry in self._entries.values() if entry.state is State.LOADED)

    def on_disk(self) -> list[str]:
        """Targets of the models whose artifacts are on disk, sorted."""
        with self._changed:
            return sorted(entry.model.target for entry in self._entries.values() if entry.on_disk)

    @property
    def disk_used_bytes(self) -> int:
        return self._disk_bytes

    # ---- using a model ----

    @contextlib.contextmanager
    def use(self, model: TargetModel, deadline_s: float) -> Iterator[bool]:
        """Holds ``model`` loaded; the value says whether it was loaded already.

        Raises ``AwsError`` (not ready by ``deadline_s``, monotonic; not to be had; refused by the container) and
        ``ContainerError``.
        """
        entry, hit = self._acquire(model, deadline_s)
        try:
            yield hit
        finally:
            self._release(entry)

    def prefetch(self, model: TargetModel) -> None:
        """Starts to bring ``model`` here and returns at once."""
        with self._changed:
            self._start_preparing(self._entry(model))

    def forget(self, model: TargetModel) -> None:
        """The container does not have it any more, though it was thought loaded: the next use loads it again."""
        with self._changed:
            entry = self._entry(model)
            if entry.state is State.LOADED:
                self._set_state(entry, State.ON_DISK)
                self._changed.notify_all()

    def close(self) -> None:
        """Ends the threads; what still waits gets an error when the container goes."""
        self._preparers.shutdown(wait=False, cancel_futures=True)
        self._tidiers.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _set_state(self, entry: Entry, state: State) -> None:
        """Call it holding the condition."""
        self._loaded_count += (state is State.LOADED) - (entry.state is State.LOADED)
        entry.state = state

    def _entry(self, model: TargetModel) -> Entry:
        return self._entries.setdefault(model.name, Entry(model))

    def _acquire(self, model: TargetModel, deadline_s: float) -> tuple[Entry, bool]:
        with self._changed:
            entry = self._entry(model)
            entry.users += 1
            hit = entry.state is State.LOADED
            try:
                self._wait_until_loaded(entry, deadline_s)
            except BaseException:
                entry.users -= 1
                raise
            entry.last_used = next(self._clock)
            return entry, hit

    def _wait_until_loaded(self, entry: Entry, deadline_s: float) -> None:
        """Call it holding the condition."""
        attempt: Attempt | None = None
        while entry.state is not State.LOADED:
            if attempt is None and entry.state in (State.ABSENT, State.ON_DISK):
                self._start_preparing(entry)
                attempt = entry.attempt
            elif entry.state is State.PREPARING:
                attempt = attempt or entry.attempt
            if attempt is not None and attempt.error is not None:
                raise attempt.error
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise model_not_ready(entry.model.target)
            if attempt is not None and attempt is entry.attempt and entry.state is not State.PREPARING:
                attempt = None  # it was loaded, and unloaded again before this thread woke
                continue
            self._changed.wait(left_s)

    def _release(self, entry: Entry) -> None:
        with self._changed:
            entry.users -= 1
            entry.last_used = next(self._clock)
            drop = not self._keep and entry.users == 0 and entry.state is State.LOADED
            if drop:
                self._set_state(entry, State.UNLOADING)
            self._changed.notify_all()  # a load may wait for a model that nobody uses
        if drop:
            self._tidiers.submit(self._unload, entry, remove=True)

    # ---- bringing a model in ----

    def _start_preparing(self, entry: Entry) -> None:
        """Call it holding the condition."""
        if entry.state in (State.ABSENT, State.ON_DISK):
            self._set_state(entry, State.PREPARING)
            entry.attempt = Attempt()
            try:
                self._preparers.submit(self._prepare, entry, entry.attempt)
            except RuntimeError:  # closed: the instance is going
                self._set_state(entry, State.ON_DISK if entry.on_disk else State.ABSENT)
                entry.attempt.error = service_unavailable("The instance is being stopped.")

    def _prepare(self, entry: Entry, attempt: Attempt) -> None:
        deadline_s = time.monotonic() + self._limits.load_timeout_s
        error: Exception | None = None
        try:
            if not entry.on_disk:
                self._download(entry, deadline_s)
            self._load(entry, deadline_s)
        except (AwsError, ContainerError) as failure:
            error = failure
        except TimeoutError:
            error = model_not_ready(entry.model.target)
        except Exception as failure:
            logger.exception("preparing %s failed", entry.model.target)
            error = AwsError("InternalFailure", 500, f"Preparing model {entry.model.target} failed: {failure}")
        if entry.on_disk and _is_models_own(error):
            # it may be mended in S3: fetch it anew next time
            self._remove(entry)
        with self._changed:
            self._loading.discard(entry.model.name)
            attempt.error = error
            if error is None:
                self._set_state(entry, State.LOADED)
                entry.last_used = next(self._clock)
            else:
                self._set_state(entry, State.ON_DISK if entry.on_disk else State.ABSENT)
            self._changed.notify_all()

    def _download(self, entry: Entry, deadline_s: float) -> None:
        started_s = time.monotonic()
        location = entry.model.location
        self._make_room(self._store.archive_bytes(location))
        size = self._store.fetch(location, self._store.model_folder(entry.model.name), deadline_s)
        with self._changed:
            entry.on_disk = True
            entry.size_bytes = size
            self._disk_bytes += size
        self._make_room(0)
        self._owner.emit(
            ModelDownloaded(self._owner.where, entry.model.target, time.monotonic() - started_s, entry.size_bytes)
        )

    def _load(self, entry: Entry, deadline_s: float) -> None:
        """Loads, and makes room in memory for as often as the container asks for it with 507."""
        started_s = time.monotonic()
        answer, unloads_before = self._try_load(entry.model, deadline_s)
        if answer.status == 507:
            # one at a time: room that was made for one model is not to be taken by the next
            if not self._room.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
                raise TimeoutError("others were making room all the time")
            try:
                for _ in range(self._limits.load_tries - 1):
                    if not self._unload_one(unloads_before, deadline_s):
                        break
                    answer, unloads_before = self._try_load(entry.model, deadline_s)
                    if answer.status != 507:
                        break
            finally:
                self._room.release()
        if answer.status not in (200, 409):  # 409: it is loaded already
            raise self._owner.model_error(answer)
        self._owner.emit(ModelLoaded(self._owner.where, entry.model.target, time.monotonic() - started_s))

    def _try_load(self, model: TargetModel, deadline_s: float) -> tuple[Answer, int]:
        """The container's answer, and how many models had been unloaded when it was asked."""
        url = f"{self._owner.container_models_dir}/{model.name}/model"
        with self._changed:
            self._loading.add(model.name)
            unloads_before = self._unloads
        try:
            answer = self._client.load(model.name, url, model.target, max(1.0, deadline_s - time.monotonic()))
        except ContainerTimeout:
            raise self._owner.model_timeout() from None
        if answer.status not in (200, 409):
            with self._changed:
                self._loading.discard(model.name)
                self._changed.notify_all()
        return answer, unloads_before

    # ---- making room ----

    def _unload_one(self, unloads_before: int, deadline_s: float) -> bool:
        """Unloads the least recently used model that nobody uses, waiting for one for a while.

        True where another try is worth it, also because somebody else unloaded one since ``unloads_before``.
        """
        give_up_s = min(deadline_s, time.monotonic() + self._limits.victim_wait_s)
        with self._changed:
            while self._unloads == unloads_before:
                loaded = [entry for entry in self._entries.values() if entry.state is State.LOADED]
                idle = [entry for entry in loaded if entry.users == 0]
                if idle:
                    victim = min(idle, key=lambda entry: entry.last_used)
                    self._set_state(victim, State.UNLOADING)
                    break
                if not loaded and not self._loading:
                    unloading = any(entry.state is State.UNLOADING for entry in self._entries.values())
                    if not unloading:  # else its memory is about to be free
                        return False
                if not self._changed.wait(max(0.0, give_up_s - time.monotonic())):
                    return False
            else:
                return True
        self._unload(victim)
        return True

    def _unload(self, entry: Entry, remove: bool = False) -> None:
        """Takes an entry that is UNLOADING out of memory, and with ``remove`` off the disk too."""
        started_s = time.monotonic()
        gone = False
        try:
            answer = self._client.unload(entry.model.name, entry.model.target, self._limits.response_timeout_s)
            gone = answer.status in (200, 404)
            if not gone:
                logger.warning("unloading %s was answered %d", entry.model.target, answer.status)
        except ContainerError as error:
            logger.warning("unloading %s failed: %s", entry.model.target, error)
        if gone:
            self._owner.emit(ModelUnloaded(self._owner.where, entry.model.target, time.monotonic() - started_s))
            if remove:
                self._remove(entry)
        with self._changed:
            self._set_state(entry, State.LOADED if not gone else State.ON_DISK if entry.on_disk else State.ABSENT)
            if gone:
                self._unloads += 1
            else:
                entry.last_used = next(self._clock)  # so that the next victim is another one
            self._changed.notify_all()

    def _make_room(self, needed_bytes: int) -> None:
        """Drops artifacts that nobody uses, those not loaded first, until ``needed_bytes`` more fit on the disk.

        An archive's own size is only a lower bound of what it unfolds to, so the limit may be passed for a moment.
        Raises ``AwsError`` where all that is left is in use.
        """
        while True:
            with self._changed:
                if self._disk_bytes + needed_bytes <= self._disk_limit_bytes:
                    return
                idle = [entry for entry in self._entries.values() if entry.on_disk and entry.users == 0]
                candidates = [entry for entry in idle if entry.state is State.ON_DISK] or [
                    entry for entry in idle if entry.state is State.LOADED
                ]
                if not candidates:
                    if needed_bytes == 0:
                        return  # over the limit by what is in use: the next download will have to make room
                    raise service_unavailable(
                        f"The instance's disk ({self._disk_limit_bytes:,} bytes) has no room for another "
                        f"{needed_bytes:,} bytes, and all models on it are in use."
                    )
                victim = min(candidates, key=lambda entry: entry.last_used)
                loaded = victim.state is State.LOADED
                self._set_state(victim, State.UNLOADING)
            if loaded:
                self._unload(victim, remove=True)
            else:
                self._remove(victim)
                with self._changed:
                    self._set_state(victim, State.ABSENT)
                    self._changed.notify_all()

    def _remove(self, entry: Entry) -> None:
        self._store.remove(entry.model.name)
        with self._changed:
            if entry.on_disk:
                entry.on_disk = False
                self._disk_bytes -= entry.size_bytes
                entry.size_bytes = 0


def _is_models_own(error: Exception | None) -> bool:
    """Whether the container refused the model for what it is, not for want of room or time."""
    return isinstance(error, AwsError) and error.fields.get("OriginalStatusCode", 0) not in (0, 507)
