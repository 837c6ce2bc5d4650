"""A server in which time is a number: models, their queues and workers, cores that they share, memory that ends.

The scaling policy is asked as often as it wants to be, and when the first request waits; what it says is done. Each
client of a model sends its next request when it has the answer to the last one and has thought for a while.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mme.capacity.scaling import BUSY_LOOK_S, Decision, Limits, Memory, ModelSample, decide

TICK_S = 0.02
LOAD_S = 0.1


@dataclass
class SimulatedModel:
    """One model. Times are those of the simulation."""

    name: str
    service_s: float = 0.05
    least: int = 1
    most: int = 1024
    max_idle_s: float = 5.0
    batch_size: int = 1  # requests that a worker takes at once, which takes it no longer than one
    clients: int = 0
    think_s: float = 0.0
    workers: list[float] = field(default_factory=list)  # service time that is left; 0: idle
    taken: list[int] = field(default_factory=list)  # requests that each of them is at
    loading: list[tuple[float, bool]] = field(default_factory=list)  # when it ends, and whether there is memory
    waiting: int = 0
    thinking: list[float] = field(default_factory=list)  # when each client sends its next request
    all_busy_s: float = -math.inf
    answered: int = 0
    ups_s: list[float] = field(default_factory=list)  # when it got a worker
    downs_s: list[float] = field(default_factory=list)  # and when it lost some

    @property
    def busy(self) -> int:
        return sum(left > 0 for left in self.workers)

    @property
    def count(self) -> int:
        return len(self.workers) + len(self.loading)

    @property
    def under_way(self) -> int:
        return self.waiting + sum(self.taken)

    def sample(self) -> ModelSample:
        return ModelSample(
            name=self.name,
            workers=self.count,
            loaded=len(self.workers),
            busy=self.busy,
            waiting=self.waiting,
            all_busy_s=self.all_busy_s,
            least_workers=self.least,
            most_workers=self.most,
            batch_size=self.batch_size,
            max_idle_s=self.max_idle_s,
        )


class SimulatedServer:
    """Runs tick by tick. ``memory_workers``: how many workers there is memory for."""

    def __init__(
        self,
        models: Mapping[str, SimulatedModel],
        limits: Limits,
        *,
        cores: int,
        memory_workers: int = 10**6,
        seed: int,
    ) -> None:
        self.models = dict(models)
        self.limits = limits
        self.cores = cores
        self.memory_workers = memory_workers
        self.now_s = 1000.0
        self.decisions = 0
        self.check: Callable[[SimulatedServer, Decision], None] = lambda *_: None
        self._random = random.Random(seed)
        self._memory: Memory = {}
        self._look_s: float | None = None
        for model in self.models.values():
            model.workers, model.taken = [0.0] * model.least, [0] * model.least

    def set_clients(self, clients: Mapping[str, int], think_s: float = 0.0) -> None:
        """From now on each model has so many clients; those that are too many go when they have their answers."""
        for name, model in self.models.items():
            model.clients, model.think_s = clients.get(name, 0), think_s
            missing = model.clients - model.under_way - len(model.thinking)
            for _ in range(missing):
                heapq.heappush(model.thinking, self.now_s)

    def run(self, duration_s: float) -> None:
        """Lets time go on."""
        end_s = self.now_s + duration_s
        while self.now_s < end_s - TICK_S / 2:
            self._tick()

    def run_until(self, condition: Callable[[], bool], timeout_s: float) -> float:
        """How long it took until ``condition``; fails after ``timeout_s``."""
        begin_s = self.now_s
        while not condition():
            assert self.now_s - begin_s < timeout_s, f"not within {timeout_s:g} simulated seconds"
            self._tick()
        return self.now_s - begin_s

    @property
    def workers(self) -> int:
        return sum(model.count for model in self.models.values())

    def changes_s(self, since_s: float) -> list[float]:
        """When any model got or lost a worker."""
        return [each for model in self.models.values() for each in (*model.ups_s, *model.downs_s) if each >= since_s]

    def _tick(self) -> None:
        self.now_s += TICK_S
        busy = sum(model.busy for model in self.models.values())
        speed = min(1.0, self.cores / busy) if busy else 1.0
        for model in self.models.values():
            self._load(model)
            self._serve(model, speed)
        rests = self._look_s is None or self._look_s > self.now_s + BUSY_LOOK_S
        is_noticed = rests and any(model.waiting for model in self.models.values())
        if is_noticed or (self._look_s is not None and self.now_s >= self._look_s):
            self._decide()

    def _load(self, model: SimulatedModel) -> None:
        for each in [each for each in model.loading if each[0] <= self.now_s]:
            model.loading.remove(each)
            if each[1]:
                model.workers.append(0.0)
                model.taken.append(0)

    def _serve(self, model: SimulatedModel, speed: float) -> None:
        for at, left in enumerate(model.workers):
            if left > 0 and left - TICK_S * speed <= 1e-9:
                done, model.taken[at], model.workers[at] = model.taken[at], 0, 0.0
                model.answered += done
                for _ in range(min(done, model.clients - model.under_way - len(model.thinking))):
                    pause_s = self._random.expovariate(1 / model.think_s) if model.think_s else 0.0
                    heapq.heappush(model.thinking, self.now_s + pause_s)
            elif left > 0:
                model.workers[at] = left - TICK_S * speed
        while model.thinking and model.thinking[0] <= self.now_s:
            heapq.heappop(model.thinking)
            model.waiting += 1
        for at, left in enumerate(model.workers):
            if left == 0 and model.waiting:
                model.taken[at] = min(model.waiting, model.batch_size)
                model.waiting -= model.taken[at]
                model.workers[at] = model.service_s * self._random.uniform(0.5, 1.5)
        if model.busy == len(model.workers):
            model.all_busy_s = self.now_s

    def _decide(self) -> None:
        self.decisions += 1
        samples = [
            model.sample()
            for model in self.models.values()
            if model.waiting or model.count != model.least or model.name in self._memory
        ]
        decision = decide(samples, self.limits, self._memory, self.now_s)
        self.check(self, decision)
        self._memory = decision.memory
        for change in decision.changes:
            self._scale(self.models[change.name], change.workers)
        again_s = decision.look_again_s
        self._look_s = None if again_s is None else self.now_s + again_s

    def _scale(self, model: SimulatedModel, workers: int) -> None:
        (model.ups_s if workers > model.count else model.downs_s).append(self.now_s)
        for _ in range(workers - model.count):
            model.loading.append((self.now_s + LOAD_S, self.workers < self.memory_workers))
        while model.count > workers:
            at = model.workers.index(0.0)  # an idle one, of which there must be one
            del model.workers[at], model.taken[at]


def model_with(name: str, **values: float) -> SimulatedModel:
    """A model with other values than usual."""
    return replace(SimulatedModel(name), **values)  # type: ignore[arg-type]
