"""Which requests are let in at all: none that a web page of somebody else's makes a browser on this machine send.

A page may send requests to any address, this port included. Two things give them away:

Origin   the page's address, which the browser adds. Only pages of this very server have an address like ours.
Host     the name that the browser connected to. A name that its owner lets point at this machine later (DNS
         rebinding) is not one of ours, although the page's own address is then the same.

A simple ``GET`` of an image or script has no Origin, but ``Sec-Fetch-Site`` in current browsers.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

Environ = dict[str, Any]
FOREIGN_SITES = ("cross-site", "same-site")
MOTO_API = "/moto-api"
# moto answers these for the metadata of an EC2 instance, whatever bucket is called "latest".
INSTANCE_METADATA = ("/latest/meta-data/", "/latest/api/")


class OriginPolicy:
    """Tells foreign requests from others. ``host`` is listened on; ``allowed_hosts`` are further names of it."""

    def __init__(self, host: str, allowed_hosts: Collection[str] = (), moto_api_is_open: bool = False) -> None:
        self._names = {name for each in ("localhost", host, *allowed_hosts) if (name := _name(each)) is not None}
        self._addresses = {
            address for each in (host, *allowed_hosts) if (address := _address(bare_host(each))) is not None
        }
        self._moto_api_is_open = moto_api_is_open

    def refusal(self, environ: Environ) -> str | None:
        """Why the request is refused; None where it is let in."""
        host = environ.get("HTTP_HOST")
        if host is not None and not self._is_ours(host):
            return (
                f"The host {host!r} is not one of this local endpoint's. If it is, start it with "
                f"--allow-host {bare_host(host) or 'NAME'}."
            )
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and (host is None or not _is_same(origin, host)):
            return f"The origin {origin!r} is not this local endpoint: web pages of others may not use it."
        if environ.get("HTTP_SEC_FETCH_SITE") in FOREIGN_SITES and not _is_read(environ):
            return "A web page of another site may not use this local endpoint."
        return self.refusal_of_path(environ.get("PATH_INFO", ""))

    def refusal_of_path(self, path: str) -> str | None:
        """Why this path is refused; None where moto takes it for no interface of its own. Ask for every path anew that
        is given to moto: where the bucket is in the host, it comes first.
        """
        if self._moto_api_is_open:
            return None
        if path.startswith(MOTO_API):  # as moto has it: it looks at the beginning alone
            return (
                "moto's own interface is closed, and no bucket can have a name that begins with moto-api. For tests, "
                "start the local endpoint with --moto-api."
            )
        if path.startswith(INSTANCE_METADATA):
            return f"{path} cannot be reached here: moto has the metadata of an EC2 instance there. Use another bucket."
        return None

    def base_of(self, host: str) -> str | None:
        """Which of our names the host ends in, without its port; None for an address."""
        bare = bare_host(host)
        bases = [name for name in self._names if bare == name or bare.endswith(f".{name}")]
        return max(bases, key=len) if bases else None

    def _is_ours(self, host: str) -> bool:
        address = _address(bare_host(host))
        if address is None:
            return self.base_of(host) is not None
        # an address cannot be made to point elsewhere: where all are listened on, all are right
        listens_on_all = any(each.is_unspecified for each in self._addresses)
        return address.is_loopback or address in self._addresses or listens_on_all


def bare_host(host: str) -> str:
    """In lower case, without the port, the brackets of an IPv6 address and a dot at the end."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.removesuffix(".")


@functools.lru_cache(1024)
def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """None for an address and for no text."""
    bare = bare_host(host)
    return bare if bare and _address(bare) is None else None


def _is_same(origin: str, host: str) -> bool:
    """https too: something may speak TLS for this server. The default port is not named."""
    scheme, separator, rest = origin.strip().lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    if not separator or port is None:
        return False
    return rest.removesuffix(port) == host.strip().lower().removesuffix(port)


def _is_read(environ: Environ) -> bool:
    """A link to this server, or to an object by a signed address, may be followed; operations by query may not."""
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    return environ.get("REQUEST_METHOD") in ("GET", "HEAD") and "Action" not in query
