"""What each of our server's processes is for."""

from __future__ import annotations

import psutil

from benchmarks.memory import is_jvm

JVM, LAUNCHER, TEMPLATES, WORKER, SUPERVISOR = "JVM", "launcher", "zygote and templates", "worker", "supervisor"
METRICS = "metrics"
_LAUNCHER_SCRIPT = "model_service_worker.py"


def role_of(process: psutil.Process, root_pid: int) -> str:
    """One of the roles; the process's own name where it is none of them. Raises ``psutil.Error`` where it has ended."""
    if process.pid == root_pid:
        return SUPERVISOR
    if is_jvm(process):
        return JVM
    name = process.name()
    if name.startswith("mme "):
        return WORKER
    if name == "zygote" or name.startswith("template"):
        return TEMPLATES
    return LAUNCHER if any(word.endswith(_LAUNCHER_SCRIPT) for word in process.cmdline()) else name
