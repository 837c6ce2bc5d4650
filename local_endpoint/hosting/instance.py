"""One instance of an endpoint: a container, its client, its disk and the models that it holds."""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_endpoint.configuration import GIB, Limits
from local_endpoint.container_client import Answer, ContainerClient
from local_endpoint.errors import AwsError, StartFailure, model_error, model_timeout
from local_endpoint.events import Events, Where
from local_endpoint.hosting.runtimes import Container, LaunchSpec, Runtime
from local_endpoint.model_cache.artifacts import ArtifactStore, download_refused
from local_endpoint.model_cache.cache import ModelCache
from local_endpoint.model_cache.eviction import CacheContext
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectReader

logger = logging.getLogger(__name__)

START_POLL_S = 0.1
START_TRIES = 2
# What still runs when an instance is stopped ends within moments: its container is gone, downloads are told.
IDLE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Definition:
    """What one production variant runs: the model's container and the variant's numbers."""

    region: str
    endpoint: str
    variant: str
    image: str
    hostname: str | None
    environment: dict[str, str]
    multi_model: bool
    keep_models: bool
    location: S3Location | None
    """The prefix of models, or the archive of the only one; None is a container that brings its model."""
    instance_type: str
    startup_timeout_s: float
    download_timeout_s: float
    """For the only model of a single-model container."""
    disk_bytes: int

    @property
    def container_name(self) -> str:
        """How error texts call the container."""
        return self.hostname or "primary"

    @classmethod
    def of(
        cls, region: str, endpoint: str, variant: dict[str, Any], container: dict[str, Any], limits: Limits
    ) -> Definition:
        """From a ProductionVariant and a ContainerDefinition, both as the API has them."""
        url = container.get("ModelDataUrl")
        setting = container.get("MultiModelConfig", {}).get("ModelCacheSetting", "Enabled")
        return cls(
            region=region,
            endpoint=endpoint,
            variant=variant["VariantName"],
            image=container.get("Image", ""),
            hostname=container.get("ContainerHostname"),
            environment=dict(container.get("Environment", {})),
            multi_model=container.get("Mode", "SingleModel") == "MultiModel",
            keep_models=setting != "Disabled",
            location=S3Location.parse(url) if url else None,
            instance_type=variant.get("InstanceType", "ml.m5.xlarge"),
            startup_timeout_s=float(
                variant.get("ContainerStartupHealthCheckTimeoutInSeconds", limits.startup_timeout_s)
            ),
            download_timeout_s=float(variant.get("ModelDataDownloadTimeoutInSeconds", limits.load_timeout_s)),
            disk_bytes=variant["VolumeSizeInGB"] * GIB if "VolumeSizeInGB" in variant else limits.disk_bytes,
        )


@dataclass(frozen=True)
class HostingContext:
    """What all instances of one local endpoint share."""

    runtime: Runtime
    objects: ObjectReader
    limits: Limits
    events: Events
    work_dir: Path


