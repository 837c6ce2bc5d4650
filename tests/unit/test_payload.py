"""Request bodies that the golden requests do not cover: types, limits, and what must not be allocated or run."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from mme.errors import BadRequest, RequestError, UnsupportedMediaType
from mme.frameworks.base import TensorSpec
from mme.handler import formats
from mme.handler.images import ImageReader
from mme.handler.payload import BodyReader, Request, most_unfolded_bytes

ROWS = BodyReader([TensorSpec("data", (1, 4))], None)
BLOCKS = BodyReader([TensorSpec("data", (1, 2, 3))], None)
WHOLE = BodyReader([TensorSpec("data", (1, 2), np.dtype(np.int32))], None)
TREES = BodyReader([TensorSpec("data", (1, 3), allows_missing=True)], None)


def read(reader: BodyReader, body: bytes | str, content_type: str) -> np.ndarray:
    body = body.encode() if isinstance(body, str) else body
    return reader.read(Request({"body": bytearray(body)}, {"content-type": content_type}))["data"]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_one_sample_may_leave_out_the_batch() -> None:
    block = [[1, 2, 3], [4, 5, 6]]
    for body in (block, [block]):
        array = read(BLOCKS, json.dumps(body), "application/json")
        assert array.shape == (1, 2, 3) and array.dtype == np.float32
    assert read(BLOCKS, json.dumps([block] * 5), "application/json").shape == (5, 2, 3)


def test_csv_rows_are_brought_to_the_shape() -> None:
    assert read(BLOCKS, "1,2,3,4,5,6\n", "text/csv").tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i8", "|u1", "|b1"])
def test_npy_of_every_kind_of_number(dtype: str) -> None:
    array = read(ROWS, npy(np.array([[0, 1, 1, 0]]).astype(dtype)), "application/x-npy")
    assert array.dtype == np.float32 and array.tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(
    "array", [np.array([["a"] * 4]), np.zeros((1, 4), complex), np.zeros(1, [("x", "f4")]), np.zeros((1, 4), "M8[s]")]
)
def test_npy_of_anything_else_is_refused(array: np.ndarray) -> None:
    with pytest.raises(BadRequest, match="not numbers"):
        read(ROWS, npy(array), "application/x-npy")


def test_an_npy_head_that_claims_much_allocates_nothing() -> None:
    body = npy(np.zeros((1, 4), np.float32))
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999, 99999), }"
    body = body[:10] + head.ljust(len(body) - 10 - 16 - 1).encode() + b"\n" + bytes(16)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="its head says 3999959600004 bytes of data, it has 16"):
            read(ROWS, body, "application/x-npy")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_npy_head_of_any_version_is_read_and_a_huge_one_refused() -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ones((1, 4)), version=(2, 0))
    assert read(ROWS, file.getvalue(), "application/x-npy").tolist() == [[1, 1, 1, 1]]
    with pytest.raises(BadRequest, match="head is too long"):
        read(ROWS, b"\x93NUMPY\x02\x00" + (1 << 20).to_bytes(4, "little") + b"(" * (1 << 20), "application/x-npy")


@pytest.mark.parametrize("body", ["[[1.5, 2]]", "[[1, 3000000000]]", "[[1, null]]", "[[1, 1e300]]"])
def test_an_input_of_whole_numbers_takes_only_such(body: str) -> None:
    assert read(WHOLE, "[[1, -2]]", "application/json").dtype == np.int32
    with pytest.raises(BadRequest, match="int32"):
        read(WHOLE, body, "application/json")


def test_a_model_that_allows_it_may_miss_numbers() -> None:
    for body, content_type in (("1,,3\n,5,6", "text/csv"), ("[[1, null, 3], [null, 5, 6]]", "application/json")):
        array = read(TREES, body, content_type)
        assert np.isnan(array).tolist() == [[False, True, False], [True, False, False]]
    with pytest.raises(BadRequest):
        read(TREES, "1,inf,3", "text/csv")


def test_json_keys_that_are_input_names_are_input_names() -> None:
    reader = BodyReader([TensorSpec("inputs", (1, 2))], None)
    body = bytearray(b'{"inputs": [[1, 2]]}')
    assert reader.read(Request({"body": body}, {"content-type": "application/json"}))["inputs"].tolist() == [[1, 2]]


def test_untyped_bodies_are_told_by_their_first_bytes() -> None:
    for content_type in ("", "application/octet-stream", "binary/octet-stream"):
        assert read(ROWS, npy(np.ones((1, 4))), content_type).shape == (1, 4)
        assert read(ROWS, " \n[[1, 2, 3, 4]]", content_type).shape == (1, 4)
        with pytest.raises(UnsupportedMediaType):
            read(ROWS, "1,2,3,4", content_type)


def test_header_names_and_types_are_compared_without_case() -> None:
    request = Request.from_mms(
        {"body": b""},
        {"body": {"content-type": "x"}, "cOnTeNt-TyPe": "TEXT/CSV ; charset=utf-8", "ACCEPT": "a", "x-Y": "z"},
    )
    assert request.content_type == "text/csv"
    assert request.accept == "a"
    assert request.headers["x-y"] == "z"
    assert request.part_type("body") == "text/csv"
    assert request.custom_attributes is None


def test_every_refusal_says_what_the_model_takes() -> None:
    for body, content_type in (("", "text/csv"), ("x", "text/csv"), ("x", "application/json"), ("x", "x/y")):
        with pytest.raises(RequestError, match=r"data \(N, 4\) float32"):
            read(ROWS, body, content_type)


@pytest.mark.parametrize(
    "value", [[["1", 2, 3, 4]], [["1", "2", "3", "4"]], ["1", "3_0", "1e3", "nan"], "1", [[1, 2, 3, 4], [1, 2, 3, "x"]]]
)
def test_text_in_json_is_no_number(value: object) -> None:
    for body in (value, {"instances": value}, {"data": value}, {"inputs": {"data": value}}):
        with pytest.raises(BadRequest, match=r"must be numbers .*not text"):
            read(ROWS, json.dumps(body), "application/json")


def test_a_long_text_among_many_numbers_is_refused_in_no_more_memory_than_the_body_takes() -> None:
    """As an array of texts, each number would be as long."""
    body = json.dumps([["x" * 100_000, *range(2_000)]]).encode()
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="not text"):
            read(ROWS, body, "application/json")
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 10 * len(body)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 4)])
def test_the_usual_head_of_an_npy_file_is_read_as_numpy_reads_it(order: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.RandomState(1).rand(*shape), order=order)  # type: ignore[call-overload]
    body = npy(array)
    unusual = body.replace(b"'descr'", b"'descr' ").replace(b"  \n", b" \n")  # one more blank, one less
    assert len(unusual) == len(body) and unusual != body
    for each in (body, unusual):
        np.testing.assert_array_equal(read(ROWS, each, "application/x-npy"), array.reshape(-1, 4).astype(np.float32))


@pytest.mark.parametrize("head", ["'<f9'", "'<f4', 'x': 1", "'|O'", "'<u3'", "'<U1'", "[('a', '<f4')]", "__import__"])
def test_the_unusual_head_of_an_npy_file_is_refused(head: str) -> None:
    text = f"{{'descr': {head}, 'fortran_order': False, 'shape': (1, 4), }}".ljust(117) + "\n"
    body = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(16)
    with pytest.raises(BadRequest):
        read(ROWS, body, "application/x-npy")


# ---- limits of what a request unfolds to ----


def test_the_unfolding_limit_follows_the_megapixel_limit_and_has_a_floor() -> None:
    assert most_unfolded_bytes(50) == 200_000_000
    assert most_unfolded_bytes(1) == 64 << 20


def test_json_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    body = b"[" + b"[]," * 1_200_000 + b"[]]"
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="JSON holds too many values"):
            read(ROWS, body, "application/json")
        with pytest.raises(BadRequest, match="JSON holds too many values"):
            read(ROWS, body, "application/jsonlines")
        assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    finally:
        tracemalloc.stop()
    rows = b"[" + b"[1,2,3,4]," * 200_000 + b"[1,2,3,4]]"
    assert read(ROWS, rows, "application/json").shape == (200_001, 4)


def test_csv_of_many_short_rows_takes_few_times_its_size() -> None:
    body = b"1,2,3,4\n" * 200_000
    tracemalloc.start()
    try:
        assert read(ROWS, body, "text/csv").shape == (200_000, 4)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(body)
    finally:
        tracemalloc.stop()


def test_more_images_than_the_limit_stands_for_are_refused_before_one_is_decoded(tmp_path: Path) -> None:
    spec = TensorSpec("data", (1, 3, 512, 512))
    reader = BodyReader([spec], ImageReader.for_model(tmp_path, spec, None, 1), most_unfolded_bytes(1))
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    image = {"b64": base64.b64encode(file.getvalue()).decode()}
    bodies = [
        (json.dumps([image] * 30).encode(), "application/json"),
        (npy(np.array([file.getvalue()] * 30)), "application/x-npy"),
    ]
    for body, content_type in bodies:
        with pytest.raises(BadRequest, match="30 images become 90 MiB"):
            read(reader, body, content_type)
    assert read(reader, json.dumps([image] * 2), "application/json").shape == (2, 3, 512, 512)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_a_sparse_matrix_becomes_what_scipy_makes_of_it(kind: str, dtype: type) -> None:
    matrix = (
        scipy.sparse.random(7, 4, density=0.4, format=kind, random_state=3).multiply(10).asformat(kind).astype(dtype)
    )
    file = io.BytesIO()
    scipy.sparse.save_npz(file, matrix)
    expected = matrix.toarray().astype(np.float32)
    np.testing.assert_array_equal(read(ROWS, file.getvalue(), "application/x-npz"), expected)


def test_an_npz_that_unpacks_to_more_than_the_limit_allocates_nothing() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("data.npy", "w") as member:
        for _ in range(100):
            member.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="unpacks to 100 MiB, more than the 64 MiB"):
            read(ROWS, file.getvalue(), "application/x-npz")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_an_npz_whose_directory_lies_about_a_size_is_refused_within_what_it_says() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("data.npy", npy(np.zeros((1 << 20, 4), np.float32)))
    lying = file.getvalue().replace((16 * (1 << 20) + 128).to_bytes(4, "little"), (128).to_bytes(4, "little"))
    assert lying != file.getvalue()
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            read(ROWS, lying, "application/x-npz")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("indptr", [[0, 1], [0, 2, 1], [1, 1, 1], [0, 1, 5], [0, -1, 1]])
def test_a_sparse_matrix_whose_parts_do_not_fit_is_refused(indptr: list[int]) -> None:
    file = io.BytesIO()
    parts = {"indices": np.array([0]), "indptr": np.array(indptr), "data": np.ones(1)}
    arrays: dict[str, Any] = {"format": np.array(b"csr"), "shape": np.array([2, 4]), **parts}
    np.savez(file, **arrays)
    with pytest.raises(BadRequest, match="indptr does not fit"):
        read(ROWS, file.getvalue(), "application/x-npz")


@pytest.mark.parametrize("text", ["aGk=", "aGk", "aG\nk=\n", "data:image/png;base64,aGk=", "data:;base64,aGk"])
def test_base64_is_read_with_or_without_padding_line_breaks_and_url(text: str) -> None:
    assert formats.read_base64(text) == b"hi"
