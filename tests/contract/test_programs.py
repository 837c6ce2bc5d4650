"""Models that bring code, in each dialect, on a server with nothing configured: here and in the image."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness import scripts
from tests.harness.server import ServerProcess


def test_scripts_of_the_toolkit_serve_side_by_side(server: ServerProcess, loaded: Callable[..., str]) -> None:
    names = {number: loaded(scripts.adder, number=float(number)) for number in (1, 2)}
    for number, name in names.items():
        answer = server.invoke(name, "1,2\n", "text/csv", "text/csv")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/csv"), answer.text
        assert answer.text == f"{1.0 + number}\n{2.0 + number}\n"
    assert server.invoke(names[1], b"", "image/png").status_code == 415


def test_the_calls_of_awss_sample_of_a_thousand_models_are_answered(
    server: ServerProcess, loaded: Callable[..., str]
) -> None:
    names = {number: loaded(scripts.thousand_models, coefficient=float(number)) for number in (2, 3)}
    for number, name in names.items():
        answer = server.invoke(name, "[[0.5]]")
        assert answer.status_code == 200, answer.text
        assert answer.json() == pytest.approx(number / 2)
