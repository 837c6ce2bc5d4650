"""What Application Auto Scaling is told of endpoints: only of those that exist. The rest of it is moto's."""

from __future__ import annotations

import re

from local_endpoint.control_plane.records import ENDPOINT, Parameters
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.endpoints import Endpoints
from local_endpoint.storage.resources import Resources, arn

TARGET_PREFIX = "AnyScaleFrontendService."
_OPERATIONS = ("RegisterScalableTarget", "PutScalingPolicy", "PutScheduledAction")
_VARIANT = re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)")


def check_scaling(operation: str, region: str, parameters: Parameters, resources: Resources, hosted: Endpoints) -> None:
    """Raises ``ValidationException`` where the target is of an endpoint or a variant that does not exist."""
    if operation not in _OPERATIONS or parameters.get("ServiceNamespace") != "sagemaker":
        return
    resource_id = str(parameters.get("ResourceId", ""))
    match = _VARIANT.fullmatch(resource_id)
    if match is None:
        raise ValidationException(
            f"{operation}: {resource_id!r} is not available on this local endpoint: scalable targets are "
            "endpoint/NAME/variant/VARIANT. Run it on AWS."
        )
    if resources.get(ENDPOINT.key, region, match["endpoint"]) is None:
        raise ValidationException(
            f'{operation}: Could not find endpoint "{arn(region, ENDPOINT.key, match["endpoint"])}". '
            "Create the endpoint first."
        )
    deployment = hosted.deployment(region, match["endpoint"])
    if deployment is None or match["variant"] not in deployment.fleets:
        raise ValidationException(
            f'{operation}: Could not find variant "{match["variant"]}" of endpoint "{match["endpoint"]}", or the '
            "endpoint is not in service yet. Wait until it is."
        )
