"""The log of a container process: bounded, and its end read without the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from local_endpoint.errors import StartFailure
from local_endpoint.hosting.janitor import Janitor
from local_endpoint.hosting.runtimes import container_log
from local_endpoint.hosting.runtimes.base import LaunchSpec
from local_endpoint.hosting.runtimes.container_log import ContainerLog
from local_endpoint.hosting.runtimes.process import ProcessRuntime
from tests.harness.waiting import wait_until

MIB = 1024 * 1024


def write(log: ContainerLog, text: str) -> None:
    """As a process would, which then ends."""
    subprocess.run([sys.executable, "-c", text], stdout=log.write_end, check=True)


def test_a_process_that_writes_without_end_fills_two_files_of_the_limit_and_no_more(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path / "container.log", limit_bytes=MIB)
    writer = threading.Thread(target=write, args=(log, "for n in range(30_000): print('line', n, 'x' * 100)"))
    writer.start()  # (it writes more than a pipe holds: somebody has to read)
    log._thread.start()
    writer.join()
    log.close()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"container.log", "container.log.old"}
    assert max(sizes.values()) <= MIB
    assert log.tail(2) == "\n".join(f"line {number} {'x' * 100}" for number in (29_998, 29_999))


def test_the_tail_goes_over_the_border_of_the_two_files(tmp_path: Path) -> None:
    (tmp_path / "container.log.old").write_text("1\n2\n")
    log = ContainerLog(tmp_path / "container.log")
    write(log, "print(3)")
    log.follow()
    log.close()
    assert log.tail(2) == "2\n3"


def test_of_a_long_log_only_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_log, "TAIL_BYTES", 100)
    (tmp_path / "container.log").write_text("x" * 1000 + "\nlast\n")
    log = ContainerLog(tmp_path / "container.log")
    log.close()
    assert log.tail(20) == "x" * (100 - len("\nlast\n")) + "\nlast"


@pytest.mark.parametrize(
    "text", ["print('up', flush=True); input()", "while True: print('x' * 1000)"], ids=["silent", "writing"]
)
def test_closing_does_not_wait_for_a_process_that_survives(tmp_path: Path, text: str) -> None:
    log = ContainerLog(tmp_path / "container.log")
    survivor = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=log.write_end, stderr=subprocess.DEVNULL
    )
    log.follow()
    wait_until(lambda: (tmp_path / "container.log").stat().st_size, "nothing was written")
    log.close()
    assert survivor.poll() is None or text.startswith("while")  # (nobody reads what that one writes any more)
    survivor.communicate(b"\n")


def test_a_container_process_ends_with_its_log_whole_and_no_descriptor_left(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    janitor = Janitor()
    try:
        runtime = ProcessRuntime(janitor, [sys.executable, "-c", "print('said before the end')"])
        container = runtime.start(LaunchSpec("i-1", "", {}, tmp_path, multi_model=True, instance_type="ml.m5.large"))
        container.wait()
        container.stop(5)
        assert container.log_tail() == "said before the end"
        missing = ProcessRuntime(janitor, ["/nonexistent"])
        with pytest.raises(StartFailure, match="could not be started"):
            missing.start(LaunchSpec("i-2", "", {}, tmp_path, multi_model=True, instance_type="ml.m5.large"))
        zero = LaunchSpec("i-3", "", {"NAME": "a\0b"}, tmp_path, multi_model=True, instance_type="ml.m5.large")
        with pytest.raises(StartFailure, match="'NAME' is refused"):
            runtime.start(zero)
    finally:
        janitor.close()
    assert set(Path("/proc/self/fd").iterdir()) <= before
