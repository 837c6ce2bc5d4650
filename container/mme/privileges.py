"""From root to the unprivileged user that the server and the models run as."""

from __future__ import annotations

import ctypes
import logging
import os
import pwd
import sys

from mme.errors import StartError
from mme.settings import Settings

logger = logging.getLogger("mme.privileges")

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def forbid_new_privileges() -> None:
    """No program that this process or a descendant starts gains privileges (set-user-ID, file capabilities)."""
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def switch_user(settings: Settings) -> None:
    """Runs this program again as ``settings.user`` if it is root now and that user is another; else returns.

    SageMaker starts containers as root. What root alone can do is done first: the folders for models exist and can be
    read. The program is executed anew because a process that changes its user stays half root's (/proc/self, core
    dumps). Raises ``StartError`` for an unknown user.
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
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    environment = {**os.environ, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)
