"""What the front end of a server counts, as its supervisor reads it (mme/supervisor/model_statistics.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mme.supervisor.model_statistics import FILE, ModelSample, ModelStatistics
from tests.harness.server import ServerProcess


@contextmanager
def statistics_of(server: ServerProcess) -> Iterator[ModelStatistics]:
    """Opened through the front end, whose descriptor it is."""
    (runtime_dir,) = (server.folder / "tmp").glob("mme-*")
    number = (runtime_dir / FILE).readlink().name
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
