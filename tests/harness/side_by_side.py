"""Tests side by side (pytest-xdist): which belong to one process, in which order, and what they have to show.

Tests of one file share its fixtures, so that they run one after the other; those that share a container's server, or
the Docker engine, too. What takes long comes first.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

SHOWN = "shown"
DOCKER = "docker"
# In seconds on two cores, as far as it is worth saying: ./scripts/test --durations 0.
_LONG: dict[str, int] = {}


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process."""
    if "image" in getattr(item, "fixturenames", ()) or item.get_closest_marker("docker"):
        return DOCKER
    file = item.nodeid.partition("::")[0]
    callspec = getattr(item, "callspec", None)
    if file.startswith("tests/contract/") and callspec:
        return f"tests/contract[{callspec.params['server']}]"
    return file


def arrange(items: list[pytest.Item]) -> None:
    """Marks each with its group, and sorts the groups: those first that take long."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        group = group_of(item)
        groups.setdefault(group, []).append(item)
        item.add_marker(pytest.mark.xdist_group(group))
    by_length = sorted(groups, key=lambda group: -_LONG.get(group, 0))  # stable
    items[:] = [item for group in by_length for item in groups[group]]


def show(request: pytest.FixtureRequest, text: str) -> None:
    """What the reader of a run is to see, passed or not."""
    request.node.user_properties.append((SHOWN, text))


def shown(reports: Iterable[pytest.TestReport]) -> list[str]:
    """All that was to be seen."""
    return [
        value for report in reports if report.when == "call" for name, value in report.user_properties if name == SHOWN
    ]
