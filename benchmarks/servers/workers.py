"""Which processes of a server serve models."""

from __future__ import annotations

from pathlib import Path

import psutil

from benchmarks.servers.base import Server
from benchmarks.servers.stock import StockServer

_NAME_BYTES = 15  # what the kernel keeps of a process's name
_OURS = "mme "  # and the model's name: how ours are called
_STOCK = "model_service_worker.py"


def worker_pids(server: Server) -> list[int]:
    """The worker processes that live now."""
    descendants = server.descendants()
    if server.name != StockServer.name:
        return [pid for pid, process in descendants.items() if _is_worker_of_ours(process)]
    found = {pid: process for pid, process in descendants.items() if _is_worker_of_stock(process)}
    # stock starts a process per model that forks its workers
    return [pid for pid, process in found.items() if _parent(process) in found]


def process_name(model: str) -> str:
    """How the kernel calls the worker of a model of ours."""
    return (_OURS + model).encode()[:_NAME_BYTES].decode(errors="ignore")


def started_ticks(pid: int, name: str) -> int | None:
    """When the process began, in the kernel's ticks since the machine's start; None where it is no process of this
    name (any more)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    before, _, after = stat.rpartition(")")
    fields = after.split()
    if before.partition("(")[2] != name or fields[0] in "ZX":
        return None
    return int(fields[19])


def _is_worker_of_ours(process: psutil.Process) -> bool:
    try:
        return process.name().startswith(_OURS)
    except psutil.Error:
        return False


def _is_worker_of_stock(process: psutil.Process) -> bool:
    try:
        return any(argument.endswith(_STOCK) for argument in process.cmdline())
    except psutil.Error:
        return False


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None
