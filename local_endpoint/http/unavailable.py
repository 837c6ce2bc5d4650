"""The answer of a service of moto that cannot be imported here: its packages are not installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any
from xml.sax.saxutils import escape

CODE = "UnsupportedOperation"


def unavailable(service: str, missing: str | None) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """A WSGI application that answers 400 to everything, in the protocol of who asks."""
    message = (
        f"{service} is not available on this local endpoint: the Python package {missing} is not installed. Install "
        "moto's extra for it (moto[server] has all) into the environment that runs the local endpoint."
    )

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if "json" in environ.get("CONTENT_TYPE", "") or environ.get("HTTP_X_AMZ_TARGET"):
            kind, text = "application/json", json.dumps({"__type": CODE, "message": message})
        else:
            kind = "text/xml"
            text = (
                f"<ErrorResponse><Error><Code>{CODE}</Code><Message>{escape(message)}</Message></Error></ErrorResponse>"
            )
        body = text.encode()
        start_response("400 Bad Request", [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    return application
