"""Brings models into one container and out again (states: see ``ModelTable``; which ones go: see ``Eviction``).

One thread prepares a model, however many callers wait for it. A model with users (waiting or in flight) is never
unloaded or removed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from local_endpoint.configuration import Limits
from local_endpoint.container_client import Answer, ContainerClient
from local_endpoint.errors import AwsError, ContainerError, ContainerTimeout, model_not_ready
from local_endpoint.events import ModelDownloaded, ModelLoaded
from local_endpoint.model_cache.artifacts import ArtifactStore
from local_endpoint.model_cache.eviction import CacheContext, Eviction, instance_ended
from local_endpoint.model_cache.table import EVICTABLE, TO_BE_PREPARED, Attempt, Entry, ModelTable, State
from local_endpoint.storage.location import TargetModel

logger = logging.getLogger(__name__)


# After so many failures in a row, a model is not copied here (see ``prefetch``) for so long.
COPY_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


@dataclass(frozen=True)
class Presence:
    """What the router needs to know of one model in one container."""

    is_ready: bool
    """It is loaded."""
    is_coming: bool
    """It is on its way."""
    is_on_disk: bool
    takes_copy: bool
    """``prefetch`` would begin: models are kept, and the last preparation did not fail a moment ago."""
    users: int
    """Requests of it that are in flight here, or wait for it."""
    loaded_count: int
    """Models loaded here, all together."""


@dataclass
class _Failures:
    """Preparations of one model that failed, one after the other."""

    count: int
    copy_again_s: float
    """When ``prefetch`` may try again (monotonic)."""


class ModelCache:
    """``use`` for every request, until ``close``. Safe to use from many threads."""

    def __init__(
        self,
        client: ContainerClient,
        store: ArtifactStore,
        limits: Limits,
        context: CacheContext,
        *,
        keep: bool = True,
        disk_bytes: int | None = None,
    ) -> None:
        """``keep`` False is ``ModelCacheSetting=Disabled``: a model goes as soon as nobody uses it."""
        self._client = client
        self._store = store
        self._limits = limits
        self._context = context
        self._keep = keep
        self.models = ModelTable()
        self._changed = self.models.changed
        self._eviction = Eviction(self.models, client, store, limits, context, disk_bytes or limits.disk_bytes)
        self._one_at_a_time = threading.Lock()
        self._jobs = 0
        self._failures: dict[str, _Failures] = {}  # by the model's name
        workers = limits.loads_at_once * (1 if keep else 2)
        self._preparers = ThreadPoolExecutor(workers, thread_name_prefix=f"prepare-{context.where.instance}")
        self._tidiers = ThreadPoolExecutor(2, thread_name_prefix=f"tidy-{context.where.instance}")

    # ---- using a model ----

    @contextlib.contextmanager
    def use(self, model: TargetModel, deadline_s: float) -> Iterator[bool]:
        """Holds ``model`` loaded; the value says whether it was loaded already.

        Raises ``AwsError`` (not ready by ``deadline_s``, monotonic; not to be had; refused by the container) and
        ``ContainerError`` (``ContainerGone`` also where the cache was closed meanwhile: another instance may serve).
        """
        entry, hit = self._acquire(model, deadline_s)
        try:
            yield hit
        finally:
            self._release(entry)

    def presence(self, model: TargetModel) -> Presence:
        """Asked for every request: takes no lock, and may be out of date when it returns."""
        entry = self.models.get(model.name)
        return Presence(
            is_ready=entry is not None and entry.state is State.LOADED,
            is_coming=entry is not None and entry.state is State.PREPARING,
            is_on_disk=entry is not None and entry.on_disk,
            takes_copy=self._takes_copy(model),
            users=entry.users if entry is not None else 0,
            loaded_count=self.models.loaded_count,
        )

    def prefetch(self, model: TargetModel) -> None:
        """Starts to bring a copy of ``model`` here and returns at once.

        Does nothing for a while after a preparation that failed: a busy model would have it tried with every request,
        and each try may evict others.
        """
        with self._changed:
            if self._takes_copy(model):
                self._start_preparing(self.models.entry(model))

    def _takes_copy(self, model: TargetModel) -> bool:
        if not self._keep:  # nobody may ever ask for it: it would stay
            return False
        failures = self._failures.get(model.name)
        return failures is None or time.monotonic() >= failures.copy_again_s

    def _note_outcome(self, name: str, failed: bool) -> None:
        """Of a preparation. Call it holding the condition."""
        if not failed:
            self._failures.pop(name, None)
            return
        now_s = time.monotonic()
        for each in [each for each, its in self._failures.items() if its.copy_again_s + COPY_PAUSES_S[-1] < now_s]:
            del self._failures[each]  # long ago
        count = self._failures[name].count + 1 if name in self._failures else 1
        self._failures[name] = _Failures(count, now_s + COPY_PAUSES_S[min(count, len(COPY_PAUSES_S)) - 1])

    def forget(self, model: TargetModel) -> None:
        """The container does not have it any more, though it was thought loaded: the next use loads it again."""
        with self._changed:
            entry = self.models.entry(model)
            if entry.state is State.LOADED:
                self.models.settle_unloaded(entry)
                self._changed.notify_all()

    @property
    def unloads(self) -> int:
        """How many models have been unloaded so far."""
        return self._eviction.unloads

    def make_memory(self, model: TargetModel, unloads_before: int, deadline_s: float) -> bool:
        """For an invocation of ``model`` that was answered 507: unloads another, as for a load that was.

        False where that is not possible; ``unloads_before`` is what ``unloads`` was before the invocation.
        """
        with self._changed:
            entry = self.models.entry(model)
        return self._eviction.unload_one(unloads_before, deadline_s, keep=entry)

    def close(self) -> None:
        """Whoever waits for a model gets ``ContainerGone`` now; what is under way ends soon."""
        with self._changed:
            self.models.closed = True
            self._changed.notify_all()
        self._store.close()
        self._preparers.shutdown(wait=False)
        self._tidiers.shutdown(wait=False)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """After ``close``: nothing touches the instance's folder any more. False where that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._jobs == 0, timeout_s)

    def _acquire(self, model: TargetModel, deadline_s: float) -> tuple[Entry, bool]:
        with self._changed:
            entry = self.models.entry(model)
            self.models.acquire(entry)
            hit = entry.state is State.LOADED
            try:
                self._wait_until_loaded(entry, deadline_s)
            except BaseException:
                self.models.release(entry)
                self._drop_if_unwanted(entry)
                raise
            self.models.mark_used(entry)
            return entry, hit

    def _wait_until_loaded(self, entry: Entry, deadline_s: float) -> None:
        """Call it holding the condition."""
        attempt: Attempt | None = None
        while entry.state is not State.LOADED:
            if self.models.closed:
                raise instance_ended()
            if attempt is None and entry.state in TO_BE_PREPARED:
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
            self.models.mark_used(entry)
            self.models.release(entry)
            self._drop_if_unwanted(entry)
            self._changed.notify_all()  # a load may wait for a model that nobody uses

    def _drop_if_unwanted(self, entry: Entry) -> None:
        """Unloads and removes a model that nobody uses where none is to be kept. Call it holding the condition."""
        if not self._keep and entry.users == 0 and entry.state in EVICTABLE and not self.models.closed:
            state = entry.state
            self.models.set_state(entry, State.UNLOADING)
            self._start(self._tidiers, self._eviction.unload, entry, state, True)

    # ---- work in the background ----

    def _start(self, pool: ThreadPoolExecutor, job: Callable[..., object], *arguments: Any) -> None:
        """Call it holding the condition, and not after ``close``."""
        self._jobs += 1
        pool.submit(self._run, job, arguments)

    def _run(self, job: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            if not self.models.closed:
                job(*arguments)
        except Exception:
            logger.exception("a job of %s failed", self._context.where.instance)
        finally:
            with self._changed:
                self._jobs -= 1
                self._changed.notify_all()

    # ---- bringing a model in ----

    def _start_preparing(self, entry: Entry) -> None:
        """Call it holding the condition."""
        if entry.state in TO_BE_PREPARED and not self.models.closed:
            self.models.set_state(entry, State.PREPARING)
            entry.attempt = Attempt()
            self._start(self._preparers, self._prepare, entry, entry.attempt)

    def _prepare(self, entry: Entry, attempt: Attempt) -> None:
        error = self._try_to_prepare(entry, attempt)
        if error is not None and self.models.closed:
            error = instance_ended()  # its container and its folder are gone, which looks like many things
        if entry.on_disk and _is_models_own(error):
            # it may be replaced in S3: fetch it anew next time
            self._eviction.remove(entry)
        self._eviction.load_ended(entry.model.name)
        with self._changed:
            attempt.error = error
            self._note_outcome(entry.model.name, failed=error is not None)
            if error is None:
                self.models.set_state(entry, State.LOADED)
                self.models.mark_used(entry)
            elif attempt.load_timed_out:
                self.models.set_state(entry, State.LOAD_TIMED_OUT)
            else:
                self.models.settle_unloaded(entry)
            self._changed.notify_all()

    def _try_to_prepare(self, entry: Entry, attempt: Attempt) -> Exception | None:
        deadline_s = time.monotonic() + self._limits.load_timeout_s
        target = entry.model.target
        try:
            if not entry.on_disk:
                self._download(entry, deadline_s)
            self._load(entry, attempt, deadline_s)
        except (AwsError, ContainerError) as failure:
            return failure
        except TimeoutError:
            return model_not_ready(target)
        except Exception as failure:
            if not self.models.closed:
                logger.exception("preparing %s failed", target)
            return AwsError("InternalFailure", 500, f"Preparing model {target} failed: {failure}")
        return None

    def _download(self, entry: Entry, deadline_s: float) -> None:
        started_s = time.monotonic()
        location = entry.model.location
        archive_bytes = self._store.archive_bytes(location)
        self._eviction.check_disk(location, archive_bytes)
        self._eviction.free_disk(archive_bytes, deadline_s)
        size_bytes = self._store.fetch(location, self._store.model_folder(entry.model.name), deadline_s)
        with self._changed:
            self.models.put_on_disk(entry, size_bytes)
        self._eviction.free_disk(0, deadline_s)
        self._context.emit(
            ModelDownloaded(self._context.where, entry.model.target, time.monotonic() - started_s, size_bytes)
        )

    def _load(self, entry: Entry, attempt: Attempt, deadline_s: float) -> None:
        """Loads, and evicts another model as often as the container asks for memory with 507."""
        started_s = time.monotonic()
        answer, unloads_before = self._try_load(entry.model, attempt, deadline_s)
        if answer.status == 507:
            # one at a time: memory that was freed for one model is not to be taken by the next
            if not self._one_at_a_time.acquire(timeout=max(0.0, deadline_s - time.monotonic())):
                raise TimeoutError("others were evicting models all the time")
            try:
                for _ in range(self._limits.load_tries - 1):
                    if not self._eviction.unload_one(unloads_before, deadline_s):
                        break
                    answer, unloads_before = self._try_load(entry.model, attempt, deadline_s)
                    if answer.status != 507:
                        break
            finally:
                self._one_at_a_time.release()
        if answer.status not in (200, 409):  # 409: it is loaded already
            raise self._context.model_error(answer)
        self._context.emit(ModelLoaded(self._context.where, entry.model.target, time.monotonic() - started_s))

    def _try_load(self, model: TargetModel, attempt: Attempt, deadline_s: float) -> tuple[Answer, int]:
        """The container's answer, and how many models had been unloaded when it was asked."""
        url = f"{self._context.container_models_dir}/{model.name}/model"
        unloads_before = self._eviction.load_begins(model.name)
        try:
            answer = self._client.load(model.name, url, model.target, max(1.0, deadline_s - time.monotonic()))
        except ContainerTimeout:
            attempt.load_timed_out = True  # the container may go on with it
            raise self._context.model_timeout() from None
        if answer.status not in (200, 409):
            self._eviction.load_ended(model.name)
        return answer, unloads_before


def _is_models_own(error: Exception | None) -> bool:
    """Whether the container refused the model for what it is, not for want of memory or time."""
    return isinstance(error, AwsError) and error.fields.get("OriginalStatusCode", 0) not in (0, 507)
