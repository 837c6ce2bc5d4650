"""Tests in parallel (pytest-xdist): which belong to one process, in which order, and what they have to show.

Tests of one file share its fixtures, so that they run one after the other; those that share a server of the contract's,
or the Docker engine, too. What takes long comes first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling

SHOWN = "shown"
DOCKER = "docker"
FRESH_MACHINE = "tests/image/test_fresh_machine.py"  # needs the engine, but not the image
# In seconds, with others beside it on two cores; as far as it is worth saying (--durations 0).
_LONG = {
    DOCKER: 450,
    FRESH_MACHINE: 200,
    "tests/integration/test_workers_faults.py": 170,
    "tests/integration/test_quickstart.py": 150,
    "tests/contract, spawn": 150,
    "tests/integration/test_server.py": 140,
    "tests/endpoint/test_real_containers.py": 130,
    "tests/integration/test_setup.py": 110,
    "tests/integration/test_admission.py": 80,
    "tests/integration/test_drain.py": 80,
    "tests/endpoint/test_server.py": 75,
    "tests/endpoint/test_limits.py": 60,
    "tests/integration/test_packages.py": 60,
}


class Groups(LoadScopeScheduling):
    """Each group runs in one process, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """The tests of one group run one after the other."""
    file, _, test = nodeid.partition("::")
    if (file.startswith("tests/image/") and file != FRESH_MACHINE) or "docker" in nodeid:
        return DOCKER
    how = re.search(r"\[(fork|spawn)\b", test)
    return f"tests/contract, {how[1]}" if how and file.startswith("tests/contract/") else file


def arrange(items: list[pytest.Item]) -> None:
    """Those groups first that take long; the tests of a group stay in their order."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(group_of(item.nodeid), []).append(item)
    by_length = sorted(groups, key=lambda group: -_LONG.get(group, 0))  # stable
    items[:] = [item for group in by_length for item in groups[group]]


def show(request: pytest.FixtureRequest, text: str) -> None:
    """What the reader of a run is to see, passed or not."""
    request.node.user_properties.append((SHOWN, text))


def shown(reports: Iterable[pytest.TestReport]) -> list[str]:
    """All that was to be seen."""
    return [
        str(value)
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == SHOWN
    ]
