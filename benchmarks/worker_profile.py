"""What a further worker costs, mapping by mapping: which of its memory is its own alone, and what for.

    .venv/bin/python -m benchmarks.worker_profile [--model tiny] [--workers 8]
    .venv/bin/python -m benchmarks.worker_profile --outside [--model tiny] [--models 300]

Starts our server with its defaults, loads copies of one model and invokes each once, and reads /proc/PID/smaps of the
last worker. The table in docs/operations.md is its output. Then what each of the server's processes takes (PSS).

With ``--outside``: what a further model costs outside its worker, awake and asleep (outside_profile.py; 6 minutes).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks import models, options, outside_profile
from benchmarks.memory import of_process
from benchmarks.scenarios.memory import add
from benchmarks.servers.ours import OurServer
from benchmarks.workloads import WORKLOADS

# Kinds of mappings, by what /proc calls them: the first that fits.
_KINDS = (
    (re.compile(r"^\[heap\]"), "heap of C: the model, buffers, objects larger than 512 bytes"),
    (re.compile(r"^\[stack"), "stack"),
    (re.compile(r"\.so[.0-9]*"), "variables of libraries"),
    (re.compile(r"^/.*python"), "variables of the interpreter"),
    (re.compile(r"memfd"), "records shared with the zygote"),
    (re.compile(r"^$|^\[anon"), "Python's objects, and what libraries map for themselves"),
)
# A worker gives memory back when it has been idle for a moment.
_IDLE_S = 2.0
_LEAST_BYTES = 50_000
_OTHER = "files and other mappings"


def private_by_kind(smaps: str) -> Counter[str]:
    """Bytes that a process has alone, by kind of mapping; ``smaps`` is what /proc/PID/smaps says."""
    found: Counter[str] = Counter()
    for mapping in outside_profile.parse_smaps(smaps):
        kind = next((name for pattern, name in _KINDS if pattern.search(mapping.name)), _OTHER)
        found[kind] += mapping.private_bytes
    return found


def main(arguments: list[str]) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="worker_profile", description=(__doc__ or "").splitlines()[0])
    kinds = [kind for each in WORKLOADS.values() for kind in each.memory_models]
    parser.add_argument("--model", choices=kinds, default=kinds[0])
    parser.add_argument("--workers", type=int, default=8, metavar="N")
    parser.add_argument("--outside", action="store_true", help="what a model costs outside its worker")
    parser.add_argument("--models", type=options.positive, default=300, metavar="N", help="with --outside (300)")
    given = parser.parse_args(arguments)
    if given.outside:
        if given.models <= outside_profile.FEW:
            parser.error(f"--models: more than {outside_profile.FEW}, which it is held against")
        outside_profile.profile(given.model, given.models)
        return 0
    folder = models.ensure([given.model])[given.model]
    with OurServer() as server:
        names = [f"m{number}" for number in range(given.workers)]
        for name in names:
            add(server, folder, name, *models.request_for(given.model))
        processes = list(server.descendants().values())
        last = next(each for each in processes if _name(each) == f"mme {names[-1]}")
        at_once = private_by_kind(Path(f"/proc/{last.pid}/smaps").read_text())
        time.sleep(_IDLE_S)
        idle = private_by_kind(Path(f"/proc/{last.pid}/smaps").read_text())
        print(f"| MB at once | idle | {models.TITLES[given.model]}: private memory of a worker |\n|---|---|---|")
        for kind, size_bytes in at_once.most_common():
            if size_bytes >= _LEAST_BYTES:
                print(f"| {size_bytes / 1e6:.1f} | {idle[kind] / 1e6:.1f} | {kind} |")
        roles: dict[str, list[int]] = {}
        for process in [server.root_process(), *processes]:
            role = _name(process)
            role = "worker" if role.startswith("mme ") else "launcher" if role == "python" else role
            role = "supervisor" if process.pid == server.root_process().pid else role
            roles.setdefault(role, []).append(of_process(process.pid).pss_bytes)
        print("\n| process | how many | MB each (PSS) |\n|---|---|---|")
        for role, sizes in sorted(roles.items(), key=lambda item: -sum(item[1])):
            print(f"| {role} | {len(sizes)} | {sum(sizes) / len(sizes) / 1e6:.1f} |")
    return 0


def _name(process: psutil.Process) -> str:
    return Path(f"/proc/{process.pid}/comm").read_text(errors="replace").strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
