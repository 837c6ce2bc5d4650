"""What scrapes of ``GET /metrics`` cost: processor time of all of a server's processes but the workers.

Minutes with a scrape every 10 s and minutes without take turns; all else in them is alike. Where models are asked
between two scrapes, that takes the front end ten times as much as a scrape, and never quite the same. So what is
compared is the same few seconds of each ten, when requests are over: those after the scrape, or those in which there
was none. It is processor time, so that what else the machine does matters little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.report import Result, Target, milliseconds, progress
from benchmarks.servers import Server
from benchmarks.servers.roles import JVM, METRICS, TEMPLATES, WORKER, role_of

EVERY_S = 10.0
SCRAPES = 6  # in a block, which takes a minute
REST_S = 1.0  # from the last request until what is used is read
WINDOW_S = 4.0  # from there, with a scrape at its begin or without
ROUNDS = 2
WARM_UP = 2  # scrapes that do not count
SETTLED_S = 0.01  # most of a processor's time that templates take in a window when loads are over
SETTLE_TIMEOUT_S = 120.0
MOST_OF_A_CORE = 0.01
PATH = "/metrics"
HEADERS = [
    "scrapes of /metrics",
    "models",
    "lines",
    "MB",
    "ms per scrape",
    "process for metrics",
    "front end",
    "others",
]
HEADERS += [f"every {EVERY_S:.0f} s, of a core", "lowest–highest"]


@dataclass(frozen=True)
class Block:
    """So many windows, with a scrape or without; seconds of a processor in all of them by role, workers left out."""

    is_scraped: bool
    windows: int
    used_s: dict[str, float]


@dataclass
class Cost:
    """Seconds of a processor for one scrape: those of each pair of blocks, and the mean of all by role."""

    pairs_s: list[float] = field(default_factory=list)
    by_role_s: dict[str, float] = field(default_factory=dict)

    @property
    def scrape_s(self) -> float:
        """The mean of all pairs."""
        return sum(self.pairs_s) / len(self.pairs_s)


def cost_of(blocks: Sequence[Block]) -> Cost:
    """Of as many blocks with scrapes as without; the first of the one kind is held against the first of the other."""
    with_scrapes = [block for block in blocks if block.is_scraped]
    without = [block for block in blocks if not block.is_scraped]
    cost = Cost()
    for scraped, other in zip(with_scrapes, without, strict=True):
        more_s = {
            role: (scraped.used_s.get(role, 0.0) - other.used_s.get(role, 0.0)) / scraped.windows
            for role in {**scraped.used_s, **other.used_s}
        }
        cost.pairs_s.append(sum(more_s.values()))
        for role, each_s in more_s.items():
            cost.by_role_s[role] = cost.by_role_s.get(role, 0.0) + each_s / len(with_scrapes)
    return cost


def measure(server: Server, count: int, ask_all: Callable[[], object], is_quick: bool, result: Result) -> None:
    """Adds a table, and a target for each condition. ``ask_all`` asks every model once."""
    server.connection.request("GET", PATH).must_be_ok("the first scrape")  # starts the process, and words all names
    settle(server)
    lines = []
    conditions: tuple[tuple[str, Callable[[], object] | None], ...]
    conditions = ("no model is asked", None), ("each model is asked between two", ask_all)
    for title, ask in conditions:
        blocks: list[Block] = []
        run_block(server, ask, WARM_UP, is_scraped=True)
        for number in range(1 if is_quick else ROUNDS):
            for is_scraped in (False, True) if number % 2 == 0 else (True, False):
                progress(f"{title}: {'with' if is_scraped else 'without'} scrapes")
                blocks.append(run_block(server, ask, 2 if is_quick else SCRAPES, is_scraped))
        text = server.connection.request("GET", PATH).must_be_ok("a scrape").body
        lines.append(report(title, count, text, cost_of(blocks), result))
        result.rows.append({"scrapes": title, "models": count, "blocks": blocks, "size_bytes": len(text)})
    result.further_tables.append((HEADERS, lines))
    result.notes.append(
        f"Scrapes: processor time of all processes but workers in the {WINDOW_S:g} s after a scrape, less that of as "
        "long without one; the first scrapes do not count."
    )


def settle(server: Server) -> None:
    """Returns when templates have nothing left to do of the loads, or after ``SETTLE_TIMEOUT_S``."""
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    is_busy = True
    while is_busy and time.monotonic() < deadline_s:
        before_s = used_s(server).get(TEMPLATES, 0.0)
        time.sleep(WINDOW_S)
        is_busy = used_s(server).get(TEMPLATES, 0.0) - before_s > SETTLED_S


def run_block(server: Server, ask: Callable[[], object] | None, windows: int, is_scraped: bool) -> Block:
    """Asks, rests, scrapes; every ``EVERY_S``, or less often where the machine is too busy for that."""
    taken_s: dict[str, float] = {}
    for _ in range(windows):
        next_s = time.monotonic() + EVERY_S
        if ask is not None:
            ask()
        time.sleep(REST_S)
        before_s = used_s(server)
        ends_s = time.monotonic() + WINDOW_S
        if is_scraped:
            server.connection.request("GET", PATH).must_be_ok("a scrape")
        time.sleep(max(0.0, ends_s - time.monotonic()))
        for role, each_s in used_s(server).items():
            taken_s[role] = taken_s.get(role, 0.0) + each_s - before_s.get(role, 0.0)
        time.sleep(max(0.0, next_s - time.monotonic()))
    return Block(is_scraped, windows, taken_s)


def used_s(server: Server) -> dict[str, float]:
    """Processor time that living processes have taken so far, by role; workers are left out."""
    found: dict[str, float] = {}
    root = server.root_process()
    for process in [root, *server.descendants().values()]:
        try:
            role = role_of(process, root.pid)
            times = process.cpu_times()
        except psutil.Error:
            continue
        if role != WORKER:
            found[role] = found.get(role, 0.0) + times.user + times.system
    return found


def report(title: str, count: int, text: bytes, cost: Cost, result: Result) -> list[str]:
    """Adds the target and returns the table's line."""
    shares = [each_s / EVERY_S for each_s in cost.pairs_s]
    share = cost.scrape_s / EVERY_S
    spread = f"{min(shares):.2%}–{max(shares):.2%}"
    what = f"{count:,} models, {PATH} every {EVERY_S:.0f} s, {title}: of a core"
    result.targets.append(Target(what, share * 100, "≤", MOST_OF_A_CORE * 100, "%", f"({spread})"))
    metrics_s, jvm_s = cost.by_role_s.get(METRICS, 0.0), cost.by_role_s.get(JVM, 0.0)
    others_s = cost.scrape_s - metrics_s - jvm_s
    lines = len(text.splitlines())
    return [
        title,
        f"{count:,}",
        f"{lines:,}",
        f"{len(text) / 1e6:.2f}",
        *(milliseconds(each_s) for each_s in (cost.scrape_s, metrics_s, jvm_s, others_s)),
        f"{share:.2%}",
        spread,
    ]
