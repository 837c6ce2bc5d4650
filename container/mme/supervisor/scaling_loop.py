"""The supervisor's loop that has workers follow traffic: looks at the models, decides, tells the front end.

It rests where nothing waits and nothing is due. The front end's agent wakes it by a byte in a named pipe (Events.java)
when a request waits for a worker, or when somebody else has changed a model's workers; then it looks every
``BUSY_LOOK_S`` until nothing has waited for ``LOOK_ON_S``. What it looks at is memory (model_statistics.py), and of
most models one number. The policy is capacity/scaling.py.

The supervisor's own select waits for it: ``descriptor`` and ``timeout_s`` say for what.
"""

from __future__ import annotations

import logging
import time

from mme.capacity.scaling import BUSY_LOOK_S, Change, Limits, Memory, ModelSample, decide
from mme.settings import Settings
from mme.supervisor.agent import Agent, AgentError
from mme.supervisor.model_statistics import ModelStatistics

logger = logging.getLogger("mme.supervisor.scaling")

# Longer than the pause that the agent makes between two events (Events.java).
LOOK_ON_S = 1.0
# Looks that take long, because requests wait for hundreds of models, are fewer, whoever asks for them: the loop has
# this share of a core.
MOST_OF_A_CORE = 0.005


class ScalingLoop:
    """For the supervisor's loop, in its thread: ``look`` when ``timeout_s`` has passed or there is an event."""

    def __init__(self, settings: Settings, agent: Agent, statistics: ModelStatistics, cores: float) -> None:
        self._agent = agent
        self._statistics = statistics
        self._limits = Limits.of(settings, cores)
        self._memory: Memory = {}
        self._numbers: dict[str, int] = {}  # of the records of models that were sampled last
        self._look_at_s: float | None = None  # time.monotonic()
        self._not_before_s = 0.0  # is there another look: the last one took so long
        self._look_on_until_s = 0.0
        self._look_at_all_s = 0.0  # for workers that others have added: a number of each model is a miss of the caches

    @property
    def descriptor(self) -> int:
        """Can be read when there is something to look at."""
        return self._agent.events

    def timeout_s(self) -> float | None:
        """After which to look; None: not before there is an event."""
        return None if self._look_at_s is None else max(0.0, self._look_at_s - time.monotonic())

    def on_event(self) -> None:
        """``descriptor`` can be read."""
        self._agent.take_events()
        now_s = time.monotonic()
        self._look_on_until_s = now_s + LOOK_ON_S
        self._look_at_all_s = now_s
        if self._look_at_s is None or self._look_at_s > now_s + BUSY_LOOK_S:
            self._look_at_s = max(now_s, self._not_before_s)

    def is_due(self) -> bool:
        """Whether it is time to look."""
        return self.timeout_s() == 0.0

    def look(self) -> None:
        """One round. What goes wrong is logged: the server goes on with the workers that there are."""
        now_s, began_s = time.monotonic(), time.thread_time()
        try:
            look_again_s = self._look(now_s)
        except Exception:  # all models would end with the supervisor
            logger.exception("models keep the workers that they have: looking at them failed")
            self._memory, self._numbers = {}, {}
            look_again_s = LOOK_ON_S
        self._not_before_s = now_s + (time.thread_time() - began_s) / MOST_OF_A_CORE
        self._look_at_s = None if look_again_s is None else max(now_s + look_again_s, self._not_before_s)

    def _look(self, now_s: float) -> float | None:
        """After how long to look again; None: not before there is an event."""
        decision = decide(self._samples(now_s), self._limits, self._memory, now_s)
        self._memory = decision.memory
        for change in decision.changes:
            self._apply(change)
        if self._statistics.waiting:
            self._look_on_until_s = now_s + LOOK_ON_S
        return BUSY_LOOK_S if now_s < self._look_on_until_s else decision.look_again_s

    def _samples(self, now_s: float) -> list[ModelSample]:
        """Of the models that the policy asks for."""
        statistics = self._statistics
        numbers = {self._numbers[name] for name in self._memory}  # all that have got a worker from here are in it
        if now_s >= self._look_at_all_s:
            self._look_at_all_s = now_s + LOOK_ON_S
            counts = zip(*statistics.columns("wanted_workers", "min_workers"), strict=True)
            numbers.update(number for number, (count, least) in enumerate(counts) if count and count != least)
        if statistics.waiting:
            numbers.update(statistics.waiting_records())
        numbers.discard(0)  # of models that have no record of their own: they keep the workers that they have
        found = {each.name: (number, each) for number in numbers if (each := self._sample(number)) is not None}
        self._numbers = {name: number for name, (number, _) in found.items()}
        return [sample for _, sample in found.values()]

    def _sample(self, number: int) -> ModelSample | None:
        """None where the model has been unloaded, or has no worker yet."""
        seen = self._statistics.scaling_sample(number)
        if not seen.state or not seen.wanted_workers:
            return None
        return ModelSample(
            name=seen.name,
            workers=seen.wanted_workers,
            loaded=min(seen.workers, seen.wanted_workers),  # one that is taken back may still answer
            busy=seen.busy_workers,
            waiting=seen.waiting,
            all_busy_s=seen.all_busy_ns / 1e9,
            least_workers=max(1, seen.min_workers),
            most_workers=seen.max_workers,
            batch_size=seen.batch_size,
            max_idle_s=seen.max_idle_s,
        )

    def _apply(self, change: Change) -> None:
        sample = change.sample
        logger.info(
            "model %s: %d workers instead of %d (%d requests wait, %d workers are busy)",
            *(change.name, change.workers, sample.workers, sample.waiting, sample.busy),
        )
        try:
            self._agent.scale(change.name, change.workers)
        except AgentError as error:
            logger.error("model %s keeps its workers: %s", change.name, error)
