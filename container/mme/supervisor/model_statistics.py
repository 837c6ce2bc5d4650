"""What the front end knows of each model's requests, in memory that it shares with the supervisor.

The supervisor makes the memory, the front end's agent alone writes it, once per event and without locks
(front_end/src/mme/ModelStatistics.java, ModelRecord.java); whoever has a descriptor reads. A worker, a template or the
zygote may be killed: nothing that is counted here is lost. All numbers are 8 bytes long, in the machine's order:

    0                   header: layout, size of a record, number of records, buckets of a histogram (written here),
                        records in use, changes, requests waiting, requests under way, requests so far, requests
                        that no model has by the reason, loads by the status of their answer
    4096                record 0: what models without a record of their own have counted
    4096 + n · 4096     record n: the numbers of ``ModelSample``, then two texts

A name keeps its record when its model is unloaded, and finds its counters again at the next load.

    statistics = ModelStatistics(descriptor)
    if statistics.waiting:                        # one number: a loop over 1,000 models may rest where it is 0
        for number in statistics.waiting_records():
            sample = statistics.sample(number)
    for sample in statistics.samples():           # of all models that are loaded
        sample.name, sample.waiting, sample.workers, sample.busy_ns
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_RECORDS = 16384  # names since the start; 64 MiB of addresses, and memory for what is used
FILE = "model-statistics"  # in the server's private folder: ModelStatistics.java

_LAYOUT = 1
_HEADER_BYTES = 4096
_RECORD_BYTES = 4096
_NUMBER_BYTES = 8
BUCKETS = 16
# The longest times that a histogram's buckets count, in seconds; the last bucket has none.
LIMITS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_HEADER = (
    *("layout", "record_bytes", "most_records", "buckets"),
    *("used_records", "changes", "waiting", "under_way", "arrivals"),
    *("draining", "too_large", "unknown", "invalid"),
    *("loads_ok", "loads_400", "loads_404", "loads_409", "loads_500", "loads_503", "loads_507", "loads_other"),
)
_NAME, _TARGET = 1024, 2048  # where a record's texts begin
_READS = 100  # of a record that gets another name meanwhile


class ModelSample(NamedTuple):
    """What one model's record said at a moment. Times are of ``time.monotonic_ns()``; counters never fall for a name.

    Numbers of requests and workers are changed one after the other: together they may be off by one.
    """

    number: int  # of the record
    generation: int  # another one where the record has been given to another name
    name: str
    target: str  # X-Amzn-SageMaker-Target-Model of the last request, where that is recorded; else ""
    is_registered: bool  # loaded, or being loaded
    waiting: int  # requests in the queue
    under_way: int  # requests that workers have, or collect for a batch
    workers: int  # that have loaded the model
    busy_workers: int  # that have a batch
    wanted_workers: int  # that there are to be, those that still load among them
    batch_size: int
    batch_delay_ms: int
    queue_size: int
    min_workers: int  # that it has at least, by serving.properties, the settings, or the last PUT
    max_workers: int  # and at most
    max_idle_s: int  # after which a worker is taken back that is not needed
    registered_ns: int
    last_arrival_ns: int  # 0: none yet
    last_answer_ns: int  # 0: none yet
    arrivals: int
    answers_2xx: int
    answers_3xx: int
    answers_4xx: int
    answers_5xx: int  # but 507 and ``refused``
    answers_507: int
    refused: int  # 503 at once: the queue was full, or there was no worker
    abandoned: int  # the client hung up while the request waited
    loads: int  # of the model
    failed_loads: int
    unloads: int
    worker_loads: int
    worker_ends: int  # of workers that had the model, whatever ended them
    batches: int
    busy_ns: int  # for which workers had a batch; those that have one now are not in it
    queue_ns: int  # all requests' times, added up
    handler_ns: int  # "
    whole_ns: int  # "
    queue_buckets: tuple[int, ...]  # by LIMITS_S: from arrival to when a worker was given the request
    handler_buckets: tuple[int, ...]  # from there to the worker's answer
    whole_buckets: tuple[int, ...]  # from arrival to the answer


class ScalingSample(NamedTuple):
    """The part of a record that workers are added and taken back by."""

    name: str
    state: int  # 0: not registered
    waiting: int
    workers: int
    busy_workers: int
    wanted_workers: int
    batch_size: int
    min_workers: int
    max_workers: int
    max_idle_s: int
    all_busy_ns: int  # when all workers last had a batch at once (``time.monotonic_ns``)


# A record's numbers, in their order; a histogram's buckets follow, those of the queue, the handler and the whole.
_NUMBERS = ("generation", "state", "name_bytes", "target_bytes", *ModelSample._fields[5:-3])
# generation and ScalingSample's, without the lengths of the texts, under_way, batch_delay_ms and queue_size
_SCALING = struct.Struct("=qq16xq8xqqqq16xqqq")
_RECORD = struct.Struct(f"={len(_NUMBERS) + 3 * BUCKETS}q")


def make_statistics(most_records: int = MOST_RECORDS) -> int:
    """A descriptor of the memory, with nothing counted. Nobody can change its size."""
    descriptor = os.memfd_create("mme-models", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(descriptor, _HEADER_BYTES + most_records * _RECORD_BYTES)
    os.pwrite(descriptor, struct.pack("=4q", _LAYOUT, _RECORD_BYTES, most_records, BUCKETS), 0)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


def offer(descriptor: int, runtime_dir: Path) -> None:
    """Has the front end of the server in ``runtime_dir``, which inherits ``descriptor``, find the memory.

    It has no name in a file system: on a disk, the kernel would make the front end wait for the disk now and then.
    """
    (runtime_dir / FILE).unlink(missing_ok=True)
    (runtime_dir / FILE).symlink_to(f"/proc/self/fd/{descriptor}")


class ModelStatistics:
    """The memory behind a descriptor of ``make_statistics``, which may be closed then. For reading alone."""

    def __init__(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        self._bytes = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
        self._numbers = self._bytes.cast("q")
        self._names: dict[int, tuple[str, int]] = {}  # by record, with its generation

    def _header(self, name: str) -> int:
        return self._numbers[_HEADER.index(name)]

    @property
    def waiting(self) -> int:
        """How many requests wait in all queues."""
        return self._header("waiting")

    @property
    def under_way(self) -> int:
        """How many requests all workers have."""
        return self._header("under_way")

    @property
    def arrivals(self) -> int:
        """How many requests to models there were. Where it stays the same, so does all that is counted of requests."""
        return self._header("arrivals")

    @property
    def changes(self) -> int:
        """Another number where models have been loaded or unloaded, or records have got another name."""
        return self._header("changes")

    def refusals(self) -> dict[str, int]:
        """How many requests no model has, by the reason: draining, (body) too_large, unknown (model), invalid."""
        return {reason: self._header(reason) for reason in ("draining", "too_large", "unknown", "invalid")}

    def loads(self) -> dict[str, int]:
        """How many loads were answered, by the status: ok, 400, 404, 409, 500, 503, 507 and other."""
        return {name.removeprefix("loads_"): self._header(name) for name in _HEADER if name.startswith("loads_")}

    def __len__(self) -> int:
        """How many records are in use, the first one (of models that have none) among them."""
        return self._header("used_records")

    def column(self, field: str) -> list[int]:
        """One number of all records in use, the first one's first: ``statistics.column("waiting")``.

        Takes some 20 µs for 1,000 models, a hundredth of what samples take. ``field`` is a number of ``ModelSample``.
        """
        (column,) = self.columns(field)
        return column

    def columns(self, *fields: str) -> list[list[int]]:
        """As ``column``, several numbers of the same records: models are registered between two calls of that."""
        count = len(self)
        return [self._column(_NUMBERS.index(field), count) for field in fields]

    def bucket_column(self, bucket: int) -> list[int]:
        """As ``column``, of the histograms' buckets: those of the queue's first, then the handler's, the whole's."""
        return self._column(len(_NUMBERS) + bucket, len(self))

    def _column(self, at: int, count: int) -> list[int]:
        stride = _RECORD_BYTES // _NUMBER_BYTES
        first = _HEADER_BYTES // _NUMBER_BYTES + at
        return self._numbers[first : first + count * stride : stride].tolist()

    def waiting_records(self) -> list[int]:
        """The numbers of the records of models that requests wait for."""
        return [number for number, waiting in enumerate(self.column("waiting")) if waiting > 0]

    def sample(self, number: int) -> ModelSample:
        """What record ``number`` says now."""
        start = _HEADER_BYTES + number * _RECORD_BYTES
        for _ in range(_READS):
            generation, state, name_bytes, target_bytes, *values = _RECORD.unpack_from(self._bytes, start)
            name = self._text(start + _NAME, name_bytes)
            target = self._text(start + _TARGET, target_bytes)
            if generation == self._numbers[start // _NUMBER_BYTES] and (generation or not number):
                break
        first = len(values) - 3 * BUCKETS
        buckets = (tuple(values[at : at + BUCKETS]) for at in range(first, len(values), BUCKETS))
        return ModelSample(number, generation, name, target, bool(state), *values[:first], *buckets)

    def _text(self, start: int, length: int) -> str:
        return bytes(self._bytes[start : start + length]).decode(errors="replace")

    def scaling_sample(self, number: int) -> ScalingSample:
        """What workers are added and taken back by: a fraction of ``sample``, for who asks many times a second."""
        start = _HEADER_BYTES + number * _RECORD_BYTES
        generation, *values = _SCALING.unpack_from(self._bytes, start)
        if self._names.get(number, ("", 0))[1] != generation:
            whole = self.sample(number)
            self._names[number] = (whole.name, whole.generation)
        all_busy_ns = self._numbers[(start + _RECORD.size) // _NUMBER_BYTES]
        return ScalingSample._make((self._names[number][0], *values, all_busy_ns))

    def samples(self) -> Iterator[ModelSample]:
        """Of all models that are loaded, or being loaded."""
        for number, state in enumerate(self.column("state")):
            if number and state:
                yield self.sample(number)
