"""Deploys a multi-model endpoint: model, endpoint configuration and endpoint, all of one name."""

from __future__ import annotations

import argparse
from typing import Any

from botocore.exceptions import ClientError

from scripts.programs.aws import (
    client,
    environment_setting,
    is_taken,
    multi_model_container,
    plain_errors,
    production_variant,
    undo,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, at_least_one, run


def main() -> int:
    """Returns 0 once the endpoint is in service."""
    arguments = parse()
    sagemaker = client("sagemaker")
    with plain_errors(f"deploying {arguments.name}"):
        try:
            create(sagemaker, arguments)
        except ClientError as error:
            if not is_taken(error):
                raise
            raise Failure(
                f"{error.response['Error']['Message']} Take another --name, change the endpoint that is there with "
                f"./scripts/update_endpoint, or remove it with: ./scripts/delete_endpoint --name {arguments.name} --all"
            ) from None
        print(f"endpoint {arguments.name} is being created", flush=True)
        described = wait_for_endpoint(sagemaker, arguments.name, arguments.timeout_s)
    if described is None or described["EndpointStatus"] != "InService":
        reason = (described or {}).get("FailureReason", "it was deleted meanwhile")
        raise Failure(
            f"endpoint {arguments.name} failed: {reason}\n"
            f"Remove what is left with: ./scripts/delete_endpoint --name {arguments.name} --all"
        )
    print(
        f"endpoint {arguments.name} is in service. Next:\n"
        f"  ./scripts/list_models --endpoint {arguments.name}\n"
        f"  ./scripts/invoke --endpoint {arguments.name} --target-model MODEL.tar.gz --content-type TYPE FILE\n"
        f"  ./scripts/delete_endpoint --name {arguments.name} --all"
    )
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/deploy",
        description="Deploys a multi-model endpoint (model, endpoint configuration and endpoint of one name) and waits "
        "until it is in service.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--name", required=True, help="name of the endpoint, its configuration and its model")
    parser.add_argument("--image", required=True, metavar="URI", help="the container's image in ECR")
    parser.add_argument("--models", required=True, metavar="s3://BUCKET/PREFIX/", help="where the models are")
    parser.add_argument("--role", required=True, metavar="ARN", help="role that may read the models")
    parser.add_argument("--instance-type", default="ml.m5.xlarge", help="default: ml.m5.xlarge")
    parser.add_argument("--instances", type=at_least_one, default=1, help="how many (default 1)")
    parser.add_argument(
        "--cache",
        choices=("enabled", "disabled"),
        default="enabled",
        help="disabled: drop a model after each invocation (for models that are seldom called twice)",
    )
    parser.add_argument(
        "--env",
        action="append",
        type=environment_setting,
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the container (docs/settings.md); may be repeated",
    )
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="how long to wait (default 1800)")
    return parser.parse_args()


def create(sagemaker: Any, arguments: argparse.Namespace) -> None:
    """Makes all three, or leaves none behind."""
    name = arguments.name
    container = multi_model_container(arguments.image, arguments.models, arguments.cache, dict(arguments.env))
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=arguments.role, PrimaryContainer=container)
    try:
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[production_variant(name, arguments.instance_type, arguments.instances)],
        )
        try:
            sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        except BaseException:
            undo("deleting the configuration", lambda: sagemaker.delete_endpoint_config(EndpointConfigName=name))
            raise
    except BaseException:
        undo("deleting the model", lambda: sagemaker.delete_model(ModelName=name))
        raise


if __name__ == "__main__":
    run(main)
