"""InvokeEndpoint: ``POST /endpoints/{name}/invocations``, from the checks of the request to the container's answer."""

from __future__ import annotations

import functools
import itertools
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from local_endpoint import validation
from local_endpoint.configuration import ACCOUNT, Limits
from local_endpoint.container_client import Answer
from local_endpoint.data_plane.routes import TARGET_MODEL, UNKNOWN_CONTENT_TYPE, Hop, Message, Target, route
from local_endpoint.errors import (
    AwsError,
    ContainerGone,
    ContainerRefused,
    ContainerTimeout,
    service_unavailable,
    validation_error,
)
from local_endpoint.events import ContainerCall, Events, Invoked, Where
from local_endpoint.hosting.container import Container
from local_endpoint.hosting.definitions import ExecutionMode
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
    "TargetModel": TARGET_MODEL,
    "TargetVariant": "X-Amzn-SageMaker-Target-Variant",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
    "EnableExplanations": "X-Amzn-SageMaker-Enable-Explanations",
    "InferenceComponentName": "X-Amzn-SageMaker-Inference-Component",
    "SessionId": "X-Amzn-SageMaker-Session-Id",
    "PrefixAwareId": "X-Amzn-SageMaker-Prefix-Aware-Id",
}
_KEYS = {parameter: header.lower() for parameter, header in HEADERS.items()}
NO_INSTANCE_WAIT_S = 0.1


@dataclass(frozen=True)
class Invocation:
    """One request, as the wire has it. ``headers`` are without regard to case (lower-case keys)."""

    endpoint: str
    region: str | None
    headers: Mapping[str, str]
    body: bytes
    deadline_s: float
    """By when it is to be answered (monotonic), counted from before its body was read."""
    body_is_too_large: bool = False
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())

    @property
    def target_model(self) -> str | None:
        return self.header(TARGET_MODEL)

    @property
    def target_container(self) -> str | None:
        return self.header("X-Amzn-SageMaker-Target-Container-Hostname")


@dataclass
class _Timing:
    deadline_s: float
    """For instances and models to be there, and for answers (monotonic)."""
    answer_deadline_s: float
    """Later than that where an instance or a model was there late."""
    waited_s: float = 0.0
    cache_hit: bool = True
    calls: list[ContainerCall] = field(default_factory=list)

    @property
    def model_latency_s(self) -> float:
        return sum(call.latency_s for call in self.calls)

    def grant_least(self) -> None:
        """What has been waited for is there: it gets some time, however late it is.

        Nothing is waited for after the deadline. So the time is granted once, however often a request is tried again.
        """
        granted_s = min(time.monotonic(), self.deadline_s) + LEAST_INVOCATION_S
        self.answer_deadline_s = max(self.answer_deadline_s, granted_s)


