"""Workers and sleeping models over time, as the container's metrics say (Prometheus's text format)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import gevent
import requests
from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 1.0
TIMEOUT_S = 5.0
# docs/metrics.md has the names. Those of a model are added up over all models.
WORKERS = "mme_workers"  # those that sleep among them
WORKERS_ASLEEP = "mme_model_workers_asleep"
MODELS_ASLEEP = "mme_models_asleep"
WAKE_UPS = "mme_model_wake_ups_total"
_NAMES = (WORKERS, WORKERS_ASLEEP, MODELS_ASLEEP, WAKE_UPS)


@dataclass(frozen=True)
class Sample:
    """What the server said ``at_s`` seconds after the start of the run; None where it does not say."""

    at_s: float
    workers: float | None  # that are awake
    asleep: float | None  # models of which all workers sleep
    wake_ups: float | None  # so far


class Sampler:
    """Asks every second, in a greenlet, until it is stopped. A server without metrics is asked once."""

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._started_s = 0.0
        self._greenlet: gevent.Greenlet | None = None
        self.samples: list[Sample] = []
        self.why_none = "no address of metrics is known" if url is None else ""

    def start(self) -> None:
        """The run begins now."""
        self._started_s = time.perf_counter()
        if self._url is not None:
            self._greenlet = gevent.spawn(self._sample)

    def stop(self) -> None:
        """One more, and no more."""
        if self._greenlet is not None:
            self._greenlet.kill()
            if self.samples:
                self._ask()

    def _sample(self) -> None:
        while True:
            self._ask()
            if not self.samples:
                return
            gevent.sleep(EVERY_S)

    def _ask(self) -> None:
        try:
            answer = self._session.get(str(self._url), timeout=TIMEOUT_S)
            if answer.status_code == 200:
                self.samples.append(parse(answer.text, time.perf_counter() - self._started_s))
            else:
                self.why_none = f"{self._url} answers {answer.status_code}"
        except (requests.RequestException, ValueError) as error:
            self.why_none = f"{self._url}: {error}"


def parse(text: str, at_s: float) -> Sample:
    """The sums in an answer. Raises ValueError where it is not in Prometheus's format."""
    # with a thousand models an answer has tens of thousands of lines, of which few are asked for
    wanted = [line for line in text.splitlines() if line.startswith(_NAMES)]
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for sample in family.samples:
            if sample.name in _NAMES:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    workers = sums.get(WORKERS)
    awake = None if workers is None else workers - sums.get(WORKERS_ASLEEP, 0.0)
    return Sample(at_s, awake, sums.get(MODELS_ASLEEP), sums.get(WAKE_UPS))


def in_words(samples: Sequence[Sample]) -> str:
    """What the samples say of the run as a whole; nothing where they say nothing."""
    workers = [sample.workers for sample in samples if sample.workers is not None]
    asleep = [sample.asleep for sample in samples if sample.asleep is not None]
    woken = [sample.wake_ups for sample in samples if sample.wake_ups is not None]
    said = []
    if workers:
        said.append(f"{min(workers):,.0f} to {max(workers):,.0f} workers awake")
    if asleep:
        said.append(f"{min(asleep):,.0f} to {max(asleep):,.0f} models asleep")
    if woken:
        said.append(f"{woken[-1] - woken[0]:,.0f} wake-ups")
    return ", ".join(said)
