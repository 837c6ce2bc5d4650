"""InvokeEndpoint: ``POST /endpoints/{name}/invocations``, from the checks of the request to the container's answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from local_endpoint import validation
from local_endpoint.access import Access, InvokeRequest
from local_endpoint.configuration import ACCOUNT, DEFAULT_REGION, Limits
from local_endpoint.container_client import Answer
from local_endpoint.endpoints import Deployment, Endpoints
from local_endpoint.errors import (
    AwsError,
    ContainerGone,
    ContainerTimeout,
    service_unavailable,
    validation_error,
)
from local_endpoint.events import Events, Invoked, Where
from local_endpoint.fleet import Fleet
from local_endpoint.instances import Instance
from local_endpoint.s3_location import TargetModel

# An invocation that waited long for its model still gets this much of its container (our choice).
LEAST_INVOCATION_S = 8.0
# How often a request whose container died under it is tried on another (our choice: AWS would answer an error).
TRIES = 3
NO_INSTANCE_WAIT_S = 0.1


@dataclass(frozen=True)
class Invocation:
    """One request, as the wire has it. ``headers`` are without regard to case (lower-case keys)."""

    endpoint: str
    region: str | None
    headers: Mapping[str, str]
    body: bytes
    body_is_too_large: bool = False
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())

    @property
    def target_model(self) -> str | None:
        return self.header("X-Amzn-SageMaker-Target-Model")


@dataclass
class _Timing:
    waited_s: float = 0.0
    model_latency_s: float = 0.0
    cache_hit: bool = True


class DataPlane:
    """Serves invocations from any number of threads."""

    def __init__(self, endpoints: Endpoints, limits: Limits, events: Events, access: Access) -> None:
        self._endpoints = endpoints
        self._limits = limits
        self._events = events
        self._access = access

    def invoke(self, request: Invocation) -> Answer:
        """The answer for the client. Raises ``AwsError``."""
        self._check(request)
        self._access.authorize(
            InvokeRequest(
                endpoint=request.endpoint,
                region=request.region or self._endpoints.region_of(request.endpoint) or DEFAULT_REGION,
                target_model=request.target_model,
                target_container=request.header("X-Amzn-SageMaker-Target-Container-Hostname"),
                headers=request.headers,
            )
        )
        with self._endpoints.request(request.region, request.endpoint) as deployment:
            if deployment is None:
                raise validation_error(f"Endpoint {request.endpoint} of account {ACCOUNT} not found.")
            fleet = self._choose_fleet(request, deployment)
            model = self._target(request, fleet)
            answer = self._serve(request, fleet, model)
        return Answer(answer.status, self._response_headers(answer, fleet), answer.body)

    # ---- checks ----

    def _check(self, request: Invocation) -> None:
        parameters: dict[str, object] = {"EndpointName": request.endpoint}
        for name, header in (
            ("TargetModel", "X-Amzn-SageMaker-Target-Model"),
            ("TargetVariant", "X-Amzn-SageMaker-Target-Variant"),
            ("TargetContainerHostname", "X-Amzn-SageMaker-Target-Container-Hostname"),
            ("CustomAttributes", "X-Amzn-SageMaker-Custom-Attributes"),
            ("InferenceId", "X-Amzn-SageMaker-Inference-Id"),
            ("ContentType", "Content-Type"),
            ("Accept", "Accept"),
        ):
            value = request.header(header)
            if value is not None:
                parameters[name] = value
        wrong = validation.failures("sagemaker-runtime", "InvokeEndpoint", {**parameters, "Body": b""})
        if request.body_is_too_large:
            # in words and numbers as the service has them, without the body itself
            too_large = (
                "Value at 'body' failed to satisfy constraint: "
                f"Member must have length less than or equal to {self._limits.request_bytes}"
            )
            wrong = f"1 validation error detected: {too_large}" if wrong is None else f"{wrong}; {too_large}"
        if wrong:
            raise validation_error(wrong)

    @staticmethod
    def _choose_fleet(request: Invocation, deployment: Deployment) -> Fleet:
        variant = request.header("X-Amzn-SageMaker-Target-Variant")
        fleet = deployment.choose_fleet(variant)
        if fleet is None:
            raise validation_error(f"Variant {variant} not found for endpoint {request.endpoint} of account {ACCOUNT}.")
        return fleet

    @staticmethod
    def _target(request: Invocation, fleet: Fleet) -> TargetModel | None:
        target, definition = request.target_model, fleet.definition
        hostname = request.header("X-Amzn-SageMaker-Target-Container-Hostname")
        if hostname is not None:
            raise validation_error(
                f"Endpoint {request.endpoint} is not a multi-container endpoint with direct invocation and does not "
                "support target container hostname header."
            )
        if not definition.multi_model:
            if target is not None:
                raise validation_error(
                    f"Endpoint {request.endpoint} is not a multi-model endpoint and does not support target model "
                    "header.",
                    ErrorCode="TARGET_MODEL_HEADER_NOT_SUPPORTED",
                )
            return None
        if target is None:
            raise validation_error(f"Request {request.request_id} is missing a target model header.")
        assert definition.location is not None  # CreateModel refuses a multi-model container without it
        return TargetModel.below(definition.location, target)

    # ---- serving ----

    def _serve(self, request: Invocation, fleet: Fleet, model: TargetModel | None) -> Answer:
        started_s = time.monotonic()
        deadline_s = started_s + self._limits.response_timeout_s
        timing = _Timing()
        instance: Instance | None = None
        status = 500
        try:
            for last in [False] * (TRIES - 1) + [True]:
                try:
                    with fleet.pick(model, deadline_s, avoid=instance) as instance:
                        answer = self._serve_on(instance, request, model, deadline_s, timing)
                    status = answer.status
                    return answer
                except ContainerGone as error:
                    if last:
                        raise service_unavailable(
                            f"The container ended while it served the request ({error})."
                        ) from None
                    time.sleep(NO_INSTANCE_WAIT_S)  # its death is being noticed
            raise AssertionError("unreachable")
        except AwsError as error:
            status = error.status
            raise
        finally:
            if instance is not None:
                its = fleet.definition
                total_s = time.monotonic() - started_s
                self._events.emit(
                    Invoked(
                        Where(its.region, its.endpoint, its.variant, instance.id),
                        model.target if model else None,
                        status,
                        timing.cache_hit,
                        timing.waited_s,
                        timing.model_latency_s,
                        max(0.0, total_s - timing.waited_s - timing.model_latency_s),
                    )
                )

    def _serve_on(
        self, instance: Instance, request: Invocation, model: TargetModel | None, deadline_s: float, timing: _Timing
    ) -> Answer:
        """Raises ``ContainerGone`` where another instance may still serve the request."""
        if model is None:
            return self._call(instance, request, None, deadline_s, timing)
        for last in (False, True):
            waiting_since_s = time.monotonic()
            with instance.cache.use(model, deadline_s) as hit:
                timing.waited_s += time.monotonic() - waiting_since_s
                timing.cache_hit = timing.cache_hit and hit
                try:
                    return self._call(instance, request, model, deadline_s, timing)
                except _NotLoaded as error:
                    if last:
                        raise instance.model_error(error.answer) from None
                    instance.cache.forget(model)
        raise AssertionError("unreachable")

    def _call(
        self, instance: Instance, request: Invocation, model: TargetModel | None, deadline_s: float, timing: _Timing
    ) -> Answer:
        started_s = time.monotonic()
        timeout_s = max(LEAST_INVOCATION_S, deadline_s - started_s)
        timeout_s = min(timeout_s, self._limits.response_timeout_s)
        try:
            answer = instance.client.invoke(
                model.name if model else None, request.body, self._request_headers(request), timeout_s
            )
        except ContainerTimeout:
            raise instance.model_timeout() from None
        finally:
            timing.model_latency_s += time.monotonic() - started_s
        if 200 <= answer.status < 300:
            return answer
        if answer.status == 404 and model and not self._is_loaded(instance, model):
            raise _NotLoaded(answer)
        raise instance.model_error(answer)

    def _is_loaded(self, instance: Instance, model: TargetModel) -> bool:
        """404 is the contract's "not loaded", but a model may answer it too: the container knows."""
        try:
            return instance.client.is_loaded(model.name, self._limits.ping_timeout_s)
        except ContainerTimeout:
            return True

    # ---- headers ----

    @staticmethod
    def _request_headers(request: Invocation) -> dict[str, str]:
        """What the platform passes on; everything else is stripped."""
        passed = ("Content-Type", "Accept", "X-Amzn-SageMaker-Custom-Attributes", "X-Amzn-SageMaker-Target-Model")
        found = {name: request.header(name) for name in passed}
        return {name: value for name, value in found.items() if value is not None}

    @staticmethod
    def _response_headers(answer: Answer, fleet: Fleet) -> dict[str, str]:
        headers = {
            "Content-Type": answer.headers.get("Content-Type") or "application/octet-stream",
            "x-Amzn-Invoked-Production-Variant": fleet.definition.variant,
        }
        attributes = answer.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        if attributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        return headers


class _NotLoaded(Exception):
    """The container says that it does not have the model."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("the model is not loaded")
        self.answer = answer
