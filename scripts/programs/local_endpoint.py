"""Runs the local endpoint until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import sys
import threading
from pathlib import Path

from local_endpoint.configuration import Configuration
from local_endpoint.errors import CannotListen, StartFailure, StateError
from scripts.programs.console import Failure, run

DEFAULT_PORT = 4566
M_MMAP_THRESHOLD = -3  # malloc.h


def main() -> int:
    """Returns 0 after it was told to stop and everything has ended."""
    arguments = parse()
    from local_endpoint.app import LocalEndpoint  # not before the command line is known to be right: it takes a second

    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for chatty in ("botocore", "urllib3", "werkzeug", "docker"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return_large_blocks()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    configuration = Configuration(
        host=arguments.host,
        port=arguments.port,
        runtime=arguments.runtime,
        state_dir=arguments.state.absolute() if arguments.state else None,
        metric_period_s=arguments.metric_period,
    )
    endpoint = LocalEndpoint(configuration)
    try:
        endpoint.start()
    except (StateError, StartFailure, CannotListen) as error:
        raise Failure(str(error)) from None
    try:
        print(guide(endpoint.url), flush=True)
        stop.wait()
        print("stopping: ending all containers", file=sys.stderr, flush=True)
        # a second Ctrl-C does not wait for anything
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    finally:
        endpoint.stop()
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/local_endpoint",
        description="A SageMaker endpoint on this machine, without AWS: S3, STS, IAM and the control plane (from moto, "
        "corrected) and InvokeEndpoint against real containers, on one port.",
        epilog="Ctrl-C or SIGTERM ends it and every container. More: docs/local_endpoint.md.",
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help=f"port to listen on (default {DEFAULT_PORT}; 0: a free one)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine)")
    parser.add_argument(
        "--runtime",
        choices=("process", "docker"),
        default="process",
        help="process (default): this checkout's container, whatever image a model names; docker: that image",
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="keep buckets, models and endpoints here across restarts"
    )
    parser.add_argument(
        "--metric-period",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="publish metrics in CloudWatch every so many seconds (default 60)",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser.parse_args()


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _seconds(text: str) -> float:
    if not text.isdecimal() or not 1 <= int(text) <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return float(text)


def return_large_blocks() -> None:
    """Has glibc give freed blocks of 1 MiB and more back to the system; it would keep bodies of uploads otherwise."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library may do without
        mallopt(M_MMAP_THRESHOLD, 1024 * 1024)


def guide(url: str) -> str:
    """What to type in another terminal."""
    return (
        f"The local endpoint is up on {url}. In another terminal:\n"
        f"  export AWS_ENDPOINT_URL={url} AWS_DEFAULT_REGION=us-east-1 "
        "AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n"
        "Then boto3, the AWS CLI and the programs in scripts/ work against it. Ctrl-C stops it and its containers."
    )


if __name__ == "__main__":
    run(main)
