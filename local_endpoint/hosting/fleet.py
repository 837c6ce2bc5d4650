"""The instances of one production variant: started, kept in number, replaced when dead, picked for each request.

    STARTING ──► READY ──► DRAINING ──► STOPPING ──► (forgotten)
        │          └─────► DEAD ───────────┘
        └────────────────────┘

STARTING and READY instances count towards the number that is wanted. A draining one does not: it is on its way out, and
whoever dies beside it is replaced. Only READY instances get requests.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from local_endpoint.errors import StartFailure, service_unavailable
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import VariantDefinition
from local_endpoint.hosting.instance import Instance
from local_endpoint.hosting.router import Sample, choose
from local_endpoint.hosting.waiting import wait_until
from local_endpoint.storage.location import TargetModel

logger = logging.getLogger(__name__)

RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# A dead instance is replaced however long that takes; an instance more is given up after so many failed starts.
TRIES_TO_GROW = 3
# One that has served for less is taken for one that cannot live: the second in a row waits as a failed start does.
EARLY_DEATH_S = 10.0


class InstanceState(enum.Enum):
    """What the fleet does with an instance."""

    STARTING = "starting"
    """It is being brought up."""
    READY = "ready"
    """It serves."""
    DRAINING = "draining"
    """It was taken out: it finishes its requests and gets no new ones."""
    DEAD = "dead"
    """It ended by itself, or fell silent."""
    STOPPING = "stopping"
    """Its containers are being ended."""


COUNTED = (InstanceState.STARTING, InstanceState.READY)


class Fleet:
    """``start`` → ``pick`` for every request → ``stop``."""

    def __init__(self, definition: VariantDefinition, count: int, context: HostingContext) -> None:
        self.definition = definition
        self.desired_count = count
        self._context = context
        self._lock = threading.Condition()  # notified when an instance becomes ready, and of the end
        self._states: dict[Instance, InstanceState] = {}  # in the order in which they were started
        self._ready_at_s: dict[Instance, float] = {}
        self._early_deaths = 0  # in a row
        self._stopping = threading.Event()

    # ---- lifecycle ----

    def start(self) -> None:
        """Brings all instances up, at the same time. Raises ``StartFailure``; what came up is to be stopped then."""
        containers = self.definition.containers
        for container in containers:
            self._context.runtime.check(container.image, container.multi_model, beside_others=len(containers) > 1)
        count = self.desired_count
        with ThreadPoolExecutor(max(1, count), thread_name_prefix=f"start-{self.definition.endpoint}") as starters:
            failures = [each.exception() for each in [starters.submit(self._start_first) for _ in range(count)]]
        for failure in failures:
            if failure is not None:
                raise failure

    def _start_first(self) -> None:
        instance = self._add_missing()
        if instance is None:
            raise StartFailure("The endpoint was deleted while it started.")
        self._bring_up(instance)

    def stop(self) -> None:
        """Ends all instances, at the same time. Also while ``start`` runs in another thread."""
        with self._lock:
            self._stopping.set()
            instances = list(self._states)
            self._lock.notify_all()
        with ThreadPoolExecutor(max(1, len(instances))) as stoppers:
            list(stoppers.map(self._end, instances))

    # ---- one instance's life ----

    def _in_state(self, *states: InstanceState) -> list[Instance]:
        """Call it holding the lock."""
        return [instance for instance, state in self._states.items() if state in states]

    def _add_missing(self) -> Instance | None:
        """An instance to be brought up, STARTING; None where there are as many as there should be."""
        with self._lock:
            if self._stopping.is_set() or len(self._in_state(*COUNTED)) >= self.desired_count:
                return None
            instance = Instance(self.definition, self._context, self._on_instance_death)
            self._states[instance] = InstanceState.STARTING
            return instance

    def _bring_up(self, instance: Instance) -> None:
        """Raises ``StartFailure`` and whatever else kept it from coming up; it is gone then."""
        try:
            instance.start()
            is_wanted = self._make_ready(instance)
        except BaseException:
            self._end(instance)
            raise
        if not is_wanted:
            self._end(instance)

    def _make_ready(self, instance: Instance) -> bool:
        """False where there are enough by now. Raises ``StartFailure`` where it has died or been stopped meanwhile."""
        with self._lock:
            if self._states.get(instance) is InstanceState.DEAD:
                raise StartFailure(f"The instance died right after it had started: {instance.death_reason}.")
            if self._states.get(instance) is not InstanceState.STARTING or self._stopping.is_set():
                raise StartFailure("The endpoint was deleted while it started.")
            if len(self._in_state(InstanceState.READY)) >= self.desired_count:
                # at once: one that dies beside it must not be taken for replaced by it
                self._states[instance] = InstanceState.STOPPING
                return False
            self._states[instance] = InstanceState.READY
            self._ready_at_s[instance] = time.monotonic()
            self._lock.notify_all()
            return True

    def _on_instance_death(self, instance: Instance) -> None:
        """Called in a thread of the dead instance. One that only fell silent may take its time to end."""
        with self._lock:
            state = self._states.get(instance)
            if state is None or state is InstanceState.STOPPING:
                return
            self._states[instance] = InstanceState.DEAD
            pause_s = self._pause_s_after_death(instance)
        if state is InstanceState.READY:  # else whoever starts or drains it ends it
            threading.Thread(target=self._end, args=(instance,), name=f"end-{instance.id}").start()
            self._stopping.wait(pause_s)
            self._fill_up()

    def _pause_s_after_death(self, instance: Instance) -> float:
        """0 but for one that died early after another: such instances would be started and ended without end.

        Call it holding the lock.
        """
        if instance not in self._ready_at_s:
            return 0.0
        lived_s = time.monotonic() - self._ready_at_s[instance]
        self._early_deaths = self._early_deaths + 1 if lived_s < EARLY_DEATH_S else 0
        return (0.0, *RETRY_S)[min(max(self._early_deaths - 1, 0), len(RETRY_S))]

    def _end(self, instance: Instance) -> None:
        with self._lock:
            if instance in self._states:
                self._states[instance] = InstanceState.STOPPING
        instance.stop()
        with self._lock:
            self._states.pop(instance, None)
            self._ready_at_s.pop(instance, None)

    # ---- the number of instances ----

    def _fill_up(self, tries: int | None = None) -> None:
        """Starts instances, at the same time, until there are as many as there should be.

        A failed start is tried again, ever later. Raises ``StartFailure`` after so many ``tries`` that failed; None
        never gives up.
        """
        missing = list(iter(self._add_missing, None))
        if not missing:
            return
        with ThreadPoolExecutor(len(missing), thread_name_prefix=f"start-{self.definition.endpoint}") as starters:
            started = [starters.submit(self._bring_up_or_another, instance, tries) for instance in missing]
            failures = [each.exception() for each in started]
        for failure in failures:
            if failure is not None:
                raise failure

    def _bring_up_or_another(self, instance: Instance | None, tries: int | None) -> None:
        failed = 0
        while instance is not None:
            try:
                self._bring_up(instance)
                return
            except Exception as failure:  # also one that no runtime foresees, as of a Docker engine that restarts
                logger.warning("%s: an instance could not be started: %s", self.definition.endpoint, failure)
                failed += 1
                if failed == tries:
                    raise StartFailure(str(failure)) from None
                if self._stopping.wait(RETRY_S[min(failed, len(RETRY_S)) - 1]):
                    return
            instance = self._add_missing()

    def set_count(self, count: int) -> None:
        """Changes the number of instances; returns when it is so. Those taken out finish their requests first.

        Raises ``StartFailure`` where further ones do not come up: the number wanted is then what it was before.
        """
        with self._lock:
            before, self.desired_count = self.desired_count, count
            surplus = self._in_state(InstanceState.READY)[count:]
            for instance in surplus:
                self._states[instance] = InstanceState.DRAINING
        if surplus:
            with ThreadPoolExecutor(len(surplus)) as enders:
                list(enders.map(self._drain_and_end, surplus))
            return
        try:
            self._fill_up(TRIES_TO_GROW)
        except StartFailure:
            with self._lock:
                self.desired_count = max(before, len(self._in_state(*COUNTED)))
            raise
        with self._lock:  # one that replaces a dead one is started elsewhere
            self._lock.wait_for(
                lambda: self._stopping.is_set() or len(self._in_state(InstanceState.READY)) >= count,
                self.definition.startup_timeout_s,
            )

    def _drain_and_end(self, instance: Instance) -> None:
        wait_until(
            lambda: instance.in_flight == 0 or not instance.is_alive(),
            self._context.limits.drain_timeout_s,
            self._stopping,
        )
        self._end(instance)

    # ---- serve ----

    @property
    def instances(self) -> list[Instance]:
        """Those that serve."""
        with self._lock:
            return self._in_state(InstanceState.READY)

    @contextlib.contextmanager
    def pick(
        self, container: int, model: TargetModel | None, deadline_s: float, avoid: Instance | None = None
    ) -> Iterator[Instance]:
        """Lends an instance for one request of its ``container`` (an index), preferably not ``avoid``.

        Where all are dead, waits for the first that replaces one; raises ``AwsError`` at ``deadline_s`` (monotonic).
        """
        copy_to: Instance | None = None
        with self._lock:
            instances = self._wait_for_living(deadline_s)
            instances = [each for each in instances if each is not avoid] or instances
            if model is None:
                instance = min(instances, key=lambda each: each.in_flight)
            else:
                samples = [self._sample(index, each, container, model) for index, each in enumerate(instances)]
                choice = choose(samples, self._context.limits.busy_invocations)
                instance = instances[choice.serve]
                copy_to = instances[choice.copy_to] if choice.copy_to is not None else None
            instance.in_flight += 1
        try:
            if copy_to is not None and model is not None:
                logger.info("%s: %s is busy, %s gets a copy", model.target, instance.id, copy_to.id)
                copy_to.containers[container].cache.prefetch(model)
            yield instance
        finally:
            with self._lock:
                instance.in_flight -= 1

    def _wait_for_living(self, deadline_s: float) -> list[Instance]:
        """At least one. Call it holding the lock. Raises ``AwsError``."""
        while not (living := [each for each in self._in_state(InstanceState.READY) if each.is_alive()]):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self._stopping.is_set():
                raise service_unavailable("No instance of the endpoint is available at the moment.")
            self._lock.wait(left_s)
        return living

    @staticmethod
    def _sample(index: int, instance: Instance, container: int, model: TargetModel) -> Sample:
        presence = instance.containers[container].cache.presence(model)
        return Sample(
            index=index,
            has_model=presence.is_ready or presence.is_coming,
            is_ready=presence.is_ready,
            is_on_disk=presence.is_on_disk,
            takes_copy=presence.takes_copy,
            model_users=presence.users,
            in_flight=instance.in_flight,
            models=presence.loaded_count,
        )
