"""The life of endpoints: Creating → InService → Updating … → Deleting, each change in a thread of its own.

Creating ──► InService ──► Updating ──► InService          (the new configuration serves)
    │            ▲             └──► RollingBack ──► InService   (it did not come up: the old one serves on)
    └─► Failed   └────────────────────────────────┘
InService, Failed ──► Deleting ──► gone
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local_endpoint.errors import StartFailure
from local_endpoint.hosting.container import missing_model_data
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.definitions import VariantDefinition
from local_endpoint.hosting.deployment import Deployment
from local_endpoint.hosting.fleet import Fleet
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.resources import Resources

logger = logging.getLogger(__name__)

# Our own member of an endpoint's record: what UpdateEndpointWeightsAndCapacities has made of its variants.
PRESENT_NUMBERS = "PresentNumbers"
# Another: the configuration that serves, which may have been deleted since.
SERVING_CONFIG = "ServingConfig"
IN_PROGRESS = ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting")


class Endpoints:
    """All endpoints of this machine. What the API shows of them is in ``Resources``, what runs is here."""

    def __init__(self, resources: Resources, context: HostingContext) -> None:
        self._resources = resources
        self._context = context
        self._lock = threading.Lock()
        self._serving: dict[tuple[str, str], Deployment] = {}
        self._starting: set[Deployment] = set()
        self._threads: set[threading.Thread] = set()
        self._closing = threading.Event()

    # ---- what the control plane asks for ----

    def create(self, region: str, name: str) -> None:
        """Its record is there, with status Creating."""
        self._in_background(self._create, region, name)

    def update(self, region: str, name: str, config_name: str, retained: Collection[str] = ()) -> None:
        """Its record's status is Updating already.

        ``retained`` are VariantPropertyTypes that variants of the same name keep from what serves now.
        """
        self._in_background(self._update, region, name, config_name, retained)

    def delete(self, region: str, name: str) -> None:
        """Its record's status is Deleting already."""
        self._in_background(self._delete, region, name)

    def scale(self, region: str, name: str, wanted: list[dict[str, Any]]) -> None:
        """``wanted`` are DesiredWeightAndCapacity; the record's status is Updating already."""
        deployment = self._find(region, name)
        if deployment is not None:
            now_s = time.time()
            deployment.scaling_since_s = {each["VariantName"]: now_s for each in wanted}
        self._in_background(self._scale, region, name, wanted)

    def resume(self) -> None:
        """Brings up, after a restart, every endpoint whose record was kept."""
        for record in self._resources.all("endpoint"):
            region, name = record["Region"], record["EndpointName"]
            if record["EndpointStatus"] == "Deleting":
                self._resources.remove("endpoint", region, name)
            elif record["EndpointStatus"] != "Failed":
                self._resources.change(
                    "endpoint", region, name, EndpointStatus="Creating", PendingDeploymentSummary=None
                )
                self.create(region, name)

    # ---- what the data plane asks for ----

    @contextlib.contextmanager
    def request(self, region: str | None, name: str) -> Iterator[Deployment | None]:
        """The deployment that serves ``name``, held for one request; None if there is none.

        ``region`` None (an unsigned request) takes the endpoint of whatever region.
        """
        while True:
            deployment = self._find(region, name)
            if deployment is None or deployment.endpoint != name:  # the case must match, only here
                yield None
                return
            with deployment.request() as taken:
                if taken:
                    yield deployment
                    return
            # it was retired in this very moment: its successor is there already, or it was deleted

    def _find(self, region: str | None, name: str) -> Deployment | None:
        with self._lock:
            if region is not None:
                return self._serving.get((region, name.lower()))
            return next((each for (_, its), each in self._serving.items() if its == name.lower()), None)

    def deployment(self, region: str, name: str) -> Deployment | None:
        """For descriptions."""
        return self._find(region, name)

    def fleets(self) -> list[Fleet]:
        """All that serve."""
        with self._lock:
            return [fleet for deployment in self._serving.values() for fleet in deployment.fleets.values()]

    # ---- changes, each in its thread ----

    def _in_background(self, change: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=self._run, args=(change, arguments), name=f"{change.__name__} {arguments[1]}")
        with self._lock:
            if self._closing.is_set():
                return
            self._threads.add(thread)
        thread.start()

    def _run(self, change: Any, arguments: tuple[Any, ...]) -> None:
        try:
            change(*arguments)
        except Exception:
            logger.exception("%s failed", threading.current_thread().name)
            region, name = arguments[:2]
            if not self._closing.is_set():
                self._resources.change(
                    "endpoint",
                    region,
                    name,
                    # what serves goes on, whatever was to take its place
                    EndpointStatus="InService" if self._find(region, name) is not None else "Failed",
                    FailureReason="InternalFailure",
                    PendingDeploymentSummary=None,
                )
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _deploy(
        self,
        region: str,
        name: str,
        config_name: str,
        retained: Collection[str] = (),
        kept: Mapping[str, Mapping[str, Any]] | None = None,
        kept_config: dict[str, Any] | None = None,
    ) -> Deployment:
        """Brings the configuration up. Raises ``StartFailure`` when nothing of it runs any more.

        ``kept`` are members of its variants, by their names, that count more than the configuration's; ``kept_config``
        is the configuration as it served before a restart.
        """
        config = kept_config or self._resources.get("endpoint-config", region, config_name)
        if config is None:
            raise StartFailure(f"The endpoint configuration {config_name} was deleted.")
        variants = config["ProductionVariants"]
        serving = self._find(region, name)
        if serving is not None:
            variants = [serving.retained(variant, retained) for variant in variants]
        variants = [{**variant, **(kept or {}).get(variant["VariantName"], {})} for variant in variants]
        fleets = {}
        for variant in variants:
            definition = self._definition(region, name, variant)
            context = self._context_of(region, variant)
            fleets[variant["VariantName"]] = Fleet(definition, variant.get("InitialInstanceCount", 1), context)
        deployment = Deployment(config, variants, fleets)
        with self._lock:
            if self._closing.is_set():
                raise StartFailure("The local endpoint is being stopped.")
            self._starting.add(deployment)
        try:
            deployment.start()
        except BaseException:
            deployment.stop()
            raise
        finally:
            with self._lock:
                self._starting.discard(deployment)
        return deployment

    def _definition(self, region: str, endpoint: str, variant: dict[str, Any]) -> VariantDefinition:
        model = self._resources.get("model", region, variant["ModelName"])
        if model is None:
            raise StartFailure(f'Could not find model "{variant["ModelName"]}".')
        definition = VariantDefinition.from_api(region, endpoint, variant, model, self._context.limits)
        for container in definition.containers:
            self._check_location(container.location)
        return definition

    def _context_of(self, region: str, variant: dict[str, Any]) -> HostingContext:
        """A model's data is read with its execution role."""
        model = self._resources.get("model", region, variant["ModelName"]) or {}
        return dataclasses.replace(self._context, objects=self._context.objects.as_role(model.get("ExecutionRoleArn")))

    def _check_location(self, location: S3Location | None) -> None:
        # the archive of a single model is looked for when it is fetched; a prefix may still be empty
        if location is not None and not self._context.objects.bucket_exists(location.bucket):
            raise StartFailure(missing_model_data(location))

    def _create(self, region: str, name: str) -> None:
        record = self._resources.get("endpoint", region, name)
        if record is None:
            return
        try:
            deployment = self._deploy(
                region,
                name,
                record["EndpointConfigName"],
                kept=record.get(PRESENT_NUMBERS),
                kept_config=record.get(SERVING_CONFIG),
            )
        except StartFailure as failure:
            if not self._closing.is_set():
                logger.warning("endpoint %s failed: %s", name, failure)
                self._resources.change(
                    "endpoint",
                    region,
                    name,
                    EndpointStatus="Failed",
                    FailureReason=str(failure)[:1024],
                    PendingDeploymentSummary=None,
                )
            return
        self._serve(region, name, deployment)

    def _serve(self, region: str, name: str, deployment: Deployment, **members: Any) -> Deployment | None:
        """Puts ``deployment`` to work and returns the one that served before."""
        with self._lock:
            before = self._serving.get((region, name.lower()))
            self._serving[(region, name.lower())] = deployment
        members = {"FailureReason": None, "PendingDeploymentSummary": None, **members}
        self._resources.change(
            "endpoint",
            region,
            name,
            EndpointStatus="InService",
            EndpointConfigName=deployment.config_name,
            **{PRESENT_NUMBERS: deployment.present_numbers(), SERVING_CONFIG: deployment.config},
            **members,
        )
        logger.info("endpoint %s is in service", name)
        return before

    def _update(self, region: str, name: str, config_name: str, retained: Collection[str]) -> None:
        try:
            deployment = self._deploy(region, name, config_name, retained)
        except StartFailure as failure:
            if self._closing.is_set():
                return
            logger.warning("endpoint %s could not be updated: %s", name, failure)
            self._resources.change("endpoint", region, name, EndpointStatus="RollingBack")
            # nothing to roll back: the old instances never stopped serving
            was_serving = self._find(region, name) is not None
            self._resources.change(
                "endpoint",
                region,
                name,
                EndpointStatus="InService" if was_serving else "Failed",
                FailureReason=str(failure)[:1024],
                PendingDeploymentSummary=None,
            )
            return
        before = self._serve(region, name, deployment)
        if before is not None:
            before.retire(self._context.limits.drain_timeout_s, self._closing)

    def _delete(self, region: str, name: str) -> None:
        with self._lock:
            deployment = self._serving.pop((region, name.lower()), None)
        if deployment is not None:
            deployment.retire(self._context.limits.drain_timeout_s, self._closing)
        self._resources.remove("endpoint", region, name)
        logger.info("endpoint %s is deleted", name)

    def _scale(self, region: str, name: str, wanted: list[dict[str, Any]]) -> None:
        deployment = self._find(region, name)
        if deployment is None:  # the local endpoint is being stopped
            return
        reason = None
        try:
            for each in wanted:
                if "DesiredWeight" in each:
                    deployment.weights[each["VariantName"]] = float(each["DesiredWeight"])
                try:
                    if "DesiredInstanceCount" in each:
                        deployment.fleets[each["VariantName"]].set_count(each["DesiredInstanceCount"])
                except StartFailure as failure:
                    logger.warning("endpoint %s could not be scaled: %s", name, failure)
                    reason = str(failure)[:1024]
        finally:
            deployment.scaling_since_s = {}
        if not self._closing.is_set():
            numbers = {PRESENT_NUMBERS: deployment.present_numbers()}
            self._resources.change(
                "endpoint", region, name, EndpointStatus="InService", FailureReason=reason, **numbers
            )

    # ---- the end ----

    def close(self) -> None:
        """Ends every container of every endpoint, those that are being brought up included."""
        with self._lock:
            self._closing.set()
            deployments = [*self._serving.values(), *self._starting]
            self._serving.clear()
            threads = list(self._threads)
        deadline_s = time.monotonic() + self._context.limits.stop_timeout_s
        with ThreadPoolExecutor(max(1, len(deployments))) as stoppers:
            list(stoppers.map(Deployment.stop, deployments))
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
