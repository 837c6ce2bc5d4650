"""The JVM's class archive: made by a real start, used by the next ones, and missed by none that has to do without."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mme.front_end import WORKING_FOLDER
from mme.settings import Settings
from mme.supervisor import class_archive, preflight
from tests.harness.server import JVM_ARGUMENTS, ServerProcess

FROM_ARCHIVE = "source: shared objects file (top)"
MAKES_ARCHIVES = 13  # the first Java that does

# In a process of its own, whose environment is another than the tests'.
MAKE = """
import sys
from pathlib import Path
from mme.supervisor import class_archive
class_archive.FILE = Path(sys.argv[1])
sys.exit(class_archive.main())
"""


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """With a short name: Unix sockets live below it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        yield Path(folder)


def make(file: Path, program: str = MAKE, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(file.parent), **variables}
    command = [sys.executable, "-c", program, str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def processes_below(folder: Path) -> list[str]:
    """The command lines of those that have their temporary files below ``folder``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(str(folder)):
                found.append(" ".join(process.cmdline()))
    return found


def java_version() -> int:
    home = preflight.java_home(Settings())
    java = str(home / "bin" / "java") if home else "java"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    return int(said.partition('version "')[2].partition(".")[0])


@pytest.mark.ci  # three starts without an archive
def test_it_is_made_by_a_start_and_used_by_the_next(tmp_path: Path) -> None:
    if java_version() < MAKES_ARCHIVES:
        pytest.skip(f"it takes Java {MAKES_ARCHIVES}")
    file = tmp_path / "made" / "front-end.jsa"
    made = make(file)
    assert made.returncode == 0, made.stderr
    log = tmp_path / "classes"
    arguments = f"{JVM_ARGUMENTS} -XX:SharedArchiveFile={file} -Xlog:class+load=info:file={log}"
    with ServerProcess(SAGEMAKER_MODEL_SERVER_VMARGS=arguments) as server:
        (working_folder,) = server.folder.glob(f"tmp/mme-*/{WORKING_FOLDER}")
        assert list(working_folder.iterdir()) == [], "the JVM takes no archive where this folder holds anything"
        loaded = log.read_text().splitlines()
    for name in ("mme.FrontEnd", "com.amazonaws.ml.mms.wlm.Model", "io.netty.channel.epoll.EpollDomainSocketChannel"):
        (line,) = [each for each in loaded if f" {name} source:" in each]
        assert FROM_ARCHIVE in line
    assert {path.stem for path in tmp_path.iterdir()} == {"classes", "made"}  # the log has a second file at times


def test_a_server_that_does_not_end_in_time_leaves_no_process(tmp_path: Path) -> None:
    hears_nothing = "class_archive._MAIN_CLASS, class_archive._END_TIMEOUT_S = 'none', 0\nsys.exit"
    make(tmp_path / "front-end.jsa", MAKE.replace("sys.exit", hears_nothing))
    assert processes_below(tmp_path) == []


def test_a_java_that_cannot_leaves_a_word_and_no_second_try(tmp_path: Path) -> None:
    file, old = tmp_path / "front-end.jsa", tmp_path / "old"
    file.write_bytes(b"in the memory of a front end that runs")
    old.hardlink_to(file)
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'Unrecognized VM option ArchiveClassesAtExit' >&2; exit 1\n")
    java.chmod(0o755)
    made = make(file, JAVA_HOME=str(java.parents[1]))
    assert made.returncode == 1
    assert "ArchiveClassesAtExit" in made.stderr
    assert file.read_bytes() == b""
    assert old.read_bytes() == b"in the memory of a front end that runs"


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "could not be made"])
def test_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    monkeypatch.setattr(class_archive, "FILE", tmp_path / "front-end.jsa")
    if content is not None:
        class_archive.FILE.write_bytes(content)
    assert class_archive.archive(Settings()) is None


def test_one_whose_path_the_front_end_would_take_apart_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_archive, "FILE", tmp_path / "front end.jsa")
    class_archive.FILE.write_bytes(b"archive")
    assert class_archive.archive(Settings()) is None
    monkeypatch.setattr(class_archive, "FILE", class_archive.FILE.rename(tmp_path / "front-end.jsa"))
    assert class_archive.archive(Settings()) == tmp_path / "front-end.jsa"
    of_the_users_own = Settings(jvm_arguments="-XX:SharedArchiveFile=/their/own.jsa")
    assert class_archive.archive(of_the_users_own) is None


def test_what_a_running_front_end_has_mapped_stays_when_the_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "front-end.jsa"
    file.write_bytes(b"classes")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        class_archive.mark_tried(file)
        assert file.read_bytes() == b""
        assert os.fstat(opened.fileno()).st_size == len(b"classes"), "reading the memory would end in SIGBUS"
        assert mapped[:] == b"classes"
    assert list(tmp_path.iterdir()) == [file]
