"""Moves an endpoint to a new configuration: another image, other models, more instances. It serves all the while."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from scripts.programs.aws import (
    client,
    environment_setting,
    name_of_update,
    parse_s3_url,
    plain_errors,
    undo,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, at_least_one, run


def main() -> int:
    """Returns 0 once the endpoint serves with the new configuration."""
    arguments = parse()
    sagemaker = client("sagemaker")
    with plain_errors(f"updating {arguments.name}"):
        before = sagemaker.describe_endpoint(EndpointName=arguments.name)["EndpointConfigName"]
        config = sagemaker.describe_endpoint_config(EndpointConfigName=before)
        if len(config["ProductionVariants"]) != 1:
            raise Failure(f"{arguments.name} has several production variants: update it with the AWS CLI.")
        new_name, made = make_config(sagemaker, config, arguments)
        try:
            sagemaker.update_endpoint(EndpointName=arguments.name, EndpointConfigName=new_name)
        except BaseException:
            remove(sagemaker, made)
            raise
        print(f"endpoint {arguments.name} is moving from {before} to {new_name}", flush=True)
        described = wait_for_endpoint(sagemaker, arguments.name, arguments.timeout_s)
        if described is None or described["EndpointConfigName"] != new_name:
            remove(sagemaker, made)
            reason = (described or {}).get("FailureReason", "no reason is given")
            raise Failure(f"the update failed, {arguments.name} serves with {before} as it did: {reason}")
        print(f"endpoint {arguments.name} serves with {new_name}")
        if arguments.delete_old:
            old_model = config["ProductionVariants"][0]["ModelName"]
            is_used = "model" not in dict(made)
            remove(sagemaker, [("config", before)] if is_used else [("config", before), ("model", old_model)])
            print("deleted what it served with before")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/update_endpoint",
        description="Moves an endpoint to a new configuration without losing a request. What is not named stays as it "
        "is. (To add a model, upload it; to change one, upload it under a new name: neither needs an update.)",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--name", required=True, help="name of the endpoint")
    parser.add_argument("--image", metavar="URI", help="another image")
    parser.add_argument("--models", metavar="s3://BUCKET/PREFIX/", help="another prefix")
    parser.add_argument("--cache", choices=("enabled", "disabled"), help="keep models after an invocation, or do not")
    parser.add_argument(
        "--env",
        action="append",
        type=environment_setting,
        metavar="NAME=VALUE",
        help="a setting; may be repeated",
    )
    parser.add_argument("--instance-type", help="another instance type")
    parser.add_argument("--instances", type=at_least_one, help="another number of instances")
    parser.add_argument("--delete-old", action="store_true", help="afterwards, delete the old configuration and model")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="how long to wait (default 1800)")
    arguments = parser.parse_args()
    changes = (arguments.image, arguments.models, arguments.cache, arguments.env)
    if not any((*changes, arguments.instance_type, arguments.instances)):
        parser.error("name at least one change (--image, --models, --cache, --env, --instance-type, --instances)")
    return arguments


def make_config(
    sagemaker: Any, config: dict[str, Any], arguments: argparse.Namespace
) -> tuple[str, list[tuple[str, str]]]:
    """The new configuration's name, and what was made: ("model" or "config", name)."""
    new_name = name_of_update(arguments.name)
    variant = dict(config["ProductionVariants"][0])
    made: list[tuple[str, str]] = []
    if any((arguments.image, arguments.models, arguments.cache, arguments.env)):
        model = sagemaker.describe_model(ModelName=variant["ModelName"])
        container = changed_container(model, arguments)
        sagemaker.create_model(
            ModelName=new_name, ExecutionRoleArn=model["ExecutionRoleArn"], PrimaryContainer=container
        )
        made.append(("model", new_name))
        variant["ModelName"] = new_name
    if arguments.instance_type:
        variant["InstanceType"] = arguments.instance_type
    if arguments.instances:
        variant["InitialInstanceCount"] = arguments.instances
    try:
        sagemaker.create_endpoint_config(EndpointConfigName=new_name, ProductionVariants=[variant])
    except BaseException:
        remove(sagemaker, made)
        raise
    return new_name, [*made, ("config", new_name)]


def changed_container(model: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The model's container with the changes. Raises ``Failure`` where it has several."""
    containers = model.get("Containers") or [model["PrimaryContainer"]]
    if len(containers) != 1:
        raise Failure(f"{model['ModelName']} has several containers: update the endpoint with the AWS CLI.")
    container = dict(containers[0])
    if arguments.image:
        container["Image"] = arguments.image
    if arguments.models:
        bucket, prefix = parse_s3_url(arguments.models)
        container["ModelDataUrl"] = f"s3://{bucket}/{prefix}"
    if arguments.cache:
        container["MultiModelConfig"] = {"ModelCacheSetting": arguments.cache.capitalize()}
    if arguments.env:
        container["Environment"] = {**container.get("Environment", {}), **dict(arguments.env)}
    return container


def remove(sagemaker: Any, made: list[tuple[str, str]]) -> None:
    """Deletes configurations and models; configurations first, as they name the models."""
    for kind, name in sorted(made):
        if kind == "config":
            undo(f"deleting configuration {name}", partial(sagemaker.delete_endpoint_config, EndpointConfigName=name))
        else:
            undo(f"deleting model {name}", partial(sagemaker.delete_model, ModelName=name))


if __name__ == "__main__":
    run(main)
