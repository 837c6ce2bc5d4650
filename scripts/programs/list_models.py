"""Lists the models that a multi-model endpoint can serve: the objects below its prefix."""

from __future__ import annotations

import argparse
from typing import Any

from local_endpoint.storage.location import S3Location
from scripts.programs.aws import client, parse_s3_url, plain_errors
from scripts.programs.console import Failure, readable_size, run


def main() -> int:
    """Returns 0, also where there are none."""
    arguments = parse()
    with plain_errors("listing models"):
        url = arguments.models or prefix_of(client("sagemaker"), arguments.endpoint, arguments.container)
        bucket, prefix = parse_s3_url(url)
        objects = list_objects(client("s3"), bucket, prefix)
    width = max([len(each["Key"]) - len(prefix) for each in objects], default=0)
    for each in objects:
        target = each["Key"].removeprefix(prefix)
        print(f"{target:<{width}}  {readable_size(each['Size']):>12}  {each['LastModified']:%Y-%m-%d %H:%M:%S %Z}")
    if not objects:
        print(f"there are no models below {url}: add some with ./scripts/upload_models FILE... {url}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/list_models",
        description="Lists the models that an endpoint can serve: target model, size and time of each object below its "
        "prefix.",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--container", metavar="HOSTNAME", help="of several multi-model containers: which one")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--endpoint", help="name of a multi-model endpoint")
    what.add_argument("--models", metavar="s3://BUCKET/PREFIX/", help="a prefix")
    return parser.parse_args()


def prefix_of(sagemaker: Any, endpoint: str, hostname: str | None = None) -> str:
    """The S3 prefix of the endpoint's multi-model container, of that ``hostname`` if given. Raises ``Failure``."""
    config_name = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    config = sagemaker.describe_endpoint_config(EndpointConfigName=config_name)
    for variant in config["ProductionVariants"]:
        model = sagemaker.describe_model(ModelName=variant["ModelName"])
        for container in [*model.get("Containers", []), model.get("PrimaryContainer", {})]:
            is_meant = hostname is None or container.get("ContainerHostname") == hostname
            if container.get("Mode") == "MultiModel" and is_meant:
                return location_of(endpoint, str(container.get("ModelDataUrl")))
    if hostname is not None:
        raise Failure(f"{endpoint} has no multi-model container {hostname}.")
    raise Failure(f"{endpoint} is not a multi-model endpoint.")


def location_of(endpoint: str, url: str) -> str:
    """A ModelDataUrl, in whatever form, as s3://BUCKET/PREFIX. Raises ``Failure``."""
    try:
        return S3Location.parse(url).url
    except ValueError as error:
        raise Failure(f"the models of {endpoint} cannot be listed: {error}. Name the prefix with --models.") from None


def list_objects(s3: Any, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """All objects below the prefix; "folders" made by consoles are left out."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [each for page in pages for each in page.get("Contents", []) if not each["Key"].endswith("/")]


if __name__ == "__main__":
    run(main)
