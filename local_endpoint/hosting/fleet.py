"""The instances of one production variant: started, kept in number, replaced when dead, picked for each request."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from local_endpoint.errors import StartFailure, service_unavailable
from local_endpoint.hosting.instance import Definition, HostingContext, Instance
from local_endpoint.hosting.router import Sample, choose
from local_endpoint.model_cache.table import State
from local_endpoint.storage.location import TargetModel

logger = logging.getLogger(__name__)

RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# A dead instance is replaced however long that takes; an instance more is given up after so many failed starts.
TRIES_TO_GROW = 3


class Fleet:
    """``start`` → ``pick`` for every request → ``stop``."""

    def __init__(self, definition: Definition, count: int, context: HostingContext) -> None:
        self.definition = definition
        self.desired_count = count
        self._context = context
        self._lock = threading.Condition()  # notified when an instance becomes ready
        self._ready: list[Instance] = []
        self._all: set[Instance] = set()
        self._dead: set[Instance] = set()  # of _all: those that are being ended and replaced
        self._stopping = threading.Event()

    # ---- lifecycle ----

    def start(self) -> None:
        """Brings all instances up, at the same time. Raises ``StartFailure``; what came up is to be stopped then."""
        self._context.runtime.check(self.definition.image, self.definition.multi_model)
        count = self.desired_count
        with ThreadPoolExecutor(max(1, count), thread_name_prefix=f"start-{self.definition.endpoint}") as starters:
            failures = [each.exception() for each in [starters.submit(self._start_one) for _ in range(count)]]
        for failure in failures:
            if failure is not None:
                raise failure

    def _start_one(self) -> None:
        instance = Instance(self.definition, self._context, self._replace)
        with self._lock:
            if self._stopping.is_set():
                raise StartFailure("The endpoint was deleted while it started.")
            self._all.add(instance)
        try:
            instance.start()
        except BaseException:
            self._end(instance)
            raise
        with self._lock:
            is_wanted = not self._stopping.is_set() and len(self._ready) < self.desired_count
            if is_wanted:
                self._ready.append(instance)
                self._lock.notify_all()
        if not is_wanted:
            self._end(instance)

    def _end(self, instance: Instance) -> None:
        instance.stop()
        with self._lock:
            self._all.discard(instance)
            self._dead.discard(instance)

    def _replace(self, instance: Instance) -> None:
        """Called in a thread of the dead instance. One that only fell silent may take its time to end."""
        with self._lock:
            if instance in self._ready:
                self._ready.remove(instance)
            self._dead.add(instance)
        threading.Thread(target=self._end, args=(instance,), name=f"end-{instance.id}").start()
        self._fill_up()

    def _fill_up(self, tries: int | None = None) -> None:
        """Starts instances until there are as many as there should be; a failed start is tried again, ever later.

        Raises ``StartFailure`` after so many ``tries`` that failed; None never gives up.
        """
        failed = 0
        while True:
            with self._lock:
                missing = self.desired_count - len(self._all - self._dead)
            if missing <= 0 or self._stopping.is_set():
                return
            try:
                self._start_one()
            except Exception as failure:  # also one that no runtime foresees, as of a Docker engine that restarts
                logger.warning("%s: an instance could not be started: %s", self.definition.endpoint, failure)
                failed += 1
                if failed == tries:
                    raise StartFailure(str(failure)) from None
                if self._stopping.wait(RETRY_S[min(failed, len(RETRY_S)) - 1]):
                    return

    def set_count(self, count: int) -> None:
        """Changes the number of instances; returns when it is so. Those taken out finish their requests first.

        Raises ``StartFailure`` where further ones do not come up: the number wanted is then what it was before.
        """
        with self._lock:
            before, self.desired_count = self.desired_count, count
            surplus = self._ready[count:]
            self._ready = self._ready[:count]
        if surplus:
            with ThreadPoolExecutor(len(surplus)) as enders:
                list(enders.map(self._drain_and_end, surplus))
            return
        try:
            self._fill_up(TRIES_TO_GROW)
        except StartFailure:
            with self._lock:
                self.desired_count = max(before, len(self._all - self._dead))
            raise

    def _drain_and_end(self, instance: Instance) -> None:
        wait_until(lambda: instance.in_flight == 0, self._context.limits.drain_timeout_s, self._stopping)
        self._end(instance)

    def stop(self) -> None:
        """Ends all instances, at the same time. Also while ``start`` runs in another thread."""
        with self._lock:
            self._stopping.set()
            instances = list(self._all)
            self._ready = []
            self._lock.notify_all()
        with ThreadPoolExecutor(max(1, len(instances))) as stoppers:
            list(stoppers.map(self._end, instances))

    # ---- serve ----

    @property
    def instances(self) -> list[Instance]:
        """Those that serve."""
        with self._lock:
            return list(self._ready)

    @contextlib.contextmanager
    def pick(self, model: TargetModel | None, deadline_s: float, avoid: Instance | None = None) -> Iterator[Instance]:
        """Lends an instance for one request, preferably not ``avoid``.

        Where all are dead, waits for the first that replaces one; raises ``AwsError`` at ``deadline_s`` (monotonic).
        """
        copy_to: Instance | None = None
        with self._lock:
            while not (instances := [each for each in self._ready if each.is_alive()]):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._stopping.is_set():
                    raise service_unavailable("No instance of the endpoint is available at the moment.")
                self._lock.wait(left_s)
            instances = [each for each in instances if each is not avoid] or instances
            if model is None:
                instance = min(instances, key=lambda each: each.in_flight)
            else:
                choice = choose(
                    [self._sample(index, each, model) for index, each in enumerate(instances)],
                    self._context.limits.busy_invocations,
                )
                instance = instances[choice.serve]
                copy_to = instances[choice.copy_to] if choice.copy_to is not None else None
            instance.in_flight += 1
        try:
            if copy_to is not None and model is not None:
                logger.info("%s: %s is busy, %s gets a copy", model.target, instance.id, copy_to.id)
                copy_to.cache.prefetch(model)
            yield instance
        finally:
            with self._lock:
                instance.in_flight -= 1

    @staticmethod
    def _sample(index: int, instance: Instance, model: TargetModel) -> Sample:
        models = instance.cache.models
        entry = models.get(model.name)
        return Sample(
            index=index,
            has_model=entry is not None and entry.state in (State.LOADED, State.PREPARING),
            is_ready=entry is not None and entry.state is State.LOADED,
            is_on_disk=entry is not None and entry.on_disk,
            model_users=entry.users if entry is not None else 0,
            in_flight=instance.in_flight,
            models=models.loaded_count,
        )


def wait_until(condition: Callable[[], bool], timeout_s: float, cancelled: threading.Event) -> bool:
    """Polls ``condition``; False when the time is over or ``cancelled`` is set first."""
    polls = max(1, int(timeout_s / 0.05))
    for _ in range(polls):
        if condition():
            return True
        if cancelled.wait(0.05):
            return False
    return condition()
