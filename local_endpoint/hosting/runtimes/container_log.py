"""What a container process writes, in a file that does not grow without bound.

    container.log      the newest, up to ``LIMIT_BYTES``
    container.log.old  what was in it before, whole; the one before that is gone

The process writes into a pipe, as in Docker, and a thread copies; it hands each piece to ``output``, too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 256 * 1024
PIECE_BYTES = 64 * 1024
DRAINED_PIECES = 16  # 1 MiB, the most that Linux gives a pipe by default (pipe-max-size)


class ContainerLog:
    """Give ``write_end`` to the process, then call ``follow``; ``close`` when the process is gone."""

    def __init__(
        self, path: Path, limit_bytes: int = LIMIT_BYTES, output: Callable[[bytes], None] = lambda _: None
    ) -> None:
        self._path = path
        self._old_path = path.with_name(path.name + ".old")
        self._limit_bytes = limit_bytes
        self._output = output
        self._file = path.open("ab")
        self._read_end, self.write_end = os.pipe()
        self._close_read_end, self._close_write_end = os.pipe()
        self._thread = threading.Thread(target=self._copy, name=f"log-{path.parent.name}", daemon=True)

    def follow(self) -> None:
        """From now on only the process has the other end."""
        self._close_write_side()
        self._thread.start()

    def _close_write_side(self) -> None:
        os.close(self.write_end)
        self.write_end = -1

    def close(self) -> None:
        """Returns when all that was written is in the file, also where something that survives has the pipe open."""
        os.close(self._close_write_end)
        if self.write_end >= 0:
            self._close_write_side()
        if self._thread.ident is None:
            self._release()
        else:
            self._thread.join()

    def tail(self, lines: int) -> str:
        """The last lines, of the last ``TAIL_BYTES`` at most."""
        kept = b""
        for path in (self._path, self._old_path):
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - (TAIL_BYTES - len(kept))))
                kept = file.read() + kept
            if len(kept) >= TAIL_BYTES:
                break
        return "\n".join(kept.decode(errors="replace").splitlines()[-lines:])

    # ---- the thread ----

    def _copy(self) -> None:
        os.set_blocking(self._read_end, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            selector.register(self._close_read_end, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._close_read_end in ready:
                    self._drain()
                    break
                if not self._write_piece():
                    break
        self._release()

    def _drain(self) -> None:
        """Copies what is in the pipe, and no more than a pipe holds: something that survives may write without end."""
        for _ in range(DRAINED_PIECES):
            if not self._write_piece():
                return

    def _write_piece(self) -> bool:
        """False where the pipe is empty or at its end."""
        try:
            piece = os.read(self._read_end, PIECE_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            return False
        self._output(piece)
        with contextlib.suppress(OSError):  # the disk is full, or the folder is gone: the process must not block
            if self._file.tell() + len(piece) > self._limit_bytes and self._file.tell() > 0:
                self._file.close()
                self._path.replace(self._old_path)
                self._file = self._path.open("ab")
            self._file.write(piece)
            self._file.flush()
        return True

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        os.close(self._read_end)
        os.close(self._close_read_end)
