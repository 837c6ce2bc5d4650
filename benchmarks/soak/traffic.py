"""The clients: each invokes models at random, popular ones more often, and checks every answer."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.connection import Answer, Connection
from benchmarks.servers import Server
from benchmarks.soak.catalogue import SoakModel
from benchmarks.soak.platform import GaveUp, Platform, timed
from benchmarks.soak.record import Record

# AWS advises clients of SageMaker to wait so long for an answer; the container has 60 s.
HANG_S = 70.0
# A load may take the time of a response and that of stopping what failed (MMS: 60 s and more).
LOAD_HANG_S = 200.0
BAD_SHARE = 0.1
MOST_IN_A_ROW = 6
MOST_TRIES = 20

RIGHT_ANSWER = "a request of a healthy model has its right answer; a kill costs two at most: 500 or 507, never 503"
MODELS_STAY = "a loaded model stays loaded, also where its worker is killed"
UNANSWERED = "wrong or missing answers"
CLEAR_REFUSAL = "a bad request gets the 4xx that is documented"

# body, Content-Type, Accept, status
BadRequest = tuple[bytes, str, str, int]
_BAD_FOR_ALL: tuple[BadRequest, ...] = (
    (b"", "application/json", "*/*", 400),
    (b"[[1, 2", "application/json", "*/*", 400),
    (b"[" * 10000, "application/json", "*/*", 400),
    (b"[[1e999, 2, 3, 4]]", "application/json", "*/*", 400),
    (b"\x93NUMPY\x01\x00garbage", "application/x-npy", "*/*", 400),
    (b"<a/>", "application/xml", "*/*", 415),
    (b"[[1, 2, 3, 4]]", "application/json", "image/png", 406),
    (b"\xff\xfe\x00", "text/csv", "*/*", 400),
)
_BAD_FOR_IMAGES: tuple[BadRequest, ...] = (
    (b"\xff\xd8\xff\xe0 no image", "image/jpeg", "*/*", 400),
    (b"[[1, 2, 3, 4]]", "application/json", "*/*", 400),
)


class Client(threading.Thread):
    """One of them; ends when ``stopping`` is set and its last request is answered."""

    def __init__(
        self,
        number: int,
        seed: int,
        server: Server,
        platform: Platform,
        models: Sequence[SoakModel],
        record: Record,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self._chance = random.Random(f"{seed}-client-{number}")
        self._platform = platform
        self._models = list(models)
        # popularity falls with the rank, as it does in reality; ranks are the same for all clients
        random.Random(seed).shuffle(self._models)
        self._popularity = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(self._models))))
        self._record = record
        self._stopping = stopping
        self.loading = Connection(server.port, timeout_s=LOAD_HANG_S)
        self.invoking = Connection(server.port, timeout_s=HANG_S)

    def run(self) -> None:
        """Until it is told to stop."""
        try:
            while not self._stopping.is_set():
                (model,) = self._chance.choices(self._models, cum_weights=self._popularity)
                try:
                    with self._platform.using(model.name, self.loading):
                        for _ in range(self._chance.randint(1, MOST_IN_A_ROW)):
                            self._ask(model)
                except GaveUp:
                    continue
        except Exception as error:
            self._record.violates("the soak itself works", f"{self.name}: {error!r}")
        finally:
            self.loading.close()
            self.invoking.close()

    def _ask(self, model: SoakModel) -> None:
        if self._chance.random() < BAD_SHARE:
            self._ask_badly(model)
            return
        question = model.question(self._chance)
        headers = {"Content-Type": question.content_type, "Accept": question.accept}
        given = self._invoke("invoke", model.name, question.body, headers)
        answer = given.answer
        if answer.status == 200 and question.is_answered_by(answer.body):
            self._record.count("right answers")
            if given.refusals:
                self._record.count("invocations that were refused at first and then answered")
        elif not given.is_excused:
            self._record.count(UNANSWERED)
            asked = f"{model.name} ({question.content_type} → {question.accept})"
            self._record.violates(RIGHT_ANSWER, f"{asked}: {given.in_words()}", model.name, given.sent_s)

    def _ask_badly(self, model: SoakModel) -> None:
        bad = _BAD_FOR_ALL if model.kind == "multiplier" else _BAD_FOR_ALL + _BAD_FOR_IMAGES
        body, content_type, accept, status = self._chance.choice(bad)
        headers = {"Content-Type": content_type, "Accept": accept}
        given = self._invoke("bad request", model.name, body, headers)
        if given.answer.status == status:
            self._record.count("bad requests refused as documented")
        elif not given.is_excused:
            asked = f"{model.name}: {content_type} {body[:20]!r}: not {status}"
            self._record.violates(CLEAR_REFUSAL, f"{asked}: {given.in_words()}", model.name, given.sent_s)

    def _invoke(self, call: str, name: str, body: bytes, headers: dict[str, str]) -> Given:
        """Asks as the platform does: on 507 room is made, and it is asked again.

        A model that the server has dropped is loaded again: its worker was killed, and found no memory any more. That
        is never excused, but the request can still be answered.
        """
        path = f"/models/{name}/invoke"
        for refusals in itertools.count():
            loads = self._platform.loads(name)
            sent_s = time.monotonic()
            answer = timed(self._record, call, name, lambda: self.invoking.request("POST", path, body, headers))
            is_excused = self._record.excuses(name, answer.status, sent_s, time.monotonic())
            given = Given(answer, sent_s, refusals, is_excused)
            if is_excused or refusals >= MOST_TRIES:
                break
            if answer.status == 507:
                self._record.count("invocations answered 507 for lack of memory")
                self._platform.make_room(self.loading)
            elif answer.status == 404 or (answer.status == 503 and b"The model was unloaded" in answer.body):
                self._record.violates(MODELS_STAY, f"{call} of {name}: {given.in_words()}", name, sent_s)
                self._platform.restore(name, loads, self.loading)
            else:
                break
        return given


@dataclass(frozen=True)
class Given:
    """The last answer to a request. ``is_excused``: the worker that had it was killed meanwhile."""

    answer: Answer
    sent_s: float
    refusals: int
    is_excused: bool

    def in_words(self) -> str:
        """For the record."""
        said = self.answer.body[:200].decode(errors="replace")
        return f"{self.answer.status} after {self.answer.elapsed_s:.1f} s and {self.refusals} refusals: {said}"
