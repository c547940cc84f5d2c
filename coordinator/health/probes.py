"""
Probe a service's health URL once: http and https through httpcore2, tcp through asyncio.

The URL comes from the service's registration, so nothing in it is trusted. Its host is resolved once, every address
must be inside the networks that the settings allow, and the connection goes to exactly one of the addresses that were
checked. No redirect is followed, no proxy or environment variable is used, no cookie or credential is stored or sent,
and nothing of an answer's body is reported. Each probe opens its own connection.

A failure of the service is a result; what this process or its resolver cannot do is an error, `could_not_check`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import httpcore2
import httpx2

from coordinator.health.connecting import PinnedBackend, connect_any, in_turn
from coordinator.health.fair_room import FairRoom
from coordinator.health.outcome import CheckResult, could_not_check, told
from coordinator.health.resolver import Resolver
from coordinator.runtime.shortage import is_shortage
from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network
    Resolve = Callable[[str, str], Awaitable[Sequence[str]]]

BODY_BYTES_MAX = 64 * 1024
"""How much of an answer is read: enough not to cut off an honest server."""
ADDRESSES_MAX = 8
"""How many addresses of a host are tried. All its addresses, however many, must be allowed."""
NETWORKS_KEY = "registry.health_check_networks"
AT_ONCE = 100
HELD_UP_S = 1.0
"""A time-out that is noticed this much later says that this process was held up, nothing of the service."""

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

_PORTS = {"http": 80, "https": 443}
_OK = range(200, 300)

_FAILURES = (OSError, ValueError, httpcore2.NetworkError, httpcore2.ProtocolError)


class Prober:
    """
    Probes health URLs.

    Args:
        networks: the networks whose addresses may be probed.
        timeout_s: seconds that one probe may take, and that resolving its host may take before.
        resolve: returns the addresses of a host name for a source; by default the operating system's resolver.
        tls: the TLS context for https; by default the system's CA certificates.
        at_once: how many connections may be open at a time; further probes wait, those of each source in turn.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        timeout_s: float = 2.0,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._networks = tuple(networks)
        self._timeout_s = timeout_s
        self._resolve = resolve if resolve is not None else Resolver().resolve
        self._tls = tls
        self._room = FairRoom(at_once)

    async def look(self, url: str, source: str = "") -> CheckResult:
        """
        Probe *url* once, for the services of *source*, and return the result.

        Raises:
            Refused: *url* cannot be probed, or an address of its host is outside the networks. This says nothing about
                the service's health.
            Unavailable: the check could not be made: the resolver fails, or this machine lacks descriptors, memory,
                threads, ports or a route. This says nothing about the service's health, either.
        """
        loop = asyncio.get_running_loop()
        target, began = _target(url), loop.time()
        try:
            addresses = await self._addresses(target.raw_host.decode(), source)
        except (OSError, ValueError) as error:
            return CheckResult(ok=False, detail=told(error), latency_ms=_ms(loop.time() - began))
        resolved_s = loop.time() - began
        async with self._room.place(source):
            began = loop.time()
            ok, detail = await self._within_time(target, addresses)
        return CheckResult(ok, detail, _ms(resolved_s + loop.time() - began))

    async def _addresses(self, host: str, source: str) -> list[Address]:
        """Resolve *host* once; return its addresses if all of them are allowed."""
        found = await self._resolved(host, source)
        for address in found:
            if not any(_allows(network, address) for network in self._networks):
                msg = (
                    f"{shown(host)} is not checked: its address {address} is outside {NETWORKS_KEY}; to check it,"
                    f" add {address}/{address.max_prefixlen} to the setting"
                )
                raise Refused(msg, reason="outside_networks")
        if not found:
            raise OSError(f"{host} has no address")
        return in_turn(list(dict.fromkeys(found)))[:ADDRESSES_MAX]

    async def _resolved(self, host: str, source: str) -> list[Address]:
        """Return what the resolver says; only that there is no such name is a failure of the service."""
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._resolve(host, source)
        except TimeoutError as error:
            raise could_not_check(f"{shown(host)} was not resolved within {self._timeout_s:g} s") from error
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                raise
            raise could_not_check(f"{shown(host)} was not resolved: {told(error)}") from error
        except (OSError, MemoryError) as error:
            raise could_not_check(f"{shown(host)} was not resolved: {told(error)}") from error
        try:
            return [_plain(ip_address(text)) for text in found]
        except ValueError as error:
            raise could_not_check(f"the resolver's answer for {shown(host)} is malformed: {told(error)}") from error

    async def _within_time(self, target: httpx2.URL, addresses: Sequence[Address]) -> tuple[bool, str]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._probe(target, addresses)
        except TimeoutError as error:
            late_s = loop.time() - began - self._timeout_s
            if late_s > HELD_UP_S:
                raise could_not_check(f"this process was held up for {late_s:.1f} s") from error
            return False, f"no answer within {self._timeout_s:g} s"
        except (*_FAILURES, MemoryError, RuntimeError) as error:
            if is_shortage(error):
                raise could_not_check(told(error)) from error
            if not isinstance(error, _FAILURES):
                raise
            return False, told(error)

    async def _probe(self, target: httpx2.URL, addresses: Sequence[Address]) -> tuple[bool, str]:
        if target.scheme == "tcp":
            (await connect_any(addresses, target.port or 0)).close()
            return True, "accepted a connection"
        tls = await self._certificates() if target.scheme == "https" else None
        return await _get(target, addresses, tls)

    async def _certificates(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = await asyncio.to_thread(ssl.create_default_context)
            except (OSError, RuntimeError, MemoryError) as error:
                raise could_not_check(f"the system's CA certificates cannot be read: {told(error)}") from error
        return self._tls


def _target(url: str) -> httpx2.URL:
    """Parse and check a URL, without relying on the check at registration."""
    try:
        target = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise Refused(f"health_check_url {shown(url)} is not a URL: {told(error)}", reason="bad_url") from None
    port = target.port if target.port is not None else _PORTS.get(target.scheme, 0)
    if target.scheme not in {*_PORTS, "tcp"} or not target.raw_host or target.userinfo or not 0 < port <= 65_535:  # noqa: PLR2004  # 16 bits
        msg = f"health_check_url {shown(url)} cannot be probed: use http://host:port/path, https://… or tcp://host:port"
        raise Refused(msg, reason="bad_url")
    return target


def _plain(address: Address) -> Address:
    """Return the IPv4 address inside a mapped IPv6 one (`::ffff:127.0.0.1`): the connection goes there."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


def _allows(network: Network, address: Address) -> bool:
    """
    Return whether *network* allows a connection to *address*.

    Link-local addresses (a cloud's credentials service), multicast addresses, and the unspecified address (this
    machine) are allowed only by a network that contains nothing else, never by a wide one such as `0.0.0.0/0`.
    """
    if address not in network:
        return False
    return not (
        (address.is_link_local and not network.is_link_local)
        or (address.is_multicast and not network.is_multicast)
        or (address.is_unspecified and not network.is_unspecified)
    )


async def _get(target: httpx2.URL, addresses: Sequence[Address], tls: ssl.SSLContext | None) -> tuple[bool, str]:
    """Request *target* from one of *addresses*."""
    host = target.raw_host
    url = httpcore2.URL(
        scheme=target.raw_scheme, host=host, port=target.port or _PORTS[target.scheme], target=target.raw_path
    )
    headers = (
        ("Host", target.netloc),
        ("User-Agent", "coordinator-health-check"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    )
    named = {"sni_hostname": host.decode().rstrip(".")}
    async with (
        httpcore2.AsyncConnectionPool(ssl_context=tls, network_backend=PinnedBackend(addresses)) as pool,
        pool.stream("GET", url, headers=headers, extensions=named) as response,
    ):
        read = 0
        async for chunk in response.aiter_stream():
            read += len(chunk)
            if read >= BODY_BYTES_MAX:
                break
    return response.status in _OK, f"answered {response.status}"


def _ms(time_s: float) -> float:
    return round(time_s * 1000, 3)
