"""Operations of SageMaker that this local endpoint answers no: those that moto would pretend, and all that nobody has.

moto keeps a job as a record that is Completed at once: a batch transform would look as if it had worked.
"""

from __future__ import annotations

from botocore import xform_name
from moto.sagemaker.responses import SageMakerResponse

from local_endpoint import validation
from local_endpoint.errors import AwsError, ValidationException

_ON_AWS = "Run it on AWS"
# What to do instead.
PRETENDED = {
    "CreateTransformJob": "Invoke an endpoint with each record instead, or run it on AWS",
    "CreateProcessingJob": "Run its script directly, or run it on AWS",
    "CreateCompilationJob": _ON_AWS,
    "CreateHyperParameterTuningJob": _ON_AWS,
    "CreateAutoMLJob": _ON_AWS,
    "CreateAutoMLJobV2": _ON_AWS,
    "CreateLabelingJob": _ON_AWS,
    "CreateEdgePackagingJob": _ON_AWS,
    "CreateInferenceRecommendationsJob": _ON_AWS,
    "StartPipelineExecution": _ON_AWS,
    "Search": "List and describe what there is instead (ListModels, ListEndpointConfigs, ListEndpoints)",
}


def refusal(operation: str) -> AwsError | None:
    """Why an operation that is not ours is not moto's either; None where it is."""
    if operation not in validation.service_model("sagemaker").operation_names:
        return AwsError("UnknownOperationException", 400, f"SageMaker has no operation {operation}.")
    if operation in PRETENDED:
        return ValidationException(
            f"{operation} is not available on this local endpoint: nothing would run. {PRETENDED[operation]}."
        )
    if not hasattr(SageMakerResponse, xform_name(operation)):
        return AwsError(
            "UnsupportedOperation",
            400,
            f"{operation} is not available on this local endpoint: it has models, endpoint configurations, endpoints "
            f"and what moto has of SageMaker. {_ON_AWS}.",
        )
    return None
