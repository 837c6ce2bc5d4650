"""Session: one connection from MMS, serving one model. How its process came to be is no matter of this module.

Lifetime    connect, load once, predict, until MMS closes (``Session.run``). In between it may sleep (``idle.py``): its
            process ends, and the next one wakes it, that is, it loads the model again without an answer.
Ended by    the zygote, if MMS hangs up during a load or a request (``hang_up.py``), and on unload.
Shared      its ``SessionRecord``: the state, what the model took, counters, and why the load was refused.
Behaves     like ``mms.model_service_worker`` (1.1.11), whose loader and context it uses, so that handlers written for
            MMS find what they expect.

A load that fails has one way: its error becomes a ``Refusal`` in the record, and ``LoadFailed`` ends the session. The
zygote answers in its place (``ModelSlot.on_load_refused``), as the launcher has to end before the answer. A wake-up
that fails ends the session in the same way, and the zygote answers the request that waits for it; but for lack of
memory, where the session answers that request itself, and goes on to sleep.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mms.model_loader import ModelLoaderFactory
from mms.service import Service

import mme
from mme.capacity.admission import Admission, Holders, Reservation
from mme.capacity.footprint import Artifact, survey
from mme.capacity.memory import MIB, MemorySample
from mme.capacity.overcommit import Neighbours
from mme.capacity.process_memory import anonymous_bytes
from mme.errors import InsufficientMemory, MmeError, ModelChanged, Refusal
from mme.frameworks import registry, serving
from mme.frameworks.serving import ServingProperties
from mme.handler import wake_up
from mme.settings import DEFAULT_HANDLER, Settings
from mme.zygote import heap, protocol
from mme.zygote.hang_up import OrphanLimit, end_of
from mme.zygote.idle import FallsAsleep, Idle
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.loaded_files import LoadedFiles
from mme.zygote.prediction import Prediction, emit_metrics, out_of_memory, predict
from mme.zygote.session_records import SessionRecord, WorkerState
from mme.zygote.time_limits import TimeLimits

logger = logging.getLogger("mme.worker")

_FILES_POLL_MS = 1
_FILES_POLLS = 1000
# How long the code of a model that falls asleep may take to give up what it holds.
_UNLOAD_S = 5.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_OWN_HANDLER = str(Path(mme.__file__).parent.with_name(f"{DEFAULT_HANDLER}.py"))


class LoadFailed(Exception):
    """The model did not load, or did not wake; the session's record says why."""


