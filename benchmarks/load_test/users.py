"""Locust's users: in a closed loop each waits for its answer; in an open loop requests come whether or not."""

from __future__ import annotations

import random
import time
from typing import Any

import gevent
from gevent.pool import Group
from locust import User, constant, task

from benchmarks.load.patterns import Chooser
from benchmarks.load_test.destinations import MOST_CONNECTIONS, Caller, Destination
from benchmarks.load_test.options import LoadTestOptions
from benchmarks.load_test.record import COLD, WARM, Record

REQUEST_TYPE = "invoke"


class Traffic:
    """Sends requests to a destination's models and records what becomes of them. Locust is told of each."""

    def __init__(self, options: LoadTestOptions, destination: Destination, record: Record) -> None:
        self._options = options
        self._destination = destination
        self._record = record
        self._models = Chooser(options.pattern, len(destination.models), options.seed)
        self._chance = random.Random(options.seed)
        self._idle: list[Caller] = []
        self._under_way = Group()
        self._next_arrival_s: float | None = None

    def begin_call(self, environment: Any, due_s: float | None = None) -> gevent.Greenlet:
        """One request, in a greenlet of its own: Locust may kill a user that has just begun its task."""
        call = gevent.Greenlet(self._call, environment, due_s)
        self._under_way.start(call)
        return call

    def _call(self, environment: Any, due_s: float | None) -> None:
        """One request to a model of the pattern's choice. Its time counts from ``due_s``, or from now."""
        model = self._destination.models[self._models.next()]
        body = self._chance.choice(self._options.bodies)
        caller = self._idle.pop() if self._idle else self._destination.caller()
        is_cold = self._record.send(model)
        from_s = time.perf_counter() if due_s is None else due_s
        outcome = caller.call(model, body)
        latency_s = time.perf_counter() - from_s
        self._idle.append(caller)
        self._record.end(model, is_cold, latency_s, outcome)
        environment.events.request.fire(
            request_type=REQUEST_TYPE,
            name=COLD if is_cold else WARM,
            response_time=latency_s * 1000,
            response_length=outcome.answer_bytes,
            exception=outcome.error,
            context={},
        )

    def call_when_due(self, environment: Any) -> None:
        """Waits for the next moment of a Poisson process and sends a request then, without waiting for its answer."""
        assert self._options.rate is not None
        due_s = self._next_arrival_s or time.perf_counter()
        self._next_arrival_s = due_s + self._chance.expovariate(self._options.rate)
        now_s = time.perf_counter()
        if due_s > now_s:
            gevent.sleep(due_s - now_s)
        else:
            self._record.most_behind_s = max(self._record.most_behind_s, now_s - due_s)
        if len(self._under_way) >= MOST_CONNECTIONS:
            self._record.refuse(f"not sent: {MOST_CONNECTIONS:,} requests wait for their answers")
            return
        self.begin_call(environment, due_s)

    def finish(self, timeout_s: float) -> None:
        """Waits for what is under way, and gives up on the rest."""
        self._under_way.join(timeout_s)
        self._record.give_up(len(self._under_way), timeout_s)
        self._under_way.kill()


class _TrafficUser(User):
    abstract = True
    wait_time = constant(0)
    traffic: Traffic


class ClosedLoopUser(_TrafficUser):
    """Sends its next request when the last one is answered."""

    abstract = True

    @task
    def invoke(self) -> None:
        """One request."""
        self.traffic.begin_call(self.environment).join()


class OpenLoopUser(_TrafficUser):
    """The one user that sends requests for all, at their times."""

    abstract = True

    @task
    def invoke(self) -> None:
        """One request."""
        self.traffic.call_when_due(self.environment)


def user_class(options: LoadTestOptions, traffic: Traffic) -> type[User]:
    """The class that Locust is given."""
    base = ClosedLoopUser if options.rate is None else OpenLoopUser
    name = "ClosedLoop" if options.rate is None else "OpenLoop"
    return type(name, (base,), {"traffic": traffic, "host": options.destination, "abstract": False})
