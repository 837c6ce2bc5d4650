"""The package that models for DJL Serving import: inputs, outputs, and DJL's format of arrays."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from djl_python import Input, Output, PairList
from djl_python.np_util import from_nd_list, to_nd_list


def made(content: dict[str, bytes], **properties: str) -> Input:
    inputs = Input()
    inputs.properties.update({name.replace("_", "-"): value for name, value in properties.items()})
    for key, value in content.items():
        inputs.content.add(key, bytearray(value))
    return inputs


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2)).save(file, "PNG")
    return file.getvalue()


def npz(*arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def test_content_is_read_in_every_way() -> None:
    inputs = made({"other": b"x", "data": b'{"a": [1]}'})
    assert not inputs.is_empty()
    assert inputs.get_as_json() == {"a": [1]}
    assert inputs.get_as_string() == '{"a": [1]}'
    assert inputs.get_as_bytes() == b'{"a": [1]}'
    assert inputs.get_as_bytes("other") == b"x"
    assert inputs.contains_key("other") and not inputs.contains_key("none")
    assert inputs.get_content().get_keys() == ["other", "data"]
    with pytest.raises(KeyError, match="has no none; it has other, data"):
        inputs.get_as_bytes("none")
    assert made({"data": b"a,b\n1,2\n"}).get_as_csv() == [{"a": "1", "b": "2"}]
    assert made({"only": b"y"}).get_as_bytes() == b"y"


def test_what_asks_for_the_load_is_empty() -> None:
    inputs = made({})
    assert inputs.is_empty()
    assert inputs.get_as_bytes() is None and inputs.get_data() is None


@pytest.mark.parametrize(
    ("content_type", "body", "data"),
    [
        ("application/json; charset=utf-8", b"[1]", [1]),
        ("text/plain", "é".encode(), "é"),
        ("application/x-mine", b"\xff", b"\xff"),
        ("", b"\xff", b"\xff"),
    ],
)
def test_content_is_read_as_its_type_says(content_type: str, body: bytes, data: object) -> None:
    assert made({"data": body}, Content_Type=content_type).get_data() == data


def test_arrays_and_images_are_read() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for body, content_type in ((bytes(to_nd_list(array)), "tensor/ndlist"), (npz(array), "tensor/npz")):
        (read,) = made({"data": body}, content_type=content_type).get_data()
        assert read.tolist() == array.tolist()
    assert made({"data": png()}, content_type="image/png").get_data().size == (3, 2)
    assert made({"data": npz(array, array)}).get_as_numpy()[1].tolist() == array.tolist()


def test_properties_are_found_in_any_case() -> None:
    inputs = made({}, Content_Type="a/b", model_dir="/m")
    assert inputs.get_property("CONTENT-TYPE") == "a/b"
    assert inputs.get_property("nothing") is None
    assert inputs.get_properties() == {"Content-Type": "a/b", "model-dir": "/m"}


def test_a_batch_is_taken_apart() -> None:
    inputs = made({"batch_000.data": b"a", "batch_001.data": b"b", "batch_001.more": b"c"})
    inputs.properties = {"batch_size": "2", "batch_000.x": "1", "batch_001.x": "2", "model_dir": "/m"}
    assert inputs.is_batch() and inputs.get_batch_size() == 2
    first, second = inputs.get_batches()
    assert (first.get_as_bytes(), second.get_as_bytes(), second.get_as_bytes("more")) == (b"a", b"b", b"c")
    assert [each.get_property("x") for each in (first, second)] == ["1", "2"]
    alone = made({"data": b"a"})
    assert not alone.is_batch() and alone.get_batch_size() == 1 and alone.get_batches() == [alone]


def test_content_is_written_in_every_way() -> None:
    output = Output().add("é").add(b"\xff", key="b").add({"a": np.float32(1)}, key="c", batch_index=2)
    output.add_as_json([np.int64(3), np.ones(2)], key="d").add_property("X-A", 1)
    pairs = dict(zip(output.content.get_keys(), output.content.get_values(), strict=True))
    assert pairs == {None: "é".encode(), "b": b"\xff", "batch_2.c": b'{"a": 1.0}', "d": b"[3, [1.0, 1.0]]"}
    assert output.json_keys == {"batch_2.c", "d"}
    assert output.get_properties() == {"X-A": 1} and output.get_property("X-A") == 1
    assert (output.code, output.message) == (200, "OK")
    assert Output().set_code(201).set_message("made").code == 201
    assert np.load(io.BytesIO(Output().add_as_npz([np.ones(1)]).content.value_at(0)))["arr_0"].tolist() == [1]
    assert from_nd_list(Output().add_as_numpy(np.ones(1)).content.value_at(0))[0].tolist() == [1]


@pytest.mark.parametrize("value", [float("nan"), object(), {1: object()}])
def test_what_is_no_json_is_not_written(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        Output().add_as_json(value)


def test_an_error_says_what_went_wrong() -> None:
    output = Output().error("no such city")
    assert (output.code, output.get_property("content-type")) == (424, "application/json")
    assert json.loads(output.content.value_at(0)) == {
        "code": 424, "message": "invoke handler failure", "error": "no such city"
    }  # fmt: skip
    assert Output().error("x", code=400, message="bad").code == 400


def test_what_is_to_be_done_at_last_is_done_once_asked() -> None:
    done: list[int] = []
    Output().finalize(done.append, 3).execute_finalize()
    Output().execute_finalize()
    assert done == [3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_, ">f4"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_arrays_go_there_and_back(dtype: type | str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    (back,) = from_nd_list(to_nd_list([array]))
    assert back.shape == shape and back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert back.tolist() == array.tolist()


def test_an_ndlist_has_the_bytes_that_djl_writes() -> None:
    # as ai.djl.ndarray.NDSerializer has it
    text = b"".join(struct.pack(">h", len(word)) + word for word in (b"NDAR",))
    head = struct.pack(">i", 1) + text + struct.pack(">ib", 3, 0) + b"\0\x07default" + b"\0\x07FLOAT32"
    shape = struct.pack(">iq", 1, 2) + struct.pack(">ih", 1, ord("?"))
    encoded = head + shape + b"<" + struct.pack(">i", 8) + struct.pack("<2f", 1, 2)
    assert to_nd_list(np.array([1, 2], np.float32)) == encoded


def test_what_is_no_ndlist_is_refused() -> None:
    whole = bytes(to_nd_list(np.ones(3, np.float32)))
    for broken in [whole[:length] for length in range(1, len(whole))] + [b"\0\0\0\x01\0\x04XXXX", b"", whole[:8]]:
        with pytest.raises(ValueError):
            from_nd_list(broken)


def test_pairs_keep_their_order() -> None:
    pairs = PairList(pair_map={"a": 1})
    pairs.add("b", 2)
    pairs.add("z", 0, index=0)
    pairs.add(pair=("b", 3))
    pairs.add("left out", None)
    pairs.add_all(PairList(["c"], [4]))
    assert list(zip(pairs.get_keys(), pairs.get_values(), strict=True)) == [
        ("z", 0), ("a", 1), ("b", 2), ("b", 3), ("c", 4)
    ]  # fmt: skip
    assert pairs.get("b") == 2 and pairs.get("none") is None and pairs.contains("c")
    assert (pairs.key_at(0), pairs.value_at(0), pairs.size(), pairs.is_empty()) == ("z", 0, 5, False)
    with pytest.raises(ValueError):
        PairList(["a"], [1, 2])
