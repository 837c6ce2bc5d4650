"""What to type in another terminal while the quickstart's endpoint is up: real names, paths and ports."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import NamedTuple

from scripts.programs.server_process import ROOT

CREDENTIALS = "AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local"


class Place(NamedTuple):
    """Where the endpoint is, and one model on one of its containers."""

    endpoint_url: str
    region: str
    endpoint: str
    target: str
    picture: Path
    container_url: str
    model_name: str
    """The opaque name by which the container knows the target model."""
    model_folder: str
    """Where the container has its files."""


def lines(place: Place) -> list[str]:
    """Commands are indented by two spaces, what they are about is not. Paths are relative to this checkout."""
    picture = shlex.quote(shown(place.picture))
    container, name = place.container_url, place.model_name
    as_image = "-H 'Content-Type: image/png' --data-binary"
    python = (
        "import boto3; "
        f"answer = boto3.client('sagemaker-runtime').invoke_endpoint(EndpointName='{place.endpoint}', "
        f"TargetModel='{place.target}', ContentType='image/png', Body=open({shown(place.picture)!r}, 'rb')); "
        "print(answer['Body'].read().decode())"
    )
    load = json.dumps({"model_name": name, "url": place.model_folder})
    return [
        f"  cd {shlex.quote(str(ROOT))}",
        f"  export AWS_ENDPOINT_URL={place.endpoint_url} AWS_DEFAULT_REGION={place.region} {CREDENTIALS}",
        f"  ./scripts/list_models --endpoint {place.endpoint}",
        f"  ./scripts/invoke --endpoint {place.endpoint} --target-model {place.target} "
        f"--content-type image/png {picture}",
        f"  .venv/bin/python -c {shell_quoted(python)}",
        f"  aws sagemaker-runtime invoke-endpoint --endpoint-name {place.endpoint} --target-model {place.target} "
        f"--content-type image/png --body {shlex.quote('fileb://' + shown(place.picture))} /dev/stdout",
        "",
        "The endpoint with curl (it asks for no signature):",
        "",
        f"  curl {place.endpoint_url}/endpoints/{place.endpoint}/invocations "
        f"-H 'X-Amzn-SageMaker-Target-Model: {place.target}' {as_image} @{picture}",
        "",
        "One of its containers, as SageMaker talks to it:",
        "",
        f"  curl {container}/ping",
        f"  curl {container}/models",
        f"  curl {container}/models/{name}/invoke {as_image} @{picture}",
        f"  curl -X DELETE {container}/models/{name}",
        f"  curl {container}/models -H 'Content-Type: application/json' -d {shlex.quote(load)}",
        "",
        f"Pictures of all ten digits: {shown(place.picture.parent)}",
    ]


def shown(path: Path) -> str:
    """``path`` as seen from this checkout, where it lies in it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def shell_quoted(text: str) -> str:
    """In double quotes, so that a program with single quotes in it stays readable."""
    escaped = "".join("\\" + character if character in '\\"$`' else character for character in text)
    return f'"{escaped}"'
