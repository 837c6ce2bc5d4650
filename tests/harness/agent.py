"""Asks the agent in a server's front end, as its supervisor does (mme/supervisor/agent.py)."""

from __future__ import annotations

import json
import random

from mme.front_end import ANSWERS, COMMANDS
from tests.harness.server import ServerProcess
from tests.harness.waiting import wait_until


def wait_until_idle(server: ServerProcess) -> None:
    """A request counts for a moment after its client has the answer: for who counts the next ones."""
    wait_until(lambda: in_flight(server) == 0, "nothing is under way")


def in_flight(server: ServerProcess) -> int:
    """How many requests the front end has begun to receive, and not answered.

    Only for a server that neither starts nor drains: its supervisor would read the answer.
    """
    number = str(random.randrange(10**9, 10**10))  # above those of the supervisor's commands
    with (server.runtime_dir / ANSWERS).open("r+b", buffering=0) as answers:
        with (server.runtime_dir / COMMANDS).open("r+b", buffering=0) as commands:
            commands.write(f"{number} status\n".encode())
        line = b""
        while not line.startswith(number.encode()) or not line.endswith(b"\n"):
            line = (b"" if line.endswith(b"\n") else line) + answers.read(1)
    count: int = json.loads(line.partition(b" ")[2])["in_flight"]
    return count
