"""SageMaker's control plane for models, endpoint configurations and endpoints. Everything else is left to moto.

moto keeps such records too, but lets duplicates overwrite, knows few instance types, has no UpdateEndpoint and no
life behind an endpoint; here they are one small store of our own.

An operation is the method of its name in snake case: CreateModel is ``Models.create_model``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from botocore import xform_name

from local_endpoint import validation
from local_endpoint.control_plane.endpoint_configs import EndpointConfigs
from local_endpoint.control_plane.endpoints import Endpoints
from local_endpoint.control_plane.models import Models
from local_endpoint.control_plane.records import Call, Parameters, Records
from local_endpoint.control_plane.tags import Tags
from local_endpoint.control_plane.training_jobs import TrainingJobs
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.endpoints import Endpoints as HostedEndpoints
from local_endpoint.storage.resources import Resources


class ControlPlane:
    """Answers the operations that it ``knows``."""

    def __init__(self, resources: Resources, hosted: HostedEndpoints, training: TrainingJobs) -> None:
        records = Records(resources)
        self._resources = resources
        self._lock = threading.Lock()  # a check and the change that follows it belong together
        self._services = (
            Models(records),
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
            return method(Call(region, parameters))
