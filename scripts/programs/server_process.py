"""The container's server on this machine, as scripts/serve starts and stops it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

from scripts.programs.console import Failure

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "container" / "dockerd-entrypoint.py"
COMMAND = [sys.executable, "-P", str(ENTRYPOINT), "serve"]
PR_SET_PDEATHSIG = 1
_AGAIN_S = 0.05


def environment(*, port: int, host: str, base_dir: Path, multi_model: bool) -> dict[str, str]:
    """This process's environment with what the entry point needs on top."""
    return {
        **os.environ,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SAGEMAKER_MULTI_MODEL": "true" if multi_model else "false",
        "SAGEMAKER_BASE_DIR": str(base_dir.absolute()),
        "MME_HOST": host,
    }


def stop_on_signals() -> None:
    """Makes SIGTERM and SIGHUP (the terminal was closed) act as Ctrl-C does: leave through every ``with``.

    SIGINT is set, too: a shell's script starts its background jobs with SIGINT ignored, and Python leaves it so.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """A signal's handler: raises ``KeyboardInterrupt`` in the main thread, again where it was lost."""
    sys.unraisablehook = _interrupt_again
    raise KeyboardInterrupt


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """What is raised while an object is finalised (``__del__``) goes nowhere: an interrupt is sent again."""
    if lost.exc_type is KeyboardInterrupt:
        main_thread = threading.main_thread().ident
        threading.Timer(_AGAIN_S, signal.pthread_kill, [main_thread, signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(lost)


def refuse_taken_port(host: str, port: int) -> None:
    """Raises ``Failure`` where nothing can listen on ``host``:``port`` now."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except socket.gaierror:
        raise Failure(f"{host!r} is no address of this machine: use --host 127.0.0.1 or --host 0.0.0.0.") from None
    except PermissionError:
        raise Failure(f"port {port} needs root's rights: choose one above 1023 with --port.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(f"port {port} on {host} is taken: choose another with --port.") from None
        raise Failure(f"nothing can listen on {host}:{port}: {os.strerror(error.errno or 0)}.") from None


def _end_with_parent() -> None:
    """In the new process: be told to stop when the one that started it ends, in whatever way (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class ServerProcess:
    """A running server. Leaving the ``with`` block stops it and all that it started; so does our own death.

    Its log goes where ours goes.
    """

    def __init__(self, *, port: int, host: str, base_dir: Path, multi_model: bool = True) -> None:
        # A session of its own: Ctrl-C reaches us alone, and we stop the server in order. Were it to reach all of the
        # server's processes, each would end in its own way, MMS's workers with a traceback.
        self._process = subprocess.Popen(
            COMMAND,
            env=environment(port=port, host=host, base_dir=base_dir, multi_model=multi_model),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Waits until the server ends by itself, and returns its exit code."""
        return self._process.wait()

    def stop(self, timeout_s: float = 30) -> int:
        """Asks the server to stop, kills what is left of it after ``timeout_s``, and returns its exit code."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
            finally:  # a second Ctrl-C is in a hurry
                with contextlib.suppress(ProcessLookupError):  # nothing of its session is left: the usual case
                    os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()
