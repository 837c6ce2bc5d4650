"""Metrics that a client finds in the log of its training job, by regular expressions (MetricDefinitions).

An expression may take for ever on a line, and then nothing else of its process goes on. So a process of its own matches
them, with a time and a memory limit: ``python -m local_endpoint.training.log_metrics``.

    first line of its input   the definitions, JSON: a list of [name, expression]
    its answer                {} or {name: what is wrong with its expression}
    each further line         a line of the log, JSON: a string
    its answer                {name: text of the first group}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import IO

from local_endpoint.configuration import child_environment

LINE_TIMEOUT_S = 5  # for all expressions on one line of the log, and for their compilation
LINE_CHARACTERS = 4096  # so much of a line is looked at; it fits into a pipe as JSON
MEMORY_BYTES = 512 * 1024 * 1024


class NotInTime(Exception):
    """The expressions took too long, or too much memory. Nothing is found any more."""


class LogMetrics:
    """Finds the metrics of one job. Call ``close`` at the end."""

    def __init__(self, definitions: Sequence[Mapping[str, str]]) -> None:
        """``definitions`` as in the request: Name and Regex, whose first group is the value.

        Raises ``NotInTime``, and ``ValueError`` where one is no regular expression.
        """
        self._process: subprocess.Popen[bytes] | None = None
        if not definitions:
            return
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "local_endpoint.training.log_metrics"],
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for name, reason in self._ask([[each["Name"], each["Regex"]] for each in definitions]).items():
            self.close()
            regex = next(each["Regex"] for each in definitions if each["Name"] == name)
            raise ValueError(f"Regex {regex} of metric {name} is no regular expression: {reason}")

    def find(self, line: str) -> dict[str, str]:
        """Texts by name. Raises ``NotInTime``, and finds nothing from then on."""
        return self._ask(line[:LINE_CHARACTERS]) if self._process is not None else {}

    def _ask(self, question: object) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the answer ends, too
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer.endswith(b"\n"):
            self.close()
            raise NotInTime
        found: dict[str, str] = json.loads(answer)
        return found

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        process.wait()


def answer_lines(lines: IO[str], answers: IO[str]) -> None:
    """What the process does, until its input ends. SIGALRM ends it where a line takes too long."""

    def answer(found: Mapping[str, str]) -> None:
        signal.alarm(0)
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    warnings.simplefilter("ignore")
    patterns: list[tuple[str, re.Pattern[str]]] = []
    wrong: dict[str, str] = {}
    definitions = json.loads(lines.readline())
    signal.alarm(LINE_TIMEOUT_S)
    for name, regex in definitions:
        try:
            patterns.append((name, re.compile(regex)))
        except (re.error, OverflowError, RecursionError) as error:
            wrong[name] = str(error)
    answer(wrong)
    for line in lines:
        text = json.loads(line)
        signal.alarm(LINE_TIMEOUT_S)
        matches = [(name, pattern.search(text)) for name, pattern in patterns]
        answer({name: match[1] for name, match in matches if match and match.groups() and match[1] is not None})


if __name__ == "__main__":
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answer_lines(sys.stdin, sys.stdout)
