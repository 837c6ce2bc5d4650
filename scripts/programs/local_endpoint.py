"""Runs the local endpoint until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

from local_endpoint.configuration import MIB, Configuration, Limits, RootKey
from local_endpoint.errors import CannotListen, StartFailure, StateError
from scripts.programs.console import Failure, run

DEFAULT_PORT = 4566
MOST_BODY_MIB = 1024
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
    stop = StopSignals()

    root_key = None
    if arguments.auth:
        from local_endpoint.access.identities import random_root_key

        root_key = arguments.root_key or random_root_key()
    body_bytes = int(arguments.max_body_mib * MIB)
    configuration = Configuration(
        host=arguments.host,
        port=arguments.port,
        allowed_hosts=tuple(arguments.allow_host),
        moto_api_is_open=arguments.moto_api,
        runtime=arguments.runtime,
        limits=Limits(request_bytes=body_bytes, response_bytes=body_bytes),
        state_dir=arguments.state.absolute() if arguments.state else None,
        metric_period_s=arguments.metric_period,
        root_key=root_key,
    )
    endpoint = LocalEndpoint(configuration)
    try:
        endpoint.start()
    except (StateError, StartFailure, CannotListen) as error:
        raise Failure(str(error)) from None
    try:
        print(guide(endpoint.url, root_key), flush=True)
        stop.wait()
        print("stopping: ending all containers", file=sys.stderr, flush=True)
        stop.restore()  # a second Ctrl-C does not wait for anything
    finally:
        endpoint.stop()
    return 0


class StopSignals:
    """Ctrl-C and SIGTERM, from when this is made.

    A byte in a pipe tells of them. Python runs handlers in the main thread, and the kernel may give a signal to another
    one: that does not wake the main thread, where it waits for anything but this.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in self.NUMBERS:
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        """Returns when one has come."""
        os.read(self._reader, 1)

    def restore(self) -> None:
        """From here on they end the process at once."""
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_DFL)


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
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name or address of this machine that clients may use, with all names below it; may be repeated "
        "(localhost, loopback addresses and --host are always allowed; requests to other names are refused)",
    )
    parser.add_argument(
        "--max-body-mib",
        type=_mebibytes,
        default=6.0,
        metavar="N",
        help="largest body of an invocation and of its answer (default 6); a container may have a limit of its own",
    )
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
    parser.add_argument(
        "--auth",
        action="store_true",
        help="check signatures, and the policies of users and roles made through IAM and STS (default: everybody may "
        "do everything)",
    )
    parser.add_argument(
        "--root-key",
        type=_root_key,
        metavar="KEY:SECRET",
        help="with --auth: the key of the root user, who may do everything (default: made at random and printed)",
    )
    parser.add_argument(
        "--moto-api",
        action="store_true",
        help="open moto's own interface, /moto-api, for tests: it can empty everything",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")
    arguments = parser.parse_args()
    if arguments.root_key and not arguments.auth:
        parser.error("--root-key needs --auth: without it no key is checked")
    if arguments.auth and arguments.state:
        parser.error(
            "--auth and --state do not go together: users, roles, keys and policies are not kept, so that a restart "
            "would bring up endpoints whose roles are gone. With --auth, make everything anew after a start, by a "
            "script; or leave --auth out"
        )
    return arguments


def _root_key(text: str) -> RootKey:
    try:
        return RootKey.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _mebibytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST_BODY_MIB:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of MiB above 0 and up to {MOST_BODY_MIB}")
    return value


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


def guide(url: str, root_key: RootKey | None) -> str:
    """What to type in another terminal."""
    key = root_key or RootKey("local", "local")
    return (
        f"The local endpoint is up on {url}. In another terminal:\n"
        f"  export AWS_ENDPOINT_URL={url} AWS_DEFAULT_REGION=us-east-1 "
        f"AWS_ACCESS_KEY_ID={key.access_key} AWS_SECRET_ACCESS_KEY={key.secret}\n"
        "Then boto3, the AWS CLI and the programs in scripts/ work against it. Ctrl-C stops it and its containers."
    )


if __name__ == "__main__":
    run(main)
