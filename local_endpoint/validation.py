"""Checks the parameters of API calls against botocore's own service model and words what is wrong as AWS does."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.loaders
import botocore.model

# any instance type will do here: the model's list is longer every month
INSTANCE_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
OPEN_ENUMS = {"ProductionVariantInstanceType": INSTANCE_TYPE}


@functools.cache
def service_model(service: str) -> botocore.model.ServiceModel:
    description = botocore.loaders.create_loader().load_service_model(service, "service-2")
    return botocore.model.ServiceModel(description, service)


@functools.cache
def _pattern(text: str) -> re.Pattern[str] | None:
    """The model's patterns are Java's; one that Python does not understand is not checked.

    ``\\A\\S`` begins the patterns of headers only, which are ASCII on the wire, whatever Java's ``\\S`` would take.
    """
    for java, python in (
        (r"[\p{Print}]", r"[\x20-\x7e]"),
        (r"\p{ASCII}", r"[\x00-\x7f]"),
        (r"\A\S", r"\A[\x21-\x7e]"),
        (r"\z", r"\Z"),
    ):
        text = text.replace(java, python)
    try:
        return re.compile(text)
    except re.error:
        return None


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]


def _failures(shape: Any, value: Any, where: str) -> Iterator[str]:
    """One text per broken constraint of ``value`` and all below it."""
    limits = shape.metadata

    def failed(constraint: str) -> str:
        shown = "" if isinstance(value, (bytes, bytearray)) else f" '{value}'"
        return f"Value{shown} at '{where}' failed to satisfy constraint: {constraint}"

    if shape.type_name == "structure":
        if not isinstance(value, dict):
            yield failed("Member must be a structure")
            return
        for name in shape.required_members:
            if value.get(name) is None:
                yield (
                    f"Value null at '{_join(where, _lower_first(name))}' failed to satisfy constraint: "
                    "Member must not be null"
                )
        for name, member in shape.members.items():
            if value.get(name) is not None:
                yield from _failures(member, value[name], _join(where, _lower_first(name)))
    elif shape.type_name == "list":
        if not isinstance(value, list):
            yield failed("Member must be a list")
            return
        yield from _length_failures(failed, limits, len(value))
        for index, each in enumerate(value, 1):
            yield from _failures(shape.member, each, f"{where}.{index}.member")
    elif shape.type_name == "map":
        if not isinstance(value, dict):
            yield failed("Member must be a map")
            return
        yield from _length_failures(failed, limits, len(value))
        for key, each in value.items():
            yield from _failures(shape.key, key, f"{where}.key")
            yield from _failures(shape.value, each, f"{where}.{key}.member")
    elif shape.type_name == "string":
        if not isinstance(value, str):
            yield failed("Member must be a string")
            return
        yield from _length_failures(failed, limits, len(value))
        if shape.name in OPEN_ENUMS:
            if not OPEN_ENUMS[shape.name].fullmatch(value):
                yield failed(f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
        elif shape.enum and value not in shape.enum:
            yield failed(f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
        pattern = _pattern(limits["pattern"]) if "pattern" in limits else None
        if pattern is not None and not pattern.fullmatch(value):
            yield failed(f"Member must satisfy regular expression pattern: {limits['pattern']}")
    elif shape.type_name == "blob":
        yield from _length_failures(failed, limits, len(value))
    elif shape.type_name in ("integer", "long", "float", "double"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield failed("Member must be a number")
            return
        if shape.type_name in ("integer", "long") and value != int(value):
            yield failed("Member must be an integer")
            return
        if "min" in limits and value < limits["min"]:
            yield failed(f"Member must have value greater than or equal to {limits['min']}")
        if "max" in limits and value > limits["max"]:
            yield failed(f"Member must have value less than or equal to {limits['max']}")
    elif shape.type_name == "timestamp":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield failed("Member must be a timestamp: seconds since 1970, as a number")
    elif shape.type_name == "boolean" and not isinstance(value, bool):
        yield failed("Member must be a boolean")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _length_failures(failed: Any, limits: dict[str, Any], length: int) -> Iterator[str]:
    if "min" in limits and length < limits["min"]:
        yield failed(f"Member must have length greater than or equal to {limits['min']}")
    if "max" in limits and length > limits["max"]:
        yield failed(f"Member must have length less than or equal to {limits['max']}")


def failures(service: str, operation: str, parameters: dict[str, Any]) -> list[str]:
    """One text, in AWS's words, for each thing that is wrong with ``parameters``."""
    shape = service_model(service).operation_model(operation).input_shape
    return list(_failures(shape, parameters, ""))


def text_of(found: list[str]) -> str:
    """AWS's message on one or more ``failures``."""
    count = "1 validation error" if len(found) == 1 else f"{len(found)} validation errors"
    return f"{count} detected: {'; '.join(found)}"
