"""What every program here does at its edges: one way to fail, one way to be interrupted, one way to ask for a port."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from collections.abc import Callable

from mme.settings import HIGHEST_PORT

INTERRUPTED = 130


class Failure(Exception):
    """Ends a program with exit code 1. The text says what failed and what to do about it."""


def run(main: Callable[[], int]) -> None:
    """Runs ``main`` and exits with its code; ``Failure`` and a file that cannot be used become a message and 1, Ctrl-C
    becomes 130."""
    program = main.__module__.rpartition(".")[2]
    if program == "__main__":
        program = sys.argv[0].rpartition("/")[2].removesuffix(".py")
    try:
        code = main()
    except Failure as failure:
        sys.stdout.flush()
        print(f"{program}: {failure}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # `| head` closed our output
        sys.stderr.close()
        code = 128 + signal.SIGPIPE
    except OSError as error:  # of a file or a full disk; anything else is a fault of the program
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stdout.flush()
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"{program}: {where}{error.strerror}. Choose a place that can be read and written.", file=sys.stderr)
        code = 1
    sys.exit(code)


def port(text: str) -> int:
    """An argparse type: a port that MMS can listen on."""
    if not text.isdigit() or not 1 <= int(text) <= HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to {HIGHEST_PORT} (MMS takes none above)")
    return int(text)


def any_port(text: str) -> int:
    """An argparse type: a port for a server of ours, which may be any."""
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def readable_size(size_bytes: int) -> str:
    """`4.9 MB`: decimal units, as disks, S3 and networks count."""
    for unit, unit_bytes in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} bytes"


def at_least_one(text: str) -> int:
    """A number of things on the command line. Raises ``argparse.ArgumentTypeError``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)
