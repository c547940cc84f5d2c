"""URLs of NATS servers, and addresses as they are written: an IPv6 address in brackets before its port. Pure."""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from events.errors import Refused, shown

DEFAULT_PORT = 4222
_SCHEMES = frozenset({"nats", "tls"})
_MALFORMED = "its brackets do not match, or its port is not a number up to 65535"
_address = re.compile(r"[0-9A-Fa-f:.\[\]]+(?=$|[/?#])|[^:/?#\s\x00-\x1f]*(:[0-9]*(?=$|[/?#]))?").match


def servers_of(url: str) -> list[SplitResult]:
    """
    Split *url*, one server or several separated by commas.

    Raises:
        Refused: it is not a NATS URL; the message does not contain the login.
    """
    return [_server(part.strip()) for part in url.split(",")]


def login_of(servers: list[SplitResult]) -> dict[str, str]:
    """Return the login in the URL: nats-py does not use it for servers of the cluster that it discovers later."""
    first = next((server for server in servers if server.username), None)
    if first is None or first.username is None:
        return {}
    if first.password is None:
        return {"token": unquote(first.username)}
    return {"user": unquote(first.username), "password": unquote(first.password)}


def url_of(server: SplitResult) -> str:
    """Return the URL of a server without login, as nats-py reads it."""
    return f"{server.scheme}://{where_is(server)}"


def where_is(server: SplitResult) -> str:
    """Return host and port of a server."""
    return address_of(server.hostname or "", server.port or DEFAULT_PORT)


def address_of(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address: `[::1]:4222`."""
    return f"[{host.replace('%25', '%', 1)}]:{port}" if ":" in host else f"{host}:{port}"


def _server(part: str) -> SplitResult:
    if any(one.isspace() or not one.isprintable() for one in part):
        _refuse(part, "it has blanks or control characters")
    try:
        server = urlsplit(part)
        port = server.port
    except ValueError:
        _refuse(part, _MALFORMED)
    after_brackets = server.netloc.rpartition("]")[2] if "]" in server.netloc else ""
    if after_brackets and not after_brackets.startswith(":"):
        _refuse(part, _MALFORMED)
    if server.scheme not in _SCHEMES or not server.hostname:
        _refuse(part, "its scheme is not nats or tls, or it has no host")
    if port == 0:
        _refuse(part, "port 0 is no port to connect to")
    if server.path.strip("/") or server.query or server.fragment:
        _refuse(part, "it has a path")
    return server


def _refuse(part: str, why: str) -> NoReturn:
    scheme, separator, rest = part.rpartition("://")
    # What is no address may be a login whose host was forgotten.
    found = _address(rest.rpartition("@")[2])
    address = found[0] if found is not None else ""
    because = f" ({why})" if why else ""
    msg = (
        f"{shown(scheme + separator + address)} is not a NATS URL{because}: use nats://host:port or tls://host:port,"
        " nats://[address]:port for IPv6, nats://token@host:port, or several with commas between"
    )
    raise Refused(msg, reason="bad_url")
