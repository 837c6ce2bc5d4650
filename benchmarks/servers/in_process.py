"""The work of an invocation in a plain Python process, without a server: what any server's latency is compared with.

The process runs our handler with the environment that our workers have. It reads a number of invocations per line from
standard input and writes their seconds as a JSON list: ``python -m benchmarks.servers.in_process MODEL_DIR``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from benchmarks import models
from benchmarks.failure import BenchmarkError
from benchmarks.servers.base import clean_environment, python

# As MMS sets them for every worker (mms/model_service_worker.py).
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MXNET_USE_OPERATOR_TUNING": "0"}


class InProcess:
    """The process, started and ended in ``with``."""

    name = "in-process"

    def __init__(self, model_dir: Path) -> None:
        self._model_dir = model_dir
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> InProcess:
        from mme.settings import Settings
        from mme.supervisor import mms_config

        package_dir = Path(mms_config.__file__).parents[1]
        environment = mms_config.environment(
            Settings.from_environment(),
            {**clean_environment(), **WORKER_ENVIRONMENT},
            runtime_dir=Path(tempfile.gettempdir()),
            package_dir=package_dir,
        )
        self._process = subprocess.Popen(
            python("-m", "benchmarks.servers.in_process", str(self._model_dir)),
            env={**environment, "TMPDIR": tempfile.gettempdir()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def invoke(self, count: int) -> list[float]:
        """Seconds of each of ``count`` invocations in a row."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(f"{count}\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise BenchmarkError("the process that runs the handler without a server ended: see its messages above.")
        return json.loads(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def main(model_dir: Path) -> None:
    """Serves standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers reaches the pipe
    from mms.context import Context, RequestProcessor

    from model_handler import handle

    context = Context(model_dir.name, str(model_dir), None, 1, None, "1.1.11")
    handle(None, context)
    body = bytearray(models.photo())
    headers = {"Content-Type": models.PHOTO_TYPE, "body": {"content-type": models.PHOTO_TYPE}}
    context.request_ids = {0: "in-process"}
    for line in sys.stdin:
        times_s = []
        for _ in range(int(line)):
            started_s = time.perf_counter()
            context.request_processor = [RequestProcessor(headers)]
            answer = handle([{"body": body}], context)
            times_s.append(time.perf_counter() - started_s)
            assert context.get_response_status(0)[0] == 200, answer
        print(json.dumps(times_s), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
