"""One container of an instance: its process or Docker container, its client, and the models that it holds.

Lifetime   start (fetch the only model, run, pass /ping), serve, stop
Watched by two threads: one waits for its exit, one pings it. The first to notice its end reports it, once.
Ended by   its instance, when that one is stopped or another of its containers has ended
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from local_endpoint.container_client import Answer, ContainerClient
from local_endpoint.errors import (
    AwsError,
    PingFailure,
    StartFailure,
    log_group,
    model_error,
    model_timeout,
    payload_too_large,
)
from local_endpoint.events import Where
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import ContainerDefinition, VariantDefinition
from local_endpoint.hosting.runtimes import LaunchSpec, RunningContainer
from local_endpoint.model_cache.artifacts import DISK_FULL_CODE, ArtifactStore, download_refused
from local_endpoint.model_cache.cache import ModelCache
from local_endpoint.model_cache.eviction import CacheContext
from local_endpoint.storage.location import S3Location
from local_endpoint.telemetry.logs import LogWriter

logger = logging.getLogger(__name__)

# Each /ping of a JVM that starts costs it some 3 ms of processor time: all that it does, it does for the first time.
START_POLL_S = 0.05
START_TRIES = 2
# What still runs when a container is stopped ends within moments: it is gone, and downloads are told.
IDLE_TIMEOUT_S = 3.0


class Container:
    """``start`` → serve → ``stop``. ``on_end`` is called at most once, from a watcher's thread, with the reason."""

    def __init__(
        self,
        definition: ContainerDefinition,
        variant: VariantDefinition,
        instance_id: str,
        number: int,
        base_dir: Path,
        context: HostingContext,
        on_end: Callable[[str], None],
    ) -> None:
        """``number`` counts from 1, in the model's order. ``base_dir`` becomes the container's /opt/ml."""
        self.definition = definition
        self._variant = variant
        self._instance_id = instance_id
        self._number = number
        self._name = f"container_{number}"  # what AWS's texts call it
        self._launch_name = f"{instance_id}-{number}"
        self._base_dir = base_dir
        self._context = context
        self._on_end = on_end
        self._running: RunningContainer | None = None
        self._client: ContainerClient | None = None
        self._cache: ModelCache | None = None
        self._log: LogWriter | None = None
        self._stopping = threading.Event()
        self._end_reported = threading.Lock()
        self._end_reason: str | None = None  # where it was not we who ended it
        self._stop_lock = threading.Lock()

    # ---- start ----

    def start(self) -> None:
        """Brings the container up and returns when it is healthy. Raises ``StartFailure``."""
        self._base_dir.mkdir(parents=True)
        self._log = self._open_log()
        disk_bytes = self._variant.container_disk_bytes
        store = ArtifactStore(self._base_dir, self._context.objects, self._context.limits, disk_bytes)
        if not self.definition.multi_model and self.definition.location is not None:
            self._fetch_only_model(store, self.definition.location)
        self._running, self._client = self._run_until_healthy()
        if self.definition.multi_model:
            self._cache = self._make_cache(store, self._running, self._client)
        threading.Thread(target=self._watch_exit, name=f"exit-{self._launch_name}", daemon=True).start()
        threading.Thread(target=self._watch_health, name=f"health-{self._launch_name}", daemon=True).start()
        logger.info("%s: container %s serves on port %d", self._variant.endpoint, self._launch_name, self._running.port)

    def _open_log(self) -> LogWriter:
        variant, hostname = self._variant, self.hostname_among_others
        stream = f"{variant.name}/{self._instance_id}" + (f"/{hostname}" if hostname else "")
        return self._context.logs.open(variant.region, log_group(variant.endpoint), stream)

    def _make_cache(self, store: ArtifactStore, running: RunningContainer, client: ContainerClient) -> ModelCache:
        variant = self._variant
        context = CacheContext(
            where=Where(variant.region, variant.endpoint, variant.name, self._instance_id, self.hostname_among_others),
            emit=self._context.events.emit,
            model_error=self.model_error,
            model_timeout=self.model_timeout,
            container_models_dir=f"{running.base_dir}/models",
        )
        keep, disk_bytes = self.definition.keep_models, variant.container_disk_bytes
        return ModelCache(client, store, self._context.limits, context, keep=keep, disk_bytes=disk_bytes)

    def _fetch_only_model(self, store: ArtifactStore, location: S3Location) -> None:
        try:
            store.fetch(location, self._base_dir / "model", time.monotonic() + self._variant.download_timeout_s)
        except AwsError as error:
            if error.message == download_refused(location).message:
                raise StartFailure(missing_model_data(location, self._name)) from None
            if error.code == DISK_FULL_CODE:
                raise StartFailure(error.message) from None
            reason = error.message.partition(" Reason: ")[2]
            raise StartFailure(
                f'Failed to extract model data archive for container "{self._name}" from URL "{location.url}". '
                f"Please ensure that the object located at the URL is a valid tar.gz archive. ({reason})"
            ) from None
        except TimeoutError as error:
            raise StartFailure(f"{missing_model_data(location, self._name)} ({error})") from None

    def _run_until_healthy(self) -> tuple[RunningContainer, ContainerClient]:
        """A container that ends at once is started once more: its port may have been taken meanwhile."""
        definition, variant = self.definition, self._variant
        assert self._log is not None  # start() has opened it
        spec = LaunchSpec(
            name=self._launch_name,
            image=definition.image,
            environment=definition.environment,
            base_dir=self._base_dir,
            multi_model=definition.multi_model,
            instance_type=variant.instance_type,
            hostname=definition.hostname,
            number=self._number,
            of_containers=len(variant.containers),
            output=self._log.write,
        )
        stop_timeout_s = self._context.limits.stop_timeout_s
        deadline_s = time.monotonic() + variant.startup_timeout_s
        for last in [False] * (START_TRIES - 1) + [True]:
            running = self._context.runtime.start(spec)
            client = ContainerClient(running.host, running.port, response_bytes=self._context.limits.response_bytes)
            try:
                reason = self._wait_until_healthy(running, client, deadline_s)
            except BaseException:
                client.close()
                running.stop(stop_timeout_s)
                raise
            if reason is None:
                return running, client
            client.close()
            tail = running.log_tail()
            running.stop(stop_timeout_s)
            logger.warning("%s: container %s did not start: %s\n%s", variant.endpoint, spec.name, reason, tail)
            if last or time.monotonic() > deadline_s:
                raise PingFailure(variant.name, {definition.display_name: f"{reason}. Its last lines:\n{tail}"})
        raise AssertionError("unreachable")

    def _wait_until_healthy(self, running: RunningContainer, client: ContainerClient, deadline_s: float) -> str | None:
        """None once it is healthy, else why it will not be. Raises ``StartFailure`` if it is stopped meanwhile."""
        while True:
            reason = running.exit_reason()
            if reason is not None:
                return reason
            if client.is_healthy(self._context.limits.ping_timeout_s, self.definition.multi_model):
                return None
            if time.monotonic() > deadline_s:
                return f"it did not answer within {self._variant.startup_timeout_s:.0f} s"
            if self._stopping.wait(START_POLL_S):
                raise StartFailure("The instance was stopped while it started.")

    # ---- serve ----

    @property
    def hostname_among_others(self) -> str | None:
        """Its hostname, where its instance has several containers."""
        return self.definition.hostname if len(self._variant.containers) > 1 else None

    @property
    def folder(self) -> Path:
        """Its disk: what is /opt/ml in it."""
        return self._base_dir

    @property
    def client(self) -> ContainerClient:
        assert self._client is not None, "start() has not returned"
        return self._client

    @property
    def cache(self) -> ModelCache:
        assert self._cache is not None, "a single-model container has no cache"
        return self._cache

    @property
    def running(self) -> RunningContainer:
        """What the runtime made of it."""
        assert self._running is not None, "start() has not returned"
        return self._running

    def model_error(self, answer: Answer) -> AwsError:
        """What a client is told of an answer that is an error."""
        variant, name = self._variant, self.definition.display_name
        return model_error(variant.region, variant.endpoint, name, answer.status, answer.body)

    def refuse_to_pass_on(self, answer: Answer, next_one: Container) -> AwsError:
        """What a client is told of an answer that is too large to be the request of ``next_one``."""
        names = (self.definition.display_name, next_one.definition.display_name)
        return payload_too_large(self._variant.region, self._variant.endpoint, names, answer.status, answer.body)

    def model_timeout(self) -> AwsError:
        """What a client is told when no answer came in time."""
        return model_timeout(self._variant.region, self._variant.endpoint, self.definition.display_name)

    # ---- watch ----

    def _watch_exit(self) -> None:
        self.running.wait()
        self._report_end(self.running.exit_reason() or "it ended")

    def _watch_health(self) -> None:
        limits = self._context.limits
        failures = 0
        while not self._stopping.wait(limits.health_interval_s):
            if self.client.is_healthy(limits.ping_timeout_s, self.definition.multi_model):
                failures = 0
                continue
            failures += 1
            if failures >= limits.ping_failures:
                self._report_end(f"it failed {failures} health checks in a row")
                return

    def _report_end(self, reason: str) -> None:
        if not self._stopping.is_set() and self._end_reported.acquire(blocking=False):
            self._end_reason = reason
            self._on_end(reason)

    # ---- stop ----

    def stop(self) -> None:
        """Ends it. May be called more than once, and while ``start`` runs. Its folder is the instance's to remove."""
        self._stopping.set()
        with self._stop_lock:
            # before the container: whoever waits for a model, or comes just now, goes to another instance at once
            if self._cache is not None:
                self._cache.close()
            if self._client is not None:
                self._client.close()
            if self._running is not None:
                self._end(self._running)
            if self._log is not None:
                self._log.close()
            if self._cache is not None and not self._cache.wait_until_idle(IDLE_TIMEOUT_S):
                logger.warning("container %s: something still works in its folder", self._launch_name)

    def _end(self, running: RunningContainer) -> None:
        """Where it has ended by itself, its last lines, which may say why, go to our log."""
        reason, self._end_reason = self._end_reason, None
        tail = running.log_tail() if reason is not None else ""
        running.stop(self._context.limits.stop_timeout_s)
        if reason is not None:
            tail = running.log_tail() or tail  # the first where the runtime has removed it, else this one is whole
            name = self._launch_name
            logger.warning("%s: container %s: %s. Its last lines:\n%s", self._variant.endpoint, name, reason, tail)


def missing_model_data(location: S3Location, container: str = "container_1") -> str:
    """In AWS's words."""
    return (
        f'Failed to download model data for container "{container}" from URL: "{location.url}". Please ensure that '
        "there is an object located at the URL and that the role passed to CreateModel has permissions to download "
        "the object."
    )