class Session:
    """``run`` serves the connection until the front end closes it."""

    def __init__(
        self,
        connection: socket.socket,
        record: SessionRecord,
        *,
        temporary_dir: str,
        decode_bodies: bool,
        orphan_limit: OrphanLimit,
        time_limits: TimeLimits,
        admission: Admission,
        load_policy: LoadPolicy,
        holders: Holders = (),
        replaces: bool = False,
        joins: bool = False,
        neighbours: Neighbours | None = None,
        sleep_after_s: int | None = None,
        on_loaded: Callable[[], None] | None = None,
        writes_metrics: bool = True,
    ) -> None:
        """``temporary_dir`` is where the front end makes log files. ``on_loaded`` is called after the load's answer.

        ``orphan_limit`` and ``time_limits`` say how long a request may take at most, ``admission`` whether there is
        memory for the model, ``load_policy`` whether it may load. ``holders``, ``replaces``, ``neighbours``: see
        ``Admission.loading``. ``joins``: another worker has the model, and requests wait for a further one.
        ``sleep_after_s``: how long it stays awake without a request; None: until it is asked.
        ``writes_metrics``: after each request what the handler has counted, for the front end's log.
        """
        self._connection = connection
        self._record = record
        self._temporary_dir = temporary_dir
        self._orphan_limit = orphan_limit
        self._time_limits = time_limits
        self._on_loaded = on_loaded
        self._reader = protocol.RequestReader(connection, decode_bodies=decode_bodies)
        self._model = LoadedModel(
            admission, load_policy, holders, time_limits, replaces=replaces, joins=joins, neighbours=neighbours
        )
        self._idle_trim = heap.IdleTrim(lambda: admission.request_limit.is_memory_short)
        self._idle = Idle(connection, record, self._idle_trim, template=os.getppid(), sleep_after_s=sleep_after_s)
        self._may_be_asked_to_sleep = neighbours is not None
        self._end = end_of(connection)
        self._writes_metrics = writes_metrics

    def run(self, load_again: protocol.Load | None = None) -> None:
        """Returns when MMS has closed the connection, or when the session sleeps; ``load_again``: it has slept before.

        Raises ``LoadFailed``, and ``ProtocolError``.
        """
        try:
            if load_again is not None:
                self._wake_up(load_again)
            while True:
                message = self._next_message()
                match message:
                    case protocol.Load():
                        self._load(message)
                    case protocol.Predict():
                        self._predict(message)
        except protocol.Disconnected:
            self._record.state = WorkerState.STARTED  # nothing that happens from here on is the model's fault
            logger.info("Frontend disconnected.")
        except FallsAsleep:
            self._record.sleeps += 1
            protocol.send_at_once(self._connection, protocol.asleep())
            logger.debug("Model %s sleeps.", self._model.name)
            # Nobody is to wait for its code: the next process has to be forked.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, _UNLOAD_S)
        finally:
            self._model.unload()

    def _next_message(self) -> protocol.Message:
        """Waits for it, or falls asleep meanwhile. Answers requests whose body there is no memory for."""
        while True:
            if not self._reader.holds_bytes():
                self._idle.wait()
            try:
                return self._reader.read()
            except MemoryError:
                logger.error("There is no memory for the body of a request (507).", exc_info=True)
                protocol.send(self._connection, out_of_memory().response)

    def _begin(self, state: WorkerState) -> None:
        """From here on the zygote ends this process if the front end hangs up. Raises ``Disconnected`` if it has.

        The state is written first: the zygote looks at it when the end comes later (``hang_up.py``). It stays as it is
        where the process dies before the work is done.
        """
        self._record.state = state
        if self._end.poll(0):
            raise protocol.Disconnected

    def _load(self, message: protocol.Load) -> None:
        try:
            self._begin(WorkerState.LOADING)
            heap.keep_freed_memory()
            with self._orphan_limit:
                self._model.load(message)
                self._remember_for_wake_up(message)
            self._record.used_ns = time.monotonic_ns()
            self._record.state = WorkerState.READY
        except protocol.Disconnected:
            raise
        except BaseException as error:  # a handler may raise SystemExit
            self._record.refusal = refusal = Refusal.of(error, message.folder)
            said = f"Model {message.model} did not load ({refusal.status}): {refusal.message}"
            logger.error("%s", said, exc_info=not isinstance(error, MmeError))
            raise LoadFailed(refusal.message) from error
        self._settle_down()
        protocol.send(self._connection, protocol.load_response(200, self._model.loaded_message()))
        LogFiles(self._temporary_dir, message.log_files).remove(self._connection)
        if self._writes_metrics:
            self._model.emit_metrics()
        if self._on_loaded:
            self._on_loaded()

    def _remember_for_wake_up(self, message: protocol.Load) -> None:
        record, model = self._record, self._model
        record.batch_size = message.batch_size
        record.gpu = -1 if message.gpu is None else message.gpu
        record.never_sleeps = model.never_sleeps
        record.taken_mib = model.taken_mib
        record.loaded_pages = max(0, anonymous_bytes() - model.unused_bytes) // _PAGE_BYTES
        if model.files is not None:
            model.files.write(record)

    def _settle_down(self) -> None:
        """The model is loaded."""
        self._idle_trim.loaded()
        if self._may_be_asked_to_sleep:
            self._idle.expect_signal()

    def _wake_up(self, message: protocol.Load) -> None:
        """Loads the model once more; the request that waits for it is read next. Raises ``LoadFailed``."""
        refusal = self._load_again(message)
        if refusal is None:
            self._settle_down()
            self._record.count_wake_up()
            protocol.send_at_once(self._connection, protocol.awake())
            return
        if refusal.status != InsufficientMemory.status:
            self._record.refusal = refusal
            raise LoadFailed(refusal.message)
        self._refuse_request(refusal)
        self._record.state = WorkerState.ASLEEP
        raise FallsAsleep

    def _load_again(self, message: protocol.Load) -> Refusal | None:
        """Returns why that cannot be done."""
        try:
            if self._end.poll(0):
                raise protocol.Disconnected
            heap.keep_freed_memory()
            with self._orphan_limit:
                self._model.load(message, LoadedFiles.in_record(self._record))
        except protocol.Disconnected:
            raise
        except BaseException as error:
            self._record.is_lost = isinstance(error, ModelChanged)
            refusal = Refusal.of(error, message.folder)
            said = f"Model {message.model} did not wake ({refusal.status}): {refusal.message}"
            logger.error("%s", said, exc_info=not isinstance(error, MmeError))
            return refusal
        return None

    def _refuse_request(self, refusal: Refusal) -> None:
        """Reads the one that waits, and answers it."""
        try:
            self._reader.read()
        except MemoryError:
            pass  # for its body
        protocol.send(self._connection, protocol.predict_response(None, {}, refusal.message, refusal.status))
        self._record.count(refusal.status, 0)

    def _predict(self, message: protocol.Predict) -> None:
        started_ns = time.monotonic_ns()
        self._begin(WorkerState.PREDICTING)
        with self._orphan_limit, self._time_limits.of_batch:
            prediction = self._model.predict(message.batch)
        self._record.state = WorkerState.ANSWERING
        busy_ns = time.monotonic_ns() - started_ns
        protocol.send(self._connection, prediction.response)
        self._record.used_ns = time.monotonic_ns()
        self._record.state = WorkerState.READY
        # The client has its answer; what follows is off its way.
        self._idle_trim.used()
        self._model.renew_limit()  # so that the next request of a busy model does not have to
        self._record.count(prediction.status, busy_ns)
        if self._writes_metrics:
            self._model.emit_metrics(prediction.handler_s)


