"""What the local endpoint is told: its command line, and the numbers that imitate the platform.

The only place of this package that reads the environment, and only for what a child process needs to run at all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

ACCOUNT = "123456789012"
DEFAULT_REGION = "us-east-1"
MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """The platform's numbers, as AWS documents them unless a comment says otherwise. Tests shorten some of them."""

    request_bytes: int = 6_291_456
    """Largest body of an invocation."""
    response_bytes: int = 6_291_456
    """Largest body of its answer."""
    hop_bytes: int = 5 * MIB
    """Largest answer of a container that is passed on to the next one."""
    response_timeout_s: float = 60.0
    """An invocation is answered within this time, be it with ModelNotReadyException."""
    load_timeout_s: float = 360.0
    """How long the download and load of a model may go on in the background."""
    startup_timeout_s: float = 240.0
    """A container must pass /ping in this time; ``ContainerStartupHealthCheckTimeoutInSeconds`` overrides it."""
    ping_timeout_s: float = 2.0
    health_interval_s: float = 5.0
    ping_failures: int = 6
    """So many failed health checks in a row replace an instance (our choice; AWS does not say)."""
    stop_timeout_s: float = 30.0
    """From SIGTERM to SIGKILL."""
    drain_timeout_s: float = 70.0
    """How long a retired instance may finish its requests (our choice: no request outlives it)."""
    archive_bytes: int = 20 * GIB
    """Most bytes that an archive may unfold to (our choice)."""
    archive_members: int = 100_000
    disk_bytes: int = 30 * GIB
    """Space for artifacts per instance; ``VolumeSizeInGB`` overrides it (our choice; AWS sizes it by instance type)."""
    load_tries: int = 16
    """How often a load that was answered 507 is tried, one model being unloaded before each new try (our choice)."""
    invoke_tries: int = 4
    """How often an invocation that was answered 507 is tried, likewise (our choice)."""
    victim_wait_s: float = 10.0
    """How long a load waits for a model that may be unloaded while all of them are in use (our choice)."""
    loads_at_once: int = 4
    """Downloads and loads at the same time per instance (our choice; doubled where ModelCacheSetting is Disabled)."""
    busy_invocations: int = 4
    """With so many invocations of one model in flight, an instance counts as busy for it (our choice)."""


@dataclass(frozen=True)
class RootKey:
    """The key of the account's root user, who may do everything."""

    access_key: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> RootKey:
        """Of ``KEY:SECRET``. Raises ``ValueError``."""
        access_key, colon, secret = text.partition(":")
        if not colon or not access_key.isalnum() or not secret:
            raise ValueError(f"{text!r} is not KEY:SECRET, KEY of letters and digits")
        return cls(access_key, secret)


@dataclass(frozen=True)
class Configuration:
    """One run of the local endpoint. ``port`` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 4566
    allowed_hosts: tuple[str, ...] = ()
    """Further names and addresses by which clients may call this machine, and all names below them."""
    moto_api_is_open: bool = False
    """Whether moto's own interface (``/moto-api``) can be reached, which empties everything."""
    runtime: str = "process"
    state_dir: Path | None = None
    root_key: RootKey | None = None
    """Where it is given, signatures and policies are checked (``--auth``)."""
    metric_period_s: float = 60.0
    """How often metrics are published; CloudWatch has them by the minute."""
    limits: Limits = field(default_factory=Limits)


def child_environment() -> dict[str, str]:
    """What a container process inherits from this machine. All else comes from the model's ``Environment``.

    It preloads no framework unless it is told to: on AWS a container has its machine to itself, and a minute to start.
    """
    inherited = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "MME_PRELOAD")
    return {"MME_PRELOAD": "none"} | {name: os.environ[name] for name in inherited if name in os.environ}
