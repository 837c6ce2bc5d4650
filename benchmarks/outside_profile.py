"""What one more model costs outside its worker process: front end, launcher, templates, descriptors, the kernel.

Reads a server with few models and with many; the difference divided by the models between them is what one more takes,
so that what a server takes once falls out. Linux only. The kernel's memory is known where the server is in a control
group of its own (as root, or where a group may be made). What it remembers of files is dropped with each reading, so
that the next one finds next to nothing of it.

Memory is what is of no file, as a control group counts it: pages of programs and libraries come and go, do not grow
with models, and are shared with whatever else runs on the machine. Of forked processes it is their proportional share.

A mapping of the JVM is the stack of the thread whose stack pointer lies in it, Java's heap where the JVM says that this
is, code where it may be run, and C's heap where glibc puts that: ``[heap]``, and pieces of up to 64 MiB at multiples of
64 MiB. All else is the JVM's own.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import models
from benchmarks.failure import BenchmarkError
from benchmarks.report import progress
from benchmarks.scenarios.memory import add
from benchmarks.servers.roles import JVM, LAUNCHER, SUPERVISOR, TEMPLATES, WORKER, role_of
from benchmarks.servers.workers import worker_pids
from benchmarks.soak.limited_server import CgroupLimitedServer, LimitedServer, make_limited_server

FEW = 50  # beyond the JVM's first threads for connections, of which there are two for each core
# From the last request until an idle server is read: the JVM collects Java's garbage and trims C's heap every 20 s.
IDLE_S = 45.0
SLEEP_AFTER_S = 5
ASLEEP_TIMEOUT_S = 120.0
# The server's limit: none of the models is to sleep for lack of memory.
_BASE_MB, _MODEL_MB = 3000, 10

STACKS, JAVA_HEAP, C_HEAP = "stacks of threads", "Java's heap", "heap of C"
CODE, OTHER = "compiled code", "classes, and what the JVM maps for itself"
_ARENA_BYTES = 64 * 2**20
_KERNEL_STACK_BYTES = 16 * 2**10  # of each thread, on x86-64 and arm64

_HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)$")
_HEAP_ADDRESS = re.compile(r"Heap address: 0x([0-9a-f]+), size: (\d+) MB")
# MMS calls a worker's threads W-PORT-MODEL, and -stdout and -stderr behind it; the kernel keeps 15 bytes of a name.
_THREADS = (
    (re.compile(r"^W-\d+-\d+-std"), "readers of a launcher's output"),
    (re.compile(r"^W-\d+-\d+$"), "a worker's own"),
    (re.compile(r"^process reaper"), "process reaper"),
    (re.compile(r"^epollEventLoop"), "connections (Netty)"),
)
OTHER_THREADS = "the JVM's own, and others"


# ---- pure ----


@dataclass(frozen=True)
class MemoryMapping:
    """One of /proc/PID/smaps. ``begin`` and ``end`` are addresses."""

    begin: int
    end: int
    permissions: str
    name: str
    anonymous_bytes: int  # resident, and of no file (any more): also pages of one that were written to
    private_bytes: int = 0  # resident, and no other process has them


def parse_smaps(smaps: str) -> Iterator[MemoryMapping]:
    """What /proc/PID/smaps says."""
    header: re.Match[str] | None = None
    kilobytes: dict[str, int] = {}
    for line in [*smaps.splitlines(), "0-0 ---- 0 0 0"]:
        following = _HEADER.match(line)
        if following is None:
            name, _, value = line.partition(":")
            if value.endswith("kB"):
                kilobytes[name] = int(value.split()[0])
            continue
        if header is not None:
            begin, end = int(header[1], 16), int(header[2], 16)
            private_kb = kilobytes.get("Private_Clean", 0) + kilobytes.get("Private_Dirty", 0)
            anonymous_kb = kilobytes.get("Anonymous", 0)
            yield MemoryMapping(begin, end, header[3], header[4], anonymous_kb * 1024, private_kb * 1024)
        header, kilobytes = following, {}


def parse_stack_pointer(syscall: str) -> int | None:
    """What /proc/PID/task/TID/syscall says; None for a thread that just runs."""
    words = syscall.split()
    return int(words[-2], 16) if len(words) > 2 else None


def parse_heap_range(log: str) -> tuple[int, int] | None:
    """Where Java's heap begins and ends, of the JVM's log (``gc+heap+coops``)."""
    found = _HEAP_ADDRESS.search(log)
    return (int(found[1], 16), int(found[1], 16) + int(found[2]) * 2**20) if found else None


def kind_of_mapping(mapping: MemoryMapping, stack_pointers: Sequence[int], heap: tuple[int, int]) -> str:
    """What a JVM has this mapping for."""
    if any(mapping.begin <= pointer < mapping.end for pointer in stack_pointers):
        return STACKS
    if heap[0] <= mapping.begin < heap[1]:
        return JAVA_HEAP
    if "x" in mapping.permissions:
        return CODE
    is_arena = mapping.begin % _ARENA_BYTES == 0 and mapping.end - mapping.begin <= _ARENA_BYTES
    is_high = mapping.begin >= 1 << 44  # where mmap puts what has no address of its own; classes have a lower one
    return C_HEAP if mapping.name == "[heap]" or (is_arena and is_high and not mapping.name) else OTHER


def thread_group(name: str) -> str:
    """What a thread of the front end is for, by its name as the kernel keeps it; models are called by numbers."""
    return next((group for pattern, group in _THREADS if pattern.search(name)), OTHER_THREADS)


def kind_of_descriptor(target: str, mode: int) -> str:
    """What /proc/PID/fd/N is: where it leads, and what kind of file that is."""
    if target.startswith("anon_inode:"):
        return target.removeprefix("anon_inode:").strip("[]")
    if stat.S_ISFIFO(mode):
        return "pipe" if target.startswith("pipe:") else "fifo"
    if stat.S_ISSOCK(mode):
        return "socket"
    return "memory" if target.startswith("/memfd:") else "device" if stat.S_ISCHR(mode) else "file"


@dataclass
class Reading:
    """A server at one moment, by what is counted. ``sizes`` are bytes."""

    models: int
    sizes: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)
    descriptors: Counter[str] = field(default_factory=Counter)


def per_model(few: Mapping[str, int], many: Mapping[str, int], models_between: int) -> dict[str, float]:
    """The difference of two counts divided by the models between them, for all that either of them knows."""
    return {name: (many.get(name, 0) - few.get(name, 0)) / models_between for name in {**few, **many}}


# How the sizes are called that ``read`` finds, in the order of the table.
_JVM_ROWS = {kind: f"{JVM}, {kind}" for kind in (STACKS, JAVA_HEAP, C_HEAP, CODE, OTHER)}
KEPT_ROW, WORKERS_ROW = f"{TEMPLATES}, what they keep", "workers, pages that they share with each other alone"
WORKER_ROW = "worker, pages that it has alone"
TABLES_ROW, KERNEL_STACKS_ROW = "kernel, page tables of all but workers", "kernel, stacks of threads of all but workers"
WORKER_KERNEL_ROW, KERNEL_ROW = "kernel, a worker's page tables and stack", "kernel, processes, descriptors, sockets …"
FILES_ROW = "kernel, what it remembers of files, which can go"
RECORDS_ROW = "records that processes share"
GROUP_ROW = "control group, without what can go"
OUTSIDE_ROWS = (*_JVM_ROWS.values(), LAUNCHER, KEPT_ROW, WORKERS_ROW, SUPERVISOR, RECORDS_ROW)
KERNEL_ROWS = (TABLES_ROW, KERNEL_STACKS_ROW, WORKER_KERNEL_ROW, KERNEL_ROW)
OUTSIDE_SUM_ROW, KERNEL_SUM_ROW = "**in all, outside the worker**", "**kernel in all, without what can go**"


def size_rows(of_states: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Lines of the table of sizes: kB per model in each state, of what ``per_model`` says."""
    states = list(of_states.values())

    def line(title: str, names: Iterable[str]) -> list[str]:
        known = [[state[name] for name in names if name in state] for state in states]
        return [title, *(f"{sum(each) / 1e3:,.0f}" if each else "–" for each in known)]

    rows = [line(name, [name]) for name in OUTSIDE_ROWS]
    rows += [line(OUTSIDE_SUM_ROW, OUTSIDE_ROWS), line(WORKER_ROW, [WORKER_ROW])]
    rows += [line(name, [name]) for name in KERNEL_ROWS]
    return [*rows, *(line(KERNEL_SUM_ROW, KERNEL_ROWS), line(GROUP_ROW, [GROUP_ROW]), line(FILES_ROW, [FILES_ROW]))]


