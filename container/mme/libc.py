"""The C library of this process. ``ctypes.CDLL`` makes a class each time, in a forked process of memory of its own."""

from __future__ import annotations

import ctypes

LIBC = ctypes.CDLL(None)
