"""Which files a model was loaded from, so that it never wakes with others: size, time of change and inode of each.

The time is that of what is in the file (mtime). That of its inode would tell of a write that sets the time back, too;
but it changes with a link or a right as well, which a program may give its files, and so may whoever keeps models.

Sixteen bytes in the session's record say it: a digest of all files, and up to which time of change files count. A model
that is data alone has all of them counted, for one that is added would be read, too. Where a model has code, that may
write to the folder: what is written later is none of the model's. One of the model's own that is written to, exchanged
or removed is missed among the older ones, and so the digest is another.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mme.capacity.footprint import Artifact, digest
from mme.errors import ModelChanged
from mme.zygote.session_records import SessionRecord

_CLOCK_REALTIME_COARSE = 5  # linux/time.h
_DIGEST_BYTES = 8
_FOR_EVER = (1 << 64) - 1  # later than any file


@dataclass(frozen=True)
class LoadedFiles:
    """Files with a time of change up to ``until_ns`` (ns since the epoch), and what they come to."""

    until_ns: int
    digest: int

    @classmethod
    def of(cls, artifact: Artifact, until_ns: int | None = None) -> LoadedFiles:
        """Those that a load of a program is about to read; or those of ``artifact`` that are as old."""
        if until_ns is None:
            # the clock that files get their times from: what is written from here on is later, if only by the last tick
            now_ns = time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)
            until_ns = max([now_ns - 1, *(changed_ns for _, _, changed_ns, _ in artifact.files)])
        counted = [each for each in artifact.files if each[2] <= until_ns]
        return cls(until_ns, int.from_bytes(digest(counted, _DIGEST_BYTES)))

    @classmethod
    def of_data(cls, artifact: Artifact) -> LoadedFiles:
        """Those of a model that is data alone."""
        return cls.of(artifact, _FOR_EVER)

    @classmethod
    def in_record(cls, record: SessionRecord) -> LoadedFiles:
        return cls(record.files_until_ns, record.files_digest)

    def write(self, record: SessionRecord) -> None:
        """Remembers them."""
        record.files_until_ns, record.files_digest = self.until_ns, self.digest

    def check(self, model: str, model_dir: Path, artifact: Artifact) -> None:
        """Raises ``ModelChanged`` where ``artifact`` is not what was loaded."""
        if LoadedFiles.of(artifact, self.until_ns) != self:
            raise ModelChanged(_message(model, model_dir))


def check_folder(model: str, model_dir: Path) -> None:
    """Raises ``ModelChanged`` where the model's folder is gone."""
    if not model_dir.is_dir():
        raise ModelChanged(_message(model, model_dir))


def _message(model: str, model_dir: Path) -> str:
    what = "have changed" if model_dir.is_dir() else "are gone"
    return (
        f"the files of model {model!r} {what} since it was loaded, and it has slept since then: it is unloaded. "
        "Load it again to serve what is there now."
    )