class DataPlane:
    """Serves invocations from any number of threads."""

    def __init__(self, endpoints: Endpoints, limits: Limits, events: Events) -> None:
        self._endpoints = endpoints
        self._limits = limits
        self._events = events

    def invoke(self, request: Invocation) -> Answer:
        """The answer for the client. Raises ``AwsError``."""
        self._check(request)
        with self._endpoints.request(request.region, request.endpoint) as deployment:
            if deployment is None:
                raise validation_error(f"Endpoint {request.endpoint} of account {ACCOUNT} not found.")
            fleet = self._choose_fleet(request, deployment)
            answer = self._serve(request, fleet, self._route(request, fleet))
        return Answer(answer.status, self._response_headers(answer, fleet), answer.body)

    # ---- checks ----

    def _check(self, request: Invocation) -> None:
        given = tuple((name, request.headers[key]) for name, key in _KEYS.items() if key in request.headers)
        wrong = list(_failures(request.endpoint, given))
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
        """Headers of kinds of endpoints that there are none of here, in AWS's manner (see ``route``)."""
        for parameter, kind, title in (
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

    def _route(self, request: Invocation, fleet: Fleet) -> Sequence[Hop]:
        """Raises ``AwsError``: such an invocation counts like others."""
        started_s = time.monotonic()
        target = Target(request.endpoint, request.request_id, request.target_model, request.target_container)
        try:
            self._refuse_unsupported(request)
            return route(target, fleet.definition)
        except AwsError as error:
            its = fleet.definition
            where = Where(its.region, its.endpoint, its.name, None)
            overhead_s = time.monotonic() - started_s
            self._events.emit(
                # without its target, which the client made up
                Invoked(where, None, error.status, True, 0.0, 0.0, overhead_s, instances=fleet.desired_count)
            )
            raise

    # ---- serving ----

    def _serve(self, request: Invocation, fleet: Fleet, hops: Sequence[Hop]) -> Answer:
        started_s = time.monotonic()
        deadline_s = request.deadline_s
        timing = _Timing(deadline_s, deadline_s)
        instance: Instance | None = None
        status = 500
        decisive = next((hop for hop in hops if hop.model is not None), hops[0])  # its model is to be there
        tries = TRIES
        try:
            while True:
                try:
                    with fleet.pick(decisive.container, decisive.model, deadline_s, avoid=instance) as instance:
                        answer = self._pass_through(instance, request, hops, timing)
                    status = answer.status
                    return answer
                except ContainerGone as error:
                    # One that refuses connections has ended before. Its first process may be there for some seconds.
                    if not isinstance(error, ContainerRefused):
                        tries -= 1
                    if tries == 0 or time.monotonic() >= deadline_s:
                        raise service_unavailable(
                            f"The container ended while it served the request ({error})."
                        ) from None
                    time.sleep(NO_INSTANCE_WAIT_S)  # its death is being noticed
        except AwsError as error:
            status = error.status
            raise
        finally:
            its = fleet.definition
            total_s = time.monotonic() - started_s
            direct = its.containers[hops[0].container].hostname if its.mode is ExecutionMode.DIRECT else None
            self._events.emit(
                Invoked(
                    Where(its.region, its.endpoint, its.name, instance.id if instance else None, direct),
                    decisive.model.target if decisive.model else None,
                    status,
                    timing.cache_hit,
                    timing.waited_s,
                    timing.model_latency_s,
                    max(0.0, total_s - timing.waited_s - timing.model_latency_s),
                    tuple(timing.calls),
                    fleet.desired_count,
                )
            )

    def _pass_through(self, instance: Instance, request: Invocation, hops: Sequence[Hop], timing: _Timing) -> Answer:
        """The answer of the last hop. Raises ``ContainerGone`` where another instance may still serve the request."""
        timing.grant_least()
        message = Message(request.body, self._request_headers(request))
        for hop, next_hop in itertools.zip_longest(hops, hops[1:]):
            container = instance.containers[hop.container]
            answer = self._serve_on(container, message.for_hop(hop, is_last=next_hop is None), hop.model, timing)
            if next_hop is None:
                return answer
            if len(answer.body) > self._limits.hop_bytes:
                raise container.refuse_to_pass_on(answer, instance.containers[next_hop.container])
            message = message.followed_by(answer)
        raise AssertionError("unreachable")

    def _serve_on(self, container: Container, message: Message, model: TargetModel | None, timing: _Timing) -> Answer:
        """Raises ``ContainerGone`` where another instance may still serve the request."""
        if model is None:
            return self._call(container, message, None, timing)
        reloads, tries = 1, self._limits.invoke_tries
        while True:
            waiting_since_s = time.monotonic()
            with container.cache.use(model, timing.deadline_s) as hit:
                timing.waited_s += time.monotonic() - waiting_since_s
                timing.grant_least()
                timing.cache_hit = timing.cache_hit and hit
                unloads_before = container.cache.unloads
                try:
                    return self._call(container, message, model, timing)
                except _NotLoaded as error:
                    if reloads == 0:
                        raise container.model_error(error.answer) from None
                    reloads -= 1
                    container.cache.forget(model)
                except _NoMemory as error:
                    tries -= 1
                    if tries == 0 or not container.cache.make_memory(model, unloads_before, timing.deadline_s):
                        raise container.model_error(error.answer) from None

    def _call(self, container: Container, message: Message, model: TargetModel | None, timing: _Timing) -> Answer:
        started_s = time.monotonic()
        timeout_s = min(timing.answer_deadline_s - started_s, self._limits.response_timeout_s)
        status: int | None = None
        try:
            if timeout_s <= 0:  # those before it in the chain took it all
                raise container.model_timeout()
            answer = container.client.invoke(model.name if model else None, message.body, message.headers, timeout_s)
            status = answer.status
        except ContainerTimeout:
            raise container.model_timeout() from None
        finally:
            latency_s = time.monotonic() - started_s
            timing.calls.append(ContainerCall(container.hostname_among_others, status, latency_s))
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
        return {HEADERS[name]: request.headers[key] for name, key in _KEYS.items() if key in request.headers}

    @staticmethod
    def _response_headers(answer: Answer, fleet: Fleet) -> dict[str, str]:
        headers = {
            "Content-Type": answer.headers.get("Content-Type") or UNKNOWN_CONTENT_TYPE,
            "x-Amzn-Invoked-Production-Variant": fleet.definition.name,
        }
        attributes = answer.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        if attributes is not None:
            headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
        return headers


@functools.lru_cache(1024)
def _failures(endpoint: str, given: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """What is wrong with these parameters of InvokeEndpoint; clients send the same again and again."""
    parameters = {"EndpointName": endpoint, "Body": b"", **dict(given)}
    return tuple(validation.failures("sagemaker-runtime", "InvokeEndpoint", parameters))


class _Refused(Exception):
    """The container could not invoke the model for a reason that can be helped."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class _NotLoaded(_Refused):
    """It does not have the model."""


class _NoMemory(_Refused):
    """It answered 507: it lacks memory for this invocation."""
