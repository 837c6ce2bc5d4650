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

    Memory is what is private to each process plus its share of what it shares with others, without the pages of files,
    which the kernel can drop.
    """
    tree = _tree(root_pid) - excluded
    front_ends, zygotes, names = [], [], []
    kinds: Counter[str] = Counter()
    memory_bytes = front_end_bytes = 0
    for pid in sorted(tree):
        try:
            command = _read(f"/proc/{pid}/cmdline").split(b"\0")
            name = _read(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
            held_bytes = _anonymous_bytes(pid)
            kinds.update(_descriptors(pid))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        names.append(name)
        memory_bytes += held_bytes
        if FRONT_END in command:
            front_ends.append(pid)
            front_end_bytes += held_bytes
        elif ZYGOTE in command and not name.startswith(FORKED_FROM_ZYGOTE):
            zygotes.append(pid)
    return {
        "processes": len(names),
        "descriptors": sum(kinds.values()),
        "descriptor_kinds": dict(kinds),
        "memory_bytes": memory_bytes,
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
    """What each open descriptor is: pipe, socket, eventpoll, or a file's path."""
    kinds = []
    for entry in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")  # noqa: PTH115
        except OSError:
            continue  # it has been closed meanwhile
        kinds.append(target.partition(":[")[0] if ":[" in target and target[0] != "/" else target)
    return kinds


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
