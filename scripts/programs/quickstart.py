"""The whole story in one command: train models, bring an endpoint up on this machine, deploy, invoke, add, update."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from botocore.exceptions import BotoCoreError, ClientError

from local_endpoint.configuration import DEFAULT_REGION, Configuration
from local_endpoint.storage.location import S3Location, TargetModel
from scripts.programs import demonstration, manual_commands
from scripts.programs.console import Failure, any_port, run
from scripts.programs.container_api import ContainerApi
from scripts.programs.demonstration import Demonstration, Instance, Unexpected, heading, holder_of
from scripts.programs.sample_models import HELD_OUT
from scripts.programs.samples import Samples, trained_samples
from scripts.programs.server_process import ROOT, refuse_taken_port, stop_on_signals

if TYPE_CHECKING:
    from local_endpoint.app import LocalEndpoint

HOST = "127.0.0.1"
LOG_TAIL_LINES = 25
CONTAINER_LOG_LINES = 1000


def main() -> int:
    """Returns 0 once everything was shown, cleaned up and stopped; each failure is explained."""
    arguments = parse()
    stop_on_signals()
    refuse_taken_port(HOST, arguments.port)
    from local_endpoint.app import LocalEndpoint  # not before the command line is known to be right: it takes a second

    cache = arguments.cache.absolute()

    heading(1, "Four models of three frameworks, trained on the handwritten digits of scikit-learn")
    samples = trained_samples(cache)
    kept = " (kept from before)" if samples.were_kept else ""
    for model in samples.first:
        name = model.archive.name.removesuffix(".tar.gz")
        print(
            f"  {name:14} {model.framework:7} {model.accuracy:.1%} of {HELD_OUT} held-out pictures right{kept}",
            flush=True,
        )

    heading(2, f"A SageMaker endpoint on this machine:  http://{HOST}:{arguments.port}")
    with log_to(cache / f"quickstart-{arguments.port}.log") as log:
        with LocalEndpoint(Configuration(HOST, arguments.port)) as local:
            lead_boto3_to(local.url)
            with explained(local, log):
                welcome = requests.get(local.url)
                print(f"  GET /: {welcome.status_code} {welcome.text.strip()}", flush=True)
                show(local, samples, once=arguments.once)
        print("\nDone: the endpoint is stopped." if arguments.once else "\nThe endpoint is stopped.")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/quickstart",
        description="Trains sample models (once), starts a SageMaker endpoint on this machine, and shows the life of a "
        "multi-model endpoint with boto3: upload, deploy, invoke, add models, update, and the container's own APIs. "
        "Leaves the endpoint up for more by hand, until Ctrl-C.",
    )
    parser.add_argument("--once", action="store_true", help="clean up and stop at the end instead of leaving it up")
    parser.add_argument("--port", type=any_port, default=8080, help="port of the endpoint (default 8080)")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=ROOT / ".cache" / "quickstart",
        help="where models, pictures and the log are kept (default: .cache/quickstart of this checkout)",
    )
    return parser.parse_args()


def show(local: LocalEndpoint, samples: Samples, *, once: bool) -> None:
    """Every step; without ``once`` the endpoint stays up until Ctrl-C, before it is cleaned up."""
    story = Demonstration(samples)
    story.show(lambda: instances_of(local), opaque_name)
    if not once:
        invite(local, samples)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        print()  # after the terminal's ^C
    story.clean_up()


def invite(local: LocalEndpoint, samples: Samples) -> None:
    """Prints how to go on by hand."""
    target = samples.first[0].target
    instance, models = holder_of(opaque_name(target), instances_of(local))
    model = next(each for each in models if each["modelName"] == opaque_name(target))
    place = manual_commands.Place(
        endpoint_url=local.url,
        region=DEFAULT_REGION,
        endpoint=demonstration.NAME,
        target=target,
        picture=samples.picture_of(demonstration.SHOWN_DIGIT),
        container_url=instance.container.url,
        model_name=model["modelName"],
        model_folder=model["modelUrl"],
    )
    print("\nThe endpoint stays up; Ctrl-C cleans up and stops it. By hand, in another terminal:\n")
    print("\n".join(manual_commands.lines(place)), flush=True)


def opaque_name(target: str) -> str:
    """How the containers know a target model of the demonstration's endpoint."""
    return TargetModel.below(S3Location(demonstration.BUCKET, demonstration.PREFIX), target).name


def instances_of(local: LocalEndpoint) -> list[Instance]:
    """The demonstration's instances that serve now."""
    deployment = local.endpoints.deployment(DEFAULT_REGION, demonstration.NAME)
    fleets = deployment.fleets.values() if deployment else ()
    return [
        Instance(each.id, ContainerApi(f"http://{container.running.host}:{container.running.port}"))
        for fleet in fleets
        for each in fleet.instances
        for container in each.containers
    ]


def lead_boto3_to(url: str) -> None:
    """Sets what a user would, and puts aside what this user has: no profile, proxy or key of theirs takes part."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(
        AWS_ENDPOINT_URL=url,
        AWS_DEFAULT_REGION=DEFAULT_REGION,
        AWS_ACCESS_KEY_ID="local",
        AWS_SECRET_ACCESS_KEY="local",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        NO_PROXY=HOST,
        no_proxy=HOST,
    )


@contextlib.contextmanager
def log_to(file: Path) -> Iterator[Path]:
    """Whatever is logged or warned in this process goes to ``file``, and nothing to the terminal."""
    handler = logging.FileHandler(file, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for chatty in ("botocore", "boto3", "urllib3", "werkzeug"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        yield file
    finally:
        handler.close()


@contextlib.contextmanager
def explained(local: LocalEndpoint, log: Path) -> Iterator[None]:
    """Turns what goes wrong into a ``Failure`` with the end of the log and where all of it is."""
    try:
        yield
    except (ClientError, BotoCoreError, requests.RequestException, Unexpected) as error:
        deployment = local.endpoints.deployment(DEFAULT_REGION, demonstration.NAME)
        for fleet in deployment.fleets.values() if deployment else ():
            for instance in fleet.instances:  # their own files go when they are stopped
                for container in instance.containers:
                    tail = container.running.log_tail(CONTAINER_LOG_LINES)
                    logging.info("the log of instance %s:\n%s", instance.id, tail)
        lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        end = "\n".join(f"  | {line}" for line in lines)
        raise Failure(f"{error}\nThe end of the log, {log}:\n{end}") from None


if __name__ == "__main__":
    run(main)
