"""Tests in parallel (pytest-xdist): which belong to one process, in which order, and what they have to show.

Tests of one file share its fixtures, so that they run one after the other; those that share the default server, and
those of the image the Docker engine, too. What takes long comes first.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from xdist.scheduler import LoadScopeScheduling

SHOWN = "shown"
DOCKER, CONTRACT = "docker", "contract"
UNIT = "tests/unit/"
FRESH_MACHINE = "tests/image/test_fresh_machine.py"  # needs the engine, but not the image
SHARE_DEFAULT_SERVER = {"tests/integration/test_fuzz.py", "tests/integration/test_openapi.py"}
# In seconds, with others beside it on two cores; as far as it is worth saying (the table at the end of a run).
_LONG = {
    DOCKER: 200,
    FRESH_MACHINE: 150,
    "tests/endpoint/test_real_containers.py": 70,
    "tests/integration/test_quickstart.py": 80,
    "tests/integration/test_workers_faults.py": 80,
    "tests/integration/test_scaling.py": 75,
    "tests/integration/test_server.py": 50,
    "tests/integration/test_front_end_agent.py": 50,
    "tests/integration/test_package_sets.py": 40,
    "tests/integration/test_limits.py": 40,
    "tests/endpoint/test_training.py": 40,
    "tests/endpoint/test_real_platform.py": 40,
    "tests/endpoint/test_server.py": 40,
    "tests/integration/test_packages.py": 35,
    "tests/integration/test_metrics.py": 35,
    "tests/integration/test_drain.py": 35,
    "tests/unit/test_benchmarks.py": 35,
    "tests/integration/test_serve.py": 30,
    "tests/endpoint/test_limits.py": 30,
    "tests/endpoint/test_fleet.py": 25,
    "tests/integration/test_broken_artifacts.py": 25,
    "tests/integration/test_overcommit.py": 25,
    "tests/endpoint/test_programs.py": 25,
    "tests/unit/test_load_test.py": 20,
    "tests/endpoint/test_updates.py": 20,
    "tests/unit/test_zygote.py": 20,
    "tests/endpoint/test_sdk2.py": 20,
    "tests/unit/test_sleep.py": 20,
    "tests/unit/test_templates.py": 20,
    "tests/unit/test_package_model.py": 20,
    CONTRACT: 20,
}


class Groups(LoadScopeScheduling):
    """Each group runs in one process, in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """The tests of one group run one after the other."""
    file = nodeid.partition("::")[0]
    if (file.startswith("tests/image/") and file != FRESH_MACHINE) or ("docker" in nodeid and not is_unit(nodeid)):
        return DOCKER
    return CONTRACT if file.startswith("tests/contract/") or file in SHARE_DEFAULT_SERVER else file


def is_unit(nodeid: str) -> bool:
    """Whether it is a test of a unit, by its folder."""
    return nodeid.startswith(UNIT)


def is_quick(item: pytest.Item) -> bool:
    """Whether ``./scripts/test --quick`` runs it without being told: units that start no server."""
    return is_unit(item.nodeid) and item.get_closest_marker("slow") is None


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
