"""The life of a worker process, from the fork to its end.

A forked process shares all with the zygote that nobody takes care to change. ``become_worker`` is the one place
that does: after it, the process looks to a handler as if MMS had started a fresh interpreter for it.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mme import imports, threads
from mme.capacity.admission import Admission
from mme.capacity.process_memory import parent_of
from mme.capacity.rlimit import limit_worker
from mme.errors import ModelChanged, Refusal
from mme.logs import configure_worker_logging
from mme.packages.sets import PackageSet, modules_of_packages
from mme.settings import Settings
from mme.zygote.hang_up import OrphanLimit
from mme.zygote.launcher import Launch
from mme.zygote.load_policy import LoadPolicy
from mme.zygote.loaded_files import check_folder
from mme.zygote.output import let_output_be_read
from mme.zygote.processes import close_from, forbid_new_privileges, name_process, raise_oom_score
from mme.zygote.protocol import Load
from mme.zygote.session_records import SessionRecord, SessionRecords, WorkerState
from mme.zygote.sleepers import Sleepers
from mme.zygote.time_limits import TimeLimits

# Should the kernel have to kill, then one worker before the zygote, and that before the front end.
OOM_SCORE_ABOVE_ZYGOTE = 200

_EXIT_DIED = 1
_EXIT_LOAD_FAILED = 22  # EINVAL; the session's record has the refusal


@dataclass(frozen=True)
class Inherited:
    """What the zygote notes about itself before its first fork, for workers to go back to or to keep."""

    descriptors: frozenset[int]  # open after warming up, so they belong to libraries and stay open
    search_path: tuple[str, ...]  # sys.path without what PYTHONPATH brought
    open_files_limit: tuple[int, int]
    packages: PackageSet | None = None  # that the models have asked for


def run_worker(
    launch: Launch,
    connection: socket.socket,
    records: SessionRecords,
    slot: int,
    inherited: Inherited,
    admission: Admission,
    load_policy: LoadPolicy,
    *,
    replaces: bool,
    joins: bool = False,
) -> NoReturn:
    """Runs in the forked process: becomes a worker of ``launch``, serves ``connection``, and ends.

    ``slot`` is that of its record. ``replaces``: the model is loaded, and has no other worker; ``joins``: it has one
    that has loaded it. Where the record says WAKING, the session has slept, and a request waits.

    Leaves by ``os._exit``: what the zygote has registered for its own exit is not to run here.
    """
    parent = os.getppid()
    code = _EXIT_DIED
    try:
        records[slot].enter()
        settings = become_worker(launch, connection.fileno(), inherited, load_policy)
        limit = OrphanLimit(parent, settings.worker_response_timeout_s)
        time_limits = TimeLimits(settings, records[slot])
        code = serve(
            *(launch, connection, records, slot, limit, time_limits, admission, load_policy),
            replaces=replaces,
            joins=joins,
            neighbours=Sleepers(records, slot) if settings.overcommit else None,
            sleep_after_s=settings.sleep_after_s,
            on_loaded=modules_teller(inherited.packages, inherited.search_path),
            writes_metrics=settings.logs_metrics,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        if code:
            let_output_be_read()
    except BaseException as error:
        refuse_load(records[slot], error, launch)
        try:
            logging.getLogger(__name__).exception("worker of model %s ended", launch.model_name)
        except BaseException:
            pass
    finally:
        os._exit(code)


def serve(
    launch: Launch,
    connection: socket.socket,
    records: SessionRecords,
    slot: int,
    orphan_limit: OrphanLimit,
    time_limits: TimeLimits,
    admission: Admission,
    load_policy: LoadPolicy,
    *,
    replaces: bool,
    neighbours: Sleepers | None,
    sleep_after_s: int | None,
    writes_metrics: bool,
    joins: bool = False,
    on_loaded: Callable[[], None] | None = None,
) -> int:
    """Runs the only session of this process. Returns the exit code. ``on_loaded`` is called after its load."""
    from mme.zygote.session import LoadFailed, Session  # with MMS: the zygote's root does without it

    session = Session(
        connection,
        records[slot],
        temporary_dir=launch.temporary_dir,
        decode_bodies=launch.environment.get(b"MMS_DECODE_INPUT_REQUEST", b"true") == b"true",
        orphan_limit=orphan_limit,
        time_limits=time_limits,
        admission=admission,
        load_policy=load_policy,
        holders=(("front end", parent_of(launch.pid)), ("process that workers are forked from", os.getppid())),
        replaces=replaces,
        joins=joins,
        neighbours=neighbours,
        sleep_after_s=sleep_after_s,
        on_loaded=on_loaded,
        writes_metrics=writes_metrics,
    )
    try:
        session.run(_wake_up(launch, records[slot]))
    except LoadFailed:
        return _EXIT_LOAD_FAILED
    except BaseException as error:
        refuse_load(records[slot], error, launch)
        logging.getLogger("mme.worker").exception("Backend worker process died.")
        return _EXIT_DIED
    return 0


def modules_teller(packages: PackageSet | None, search_path: Iterable[str]) -> Callable[[], None] | None:
    """What the first worker of a package set is to call when its model is loaded: it tells what that imported."""
    if packages is None or packages.has_modules():
        return None
    before = frozenset(sys.modules)
    roots = [str(packages.site), *search_path]
    return lambda: packages.remember_modules(modules_of_packages(before, roots))


def _wake_up(launch: Launch, record: SessionRecord) -> Load | None:
    """The load that is to be done once more; None where the front end is going to ask for the first one."""
    if record.state is not WorkerState.WAKING:
        return None
    gpu = record.gpu if record.gpu >= 0 else None
    arguments = launch.arguments
    return Load(launch.model_name, arguments["--model-path"], record.batch_size, arguments["--handler"], gpu, "")


def refuse_load(record: SessionRecord, error: BaseException, launch: Launch) -> None:
    """Has the zygote answer with ``error`` the load, or the request that is to wake the session.

    Where this process ends before it has begun to load.
    """
    if record.state is WorkerState.STARTED:
        record.state, record.refusal = WorkerState.LOADING, Refusal.of(error, launch.working_dir)
    elif record.state is WorkerState.WAKING and not record.refusal:
        try:
            check_folder(launch.model_name, Path(launch.working_dir))
        except ModelChanged as changed:
            record.is_lost, error = True, changed
        record.refusal = Refusal.of(error, launch.working_dir)


def become_worker(launch: Launch, connection: int, inherited: Inherited, load_policy: LoadPolicy) -> Settings:
    """Resets everything that a worker must not share. Returns the settings of its own environment.

    Raises ``OSError`` if the model's folder is gone.
    """
    reset_signals()
    os.setpgid(0, 0)  # with what the handler may start it forms a group, which is killed as one
    output = open_output(launch)
    os.chdir(launch.working_dir)
    reset_descriptors(output, keep={connection, *inherited.descriptors})
    resource.setrlimit(resource.RLIMIT_NOFILE, inherited.open_files_limit)
    raise_oom_score(OOM_SCORE_ABOVE_ZYGOTE)
    forbid_new_privileges()
    name_process(f"mme {launch.model_name}")
    tempfile.tempdir = None  # may have been looked up with another TMPDIR
    folder = launch.arguments["--model-path"]
    python_path = load_policy.python_path(os.fsdecode(launch.environment.get(b"PYTHONPATH", b"")), folder)
    reset_environment(os.environb, {**launch.environment, b"PYTHONPATH": os.fsencode(python_path)})
    reset_imports(python_path, inherited)
    arguments = {**launch.arguments, "--model-path": str(load_policy.folder_of(folder))}
    sys.argv = ["model_service_worker.py", *(word for pair in arguments.items() for word in pair)]
    reset_random_state()
    threads.set_counts(os.environ)
    settings = Settings.from_environment()
    limit_worker(settings)
    configure_worker_logging(settings)
    gc.freeze()  # what the zygote keeps of its models is not ours to collect: looking at it would copy its pages
    gc.enable()
    return settings


def reset_signals() -> None:
    """Default actions, nothing blocked, no wakeup descriptor; Python's own choices for SIGINT and SIGPIPE stay."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def open_output(launch: Launch) -> tuple[int, int]:
    """Where a worker writes: what the launcher has, which MMS reads, or else the server's own."""
    try:
        return launch.open_output()
    except OSError:
        return os.dup(1), os.dup(2)  # the launcher was killed, but its model lives on


