"""From our settings to what Multi Model Server (MMS) and its JVM are told. Pure: nothing is read, written or started.

MMS 1.1.11 is configured in three places, each of which this module words:

- ``properties``: the file named by ``--mms-config`` (upstream: frontend/.../util/ConfigManager.java);
- ``log_properties``: the file named by ``--log-config``, which the front end's agent reads (Logs.java);
- ``environment``: what the JVM, and through it every worker, inherits, but for ``own_variables``.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from mme import threads
from mme.capacity.cores import whole_cores
from mme.capacity.policy import FRONT_END_BODIES
from mme.capacity.scaling import Limits
from mme.frameworks import registry
from mme.front_end import PLUGINS_FOLDER
from mme.settings import DEFAULT_HANDLER, Settings

# Files in the server's private folder.
PROPERTIES_FILE = "mms.properties"
LOG_CONFIG_FILE = "log.properties"

# The front end's heap in MiB, FRONT_END_BODIES aside (MMS-27). Left alone, the JVM takes up to a quarter of the
# machine, whatever the container's limit. 1,000 loaded models fill 130 MiB (measured, -Xlog:gc).
HEAP_MIB = 512
# What compiling and reading requests took in C's heap is given back: 25 MB after minutes of loads (soak).
TRIM_EVERY_MS = 20_000
# At the end of each concurrent collection, also that of an idle JVM (IdleHeap), the heap shrinks to what is used and so
# much more of it. By default it keeps more than twice what is used: 20 MB, and more after each busy hour (soak).
_TIGHT_HEAP = "-XX:MinHeapFreeRatio=10 -XX:MaxHeapFreeRatio=30 "
# Class archives stay at the addresses that they were written for. Moved, which hides where classes are, each page of
# them is written to, and so is no file's any more: 13 MB.
_ARCHIVES_IN_PLACE = "-XX:+UnlockDiagnosticVMOptions -XX:ArchiveRelocationMode=0 "
# For the JVM alone: left alone, glibc gives threads heaps of their own, up to eight for each core, and five
# threads come with each model. 0.4 MB of the 0.8 that a further model took in the front end, at once after its load.
_MALLOC_ARENAS = {"MALLOC_ARENA_MAX": "2"}
# Each thread touches this much of its stack below what it uses, in pages of 4 KiB: the JVM's own 20 are 80 KiB for each
# of the five threads that a model has. So few are allowed on x86-64 alone.
_SMALL_STACKS = "-XX:StackShadowPages=10 " if platform.machine() == "x86_64" else ""
_LOG4J_LEVELS = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
# Our own part below Log4j's interface. Log4j's core took a third of the JVM's start to put itself together.
_LOGS = "-Dlog4j2.loggerContextFactory=mme.Logs "
# What stock MMS logs as several lines, none of it from a request: its configuration.
_LOG4J_SEVERAL_LINES = "com.amazonaws.ml.mms.ModelServer"
# The platform asks for these every few seconds (CONTRACT: /ping, and GET /models on a multi-model endpoint; /metrics
# where detailed observability is on).
_PLATFORM_POLLS = '.*"GET /(ping|models|metrics) HTTP/.*'
# What the front end says of each load, unload and request, at up to WARN, and the access log has already.
_CHATTER = (r"(attach|terminate)IOStreams\(\) .*", "Stopped Scanner - .*", "Backend response time: .*")


def properties(
    settings: Settings,
    *,
    cores: int,
    model_store: Path,
    class_archive: Path | None = None,
    trims_native_heap: bool = False,
    maps_archives_in_place: bool = False,
    hidden_variables: Iterable[str] = (),
) -> str:
    """The text of MMS's properties file. ``cores`` is the default worker count in single-model mode.

    ``class_archive``: see class_archive.py. ``trims_native_heap``, ``maps_archives_in_place``: the JVM knows how to
    (preflight.py). ``hidden_variables`` of the front end's environment are not for workers: ``own_variables``.
    """
    archived = f"-XX:SharedArchiveFile={class_archive} " if class_archive else ""
    in_place = _ARCHIVES_IN_PLACE if maps_archives_in_place else ""
    trimming = f"-XX:TrimNativeHeapInterval={TRIM_EVERY_MS} " if trims_native_heap else ""
    max_payload_bytes = settings.max_body_bytes
    values = {
        "enable_envvars_config": "false",  # MMS_… variables would win over all of this, addresses included (MMS-24)
        "model_store": model_store,
        "inference_address": inference_address(settings),
        "management_address": management_address(settings),
        "default_service_handler": settings.handler or DEFAULT_HANDLER,
        "default_workers_per_model": settings.least_workers(cores),
        # In seconds. The older default_response_timeout is read as minutes, whatever the toolkit believes (MMS-24).
        "default_response_timeout_seconds": settings.worker_response_timeout_s,
        "max_request_size": max_payload_bytes,
        "max_response_size": max_payload_bytes,
        "async_logging": "false",  # that of Log4j's core; ours is (LogOutput.java)
        # Bodies reach the handler as bytes, whatever their type; it decodes them itself and answers 400 if it cannot.
        "decode_input_request": "false",
        "blacklist_env_vars": "|".join(hidden_variables),
        "vmargs": archived + in_place + trimming + jvm_arguments(settings),
        # Below the JVM's working folder: the front end's agent (front_end/src/mme/Agent.java).
        "plugins_path": f"../{PLUGINS_FOLDER}",  # from the working folder
    }
    return "".join(f"{key}={_escaped(str(value))}\n" for key, value in values.items())


def load_policy(settings: Settings, roots: Iterable[Path], *, cores: float) -> str:
    """The text of load-policy.properties: front_end/src/mme/LoadPolicy.java has the keys.

    ``cores`` are those that the server may use.
    """
    least_workers = settings.least_workers(whole_cores(cores))
    most_workers = settings.max_workers or Limits.of(settings, cores).workers_per_model
    values = {
        "root_allowed": str(not settings.multi_model).lower(),
        # With spawned workers, stock behaviour; the model of single-model mode must not go.
        "unload_hopeless": str(settings.multi_model and settings.workers == "fork").lower(),
        "records_targets": str(settings.metrics_target_model).lower(),
        "most_models": str(settings.most_models or 0),
        "autoscale": str(settings.autoscale).lower(),
        "workers_fixed": str(settings.default_workers_per_model is not None).lower(),
        # of a model whose serving.properties says nothing, like all that follows
        "min_workers": str(least_workers),
        "max_workers": str(max(least_workers, most_workers)),
        "max_idle_s": str(settings.max_idle_time_s),
        # 0 s: the response timeout is enough
        "queue_size": str(settings.job_queue_size),
        "batch_size": str(settings.batch_size),
        "batch_delay_ms": str(settings.max_batch_delay_ms),
        "response_timeout_s": str(settings.worker_response_timeout_s),
        "load_timeout_s": str(settings.model_loading_timeout_s or 0),
        "answer_timeout_s": str(settings.predict_timeout_s or 0),
        **{f"root.{number}": str(root.resolve()) for number, root in enumerate(roots)},
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in values.items())


def inference_address(settings: Settings) -> str:
    """Where requests are answered, as MMS words addresses."""
    return f"http://{settings.host}:{settings.port}"


def management_address(settings: Settings) -> str:
    """Where models are loaded, listed, scaled and unloaded: the same address, one of this machine, or a Unix socket."""
    if settings.management == "same":
        return inference_address(settings)
    if settings.management_socket:
        return f"unix:{settings.management_socket}"
    return f"http://127.0.0.1:{settings.management_port}"


def jvm_arguments(settings: Settings) -> str:
    """The JVM's arguments: ours, which have no effect on what it serves, then those of the settings."""
    # PerfData would be left in /tmp by a killed JVM, and cannot be written on a read-only file system.
    heap_mib = HEAP_MIB + FRONT_END_BODIES * -(-settings.max_body_bytes // 2**20)
    ours = f"-XX:-UsePerfData {_LOGS}{_SMALL_STACKS}{_TIGHT_HEAP}-Xmx{heap_mib}m"
    return f"{ours} {settings.jvm_arguments}"


def _escaped(value: str) -> str:
    """A value as java.util.Properties reads it: Latin-1 with backslash escapes."""
    value = value.replace("\\", "\\\\")
    return "".join(
        character if ord(character) < 256 else "".join(f"\\u{unit:04x}" for unit in _utf16(character))
        for character in value
    )


def _utf16(character: str) -> list[int]:
    encoded = character.encode("utf-16-be")
    return [int.from_bytes(encoded[at : at + 2], "big") for at in range(0, len(encoded), 2)]


def log_properties(settings: Settings) -> str:
    """The text of the log's configuration: everything to standard output, in the format and from the level asked for.

    Stock MMS writes six rotating files below its working directory, which a container neither shows nor keeps (MMS-26).
    """
    level = _LOG4J_LEVELS[settings.log_level]
    # what stock MMS keeps out of its console: a line per metric and per request
    detail = "info" if settings.logs_metrics else "warn"
    wlm = "com.amazonaws.ml.mms.wlm"
    values = {
        "format": settings.log_format,
        "level": level,
        "several_lines": _LOG4J_SEVERAL_LINES,
        f"level.{_LOG4J_SEVERAL_LINES}": level,
        "level.ACCESS_LOG": "info" if settings.log_level <= 20 else "off",
        "level.MODEL_METRICS": detail,
        "level.MMS_METRICS": detail,
        # what workers say arrives as INFO from standard output, as WARN from standard error (configure_worker_logging)
        f"level.{wlm}.WorkerLifeCycle": level if settings.log_level <= 20 else "warn",
        f"level.{wlm}.WorkerThread": level,
        "level.com.amazonaws.ml.mms.http.HttpRequestHandler": "warn",
        "level.io.netty": "error",
        "level.org.apache": "off",
    }
    if settings.log_level > 10:
        values["deny.ACCESS_LOG"] = _PLATFORM_POLLS
        values[f"deny.{wlm}.WorkerLifeCycle"] = values[f"deny.{wlm}.WorkerThread"] = _chatter()
    return "".join(f"{key}={_escaped(value)}\n" for key, value in values.items())


def environment(
    settings: Settings, inherited: Mapping[str, str], *, runtime_dir: Path, package_dir: Path
) -> dict[str, str]:
    """The environment of the front end and, through it, of the workers.

    ``runtime_dir`` is this server's private folder: temporary files, sockets and the pid file stay inside it, so that
    several servers share a machine. ``package_dir`` holds the handler and our package.
    """
    # MMS's own variables would make the JVM read another configuration than ours (ConfigManager, constructor).
    result = {name: value for name, value in inherited.items() if not name.startswith("MMS_")}
    if not re.search("utf-?8", _locale(inherited), re.IGNORECASE):
        # The JVM words file names and arguments in the locale's encoding: a model "é" would become "?".
        result["LC_ALL"] = "C.UTF-8"
    temporary = str(runtime_dir / "tmp")
    result["TMPDIR"] = temporary  # where multi-model-server keeps its pid file
    result["TEMP"] = temporary  # becomes java.io.tmpdir: sockets, log pipes, unpacked archives
    result["MME_RUNTIME_DIR"] = str(runtime_dir)
    result["PYTHONPATH"] = ":".join(filter(None, [str(package_dir), inherited.get("PYTHONPATH", "")]))
    result["PYTHONUNBUFFERED"] = "1"
    # multi-model-server is looked up on PATH; it is installed beside the interpreter that runs us.
    result["PATH"] = ":".join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    if settings.java_home:
        result["JAVA_HOME"] = str(settings.java_home)
    # The toolkit compares these texts literally.
    result["SAGEMAKER_MULTI_MODEL"] = "true" if settings.multi_model else "false"
    result["SAGEMAKER_BASE_DIR"] = str(settings.base_dir)
    threads.set_default(result)
    return registry.environment(settings) | own_variables(inherited) | result


def own_variables(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the front end alone is told, where the user has said nothing of it."""
    return {name: value for name, value in _MALLOC_ARENAS.items() if name not in inherited}


def _chatter() -> str:
    return "|".join([*_CHATTER, *(line for each in registry.descriptions() for line in each.chatter)])


def _locale(environment: Mapping[str, str]) -> str:
    """The locale of texts, as the C library looks it up."""
    return next(filter(None, (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "C")
