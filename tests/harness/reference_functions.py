"""What MXNet computes with NumPy in Python, outside of a network: conversions, images, metrics, its own NumPy.

``tests/references/mxnet_functions.npz`` holds the answers of NumPy 1.23; see ``reference_networks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

_DATA = np.random.RandomState(3).uniform(-1, 1, (4, 6)).astype(np.float32)
_PHOTO = np.random.RandomState(4).randint(0, 256, (20, 30, 3)).astype(np.uint8)
_FUNCTIONS: dict[str, Callable[[Any], np.ndarray]] = {}


def function(compute: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
    _FUNCTIONS[compute.__name__] = compute
    return compute


def names() -> list[str]:
    return list(_FUNCTIONS)


def answer(mx: Any, name: str) -> np.ndarray:
    """What the function of this name answers; ``np_…`` run with MXNet's NumPy semantics."""
    if not name.startswith("np_"):
        return _FUNCTIONS[name](mx)
    with mx.util.np_shape(True), mx.util.np_array(True):
        return np.asarray(_FUNCTIONS[name](mx))


@function
def array_indexing(mx: Any) -> np.ndarray:
    array = mx.nd.array(_DATA)
    return np.concatenate([array[1:3].asnumpy(), array[[0, 2]].asnumpy(), array[::2].asnumpy()])


@function
def array_of_list(mx: Any) -> np.ndarray:
    return mx.nd.array([[1, 2.5], [3, 4]]).asnumpy()


@function
def array_of_whole_numbers(mx: Any) -> np.ndarray:
    return mx.nd.array(np.arange(6).reshape(2, 3), dtype="int64").asnumpy()


@function
def array_with_numpy_scalars(mx: Any) -> np.ndarray:
    array = mx.nd.array(_DATA)
    return (array * np.float32(2) + np.float64(0.1) - np.int64(1) + np.mean(_DATA)).asnumpy()


@function
def array_of_computed_shape(mx: Any) -> np.ndarray:
    return mx.nd.full((2, np.prod((3, 4))), np.float64(0.5)).reshape((np.int64(4), -1)).asnumpy()


@function
def array_sparse(mx: Any) -> np.ndarray:
    return mx.nd.array(_DATA).tostype("csr").asnumpy()


@function
def image_decoded(mx: Any) -> np.ndarray:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(_PHOTO).save(file, "PNG")  # lossless: the answer does not depend on a decoder
    return mx.image.imdecode(file.getvalue()).asnumpy()


@function
def image_resized(mx: Any) -> np.ndarray:
    return mx.image.imresize(mx.nd.array(_PHOTO, dtype="uint8"), 11, 7).asnumpy()


@function
def image_transformed(mx: Any) -> np.ndarray:
    transforms = mx.gluon.data.vision.transforms
    steps = [transforms.ToTensor(), transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))]
    return transforms.Compose(steps)(mx.nd.array(_PHOTO, dtype="uint8")).asnumpy()


@function
def metrics(mx: Any) -> np.ndarray:
    labels, scores = mx.nd.array([0, 5, 2, 1]), mx.nd.array(_DATA)
    values = []
    for metric in (mx.metric.Accuracy(), mx.metric.TopKAccuracy(2), mx.metric.CrossEntropy()):
        metric.update([labels], [mx.nd.softmax(scores)])
        values.append(metric.get()[1])
    return np.array(values)


def _initial(mx: Any, name: str) -> np.ndarray:
    mx.random.seed(3)
    np.random.seed(3)
    values = mx.nd.zeros((2, 2, 4, 4))
    getattr(mx.init, name)()(mx.init.InitDesc("some_weight"), values)
    return values.asnumpy()


@function
def initial_bilinear(mx: Any) -> np.ndarray:
    return _initial(mx, "Bilinear")


@function
def initial_orthogonal(mx: Any) -> np.ndarray:
    # its singular vectors' signs are the linear algebra library's choice
    values = _initial(mx, "Orthogonal").reshape(2, -1)
    return values @ values.T


@function
def initial_xavier(mx: Any) -> np.ndarray:
    return _initial(mx, "Xavier")


@function
def np_dispatched(mx: Any) -> np.ndarray:
    mean: Any = np.mean(mx.np.array(_DATA), axis=1)
    return mean.asnumpy()


@function
def np_universal(mx: Any) -> np.ndarray:
    return np.add(mx.np.array(_DATA), mx.np.array(_DATA)).asnumpy()


@function
def np_mixed(mx: Any) -> np.ndarray:
    return (mx.np.array(_DATA) + np.float64(0.5) * 2 - 3).asnumpy()


@function
def np_methods(mx: Any) -> np.ndarray:
    array = mx.np.array(_DATA)
    return (array.std(axis=0) + array.reshape(6, 4).mean() + array[1:, ::2].sum()).asnumpy()


@function
def np_padded(mx: Any) -> np.ndarray:
    return mx.np.pad(mx.np.array(_DATA), ((1, 1), (0, 2)), mode="constant").asnumpy()


@function
def np_einsum(mx: Any) -> np.ndarray:
    return mx.np.einsum("ij,kj->ik", mx.np.array(_DATA), mx.np.array(_DATA), optimize=True).asnumpy()


@function
def np_fallback_isclose(mx: Any) -> np.ndarray:
    return mx.np.isclose(mx.np.array(_DATA), mx.np.array(_DATA) + 1e-9).asnumpy()


@function
def np_fallback_in1d(mx: Any) -> np.ndarray:
    return mx.np.in1d(mx.np.array([1, 2, 3]), mx.np.array([2, 5])).asnumpy()


@function
def np_fallback_trapz(mx: Any) -> np.ndarray:
    return mx.np.trapz(mx.np.array(_DATA)).asnumpy()


@function
def np_fallback_msort(mx: Any) -> np.ndarray:
    return mx.np.msort(mx.np.array(_DATA)).asnumpy()


@function
def np_fallback_alltrue(mx: Any) -> np.ndarray:
    return mx.np.alltrue(mx.np.array(_DATA) > -2, axis=1).asnumpy()


@function
def np_fallback_median(mx: Any) -> np.ndarray:
    return mx.np.nanmedian(mx.np.array(_DATA), axis=1).asnumpy()
