"""What a model brings as ``code/requirements.txt`` is installed before anything starts, as the Inference Toolkit does.

The toolkit itself would do it too late, when the process that workers are forked from has imported what it needs, and
as a user who may not write where packages are. So root does it before it becomes another user, or else the server
before its start. A container that starts again finds the packages in place; where others cannot be fetched, or nothing
may be written, an image that has them starts all the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mme.errors import StartError
from mme.packages import constraints
from mme.settings import Settings

logger = logging.getLogger("mme.packages.installation")

_PIP = (
    *("-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir", "--no-input", "--progress-bar", "off"),
    *("--retries", "2", "--root-user-action", "ignore"),
)
# Prints the address of a CodeArtifact repository, with a password in it, as the toolkit finds it.
_INDEX = "from sagemaker_inference import model_server as server; print(server._get_codeartifact_index())"


def requirements_file(settings: Settings) -> Path:
    """Where the toolkit looks for requirements."""
    return (settings.models_dir if settings.multi_model else settings.single_model_dir) / "code" / "requirements.txt"


def install(settings: Settings, environment: Mapping[str, str]) -> None:
    """Installs them for this interpreter, unless there are none or they have been installed.

    ``environment`` is what pip, and the set-up programs of packages, may see. Raises ``StartError``.
    """
    file = requirements_file(settings)
    try:
        wanted = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StartError(f"{file} cannot be read: {error.strerror}. Let everybody read it (chmod -R a+rX).") from None
    site_packages = Path(sysconfig.get_path("purelib"))
    stamp = site_packages / f".installed-{hashlib.sha256(wanted).hexdigest()[:32]}"
    if stamp.exists():
        return
    logger.info("installing the packages of %s", file)
    with tempfile.TemporaryDirectory(prefix="mme-packages-") as folder:
        file_of_constraints = Path(folder, "constraints.txt")
        file_of_constraints.write_text(constraints.text())
        index = {"PIP_INDEX_URL": code_artifact_index()} if settings.code_artifact_repository else {}
        lines = _run_pip(
            ["--constraint", str(file_of_constraints), "--requirement", str(file)],
            environment={**environment, **index, "TMPDIR": folder},
        )
    if lines is not None:
        raise StartError(
            f"the packages of {file} could not be installed: {_reason(lines)}. {_remedy(site_packages)} "
            "An image that has them already needs neither."
        )
    try:
        stamp.touch()
    except OSError:
        pass  # nothing was missing, and nothing can be written: then it is looked at again next time


def _run_pip(arguments: list[str], environment: Mapping[str, str]) -> list[str] | None:
    """None where it ends well, else what it said, all of which is in the log as well."""
    pip = subprocess.Popen(
        [sys.executable, *_PIP, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert pip.stdout is not None
    lines = []
    for line in pip.stdout:
        lines.append(line.strip())
        logger.info("pip: %s", line.rstrip())
    return None if pip.wait() == 0 else lines


def _reason(lines: list[str]) -> str:
    """The line that says what went wrong."""
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line] or ["pip says nothing"])[-1].rstrip(".")[:300]


def _remedy(site_packages: Path) -> str:
    if not os.access(site_packages, os.W_OK):
        return (
            f"User {os.geteuid()} cannot write to {site_packages}: let the container start as root, with a file system "
            "that is not read-only."
        )
    return "Mend the file, or let the container reach a package index (PIP_INDEX_URL)."


def code_artifact_index() -> str:
    """The address of the repository in CA_REPOSITORY_ARN, for which AWS is asked. Raises ``StartError``."""
    asked = subprocess.run([sys.executable, "-W", "ignore", "-c", _INDEX], capture_output=True, text=True, check=False)
    found = re.search(r"^https://\S+$", asked.stdout, re.MULTILINE)
    if asked.returncode != 0 or not found:
        lines = [line for line in asked.stderr.splitlines() if line.strip()] or ["no address came back"]
        raise StartError(f"the CodeArtifact repository of CA_REPOSITORY_ARN cannot be used: {lines[-1].strip()[:300]}.")
    return found[0]
