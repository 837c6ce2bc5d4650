"""The image's HEALTHCHECK: exits 0 where /ping answers 200, else 1 with the reason.

It is SageMaker's own criterion: a container is well as long as /ping answers 200, whatever one model is doing.
"""

from __future__ import annotations

import http.client
import sys

from mme.errors import SettingError
from mme.settings import Settings

TIMEOUT_S = 4.0  # below the 5 s that the Dockerfile allows, so that the reason still reaches Docker's log


def reason_unhealthy(settings: Settings) -> str | None:
    """Why the server of ``settings`` counts as not healthy, or None where it is well."""
    connection = http.client.HTTPConnection(settings.local_host, settings.port, timeout=TIMEOUT_S)
    address = f"http://{settings.local_host}:{settings.port}/ping"
    try:
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{address}: {error or type(error).__name__}"
    finally:
        connection.close()
    return None if status == 200 else f"{address} answered {status}"


def main() -> int:
    """Prints the reason, if any, and returns the exit code that Docker expects."""
    try:
        reason = reason_unhealthy(Settings.from_environment())
    except SettingError as error:
        reason = str(error)
    if reason:
        sys.stdout.write(reason + "\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
