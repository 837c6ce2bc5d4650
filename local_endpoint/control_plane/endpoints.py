"""Endpoints: CreateEndpoint, DescribeEndpoint, ListEndpoints, both updates, DeleteEndpoint.

The operations check and note what is to be; ``hosting.endpoints`` does it, in the background.
"""

from __future__ import annotations

import time

from local_endpoint import validation
from local_endpoint.control_plane.listing import filter_and_sort, page
from local_endpoint.control_plane.records import ENDPOINT, ENDPOINT_CONFIG, Call, Parameters, Records
from local_endpoint.errors import ValidationException
from local_endpoint.hosting.deployment import Deployment
from local_endpoint.hosting.endpoints import IN_PROGRESS
from local_endpoint.hosting.endpoints import Endpoints as HostedEndpoints
from local_endpoint.storage.resources import arn


class Endpoints:
    """Each operation is a method of its name. All raise ``AwsError``."""

    def __init__(self, records: Records, hosted: HostedEndpoints) -> None:
        self._records = records
        self._hosted = hosted

    def create_endpoint(self, call: Call) -> Parameters:
        config = self._records.require(ENDPOINT_CONFIG, call.region, call.parameters["EndpointConfigName"])
        deployment_config = call.parameters.pop("DeploymentConfig", None)
        members = {"LastDeploymentConfig": deployment_config} if deployment_config else {}
        answer = self._records.add(
            ENDPOINT, call, EndpointStatus="Creating", PendingDeploymentSummary=pending(config), **members
        )
        self._hosted.create(call.region, call.parameters["EndpointName"])
        return answer

    def describe_endpoint(self, call: Call) -> Parameters:
        answer = self._records.describe(ENDPOINT, call)
        deployment = self._hosted.deployment(call.region, call.parameters["EndpointName"])
        if deployment is not None:
            answer["ProductionVariants"] = summaries(deployment, answer["CreationTime"])
            answer.update(shown_of_config(deployment.config))
        return answer

    def list_endpoints(self, call: Call) -> Parameters:
        rows = filter_and_sort(ENDPOINT, self._records.resources.all(ENDPOINT.key, call.region), call.parameters)
        shown = ("EndpointName", "CreationTime", "LastModifiedTime", "EndpointStatus")
        return page(ENDPOINT, call.region, rows, shown, call.parameters)

    def update_endpoint(self, call: Call) -> Parameters:
        region, parameters = call.region, call.parameters
        name, config_name = parameters["EndpointName"], parameters["EndpointConfigName"]
        record = self._require_updatable(region, name)
        config = self._records.require(ENDPOINT_CONFIG, region, config_name)
        # AWS needs both: the old one is what it would roll back to
        self._records.require(ENDPOINT_CONFIG, region, record["EndpointConfigName"])
        retained: set[str] = set()
        if parameters.get("RetainAllVariantProperties"):
            excluded = {each["VariantPropertyType"] for each in parameters.get("ExcludeRetainedVariantProperties", [])}
            retained = {"DesiredInstanceCount", "DesiredWeight"} - excluded
        members: Parameters = {"PendingDeploymentSummary": pending(config)}
        if not parameters.get("RetainDeploymentConfig"):
            members["LastDeploymentConfig"] = parameters.get("DeploymentConfig")
        self._set_status(region, name, "Updating", **members)
        self._hosted.update(region, record["EndpointName"], config_name, retained)
        return {"EndpointArn": arn(region, ENDPOINT.key, name)}

    def update_endpoint_weights_and_capacities(self, call: Call) -> Parameters:
        region, name = call.region, call.parameters["EndpointName"]
        wanted = call.parameters["DesiredWeightsAndCapacities"]
        record = self._require_updatable(region, name)
        deployment = self._hosted.deployment(region, name)
        for each in wanted:
            if deployment is None or each["VariantName"] not in deployment.fleets:
                raise ValidationException(f'Could not find variant "{each["VariantName"]}" of endpoint "{name}".')
            if "ServerlessUpdateConfig" in each:
                raise ValidationException(
                    f'ServerlessUpdateConfig is not for variant "{each["VariantName"]}": it is not serverless.'
                )
            if "DesiredWeight" not in each and "DesiredInstanceCount" not in each:
                raise ValidationException(
                    f'Specify DesiredWeight or DesiredInstanceCount for variant "{each["VariantName"]}".'
                )
            if each.get("DesiredInstanceCount") == 0:
                raise ValidationException(
                    f'DesiredInstanceCount of variant "{each["VariantName"]}" must be at least 1: only endpoints of '
                    "inference components may have no instance."
                )
        self._set_status(region, name, "Updating")
        self._hosted.scale(region, record["EndpointName"], wanted)
        return {"EndpointArn": arn(region, ENDPOINT.key, name)}

    def delete_endpoint(self, call: Call) -> Parameters:
        name = call.parameters["EndpointName"]
        self._require_at_rest(call.region, name)
        self._set_status(call.region, name, "Deleting")
        self._hosted.delete(call.region, name)
        return {}

    def _require_updatable(self, region: str, name: str) -> Parameters:
        record = self._require_at_rest(region, name)
        if record["EndpointStatus"] == "Failed":
            raise ValidationException(
                f'Cannot update failed endpoint "{arn(region, ENDPOINT.key, name)}". DeleteEndpoint is the only '
                "operation that can be performed on a failed endpoint."
            )
        return record

    def _require_at_rest(self, region: str, name: str) -> Parameters:
        record = self._records.require(ENDPOINT, region, name)
        if record["EndpointStatus"] in IN_PROGRESS:
            raise ValidationException(f'Cannot update in-progress endpoint "{arn(region, ENDPOINT.key, name)}".')
        return record

    def _set_status(self, region: str, name: str, status: str, **members: object) -> None:
        self._records.resources.change(ENDPOINT.key, region, name, EndpointStatus=status, **members)


