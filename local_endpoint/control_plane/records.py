"""What models, endpoint configurations and endpoints have in common: records to be added, described and deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from local_endpoint import validation
from local_endpoint.errors import ValidationException
from local_endpoint.storage.resources import Resources, arn

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of an operation."""

    region: str
    parameters: Parameters


@dataclass(frozen=True)
class Kind:
    """A kind of record, and how the API names what belongs to it."""

    key: str
    """In ``Resources`` and in ARNs."""
    title: str
    """In error texts."""
    prefix: str
    """Of its members and operations: PREFIXName, PREFIXArn, DescribePREFIX."""

    @property
    def name_member(self) -> str:
        return f"{self.prefix}Name"

    @property
    def arn_member(self) -> str:
        return f"{self.prefix}Arn"


MODEL = Kind("model", "model", "Model")
ENDPOINT_CONFIG = Kind("endpoint-config", "endpoint configuration", "EndpointConfig")
ENDPOINT = Kind("endpoint", "endpoint", "Endpoint")


class Records:
    """The store of the control plane, with its refusals in AWS's words."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources

    def require(self, kind: Kind, region: str, name: str) -> Parameters:
        """A copy of the record. Raises ``ValidationException`` if there is none."""
        record = self.resources.get(kind.key, region, name)
        if record is None:
            raise ValidationException(f'Could not find {kind.title} "{arn(region, kind.key, name)}".')
        return record

    def add(self, kind: Kind, call: Call, **members: Any) -> Parameters:
        """Keeps the call's parameters and ``members``; the answer holds the ARN. Raises ``ValidationException``."""
        name = call.parameters[kind.name_member]
        record = {key: value for key, value in call.parameters.items() if key != "Tags"}
        its_arn = arn(call.region, kind.key, name)
        if not self.resources.add(kind.key, call.region, name, {**record, **members}, call.parameters.get("Tags", [])):
            raise ValidationException(f'Cannot create already existing {kind.title} "{its_arn}".')
        return {kind.arn_member: its_arn}

    def describe(self, kind: Kind, call: Call) -> Parameters:
        """The record's members that the Describe operation shows. Raises ``ValidationException``."""
        name = call.parameters[kind.name_member]
        record = self.require(kind, call.region, name)
        operation = validation.service_model("sagemaker").operation_model(f"Describe{kind.prefix}")
        record[kind.arn_member] = arn(call.region, kind.key, name)
        return {member: value for member, value in record.items() if member in operation.output_shape.members}

    def delete(self, kind: Kind, call: Call) -> Parameters:
        """Raises ``ValidationException`` if there is none."""
        name = call.parameters[kind.name_member]
        self.require(kind, call.region, name)
        self.resources.remove(kind.key, call.region, name)
        return {}
