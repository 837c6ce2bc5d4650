"""What a connection of MMS is served by: load a model once, then answer batches with it.

Behaves like ``mms.model_service_worker`` (1.1.11), whose loader, service, context and metrics it uses, so that
handlers written for MMS find what they expect. How the process came to be is no matter of this module.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import mms.service
from mms.context import Context, RequestProcessor
from mms.model_loader import ModelLoaderFactory
from mms.service import Service, emit_metrics

from mme.capacity.admission import Admission
from mme.capacity.memory import MIB
from mme.errors import InsufficientMemory, MmeError, ModelRefused
from mme.zygote import protocol
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.session_records import DrainQuota, SessionRecord, WorkerState

# What predict() of MMS's service returns is written by us: no copies of bodies.
mms.service.create_predict_response = protocol.readable_response

logger = logging.getLogger("mme.worker")

EXIT_NO_MEMORY = 12  # ENOMEM
EXIT_REFUSED = 22  # EINVAL
_FILES_POLL_MS = 1
_FILES_POLLS = 1000
# A worker without requests for so long gives free memory back to the system.
_IDLE_MS = 200


class Busy:
    """What is true while a request is worked on: this process is to die if the front end hangs up.

    A handler may be anywhere then, in a loop or deep in C++, so the kernel does it: SIGIO, which ends a process unless
    it is handled, when anything happens on the connection. Between a request and its response that can only be its
    end: the front end gave up waiting, unregistered the model, or died. ``record`` tells the zygote the same, which
    answers in our place if the kernel kills us for lack of memory.
    """

    def __init__(self, connection: socket.socket, record: SessionRecord) -> None:
        self._connection = connection
        self._record = record
        fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
        self._flags = fcntl.fcntl(connection, fcntl.F_GETFL)
        self._poll = select.poll()
        self._poll.register(connection, select.POLLRDHUP)

    @contextmanager
    def __call__(self, state: WorkerState) -> Iterator[None]:
        """Raises ``Disconnected`` if the front end has hung up already."""
        fcntl.fcntl(self._connection, fcntl.F_SETFL, self._flags | os.O_ASYNC)
        self._record.state = state
        try:
            if self.hung_up():
                raise protocol.Disconnected
            yield
        finally:
            fcntl.fcntl(self._connection, fcntl.F_SETFL, self._flags)

    def over(self) -> None:
        """To be called when the response is about to be sent."""
        self._record.state = WorkerState.READY

    def hung_up(self, wait_ms: int = 0) -> bool:
        """Whether the front end has closed the connection; waits up to ``wait_ms`` for it."""
        return bool(self._poll.poll(wait_ms))


def serve(
    connection: socket.socket,
    *,
    temporary_dir: str,
    decode_bodies: bool,
    record: SessionRecord,
    drain_quota: DrainQuota,
    admission: Admission,
    load_policy: LoadPolicy,
) -> int:
    """Serves ``connection`` until the front end closes it. Returns the exit code for the process.

    0; or 1 where the model did not load, of which MMS learns by the end of the connection; or ``EXIT_NO_MEMORY`` where
    it did not for lack of memory, ``EXIT_REFUSED`` where it must not: the zygote answers in our place then
    (``Zygote.refuse_load``). ``temporary_dir`` is where the front end makes log files; ``record`` is
    shared with the zygote; ``drain_quota`` says when to answer 503
    to everything, ``admission`` whether there is memory for the model, ``gate`` whether it may load.
    """
    reader = protocol.RequestReader(connection, decode_bodies=decode_bodies)
    busy = Busy(connection, record)
    model = LoadedModel(admission, load_policy)
    requests = select.poll()
    requests.register(connection, select.POLLIN | select.POLLRDHUP)
    try:
        while True:
            if not requests.poll(_IDLE_MS):
                give_back_free_memory()
            try:
                command, request = reader.read()
            except MemoryError:
                logger.error("There is no memory for the body of a request (507).", exc_info=True)
                protocol.send(connection, protocol.readable_response(None, {}, "Out of resources", 507))
                continue
            if command == protocol.LOAD:
                with busy(WorkerState.LOADING):
                    if not model.load(request):
                        return EXIT_NO_MEMORY
                record.taken_mib = model.taken_mib
                busy.over()
                protocol.send(connection, protocol.load_response(200, model.loaded_message()))
                LogFiles(temporary_dir, request["ioFileDescriptor"].decode()).remove(connection)
            elif drain_quota.is_exceeded_by(len(request)):
                protocol.send(connection, model.reject_while_draining(request))
                continue
            else:
                with busy(WorkerState.PREDICTING):
                    response = model.predict(request)
                busy.over()
                protocol.send(connection, response)
            model.emit_metrics()
    except protocol.Disconnected:
        logger.info("Frontend disconnected.")
        return 0
    except ModelRefused as error:
        logger.error("A load is refused (400): %s", error)
        return EXIT_REFUSED
    except MmeError as error:
        logger.error("The model did not load (%d): %s", error.status, error)
        return 1
    except Exception:
        logger.exception("Backend worker process died.")
        return 1
    finally:
        model.unload()


def give_back_free_memory() -> None:
    """Returns the free pages of the C heap to the system; without it, glibc keeps tens of MB for the next image."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        pass  # not glibc