def reset_descriptors(output: tuple[int, int], keep: Iterable[int]) -> None:
    """The launcher's output for ours, nothing as input; closes all but ``keep``."""
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for number, source in enumerate((empty, *output)):
        os.dup2(source, number)
    # One system call per gap between those that stay (close_range), where the kernel has it.
    first = 3
    for number in sorted(kept for kept in keep if kept >= first):
        os.closerange(first, number)
        first = number + 1
    close_from(first)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def reset_environment(environment: MutableMapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> None:
    """Makes ``environment`` (the process's own, also for C libraries) equal to ``wanted``."""
    for name in set(environment) - set(wanted):
        del environment[name]
    for name, value in wanted.items():
        if environment.get(name) != value:
            environment[name] = value


def reset_imports(python_path: str, inherited: Inherited) -> None:
    """``sys.path`` as a fresh interpreter would have built it, and no module that it would have found elsewhere."""
    folders = [str(Path(entry).absolute()) for entry in python_path.split(os.pathsep)] if python_path else []
    sys.dont_write_bytecode = True  # of a model's files, whose folder is the platform's, and may be exchanged at once
    before = set(sys.path)
    sys.path[:] = dict.fromkeys([*folders, *inherited.search_path])
    new = [folder for folder in sys.path if folder not in before]
    imports.forget_shadowed_modules(new)


def reset_random_state() -> None:
    """New seeds: Python's own generator has one already (``random`` sees to forks), NumPy's has not.

    Where its generators are not imported yet, which takes 9 ms, they seed themselves when they are. MXNet starts each
    process with the same seed, forked or not.
    """
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed(int.from_bytes(os.urandom(4)))
