"""What AWS looks at beyond the parameters of CreateModel: the image, the data of a single model, the environment."""

from __future__ import annotations

from local_endpoint.control_plane.records import Parameters
from local_endpoint.errors import StartFailure, ValidationException
from local_endpoint.hosting.context import HostingContext
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.objects import ObjectUnavailable

ENVIRONMENT_BYTES = 32 * 1024
"""Of all containers of a model together."""


def check_containers(containers: list[Parameters], role: str, context: HostingContext) -> None:
    """Raises ``ValidationException``."""
    _check_environment(containers, context)
    for container in containers:
        is_multi_model = container.get("Mode") == "MultiModel"
        try:
            context.runtime.check(container["Image"], is_multi_model, beside_others=len(containers) > 1)
        except StartFailure as failure:
            raise ValidationException(str(failure)) from None
        if container.get("ModelDataUrl") and not is_multi_model:
            _check_data(S3Location.parse(container["ModelDataUrl"]), role, context)


def _check_environment(containers: list[Parameters], context: HostingContext) -> None:
    total = 0
    for container in containers:
        environment = container.get("Environment") or {}
        total += sum(len(name.encode()) + len(value.encode()) for name, value in environment.items())
        try:
            context.runtime.check_environment(environment)
        except StartFailure as failure:
            raise ValidationException(str(failure)) from None
    if total > ENVIRONMENT_BYTES:
        raise ValidationException(
            f"The environment variables of all containers have {total:,} bytes together, names and values. "
            f"A model may have {ENVIRONMENT_BYTES:,} (32 KB) at most."
        )


def _check_data(location: S3Location, role: str, context: HostingContext) -> None:
    """A prefix of models may be empty yet; the archive of the only one must be there."""
    try:
        context.objects.as_role(role).check_readable(location)
    except ObjectUnavailable as unavailable:
        if unavailable.status == 403:
            raise ValidationException(
                f'Could not access model data at {location.url}. Please ensure that the role "{role}" exists and that '
                'its trust relationship policy allows the action "sts:AssumeRole" for the service principal '
                '"sagemaker.amazonaws.com". Also ensure that the role has "s3:GetObject" permissions and that the '
                "object is located in the same region."
            ) from None
        raise ValidationException(f"Could not find model data at {location.url}.") from None