class LoadedModel:
    """The model of a connection: none until it is loaded."""

    def __init__(self, admission: Admission | None = None, load_policy: LoadPolicy | None = None) -> None:
        self._admission = admission
        self._load_policy = load_policy
        self._name = ""
        self._loader: Any = None
        self._service: Service | None = None
        self.taken_mib = 0

    def load(self, request: dict[str, Any]) -> bool:
        """Loads what ``request`` names; False if there is no memory for it. Raises what else the handler raises."""
        self._name, folder = request["modelName"].decode(), request["modelPath"].decode()
        if self._load_policy:
            folder = str(self._load_policy.check(self._name, folder, request["handler"].decode(), sys.path))
        self._loader = ModelLoaderFactory.get_model_loader(folder)
        admitted = self._admission.loading(self._name, Path(folder)) if self._admission else nullcontext()
        try:
            with admitted as reservation:
                self._service = self._loader.load(
                    self._name, folder, request["handler"].decode(), request.get("gpu"), request["batchSize"]
                )
        except MemoryError:
            return False  # logged by the admission
        if reservation:
            self.taken_mib = reservation.taken_bytes // MIB
        if self._admission:
            self._admission.request_limit.renew()  # the first request does not have to be the first to do this
        logger.info("Model %s loaded.", self._name)
        return True

    def loaded_message(self) -> str:
        """What MMS expects to read: it takes the process number from it."""
        return f"loaded model {self._name}. [PID]:{os.getpid()}"

    def predict(self, request: list[dict[str, Any]]) -> list[protocol.Buffer]:
        """The response to a batch; MMS's service answers for what a handler raises."""
        if self._service is None:
            raise protocol.ProtocolError("a batch before a model was loaded")
        try:
            if self._admission:
                self._admission.request_limit.renew()
        except InsufficientMemory as error:
            logger.error("A request is refused (507): %s", error)
            return protocol.readable_response(None, {}, "Out of resources", 507)
        return self._service.predict(request)

    def reject_while_draining(self, request: list[dict[str, Any]]) -> list[protocol.Buffer]:
        """503 to each request of a batch, by itself: MMS fails on a batch that failed as a whole."""
        context = Context(self._name, None, None, len(request), None, None)
        context.request_processor = [RequestProcessor({}) for _ in request]
        request_ids = {index: item["requestId"].decode() for index, item in enumerate(request)}
        body = json.dumps({"code": 503, "type": "ServiceUnavailableException", "message": "The server is stopping."})
        for index in request_ids:
            context.set_response_status(503, "Service Unavailable", index)
            context.set_response_content_type(index, "application/json")
        return protocol.readable_response([body] * len(request), request_ids, "", 200, context)

    def emit_metrics(self) -> None:
        """Writes the handler's metrics as lines that MMS reads."""
        if self._service is not None and self._service.context is not None and self._service.context.metrics:
            emit_metrics(self._service.context.metrics.store)

    def unload(self) -> None:
        """As MMS does at the end: the handler's module loses what it holds."""
        if self._service is not None and hasattr(self._loader, "unload"):
            try:
                self._loader.unload()
            except Exception:
                logger.exception("The handler's module could not be unloaded.")


class LogFiles:
    """The two files that MMS opens, once a model is loaded, to read a worker's output from.

    MMS's own worker makes named pipes of them. MMS opens those for reading and writing and so never sees their end: two
    threads and two descriptors of the front end stay for ever behind each worker that dies (WorkerThread.runWorker
    forgets them when the next one has loaded). We leave it to MMS to make empty files, with which it is done at once,
    and go on to write where the launcher does, which MMS reads as long as the model lives.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._paths = [Path(folder, f"{name}-{stream}") for stream in ("stdout", "stderr")]

    def remove(self, connection: socket.socket) -> None:
        """Removes them when the front end has made both, which it does before it sends anything or hangs up."""
        poll = select.poll()
        poll.register(connection, select.POLLIN | select.POLLRDHUP)
        for _ in range(_FILES_POLLS):
            if all(path.exists() for path in self._paths) or poll.poll(_FILES_POLL_MS):
                break
        for path in self._paths:
            path.unlink(missing_ok=True)
