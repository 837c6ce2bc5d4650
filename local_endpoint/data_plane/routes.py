"""Which containers of an instance a request goes through, and what each of them is sent.

    one container     [it]
    Serial            [first, second, …]: the answer of one is the request of the next
    Direct            [the one whose hostname the request names]

Of a chain, the one member that serves several models gets the TargetModel; all others their only model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from local_endpoint.configuration import ACCOUNT
from local_endpoint.container_client import Answer
from local_endpoint.errors import AwsError, validation_error
from local_endpoint.hosting.definitions import ExecutionMode, VariantDefinition
from local_endpoint.storage.location import TargetModel

TARGET_MODEL = "X-Amzn-SageMaker-Target-Model"
UNKNOWN_CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True)
class Target:
    """What a request names of an endpoint."""

    endpoint: str
    request_id: str
    model: str | None
    container: str | None


@dataclass(frozen=True)
class Hop:
    """One container on the way. ``container`` is its index; ``model`` None is the only one of a single-model one."""

    container: int
    model: TargetModel | None


@dataclass(frozen=True)
class Message:
    """What a container is sent."""

    body: bytes
    headers: Mapping[str, str]

    def for_hop(self, hop: Hop, is_last: bool) -> Message:
        """What ``hop`` gets of it: TargetModel is for the one that has the models, Accept for the one that answers."""
        kept = dict(self.headers)
        if hop.model is None:
            kept.pop(TARGET_MODEL, None)
        if not is_last:
            kept.pop("Accept", None)
        return Message(self.body, kept)

    def followed_by(self, answer: Answer) -> Message:
        """The request of the next container: the answer of the one before."""
        content_type = answer.headers.get("Content-Type") or UNKNOWN_CONTENT_TYPE
        return Message(answer.body, {**self.headers, "Content-Type": content_type})


def route(target: Target, definition: VariantDefinition) -> list[Hop]:
    """At least one hop. Raises ``AwsError`` (ValidationError) where the request fits no such endpoint."""
    if definition.mode is ExecutionMode.DIRECT:
        return [_direct(target, definition)]
    if target.container is not None:
        raise validation_error(
            f"Endpoint {target.endpoint} is not a multi-container endpoint with direct invocation and does not support "
            "target container hostname header."
        )
    hops = [
        Hop(index, _model_of(target, definition, index) if container.multi_model else None)
        for index, container in enumerate(definition.containers)
    ]
    if target.model is not None and all(hop.model is None for hop in hops):
        raise _not_multi_model(f"Endpoint {target.endpoint} is not a multi-model endpoint")
    return hops


def _direct(target: Target, definition: VariantDefinition) -> Hop:
    if target.container is None:
        raise validation_error(f"Request {target.request_id} is missing a target container hostname header.")
    index = definition.index_of(target.container)
    if index is None:
        raise validation_error(
            f"Container {target.container} not found for endpoint {target.endpoint} of account {ACCOUNT}."
        )
    if definition.containers[index].multi_model:
        return Hop(index, _model_of(target, definition, index))
    if target.model is not None:
        raise _not_multi_model(
            f"Container {target.container} of endpoint {target.endpoint} is not a multi-model container"
        )
    return Hop(index, None)


def _model_of(target: Target, definition: VariantDefinition, index: int) -> TargetModel:
    if target.model is None:
        raise validation_error(f"Request {target.request_id} is missing a target model header.")
    location = definition.containers[index].location
    assert location is not None  # CreateModel refuses a multi-model container without it
    return TargetModel.below(location, target.model)


def _not_multi_model(what: str) -> AwsError:
    return validation_error(
        f"{what} and does not support target model header.", ErrorCode="TARGET_MODEL_HEADER_NOT_SUPPORTED"
    )
