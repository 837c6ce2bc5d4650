"""Models: CreateModel, DescribeModel, ListModels, DeleteModel."""

from __future__ import annotations

from local_endpoint.control_plane.listing import filter_and_sort, page
from local_endpoint.control_plane.model_checks import check_containers
from local_endpoint.control_plane.records import MODEL, Call, Parameters, Records
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.context import HostingContext
from local_endpoint.storage.location import S3Location

# Other places of a container's model. Taken as if they were not there, the endpoint would serve without a model.
UNAVAILABLE_SOURCES = ("ModelDataSource", "AdditionalModelDataSources", "ModelPackageName")


class Models:
    """Each operation is a method of its name. All raise ``AwsError``."""

    def __init__(self, records: Records, context: HostingContext) -> None:
        self._records = records
        self._context = context

    def create_model(self, call: Call) -> Parameters:
        containers = call.parameters.get("Containers") or []
        if bool(containers) == bool(call.parameters.get("PrimaryContainer")):
            raise ValidationException("Specify either PrimaryContainer or Containers when calling CreateModel.")
        check_execution(containers, (call.parameters.get("InferenceExecutionConfig") or {}).get("Mode", "Serial"))
        for each in containers or [call.parameters["PrimaryContainer"]]:
            check_container(each)
        check_containers(
            call.parameters.get("Containers") or [call.parameters["PrimaryContainer"]],
            call.parameters.get("ExecutionRoleArn", ""),
            self._context,
        )
        call.parameters.setdefault("EnableNetworkIsolation", False)
        return self._records.add(MODEL, call)

    def describe_model(self, call: Call) -> Parameters:
        return self._records.describe(MODEL, call)

    def list_models(self, call: Call) -> Parameters:
        rows = filter_and_sort(MODEL, self._records.resources.all(MODEL.key, call.region), call.parameters)
        return page(MODEL, call.region, rows, ("ModelName", "CreationTime"), call.parameters)

    def delete_model(self, call: Call) -> Parameters:
        return self._records.delete(MODEL, call)


def check_execution(containers: list[Parameters], mode: str) -> None:
    """Raises ``ValidationException`` for members of Containers that could not be called as ``mode`` says."""
    hostnames = [each["ContainerHostname"] for each in containers if each.get("ContainerHostname")]
    if mode == "Direct":
        if not containers:
            raise ValidationException(
                "InferenceExecutionConfig with Mode Direct needs Containers, not PrimaryContainer."
            )
        if len(hostnames) < len(containers):
            raise ValidationException(
                "ContainerHostname is required for each container in a model with direct invocation: "
                f"{len(hostnames)} of {len(containers)} have one."
            )
    elif 0 < len(hostnames) < len(containers):
        raise ValidationException(
            "ContainerHostname must be specified for all containers of an inference pipeline or for none: "
            f"{len(hostnames)} of {len(containers)} have one."
        )
    if len(set(hostnames)) < len(hostnames):
        raise ValidationException("Two containers of the model have the same ContainerHostname.")
    if mode == "Serial" and sum(each.get("Mode") == "MultiModel" for each in containers) > 1:
        raise ValidationException(
            "More than one container in MultiModel mode is not supported with inference pipeline."
        )


def check_container(container: Parameters) -> None:
    """Raises ``ValidationException`` for a ContainerDefinition that could not be served."""
    url = container.get("ModelDataUrl")
    if container.get("Mode") == "MultiModel" and not url:
        raise ValidationException("ModelDataUrl must be specified for a container in MultiModel mode.")
    for member in UNAVAILABLE_SOURCES:
        if container.get(member):
            raise ValidationException(
                f"{member} is not available on this local endpoint: name the model's archive, or the prefix of "
                "archives, with ModelDataUrl."
            )
    if not container.get("Image"):
        raise ValidationException("Image must be specified for a container.")
    if url:
        try:
            S3Location.parse(url)
        except ValueError:
            raise ValidationException(f"Invalid ModelDataUrl: {url} is not the location of S3 objects.") from None
