"""The zygote's root and its templates, with frameworks that are made for it; the test is the front end."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

import psutil
import pytest

from mme.settings import Settings
from mme.supervisor.own_programs import PACKAGE_DIR
from mme.supervisor.zygote_handle import ZygoteHandle
from mme.zygote import template_warmup
from tests.harness.scripted_handler import command, make_model
from tests.harness.waiting import wait_until
from tests.harness.wheels import write_wheel
from tests.harness.workers import is_gone
from tests.unit.test_zygote import EPOLL_WAIT, Connection, FrontEnd, worker_of

pytestmark = pytest.mark.slow  # each starts a zygote; with --quick test_zygote.py does

# What each framework does when its template is warmed.
FRAMEWORKS = {
    "good": "globals().update(loaded_by=os.getpid())",
    "script": "pass",
    "threaded": "import threading; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    "broken": "raise ImportError('libbroken.so.1: cannot open shared object file')",
    "crashing": "os.kill(os.getpid(), signal.SIGSEGV)",
    "slow": "pathlib.Path(os.environ['SLOW_BEGAN']).touch(); time.sleep(1000)",
}

ADAPTER = """
import os, pathlib, signal, time

class Adapter:
    sample_shape = {sample_shape}
    def warm_template(self, settings):
        {warm}
    def write_sample(self, folder, settings):
        {write}

ADAPTER = Adapter()
"""

DESCRIPTION = """
from mme.frameworks.description import Description
from mme.frameworks.growth import Growth

DESCRIPTION = Description("framework_{name}", ("*.{name}",), Growth((".{name}",), 1), packages=())
"""

# Runs in the zygote before anything else.
REGISTER = f"""
import sys
if sys.orig_argv[2:4] == ["-m", "mme.zygote.root"]:
    sys.path.insert(0, {str(PACKAGE_DIR)!r})
    from mme.frameworks import registry
    registry.ADAPTERS = {{name: f"framework_{{name}}.adapter" for name in {sorted(FRAMEWORKS)!r}}}
    list(registry.descriptions())  # workers do not find them any more
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Settings:
    """Of a zygote that knows the frameworks above, and preloads what the test asks for: none of them if nothing."""
    folder = tmp_path / "frameworks"
    for name, warm in FRAMEWORKS.items():
        package = folder / f"framework_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(DESCRIPTION.format(name=name))
        (package / "adapter.py").write_text(ADAPTER.format(warm=warm, sample_shape=None, write="pass"))
    (folder / "sitecustomize.py").write_text(REGISTER)
    (tmp_path / "tmp").mkdir()
    for variable, value in {
        "MME_PRELOAD": getattr(request, "param", "none"),
        "SAGEMAKER_MULTI_MODEL": "true",
        "MME_MODEL_ROOTS": str(tmp_path),
        "PYTHONPATH": str(folder),
        "TMPDIR": str(tmp_path / "tmp"),
        "SLOW_BEGAN": str(tmp_path / "slow_began"),
    }.items():
        monkeypatch.setenv(variable, value)
    return Settings(python_path=str(folder))


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def zygote(settings: Settings, runtime_dir: Path) -> Iterator[ZygoteHandle]:
    process = ZygoteHandle(settings, runtime_dir)
    process.start()
    process.wait_until_ready()
    yield process
    process.stop(time.monotonic() + 20)
    assert not process.is_alive()


@pytest.fixture
def front_end(zygote: ZygoteHandle, runtime_dir: Path) -> Iterator[FrontEnd]:
    running = FrontEnd(runtime_dir, zygote.environment_for(os.environ))
    yield running
    running.stop()


def make_model_of(tmp_path: Path, framework: str, name: str | None = None) -> Path:
    folder = tmp_path / (name or framework)
    folder.mkdir()
    (folder / f"model.{framework}").touch()
    return make_model(folder)


def load(front_end: FrontEnd, model_dir: Path, name: str) -> psutil.Process:
    """The worker of a model that is loaded, as MMS does it."""
    front_end.wait_until_started(front_end.launch(model_dir, name))
    connection = front_end.connect(name)
    front_end.held.append(connection)
    return worker_of(connection.load(model_dir, name))


