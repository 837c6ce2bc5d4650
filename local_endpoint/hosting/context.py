"""What all instances of one local endpoint share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from local_endpoint.configuration import Limits
from local_endpoint.events import Events
from local_endpoint.hosting.runtimes import Runtime
from local_endpoint.storage.objects import ObjectReader
from local_endpoint.telemetry.logs import Logs


@dataclass(frozen=True)
class HostingContext:
    """``work_dir`` holds one folder per instance."""

    runtime: Runtime
    objects: ObjectReader
    limits: Limits
    events: Events
    work_dir: Path
    logs: Logs = field(default_factory=Logs)
