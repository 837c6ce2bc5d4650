"""Loads a model and asks it once, as the container does, in a process of its own: a model may bring any code."""

from __future__ import annotations

import json
import mimetypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mme.packages.install_set import InstallationFailed, install_apart
from mme.packages.requirements import requirements_of
from mme.packages.sets import PackageSet
from mme.settings import Settings
from scripts.programs.console import Failure
from scripts.programs.server_process import ROOT

# What a system may not know.
_TYPES = {".npy": "application/x-npy", ".npz": "application/x-npz", ".jsonl": "application/jsonlines"}
_TYPES |= {".libsvm": "text/libsvm", ".csv": "text/csv", ".json": "application/json"}
_STAGES = ("load", "answer")
_START_S = 120  # for the interpreter and what it imports, beside the load and the answer


class Sample(NamedTuple):
    """A request: a body in a file, and what it is."""

    file: Path
    content_type: str

    @classmethod
    def of(cls, file: Path, content_type: str | None = None) -> Sample:
        """Raises ``Failure`` where the file's suffix does not tell its type."""
        found = content_type or _TYPES.get(file.suffix.lower()) or mimetypes.guess_type(file.name)[0]
        if not found:
            raise Failure(f"{file}: its name does not tell its content type. Say it with --content-type.")
        return cls(file.absolute(), found)


class Answer(NamedTuple):
    """What became of a trial."""

    text: str | None  # the answer in short; None where the model was loaded and not asked
    framework: str
    content_types: str  # that the model reads, in words


def try_model(folder: Path, sample: Sample | None = None, packages: PackageSet | None = None) -> Answer:
    """Loads the model in ``folder``, and sends it ``sample``, or a made-up one of zeros where its inputs are known.

    Raises ``Failure`` with the reason where it does not load or does not answer.
    """
    limit_s = Settings.from_environment().worker_response_timeout_s
    wanted = {
        "folder": str(folder.absolute()),
        "packages": packages and str(packages.folder),
        "sample": sample and [str(sample.file), sample.content_type],
        "limit_s": limit_s,
    }
    program = [sys.executable, "-P", "-m", "scripts.programs.model_trial", json.dumps(wanted)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "container"), str(ROOT)])
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as result:
        with subprocess.Popen(
            [*program, str(result.fileno())],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            pass_fds=[result.fileno()],
            process_group=0,
        ) as process:
            try:
                process.wait(_START_S + 2 * limit_s)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill_group(process.pid)  # with what the model has started
        result.seek(0)
        lines = result.read().decode(errors="replace").splitlines()
        if process.returncode != 0 or not lines or lines[-1] in _STAGES:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise Failure(_ending(process.returncode, lines[-1] if lines else "load", limit_s))
    found = json.loads(lines[-1])
    if "failure" in found:
        raise Failure(found["failure"])
    return Answer(found["answer"], found["framework"], found["content_types"])


def _ending(code: int, at: str, limit_s: int) -> str:
    """What the end of a trial means that gave no answer, while it was ``at`` "load" or "answer"."""
    if code in (-signal.SIGALRM, -signal.SIGKILL):
        return f"the model takes longer than {limit_s} s to {at} (SAGEMAKER_MODEL_SERVER_TIMEOUT)"
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"the model ends its process {how}, when it is to {at}"


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@contextmanager
def packages_of(folder: Path, *, install: bool) -> Iterator[PackageSet | None]:
    """The packages that the model asks for, for as long as they are needed; says it where they are not installed.

    Raises ``Failure`` with uv's reason where they cannot be installed, or where a container with the settings of this
    environment refuses them.
    """
    wanted = requirements_of(folder)
    if wanted is None:
        yield None
        return
    settings = Settings.from_environment()
    names = " and ".join(str(file.relative_to(folder)) for file in wanted.files)
    if settings.refuses_model_code or settings.model_requirements == "refuse":
        setting = "MME_MODEL_CODE" if settings.refuses_model_code else "MME_MODEL_REQUIREMENTS"
        raise Failure(f"the model asks for packages ({names}), and {setting}=refuse. Take the file out.")
    if settings.model_requirements == "ignore":
        print(f"  ignored: the packages of {names} (MME_MODEL_REQUIREMENTS=ignore)", flush=True)
        yield None
        return
    if not install:
        print(f"  not installed: the packages of {names} (--with-packages installs them for the check)", flush=True)
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="packages-") as temporary:
        try:
            install_apart(
                *(Path(temporary), wanted.key, folder.absolute(), settings.packages_timeout_s),
                log=subprocess.DEVNULL,
            )
        except InstallationFailed as error:
            raise Failure(str(error)) from None
        print("  its packages can be installed", flush=True)
        yield PackageSet(Path(temporary), wanted.key)


@contextmanager
def kept_from_the_terminal() -> Iterator[None]:
    """Holds back standard error, what MXNet's library writes there included; shown where something unforeseen fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Failure:
            raise
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