class LoadedModel:
    """The model of a session: none until it is loaded."""

    def __init__(
        self,
        admission: Admission | None = None,
        load_policy: LoadPolicy | None = None,
        holders: Holders = (),
        time_limits: TimeLimits | None = None,
        *,
        replaces: bool = False,
        joins: bool = False,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._time_limits = time_limits
        self._neighbours = neighbours
        self._admission = admission
        self._load_policy = load_policy
        self._holders = holders
        self._replaces = replaces
        self._joins = joins
        self._is_bounded = True
        self._loader: Any = None
        self._service: Service | None = None
        self.name = ""
        self.taken_mib = 0
        self.unused_bytes = 0  # of the heap, which the load has freed, and the first request uses
        self.files: LoadedFiles | None = None  # that the model was loaded from
        self.never_sleeps = False

    def load(self, message: protocol.Load, files: LoadedFiles | None = None) -> None:
        """Loads what ``message`` names, from no other ``files``: then it is a wake-up.

        Raises ``ModelRefused``, ``ModelChanged``, ``InsufficientMemory`` and what the handler raises.
        """
        self.name, folder = message.model, message.folder
        if self._load_policy:
            folder = str(self._load_policy.check(self.name, folder, message.handler, sys.path))
        model_dir = Path(folder)
        artifact = survey(model_dir)
        if files is not None:
            files.check(self.name, model_dir, artifact)
        self.files = files or LoadedFiles.of(artifact)
        wake_up.request_waits = files is not None or self._joins
        self._loader = ModelLoaderFactory.get_model_loader(folder)
        self._is_bounded = message.gpu is None  # see rlimit.py
        with self._admitted(model_dir, artifact) as reservation:
            free_bytes = heap.free_bytes()
            properties = self._properties(model_dir, message.handler)
            self.never_sleeps = properties.never_sleep
            with self._in_time(properties):
                self._service = self._loader.load(self.name, folder, message.handler, message.gpu, message.batch_size)
            if files is None and not self._runs_code(model_dir):
                self.files = LoadedFiles.of_data(artifact)
            if not wake_up.request_waits:  # (a request uses it, and a pause comes after that)
                self._account_for_free_heap(reservation, free_bytes)
        if reservation:
            self.taken_mib = reservation.taken_bytes // MIB
        # now, so that the first request does not have to
        self.renew_limit(reservation.settled_sample if reservation else None)
        # A wake-up is no news, and each line takes the front end's time, too.
        logger.log(logging.DEBUG if wake_up.request_waits else logging.INFO, "Model %s loaded.", self.name)

    @staticmethod
    def _properties(model_dir: Path, handler: str) -> ServingProperties:
        if wake_up.request_waits:  # all has been said
            return ServingProperties.of(model_dir)
        return serving.check(model_dir, handler, Settings.from_environment())

    def _account_for_free_heap(self, reservation: Reservation | None, before_bytes: int | None) -> None:
        """What loading has freed is not the model's: a pause gives it back, or where memory is scarce this does."""
        after_bytes = heap.free_bytes()
        if reservation is None or not reservation.leaves_room or before_bytes is None or after_bytes is None:
            heap.trim()
        else:
            reservation.unused_bytes = self.unused_bytes = max(0, after_bytes - before_bytes)

    def loaded_message(self) -> str:
        """What MMS expects to read: it takes the process number from it."""
        return f"loaded model {self.name}. [PID]:{os.getpid()}"

    def predict(self, batch: list[dict[str, Any]]) -> Prediction:
        """The response to a batch; what a handler raises is answered in it."""
        if self._service is None:
            raise protocol.ProtocolError("a batch before a model was loaded")
        try:
            self.renew_limit()
        except InsufficientMemory as error:
            logger.error("A request is refused (507): %s", error)
            return out_of_memory()
        return predict(self._service, batch)

    def _admitted(self, folder: Path, artifact: Artifact) -> AbstractContextManager[Reservation | None]:
        if self._admission is None:
            return nullcontext()
        return self._admission.loading(
            self.name,
            folder,
            artifact=artifact,
            holders=self._holders,
            bounded=self._is_bounded,
            replaces=self._replaces,
            neighbours=self._neighbours,
            request_waits=wake_up.request_waits,
        )

    def _in_time(self, properties: ServingProperties) -> AbstractContextManager[None]:
        if self._time_limits is None:
            return nullcontext()
        self._time_limits.set_for(properties)
        return self._time_limits.of_load

    def renew_limit(self, sample: MemorySample | None = None) -> None:
        """See ``RequestLimit.renew``."""
        if self._admission and self._is_bounded:
            self._admission.request_limit.renew(sample)

    def emit_metrics(self, handler_s: float | None = None) -> None:
        """See ``prediction.emit_metrics``."""
        if self._service is not None and self._service.context is not None:
            emit_metrics(self._service, handler_s)

    def unload(self) -> None:
        """As MMS does at the end: the handler's module loses what it holds. The server's own holds nothing but code."""
        if self._has_servers_handler():
            return
        if self._service is not None and hasattr(self._loader, "unload"):
            try:
                self._loader.unload()
            except Exception:
                logger.exception("The handler's module could not be unloaded.")

    def _has_servers_handler(self) -> bool:
        return getattr(getattr(self._loader, "module", None), "__file__", None) == _OWN_HANDLER

    def _runs_code(self, model_dir: Path) -> bool:
        """Does the model bring a program, or is it served by a handler of the user's own?"""
        if not self._has_servers_handler():
            return True
        return registry.has_program(registry.frameworks_of(model_dir, Settings.from_environment()))


class LogFiles:
    """The two files that MMS opens, once a model is loaded, to read a worker's output from (MMS-21).

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
