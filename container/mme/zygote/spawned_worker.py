"""A worker as stock MMS has it: one program per model, started from nothing (``MME_WORKERS=spawn``).

    python -I -u spawned_worker.py RUNTIME_DIR PYTHON_PATH --sock-type … --handler … --model-path … --model-name …

It is ``mms.model_service_worker`` behind the load policy of forked workers: nothing is imported from a folder that is
neither the server's (``PYTHON_PATH``) nor the model's, and a load that is not allowed is answered 400. The interpreter
starts isolated (``-I``), because the PYTHONPATH in the environment has a part of the request in it.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from mme.capacity.admission import Admission
    from mme.settings import Settings
    from mme.zygote.load_policy import LoadPolicy

PACKAGE_DIR = Path(__file__).resolve().parents[2]
_POLL_S = 0.005
# How long MMS may take to reap the launcher, and then to open the log pipes of a worker that has answered.
_REAPED_S = 5.0
_PIPES_OPENED_S = 1.0


def main() -> int:
    """Serves until MMS ends this process. Returns 1, as MMS's own program does, if it ends by itself."""
    runtime_dir, server_python_path = Path(sys.argv[1]), sys.argv[2]
    options = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
    sys.path.insert(0, str(PACKAGE_DIR))
    from mme.capacity.admission import Admission
    from mme.capacity.rlimit import limit_worker
    from mme.logs import configure_worker_logging
    from mme.settings import Settings
    from mme.zygote.load_policy import LoadPolicy
    from mme.zygote.worker_process import OOM_SCORE_ABOVE_ZYGOTE, raise_oom_score

    settings = Settings.from_environment()
    limit_worker(settings)
    configure_worker_logging(settings)
    load_policy = LoadPolicy.for_server(settings, runtime_dir, server_python_path)
    wanted = dict(os.environ).get("PYTHONPATH", "")  # MMS made it of the request and of the server's own
    python_path = load_policy.python_path(wanted, options["--model-path"])
    os.environ["PYTHONPATH"] = python_path
    folders = [str(Path(entry).absolute()) for entry in python_path.split(os.pathsep) if entry]
    sys.path[:] = dict.fromkeys([*folders, *sys.path[1:]])
    options["--model-path"] = str(load_policy.folder_of(options["--model-path"]))
    sys.argv = ["model_service_worker.py", *(word for pair in options.items() for word in pair)]
    raise_oom_score(OOM_SCORE_ABOVE_ZYGOTE)
    # Of the server's own processes the front end, which has started this one, and what else it has started count.
    admission = Admission(settings, runtime_dir, server_pid=os.getppid())
    packages = Packages(settings, runtime_dir, len(folders)) if load_policy.installs else None
    return _run(load_policy, admission, packages, options, multi_model=settings.multi_model)


class Packages:
    """What models ask for: installed by the first that asks, in front of what the container has."""

    def __init__(self, settings: Settings, runtime_dir: Path, position: int) -> None:
        """``position``: how many folders of ``sys.path`` come before packages."""
        from mme.packages.sets import packages_dir

        self._dir = packages_dir(settings, runtime_dir)
        self._timeout_s = settings.packages_timeout_s
        self._position = position

    def provide(self, model_dir: Path) -> None:
        """Raises ``InstallationFailed``."""
        from mme.packages.install_set import install_apart
        from mme.packages.requirements import requirements_of
        from mme.packages.sets import PackageSet

        wanted = requirements_of(model_dir)
        if wanted is not None:
            install_apart(self._dir, wanted.key, model_dir, self._timeout_s)
            packages = PackageSet(self._dir, wanted.key)
            if not packages.use():  # removed for want of room, in this moment
                install_apart(self._dir, wanted.key, model_dir, self._timeout_s)
                packages.use()
            packages.enter(self._position)


