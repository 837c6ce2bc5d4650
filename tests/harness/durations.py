"""What a run of the tests costs: seconds, and seconds of processors, by group of tests.

On a busy machine only the latter says something. It counts the test process and all that it has waited for, servers
with their workers included, but nothing that runs in Docker.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest

SHOWN_GROUPS = 20
_last_s = 0.0


def cpu_since_last_call_s() -> float:
    """Processor seconds of this process and of its ended children since the last call."""
    global _last_s
    now = os.times()
    before_s, _last_s = _last_s, now.user + now.system + now.children_user + now.children_system
    return _last_s - before_s


@dataclass
class Cost:
    """What the tests of one group cost together, with what they set up and ended."""

    tests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def by_group(reports: Iterable[pytest.TestReport], group_of: Callable[[str], str]) -> dict[str, Cost]:
    """The cost of each group, the longest first."""
    costs: dict[str, Cost] = defaultdict(Cost)
    for report in reports:
        cost = costs[group_of(report.nodeid)]
        cost.tests += report.when == "call"
        cost.wall_s += report.duration
        cost.cpu_s += getattr(report, "cpu_s", 0.0)
    return dict(sorted(costs.items(), key=lambda item: -item[1].wall_s))


def table(costs: dict[str, Cost]) -> list[str]:
    """The longest groups and the sum of all, one line each."""
    lines = [f"{'seconds':>8} {'cpu s':>8} {'tests':>6}  group"]
    lines += [_row(cost, name) for name, cost in list(costs.items())[:SHOWN_GROUPS]]
    total = Cost(
        sum(cost.tests for cost in costs.values()),
        sum(cost.wall_s for cost in costs.values()),
        sum(cost.cpu_s for cost in costs.values()),
    )
    return [*lines, _row(total, f"all {len(costs)} groups")]


def _row(cost: Cost, name: str) -> str:
    return f"{cost.wall_s:8.1f} {cost.cpu_s:8.1f} {cost.tests:6}  {name}"
