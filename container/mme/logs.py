"""The log lines of our own processes, in the same two formats as the front end's (``mms_config.log4j2_xml``)."""

from __future__ import annotations

import json
import logging
import sys
import time

from mme.settings import Settings


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
    """``2026-01-31T12:00:00,123 [INFO ] mme.server - message``"""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s,%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(levelname)-5s] %(name)s - %(message)s")


def configure_logging(settings: Settings) -> None:
    """Sends the root logger to standard output in the format and from the level of ``settings``."""
    logging.addLevelName(logging.WARNING, "WARN")  # as log4j names it
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
