"""What the server gives up before it starts anything: root, the right to gain privileges, AWS credentials."""

from __future__ import annotations

import logging
import os
import pwd
import sys
from collections.abc import Mapping
from typing import NoReturn

from mme.errors import StartError
from mme.packages import installation as packages
from mme.settings import Settings

logger = logging.getLogger("mme.supervisor.privileges")

# Of the variables of AWS, those that hold neither credentials nor the way to them.
_HARMLESS = {
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_OUTPUT",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EXECUTION_ENV",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_MAX_ATTEMPTS",
    "AWS_REGION",
    "AWS_RETRY_MODE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
}


def drop_credentials(settings: Settings) -> None:
    """Runs this program again without the variables that hold AWS credentials, unless there are none; else returns.

    A process's first environment stays readable in /proc for what runs as the same user, models included, whatever
    the process does with its variables. Nothing of ours needs credentials. The Inference Toolkit does where it
    installs a model's requirements from CodeArtifact: they are then kept from what we start alone.
    """
    if settings.pass_credentials or settings.code_artifact_repository:
        return
    kept = without_credentials(os.environ)
    if len(kept) == len(os.environ):
        return
    logger.debug("starting anew without %s", ", ".join(sorted(os.environ.keys() - kept.keys())))
    _run_again(kept)


def environment_for_models(settings: Settings) -> dict[str, str]:
    """This process's environment, as far as model code may see it."""
    return dict(os.environ) if settings.pass_credentials else without_credentials(os.environ)


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables of AWS, but for those that say how and where to reach it."""
    return {name: value for name, value in environment.items() if not name.startswith("AWS_") or _is_harmless(name)}


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith("AWS_ENDPOINT_URL")


def switch_user(settings: Settings) -> None:
    """Runs this program again as ``settings.user`` if it is root now and that user is another; else returns.

    SageMaker starts containers as root. What root alone can do is done first: the folder for models exists, and the
    packages that a model brings requirements for are installed. What is in the folder stays as it is: files that root
    alone may read are named with the remedy when their model is loaded. The program is executed anew because a
    process that changes its user stays half root's (/proc/self, core dumps). Raises ``StartError`` for an unknown user,
    and as ``packages.install``.
    """
    if os.geteuid() != 0 or settings.user is None or settings.user == "root":
        return
    try:
        account = pwd.getpwnam(settings.user)
    except KeyError:
        raise StartError(f"MME_USER={settings.user}: there is no such user here. Name one, or `root`.") from None
    folder = settings.models_dir if settings.multi_model else settings.single_model_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # The models may be mounted read-only; then they are there already, or the start fails with a clear line.
        logger.warning("could not make %s: %s", folder, error.strerror)
    packages.install(settings, environment_for_models(settings))
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    environment = {**os.environ, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    _run_again(environment)


def _run_again(environment: Mapping[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], dict(environment))
