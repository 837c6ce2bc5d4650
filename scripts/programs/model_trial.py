"""The inside of a model's check, run by ``model_check.py``: loads one model, asks it once, ends.

    python -m scripts.programs.model_trial WANTED RESULT_FD

WANTED is JSON (see ``try_model``). Writes lines to RESULT_FD: what it is at, and at last the result as JSON.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mme.errors import Refusal
from mme.frameworks import registry, serving
from mme.frameworks.table import METHOD
from mme.packages.sets import PackageSet
from mme.settings import DEFAULT_HANDLER, Settings
from mme.zygote.load_policy import LoadPolicy

_MANIFEST = Path("MAR-INF", "MANIFEST.json")
_SHOWN_CHARACTERS = 100
_JSON = "application/json"


def main() -> int:
    """Returns 0 once the result is written, good or bad."""
    wanted, result = json.loads(sys.argv[1]), int(sys.argv[2])
    logging.basicConfig(level=logging.INFO)
    folder = Path(wanted["folder"])
    limit_s = wanted["limit_s"]

    def say(line: str) -> None:
        os.write(result, f"{line}\n".encode())

    try:
        if wanted["packages"]:
            packages = Path(wanted["packages"])
            PackageSet(packages.parent, packages.name).enter()
        handler = _handler_of(folder)
        service = _load(folder, handler, limit_s, say)
    except BaseException as error:  # a model's own code may raise anything
        logging.exception("the model does not load")
        say(json.dumps({"failure": f"the model does not load: {Refusal.of(error, folder).message}"}))
        return 0
    own = getattr(service.context, "_model_service", None)  # what model_handler has made of it
    framework = ", ".join(registry.frameworks_of(folder, Settings.from_environment())) or f"handler {handler}"
    reads = getattr(own, "content_types", None) or "whatever its program reads"
    found: dict[str, Any] = {"answer": None, "framework": framework, "content_types": reads}
    request = _request_of(wanted["sample"], own)
    if request is not None:
        say("answer")
        signal.alarm(limit_s)
        status, text = _ask(service, *request)
        signal.alarm(0)
        found["answer"] = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + " …"
        if status != 200:
            what = "its sample" if wanted["sample"] else "a sample of zeros"
            found = {"failure": f"the model loads, but answers {what} with {status}: {text}"}
    say(json.dumps(found))
    return 0


def _handler_of(folder: Path) -> str:
    """As the front end has it: the manifest's, the setting's, ours."""
    try:
        named = json.loads((folder / _MANIFEST).read_text())["model"]["handler"]
    except (OSError, ValueError, KeyError, TypeError):
        named = None
    return named or Settings.from_environment().handler or DEFAULT_HANDLER


def _load(folder: Path, handler: str, limit_s: int, say: Any) -> Any:
    """MMS's service of the model, made as a worker makes it. Raises what the model raises."""
    from mms.model_loader import ModelLoaderFactory

    settings = Settings.from_environment()
    policy = LoadPolicy(
        store=Path(os.devnull),
        roots=(folder.resolve(),),
        itself_allowed=True,
        trusted_folders=(),
        refuses_code=settings.refuses_model_code,
    )
    own = str(folder / handler.split(":")[0].rpartition("/")[0])
    wanted = os.pathsep.join([settings.python_path, own])
    trusted = [entry for entry in settings.python_path.split(os.pathsep) if entry]
    models = [each for each in policy.python_path(wanted, str(folder)).split(os.pathsep) if each not in trusted]
    sys.path[:] = [*trusted, *(each for each in models if each), *(each for each in sys.path if each not in trusted)]
    policy.check("model", str(folder), handler, sys.path)
    serving.check(folder, handler, settings)
    for each in registry.frameworks_of(folder, settings):
        if registry.is_installed(each):  # in the container a worker is forked from a process that has it
            registry.adapter(each).configure_process(settings)
            registry.adapter(each).import_framework(settings)
    say("load")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limit_s)
    try:
        return ModelLoaderFactory.get_model_loader(str(folder)).load("model", str(folder), handler, None, 1)
    finally:
        signal.alarm(0)


def _request_of(sample: list[str] | None, own: Any) -> tuple[bytes, str] | None:
    """Body and content type: the given ones, else zeros for the model's inputs; None where these are not known."""
    if sample:
        return Path(sample[0]).read_bytes(), sample[1]
    model = getattr(own, "model", None)
    if model is None or not hasattr(model, "inputs"):
        return None
    arrays = {name: array for name, array in model.sample().items() if name != METHOD}
    first = next(iter(arrays.values()))
    if model.table is not None and model.table.by_name:
        record = {name: array.tolist()[0] for name, array in arrays.items()}
        return json.dumps([record]).encode(), _JSON
    if len(arrays) > 1:
        return json.dumps({name: array.tolist() for name, array in arrays.items()}).encode(), _JSON
    if first.dtype == object:
        return json.dumps(first.tolist()).encode(), _JSON
    buffer = io.BytesIO()
    np.save(buffer, first)
    return buffer.getvalue(), "application/x-npy"


def _ask(service: Any, body: bytes, content_type: str) -> tuple[int, str]:
    """Status and text of the answer to one request, handed over as MMS's worker does."""
    from mms.metrics.metrics_store import MetricsStore
    from mms.service import Service

    parameter = {"name": "body", "contentType": content_type.split(";")[0], "value": bytearray(body)}
    headers = [{"name": b"Content-Type", "value": content_type.encode()}]
    batch = [{"requestId": b"check", "headers": headers, "parameters": [parameter]}]
    processors, inputs, ids = Service.retrieve_data_for_inference(batch)
    context = service.context
    context.request_ids, context.request_processor = ids, processors
    context.metrics = MetricsStore(ids, context.model_name)
    try:
        answers = service._entry_point(inputs, context)
    except (Exception, SystemExit) as error:
        logging.exception("the model does not answer")
        return getattr(error, "error_code", 503), f"{type(error).__name__}: {error}"
    if not isinstance(answers, list) or len(answers) != 1:
        return 503, f"its handler returned {type(answers).__name__}, not a list of one answer"
    text = answers[0]
    if isinstance(text, bytes | bytearray):
        text = bytes(text).decode(errors="replace")
    status, _ = context.get_response_status(0)
    return status or 200, " ".join(str(text).split())


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whatever threads the model has
