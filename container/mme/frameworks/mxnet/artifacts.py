"""The files of an MXNet model: found, read and checked without MXNet, so that a broken one is told in plain words.

MXNet takes some broken files for a lack of memory (it allocates what a garbled length says) and crashes on others (a
graph that has a cycle); what this module lets through is at least consistent in itself.

    PREFIX-symbol.json   the network
    PREFIX-NNNN.params   its parameters after epoch NNNN; the highest epoch counts
    PREFIX-shapes.json   its inputs: [{"name": "data", "shape": [1, 3, 224, 224]}], the batch first or on "batch_axis";
                         "dtype" optional

A .params file (ndarray.cc, NDArray::Load and ::Save), little endian:

    uint64 0x112 | uint64 reserved | uint64 count | count × array | uint64 count | count × (uint64 length, name)
    array, dense:  uint32 0xF993FAC9 (or FACA) | int32 storage 0 | shape | int32 device, int32 id | int32 type | data
    array, 1.0:    uint32 0xF993FAC8 | shape | …            array, before: uint32 ndim | ndim × uint32 | …
    shape:         int32 ndim | ndim × int64; without dimensions nothing follows, unless the array is a FACA one, which
                   MXNet writes under NumPy semantics (npx.set_np)
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import ModelLoadError
from mme.frameworks.description import names_in
from mme.frameworks.mxnet import PARAMS_SUFFIX, SHAPES_SUFFIX, SYMBOL_SUFFIX
from mme.frameworks.mxnet.layout import Input
from mme.frameworks.mxnet.training import TARGETS, cut_to_detections

_LIST_MAGIC, _MAGIC_V1, _MAGIC_V2, _MAGIC_V3 = 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
# type flags of mshadow (base.h) -> bytes per element: float32, float64, float16, uint8, int32, int8, int64, bool
_ELEMENT_BYTES = {0: 4, 1: 8, 2: 2, 3: 1, 4: 4, 5: 1, 6: 8, 7: 1}
_BFLOAT16 = 12  # which neither NumPy nor a request has
_MOST_DIMENSIONS = 32
_READ_BYTES = 4096  # at once: the longest head has 280
_INPUT_DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint8")
# Of all inputs for one pass as declared. The largest in use, volumes of 512³ numbers, take half of it; what claims more
# would end as a lack of memory, for which the platform unloads other models in vain.
_MOST_INPUT_BYTES = 2**30


@dataclass(frozen=True)
class Artifacts:
    """Where the parts of one model are."""

    symbol: Path
    params: Path
    shapes: Path


_EPOCH = re.compile(rf"-(\d{{4,}}){re.escape(PARAMS_SUFFIX)}")


def find(model_dir: Path) -> Artifacts:
    """Finds the files of the model. Raises ``ModelLoadError`` for one that is missing or not the only one."""
    try:
        names = names_in(model_dir)
    except OSError:
        names = []

    def ending(suffix: str) -> list[Path]:
        return [model_dir / name for name in names if name.endswith(suffix)]

    symbols = ending(SYMBOL_SUFFIX)
    if len(symbols) != 1:
        raise ModelLoadError(
            f"{model_dir} holds {len(symbols)} files *{SYMBOL_SUFFIX} ({_names(symbols)}); a model has exactly one."
        )
    prefix = symbols[0].name.removesuffix(SYMBOL_SUFFIX)
    epochs = {
        int(match[1]): model_dir / name
        for name in names
        if name.startswith(prefix) and (match := _EPOCH.fullmatch(name, len(prefix)))
    }
    if not epochs:
        others = ending(PARAMS_SUFFIX)
        raise ModelLoadError(
            f"{model_dir} holds {symbols[0].name} but no {prefix}-NNNN{PARAMS_SUFFIX} with its parameters"
            + (f" (there is {_names(others)}: rename it)." if others else ". Add it to the archive.")
        )
    shapes = ending(SHAPES_SUFFIX)
    if len(shapes) != 1:
        raise ModelLoadError(
            f"{model_dir} holds {len(shapes)} files *{SHAPES_SUFFIX} ({_names(shapes)}); a model has exactly one, "
            'which names its inputs: [{"name": "data", "shape": [1, 3, 224, 224]}].'
        )
    return Artifacts(symbols[0], epochs[max(epochs)], shapes[0])


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths) or "none"


def read_inputs(path: Path) -> tuple[Input, ...]:
    """Reads *-shapes.json. Raises ``ModelLoadError``."""

    def wrong(what: str) -> ModelLoadError:
        return ModelLoadError(
            f'{path}: {what}. It must be a list with one entry per input: [{{"name": "data", "shape": '
            '[1, 3, 224, 224]}], each dimension a whole number of at least 1, the batch first or on "batch_axis".'
        )

    entries = _parse_json(path.read_bytes(), wrong)
    if not isinstance(entries, list) or not entries:
        raise wrong("it is not a list of inputs")
    inputs: list[Input] = []
    total_bytes = 0
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise wrong(f"{_short(entry)} has no name")
        name, shape, dtype = entry["name"], entry.get("shape"), entry.get("dtype", "float32")
        axis = entry.get("batch_axis")
        if not isinstance(shape, list) or not shape or len(shape) > _MOST_DIMENSIONS:
            raise wrong(f"the shape of input {name!r} is {_short(shape)}")
        if any(not isinstance(size, int) or isinstance(size, bool) or size < 1 for size in shape):
            raise wrong(f"the shape of input {name!r} is {_short(shape)}")
        if dtype not in _INPUT_DTYPES:
            raise wrong(f"the dtype of input {name!r} is {_short(dtype)}, not one of {', '.join(_INPUT_DTYPES)}")
        if "batch_axis" in entry and not (type(axis) is int and 0 <= axis < len(shape)):
            raise wrong(f"the batch_axis of input {name!r} is {_short(axis)}, none of 0 to {len(shape) - 1}")
        total_bytes += math.prod(shape) * np.dtype(dtype).itemsize
        if total_bytes > _MOST_INPUT_BYTES:
            raise wrong(f"with input {name!r}, {_short(shape)}, a pass takes more than {_MOST_INPUT_BYTES >> 30} GiB")
        if any(name == other.name for other in inputs):
            raise wrong(f"input {name!r} is there twice")
        inputs.append(Input.declared(name, tuple(shape), np.dtype(dtype), axis))
    return tuple(inputs)


@dataclass(frozen=True)
class Graph:
    """What is read from *-symbol.json before MXNet sees it."""

    text: str
    head_ops: tuple[str, ...]  # operator of each output, seen through those that only change a shape or a type
    operators: frozenset[str] = frozenset()  # all; "null" stands for what the network is given
    time_major: str | None = None  # the part that ends in what ``_TIME_MAJOR`` is fed, where there is any


# Operators behind which a probability is still one: they pass numbers on as they are, perhaps not all or in another
# order, or average them.
_TRANSPARENT = {"Reshape", "reshape", "Flatten", "flatten", "expand_dims", "squeeze", "identity", "_copy"}
_TRANSPARENT |= {"Cast", "cast", "amp_cast", "BlockGrad", "Dropout", "MakeLoss", "make_loss"}
_TRANSPARENT |= {"transpose", "SwapAxis", "swapaxes", "reverse", "slice", "slice_axis", "slice_like", "mean"}
_TRANSPARENT |= {"_np_copy", "_np_reshape", "_npx_reshape", "_np_squeeze", "_np_transpose", "_npi_mean"}
# those that do so for one number alone
_NEUTRAL = {"_mul_scalar": 1, "_div_scalar": 1, "_power_scalar": 1, "_plus_scalar": 0, "_minus_scalar": 0}


# Operators whose first input is (time, batch, …).
CTC_LOSSES = {"CTCLoss", "ctc_loss", "_contrib_CTCLoss", "_contrib_ctc_loss"}
_TIME_MAJOR = CTC_LOSSES | {"RNN", "_npx_rnn", "_contrib_quantized_rnn", "_foreach"}
_TIME_MAJOR |= {f"_contrib_interleaved_matmul_{kind}" for kind in ("selfatt_qk", "selfatt_valatt", "encdec_qk")}
# those whose first input is so unless they have another axis for the time
_TIME_ON_AXIS = {"SequenceLast", "SequenceMask", "SequenceReverse", "_npx_sequence_mask"}


def read_graph(path: Path) -> Graph:
    """Reads and checks *-symbol.json; of a training network, the part that predicts. Raises ``ModelLoadError``."""

    def wrong(what: str) -> ModelLoadError:
        return ModelLoadError(f"{path}: {what}. Save the network again with Symbol.save or HybridBlock.export.")

    text = path.read_bytes()
    graph = _parse_json(text, wrong)
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    heads = graph.get("heads") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not isinstance(heads, list) or not nodes or not heads:
        raise wrong("it is not a network of MXNet: it has no list of nodes or of heads")
    for position, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("op"), str) or not isinstance(node.get("name"), str):
            raise wrong(f"node {position} has no op or no name")
        # the nodes are in the order of computation; MXNet does not check that, and a cycle makes it crash
        if not _are_entries(node.get("inputs"), position):
            raise wrong(f"node {position} ({node['name']!r}) has an input that is not a node before it")
    if not _are_entries(heads, len(nodes)):
        raise wrong("a head is not one of the nodes")
    operators = frozenset(node["op"] for node in nodes)
    network = text.decode()
    if operators & TARGETS:
        heads = cut_to_detections(path, graph)
        operators, network = frozenset(node["op"] for node in nodes), json.dumps(graph)
    timed = [node["inputs"][0] for node in nodes if _has_time_first(node) and node["inputs"]]
    return Graph(
        network,
        tuple(_head_op(nodes, head[0]) for head in heads),
        operators,
        json.dumps({**graph, "heads": timed}) if timed else None,
    )


def _has_time_first(node: dict[str, Any]) -> bool:
    on_axis = node["op"] in _TIME_ON_AXIS and str(_attributes(node).get("axis", 0)) == "0"
    return on_axis or node["op"] in _TIME_MAJOR


def _are_entries(entries: Any, below: int) -> bool:
    """Is this a list of [node, output, …] with nodes of a number less than ``below``?"""
    return isinstance(entries, list) and all(
        isinstance(entry, list)
        and len(entry) >= 2
        and all(isinstance(number, int) and number >= 0 for number in entry)
        and entry[0] < below
        for entry in entries
    )


def _head_op(nodes: list[dict[str, Any]], position: int) -> str:
    while _is_transparent(nodes[position]) and nodes[position]["inputs"]:
        position = nodes[position]["inputs"][0][0]
    node = nodes[position]
    return str(_attributes(node).get("act_type", "Activation")) if node["op"] == "Activation" else node["op"]


def _is_transparent(node: dict[str, Any]) -> bool:
    if node["op"] not in _NEUTRAL:
        return node["op"] in _TRANSPARENT
    try:
        return float(_attributes(node).get("scalar", "nan")) == _NEUTRAL[node["op"]]
    except (TypeError, ValueError):
        return False


def _attributes(node: dict[str, Any]) -> dict[str, Any]:
    """They were called param, then attr, then attrs (legacy_json_util.cc)."""
    attributes = node.get("attrs") or node.get("attr") or node.get("param")
    return attributes if isinstance(attributes, dict) else {}


def check_params(path: Path) -> bool:
    """Checks that the file is as long as what it says it holds. Raises ``ModelLoadError``.

    Returns whether it was saved under MXNet's NumPy semantics (``npx.set_np()``), under which it must be loaded, too.
    """
    with path.open("rb", buffering=0) as file:
        heads = _Heads(file.fileno())
        try:
            magic, _, count = heads.unpack("<QQQ")
            if magic != _LIST_MAGIC:
                raise _Broken("it is not a file of MXNet parameters")
            if count > heads.size:
                raise _Broken("its number of arrays is garbled")
            magics = {_skip_array(heads) for _ in range(count)}
            (names,) = heads.unpack("<Q")
            if names != count:
                raise _Broken("its parameters have no names" if names == 0 else "its number of names is garbled")
            for _ in range(names):
                (length,) = heads.unpack("<Q")
                heads.skip(length)
            return _MAGIC_V3 in magics
        except _Broken as broken:
            raise ModelLoadError(f"{path}: {broken} ({heads.size} bytes). {broken.remedy}") from None


class _Broken(Exception):
    """Says what is wrong with a file of parameters, and what to do about it."""

    def __init__(
        self, what: str, remedy: str = "It is truncated or not written by MXNet; make the archive again."
    ) -> None:
        super().__init__(what)
        self.remedy = remedy


class _Heads:
    """Reads what lies between the data in a file: one system call for all that is near, none for what is skipped.

    A worker does this when a request waits for it. (A mapped file would kill it that is cut meanwhile.)
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._at = 0  # where the next head begins
        self._read = b""  # what has been read …
        self._read_from = 0  # … from here on

    def unpack(self, form: str) -> tuple[int, ...]:
        """The numbers that are next, as ``struct`` has it."""
        wanted = struct.calcsize(form)
        offset = self._at - self._read_from
        if offset + wanted > len(self._read):
            self._read, self._read_from = os.pread(self._descriptor, _READ_BYTES, self._at), self._at
            offset = 0
            if wanted > len(self._read):
                raise _Broken("it ends too early")
        self._at += wanted
        return struct.unpack_from(form, self._read, offset)

    def skip(self, length: int) -> None:
        """Goes on behind the next ``length`` bytes."""
        if length > self.size - self._at:
            raise _Broken("it ends too early")
        self._at += length