def count_rows(of_states: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Lines of a table of counts per model, without what does not grow with models."""
    names = sorted({name for state in of_states.values() for name, count in state.items() if abs(count) >= 0.05})
    return [[name, *(f"{state.get(name, 0):.1f}" for state in of_states.values())] for name in names]


# ---- the server ----


def profile(kind: str, count: int) -> None:
    """Measures with ``count`` models of this kind, and prints the tables. Raises ``BenchmarkError``."""
    folder = models.ensure([kind])[kind]
    read: dict[str, tuple[Reading, Reading]] = {}
    where = ""
    for is_sleeping in (False, True):
        server = make_server(count, is_sleeping)
        where = server.where
        progress(f"starting ours, {where}, models {'sleep' if is_sleeping else 'stay awake'}")
        with server:
            few = grow(server, kind, folder, range(FEW), is_sleeping)
            many = grow(server, kind, folder, range(FEW, count), is_sleeping)
            read.update({state: (few[state], many[state]) for state in few})
    print(f"{models.TITLES[kind]}, {FEW} and {count} models, {where}\n")
    states = {name: (few, many, many.models - few.models) for name, (few, many) in read.items()}
    sizes = {name: per_model(few.sizes, many.sizes, added) for name, (few, many, added) in states.items()}
    threads = {name: per_model(few.threads, many.threads, added) for name, (few, many, added) in states.items()}
    held = {name: per_model(few.descriptors, many.descriptors, added) for name, (few, many, added) in states.items()}
    print_table("kB of one more model", read, size_rows(sizes))
    print_table("threads of the JVM", read, count_rows(threads))
    print_table("descriptors", read, count_rows(held))


def print_table(title: str, states: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in Markdown, with a column for each state."""
    headers = [title, *states]
    for row in [headers, ["---"] * len(headers), *rows]:
        print(f"| {' | '.join(row)} |")
    print()


def make_server(count: int, is_sleeping: bool) -> LimitedServer:
    """Ours, not started yet, with memory for all models; its JVM writes where Java's heap is."""
    settings = {"MME_SLEEP_AFTER_S": str(SLEEP_AFTER_S)} if is_sleeping else {}
    server = make_limited_server(_BASE_MB + count * _MODEL_MB, native=True, settings=settings)
    server.settings["JAVA_TOOL_OPTIONS"] = f"-Xlog:gc+heap+coops=debug:file={server.folder}/heap-%p.log"
    return server


def grow(server: LimitedServer, kind: str, folder: Path, numbers: range, is_sleeping: bool) -> dict[str, Reading]:
    """Loads these models, asks each once, and reads the server in each state that it comes to."""
    for number in numbers:
        add(server, folder, str(number), *models.request_for(kind))
    if not is_sleeping:
        readings = {"awake, at once": read(server, numbers.stop)}
        time.sleep(IDLE_S)
        readings["awake, idle"] = read(server, numbers.stop)
        return readings
    deadline_s = time.monotonic() + ASLEEP_TIMEOUT_S
    while worker_pids(server):
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"there are workers still after {ASLEEP_TIMEOUT_S:g} s")
        time.sleep(0.5)
    time.sleep(IDLE_S)
    return {"asleep": read(server, numbers.stop)}


