"""Looks at a server's processes, and kills one by name. Standard library alone: it also runs inside a container.

As a program it answers one line of JSON on standard input with one on standard output, until the input ends:

    {"do": "census"}                    → {"processes": …, "descriptors": …, "memory_bytes": …, …}
    {"do": "kill", "name": "mme a"}     → {"pid": 12}, or {"pid": null} where there is no such process
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from typing import Any

FRONT_END = b"com.amazonaws.ml.mms.ModelServer"
ZYGOTE = b"mme.zygote.root"
FORKED_FROM_ZYGOTE = ("mme ", "template ")  # how workers and templates are called
_NAME_BYTES = 15  # what the kernel keeps of a process's name


def census(root_pid: int, excluded: set[int]) -> dict[str, Any]:
    """All processes from ``root_pid`` down. Counts, ``memory_bytes``, and the pids of front end and zygote.

    ``held`` says which process holds which descriptors, ``process_bytes`` how much memory: both by the process's name.

    Memory is what is private to each process plus its share of what it shares with others, without the pages of files,
    which the kernel can drop.
    """
    tree = _tree(root_pid) - excluded
    front_ends, zygotes, names = [], [], []
    held: Counter[str] = Counter()
    process_bytes: Counter[str] = Counter()
    memory_bytes = front_end_bytes = 0
    for pid in sorted(tree):
        try:
            command = _read(f"/proc/{pid}/cmdline").split(b"\0")
            name = _read(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
            held_bytes = _anonymous_bytes(pid)
            descriptors = _descriptors(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        names.append(name)
        held.update(f"{name}: {kind}" for kind in descriptors)
        memory_bytes += held_bytes
        process_bytes[name] += held_bytes
        if FRONT_END in command:
            front_ends.append(pid)
            front_end_bytes += held_bytes
        elif ZYGOTE in command and not name.startswith(FORKED_FROM_ZYGOTE):
            zygotes.append(pid)
    return {
        "processes": len(names),
        "descriptors": held.total(),
        "held": dict(held),
        "memory_bytes": memory_bytes,
        "process_bytes": dict(process_bytes),
        "front_end_bytes": front_end_bytes,
        "front_ends": front_ends,
        "zygotes": zygotes,
        "names": names,
    }


def kill(root_pid: int, name: str) -> int | None:
    """Kills one process with this name (as far as the kernel keeps it) and returns its number."""
    wanted = name.encode()[:_NAME_BYTES]
    for pid in _tree(root_pid):
        try:
            if _read(f"/proc/{pid}/comm").rstrip(b"\n") == wanted:
                os.kill(pid, signal.SIGKILL)
                return pid
        except OSError:
            continue
    return None


def _tree(root_pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                fields = _read(f"/proc/{entry}/stat").rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                children.setdefault(int(fields[1]), []).append(int(entry))
    tree = {root_pid}
    waiting = [root_pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        tree.update(below)
        waiting += below
    return tree


def _descriptors(pid: int) -> list[str]:
    """What each open descriptor is: pipe, eventpoll, a file's path, or a socket with what the kernel says of it."""
    kinds = []
    sockets = _sockets(pid)
    for entry in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")  # noqa: PTH115
        except OSError:
            continue  # it has been closed meanwhile
        if target.startswith("socket:["):
            kinds.append(sockets.get(target[len("socket:[") : -1], "socket of no protocol"))
        else:
            kinds.append(target.partition(":[")[0] if ":[" in target and target[0] != "/" else target)
    return kinds


def _sockets(pid: int) -> dict[str, str]:
    """By inode: TCP with its state (``/proc/PID/net/tcp``: 01 is established, 08 closed by the other side, 0A a
    listener), or Unix with its path."""
    found = {}
    for protocol in ("tcp", "tcp6"):
        for line in _read(f"/proc/{pid}/net/{protocol}").decode().splitlines()[1:]:
            fields = line.split()
            found[fields[9]] = f"{protocol} socket in state {fields[3]}"
    for line in _read(f"/proc/{pid}/net/unix").decode(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        found[fields[6]] = " ".join(("unix socket", *fields[7:]))
    return found


def _anonymous_bytes(pid: int) -> int:
    kilobytes = {}
    for line in _read(f"/proc/{pid}/smaps_rollup").decode().splitlines()[1:]:
        name, _, value = line.partition(":")
        kilobytes[name] = int(value.split()[0])
    if "Pss_Anon" not in kilobytes:  # Linux before 5.4
        return kilobytes["Pss"] * 1024
    return (kilobytes["Pss_Anon"] + kilobytes.get("Pss_Shmem", 0)) * 1024


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def main() -> None:
    """Serves standard input, inside a container whose first process is the server."""
    for line in sys.stdin:
        order = json.loads(line)
        counting = order["do"] == "census"
        answer = census(1, {os.getpid()}) if counting else {"pid": kill(1, order["name"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
