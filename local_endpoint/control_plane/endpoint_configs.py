"""Endpoint configurations: CreateEndpointConfig, DescribeEndpointConfig, ListEndpointConfigs, DeleteEndpointConfig."""

from __future__ import annotations

from local_endpoint.control_plane.listing import filter_and_sort, page
from local_endpoint.control_plane.records import ENDPOINT_CONFIG, MODEL, Call, Parameters, Records
from local_endpoint.errors import ValidationException

# Members of which nothing would come: the first has an endpoint take asynchronous invocations only.
UNAVAILABLE = {
    "AsyncInferenceConfig": "there are no asynchronous invocations. Leave it out and use InvokeEndpoint",
    "ShadowProductionVariants": "no traffic would be copied. Leave them out, or make an endpoint of its own for them",
}


class EndpointConfigs:
    """Each operation is a method of its name. All raise ``AwsError``."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def create_endpoint_config(self, call: Call) -> Parameters:
        for member, remedy in UNAVAILABLE.items():
            if call.parameters.get(member):
                raise ValidationException(f"{member} is not available on this local endpoint: {remedy}.")
        variants = call.parameters["ProductionVariants"]
        names = [each["VariantName"] for each in variants]
        if len(set(names)) < len(names):
            raise ValidationException("Two production variants of an endpoint configuration have the same name.")
        for variant in variants:
            self._check_variant(call.region, variant)
            variant.setdefault("InitialVariantWeight", 1.0)
        return self._records.add(ENDPOINT_CONFIG, call)

    def _check_variant(self, region: str, variant: Parameters) -> None:
        if "ServerlessConfig" in variant:
            raise ValidationException("Serverless endpoints do not support multi-model; not available here.")
        if "ModelName" not in variant:
            raise ValidationException("A production variant needs a ModelName; inference components are not available.")
        self._records.require(MODEL, region, variant["ModelName"])
        if variant.get("InstancePools"):
            raise ValidationException("InstancePools is not available on this local endpoint: name one InstanceType.")
        for member in ("InstanceType", "InitialInstanceCount"):
            if member not in variant:
                raise ValidationException(
                    f"{member} must be specified for production variant {variant['VariantName']}."
                )

    def describe_endpoint_config(self, call: Call) -> Parameters:
        return self._records.describe(ENDPOINT_CONFIG, call)

    def list_endpoint_configs(self, call: Call) -> Parameters:
        records = self._records.resources.all(ENDPOINT_CONFIG.key, call.region)
        rows = filter_and_sort(ENDPOINT_CONFIG, records, call.parameters)
        return page(ENDPOINT_CONFIG, call.region, rows, ("EndpointConfigName", "CreationTime"), call.parameters)

    def delete_endpoint_config(self, call: Call) -> Parameters:
        return self._records.delete(ENDPOINT_CONFIG, call)