def read(server: LimitedServer, count: int) -> Reading:
    """What the server holds now."""
    progress(f"reading, {count} models")
    reading = Reading(count)
    forked_bytes = 0
    root = server.root_process()
    for process in [root, *server.descendants().values()]:
        role = role_of(process, root.pid)
        held, (table_bytes, threads) = _rollup(process.pid), _kernel_status(process.pid)
        reading.sizes[RECORDS_ROW] += held["Pss_Shmem"]
        if role == JVM:
            read_jvm(process.pid, server.folder / f"heap-{process.pid}.log", reading)
        elif role in (TEMPLATES, WORKER):
            forked_bytes += held["Pss_Anon"]
            name, its_own = (WORKER_ROW, "Private_Dirty") if role == WORKER else (KEPT_ROW, "Anonymous")
            reading.sizes[name] += held[its_own]
        else:
            reading.sizes[role] += held["Pss_Anon"]
        reading.sizes[WORKER_KERNEL_ROW if role == WORKER else TABLES_ROW] += table_bytes
        reading.sizes[WORKER_KERNEL_ROW if role == WORKER else KERNEL_STACKS_ROW] += threads * _KERNEL_STACK_BYTES
        reading.descriptors.update(f"{role}: {each}" for each in _descriptors(process.pid))
    # Pages of a template as they were before it wrote to them: those that one worker has are that worker's own.
    reading.sizes[WORKERS_ROW] = forked_bytes - reading.sizes[KEPT_ROW] - reading.sizes[WORKER_ROW]
    if isinstance(server, CgroupLimitedServer):
        with_files_bytes = server.kernel_bytes()
        server.reclaim()
        kernel_bytes = server.kernel_bytes()
        known_bytes = sum(reading.sizes[name] for name in (TABLES_ROW, KERNEL_STACKS_ROW, WORKER_KERNEL_ROW))
        reading.sizes[FILES_ROW] = with_files_bytes - kernel_bytes
        reading.sizes[KERNEL_ROW] = kernel_bytes - known_bytes
        reading.sizes[GROUP_ROW] = server.anonymous_bytes() + kernel_bytes
    return reading


def read_jvm(pid: int, log_file: Path, reading: Reading) -> None:
    """Adds the JVM's mappings and threads."""
    heap = parse_heap_range(log_file.read_text())
    if heap is None:
        raise BenchmarkError(f"the JVM does not say where Java's heap is: {log_file.read_text()!r}")
    pointers = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            pointer = parse_stack_pointer((thread / "syscall").read_text())
            reading.threads[thread_group((thread / "comm").read_text().strip())] += 1
        except OSError:
            continue  # it has just ended
        if pointer is not None:
            pointers.append(pointer)
    for mapping in parse_smaps(Path(f"/proc/{pid}/smaps").read_text()):
        reading.sizes[_JVM_ROWS[kind_of_mapping(mapping, pointers, heap)]] += mapping.anonymous_bytes


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name, of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def _kernel_status(pid: int) -> tuple[int, int]:
    """Bytes of page tables, and threads, of a process."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    fields = {name: value.split() for name, _, value in lines}
    return int(fields["VmPTE"][0]) * 1024, int(fields["Threads"][0])


def _descriptors(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield kind_of_descriptor(os.readlink(entry), entry.stat().st_mode)  # noqa: PTH115
        except OSError:
            continue  # it has been closed meanwhile