def pending(config: Parameters) -> Parameters:
    """The PendingDeploymentSummary of an endpoint that is on its way to ``config``."""
    variants = [
        {
            "VariantName": variant["VariantName"],
            "DesiredWeight": variant["InitialVariantWeight"],
            "DesiredInstanceCount": variant["InitialInstanceCount"],
            **_common("PendingProductionVariantSummary", variant),
        }
        for variant in config["ProductionVariants"]
    ]
    return {
        "EndpointConfigName": config["EndpointConfigName"],
        "ProductionVariants": variants,
        "StartTime": time.time(),
    }


def _common(shape: str, variant: Parameters) -> Parameters:
    """What a summary of a variant shows of it as it was configured."""
    members = validation.service_model("sagemaker").shape_for(shape).members
    return {name: value for name, value in variant.items() if name in members}


def shown_of_config(config: Parameters) -> Parameters:
    """The members of DescribeEndpoint that repeat the configuration. Nothing is captured here, and that is said."""
    members = validation.service_model("sagemaker").operation_model("DescribeEndpoint").output_shape.members
    repeated = ("ExplainerConfig", "MetricsConfig")
    shown: Parameters = {name: config[name] for name in repeated if name in config and name in members}
    capture = config.get("DataCaptureConfig")
    if capture:
        shown["DataCaptureConfig"] = {
            "EnableCapture": capture.get("EnableCapture", False),
            "CaptureStatus": "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        }
    return shown


def summaries(deployment: Deployment, resolution_time: float) -> list[Parameters]:
    """A ProductionVariantSummary per variant that serves."""
    configured = {each["VariantName"]: each for each in deployment.config["ProductionVariants"]}
    return [
        {
            **_common("ProductionVariantSummary", configured.get(name, {})),
            "VariantName": name,
            "DeployedImages": [
                {
                    "SpecifiedImage": container.image,
                    "ResolvedImage": container.image,
                    "ResolutionTime": resolution_time,
                }
                for container in fleet.definition.containers
            ],
            "CurrentWeight": deployment.weights[name],
            "DesiredWeight": deployment.weights[name],
            "CurrentInstanceCount": len(fleet.instances),
            "DesiredInstanceCount": fleet.desired_count,
            **variant_status(deployment, name),
        }
        for name, fleet in deployment.fleets.items()
    ]


def variant_status(deployment: Deployment, variant: str) -> Parameters:
    """The member VariantStatus while a variant is being changed; nothing when it is at rest, as AWS."""
    since_s = deployment.scaling_since_s.get(variant)
    if since_s is None:
        return {}
    return {"VariantStatus": [{"Status": "Updating", "StartTime": since_s}]}