def _skip_array(heads: _Heads) -> int:
    """Goes to the end of an array, and returns its magic number."""
    (magic,) = heads.unpack("<I")
    dimensions: tuple[int, ...]
    if magic in (_MAGIC_V2, _MAGIC_V3):
        (storage,) = heads.unpack("<i")
        if storage != 0:
            if storage in (1, 2):
                raise _Broken("it holds a sparse array", 'Make it dense with tostype("default") before you save it.')
            raise _Broken("the head of an array is garbled")
        dimensions = _shape(heads, "q", *heads.unpack("<i"))
    elif magic == _MAGIC_V1:
        dimensions = _shape(heads, "q", *heads.unpack("<i"))
    else:
        dimensions = _shape(heads, "I", magic)
    if not dimensions and magic != _MAGIC_V3:
        return magic  # an array that was never filled
    _, _, element = heads.unpack("<iii")
    if element == _BFLOAT16:
        raise _Broken("it holds parameters of bfloat16", "Cast them to float32 or float16 before you save them.")
    if element not in _ELEMENT_BYTES:
        raise _Broken("the type of an array is garbled")
    length = _ELEMENT_BYTES[element]
    for dimension in dimensions:
        length *= dimension
    heads.skip(length)
    return magic


def _shape(heads: _Heads, code: str, dimensions: int) -> tuple[int, ...]:
    if not 0 <= dimensions <= _MOST_DIMENSIONS:
        raise _Broken("the shape of an array is garbled")
    shape = heads.unpack(f"<{dimensions}{code}")
    if any(size < 0 for size in shape):
        raise _Broken("the shape of an array is garbled")
    return shape


def _parse_json(text: bytes, wrong: Callable[[str], ModelLoadError]) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise wrong(f"it is not JSON ({error})") from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
