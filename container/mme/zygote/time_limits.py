"""How long a load or a batch may take in a worker, where its model or the settings say so.

The front end waits as long for the one as for the other, and never shorter than its own response timeout. Where that is
not what is wanted, the kernel ends the worker (SIGALRM) in time, wherever its code is; the zygote says why.
"""

from __future__ import annotations

import signal
from typing import Any

from mme.frameworks.serving import ServingProperties
from mme.settings import Settings
from mme.zygote.session_records import SessionRecord


class TimeLimit:
    """Around what may take ``limit_s``; 0: as long as the front end waits."""

    def __init__(self, record: SessionRecord, limit_s: int = 0) -> None:
        self._record = record
        self._limit_s = limit_s
        self._models_own: Any = None

    def __enter__(self) -> None:
        if self._limit_s:
            self._record.limit_s = self._limit_s
            self._models_own = signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._limit_s)

    def __exit__(self, *_: object) -> None:
        if self._limit_s:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._models_own)
            self._record.limit_s = 0


class TimeLimits:
    """Those of the one model of this process: none before ``set_for``."""

    def __init__(self, settings: Settings, record: SessionRecord) -> None:
        self._settings = settings
        self._record = record
        self.of_load = self.of_batch = TimeLimit(record)

    def set_for(self, own: ServingProperties) -> None:
        """The model's own where it has some, else those of the settings."""
        settings = self._settings
        load_s = own.model_loading_timeout_s or settings.model_loading_timeout_s
        batch_s = own.predict_timeout_s or settings.predict_timeout_s
        if load_s or batch_s:  # the front end waits for the longer one
            self.of_load = TimeLimit(self._record, load_s or settings.worker_response_timeout_s)
            self.of_batch = TimeLimit(self._record, batch_s or settings.worker_response_timeout_s)
