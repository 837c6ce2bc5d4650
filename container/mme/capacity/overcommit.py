"""Which models go to sleep so that another one finds room. Pure: what sessions are at in, whom to ask out.

    a session is    idle    its model is loaded and it has no request: it may sleep
                    busy    it loads, wakes, or works on a request: it may sleep in a moment
                    fixed   it must not be ended: the model says so, or nobody would wake it

The least recently used idle ones sleep first, and no more than are needed. A session that was woken is busy until it
has answered, and is the one that was used last then: so models take turns, and none is put to sleep again before it has
done what it was woken for. A load that not even all others could make room for puts nobody to sleep.

Who needs room waits for it, one after the other in the order in which they came (``reservations.py``): each gets the
memory that was freed for it, however large the others are. A worker that comes in the place of one that has died waits
behind nobody: what that one took is kept for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class AwakeSession:
    """A session that has a process. ``key`` is its own, ``model`` is that of all sessions of one model."""

    key: int
    model: int
    taken_bytes: int  # what its end gives back, as far as is known
    used_ns: int
    is_idle: bool


@dataclass(frozen=True)
class Plan:
    """Whom to ask, least recently used first. ``is_hopeless``: nobody, for all of them together are not enough."""

    sleepers: tuple[AwakeSession, ...]
    is_hopeless: bool = False


class Neighbours(Protocol):
    """The other sessions of the server, as the one sees them that needs memory."""

    model: int

    def awake(self, *, exactly: bool = False) -> list[AwakeSession]:
        """All that have a process and are not fixed.

        Unless ``exactly``, some may hold more than is said, and those are missing that are falling asleep just now.
        """

    def put_to_sleep(self, sessions: Sequence[AwakeSession]) -> list[AwakeSession]:
        """Asks them and waits until each has gone or has something else to do. Returns those that do not react."""


def plan(sessions: Iterable[AwakeSession], missing_bytes: int, model: int, *, soon_bytes: int = 0) -> Plan:
    """Who sleeps so that a session of ``model`` finds ``missing_bytes`` more. Its siblings do not: they are as busy.

    Where those that are idle are not enough, they sleep, and the busy ones are waited for. ``soon_bytes`` is what loads
    under way are going to take: they may sleep later, too.
    """
    others = [each for each in sessions if each.model != model]
    if soon_bytes + sum(each.taken_bytes for each in others) < missing_bytes:
        return Plan((), is_hopeless=True)
    chosen = []
    for session in sorted((each for each in others if each.is_idle), key=lambda each: each.used_ns):
        if missing_bytes <= 0:
            break
        chosen.append(session)
        missing_bytes -= session.taken_bytes
    return Plan(tuple(chosen))
