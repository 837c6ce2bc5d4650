"""MXNet answers what it answered on Python 3.11 with NumPy 1.23, to 1e-5 (tests/references)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mme.settings import Settings
from tests.harness import models, reference_functions, reference_networks, references


@pytest.fixture(scope="module")
def mx() -> Any:
    return models.import_mxnet(Settings())


@pytest.mark.parametrize("name", reference_networks.names())
def test_networks_of_an_operator_family(mx: Any, name: str) -> None:
    expected = {key: array for key, array in references.read("mxnet_operators").items() if key.split("/")[0] == name}
    answers = reference_networks.answers(mx, name)
    assert [f"{name}/{number}" for number in range(len(answers))] == list(expected)
    for answer, reference in zip(answers, expected.values(), strict=True):
        references.assert_same(answer, reference)


@pytest.mark.parametrize("name", reference_functions.names())
def test_functions_that_mxnet_computes_with_numpy(mx: Any, name: str) -> None:
    references.assert_same(reference_functions.answer(mx, name), references.read("mxnet_functions")[name])


@pytest.mark.parametrize("name", references.read("mxnet_trained"))
def test_trained_networks(shared: Path, name: str) -> None:
    references.assert_same(references.answer_of_trained_model(shared, name), references.read("mxnet_trained")[name])
