"""What goes wrong on purpose: workers are killed, broken artifacts are loaded, unknown models are asked for."""

from __future__ import annotations

import random
import shutil
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.connection import Connection
from benchmarks.failure import BenchmarkError
from benchmarks.soak.limited_server import LimitedServer
from benchmarks.soak.platform import Platform, timed
from benchmarks.soak.record import Record
from benchmarks.soak.traffic import CLEAR_REFUSAL, LOAD_HANG_S

# What can be killed beside workers, by the name of its process; that costs no request at all.
KILLABLE = {"zygote": "zygote", "template": "template mxnet"}
ALSO_SHARE = 0.1
# A model survives as many kills in a row; one whose workers are all killed as they load is unloaded by the server's own
# rule (docs/mms-workarounds.md, MMS-7). On a busy machine a load takes long enough to meet a kill again and again.
MOST_KILLS_IN_A_ROW = 3
CLEAR_FAILURE = "a broken artifact fails to load, clearly and not with 507"


class _Periodic(threading.Thread):
    """Does something again and again, at random moments ``every_s`` apart on average."""

    def __init__(self, name: str, seed: int, every_s: float, record: Record, stopping: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.chance = random.Random(f"{seed}-{name}")
        self.record = record
        self._every_s = every_s
        self._stopping = stopping

    def run(self) -> None:
        """Until it is told to stop."""
        try:
            while not self._stopping.wait(self.chance.uniform(0.5, 1.5) * self._every_s):
                self.act()
        except Exception as error:
            self.record.violates("the soak itself works", f"{self.name}: {error!r}")

    def act(self) -> None:
        """Once."""
        raise NotImplementedError


class Killer(_Periodic):
    """Kills the worker of a loaded model, whatever that is doing; now and then one of ``also`` (in ``KILLABLE``)."""

    def __init__(
        self,
        seed: int,
        every_s: float,
        server: LimitedServer,
        platform: Platform,
        record: Record,
        stopping: threading.Event,
        also: Sequence[str] = (),
    ) -> None:
        super().__init__("killer", seed, every_s, record, stopping)
        self._server = server
        self._platform = platform
        self._also = also

    def act(self) -> None:
        if self._also and self.chance.random() < ALSO_SHARE:
            what = self.chance.choice(self._also)
            pid = self._server.kill(KILLABLE[what])
            if pid is not None:
                self.record.note_for_all(f"{what.upper()} KILLED (process {pid})")
                self.record.count(f"{what} killed")
            return
        loaded = [name for name in self._platform.loaded() if self.record.kills_in_a_row(name) < MOST_KILLS_IN_A_ROW]
        if not loaded:
            return
        model = self.chance.choice(loaded)
        kill = self.record.begin_kill(model)
        pid = None
        try:
            pid = self._server.kill(f"mme {model}")
        finally:
            self.record.end_kill(kill, pid)


class Breaker(_Periodic):
    """Loads broken artifacts, and asks for models that are not there."""

    def __init__(
        self,
        seed: int,
        every_s: float,
        server: LimitedServer,
        platform: Platform,
        record: Record,
        stopping: threading.Event,
    ) -> None:
        super().__init__("breaker", seed, every_s, record, stopping)
        self._server = server
        self._platform = platform
        self._connection = Connection(server.port, timeout_s=LOAD_HANG_S)

    def act(self) -> None:
        name, (_, status) = self.chance.choice(list(BROKEN.items()))
        answer = self._platform.load_alone(name, self._server.model_url(name), self._connection)
        if answer.status == status:
            self.record.count("broken artifacts refused as documented")
        else:
            said = f"{answer.status} instead of {status}: {answer.body[:200].decode(errors='replace')}"
            self.record.violates(CLEAR_FAILURE, f"{name}: {said}")
        if answer.status == 200:
            self._connection.unload(name)
        invoked = timed(
            self.record, "unknown model", name, lambda: self._connection.invoke(name, b"[1]", "application/json")
        )
        if invoked.status != 404:
            self.record.violates(CLEAR_REFUSAL, f"invocation of {name}, which is not loaded: {invoked.status}")

    def run(self) -> None:
        super().run()
        self._connection.close()


def _nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _missing(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def _truncated(folder: Path) -> None:
    (params,) = folder.glob("*.params")
    params.write_bytes(params.read_bytes()[:-50])


def _garbage_graph(folder: Path) -> None:
    (folder / "model-symbol.json").write_text('{"nodes": [')


def _unknown_operator(folder: Path) -> None:
    graph = folder / "model-symbol.json"
    graph.write_text(graph.read_text().replace("FullyConnected", "WarpDrive"))


def _huge_claim(folder: Path) -> None:
    (params,) = folder.glob("*.params")
    # a list of 2^40 arrays (NDArray::Load in ndarray.cc)
    params.write_bytes(struct.pack("<QQQ", 0x112, 0, 1 << 40) + b"\0" * 64)


# artifact: what makes it of a good one, and the status of its load
BROKEN: dict[str, tuple[Callable[[Path], None], int]] = {
    "broken-nothing": (_nothing, 500),
    "broken-missing": (_missing, 404),
    "broken-truncated": (_truncated, 500),
    "broken-graph": (_garbage_graph, 500),
    "broken-operator": (_unknown_operator, 500),
    "broken-claim": (_huge_claim, 500),
}


def install_broken(server: LimitedServer) -> None:
    """Puts every broken artifact where the server finds it."""
    (good,) = models.ensure([models.multiplier(1)]).values()
    for name, (break_it, _) in BROKEN.items():
        server.install(good, name, copy=True)
        break_it(server.models_dir / name / "model")
        if name != "broken-missing" and not (server.models_dir / name / "model").is_dir():
            raise BenchmarkError(f"{name} could not be made")
