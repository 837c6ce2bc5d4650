"""What updates of an endpoint make: new configurations and models, which carry the endpoint's name as a tag.

Names tell too little: an endpoint's own may look like that of another's update, and long ones are cut.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from scripts.programs.aws import describe_endpoint, find_config

TAG = "multi-model-scripts:updated-endpoint"
_LONGEST_NAME = 63
_UPDATE_TIME = "-%Y%m%d-%H%M%S-"
_UPDATE_BYTES = 3  # random ones, for two updates within a second, of this machine or others
_SUFFIX_LENGTH = len("-20260101-000000-") + 2 * _UPDATE_BYTES
_DIGEST_LENGTH = 8
_KEPT_LENGTH = _LONGEST_NAME - _SUFFIX_LENGTH - _DIGEST_LENGTH - 1  # of a long name


@dataclass
class Parts:
    """Names of endpoint configurations and of models, in order (the values say nothing)."""

    configs: dict[str, None] = field(default_factory=dict)
    models: dict[str, None] = field(default_factory=dict)

    def add(self, configs: list[str], models: list[str]) -> None:
        self.configs.update(dict.fromkeys(configs))
        self.models.update(dict.fromkeys(models))


def name_of_update(endpoint: str) -> str:
    """A new name for a configuration and a model of ``endpoint``: its name, the time, and what tells it from others."""
    return _name_before_time(endpoint) + time.strftime(_UPDATE_TIME) + secrets.token_hex(_UPDATE_BYTES)


def tags_of_update(sagemaker: Any, endpoint: str, predecessor_arn: str) -> list[dict[str, str]]:
    """The tags of what an update of ``endpoint`` makes: its predecessor's, except AWS's own, and ours."""
    kept = [
        each
        for each in tags_of(sagemaker, predecessor_arn)
        if each["Key"] != TAG and not each["Key"].startswith("aws:")
    ]
    return [*kept, {"Key": TAG, "Value": endpoint}]


def tags_of(sagemaker: Any, arn: str) -> list[dict[str, str]]:
    """All tags of a resource."""
    return [tag for page in sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn) for tag in page["Tags"]]


def made_by_updates(sagemaker: Any, endpoint: str) -> Parts:
    """What updates of ``endpoint`` have made and is still there."""
    start = endpoint[:_KEPT_LENGTH]  # all of their names have it; the tag tells whose they are

    def tagged(operation: str, list_key: str, kind: str) -> list[str]:
        pages = sagemaker.get_paginator(operation).paginate(NameContains=start)
        return [
            each[f"{kind}Name"]
            for page in pages
            for each in page[list_key]
            if {"Key": TAG, "Value": endpoint} in tags_of(sagemaker, each[f"{kind}Arn"])
        ]

    found = Parts()
    found.add(
        tagged("list_endpoint_configs", "EndpointConfigs", "EndpointConfig"), tagged("list_models", "Models", "Model")
    )
    return found


def used_by_endpoints(sagemaker: Any) -> Parts:
    """What all endpoints serve with or are moving to."""
    used = Parts()
    for page in sagemaker.get_paginator("list_endpoints").paginate():
        for each in page["Endpoints"]:
            described = describe_endpoint(sagemaker, each["EndpointName"]) or {}  # {}: deleted by now
            pending = described.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
            for name in filter(None, (described.get("EndpointConfigName"), pending)):
                used.add([name], models_of(find_config(sagemaker, name)))
    return used


def models_of(config: dict[str, Any] | None) -> list[str]:
    """Names of the models that a configuration's variants serve, shadow variants included."""
    if config is None:
        return []
    variants = [*config.get("ProductionVariants", []), *config.get("ShadowProductionVariants", [])]
    return [variant["ModelName"] for variant in variants if "ModelName" in variant]


def _name_before_time(endpoint: str) -> str:
    """The endpoint's name; of a long one the beginning, and a digest that tells it from others that begin so."""
    if len(endpoint) <= _LONGEST_NAME - _SUFFIX_LENGTH:
        return endpoint
    digest = hashlib.sha256(endpoint.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{endpoint[:_KEPT_LENGTH]}-{digest}"
