"""The answer of a service of moto that cannot be imported here: its packages are not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from local_endpoint.access.permissions import protocol_of
from local_endpoint.protocols import WireError


def unavailable(service: str, missing: str | None) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """A WSGI application that answers 400 to everything, in the protocol of who asks."""
    error = WireError(
        400,
        "UnsupportedOperation",
        f"{service} is not available on this local endpoint: the Python package {missing} is not installed. Install "
        "moto's extra for it (moto[server] has all) into the environment that runs the local endpoint.",
    )

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return error.answer(protocol_of(environ, service)).begin(start_response)

    return application
