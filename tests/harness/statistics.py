"""What the front end of a server counts, as its supervisor reads it (mme/supervisor/model_statistics.py)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from mme.supervisor import model_statistics as layout
from mme.supervisor.model_statistics import BUCKETS, FILE, ModelSample, ModelStatistics
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until


@contextmanager
def statistics_of(server: ServerProcess) -> Iterator[ModelStatistics]:
    """Opened through the front end, whose descriptor it is."""
    number = (server.runtime_dir / FILE).readlink().name
    descriptor = os.open(f"/proc/{server.front_end().pid}/fd/{number}", os.O_RDONLY)
    try:
        yield ModelStatistics(descriptor)
    finally:
        os.close(descriptor)


def sample_of(statistics: ModelStatistics, name: str) -> ModelSample:
    """That of the model of this name, loaded or not."""
    found = [sample for number in range(1, len(statistics)) if (sample := statistics.sample(number)).name == name]
    assert len(found) == 1, f"{len(found)} records of {name}"
    return found[0]


def wait_for(statistics: ModelStatistics, name: str, **wanted: int) -> ModelSample:
    """The sample of the model as soon as it says what is ``wanted``."""

    def seen() -> dict[str, int]:
        values = sample_of(statistics, name)._asdict()
        return {field: values[field] for field in wanted}

    wait_until(lambda: seen() == wanted, lambda: f"{wanted}, not {seen()}")
    return sample_of(statistics, name)


class Writer:
    """Writes what a front end would, without one: for tests of those who read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.records: dict[str, int] = {}

    def write(self, name: str, *, number: int | None = None, generation: int = 1, **values: int) -> int:
        """Sets the numbers of ``name``, whose record is the next one, or ``number``. All answers took a millisecond."""
        at = self.records.setdefault(name, len(self.records) + 1) if number is None else number
        answered = values.get("answers_2xx", 0)
        buckets = [0, answered, *[0] * (BUCKETS - 2)]
        of_name = {"generation": generation, "state": 1, "name_bytes": len(name.encode()), "workers": 1, **values}
        numbers = [of_name.get(field, 0) for field in layout._NUMBERS]
        start = layout._HEADER_BYTES + at * layout._RECORD_BYTES
        os.pwrite(self.descriptor, struct.pack(f"={len(numbers) + 3 * BUCKETS}q", *numbers, *3 * buckets), start)
        os.pwrite(self.descriptor, name.encode(), start + layout._NAME)
        self.header(used_records=max(at, len(self.records)) + 1)
        return at

    def header(self, **values: int) -> None:
        """Sets numbers that are of no model."""
        for field, value in values.items():
            os.pwrite(self.descriptor, struct.pack("=q", value), 8 * layout._HEADER.index(field))
