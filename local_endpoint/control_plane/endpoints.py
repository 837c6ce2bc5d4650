"""Endpoints: CreateEndpoint, DescribeEndpoint, ListEndpoints, both updates, DeleteEndpoint.

The operations check and note what is to be; ``hosting.endpoints`` does it, in the background.
"""

from __future__ import annotations

import time

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
        self._records.require(ENDPOINT_CONFIG, call.region, call.parameters["EndpointConfigName"])
        answer = self._records.add(ENDPOINT, call, EndpointStatus="Creating")
        self._hosted.create(call.region, call.parameters["EndpointName"])
        return answer

    def describe_endpoint(self, call: Call) -> Parameters:
        answer = self._records.describe(ENDPOINT, call)
        deployment = self._hosted.deployment(call.region, call.parameters["EndpointName"])
        if deployment is not None:
            answer["ProductionVariants"] = summaries(deployment, answer["CreationTime"])
        return answer

    def list_endpoints(self, call: Call) -> Parameters:
        rows = filter_and_sort(ENDPOINT, self._records.resources.all(ENDPOINT.key, call.region), call.parameters)
        shown = ("EndpointName", "CreationTime", "LastModifiedTime", "EndpointStatus")
        return page(ENDPOINT, call.region, rows, shown, call.parameters)

    def update_endpoint(self, call: Call) -> Parameters:
        region, parameters = call.region, call.parameters
        name, config_name = parameters["EndpointName"], parameters["EndpointConfigName"]
        self._require_at_rest(region, name)
        self._records.require(ENDPOINT_CONFIG, region, config_name)
        retained: set[str] = set()
        if parameters.get("RetainAllVariantProperties"):
            excluded = {each["VariantPropertyType"] for each in parameters.get("ExcludeRetainedVariantProperties", [])}
            retained = {"DesiredInstanceCount", "DesiredWeight"} - excluded
        pending = {"EndpointConfigName": config_name, "StartTime": time.time()}
        self._set_status(region, name, "Updating", PendingDeploymentSummary=pending)
        self._hosted.update(region, name, config_name, retained)
        return {"EndpointArn": arn(region, ENDPOINT.key, name)}

    def update_endpoint_weights_and_capacities(self, call: Call) -> Parameters:
        region, name = call.region, call.parameters["EndpointName"]
        wanted = call.parameters["DesiredWeightsAndCapacities"]
        self._require_at_rest(region, name)
        deployment = self._hosted.deployment(region, name)
        for each in wanted:
            if deployment is None or each["VariantName"] not in deployment.fleets:
                raise ValidationException(f'Could not find variant "{each["VariantName"]}" of endpoint "{name}".')
            if each.get("DesiredInstanceCount") == 0:
                raise ValidationException(
                    f'DesiredInstanceCount of variant "{each["VariantName"]}" must be at least 1: only endpoints of '
                    "inference components may have no instance."
                )
        self._set_status(region, name, "Updating")
        self._hosted.scale(region, name, wanted)
        return {"EndpointArn": arn(region, ENDPOINT.key, name)}

    def delete_endpoint(self, call: Call) -> Parameters:
        name = call.parameters["EndpointName"]
        self._require_at_rest(call.region, name)
        self._set_status(call.region, name, "Deleting")
        self._hosted.delete(call.region, name)
        return {}

    def _require_at_rest(self, region: str, name: str) -> None:
        record = self._records.require(ENDPOINT, region, name)
        if record["EndpointStatus"] in IN_PROGRESS:
            raise ValidationException(f'Cannot update in-progress endpoint "{arn(region, ENDPOINT.key, name)}".')

    def _set_status(self, region: str, name: str, status: str, **members: object) -> None:
        self._records.resources.change(ENDPOINT.key, region, name, EndpointStatus=status, **members)


def summaries(deployment: Deployment, resolution_time: float) -> list[Parameters]:
    """A ProductionVariantSummary per variant that serves."""
    return [
        {
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
