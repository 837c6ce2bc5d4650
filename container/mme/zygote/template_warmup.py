"""What the zygote does once so that its workers need not: load a tiny model and answer a few requests with it.

Python and the frameworks do much at the first run of each piece of code: they fill caches, import, allocate, specialise
byte code. Done before the fork, it costs each worker neither time nor memory.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import resource
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mme.capacity.admission import Admission
from mme.errors import MmeError
from mme.frameworks import registry
from mme.settings import Settings
from mme.zygote import protocol
from mme.zygote.load_policy import DRY_RUN
from mme.zygote.session import LoadedModel

logger = logging.getLogger("mme.zygote")

# Python 3.11 specialises code that has run eight times, later ones that has run twice. Twice as many rounds change no
# figure of benchmarks/worker_profile.py.
_ROUNDS = 9 if sys.version_info < (3, 12) else 4


def warm_up_template(
    framework: str, handler: str, runtime_dir: Path, settings: Settings, rounds: int = _ROUNDS
) -> None:
    """Loads the framework's sample model through module ``handler`` and invokes it, without a connection of MMS.

    By default as often as it takes until all code that can be specialised is. The model is written to ``runtime_dir``,
    which the supervisor removes should this process be killed meanwhile.
    """
    adapter = registry.adapter(framework)
    if adapter.sample_shape is None:
        return
    with tempfile.TemporaryDirectory(prefix="sample-", dir=runtime_dir) as folder, _imports_forgotten(folder), _quiet():
        adapter.write_sample(Path(folder), settings)
        _leave_for_dry_run(Path(folder), runtime_dir / DRY_RUN / framework, adapter.sample_shape)
        _decide_about_memory(Path(folder), settings, rounds)
        for _ in range(rounds):
            load = protocol.encode_load("sample", folder, f"{handler}:handle")
            _play(
                [load, *(_predict_request(content_type, body) for content_type, body in _bodies(adapter.sample_shape))]
            )


def _leave_for_dry_run(sample: Path, place: Path, shape: tuple[int, ...]) -> None:
    """A copy, and the body of a request to it, if the server's start is waiting for one and has none yet."""
    if not place.parent.is_dir() or place.exists():
        return
    _, body = next(_bodies(shape))
    place.with_suffix(".json").write_bytes(body)
    shutil.copytree(sample, place)


def _decide_about_memory(folder: Path, settings: Settings, rounds: int) -> None:
    """Runs through admission, with reservations of its own. Its answer is no matter; limits stay as they are."""
    reservations = folder / "reservations"
    reservations.mkdir()
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        for _ in range(rounds):
            Settings.from_environment()  # as each worker does
            admission = Admission(settings, reservations, server_pid=os.getppid())
            with admission.loading("sample", folder):
                pass
            admission.request_limit.renew()
    except MmeError as error:
        logger.info("admission is not warmed up: %s", error)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        shutil.rmtree(reservations)


def _play(requests: list[bytes]) -> None:
    front_end, connection = socket.socketpair()
    with front_end, connection:
        reader = protocol.RequestReader(connection)
        model = LoadedModel()
        for sent in requests:
            front_end.sendall(sent)  # a few KB: they fit into the socket's buffer
            match reader.read():
                case protocol.Load() as message:
                    model.load(message)
                    response = protocol.load_response(200, model.loaded_message())
                case protocol.Predict() as message:
                    response = model.predict(message.batch).response
            protocol.send(connection, response)
            answer = front_end.recv(65536)
            if struct.unpack("!i", answer[:4]) != (200,):
                raise RuntimeError(f"the sample model answered {answer[:200]!r}")
            model.emit_metrics()


def _predict_request(content_type: str, body: bytes) -> bytes:
    return protocol.encode_predict(body, content_type, headers={"Content-Type": content_type, "Accept": "*/*"})


def _bodies(shape: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    """One sample for an input of ``shape`` in each content type, as an image, too, where that may be one."""
    zeros = np.zeros(shape, np.float32)
    yield "application/json", json.dumps(zeros.tolist()).encode()
    yield "text/csv", (",".join(map(str, zeros.ravel().tolist())) + "\n").encode()
    array = io.BytesIO()
    np.save(array, zeros)
    yield "application/x-npy", array.getvalue()
    arrays = io.BytesIO()
    np.savez(arrays, zeros)
    yield "application/x-npz", arrays.getvalue()
    yield "application/jsonlines", json.dumps(zeros[0].tolist()).encode() + b"\n"
    if len(shape) == 4 and shape[1] == 3:
        yield from _images(height=shape[2], width=2 * shape[3])


def _images(*, height: int, width: int) -> Iterator[tuple[str, bytes]]:
    try:
        from PIL import Image
    except ImportError:
        return
    image = Image.new("RGB", (width, height), "grey")
    for kind in ("jpeg", "png"):
        encoded = io.BytesIO()
        image.save(encoded, kind)
        yield f"image/{kind}", encoded.getvalue()
    text = base64.b64encode(encoded.getvalue()).decode()
    yield "application/json", json.dumps({"instances": [{"b64": text}]}).encode()


@contextmanager
def _imports_forgotten(folder: str) -> Iterator[None]:
    """Of a sample that is a program nothing stays: neither its modules nor where they were looked for."""
    before = list(sys.path)
    inside = folder + os.sep  # of hundreds of paths, as text: a ``Path`` of each would take 50 ms
    try:
        yield
    finally:
        sys.path[:] = before
        for place in [place for place in sys.path_importer_cache if (place + os.sep).startswith(inside)]:
            del sys.path_importer_cache[place]
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(inside):
                del sys.modules[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that a load and its metrics log: nobody has asked for this model."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
