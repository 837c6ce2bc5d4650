"""Before the server says that it is ready, it has loaded a sample model, asked it and unloaded it, as a client does.

The front end is slow at what it does for the first time: the JVM reads classes, links them, and interprets what it
compiles later. Measured on two cores: 110 to 140 ms of processor time for the first load after a start, 30 for each
later one. The first caller does not have to pay that. And a server that says that it is ready has loaded a model.

The model is the sample of a preloaded framework, which its template leaves in the server's private folder. There is
none, and so no dry run, where nothing is preloaded, where models are served by a handler of the user's own, who
has not asked for a model more, where workers are spawned, and in single-model mode.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mme.errors import MmeError
from mme.settings import Settings
from mme.zygote.load_policy import DRY_RUN

logger = logging.getLogger("mme.supervisor.dry_run")

MODEL_NAME = "mme-dry-run"
_TIMEOUT_S = 10.0


class DryRunError(MmeError):
    """A call was not answered 200."""


def prepare(settings: Settings, runtime_dir: Path) -> None:
    """Makes the folder that templates leave their sample in, if there is going to be a dry run."""
    if settings.multi_model and settings.workers == "fork" and not settings.handler:
        (runtime_dir / DRY_RUN).mkdir()


def run(settings: Settings, runtime_dir: Path) -> None:
    """Plays it, if a template has left a sample. What fails is logged, and keeps no server from serving."""
    folder = runtime_dir / DRY_RUN
    if not folder.is_dir():
        return  # there is to be none
    try:
        sample = next(iter(sorted(path for path in folder.iterdir() if path.is_dir())), None)
        if sample is not None:
            started_s = time.monotonic()
            _play(settings, sample, sample.with_suffix(".json").read_bytes())
            logger.debug("ran a model of %s in %.2f s", sample.name, time.monotonic() - started_s)
    except (OSError, DryRunError) as error:
        logger.warning("the dry run with a sample model failed; the server starts all the same: %s", error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _play(settings: Settings, model_dir: Path, body: bytes) -> None:
    load = json.dumps({"model_name": MODEL_NAME, "url": str(model_dir)}).encode()
    _call(_models_address(settings), "POST", "/models", load)
    try:
        _call(_own_address(settings), "POST", f"/models/{quote(MODEL_NAME)}/invoke", body)
    finally:
        _call(_models_address(settings), "DELETE", f"/models/{quote(MODEL_NAME)}")


def _call(address: tuple[str, int] | str, method: str, path: str, body: bytes = b"") -> None:
    """(http.client would bring two megabytes of modules into the supervisor, for these three calls.)"""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with closing(socket.socket(family)) as connection:
        connection.settimeout(_TIMEOUT_S)
        connection.connect(address)
        connection.sendall(head.encode() + body)
        with connection.makefile("rb") as answer:
            status = answer.readline().split(b" ")[1:2]
            length = 0
            while name_and_value := answer.readline().strip():
                name, _, value = name_and_value.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            text = answer.read(length).decode(errors="replace")
    if status != [b"200"]:
        raise DryRunError(f"{method} {path}: {text[:1000]}")


def _own_address(settings: Settings) -> tuple[str, int]:
    return settings.local_host, settings.port


def _models_address(settings: Settings) -> tuple[str, int] | str:
    if settings.management_socket is not None:
        return str(settings.management_socket)
    if settings.management_port is not None:
        return "127.0.0.1", settings.management_port
    return _own_address(settings)
