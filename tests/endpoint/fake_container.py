"""A container that speaks the contract without serving anything: a real process with a real socket, up in 0.2 s.

It is told how to behave by the model's ``Environment``:

    FAKE_CAPACITY        models that fit; a further load is answered 507
    FAKE_START_S         seconds until it listens
    FAKE_EXIT            ends at once with this status
    FAKE_EXIT_IF         ends at once with status 1 if there is a file of this name
    FAKE_SAYS            prints this before it listens
    FAKE_STUBBORN        takes no notice of SIGTERM
    FAKE_PING_STATUS     what /ping answers      FAKE_MODELS_STATUS   what GET /models answers
    FAKE_LINGERS_S       after SIGUSR1: connections break and are refused, and after so many seconds the process ends

and by ``behaviour.json`` in a model: load_s, load_status, load_message, invoke_s, says (prints it), invoke_status,
invoke_body, invoke_type (the body's content type), invoke_bytes (answers so many), forgets (its own invocation unloads
it, once), dies (the process ends when it is invoked), tolerates (so many other models may be loaded; with more an
invocation is answered 507). It writes what it was asked to ``<base>/journal.jsonl``, with the number of loads that were
going on at that moment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BASE = Path(os.environ["SAGEMAKER_BASE_DIR"])
CAPACITY = int(os.environ.get("FAKE_CAPACITY", "1000000"))
ENVIRONMENT = dict(os.environ)

front_end_ended = threading.Event()
loaded: dict[str, dict[str, Any]] = {}
loading: set[str] = set()
forgotten: set[str] = set()
lock = threading.Lock()


def note(**entry: Any) -> None:
    with lock, (BASE / "journal.jsonl").open("a") as journal:
        journal.write(json.dumps({"time": time.monotonic(), **entry}) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def log_message(self, *_: Any) -> None:
        pass

    def parse_request(self) -> bool:
        is_request = super().parse_request()
        self.close_connection = self.close_connection or front_end_ended.is_set()
        return is_request and not front_end_ended.is_set()

    def answer(self, status: int, body: bytes | dict[str, Any], headers: dict[str, str] | None = None) -> None:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/ping":
            self.answer(int(ENVIRONMENT.get("FAKE_PING_STATUS", "200")), {})
        elif self.path == "/models":
            models = [{"modelName": name, "modelUrl": its["url"]} for name, its in loaded.items()]
            self.answer(int(ENVIRONMENT.get("FAKE_MODELS_STATUS", "200")), {"models": models})
        elif self.path.removeprefix("/models/") in loaded:
            self.answer(200, {"modelName": self.path.removeprefix("/models/")})
        else:
            self.answer(404, {})

    def do_DELETE(self) -> None:
        name = self.path.removeprefix("/models/")
        note(call="unload", name=name, target=self.headers.get("X-Amzn-SageMaker-Target-Model"))
        with lock:
            was_loaded = loaded.pop(name, None) is not None
        self.answer(200 if was_loaded else 404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/models":
            self.load(json.loads(body))
        else:
            self.invoke(self.path.removeprefix("/models/").removesuffix("/invoke"), body)

    def load(self, request: dict[str, str]) -> None:
        name, url = request["model_name"], Path(request["url"])
        behaviour_file = url / "behaviour.json"
        its = json.loads(behaviour_file.read_text()) if behaviour_file.exists() else {}
        with lock:
            loading.add(name)
            going_on = len(loading)
        target = self.headers.get("X-Amzn-SageMaker-Target-Model")
        note(call="load", name=name, target=target, url=str(url), loads_going_on=going_on)
        if name not in loaded:
            time.sleep(its.get("load_s", 0))
        with lock:
            loading.discard(name)
            if name in loaded:
                status = 409
            elif len(loaded) >= CAPACITY:
                status = 507
            else:
                status = its.get("load_status", 200)
            if status == 200:
                loaded[name] = {**its, "url": str(url)}
        if status == 200:
            self.answer(status, {"status": "Workers scaled"})
        else:
            kind = "BadRequestException" if status < 500 else "InternalServerException"
            self.answer(status, {"code": status, "type": kind, "message": its.get("load_message", "no")})

    def invoke(self, name: str, body: bytes) -> None:
        its: dict[str, Any] | None = only_model() if self.path == "/invocations" else loaded.get(name)
        note(call="invoke", name=name)
        if its is None:
            self.answer(404, {"code": 404, "type": "ModelNotFoundException"})
            return
        if its.get("dies"):
            os._exit(1)
        if its.get("forgets") and name not in forgotten:
            forgotten.add(name)
            with lock:
                del loaded[name]
            self.answer(404, {"code": 404, "type": "ModelNotFoundException"})
            return
        if len(loaded) - 1 > its.get("tolerates", CAPACITY):
            self.answer(507, {"code": 507, "type": "InternalServerException", "message": "Out of resources"})
            return
        time.sleep(its.get("invoke_s", 0))
        if "says" in its:
            print(its["says"], flush=True)
        kind = {"Content-Type": its["invoke_type"]} if "invoke_type" in its else None
        if "invoke_bytes" in its:
            self.answer(200, b"x" * its["invoke_bytes"], kind)
            return
        if "invoke_body" in its:
            self.answer(its.get("invoke_status", 200), its["invoke_body"].encode("latin-1"), kind)
            return
        if self.headers.get("Content-Type") == "application/x-echo":
            self.answer(200, body, {"Content-Type": "application/x-echo"})
            return
        text = Path(its["url"], "text")
        told = {
            "path": self.path,
            "body": body.decode("latin-1")[:1000],
            "pid": os.getpid(),
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "text": text.read_text() if text.exists() else None,
            "environment": ENVIRONMENT,
        }
        self.answer(its.get("invoke_status", 200), told, {"X-Amzn-SageMaker-Custom-Attributes": "from=fake-container"})


def only_model() -> dict[str, Any]:
    """Of a container of a single model, which may have none."""
    file = BASE / "model" / "behaviour.json"
    return {**(json.loads(file.read_text()) if file.exists() else {}), "url": str(BASE / "model")}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def linger(server: Server) -> None:
    """As a container whose front end was killed: its first process ends later, when all others have."""
    front_end_ended.set()
    server.shutdown()
    server.server_close()
    print("the fake front end has ended", flush=True)
    time.sleep(float(ENVIRONMENT["FAKE_LINGERS_S"]))
    os._exit(1)


if __name__ == "__main__":
    if "FAKE_STUBBORN" in ENVIRONMENT:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if Path(ENVIRONMENT.get("FAKE_EXIT_IF", "/nonexistent")).exists():
        print("the fake container found the file that ends it")
        sys.exit(1)
    if "FAKE_SAYS" in ENVIRONMENT:
        print(ENVIRONMENT["FAKE_SAYS"], flush=True)
    time.sleep(float(ENVIRONMENT.get("FAKE_START_S", "0")))
    if "FAKE_EXIT" in ENVIRONMENT:
        print("the fake container was told to end")
        sys.exit(int(ENVIRONMENT["FAKE_EXIT"]))
    server = Server(("127.0.0.1", int(ENVIRONMENT["SAGEMAKER_BIND_TO_PORT"])), Handler)
    if "FAKE_LINGERS_S" in ENVIRONMENT:
        signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=linger, args=(server,)).start())
    server.serve_forever()
    threading.Event().wait()  # it lingers
