"""The last lines of a worker that did not load: MMS stops reading as soon as the launcher ends (MMS-22)."""

from __future__ import annotations

import fcntl
import struct
import sys
import termios
import time

_LIMIT_S = 0.2
_POLL_S = 0.005
# From the pipe into the log: MMS's thread looks at each line whether it is to stop.
_LOGGED_S = 0.01


def let_output_be_read() -> None:
    """Waits until the front end has read what this process has written, for a moment at most."""
    deadline_s = time.monotonic() + _LIMIT_S
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        while any(_unread_bytes(number) for number in (1, 2)) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
    except OSError:
        return  # no pipe
    time.sleep(_LOGGED_S)


def _unread_bytes(descriptor: int) -> int:
    (unread,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))
    return int(unread)
