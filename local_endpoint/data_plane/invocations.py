"""InvokeEndpoint: ``POST /endpoints/{name}/invocations``, from the checks of the request to the container's answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from local_endpoint import validation
from local_endpoint.access.authorization import Access, InvokeRequest
from local_endpoint.configuration import ACCOUNT, DEFAULT_REGION, Limits
from local_endpoint.container_client import Answer
from local_endpoint.errors import (
    AwsError,
    ContainerGone,
    ContainerTimeout,
    service_unavailable,
    validation_error,
)
from local_endpoint.events import Events, Invoked, Where
from local_endpoint.hosting.container import Container
from local_endpoint.hosting.deployment import Deployment
from local_endpoint.hosting.endpoints import Endpoints
from local_endpoint.hosting.fleet import Fleet
from local_endpoint.hosting.instance import Instance
from local_endpoint.storage.location import TargetModel

# An invocation that waited long for its model still gets this much of its container (our choice).
LEAST_INVOCATION_S = 8.0
# How often a request whose container died under it is tried on another (our choice: AWS would answer an error).
TRIES = 3
# What MMS calls it when a model is not loaded (the "type" of its answer).
MODEL_NOT_FOUND = b'"ModelNotFoundException"'
# The parameters of InvokeEndpoint that are headers.
HEADERS = {
    "ContentType": "Content-Type",
    "Accept": "Accept",
    "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes",
    "TargetModel": "X-Amzn-SageMaker-Target-Model",
    "TargetVariant": "X-Amzn-SageMaker-Target-Variant",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
    "EnableExplanations": "X-Amzn-SageMaker-Enable-Explanations",
    "InferenceComponentName": "X-Amzn-SageMaker-Inference-Component",
    "SessionId": "X-Amzn-SageMaker-Session-Id",
    "PrefixAwareId": "X-Amzn-SageMaker-Prefix-Aware-Id",
}
NO_INSTANCE_WAIT_S = 0.1
# Index of the container that serves: there is one per instance. (Direct invocation would choose it by its hostname.)
ONLY_CONTAINER = 0


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
            self._refuse_unsupported(request)
            fleet = self._choose_fleet(request, deployment)
            model = self._target(request, fleet)
            answer = self._serve(request, fleet, model)
        return Answer(answer.status, self._response_headers(answer, fleet), answer.body)

    # ---- checks ----

    def _check(self, request: Invocation) -> None:
        headers = {name: request.header(header) for name, header in HEADERS.items()}
        given = {name: value for name, value in headers.items() if value is not None}
        parameters = {"EndpointName": request.endpoint, "Body": b"", **given}
        wrong = validation.failures("sagemaker-runtime", "InvokeEndpoint", parameters)
        if request.body_is_too_large:
            # in words and numbers as the service has them, without the body itself
            wrong.append(
                "Value at 'body' failed to satisfy constraint: "
                f"Member must have length less than or equal to {self._limits.request_bytes}"
            )
        if wrong:
            raise validation_error(validation.text_of(wrong))

    @staticmethod
    def _refuse_unsupported(request: Invocation) -> None:
        """Headers of kinds of endpoints that there are none of here, in AWS's manner (see ``_target``)."""
        for parameter, kind, title in (
            (
                "TargetContainerHostname",
                "a multi-container endpoint with direct invocation",
                "target container hostname",
            ),
            ("InferenceComponentName", "an endpoint of inference components", "inference component"),
            ("SessionId", "an endpoint with stateful sessions", "session id"),
        ):
            if request.header(HEADERS[parameter]) is not None:
                raise validation_error(
                    f"Endpoint {request.endpoint} is not {kind} and does not support {title} header."
                )

    @staticmethod
    def _choose_fleet(request: Invocation, deployment: Deployment) -> Fleet:
        variant = request.header("X-Amzn-SageMaker-Target-Variant")
        fleet = deployment.choose_fleet(variant)
        if fleet is None:
            raise validation_error(f"Variant {variant} not found for endpoint {request.endpoint} of account {ACCOUNT}.")
        return fleet

    @staticmethod
    def _target(request: Invocation, fleet: Fleet) -> TargetModel | None:
        target, definition = request.target_model, fleet.definition.containers[ONLY_CONTAINER]
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
                    with fleet.pick(ONLY_CONTAINER, model, deadline_s, avoid=instance) as instance:
                        container = instance.containers[ONLY_CONTAINER]
                        answer = self._serve_on(container, request, model, deadline_s, timing)
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
                        Where(its.region, its.endpoint, its.name, instance.id),
                        model.target if model else None,
                        status,
                        timing.cache_hit,
                        timing.waited_s,
                        timing.model_latency_s,
                        max(0.0, total_s - timing.waited_s - timing.model_latency_s),
                    )
                )

    def _serve_on(
        self, container: Container, request: Invocation, model: TargetModel | None, deadline_s: float, timing: _Timing
    ) -> Answer:
        """Raises ``ContainerGone`` where another instance may still serve the request."""
        if model is None:
            return self._call(container, request, None, deadline_s, timing)
        reloads, tries = 1, self._limits.invoke_tries
        while True:
            waiting_since_s = time.monotonic()
            with container.cache.use(model, deadline_s) as hit:
                timing.waited_s += time.monotonic() - waiting_since_s
                timing.cache_hit = timing.cache_hit and hit
                unloads_before = container.cache.unloads
                try:
                    return self._call(container, request, model, deadline_s, timing)
                except _NotLoaded as error:
                    if reloads == 0:
                        raise container.model_error(error.answer) from None
                    reloads -= 1
                    container.cache.forget(model)
                except _NoMemory as error:
                    tries -= 1
                    if tries == 0 or not container.cache.make_memory(model, unloads_before, deadline_s):
                        raise container.model_error(error.answer) from None

    def _call(
        self, container: Container, request: Invocation, model: TargetModel | None, deadline_s: float, timing: _Timing
    ) -> Answer:
        started_s = time.monotonic()
        timeout_s = max(LEAST_INVOCATION_S, deadline_s - started_s)
        timeout_s = min(timeout_s, self._limits.response_timeout_s)
        try:
            answer = container.client.invoke(
                model.name if model else None, request.body, self._request_headers(request), timeout_s
            )
        except ContainerTimeout:
            raise container.model_timeout() from None
        finally:
            timing.model_latency_s += time.monotonic() - started_s
        if 200 <= answer.status < 300:
            return answer
        if model and answer.status == 404 and self._is_not_loaded(container, model, answer):
            raise _NotLoaded(answer)
        if model and answer.status == 507:
            raise _NoMemory(answer)
        raise container.model_error(answer)

    def _is_not_loaded(self, container: Container, model: TargetModel, answer: Answer) -> bool:
        """404 is the contract's "not loaded", but a model may answer it too: the container knows.

        It drops a model by itself, whose last worker died and could not be replaced. Its answer says so in MMS's
        words, which count: by now another request may have had the model loaded again.
        """
        if MODEL_NOT_FOUND in answer.body:
            return True
        try:
            return not container.client.is_loaded(model.name, self._limits.ping_timeout_s)
        except ContainerTimeout:
            return False

    # ---- headers ----

    @staticmethod
    def _request_headers(request: Invocation) -> dict[str, str]:
        """What the platform passes on, the headers of InvokeEndpoint; everything else is stripped."""
        found = {name: request.header(name) for name in HEADERS.values()}
        return {name: value for name, value in found.items() if value is not None}

    @staticmethod
    def _response_headers(answer: Answer, fleet: Fleet) -> dict[str, str]:
        headers = {
            "Content-Type": answer.headers.get("Content-Type") or "application/octet-stream",
            "x-Amzn-Invoked-Production-Variant": fleet.definition.name,
        }
        attributes = answer.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        if attributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        return headers


class _Refused(Exception):
    """The container could not invoke the model for a reason that can be helped."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class _NotLoaded(_Refused):
    """It does not have the model."""


class _NoMemory(_Refused):
    """It answered 507: it lacks memory for this invocation."""
