"""Deletes an endpoint, and with --all what it was made of. The models in S3 stay."""

from __future__ import annotations

import argparse
from typing import Any

from botocore.exceptions import ClientError

from scripts.programs.aws import (
    client,
    describe_endpoint,
    find_config,
    is_missing,
    plain_errors,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, run
from scripts.programs.updates import Parts, made_by_updates, models_of, used_by_endpoints


def main() -> int:
    """Returns 0 once all is gone; 1 if there was nothing."""
    arguments = parse()
    sagemaker = client("sagemaker")
    with plain_errors(f"deleting {arguments.name}"):
        described = describe_endpoint(sagemaker, arguments.name)
        parts = parts_of(sagemaker, arguments.name, described) if arguments.all else Parts()
        if described is not None:
            delete_endpoint(sagemaker, arguments.name, arguments.timeout_s)
        found = delete_parts(sagemaker, parts) or described is not None
    if not found:
        raise Failure(f"there is no endpoint {arguments.name}.")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/delete_endpoint",
        description="Deletes an endpoint and waits until it is gone. The models in S3 stay.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--name", required=True, help="name of the endpoint")
    parser.add_argument(
        "--all",
        action="store_true",
        help="its configurations and models too, also what updates made and a failed deployment left; what another "
        "endpoint uses stays",
    )
    parser.add_argument("--timeout-s", type=float, default=600.0, help="how long to wait (default 600)")
    return parser.parse_args()


def parts_of(sagemaker: Any, name: str, described: dict[str, Any] | None) -> Parts:
    """What endpoint ``name`` was made of: by its deployment, whose parts have its name, and by its updates."""
    parts = made_by_updates(sagemaker, name)
    parts.add([name], [name])
    if described is not None and "EndpointConfigName" in described:
        parts.add([described["EndpointConfigName"]], [])
    for config_name in parts.configs:
        parts.add([], models_of(find_config(sagemaker, config_name)))
    return parts


def delete_endpoint(sagemaker: Any, name: str, timeout_s: float) -> None:
    """Raises ``Failure`` if it is still there when nothing is in progress any more."""
    sagemaker.delete_endpoint(EndpointName=name)
    left = wait_for_endpoint(sagemaker, name, timeout_s)
    if left is not None:
        reason = left.get("FailureReason", "no reason is given")
        raise Failure(f"endpoint {name} was not deleted, it is {left['EndpointStatus']}: {reason}")
    print(f"deleted endpoint {name}")


def delete_parts(sagemaker: Any, parts: Parts) -> bool:
    """Whether any was there. What another endpoint uses stays."""
    if not parts.configs and not parts.models:
        return False
    used = used_by_endpoints(sagemaker)
    found = False
    for title, names, kept, delete in (
        ("endpoint configuration", parts.configs, used.configs, delete_config),
        ("model", parts.models, used.models, delete_model),
    ):
        for each in names:
            if each in kept:
                print(f"kept {title} {each}: another endpoint uses it")
            elif delete(sagemaker, each):
                print(f"deleted {title} {each}")
                found = True
    return found


def delete_config(sagemaker: Any, name: str) -> bool:
    """False if there is none of that name."""
    if find_config(sagemaker, name) is None:
        return False
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    return True


def delete_model(sagemaker: Any, name: str) -> bool:
    """False if there is none of that name."""
    try:
        sagemaker.delete_model(ModelName=name)
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    return True


if __name__ == "__main__":
    run(main)