def _run(
    load_policy: LoadPolicy,
    admission: Admission,
    packages: Packages | None,
    options: dict[str, str],
    *,
    multi_model: bool,
) -> int:
    from mms.model_service_worker import MXNetModelServiceWorker

    from mme.errors import MmeError, ModelRefused, Refusal
    from mme.frameworks import serving
    from mme.settings import Settings

    front_end = os.getppid()

    class LoadFailed(Exception):
        """MMS's worker has answered a load with another status than 200."""

    class Worker(MXNetModelServiceWorker):
        """MMS's worker; forks itself for each connection, and loads the model there."""

        has_loaded = mmap.mmap(-1, 1)  # in any of the forked processes
        launcher = os.getpid()
        connection: socket.socket

        def handle_connection(self, connection: socket.socket) -> None:
            self.connection = connection
            super().handle_connection(connection)

        def load_model(self, request: dict[str, Any]) -> tuple[str, int]:
            try:
                name, path, handler = (request[key].decode() for key in ("modelName", "modelPath", "handler"))
                folder = load_policy.check(name, path, handler, sys.path)
            except ModelRefused as error:
                logging.error("A load is refused (400): %s", error)
                message, status = str(error), error.status
            else:
                message, status = self.load_admitted({**request, "modelPath": os.fsencode(folder)})
            if status == 200:
                self.has_loaded[0] = 1
            elif os.getpid() != self.launcher:
                self.refuse_load(request["ioFileDescriptor"].decode(), message, status)
            return message, status

        def load_admitted(self, request: dict[str, Any]) -> tuple[str, int]:
            name, folder = request["modelName"].decode(), request["modelPath"].decode()
            # Allocations are not bounded: what imports its framework here crashes where it finds no room for itself.
            admitted = admission.loading(name, Path(folder), holders=(("front end", front_end),), bounded=False)
            try:
                if packages:
                    packages.provide(Path(folder))
                with admitted:
                    serving.check(Path(folder), request["handler"].decode(), Settings.from_environment())
                    message, status = super().load_model(request)
                    if status != 200:
                        raise LoadFailed
                return message, status
            except LoadFailed:
                return message, status
            except (Exception, SystemExit) as error:
                refusal = Refusal.of(error, folder)
                said = f"Model {name} did not load ({refusal.status}): {refusal.message}"
                logging.error("%s", said, exc_info=not isinstance(error, MmeError))
                return refusal.message, refusal.status

        def refuse_load(self, pipes: str, message: str, status: int) -> NoReturn:
            """Answers ``status`` in such a way that MMS forgets the model: see ``ModelSlot.on_load_refused``."""
            from mme.zygote.output import let_output_be_read

            let_output_be_read()
            if multi_model and not self.has_loaded[0]:
                _end(self.launcher)
            self.connection.sendall(_load_response(status, message))
            time.sleep(_PIPES_OPENED_S)
            for name in ("stdout", "stderr"):
                Path(self.tmp_dir, f"{pipes}-{name}").unlink(missing_ok=True)
            os._exit(1)

    worker = Worker(
        options["--sock-type"],
        options.get("--sock-name"),
        None,
        options.get("--port"),
        {key: options[f"--{option}"].encode() for key, option in _REQUEST.items()},
        options["--preload-model"].lower() in ("true", "yes", "y", "1"),
        options["--tmp-dir"],
    )
    try:
        worker.run_server()
    except Exception:
        logging.exception("Backend worker process died")
    finally:
        if options["--sock-type"] == "unix":
            Path(options["--sock-name"]).unlink(missing_ok=True)
    return 1


# What a worker loads beforehand, where the request asks for that (preload_model).
_REQUEST = {"handler": "handler", "modelPath": "model-path", "modelName": "model-name"}


def _load_response(status: int, message: str) -> bytes:
    from mms.protocol.otf_message_handler import create_load_model_response

    return bytes(create_load_model_response(status, message))


def _end(launcher: int) -> None:
    """Kills the launcher, which MMS started, and waits until MMS has reaped it."""
    deadline_s = time.monotonic() + _REAPED_S
    try:
        os.kill(launcher, signal.SIGKILL)
        while time.monotonic() < deadline_s:
            os.kill(launcher, 0)
            time.sleep(_POLL_S)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(main())
