"""The container's server on this machine, in the foreground: natively, or as the image with --docker."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
from dataclasses import fields
from pathlib import Path

from mme.errors import SettingError
from mme.settings import Settings
from scripts.programs.console import Failure, port, run
from scripts.programs.server_process import ROOT, ServerProcess, refuse_taken_port, stop_on_signals

IMAGE = "demo-sagemaker-multimodel"  # what build_and_push.sh makes by default
# Settings that this program's own arguments stand for, and those that name what is on this machine, not in the image.
NOT_PASSED_ON = {
    *("SAGEMAKER_BASE_DIR", "SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_MULTI_MODEL", "MME_HOST"),
    *("JAVA_HOME", "MME_RUNTIME_DIR", "PYTHONPATH"),
}


def main() -> int:
    """Returns the server's exit code; 0 after Ctrl-C, SIGTERM or the end of the terminal."""
    arguments = parse()
    base_dir: Path = arguments.base_dir.absolute()
    (base_dir / ("model" if arguments.single else "models")).mkdir(parents=True, exist_ok=True)
    refuse_taken_port(arguments.host, arguments.port)
    what = f"the model in {base_dir}/model" if arguments.single else f"models in {base_dir}/models/NAME/model"
    announcement = f"serving {what} on http://{arguments.host}:{arguments.port}; Ctrl-C stops"
    if arguments.docker:
        command = docker_command(arguments, base_dir)
        print(announcement, flush=True)
        os.execvp(command[0], command)  # docker passes signals on and ends with the container's exit code

    stop_on_signals()
    print(announcement, flush=True)
    with ServerProcess(
        port=arguments.port, host=arguments.host, base_dir=base_dir, multi_model=not arguments.single
    ) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            return server.stop()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./scripts/serve",
        description="Serves models on this machine with the container's own entry point, in the foreground.",
        epilog="Load a model with POST /models (see README.md). The server's settings are environment variables: "
        "docs/settings.md; with --docker they reach the container, where a path is one of the container's. Ctrl-C or "
        "SIGTERM stops it; its exit code is this program's.",
    )
    parser.add_argument("--port", type=port, default=8080, help="port to listen on (default 8080)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, this machine)")
    parser.add_argument(
        "--base-dir",
        type=Path,
        metavar="DIR",
        default=ROOT / ".cache" / "ml",
        help="stands for /opt/ml: models are in DIR/models/NAME/model (default: .cache/ml of this checkout)",
    )
    parser.add_argument("--single", action="store_true", help="single-model mode: DIR/model on POST /invocations")
    parser.add_argument("--docker", action="store_true", help="run the image instead, built first where it is missing")
    parser.add_argument(
        "--image",
        default=IMAGE,
        metavar="[REGISTRY/]NAME[:TAG]",
        help=f"the image to run (default {IMAGE}); one of a registry is pulled where it is missing, not built",
    )
    return parser.parse_args()


def docker_command(arguments: argparse.Namespace, base_dir: Path) -> list[str]:
    """The ``docker run`` that serves like the native server. Builds the image where it is missing."""
    if shutil.which("docker") is None:
        raise Failure("--docker needs the docker command: install Docker, or leave out --docker.")
    engine = subprocess.run(["docker", "version"], capture_output=True, text=True)
    if engine.returncode != 0:
        raise Failure(f"no Docker engine answers: start it.\n{engine.stderr.strip()}")
    bridged = has_bridge_network()
    if is_built_here(arguments.image):
        build_if_missing(arguments.image, bridged=bridged)
    mode = "false" if arguments.single else "true"
    # The models are only read. Docker's init is not wanted: the entry point reaps and forwards signals itself.
    command = ["docker", "run", "--rm", "--volume", f"{base_dir}:/opt/ml:ro", "--env", f"SAGEMAKER_MULTI_MODEL={mode}"]
    command += ["--env", f"SAGEMAKER_BIND_TO_PORT={arguments.port}"]
    for name in settings_to_pass_on():
        command += ["--env", name]  # docker takes the value from our environment: others see our arguments
    if bridged:
        address = socket.getaddrinfo(arguments.host, arguments.port, family=socket.AF_INET)[0][4][0]
        command += ["--publish", f"{address}:{arguments.port}:{arguments.port}"]
    else:
        command += ["--network", "host", "--env", f"MME_HOST={arguments.host}"]
    return [*command, arguments.image, "serve"]


def settings_to_pass_on() -> list[str]:
    """The variables of our environment that the server in the container reads, sorted.

    AWS credentials only where the settings say that somebody is to have them. Raises ``Failure`` for a setting that is
    not allowed.
    """
    try:
        settings = Settings.from_environment()
    except SettingError as error:
        raise Failure(str(error)) from None
    names = {each.metadata["name"] for each in fields(Settings)} - NOT_PASSED_ON
    if settings.pass_credentials or settings.code_artifact_repository:
        names |= {name for name in os.environ if name.startswith("AWS_")}
    return sorted(names & os.environ.keys())


def is_built_here(image: str) -> bool:
    """Is this a name without a registry and without a digest? Of others ``docker run`` knows where they come from."""
    first, slash, _ = image.partition("/")
    return "@" not in image and not (slash and (re.search("[.:]", first) or first == "localhost"))


def build_if_missing(image: str, *, bridged: bool) -> None:
    """Builds ``image`` unless it is on this machine."""
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
        return
    print(f"building the image {image} (once)", flush=True)
    name, _, tag = image.partition(":")
    build = [str(ROOT / "build_and_push.sh"), "--build-only", "--tag", tag or "latest", name]
    options = {} if bridged else {"DOCKER_BUILD_OPTIONS": "--network host"}
    if subprocess.run(build, env={**options, **os.environ}, stdout=subprocess.DEVNULL).returncode != 0:
        raise Failure("the image could not be built: see the messages above.")


def has_bridge_network() -> bool:
    """Can ports of a container be published here? Not on an engine without the default bridge network."""
    listed = subprocess.run(
        ["docker", "network", "ls", "--filter", "driver=bridge", "--quiet"], capture_output=True, text=True
    )
    return bool(listed.stdout.strip())


if __name__ == "__main__":
    run(main)
