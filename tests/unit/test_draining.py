"""When a drain is over: by what the agent says, which is played here, and by the kernel's table of real connections."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mme.front_end import ANSWERS, COMMANDS
from mme.settings import Settings
from mme.supervisor import agent as agent_module
from mme.supervisor.agent import Agent, AgentError, Status
from mme.supervisor.draining import Drain, unreceived_bytes
from tests.harness.waiting import wait_until

STATUS: dict[str, Any] = {"in_flight": 0, "startup_model": "none", "failure_status": 0, "failure": ""}


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Of this protocol; that of version 6 takes both, as a JVM's does."""
    family = request.param
    with socket.create_server(("", 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_what_a_client_has_not_read_counts_until_it_has(listener: socket.socket) -> None:
    ports = frozenset([port_of(listener)])
    with socket.create_connection(("127.0.0.1", port_of(listener))) as client, listener.accept()[0] as server:
        client.sendall(b"request")
        assert unreceived_bytes(ports) == 0
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                server.sendall(bytes(1 << 20))
        assert unreceived_bytes(ports) > 0
        assert unreceived_bytes(frozenset([port_of(listener) + 1])) == 0

        client.setblocking(False)

        def all_is_read() -> bool:
            try:
                while client.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass
            return unreceived_bytes(ports) == 0

        wait_until(all_is_read, "the client's machine has acknowledged all")


def test_an_answer_counts_after_its_connection_is_closed(listener: socket.socket) -> None:
    ports = frozenset([port_of(listener)])
    with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
        server = listener.accept()[0]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                server.sendall(bytes(1 << 20))
        server.close()
        assert unreceived_bytes(ports) > 0
        while client.recv(1 << 20):
            pass
        wait_until(lambda: unreceived_bytes(ports) == 0, "the client's machine has acknowledged all")


def test_clients_that_wait_to_be_accepted_do_not_count(listener: socket.socket) -> None:
    with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
        client.sendall(b"request")
        assert unreceived_bytes(frozenset([port_of(listener)])) == 0


class PlayedAgent:
    """The other side of the pipes: answers each command with what it is to say next, the last for ever."""

    def __init__(self, runtime_dir: Path, answers: list[dict[str, Any]]) -> None:
        self.agent = Agent(runtime_dir)
        self.commands: list[str] = []
        self._answers = answers
        self._read = os.open(runtime_dir / COMMANDS, os.O_RDWR)
        self._write = os.open(runtime_dir / ANSWERS, os.O_RDWR)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with os.fdopen(self._read, "rb", closefd=False) as commands:
            for line in commands:
                number, _, command = line.decode().rstrip("\n").partition(" ")
                if command == "end":
                    return
                self.commands.append(command)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                os.write(self._write, f"{number} {json.dumps(answer)}\n".encode())

    def say(self, line: bytes) -> None:
        os.write(self._write, line)

    def close(self) -> None:
        os.write(self._read, b"0 end\n")
        self._thread.join()
        self.agent.close()
        for descriptor in (self._read, self._write):
            os.close(descriptor)


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., PlayedAgent]]:
    """``play(answer, …)``: an agent that gives these answers."""
    played = []

    def play(*answers: dict[str, Any]) -> PlayedAgent:
        played.append(PlayedAgent(tmp_path, list(answers) or [STATUS]))
        return played[-1]

    yield play
    for each in played:
        each.close()


def test_a_drain_is_over_when_the_agent_says_that_nothing_is_in_flight(play: Callable[..., PlayedAgent]) -> None:
    played = play(*({**STATUS, "in_flight": left} for left in (3, 3, 1, 0)))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        drain = Drain(Settings(port=port_of(unused)), played.agent)
        assert drain.in_flight == 3
        assert [drain.is_over() for _ in range(3)] == [False, False, True]
    assert played.commands == ["drain", "status", "status", "status"]


def test_an_agent_that_does_not_answer_ends_the_drain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT_S", 0.05)
    agent = Agent(tmp_path)
    try:
        assert Drain(Settings(), agent).is_over()
    finally:
        agent.close()


def test_the_agent_is_told_in_one_line_what_ping_is_to_say(play: Callable[..., PlayedAgent]) -> None:
    played = play()
    played.agent.report_unhealthy("the zygote\n ended")
    played.agent.report_healthy()
    assert played.commands == ["unhealthy the zygote ended", "healthy"]


def test_answers_to_other_commands_are_passed_over(play: Callable[..., PlayedAgent]) -> None:
    played = play({**STATUS, "in_flight": 7})
    played.say(b'99 {"in_flight": 1}\n0 {"event": "some')
    played.say(b'thing"}\n')
    assert played.agent.status() == Status(**{**STATUS, "in_flight": 7})


def test_the_agent_says_when_the_front_end_serves(play: Callable[..., PlayedAgent]) -> None:
    played = play()
    assert not played.agent.is_serving()
    played.say(b'0 {"event": "serving"}\n')
    assert played.agent.is_serving(timeout_s=10)
    played.agent.expect_start()
    assert not played.agent.is_serving()


def test_what_another_front_end_has_left_is_dropped(play: Callable[..., PlayedAgent]) -> None:
    played = play()
    played.say(b'0 {"event": "serving"}\n')
    played.agent.expect_start()
    assert not played.agent.is_serving()
    assert played.agent.status() == Status(**STATUS)


def test_the_pipes_are_for_this_user_alone(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    try:
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in (COMMANDS, ANSWERS)] == [0o600, 0o600]
    finally:
        agent.close()


def test_an_agent_that_reads_nothing_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "ANSWER_TIMEOUT_S", 0)
    agent = Agent(tmp_path)
    try:
        with pytest.raises(AgentError, match="reads no commands"):
            for _ in range(100_000):
                try:
                    agent.status()
                except AgentError as error:
                    if "did not answer" not in str(error):
                        raise
    finally:
        agent.close()
