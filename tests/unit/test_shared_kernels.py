"""Kernels that a template generates once for all workers of models alike: which models, when, and that it helps."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mme.errors import InsufficientMemory
from mme.frameworks import registry
from mme.frameworks.base import Adapter
from mme.settings import Settings
from mme.zygote.event_loop import EventLoop
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.model_slot import SessionHandle
from mme.zygote.session_records import WorkerState
from mme.zygote.shared_kernels import MOST_KINDS, SharedKernels
from tests.harness.programs import run_with_mxnet

ROOM_BYTES = 1 << 30

# Prints how many kernels oneDNN has had to make for the first pass of a model, and what that answers.
FIRST_PASS = """
import json, os, sys
from pathlib import Path
import numpy as np
from mme.frameworks.registry import adapter
from mme.settings import Settings

folder, generates = Path(sys.argv[1]), sys.argv[2] == "True"
mxnet, settings = adapter("mxnet"), Settings()
if generates:
    assert mxnet.generate_kernels(folder, settings, 1 << 30)
print("first pass", flush=True)
model = mxnet.load(folder, settings)
answer = model.predict({"data": np.linspace(0, 255, 3072, dtype=np.float32).reshape(1, 3, 32, 32)})
print("answer", json.dumps([rows.tolist() for rows in answer]))
"""

MXNET_FOLDER = """
import sys
from pathlib import Path
from mme.frameworks.mxnet import sample
from mme.frameworks.registry import adapter
from mme.settings import Settings
sample.write(adapter("mxnet").import_framework(Settings()), Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    run_with_mxnet(MXNET_FOLDER, folder)
    return folder


def first_pass(folder: Path, *, generates: bool) -> tuple[int, list[Any]]:
    said = run_with_mxnet(FIRST_PASS, folder, generates, MKLDNN_VERBOSE="2", DNNL_VERBOSE="2")
    lines = said.partition("first pass\n")[2].splitlines()
    answer = next(json.loads(line.removeprefix("answer ")) for line in lines if line.startswith("answer "))
    return sum("create:cache_miss" in line for line in lines), answer


def test_a_worker_makes_no_kernel_that_its_template_has_made_and_answers_the_same(network: Path) -> None:
    made, answer = first_pass(network, generates=False)
    made_after, answer_after = first_pass(network, generates=True)
    assert made > 3 and made_after == 0
    assert answer_after == answer


def test_a_network_is_not_run_in_a_template_where_it_may_take_much(network: Path, tmp_path: Path) -> None:
    program = """
import json, shutil, sys
from pathlib import Path
from mme.errors import InsufficientMemory
from mme.frameworks.mxnet import kernels
from mme.frameworks.registry import adapter
from mme.settings import Settings

network, other = map(Path, sys.argv[1:])
mx = adapter("mxnet").import_framework(Settings())

def generate(room_bytes=1 << 30, **changed):
    shutil.copytree(network, other, dirs_exist_ok=True)
    for name, (before, after) in changed.items():
        file = other / f"sample-{name}.json"
        text = file.read_text()
        assert before in text, before
        file.write_text(text.replace(before, after))
    return kernels.generate(mx, other, Settings(), room_bytes)

print(generate())
print(generate(shapes=("32, 32", "8192, 8192")))  # values
print(generate(symbol=('"num_hidden": "8"', '"num_hidden": "8000000"')))  # weights
print(generate(symbol=('"op": "Dropout"', '"op": "sort"')))
print(generate(shapes=("data\\"", "data\\", \\"dtype\\": \\"float16\\"")))
try:
    generate(room_bytes=1000)
except InsufficientMemory:
    print("no room")
"""
    said = run_with_mxnet(program, network, tmp_path / "other").split("\n")
    assert said == ["True", "False", "False", "False", "False", "no room", ""]


class FakeAdapter(Adapter):
    """Of models whose folder's name begins with their kind."""

    name = "fake"

    def __init__(self) -> None:
        self.generated: list[str] = []
        self.error: Exception | None = None

    def import_framework(self, settings: Settings) -> Any:
        raise NotImplementedError

    def load(self, model_dir: Path, settings: Settings, gpu_id: int | None = None) -> Any:
        raise NotImplementedError

    def kernels_of(self, model_dir: Path) -> Hashable | None:
        kind = model_dir.name.partition("-")[0]
        return None if kind == "none" else kind

    def generate_kernels(self, model_dir: Path, settings: Settings, room_bytes: int) -> bool:
        if self.error is not None:
            raise self.error
        self.generated.append(model_dir.name)
        return True


class FakeLoop:
    """Has the one timer that is set."""

    def __init__(self) -> None:
        self.timer: Callable[[], None] | None = None
        self.delay_s = 0.0

    def after(self, delay_s: float, key: Hashable, handler: Callable[[], None]) -> None:
        self.timer, self.delay_s = handler, delay_s

    def run(self, most: int = 100) -> None:
        for _ in range(most):
            timer, self.timer = self.timer, None
            if timer is None:
                return
            timer()


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> FakeAdapter:
    fake = FakeAdapter()
    monkeypatch.setattr(registry, "adapter", lambda _: fake)
    monkeypatch.setattr(registry, "description", lambda _: SimpleNamespace(module="json"))
    return fake


class World:
    """Shared kernels, and models below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loop = FakeLoop()
        policy = LoadPolicy(root / "store", (root.resolve(),), False, ())
        self.kernels = SharedKernels(cast(EventLoop, self.loop), "fake", Settings(), policy, lambda: ROOM_BYTES)

    def load(self, name: str, state: WorkerState = WorkerState.READY) -> SimpleNamespace:
        """A session of the model, in this state."""
        arguments = {"--model-path": str(self.root / name)}
        model = SimpleNamespace(launch=SimpleNamespace(arguments=arguments), sessions=[])
        session = SimpleNamespace(model=model, has_loaded=state.has_loaded)
        model.sessions.append(session)
        self.kernels.on_load(cast(SessionHandle, session))
        return session


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_model_of_a_kind_counts_once_it_is_loaded(world: World, adapter: FakeAdapter) -> None:
    first = world.load("a-1", WorkerState.LOADING)
    world.load("a-2", WorkerState.LOADING).model.sessions.clear()  # it did not load
    world.loop.run(3)
    assert adapter.generated == [] and world.loop.timer is not None
    first.has_loaded = True
    for name in ("a-3", "b-1", "none-1", "b-2"):
        world.load(name)
    world.loop.run()
    assert sorted(each[0] for each in adapter.generated) == ["a", "b"]
    assert world.loop.timer is None, "nothing loads any more"


def test_a_model_elsewhere_is_not_looked_at(world: World, adapter: FakeAdapter) -> None:
    world.load("../a-1")
    world.loop.run()
    assert adapter.generated == []


def test_without_room_it_is_tried_again_later_and_after_an_error_never(world: World, adapter: FakeAdapter) -> None:
    adapter.error = InsufficientMemory("no room")
    world.load("a-1")
    world.loop.run(1)
    assert world.loop.delay_s >= 10
    adapter.error = None
    world.loop.run()
    assert adapter.generated == ["a-1"]
    adapter.error = RuntimeError("no such operator")
    world.load("b-1")
    world.loop.run()
    adapter.error = None
    world.load("b-2")
    world.loop.run()
    assert adapter.generated == ["a-1"]


def test_a_template_holds_the_kernels_of_a_few_kinds(world: World, adapter: FakeAdapter) -> None:
    for number in range(MOST_KINDS + 5):
        world.load(f"{number}-x")
    world.loop.run()
    assert len(adapter.generated) == MOST_KINDS
    world.load("late-x")
    assert world.loop.timer is None


def test_a_framework_that_is_no_part_of_the_template_is_left_alone(
    world: World, adapter: FakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "description", lambda _: SimpleNamespace(module="not_imported_here"))
    world.load("a-1")
    assert world.loop.timer is None
