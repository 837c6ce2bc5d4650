"""Workers and sleeping models over time, as the container's metrics say (Prometheus's text format)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import gevent
import requests
from prometheus_client.parser import text_string_to_metric_families

EVERY_S = 1.0
TIMEOUT_S = 5.0
# docs/metrics.md has the names. A sum over all models.
WORKERS = "mme_workers"
ASLEEP = "mme_models_asleep"


@dataclass(frozen=True)
class Sample:
    """What the server said ``at_s`` seconds after the start of the run; None where it does not say."""

    at_s: float
    workers: float | None
    asleep: float | None


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
        """No more samples."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _sample(self) -> None:
        while True:
            try:
                answer = self._session.get(str(self._url), timeout=TIMEOUT_S)
                if answer.status_code != 200:
                    self.why_none = f"{self._url} answers {answer.status_code}"
                    return
                self.samples.append(parse(answer.text, time.perf_counter() - self._started_s))
            except (requests.RequestException, ValueError) as error:
                self.why_none = f"{self._url}: {error}"
                if not self.samples:
                    return
            gevent.sleep(EVERY_S)


def parse(text: str, at_s: float) -> Sample:
    """The sums in an answer. Raises ValueError where it is not in Prometheus's format."""
    # with a thousand models an answer has tens of thousands of lines, of which few are asked for
    wanted = [line for line in text.splitlines() if line.startswith((WORKERS, ASLEEP))]
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for sample in family.samples:
            if sample.name in (WORKERS, ASLEEP):
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return Sample(at_s, sums.get(WORKERS), sums.get(ASLEEP))
