"""Which response an Accept header gets."""

from __future__ import annotations

import numpy as np
import pytest

from mme.errors import NotAcceptable
from mme.handler.payload import CSV, JSON, NPY
from mme.handler.responses import VERBOSE, Responder, negotiate


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        (" ", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("Application/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;verbose", VERBOSE),
        ("application/json; verbose; q=0.5", VERBOSE),
        ("text/csv", CSV),
        ("text/*", CSV),
        ("application/x-npy", NPY),
        ("application/*", JSON),
        ("text/csv, application/json", CSV),
        ("text/csv;q=0.5, application/json", JSON),
        ("text/csv;q=0.5, application/x-npy;q=0.7", NPY),
        ("text/html, */*;q=0.1", JSON),
        ("image/png, text/csv;q=0.1", CSV),
        ("application/json;q=0, */*", VERBOSE),
        ("text/csv;q=0, text/*, application/x-npy;q=0.1", NPY),
        ("text/csv;q=nonsense, application/json;q=0.1", JSON),
    ],
)
def test_the_best_of_what_is_accepted_is_chosen(accept: str, chosen: str) -> None:
    assert negotiate(accept) == chosen


@pytest.mark.parametrize("accept", ["image/png", "text/html", "application/json;q=0", "*/*;q=0", ",", "json"])
def test_what_cannot_be_produced_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="it can be application/json"):
        negotiate(accept)


def test_the_default_stands_in_only_where_the_choice_is_open() -> None:
    assert negotiate("", CSV) == CSV
    assert negotiate("*/*", CSV) == CSV
    assert negotiate("application/json", CSV) == JSON


def test_a_refusal_names_the_default_where_it_is_that_which_asks_for_too_much() -> None:
    with pytest.raises(NotAcceptable, match=r"^SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT 'text/html' cannot be produced"):
        negotiate("*/*", "text/html")
    with pytest.raises(NotAcceptable, match=r"^Accept 'text/html' cannot be produced"):
        negotiate("text/html", CSV)


def test_several_outputs_fit_into_json_only() -> None:
    assert negotiate("*/*", None, 2) == JSON
    with pytest.raises(NotAcceptable, match="2 outputs"):
        negotiate("application/x-npy", None, 2)


def test_numbers_come_back_as_they_were() -> None:
    responder = Responder(["scores"], None, lambda scores: scores)
    numbers = np.array([[0.1, 1e-30, -3.5e38 / 2, 7]], np.float32)
    row = responder.respond([numbers], CSV).body.decode().strip().split(",")
    np.testing.assert_array_equal(np.array(row, np.float32), numbers[0])


def test_an_output_of_more_dimensions_is_one_row_of_csv_per_sample() -> None:
    responder = Responder(["boxes"], None, lambda scores: scores)
    assert responder.respond([np.arange(8).reshape(2, 2, 2)], CSV).body == b"0,1,2,3\n4,5,6,7\n"


def test_fewer_than_five_classes_are_all_listed() -> None:
    responder = Responder(["scores"], ["no", "yes"], lambda scores: scores)
    body = responder.respond([np.array([[0.25, 0.75]], np.float32)], JSON).body
    assert body == b'["probability=0.750000, class=yes", "probability=0.250000, class=no"]'