def templates(zygote: ZygoteHandle) -> dict[str, psutil.Process]:
    """The templates, by the name that the kernel has."""
    found = {}
    for process in psutil.Process(zygote.pid).children():
        name = Path(f"/proc/{process.pid}/comm").read_text().strip()
        if name.startswith("template "):
            found[name.removeprefix("template ")] = process
    return found


def test_a_model_is_forked_from_the_template_of_its_framework(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path
) -> None:
    assert set(templates(zygote)) == {"plain"}  # where nothing else is preloaded
    of_framework = load(front_end, make_model_of(tmp_path, "good"), "a")
    unknown = load(front_end, make_model_of(tmp_path, "unknown"), "b")
    both = templates(zygote)
    assert set(both) == {"good", "plain"}
    assert of_framework.ppid() == both["good"].pid
    assert unknown.ppid() == both["plain"].pid


@pytest.mark.parametrize("settings", ["script,good"], indirect=True)
def test_a_model_of_no_framework_is_forked_from_the_template_of_scripts_where_that_stands_ready(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path
) -> None:
    worker = load(front_end, make_model_of(tmp_path, "unknown"), "m")
    assert set(templates(zygote)) == {"good", "script"}
    assert worker.ppid() == templates(zygote)["script"].pid


@pytest.mark.parametrize(  # the others are preloaded below
    "framework", ["broken", *(pytest.param(each, marks=pytest.mark.ci) for each in ("threaded", "crashing"))]
)
def test_a_framework_that_cannot_be_preloaded_is_left_out_and_its_models_load(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path, framework: str
) -> None:
    worker = load(front_end, make_model_of(tmp_path, framework), "m")
    assert set(templates(zygote)) == {"plain"}
    assert worker.ppid() == templates(zygote)["plain"].pid
    assert zygote.is_alive()


@pytest.mark.parametrize("settings", ["threaded", "broken", "crashing"], indirect=True)
def test_a_framework_whose_preloading_fails_is_left_out_and_the_zygote_gets_ready(
    settings: Settings,
    runtime_dir: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    framework = request.node.callspec.params["settings"]
    zygote = ZygoteHandle(settings, runtime_dir)
    zygote.start()
    try:
        zygote.wait_until_ready()  # before any model is there
        assert f"{framework} is left out of what workers are forked from" in "".join(capfd.readouterr())
        front_end = FrontEnd(runtime_dir, zygote.environment_for(os.environ))
        try:
            worker = load(front_end, make_model_of(tmp_path, framework), "m")
            assert worker.ppid() in {each.pid for each in templates(zygote).values()}
        finally:
            front_end.stop()
    finally:
        zygote.stop(time.monotonic() + 20)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.ci) for each in (signal.SIGTERM, signal.SIGSEGV))],
)
def test_a_template_that_dies_is_replaced_and_its_models_are_taken_on(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path, number: signal.Signals
) -> None:
    folders = [make_model_of(tmp_path, "good", f"good{at}") for at in range(3)]
    other = make_model_of(tmp_path, "unknown")
    launchers = [front_end.launch(folder, f"m{at}") for at, folder in enumerate(folders)]
    for launcher in launchers:
        front_end.wait_until_started(launcher)
    served = front_end.connect("m0")
    worker_of(served.load(folders[0], "m0"))
    front_end.wait_until_started(front_end.launch(other, "other"))
    before = templates(zygote)
    before["good"].send_signal(number)
    wait_until(lambda: is_gone(before["good"]), "the template has ended")
    assert served.invoke(command("echo", 1)) == (200, b"1")
    for at, folder in enumerate(folders):
        new = wait_until(lambda at=at: try_to_connect(front_end, f"m{at}"), "listened for again", timeout_s=90)  # type: ignore[misc]
        assert new is not None
        successor = worker_of(new.load(folder, f"new{at}"))
        assert successor.ppid() == templates(zygote)["good"].pid
    assert all(launcher.poll() is None for launcher in launchers)
    assert templates(zygote)["plain"] == before["plain"]
    kept = front_end.connect("other")
    assert worker_of(kept.load(other, "o")).ppid() == before["plain"].pid


IMPATIENT = """
import os, sys
if "mme.zygote.root" in sys.orig_argv:
    from mme.zygote import template
    template._LOOK_AT_MEMORY_S = 0.05
    template._IDLE_S = {idle_s}
    template.Admission.is_memory_short = lambda self: os.path.exists({flag!r})
"""


