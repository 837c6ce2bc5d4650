"""A load test from its first request to its files. Imported when gevent has patched the standard library."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import gevent
from locust.env import Environment
from locust.stats import stats_history

from benchmarks.load_test import results
from benchmarks.load_test.destinations import Destination, make_destination
from benchmarks.load_test.options import LoadTestOptions
from benchmarks.load_test.record import Record
from benchmarks.load_test.server_metrics import Sampler
from benchmarks.load_test.users import Traffic, user_class
from benchmarks.progress import LiveProgress

_TICK_S = 0.5


def run(options: LoadTestOptions) -> int:
    """Returns the exit code: 1 where there were errors. Ctrl-C ends the load early; what was measured is kept."""
    logging.getLogger("locust").setLevel(logging.ERROR)
    destination = make_destination(options)
    record, sampler = Record(), Sampler(options.metrics_url)
    with destination.ready():
        environment, interrupted = send(options, destination, record, sampler)
        print(results.summary(options, len(destination.models), record, sampler))
        print(results.told(results.write_all(options, environment, record, sampler)), flush=True)
    if interrupted:
        raise KeyboardInterrupt
    return 1 if record.errors or not record.calls else 0


def send(
    options: LoadTestOptions, destination: Destination, record: Record, sampler: Sampler
) -> tuple[Environment, bool]:
    """The load itself. Returns when every request has ended; whether Ctrl-C came."""
    traffic = Traffic(options, destination, record)
    environment = Environment(user_classes=[user_class(options, traffic)], host=options.destination)
    environment.stop_timeout = options.timeout_s  # users finish what they have begun
    environment.catch_exceptions = False
    runner = environment.create_local_runner()
    history = gevent.spawn(stats_history, runner)
    users = options.users or 1
    with _noted_signals() as signals:
        sampler.start()
        record.start()
        runner.start(users, spawn_rate=users)
        _wait(options, record, signals)
    runner.stop()
    traffic.finish(options.timeout_s)
    sampler.stop()
    history.kill()
    return environment, bool(signals)


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Signals that end the program are noted: an exception would meet any greenlet, and cost its request."""
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _frame: noted.append(number)) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _wait(options: LoadTestOptions, record: Record, signals: Sequence[int]) -> None:
    """Until the time is over or a signal has come, with a bar."""
    with LiveProgress("s", round(options.duration_s)) as live:
        live.describe(f"{options.pattern}, {options.pace}")
        while not signals and (passed_s := time.perf_counter() - record.started_s) < options.duration_s:
            gevent.sleep(min(_TICK_S, options.duration_s - passed_s))
            live.within_block(min(round(passed_s), round(options.duration_s)), record.failed)
