"""A handler that runs the commands it is sent, for tests of what surrounds it; a model of it costs nothing to load.

Tests copy this file into a model's folder, as users do with handlers written for stock MMS, and start the server with
``SAGEMAKER_HANDLER=scripted_handler``. A load does what the file ``on_load`` says, a request what its body says: a
JSON list of a command and its arguments.
"""

import ctypes
import json
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HANDLER = "scripted_handler"
_held: list[bytes] = []


def make_model(folder: Path, *on_load: object) -> Path:
    """Writes a model that does ``on_load`` when it is loaded."""
    shutil.copy(__file__, folder / f"{HANDLER}.py")
    (folder / "on_load").write_text(command(*on_load) if on_load else command("nothing"))
    return folder


def command(*words: object) -> str:
    """The body of a request."""
    return json.dumps(words)


class Commands:
    """What the handler can be told to do. ``index`` of ``requests`` in a batch; there is no ``context`` at load."""

    def __init__(self, context=None, index=0, requests=0):
        self.context, self.index, self.requests = context, index, requests

    def nothing(self):
        """Answers null."""

    def echo(self, value):
        """Answers with its argument."""
        return value

    def answer(self, length):
        """Answers with so many characters."""
        return "x" * length

    def fail(self, message):
        """Fails as handlers do."""
        raise ValueError(message)

    def run_out_of_memory(self):
        """Fails as an allocation does."""
        raise MemoryError("as told")

    def take_shared(self, megabytes):
        """Fills memory that a limit on a process's data does not count."""
        taken = mmap.mmap(-1, megabytes << 20)
        for at in range(0, len(taken), mmap.PAGESIZE):
            taken[at] = 1
        return megabytes

    def hold(self, megabytes):
        """Keeps memory as long as the process lives."""
        _held.append(b"x" * (megabytes << 20))

    def append(self, path, line):
        """Writes a line to a file, and answers with it and with its process."""
        with open(path, "a") as file:  # noqa: PTH123
            file.write(f"{line}\n")
        return [line, os.getpid()]

    def say_whether_a_request_waits(self, path):
        """Appends that to a file; at load."""
        from mme.handler import wake_up

        self.append(path, wake_up.request_waits)

    def allocate_and_free(self, path, times):
        """Fills 20 blocks of 1 MB and frees them, so many times; writes to a file how many pages faulted."""
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            blocks = [libc.malloc(1 << 20) for _ in range(20)]
            for block in blocks:
                ctypes.memset(block, 1, 1 << 20)
            for block in blocks:
                libc.free(block)
        Path(path).write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))

    def exit(self, code):
        """Ends the process behind everybody's back."""
        os._exit(code)

    def leave(self, code):
        """Ends as programs do."""
        sys.exit(code)

    def kill(self, number):
        """Sends itself a signal."""
        os.kill(os.getpid(), number)
        time.sleep(1000)

    def spin(self):
        """Never ends, in Python."""
        while True:
            pass

    def hang_in_c(self):
        """Never ends, in C, and keeps the interpreter's lock."""
        ctypes.PyDLL(None).sleep(1000)

    def sleep(self, seconds):
        """Takes its time, and answers with its process."""
        time.sleep(seconds)
        return os.getpid()

    def wait_for(self, path):
        """Answers once there is a file."""
        while not Path(path).exists():
            time.sleep(0.01)

    def start_program(self):
        """Starts a program that does not end, and answers with its process."""
        return subprocess.Popen(["/bin/sleep", "1000"]).pid

    def print(self, text):
        """Writes to standard output and standard error."""
        print(text)
        print(text, file=sys.stderr)

    def sequence(self, *commands):
        """Does one after the other, and answers as the last does."""
        return [getattr(self, name)(*arguments) for name, *arguments in commands][-1]

    def once(self, path, *commands):
        """Does one after the other if there is a file, and removes that first; else nothing."""
        if Path(path).exists():
            Path(path).unlink()
            self.sequence(*commands)

    def batch(self):
        """Answers with the number of requests that came together."""
        return self.requests

    def set_header(self, length):
        """Answers with a header of its own of so many characters."""
        self.context.set_response_header(self.index, "X-Long", "x" * length)
        return length

    def set_status(self, status):
        """Answers with a status of its own."""
        self.context.set_response_status(status, "As told", self.index)
        return status

    def look(self):
        """Answers with all that a process can see of itself."""
        import numpy as np

        return {
            "pid": os.getpid(),
            "group": os.getpgrp(),
            "folder": str(Path.cwd()),
            "environment": dict(os.environ),
            "path": sys.path,
            "arguments": sys.argv,
            "descriptors": {int(entry.name): self._target(entry) for entry in Path("/proc/self/fd").iterdir()},
            "handlers": {number.name: str(signal.getsignal(number)) for number in signal.Signals},
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
            "random": [random.random(), float(np.random.rand())],
            "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
            "no_new_privileges": "NoNewPrivs:\t1" in Path("/proc/self/status").read_text(),
            "modules": sorted(sys.modules),
            "file": __file__,
            "threads": len(list(Path("/proc/self/task").iterdir())),
        }

    @staticmethod
    def _target(entry):
        try:
            return str(entry.readlink())
        except FileNotFoundError:
            return "the listing itself"


def run_command(text, *where):
    """Does what ``text`` says."""
    name, *arguments = json.loads(text)
    return getattr(Commands(*where), name)(*arguments)


def handle(data, context):
    """What MMS calls, the first time with None: to load."""
    if data is None:
        run_command(Path(context.system_properties["model_dir"], "on_load").read_text())
        return None
    context.metrics.add_counter("Scripted", len(data))
    bodies = [bytes(item["body"]).decode() for item in data]
    return [json.dumps(run_command(body, context, index, len(data))) for index, body in enumerate(bodies)]
