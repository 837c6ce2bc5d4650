"""The arithmetic of admission. Pure: a sample of memory and some settings in, a decision out; all in bytes.

                                        limit
    ├────────────────────┬──────────┬─────┴──────┬─────────┤
    │ used               │ promised │ can be had │ reserve │
    └────────────────────┴──────────┴────────────┴─────────┘
                         └──────────── free ───────────────┘

used: what cannot be dropped. promised: what loads under way will still take. reserve: what loads leave to requests,
of which the last part, the floor, is left to what cannot be refused (the front end, the kernel, pages copied on write).
"""

from __future__ import annotations

from dataclasses import dataclass

from mme.capacity.memory import MIB, MemorySample
from mme.settings import Settings

SMALLEST_DEFAULT_RESERVE_BYTES = 256 * MIB
# So many of the largest bodies may be in the front end's heap at once, which is sized for them (-Xmx).
FRONT_END_BODIES = 16
DEFAULT_RESERVE_SHARE = 0.05
FLOOR_SHARE = 0.25  # of the reserve
# Of what is free above the floor, for one request: others may be taking theirs at the same time.
REQUEST_SHARE = 0.5


@dataclass(frozen=True)
class Decision:
    """Whether a load may go on, and if not, how much is to be freed first (else 0)."""

    admitted: bool
    missing_bytes: int


def decide(sample: MemorySample, *, promised_bytes: int, need_bytes: int, reserve_bytes: int) -> Decision:
    """May ``need_bytes`` be taken?"""
    missing = promised_bytes + need_bytes + reserve_bytes - sample.free_bytes
    return Decision(missing <= 0, max(0, missing))


def reserve_bytes(settings: Settings, sample: MemorySample) -> int:
    """What loads leave to requests: to workers, and to the bodies in the front end's heap, which it has not taken yet.

    The share is one of the smallest limit, whichever level is fullest just now.
    """
    if settings.memory_reserve_mb is not None:
        return settings.memory_reserve_mb * MIB
    share_bytes = int(sample.smallest_limit_bytes * DEFAULT_RESERVE_SHARE)
    return max(SMALLEST_DEFAULT_RESERVE_BYTES, share_bytes, 2 * FRONT_END_BODIES * settings.max_body_bytes)


def load_growth_bytes(sample: MemorySample, *, promised_bytes: int, reserve_bytes: int) -> int:
    """The most that a load may allocate while it runs, whatever was expected: all but others' shares and the floor."""
    return max(0, sample.free_bytes - promised_bytes - int(reserve_bytes * FLOOR_SHARE))


def request_growth_bytes(sample: MemorySample, *, reserve_bytes: int) -> int:
    """The most that a request may allocate."""
    return int(max(0, sample.free_bytes - int(reserve_bytes * FLOOR_SHARE)) * REQUEST_SHARE)