class Instance:
    """``start`` → serve → ``stop``. ``died`` is called once, from a thread of its own, if it ends or falls silent."""

    def __init__(self, definition: Definition, context: HostingContext, died: Callable[[Instance], None]) -> None:
        self.id = "i-" + secrets.token_hex(8)
        self.definition = definition
        self.in_flight = 0  # protected by the fleet's lock
        self._context = context
        self._died = died
        self._base_dir = context.work_dir / self.id
        self._container: Container | None = None
        self._client: ContainerClient | None = None
        self._cache: ModelCache | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._death = threading.Lock()
        self._end = threading.Lock()

    # ---- start ----

    def start(self) -> None:
        """Brings the container up and returns when it is healthy. Raises ``StartFailure``."""
        self._base_dir.mkdir(parents=True)
        limits, definition = self._context.limits, self.definition
        store = ArtifactStore(self._base_dir, self._context.objects, limits, definition.disk_bytes)
        if not definition.multi_model and definition.location is not None:
            self._fetch_only_model(store, definition.location)
        container, client = self._start_container()
        self._container, self._client = container, client
        if definition.multi_model:
            context = CacheContext(
                Where(definition.region, definition.endpoint, definition.variant, self.id),
                self._context.events.emit,
                self.model_error,
                self.model_timeout,
                f"{container.base_dir}/models",
            )
            self._cache = ModelCache(
                client, store, limits, context, keep=definition.keep_models, disk_bytes=definition.disk_bytes
            )
        threading.Thread(target=self._watch_exit, name=f"watch-{self.id}", daemon=True).start()
        threading.Thread(target=self._watch_health, name=f"health-{self.id}", daemon=True).start()
        logger.info("%s: instance %s serves on port %d", definition.endpoint, self.id, container.port)

    def _fetch_only_model(self, store: ArtifactStore, location: S3Location) -> None:
        try:
            store.fetch(location, self._base_dir / "model", time.monotonic() + self.definition.download_timeout_s)
        except AwsError as error:
            if error.message == download_refused(location).message:
                raise StartFailure(missing_model_data(location)) from None
            reason = error.message.partition(" Reason: ")[2]
            raise StartFailure(
                f'Failed to extract model data archive for container "container_1" from URL "{location.url}". '
                f"Please ensure that the object located at the URL is a valid tar.gz archive. ({reason})"
            ) from None
        except TimeoutError as error:
            raise StartFailure(f"{missing_model_data(location)} ({error})") from None

    def _start_container(self) -> tuple[Container, ContainerClient]:
        """A container that ends at once is started once more: its port may have been taken meanwhile."""
        definition, limits = self.definition, self._context.limits
        spec = LaunchSpec(
            name=self.id,
            image=definition.image,
            environment=definition.environment,
            base_dir=self._base_dir,
            multi_model=definition.multi_model,
            instance_type=definition.instance_type,
        )
        deadline_s = time.monotonic() + definition.startup_timeout_s
        for last in [False] * (START_TRIES - 1) + [True]:
            container = self._context.runtime.start(spec)
            client = ContainerClient(container.host, container.port)
            try:
                while True:
                    reason = container.exit_reason()
                    if reason is None and client.is_healthy(limits.ping_timeout_s, definition.multi_model):
                        return container, client
                    if reason is None and time.monotonic() > deadline_s:
                        reason = f"it did not answer within {definition.startup_timeout_s:.0f} s"
                        last = True
                    if reason is not None:
                        break
                    if self._stopping.wait(START_POLL_S):
                        raise StartFailure("The instance was stopped while it started.")
            except BaseException:
                client.close()
                container.stop(limits.stop_timeout_s)
                raise
            client.close()
            tail = container.log_tail()
            container.stop(limits.stop_timeout_s)
            logger.warning("%s: container of %s did not start: %s\n%s", definition.endpoint, self.id, reason, tail)
            if last:
                raise StartFailure(failed_ping(definition, f"{reason}. Its last lines:\n{tail}"))
        raise AssertionError("unreachable")

    # ---- serve ----

    @property
    def client(self) -> ContainerClient:
        assert self._client is not None, "start() has not returned"
        return self._client

    @property
    def cache(self) -> ModelCache:
        assert self._cache is not None, "a single-model instance has no cache"
        return self._cache

    @property
    def container(self) -> Container:
        assert self._container is not None, "start() has not returned"
        return self._container

    def is_alive(self) -> bool:
        """Asked for every request, so only what the watchers know."""
        return not self._ended.is_set()

    def model_error(self, answer: Answer) -> AwsError:
        its = self.definition
        return model_error(its.region, its.endpoint, its.container_name, answer.status, answer.body)

    def model_timeout(self) -> AwsError:
        its = self.definition
        return model_timeout(its.region, its.endpoint, its.container_name)

    # ---- watch ----

    def _watch_exit(self) -> None:
        self.container.wait()
        self._ended.set()
        if not self._stopping.is_set():
            logger.warning("instance %s died: %s", self.id, self.container.exit_reason())
            self._report_death()

    def _watch_health(self) -> None:
        limits = self._context.limits
        failures = 0
        while not self._stopping.wait(limits.health_interval_s):
            if self.client.is_healthy(limits.ping_timeout_s, self.definition.multi_model):
                failures = 0
                continue
            failures += 1
            if failures >= limits.ping_failures and not self._stopping.is_set():
                self._ended.set()
                logger.warning("instance %s failed %d health checks in a row", self.id, failures)
                self._report_death()
                return

    def _report_death(self) -> None:
        if self._death.acquire(blocking=False):  # once, whichever watcher sees it first
            self._died(self)

    # ---- stop ----

    def stop(self) -> None:
        """Ends the container and removes its folder. May be called more than once, and while ``start`` runs."""
        self._stopping.set()
        self._ended.set()
        with self._end:
            # before the container: whoever waits for a model, or comes just now, goes to another instance at once
            if self._cache is not None:
                self._cache.close()
            if self._client is not None:
                self._client.close()
            if self._container is not None:
                self._container.stop(self._context.limits.stop_timeout_s)
            if self._cache is not None and not self._cache.wait_until_idle(IDLE_TIMEOUT_S):
                logger.warning("instance %s: something still works in its folder", self.id)
            shutil.rmtree(self._base_dir, ignore_errors=True)


def missing_model_data(location: S3Location) -> str:
    return (
        f'Failed to download model data for container "container_1" from URL: "{location.url}". Please ensure that '
        "there is an object located at the URL and that the role passed to CreateModel has permissions to download "
        "the object."
    )


def failed_ping(definition: Definition, detail: str) -> str:
    """AWS's sentence, and what AWS leaves to its logs."""
    container = f"The {definition.hostname} container" if definition.hostname else "The primary container"
    return (
        f"{container} for production variant {definition.variant} did not pass the ping health check. "
        f"Please check CloudWatch logs for this endpoint. Here: {detail}"
    )
