"""
Probe a service's health URL once: http and https through httpx2, tcp through asyncio.

The URL comes from the service's registration, so nothing in it is trusted. Its host is resolved once, every address
must be inside the networks that the settings allow, and the connection goes to exactly the address that was checked. No
redirect is followed, no proxy or environment variable is used, no cookie or credential is stored or sent, and nothing
of an answer's body is reported. Each probe opens its own connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import httpx2

from coordinator.health.outcome import CheckResult, told
from events.errors import Refused, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network
    Resolve = Callable[[str], Awaitable[Sequence[str]]]

BODY_BYTES_MAX = 64 * 1024
"""How much of an answer is read: enough not to cut off an honest server."""
ADDRESSES_MAX = 8
"""How many addresses of a host are tried. All its addresses, however many, must be allowed."""
NETWORKS_KEY = "registry.health_check_networks"

_PORTS = {"http": 80, "https": 443}
_OK = range(200, 300)


class Prober:
    """
    Probes health URLs.

    Args:
        networks: the networks whose addresses may be probed.
        timeout_s: seconds that one probe may take.
        resolve: returns the addresses of a host name; by default the operating system's resolver.
        tls: the TLS context for https; by default the system's CA certificates.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        timeout_s: float = 2.0,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._networks = tuple(networks)
        self._timeout_s = timeout_s
        self._resolve = resolve if resolve is not None else resolve_by_system
        self._tls = tls
        # httpx2 requires a context even for http, and loading the certificates takes a third of a second.
        self._unused_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def look(self, url: str) -> CheckResult:
        """
        Probe *url* once and return the result.

        Raises:
            Refused: *url* cannot be probed, or an address of its host is outside the networks. This says nothing about
                the service's health.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        target = _target(url)
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = await self._addresses(target.raw_host.decode())
                ok, detail = await self._probe_any(target, addresses)
        except TimeoutError:
            ok, detail = False, f"no answer within {self._timeout_s:g} s"
        except (OSError, ValueError, httpx2.TransportError) as error:
            ok, detail = False, told(error)
        return CheckResult(ok, detail, round((loop.time() - began) * 1000, 3))

    async def _addresses(self, host: str) -> list[Address]:
        """Resolve *host* once; return its addresses if all of them are allowed."""
        found = [_plain(ip_address(text)) for text in await self._resolve(host)]
        for address in found:
            if not any(_allows(network, address) for network in self._networks):
                msg = (
                    f"{shown(host)} is not checked: its address {address} is outside {NETWORKS_KEY}; to check it,"
                    f" add {address}/{address.max_prefixlen} to the setting"
                )
                raise Refused(msg, reason="outside_networks")
        if not found:
            raise OSError(f"{host} has no address")
        return list(dict.fromkeys(found))[:ADDRESSES_MAX]

    async def _probe_any(self, target: httpx2.URL, addresses: Sequence[Address]) -> tuple[bool, str]:
        """Probe the first address that accepts a connection."""
        *others, last = addresses
        for address in others:
            try:
                return await self._probe(target, address)
            except (OSError, httpx2.ConnectError):
                continue
        return await self._probe(target, last)

    async def _probe(self, target: httpx2.URL, address: Address) -> tuple[bool, str]:
        if target.scheme == "tcp":
            return await _connect(address, target.port or 0)
        tls = await self._certificates() if target.scheme == "https" else self._unused_tls
        return await _get(target, address, tls)

    async def _certificates(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls


async def resolve_by_system(host: str) -> list[str]:
    """
    Return the addresses of *host* from the operating system's resolver.

    Raises:
        OSError: the host cannot be resolved.
    """
    try:
        # Numeric forms that the system accepts (`2130706433`, `0x7f.1`) become the address they stand for.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


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


async def _connect(address: Address, port: int) -> tuple[bool, str]:
    _, writer = await asyncio.open_connection(str(address), port)
    writer.close()
    return True, "accepted a connection"


async def _get(target: httpx2.URL, address: Address, tls: ssl.SSLContext) -> tuple[bool, str]:
    """Request *target* from *address*; the host name appears only in the Host header and the TLS handshake."""
    request = httpx2.Request(
        "GET",
        target.copy_with(host=str(address)),
        headers={
            "Host": target.netloc.decode(),
            "User-Agent": "coordinator-health-check",
            "Accept": "*/*",
            "Connection": "close",
        },
        extensions={"sni_hostname": target.raw_host.decode().rstrip(".")},
    )
    async with httpx2.AsyncHTTPTransport(verify=tls, trust_env=False) as transport:
        response = await transport.handle_async_request(request)
        read = 0
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read >= BODY_BYTES_MAX:
                break
        await response.aclose()
    return response.status_code in _OK, f"answered {response.status_code}"
