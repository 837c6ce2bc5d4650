"""What the programs that talk to AWS have in common: clients, errors in plain words, waiting for an endpoint.

The same code runs against AWS and against the local endpoint: boto3 itself reads AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from scripts.programs.console import Failure

# An endpoint answers within 60 s; AWS advises clients to wait 70.
READ_TIMEOUT_S = 70
POLL_S = 2.0
LOCAL_REGION = "us-east-1"
# Of AWS's partitions, and of endpoints in a VPC.
AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonwebservices.com.cn", ".aws.dev")
IN_PROGRESS = ("Creating", "Updating", "RollingBack", "SystemUpdating", "Deleting")


def client(service: str, **settings: Any) -> Any:
    """A boto3 client; ``settings`` are botocore's own. The local endpoint needs neither a region nor credentials; AWS
    does. Raises ``Failure``."""
    session = boto3.Session()
    config = Config(**{"read_timeout": READ_TIMEOUT_S, "user_agent_extra": "multi-model-scripts", **settings})
    made = session.client(service, region_name=session.region_name or LOCAL_REGION, config=config)
    if is_local(made.meta.endpoint_url):
        if session.get_credentials() is None:
            keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
            return session.client(service, region_name=session.region_name or LOCAL_REGION, config=config, **keys)
        return made
    if session.region_name is None:
        raise Failure("no AWS region is set: set AWS_DEFAULT_REGION (or AWS_ENDPOINT_URL, for a local endpoint).")
    return made


def is_local(url: str) -> bool:
    """Whether ``url`` is not AWS's: AWS_ENDPOINT_URL names a local endpoint then, on whatever machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return not host.endswith(AWS_DOMAINS)


@contextlib.contextmanager
def plain_errors(doing: str) -> Iterator[None]:
    """Turns what boto3 raises into a ``Failure`` that says what was being done."""
    try:
        yield
    except NoCredentialsError:
        raise Failure(
            f"{doing}: there are no AWS credentials. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_ENDPOINT_URL for a local endpoint."
        ) from None
    except EndpointConnectionError as error:
        raise Failure(
            f"{doing}: {error} Is it running (./scripts/local_endpoint), and AWS_ENDPOINT_URL right?"
        ) from None
    except ClientError as error:
        its = error.response["Error"]
        raise Failure(f"{doing}: {its.get('Code')}: {its.get('Message')}") from None
    except BotoCoreError as error:
        raise Failure(f"{doing}: {error}") from None


def parse_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix; a prefix ends in a slash. Raises ``Failure``."""
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise Failure(f"{url} is not s3://BUCKET/PREFIX/.")
    return bucket, prefix if not prefix or prefix.endswith("/") else prefix + "/"


def is_missing(error: ClientError) -> bool:
    """Whether the control plane says that there is no such thing."""
    return "Could not find" in str(error.response["Error"].get("Message"))


def is_taken(error: ClientError) -> bool:
    """Whether the control plane says that there is one of that name already."""
    return "already existing" in str(error.response["Error"].get("Message"))


def describe_endpoint(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """None if there is none of that name."""
    try:
        described: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        return described
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def find_config(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """The description of an endpoint configuration; None if there is none of that name."""
    try:
        config: dict[str, Any] = sagemaker.describe_endpoint_config(EndpointConfigName=name)
        return config
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def wait_for_endpoint(sagemaker: Any, name: str, timeout_s: float) -> dict[str, Any] | None:
    """The description once nothing is in progress any more (None: deleted), telling every status on standard error.

    Raises ``Failure`` after ``timeout_s``.
    """
    started_s = time.monotonic()
    shown = ""
    is_terminal = sys.stderr.isatty()
    while True:
        described = describe_endpoint(sagemaker, name)
        status = described["EndpointStatus"] if described else "Deleted"
        elapsed_s = time.monotonic() - started_s
        if is_terminal:
            print(f"\r  {status:<12} {elapsed_s:4.0f} s ", end="", file=sys.stderr, flush=True)
        elif status != shown:
            print(f"  {status} after {elapsed_s:.0f} s", file=sys.stderr, flush=True)
        shown = status
        if status not in IN_PROGRESS:
            if is_terminal:
                print(file=sys.stderr)
            return described
        if elapsed_s > timeout_s:
            raise Failure(
                f"endpoint {name} is still {status} after {elapsed_s:.0f} s. It goes on by itself; look again with: "
                f"aws sagemaker describe-endpoint --endpoint-name {name}"
            )
        time.sleep(POLL_S if elapsed_s > 20 else 0.5)


def production_variant(model: str, instance_type: str, instances: int) -> dict[str, Any]:
    """The one variant that these programs make."""
    return {
        "VariantName": "AllTraffic",
        "ModelName": model,
        "InstanceType": instance_type,
        "InitialInstanceCount": instances,
        "InitialVariantWeight": 1.0,
    }


def copied(sagemaker: Any, operation: str, described: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The parameters with which ``operation`` makes what was ``described`` again, with ``changes``."""
    members = sagemaker.meta.service_model.operation_model(operation).input_shape.members
    return {**{name: value for name, value in described.items() if name in members}, **changes}


def multi_model_container(image: str, models: str, cache: str, environment: dict[str, str]) -> dict[str, Any]:
    """A ContainerDefinition; ``cache`` is enabled or disabled."""
    bucket, prefix = parse_s3_url(models)
    return {
        "Image": image,
        "Mode": "MultiModel",
        "ModelDataUrl": f"s3://{bucket}/{prefix}",
        "MultiModelConfig": {"ModelCacheSetting": cache.capitalize()},
        "Environment": environment,
    }


@dataclass(frozen=True)
class Member:
    """One of several containers, as the command line names it."""

    hostname: str
    image: str
    data: str
    """Of the only model, its archive (empty: the image brings it); of a ``multi`` one the prefix of models."""
    multi: bool

    def definition(self, cache: str, environment: dict[str, str]) -> dict[str, Any]:
        """A ContainerDefinition. Raises ``Failure``."""
        if self.multi:
            its = multi_model_container(self.image, self.data, cache, environment)
        else:
            its = {
                "Image": self.image,
                "Environment": environment,
                **({"ModelDataUrl": self.data} if self.data else {}),
            }
        return {"ContainerHostname": self.hostname, **its}


def member(text: str) -> Member:
    """An argparse type: HOSTNAME=IMAGE,MODEL_DATA[,multi]."""
    hostname, equals, rest = text.partition("=")
    image, *more = rest.split(",")
    data, kind = [*more, "", ""][:2]
    if not (hostname and equals and image) or not 1 <= len(more) <= 2 or kind not in ("", "multi"):
        raise argparse.ArgumentTypeError(f"{text!r} is not HOSTNAME=IMAGE,MODEL_DATA[,multi]")
    if kind == "multi" and not data:
        raise argparse.ArgumentTypeError(f"{text!r} names no s3://BUCKET/PREFIX/, where its models are")
    return Member(hostname, image, data, kind == "multi")


def undo(doing: str, call: Callable[[], Any]) -> None:
    """Takes back a step of a deployment that failed; that this fails too is only told."""
    try:
        call()
    except (ClientError, BotoCoreError) as error:
        print(f"  {doing} failed: {error}", file=sys.stderr)


def environment_setting(text: str) -> tuple[str, str]:
    """An argparse type: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
