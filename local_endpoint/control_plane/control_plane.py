"""SageMaker's control plane for models, endpoint configurations and endpoints. Everything else is left to moto.

moto keeps such records too, but lets duplicates overwrite, knows few instance types, has no UpdateEndpoint and no
life behind an endpoint; here they are one small store of our own.

An operation is the method of its name in snake case: CreateModel is ``Models.create_model``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from botocore import xform_name

from local_endpoint import validation
from local_endpoint.control_plane import scaling
from local_endpoint.control_plane.endpoint_configs import EndpointConfigs
from local_endpoint.control_plane.endpoints import Endpoints
from local_endpoint.control_plane.models import Models
from local_endpoint.control_plane.records import Call, Parameters, Records
from local_endpoint.control_plane.refusals import refusal
from local_endpoint.control_plane.tags import Tags
from local_endpoint.control_plane.training_jobs import TrainingJobs
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.context import HostingContext
from local_endpoint.hosting.endpoints import Endpoints as HostedEndpoints
from local_endpoint.storage.resources import Resources

SAGEMAKER_PREFIX = "SageMaker."


class ControlPlane:
    """Answers the operations that it ``knows``."""

    def __init__(
        self, resources: Resources, hosted: HostedEndpoints, training: TrainingJobs, context: HostingContext
    ) -> None:
        records = Records(resources)
        self._resources = resources
        self._hosted = hosted
        self._lock = threading.Lock()  # a check and the change that follows it belong together
        self._services = (
            Models(records, context),
            EndpointConfigs(records),
            Endpoints(records, hosted),
            training,
            Tags(records),
        )

    def knows(self, operation: str, parameters: Parameters) -> bool:
        """Tags of other kinds of resources are moto's."""
        if "ResourceArn" in parameters and not self._resources.owns(str(parameters["ResourceArn"])):
            return False
        return self._find(operation) is not None

    def _find(self, operation: str) -> Callable[[Call], Parameters] | None:
        if operation not in validation.service_model("sagemaker").operation_names:
            return None
        methods = (getattr(each, xform_name(operation), None) for each in self._services)
        return next((method for method in methods if method is not None), None)

    def call(self, operation: str, region: str, parameters: Parameters) -> Parameters:
        """The answer's members. Raises ``AwsError``."""
        method = self._find(operation)
        assert method is not None, f"{operation} is not known: ask knows() first"
        wrong = validation.failures("sagemaker", operation, parameters)
        if wrong:
            raise ValidationException(validation.text_of(wrong))
        with self._lock:
            return method(Call(region, _without_nulls(parameters)))

    def check_other(self, target: str, region: str, parameters: Parameters) -> None:
        """Raises ``AwsError`` for one of moto's operations that would be pretended. ``target``: SERVICE.OPERATION."""
        if target.startswith(SAGEMAKER_PREFIX):
            found = refusal(target.removeprefix(SAGEMAKER_PREFIX))
            if found is not None:
                raise found
        elif target.startswith(scaling.TARGET_PREFIX):
            operation = target.removeprefix(scaling.TARGET_PREFIX)
            scaling.check_scaling(operation, region, parameters, self._resources, self._hosted)


def _without_nulls(value: Any) -> Any:
    """A member that is null is one that was not given."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
