"""What a client is told when something goes wrong, in AWS's words, and what one part of this package tells another.

AwsError                 an answer: code, HTTP status, message, further fields
├── ValidationException  400  control plane
└── (runtime errors)     made by the functions below: ValidationError 400, ModelError 424,
                         ModelNotReadyException 429, InternalFailure 500, ServiceUnavailable 503
ContainerError           a container did not answer
├── ContainerGone        the connection failed or broke: it is dead, or about to be replaced
│   └── ContainerRefused there was no connection: nothing of the request has reached it
└── ContainerTimeout     it is there, but did not answer in time
StartFailure             an instance cannot be brought up; its text becomes the FailureReason
└── PingFailure          containers of it did not pass the ping health check
StateError               the state folder cannot be used
├── StateInUse           another local endpoint uses it
└── StateUnreadable      something in it cannot be understood
CannotListen             the address or port is not to be had
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local_endpoint.configuration import ACCOUNT

# AWS quotes short answers of a container and none that are long; it does not say where the limit is (our choice).
QUOTED_BYTES = 2048


class AwsError(Exception):
    """An error answer. ``fields`` are further members of the JSON body."""

    def __init__(self, code: str, status: int, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message
        self.fields = fields


class ValidationException(AwsError):
    """What the control plane answers to almost everything that it refuses."""

    def __init__(self, message: str) -> None:
        super().__init__("ValidationException", 400, message)


class ContainerError(Exception):
    """A container did not answer."""


class ContainerGone(ContainerError):
    """The connection failed or broke before an answer came."""


class ContainerRefused(ContainerGone):
    """There was no connection: the container has ended before, and nothing of the request has reached it."""


class ContainerTimeout(ContainerError):
    """No answer came in time."""


class StartFailure(Exception):
    """An instance cannot be brought up; the text becomes the endpoint's FailureReason."""


class PingFailure(StartFailure):
    """Containers of one instance did not pass the ping health check: AWS's sentence, and what AWS leaves to its logs.

    ``details`` says of each why, by the name that error texts give it.
    """

    def __init__(self, variant: str, details: Mapping[str, str]) -> None:
        names = ", ".join("primary container" if name == "primary" else name for name in details)
        told = next(iter(details.values())) if len(details) == 1 else " ".join(f"{k}: {v}" for k, v in details.items())
        super().__init__(
            f"The {names} for production variant {variant} did not pass the ping health check. "
            f"Please check CloudWatch logs for this endpoint. Here: {told}"
        )
        self.variant = variant
        self.details = details


class StateError(Exception):
    """The state folder cannot be used. The text names what is wrong with it and what to do."""


class StateInUse(StateError):
    """Another local endpoint uses the folder."""


class StateUnreadable(StateError):
    """What an earlier run kept cannot be understood. The text names the file."""


class CannotListen(OSError):
    """Nothing can listen on the address and port that were asked for."""


def validation_error(message: str, **fields: Any) -> AwsError:
    """The runtime's 400 (its code has another name than the control plane's)."""
    return AwsError("ValidationError", 400, message, **fields)


def model_not_ready(target: str) -> AwsError:
    return AwsError(
        "ModelNotReadyException",
        429,
        f"Model {target} is not ready for inference: it is still being downloaded or loaded. Please try again.",
    )


def service_unavailable(message: str) -> AwsError:
    return AwsError("ServiceUnavailable", 503, message)


def log_group(endpoint: str) -> str:
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def _see(region: str, endpoint: str) -> str:
    return (
        f"See https://{region}.console.aws.amazon.com/cloudwatch/home?region={region}"
        f"#logEventViewer:group={log_group(endpoint)} in account {ACCOUNT} for more information."
    )


def model_error(region: str, endpoint: str, container: str, status: int, body: bytes) -> AwsError:
    """A container answered ``status`` (400 or more, or a 2xx that it may not use) to a load or an invocation."""
    side = "client" if 400 <= status < 500 else "server"
    try:
        original = body.decode() if len(body) <= QUOTED_BYTES else None
    except UnicodeDecodeError:
        original = None
    quoted = f'with message "{original}"'
    with_message = "and could not load the entire response body" if original is None else quoted
    return AwsError(
        "ModelError",
        424,
        f"Received {side} error ({status}) from {container} {with_message}. {_see(region, endpoint)}",
        ErrorCode="CLIENT_ERROR_FROM_MODEL" if side == "client" else "INTERNAL_FAILURE_FROM_MODEL",
        OriginalStatusCode=status,
        OriginalMessage=original or "",
        LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{log_group(endpoint)}",
    )


def payload_too_large(region: str, endpoint: str, containers: tuple[str, str], status: int, body: bytes) -> AwsError:
    """The first of two containers answered well, but more than the second may be sent."""
    first, second = containers
    return AwsError(
        "ModelError",
        424,
        f"Received response from {first} with status code {status}. However, the request payload from {first} to "
        f"{second} is {len(body)} bytes, which has exceeded the maximum limit of 5 MB. {_see(region, endpoint)}",
        ErrorCode="CLIENT_ERROR_FROM_MODEL",
        OriginalStatusCode=status,
        OriginalMessage="",
        LogStreamArn=f"arn:aws:logs:{region}:{ACCOUNT}:log-group:{log_group(endpoint)}",
    )


def model_timeout(region: str, endpoint: str, container: str) -> AwsError:
    """The container did not answer an invocation in time: AWS reports status 0."""
    message = (
        f"Your invocation timed out while waiting for a response from container {container}. Review the latency "
        "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
    )
    return model_error(region, endpoint, container, 0, message.encode())
