"""Invokes one model of a multi-model endpoint; waits where the model is still being loaded."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from scripts.programs.aws import client, plain_errors
from scripts.programs.console import Failure, run

# AWS goes on loading for so long; then the next request starts it anew.
LOAD_TIMEOUT_S = 360.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0


def main() -> int:
    """Returns 0 once the answer is written."""
    arguments = parse()
    body = read_body(arguments.file)
    runtime = client("sagemaker-runtime")
    started_s = time.monotonic()
    with plain_errors(f"invoking {arguments.target_model or arguments.container or arguments.endpoint}"):
        answer = invoke(runtime, request_of(arguments, body), arguments.wait_s)
        data = answer["Body"].read()
    elapsed_ms = (time.monotonic() - started_s) * 1000
    print(f"{answer['ContentType']}, {len(data)} bytes after {elapsed_ms:.0f} ms", file=sys.stderr)
    write(data, arguments.output)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/invoke",
        description="Sends FILE to one model of an endpoint and writes the answer to standard output. A model that is "
        "not loaded yet is waited for: boto3 does not do that by itself (since 1.44).",
        epilog="Set AWS_ENDPOINT_URL to talk to a local endpoint (./scripts/local_endpoint).",
    )
    parser.add_argument("--endpoint", required=True, help="name of the endpoint")
    parser.add_argument(
        "--target-model", metavar="M", help="the archive below the endpoint's prefix; not for a single-model endpoint"
    )
    parser.add_argument(
        "--container", metavar="HOSTNAME", help="which of the endpoint's containers; where they are invoked directly"
    )
    parser.add_argument("--content-type", default="application/json", metavar="T", help="default: application/json")
    parser.add_argument("--accept", metavar="T", help="what the answer should be")
    parser.add_argument("--custom-attributes", metavar="TEXT", help="passed to the container as it is")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the answer")
    parser.add_argument(
        "--wait-s", type=float, default=LOAD_TIMEOUT_S, help=f"for a model to load (default {LOAD_TIMEOUT_S:.0f})"
    )
    parser.add_argument("file", metavar="FILE", help="the request's body; - is standard input")
    return parser.parse_args()


def read_body(file: str) -> bytes:
    """Raises ``Failure``."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}.") from None


def request_of(arguments: argparse.Namespace, body: bytes) -> dict[str, Any]:
    """The parameters of InvokeEndpoint."""
    optional = {
        "TargetModel": arguments.target_model,
        "TargetContainerHostname": arguments.container,
        "Accept": arguments.accept,
        "CustomAttributes": arguments.custom_attributes,
    }
    given = {name: value for name, value in optional.items() if value is not None}
    return {"EndpointName": arguments.endpoint, "ContentType": arguments.content_type, "Body": body, **given}


def invoke(runtime: Any, request: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """Tries again while the model is not ready, ever later. Raises ``Failure`` for an error of the model's."""
    deadline_s = time.monotonic() + wait_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            answer: dict[str, Any] = runtime.invoke_endpoint(**request)
            return answer
        except runtime.exceptions.ModelNotReadyException:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise Failure(
                    f"model {request.get('TargetModel')} was not ready within {wait_s:g} s. Is it very large? "
                    "Wait longer with --wait-s."
                ) from None
            print(f"not ready yet, trying again for {left_s:.0f} s", file=sys.stderr, flush=True)
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        except runtime.exceptions.ModelError as error:
            its = error.response
            raise Failure(
                f"the model answered {its.get('OriginalStatusCode', 'with an error')}: "
                f"{(its.get('OriginalMessage') or its['Error'].get('Message', '')).strip()}\n"
                f"Its log: {its.get('LogStreamArn', 'unknown')}"
            ) from None


def write(data: bytes, output: Path | None) -> None:
    """Raises ``Failure`` for bytes that a terminal cannot show."""
    if output is not None:
        output.write_bytes(data)
        return
    if sys.stdout.isatty():
        try:
            data.decode()
        except UnicodeDecodeError:
            raise Failure("the answer is no text: write it to a file with --output.") from None
    sys.stdout.buffer.write(data if data.endswith(b"\n") or not sys.stdout.isatty() else data + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    run(main)
