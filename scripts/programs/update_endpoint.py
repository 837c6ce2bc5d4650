"""Moves an endpoint to a new configuration: another image, other models, more instances. It serves all the while."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from scripts.programs.aws import (
    client,
    copied,
    environment_setting,
    parse_s3_url,
    plain_errors,
    undo,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, at_least_one, run
from scripts.programs.updates import name_of_update, tags_of_update, used_by_endpoints


def main() -> int:
    """Returns 0 once the endpoint serves with the new configuration."""
    arguments = parse()
    sagemaker = client("sagemaker")
    with plain_errors(f"updating {arguments.name}"):
        serving = sagemaker.describe_endpoint(EndpointName=arguments.name)
        if serving["EndpointStatus"] == "Failed":
            raise Failure(
                f"{arguments.name} is Failed ({serving.get('FailureReason', 'no reason is given')}): AWS does not "
                f"update such an endpoint. Remove it with ./scripts/delete_endpoint --name "
                f"{arguments.name} --all and deploy it anew."
            )
        before = serving["EndpointConfigName"]
        config = sagemaker.describe_endpoint_config(EndpointConfigName=before)
        if len(config["ProductionVariants"]) != 1 or config.get("ShadowProductionVariants"):
            raise Failure(f"{arguments.name} has several production variants: update it with the AWS CLI.")
        new_name, made = make_config(sagemaker, config, instances_of(serving), arguments)
        try:
            sagemaker.update_endpoint(EndpointName=arguments.name, EndpointConfigName=new_name)
        except BaseException:
            remove(sagemaker, made)
            raise
        print(f"endpoint {arguments.name} is moving from {before} to {new_name}", flush=True)
        described = wait_for_endpoint(sagemaker, arguments.name, arguments.timeout_s)
        has_moved = described is not None and described["EndpointConfigName"] == new_name
        if not has_moved:
            remove(sagemaker, made)
        if described is None or described["EndpointStatus"] != "InService" or not has_moved:
            raise Failure(f"the update failed, {outcome(arguments.name, described)}")
        print(f"endpoint {arguments.name} serves with {new_name}")
        if arguments.delete_old:
            old_model = config["ProductionVariants"][0]["ModelName"]
            remove_unused(sagemaker, arguments.name, [("config", before), ("model", old_model)])
    return 0


def instances_of(serving: dict[str, Any]) -> int | None:
    """How many instances the endpoint has now, which scaling may have changed; None where it has none."""
    for variant in serving.get("ProductionVariants", []):
        return variant.get("DesiredInstanceCount") or variant.get("CurrentInstanceCount")
    return None


def outcome(name: str, described: dict[str, Any] | None) -> str:
    """What the endpoint is after an update that failed."""
    if described is None:
        return f"{name} was deleted meanwhile."
    status, config = described["EndpointStatus"], described["EndpointConfigName"]
    reason = described.get("FailureReason", "no reason is given")
    if status == "InService":
        return f"{name} serves with {config} as it did: {reason}"
    return f"{name} is {status}: {reason}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/update_endpoint",
        description="Moves an endpoint to a new configuration without losing a request. What is not named stays as it "
        "is. (To add a model, upload it; to change one, upload it under a new name: neither needs an update.)",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--name", required=True, help="name of the endpoint")
    parser.add_argument(
        "--container", metavar="HOSTNAME", help="which of several containers gets the image, models, cache and settings"
    )
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
    sagemaker: Any, config: dict[str, Any], instances: int | None, arguments: argparse.Namespace
) -> tuple[str, list[tuple[str, str]]]:
    """The new configuration's name, and what was made: ("model" or "config", name)."""
    new_name = name_of_update(arguments.name)
    variant = dict(config["ProductionVariants"][0])
    made: list[tuple[str, str]] = []
    if any((arguments.image, arguments.models, arguments.cache, arguments.env)):
        model = sagemaker.describe_model(ModelName=variant["ModelName"])
        sagemaker.create_model(
            **copied(
                sagemaker,
                "CreateModel",
                model,
                ModelName=new_name,
                Tags=tags_of_update(sagemaker, arguments.name, model["ModelArn"]),
                **changed_container(model, arguments),
            )
        )
        made.append(("model", new_name))
        variant["ModelName"] = new_name
    if arguments.instance_type:
        variant["InstanceType"] = arguments.instance_type
    if arguments.instances or instances:
        variant["InitialInstanceCount"] = arguments.instances or instances
    try:
        sagemaker.create_endpoint_config(
            **copied(
                sagemaker,
                "CreateEndpointConfig",
                config,
                EndpointConfigName=new_name,
                ProductionVariants=[variant],
                Tags=tags_of_update(sagemaker, arguments.name, config["EndpointConfigArn"]),
            )
        )
    except BaseException:
        remove(sagemaker, made)
        raise
    return new_name, [*made, ("config", new_name)]


def changed_container(model: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The member of the model that holds its containers, with the changes to one of them. Raises ``Failure``."""
    containers = list(model.get("Containers") or [model["PrimaryContainer"]])
    index = 0
    if len(containers) > 1 or arguments.container:
        hostnames = [each.get("ContainerHostname", f"container-{number}") for number, each in enumerate(containers, 1)]
        if arguments.container not in hostnames:
            raise Failure(f"name the container to change with --container: {', '.join(hostnames)}.")
        index = hostnames.index(arguments.container)
    container = dict(containers[index])
    if arguments.image:
        container["Image"] = arguments.image
    if arguments.models:
        bucket, prefix = parse_s3_url(arguments.models)
        container["ModelDataUrl"] = f"s3://{bucket}/{prefix}"
        container.pop("ModelDataSource", None)  # another way to say where models are
    if arguments.cache:
        container["MultiModelConfig"] = {"ModelCacheSetting": arguments.cache.capitalize()}
    if arguments.env:
        container["Environment"] = {**container.get("Environment", {}), **dict(arguments.env)}
    containers[index] = container
    return {"Containers": containers} if model.get("Containers") else {"PrimaryContainer": container}


def remove_unused(sagemaker: Any, name: str, old: list[tuple[str, str]]) -> None:
    """Deletes what the endpoint served with before, except what an endpoint uses, this one included."""
    used = used_by_endpoints(sagemaker)
    unused = [(kind, each) for kind, each in old if each not in (used.configs if kind == "config" else used.models)]
    remove(sagemaker, unused)
    for kind, each in unused:
        print(f"deleted {'configuration' if kind == 'config' else kind} {each}, which {name} served with before")


def remove(sagemaker: Any, made: list[tuple[str, str]]) -> None:
    """Deletes configurations and models; configurations first, as they name the models."""
    for kind, name in sorted(made):
        if kind == "config":
            undo(f"deleting configuration {name}", partial(sagemaker.delete_endpoint_config, EndpointConfigName=name))
        else:
            undo(f"deleting model {name}", partial(sagemaker.delete_model, ModelName=name))


if __name__ == "__main__":
    run(main)
