"""SageMaker's control plane for models, endpoint configurations and endpoints. Everything else is left to moto.

moto keeps such records too, but lets duplicates overwrite, knows few instance types, has no UpdateEndpoint and no
life behind an endpoint; here they are one small store of our own.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable
from typing import Any

from local_endpoint import validation
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.endpoints import IN_PROGRESS, Endpoints
from local_endpoint.storage.location import S3Location
from local_endpoint.storage.resources import Resources, arn

Parameters = dict[str, Any]
TITLES = {"model": "model", "endpoint-config": "endpoint configuration", "endpoint": "endpoint"}
MEMBERS = {"model": "ModelName", "endpoint-config": "EndpointConfigName", "endpoint": "EndpointName"}
ARNS = {"model": "ModelArn", "endpoint-config": "EndpointConfigArn", "endpoint": "EndpointArn"}
DEFAULT_PAGE = 10
# Other places of a container's model. Taken as if they were not there, the endpoint would serve without a model.
UNAVAILABLE_SOURCES = ("ModelDataSource", "AdditionalModelDataSources", "ModelPackageName")


class ControlPlane:
    """Answers the operations that it ``knows``."""

    def __init__(self, resources: Resources, endpoints: Endpoints) -> None:
        self._resources = resources
        self._endpoints = endpoints
        self._lock = threading.Lock()  # a check and the change that follows it belong together
        self._operations: dict[str, Callable[[str, Parameters], Parameters]] = {
            "CreateModel": self._create_model,
            "DescribeModel": self._describe_model,
            "DeleteModel": lambda region, it: self._delete("model", region, it),
            "ListModels": lambda region, it: self._list("model", "Models", region, it),
            "CreateEndpointConfig": self._create_endpoint_config,
            "DescribeEndpointConfig": lambda region, it: self._describe("endpoint-config", region, it),
            "DeleteEndpointConfig": lambda region, it: self._delete("endpoint-config", region, it),
            "ListEndpointConfigs": lambda region, it: self._list("endpoint-config", "EndpointConfigs", region, it),
            "CreateEndpoint": self._create_endpoint,
            "DescribeEndpoint": self._describe_endpoint,
            "UpdateEndpoint": self._update_endpoint,
            "UpdateEndpointWeightsAndCapacities": self._update_weights_and_capacities,
            "DeleteEndpoint": self._delete_endpoint,
            "ListEndpoints": lambda region, it: self._list("endpoint", "Endpoints", region, it),
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
        }

    def knows(self, operation: str, parameters: Parameters) -> bool:
        """Tags of other kinds of resources are moto's."""
        if operation in ("AddTags", "ListTags", "DeleteTags"):
            return self._resources.owns(str(parameters.get("ResourceArn", "")))
        return operation in self._operations

    def call(self, operation: str, region: str, parameters: Parameters) -> Parameters:
        """The answer's members. Raises ``AwsError``."""
        wrong = validation.failures("sagemaker", operation, parameters)
        if wrong:
            raise ValidationException(validation.text_of(wrong))
        with self._lock:
            return self._operations[operation](region, parameters)

    # ---- common to the three kinds ----

    def _require(self, kind: str, region: str, name: str) -> Parameters:
        record = self._resources.get(kind, region, name)
        if record is None:
            raise ValidationException(f'Could not find {TITLES[kind]} "{arn(region, kind, name)}".')
        return record

    def _add(self, kind: str, region: str, parameters: Parameters, **members: Any) -> Parameters:
        name = parameters[MEMBERS[kind]]
        record = {key: value for key, value in parameters.items() if key != "Tags"}
        if not self._resources.add(kind, region, name, {**record, **members}, parameters.get("Tags", [])):
            raise ValidationException(f'Cannot create already existing {TITLES[kind]} "{arn(region, kind, name)}".')
        return {ARNS[kind]: arn(region, kind, name)}

    def _describe(self, kind: str, region: str, parameters: Parameters) -> Parameters:
        record = self._require(kind, region, parameters[MEMBERS[kind]])
        operation = {"model": "DescribeModel", "endpoint-config": "DescribeEndpointConfig"}.get(
            kind, "DescribeEndpoint"
        )
        members = validation.service_model("sagemaker").operation_model(operation).output_shape.members
        record[ARNS[kind]] = arn(region, kind, parameters[MEMBERS[kind]])
        return {name: value for name, value in record.items() if name in members}

    def _delete(self, kind: str, region: str, parameters: Parameters) -> Parameters:
        self._require(kind, region, parameters[MEMBERS[kind]])
        self._resources.remove(kind, region, parameters[MEMBERS[kind]])
        return {}

    def _list(self, kind: str, member: str, region: str, parameters: Parameters) -> Parameters:
        records = self._resources.all(kind, region)
        name, created, modified = MEMBERS[kind], "CreationTime", "LastModifiedTime"
        checks: list[tuple[str, Callable[[Parameters, Any], bool]]] = [
            ("NameContains", lambda each, value: value.lower() in each[name].lower()),
            ("StatusEquals", lambda each, value: each["EndpointStatus"] == value),
            ("CreationTimeAfter", lambda each, value: each[created] >= value),
            ("CreationTimeBefore", lambda each, value: each[created] <= value),
            ("LastModifiedTimeAfter", lambda each, value: each[modified] >= value),
            ("LastModifiedTimeBefore", lambda each, value: each[modified] <= value),
        ]
        for parameter, keeps in checks:
            if parameter in parameters:
                records = [each for each in records if keeps(each, parameters[parameter])]
        by_name = parameters.get("SortBy") == "Name"
        records.sort(key=lambda each: (each[name].lower() if by_name else each[created], each[name].lower()))
        if parameters.get("SortOrder", "Descending") == "Descending":
            records.reverse()
        start = _page_start(parameters.get("NextToken"))
        end = start + parameters.get("MaxResults", DEFAULT_PAGE)
        shown = [name, created] + ([modified, "EndpointStatus"] if kind == "endpoint" else [])
        answer: Parameters = {
            member: [
                {ARNS[kind]: arn(region, kind, each[name]), **{key: each[key] for key in shown}}
                for each in records[start:end]
            ]
        }
        if end < len(records):
            answer["NextToken"] = base64.urlsafe_b64encode(str(end).encode()).decode()
        return answer

    # ---- models ----

    def _create_model(self, region: str, parameters: Parameters) -> Parameters:
        containers = parameters.get("Containers") or []
        if bool(containers) == bool(parameters.get("PrimaryContainer")):
            raise ValidationException("Specify either PrimaryContainer or Containers when calling CreateModel.")
        containers = containers or [parameters["PrimaryContainer"]]
        multi_model = [each for each in containers if each.get("Mode") == "MultiModel"]
        if len(multi_model) > 1:
            raise ValidationException(
                "More than one container in MultiModel mode is not supported with inference pipeline."
            )
        for each in containers:
            self._check_container(each)
        parameters.setdefault("EnableNetworkIsolation", False)
        return self._add("model", region, parameters)

    @staticmethod
    def _check_container(container: Parameters) -> None:
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

    def _describe_model(self, region: str, parameters: Parameters) -> Parameters:
        return self._describe("model", region, parameters)

    # ---- endpoint configurations ----

    def _create_endpoint_config(self, region: str, parameters: Parameters) -> Parameters:
        variants = parameters["ProductionVariants"]
        names = [each["VariantName"] for each in variants]
        if len(set(names)) < len(names):
            raise ValidationException("Two production variants of an endpoint configuration have the same name.")
        for variant in variants:
            if "ServerlessConfig" in variant:
                raise ValidationException("Serverless endpoints do not support multi-model; not available here.")
            if "ModelName" not in variant:
                raise ValidationException(
                    "A production variant needs a ModelName; inference components are not available."
                )
            self._require("model", region, variant["ModelName"])
            variant.setdefault("InitialVariantWeight", 1.0)
            for member in ("InstanceType", "InitialInstanceCount"):
                if member not in variant:
                    raise ValidationException(
                        f"{member} must be specified for production variant {variant['VariantName']}."
                    )
        return self._add("endpoint-config", region, parameters)

    # ---- endpoints ----

    def _create_endpoint(self, region: str, parameters: Parameters) -> Parameters:
        self._require("endpoint-config", region, parameters["EndpointConfigName"])
        answer = self._add("endpoint", region, parameters, EndpointStatus="Creating")
        self._endpoints.create(region, parameters["EndpointName"])
        return answer

    def _describe_endpoint(self, region: str, parameters: Parameters) -> Parameters:
        answer = self._describe("endpoint", region, parameters)
        deployment = self._endpoints.deployment(region, parameters["EndpointName"])
        if deployment is not None:
            answer["ProductionVariants"] = [
                {
                    "VariantName": name,
                    "DeployedImages": [
                        {
                            "SpecifiedImage": fleet.definition.image,
                            "ResolvedImage": fleet.definition.image,
                            "ResolutionTime": answer["CreationTime"],
                        }
                    ],
                    "CurrentWeight": deployment.weights[name],
                    "DesiredWeight": deployment.weights[name],
                    "CurrentInstanceCount": len(fleet.instances),
                    "DesiredInstanceCount": fleet.desired_count,
                }
                for name, fleet in deployment.fleets.items()
            ]
        return answer

    def _require_at_rest(self, region: str, name: str) -> Parameters:
        record = self._require("endpoint", region, name)
        if record["EndpointStatus"] in IN_PROGRESS:
            raise ValidationException(f'Cannot update in-progress endpoint "{arn(region, "endpoint", name)}".')
        return record

    def _update_endpoint(self, region: str, parameters: Parameters) -> Parameters:
        name, config_name = parameters["EndpointName"], parameters["EndpointConfigName"]
        self._require_at_rest(region, name)
        self._require("endpoint-config", region, config_name)
        retained: set[str] = set()
        if parameters.get("RetainAllVariantProperties"):
            excluded = {each["VariantPropertyType"] for each in parameters.get("ExcludeRetainedVariantProperties", [])}
            retained = {"DesiredInstanceCount", "DesiredWeight"} - excluded
        pending = {"EndpointConfigName": config_name, "StartTime": time.time()}
        self._resources.change("endpoint", region, name, EndpointStatus="Updating", PendingDeploymentSummary=pending)
        self._endpoints.update(region, name, config_name, retained)
        return {"EndpointArn": arn(region, "endpoint", name)}

    def _update_weights_and_capacities(self, region: str, parameters: Parameters) -> Parameters:
        name, wanted = parameters["EndpointName"], parameters["DesiredWeightsAndCapacities"]
        self._require_at_rest(region, name)
        deployment = self._endpoints.deployment(region, name)
        for each in wanted:
            if deployment is None or each["VariantName"] not in deployment.fleets:
                raise ValidationException(f'Could not find variant "{each["VariantName"]}" of endpoint "{name}".')
            if each.get("DesiredInstanceCount") == 0:
                raise ValidationException(
                    f'DesiredInstanceCount of variant "{each["VariantName"]}" must be at least 1: only endpoints of '
                    "inference components may have no instance."
                )
        self._resources.change("endpoint", region, name, EndpointStatus="Updating")
        self._endpoints.scale(region, name, wanted)
        return {"EndpointArn": arn(region, "endpoint", name)}

    def _delete_endpoint(self, region: str, parameters: Parameters) -> Parameters:
        name = parameters["EndpointName"]
        self._require_at_rest(region, name)
        self._resources.change("endpoint", region, name, EndpointStatus="Deleting")
        self._endpoints.delete(region, name)
        return {}

    # ---- tags ----

    def _require_arn(self, parameters: Parameters) -> str:
        resource_arn = parameters["ResourceArn"]
        if not self._resources.exists(resource_arn):
            raise ValidationException(f'Could not find resource "{resource_arn}".')
        return str(resource_arn)

    def _add_tags(self, region: str, parameters: Parameters) -> Parameters:
        resource_arn = self._require_arn(parameters)
        tags = {each["Key"]: each["Value"] for each in self._resources.tags(resource_arn) + parameters["Tags"]}
        self._resources.set_tags(resource_arn, [{"Key": key, "Value": value} for key, value in tags.items()])
        return {"Tags": self._resources.tags(resource_arn)}

    def _list_tags(self, region: str, parameters: Parameters) -> Parameters:
        return {"Tags": self._resources.tags(self._require_arn(parameters))}

    def _delete_tags(self, region: str, parameters: Parameters) -> Parameters:
        resource_arn = self._require_arn(parameters)
        tags = [each for each in self._resources.tags(resource_arn) if each["Key"] not in parameters["TagKeys"]]
        self._resources.set_tags(resource_arn, tags)
        return {}


def _page_start(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise ValidationException("Invalid pagination token.") from None