@pytest.mark.parametrize("why", ["had no model for a while", pytest.param("memory is short", marks=pytest.mark.ci)])
def test_a_template_without_models_ends_after_a_while_and_where_memory_becomes_short(
    settings: Settings, runtime_dir: Path, tmp_path: Path, why: str
) -> None:
    flag = tmp_path / "memory_is_short"
    idle_s = 0.5 if why == "had no model for a while" else 600.0
    with (Path(settings.python_path) / "sitecustomize.py").open("a") as file:
        file.write(IMPATIENT.format(idle_s=idle_s, flag=str(flag)))
    with impatient_zygote(settings, runtime_dir) as (zygote, front_end):
        model = make_model_of(tmp_path, "good")
        load(front_end, model, "a")
        template = templates(zygote)["good"]
        front_end.stop()
        if why == "memory is short":
            assert set(templates(zygote)) == {"good", "plain"}
            flag.touch()
        wait_until(lambda: is_gone(template), why)
        assert set(templates(zygote)) == {"plain"}, "what is preloaded stays"
        front_end.launchers.clear()
        assert load(front_end, model, "b").ppid() == templates(zygote)["good"].pid


@pytest.mark.ci  # waits, as the one before
def test_the_template_of_a_package_set_ends_too_and_the_next_one_installs_nothing(
    settings: Settings, runtime_dir: Path, tmp_path: Path
) -> None:
    with (Path(settings.python_path) / "sitecustomize.py").open("a") as file:
        file.write(IMPATIENT.format(idle_s=0.5, flag=str(tmp_path / "memory_is_short")))
    model = make_model_of(tmp_path, "good")
    write_wheel(model / "code" / "wheels", "greeting_of_a_test", "X = 1\n")
    (model / "code" / "requirements.txt").write_text("greeting_of_a_test\n")
    with impatient_zygote(settings, runtime_dir) as (zygote, front_end):
        load(front_end, model, "a")
        (name,) = templates(zygote).keys() - {"plain"}
        assert name.startswith("good@")
        template = templates(zygote)[name]
        (installed,) = (runtime_dir / "packages").glob("*/site/greeting_of_a_test.py")
        written_ns = installed.stat().st_ctime_ns
        front_end.stop()
        wait_until(lambda: is_gone(template), "the end of the set's template")
        front_end.launchers.clear()
        assert load(front_end, model, "b").ppid() == templates(zygote)[name].pid != template.pid
        assert installed.stat().st_ctime_ns == written_ns


@contextmanager
def impatient_zygote(settings: Settings, runtime_dir: Path) -> Iterator[tuple[ZygoteHandle, FrontEnd]]:
    process = ZygoteHandle(settings, runtime_dir)
    process.start()
    process.wait_until_ready()
    running = FrontEnd(runtime_dir, process.environment_for(os.environ))
    try:
        yield process, running
    finally:
        running.stop()
        process.stop(time.monotonic() + 20)


def try_to_connect(front_end: FrontEnd, name: str) -> Connection | None:
    try:
        return front_end.connect(name)
    except (ConnectionRefusedError, FileNotFoundError):
        return None


def test_a_load_is_refused_not_left_alone_where_descriptors_are_used_up(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path
) -> None:
    folder = make_model_of(tmp_path, "good")
    served = front_end.launch(folder, "served")
    front_end.wait_until_started(served)
    connection = front_end.connect("served")
    worker_of(connection.load(folder, "served"))
    doomed = front_end.launch(folder, "doomed")
    front_end.wait_until_started(doomed)
    template = templates(zygote)["good"]
    before = leave_descriptors(template, 0)
    late = front_end.launch(folder, "late")
    assert late.wait(20) == -signal.SIGKILL  # nobody can listen for it, so MMS is not to wait
    template.suspend()
    refused = front_end.connect("doomed")
    refused.send_load(folder, "doomed")
    template.resume()
    front_end.reap(doomed)
    assert doomed.returncode == -signal.SIGKILL
    status, message = refused.receive_load()
    assert status == 507
    assert "no connection can be taken for model 'doomed'" in message
    assert template.is_running()
    assert connection.invoke(command("echo", 1)) == (200, b"1")
    resource.prlimit(template.pid, resource.RLIMIT_NOFILE, before)
    load(front_end, folder, "after")


