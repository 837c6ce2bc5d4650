"""One loop of one thread: what can be read, what is due, which signals came. Never blocks but in its wait.

It is epoll and two dicts. ``selectors`` cannot say that the end of a connection alone is of interest (``EPOLLRDHUP``),
and that is what a template watches the connections of its workers for.

What a handler raises is logged, and the loop goes on: it serves many models.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Callable, Hashable

from mme.errors import StartError

logger = logging.getLogger("mme.zygote")

Handler = Callable[[], None]


class EventLoop:
    """Calls handlers until one calls ``stop`` or raises ``StartError``. They do their part at once and return."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Handler] = {}
        self._timers: dict[Hashable, tuple[float, Handler]] = {}  # due at time.monotonic()
        self._signals: dict[int, Handler] = {}
        self._stopped = False

    def run(self) -> None:
        """Returns after ``stop``."""
        while not self._stopped:
            ready = [(descriptor, self._readers[descriptor]) for descriptor, _ in self._epoll.poll(self._timeout_s())]
            for descriptor, handler in ready:
                # Another handler may have closed it meanwhile, and the number may already be another's.
                if self._readers.get(descriptor) is handler:
                    _call(handler)
            if self._timers:
                self._call_due()

    def stop(self) -> None:
        """Ends the loop after the current handler."""
        self._stopped = True

    def watch(self, descriptor: int, handler: Handler, events: int = select.EPOLLIN) -> None:
        """Calls ``handler`` whenever ``descriptor`` can be read or has come to its end, or for other ``events``.

        The end of a pipe or the death of a connection (``EPOLLHUP``) is always among them.
        """
        self._epoll.register(descriptor, events)
        self._readers[descriptor] = handler

    def is_watched(self, descriptor: int) -> bool:
        """Whether ``watch`` was called for it, and ``unwatch`` not yet."""
        return descriptor in self._readers

    def unwatch(self, descriptor: int) -> None:
        """Before the descriptor is closed."""
        del self._readers[descriptor]
        self._epoll.unregister(descriptor)

    def after(self, delay_s: float, key: Hashable, handler: Handler) -> None:
        """Calls ``handler`` once, later; another timer with this ``key`` is replaced."""
        self._timers[key] = time.monotonic() + delay_s, handler

    def cancel(self, key: Hashable) -> None:
        """Forgets the timer, if there is one."""
        self._timers.pop(key, None)

    def on_signals(self, handlers: dict[int, Handler]) -> None:
        """Calls a handler from the loop, not from where the signal came."""
        wakeup_read, wakeup_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
        self._signals = handlers
        for number in handlers:
            signal.signal(number, lambda *_: None)  # the wakeup descriptor gets the number
        self.watch(wakeup_read, lambda: self._handle_signals(wakeup_read))

    def _handle_signals(self, wakeup: int) -> None:
        for number in set(os.read(wakeup, 4096)):
            if number in self._signals:
                _call(self._signals[number])

    def _timeout_s(self) -> float | None:
        return max(min(due_s for due_s, _ in self._timers.values()) - time.monotonic(), 0.0) if self._timers else None

    def _call_due(self) -> None:
        now_s = time.monotonic()
        for key, timer in sorted(self._timers.items(), key=lambda item: item[1][0]):
            due_s, handler = timer
            # A handler before may have cancelled or replaced it.
            if due_s <= now_s and self._timers.get(key) is timer:
                del self._timers[key]
                _call(handler)


def _call(handler: Handler) -> None:
    try:
        handler()
    except StartError:
        raise
    except Exception:
        logger.exception("an error in the zygote's loop, which goes on")
