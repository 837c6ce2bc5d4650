"""Deploys an endpoint: model (many models in one container, or several containers), configuration, all of one name."""

from __future__ import annotations

import argparse
from typing import Any

from botocore.exceptions import ClientError

from scripts.programs.aws import (
    client,
    environment_setting,
    is_taken,
    member,
    multi_model_container,
    plain_errors,
    production_variant,
    undo,
    wait_for_endpoint,
)
from scripts.programs.console import Failure, at_least_one, run

MOST_CONTAINERS = 15


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
    print(f"endpoint {arguments.name} is in service. Next:")
    for step in next_steps(arguments):
        print(f"  {step}")
    return 0


def next_steps(arguments: argparse.Namespace) -> list[str]:
    """Commands."""
    name, target = arguments.name, " --target-model MODEL.tar.gz"
    invoke, delete = f"./scripts/invoke --endpoint {name}", f"./scripts/delete_endpoint --name {name} --all"
    if not arguments.container:
        listing = f"./scripts/list_models --endpoint {name}"
        return [listing, f"{invoke}{target} --content-type TYPE FILE", delete]
    if arguments.direct:
        ways = [f" --container {each.hostname}{target if each.multi else ''}" for each in arguments.container]
    else:
        ways = [target if any(each.multi for each in arguments.container) else ""]
    return [*(f"{invoke}{way} --content-type TYPE FILE" for way in ways), delete]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/deploy",
        description="Deploys a multi-model endpoint (model, endpoint configuration and endpoint of one name) and waits "
        "until it is in service. With --container several times, an endpoint of several containers.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--name", required=True, help="name of the endpoint, its configuration and its model")
    parser.add_argument("--image", metavar="URI", help="the container's image in ECR")
    parser.add_argument("--models", metavar="s3://BUCKET/PREFIX/", help="where the models are")
    parser.add_argument(
        "--container",
        action="append",
        type=member,
        default=[],
        metavar="HOSTNAME=IMAGE,MODEL_DATA[,multi]",
        help="instead of --image and --models, 2 to 15 times: one of several containers. MODEL_DATA is the archive of "
        "its only model (or nothing), or with multi the prefix of its models",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--serial", action="store_true", help="the answer of one is the request of the next (default)")
    way.add_argument(
        "--direct", action="store_true", help="a request names its container (invoke --container HOSTNAME)"
    )
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
        help="a setting of the container, of all where there are several (docs/settings.md); may be repeated",
    )
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="how long to wait (default 1800)")
    arguments = parser.parse_args()
    if arguments.container:
        if arguments.image or arguments.models:
            parser.error("--container goes without --image and --models")
        if not 2 <= len(arguments.container) <= MOST_CONTAINERS:
            parser.error(f"--container is given {len(arguments.container)} times; 2 to {MOST_CONTAINERS} are possible")
    elif not (arguments.image and arguments.models):
        parser.error("--image and --models are needed, or --container several times")
    elif arguments.serial or arguments.direct:
        parser.error("--serial and --direct need --container several times")
    return arguments


def create(sagemaker: Any, arguments: argparse.Namespace) -> None:
    """Makes all three, or leaves none behind."""
    name = arguments.name
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=arguments.role, **containers(arguments))
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


def containers(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters of CreateModel that say what runs. Raises ``Failure``."""
    environment = dict(arguments.env)
    if not arguments.container:
        image, models, cache = arguments.image, arguments.models, arguments.cache
        return {"PrimaryContainer": multi_model_container(image, models, cache, environment)}
    return {
        "Containers": [each.definition(arguments.cache, environment) for each in arguments.container],
        "InferenceExecutionConfig": {"Mode": "Direct" if arguments.direct else "Serial"},
    }


if __name__ == "__main__":
    run(main)