def test_a_worker_that_finds_too_few_descriptors_is_refused_with_507(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path
) -> None:
    """There is one for the connection, and then one more each time, until admission sees that there are too few."""
    folder = make_model_of(tmp_path, "good")
    load(front_end, folder, "first")
    template = templates(zygote)["good"]
    for spare in range(1, 10):
        name = f"m{spare}"
        launcher = front_end.launch(folder, name)
        front_end.wait_until_started(launcher)
        before = leave_descriptors(template, spare)
        template.suspend()
        connection = front_end.connect(name)
        connection.send_load(folder, name)
        template.resume()
        front_end.reap(launcher)
        status, message = connection.receive_load()
        resource.prlimit(template.pid, resource.RLIMIT_NOFILE, before)
        assert status == 507, message
        assert "ulimit -n" in message
        if "is refused for lack of descriptors" in message:  # as admission has it
            break
        assert "Too many open files" in message
    assert spare > 2
    load(front_end, folder, "last")


def leave_descriptors(template: psutil.Process, number: int) -> tuple[int, int]:
    """Lets the template open so many more; returns the limit that it had before."""
    wait_until(
        lambda: Path(f"/proc/{template.pid}/syscall").read_text().split()[0] in EPOLL_WAIT,
        "the template has done what it was asked, and closed what that took",
    )
    used = {int(entry.name) for entry in Path(f"/proc/{template.pid}/fd").iterdir()}
    free = (each for each in count() if each not in used)
    _, hard = before = resource.prlimit(template.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(template.pid, resource.RLIMIT_NOFILE, (next(islice(free, number, None)), hard))
    return before


def test_a_zygote_that_is_stopped_while_it_warms_up_leaves_no_file_in_the_temporary_folder(
    settings: Settings, runtime_dir: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "frameworks" / "framework_slow" / "adapter.py"
    # it is slow to write its sample
    adapter.write_text(ADAPTER.format(warm="pass", sample_shape=(1, 4), write=FRAMEWORKS["slow"]))
    process = ZygoteHandle(settings, runtime_dir)
    process.start()
    process.wait_until_ready()
    front_end = FrontEnd(runtime_dir, process.environment_for(os.environ))
    try:
        front_end.launch(make_model_of(tmp_path, "slow"), "m")
        wait_until((tmp_path / "slow_began").exists, "the sample is being written")
        warming = list(templates(process).values())
        process.stop(time.monotonic() + 20)
        assert all(map(is_gone, warming))
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        front_end.stop()
        process.stop(time.monotonic() + 5)


def test_a_worker_of_a_zygote_that_has_died_still_counts_as_busy(
    zygote: ZygoteHandle, front_end: FrontEnd, tmp_path: Path
) -> None:
    folder = make_model_of(tmp_path, "good")
    front_end.wait_until_started(front_end.launch(folder, "m"))
    connection = front_end.connect("m")
    worker = worker_of(connection.load(folder, "m"))
    go_on = tmp_path / "go_on"
    connection.send(command("wait_for", str(go_on)))
    wait_until(zygote.is_busy, "the request is being worked on")
    assert zygote.pid is not None
    os.kill(zygote.pid, signal.SIGKILL)
    wait_until(lambda: not zygote.is_alive(), "the zygote is reaped")
    zygote.restart()
    zygote.wait_until_ready()
    assert zygote.is_busy()
    go_on.touch()
    wait_until(lambda: not zygote.is_busy(), "the request is answered")
    assert zygote.has_loaded_worker()
    worker.kill()
    wait_until(lambda: not zygote.has_loaded_worker(), "what a killed worker has left behind counts no more")


def test_a_template_of_images_is_warmed_with_each_content_type_that_they_come_in() -> None:
    types = [content_type for content_type, _ in template_warmup._bodies((1, 3, 8, 8))]
    assert types == [
        *("application/json", "text/csv", "application/x-npy", "application/x-npz", "application/jsonlines"),
        *("image/jpeg", "image/png", "application/json"),  # the last one with an image in base64
    ]
