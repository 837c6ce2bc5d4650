"""Deletes an endpoint, and with --all what it was made of. The models in S3 stay."""

from __future__ import annotations

import argparse
from typing import Any

from botocore.exceptions import ClientError

from scripts.programs.aws import (
    client,
    describe_endpoint,
    is_missing,
    names_of_updates,
    plain_errors,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, run


def main() -> int:
    """Returns 0 once all is gone; 1 if there was nothing."""
    arguments = parse()
    sagemaker = client("sagemaker")
    with plain_errors(f"deleting {arguments.name}"):
        described = describe_endpoint(sagemaker, arguments.name)
        # what it was deployed with has its name, also after an update to another configuration
        config_names = dict.fromkeys([described["EndpointConfigName"] if described else arguments.name, arguments.name])
        found = described is not None
        if described is not None:
            sagemaker.delete_endpoint(EndpointName=arguments.name)
            wait_for_endpoint(sagemaker, arguments.name, arguments.timeout_s)
            print(f"deleted endpoint {arguments.name}")
        if arguments.all:
            updated_configs, updated_models = names_of_updates(sagemaker, arguments.name)
            config_names.update(dict.fromkeys(updated_configs))
            models = dict.fromkeys([arguments.name, *updated_models])
            for config_name in config_names:
                config = find_config(sagemaker, config_name)
                if config:
                    models.update(dict.fromkeys(variant["ModelName"] for variant in config["ProductionVariants"]))
                    sagemaker.delete_endpoint_config(EndpointConfigName=config_name)
                    print(f"deleted endpoint configuration {config_name}")
                    found = True
            deleted = [model for model in models if delete_model(sagemaker, model)]
            found = found or bool(deleted)
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
        "--all", action="store_true", help="its configuration and models too (also what a failed deployment left)"
    )
    parser.add_argument("--timeout-s", type=float, default=600.0, help="how long to wait (default 600)")
    return parser.parse_args()


def find_config(sagemaker: Any, name: str) -> dict[str, Any] | None:
    """None if there is none of that name."""
    try:
        config: dict[str, Any] = sagemaker.describe_endpoint_config(EndpointConfigName=name)
        return config
    except ClientError as error:
        if is_missing(error):
            return None
        raise


def delete_model(sagemaker: Any, name: str) -> bool:
    """False if there is none of that name."""
    try:
        sagemaker.delete_model(ModelName=name)
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    print(f"deleted model {name}")
    return True


if __name__ == "__main__":
    run(main)
