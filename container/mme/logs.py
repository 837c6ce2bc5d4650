"""The log lines of our own processes, in the same two formats as the front end's (front_end/src/mme/LogFormat.java)."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time

from mme.settings import Settings

_ESCAPED_CONTROL_CHARACTERS = {
    code: repr(chr(code))[1:-1] for code in (*range(32), *range(0x7F, 0xA0)) if chr(code) != "\t"
}


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for ``record``; a traceback becomes part of the message."""
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        entry = {
            "time": f"{seconds}.{int(record.msecs):03d}{time.strftime('%z', time.localtime(record.created))}",
            "level": record.levelname,
            "logger": record.name,
            "thread": record.threadName,
            "message": message,
        }
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00,123 [INFO ] mme.supervisor.server - message``"""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s,%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)-5s] %(name)s - %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, without control characters: a model's name or URL in it comes from a request."""
        record.message = record.message.translate(_ESCAPED_CONTROL_CHARACTERS)
        return super().formatMessage(record)


def relay_as_json(descriptor: int, source: str) -> None:
    """Copies the lines of ``descriptor`` to standard output; what is no JSON object becomes one, of logger ``source``.

    Runs in a thread of the supervisor. The front end prints a few lines past its log (the JVM's warnings, MMS's
    banner), and in the zygote MXNet's library does so; in the ``json`` format these would not parse.
    """
    logger = logging.getLogger(source)
    with open(descriptor, "rb") as lines:
        for line in lines:
            if line.startswith(b"{") and line.rstrip().endswith(b"}"):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
            elif line.strip():
                logger.info("%s", line.decode(errors="replace").rstrip())


def json_output(source: str) -> int:
    """A descriptor for the output of a program that does not write JSON: a thread relays it. The caller closes it."""
    read, write = os.pipe2(os.O_CLOEXEC)
    threading.Thread(target=relay_as_json, args=(read, source), name=f"relay-{source}", daemon=True).start()
    return write


def configure_logging(settings: Settings) -> None:
    """Sends the root logger to standard output in the format and from the level of ``settings``."""
    logging.addLevelName(logging.WARNING, "WARN")  # as log4j names it
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)


def configure_worker_logging(settings: Settings) -> None:
    """The log of a worker: bare messages on the streams that the front end reads.

    That logs what it reads from standard output as INFO, from standard error as WARN (WorkerLifeCycle.java). So what is
    serious goes to standard error: the reason of a failed load is not to be lost where the log begins above INFO.
    """
    ordinary, serious = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    ordinary.addFilter(lambda record: record.levelno < logging.WARNING)
    serious.setLevel(max(logging.WARNING, settings.log_level))
    # the front end waits for some of the lines of INFO
    level = min(logging.INFO, settings.log_level)
    logging.basicConfig(handlers=[ordinary, serious], format="%(message)s", level=level, force=True)
