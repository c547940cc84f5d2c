"""A look at a health URL: what counts as healthy, and that it never connects to where it may not."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from coordinator.errors import Refused
from coordinator.registry.probes import BODY_BYTES_MAX, Prober

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ALLOWED = "127.0.0.1/32"
CANARY = "127.0.0.2"
"""Loopback too, and not allowed: whoever connects there has been led astray."""


class Listener:
    """An HTTP server of one answer; `seen` holds the requests it got."""

    def __init__(self, answer: bytes) -> None:
        self.seen: list[bytes] = []
        self.port = 0
        self.begun = self.ended = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.begun += 1
        self.seen.append(await reader.read(65_536))
        with suppress(ConnectionError):  # the other side may have seen enough
            if self._answer:
                writer.write(self._answer)
                await writer.drain()
            else:
                await reader.read()  # until the other side gives up
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.ended += 1


@asynccontextmanager
async def listening(answer: bytes = b"", host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Listener]:
    listener = Listener(answer)
    server = await asyncio.start_server(listener.serve, host, port)
    listener.port = server.sockets[0].getsockname()[1]
    async with server:
        yield listener
        async with asyncio.timeout(5.0):
            while listener.ended < listener.begun:  # noqa: ASYNC110  # handlers are not ours to await
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.01)


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def prober(*, timeout_s: float = 2.0, addresses: dict[str, list[str]] | None = None) -> Prober:
    async def resolve(host: str) -> list[str]:
        return (addresses or {})[host]

    networks = [ip_network(ALLOWED)]
    return Prober(networks, timeout_s=timeout_s, resolve=resolve if addresses is not None else None)


@pytest.mark.parametrize(
    ("status", "ok"), [("200 OK", True), ("204 No Content", True), ("404 Not Found", False), ("503 Busy", False)]
)
async def test_only_success_is_healthy(status: str, ok: bool) -> None:
    """The detail is the status alone: nobody is shown what the server wrote."""
    async with listening(answer(status, body=b"secret")) as listener:
        seen = await prober().look(f"http://127.0.0.1:{listener.port}/health")
    assert (seen.ok, seen.detail) == (ok, f"answered {status[:3]}")
    assert seen.latency_ms > 0


async def test_the_name_travels_in_the_host_header() -> None:
    """And the connection goes to the address that was checked, whatever the name means later."""
    async with listening(answer("200 OK")) as listener:
        names = {"service.example": ["127.0.0.1"]}
        seen = await prober(addresses=names).look(f"http://service.example:{listener.port}/x?y=1")
    assert seen.ok
    assert listener.seen[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
    assert f"Host: service.example:{listener.port}".lower().encode() in listener.seen[0].lower()


async def test_redirects_are_not_followed() -> None:
    """They are no success, and nothing connects to where they point."""
    async with listening(answer("200 OK"), host=CANARY) as canary:
        location = f"Location: http://{CANARY}:{canary.port}/"
        async with listening(answer("302 Found", location)) as listener:
            seen = await prober().look(f"http://127.0.0.1:{listener.port}/")
    assert (seen.ok, seen.detail) == (False, "answered 302")
    assert canary.seen == []


@pytest.mark.parametrize(
    "host",
    [
        CANARY, "2130706434", "0x7f000002", "127.2", "[::ffff:127.0.0.2]", "0.0.0.0", "[::]", "[::1]",
        "169.254.169.254", "192.168.1.100", "224.0.0.1",
    ],
)  # fmt: skip
async def test_addresses_outside_of_the_networks_are_not_connected_to(host: str) -> None:
    """However they are written; it says nothing about the service, and names the setting that would allow it."""
    async with listening(answer("200 OK"), host=CANARY) as canary:
        with pytest.raises(Refused, match=r"registry\.health_check_networks"):
            await prober().look(f"http://{host}:{canary.port}/")
    assert canary.seen == []


async def test_one_bad_address_of_a_name_is_enough() -> None:
    """A name that means both is not checked at all."""
    async with listening(answer("200 OK"), host=CANARY) as canary:
        names = {"both.example": ["127.0.0.1", CANARY]}
        with pytest.raises(Refused, match=CANARY):
            await prober(addresses=names).look(f"http://both.example:{canary.port}/")
    assert canary.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "http:///x",
        "tcp://127.0.0.1",
        "",
    ],
)
async def test_what_is_no_health_url_is_refused(url: str) -> None:
    """That it was checked when the service registered is not relied on."""
    with pytest.raises(Refused):
        await prober().look(url)


async def test_a_silent_server_is_unhealthy_in_time() -> None:
    """The whole look has one limit."""
    async with listening() as listener:
        seen = await prober(timeout_s=0.2).look(f"http://127.0.0.1:{listener.port}/")
    assert (seen.ok, seen.detail) == (False, "no answer within 0.2 s")


async def test_nobody_listening_is_unhealthy() -> None:
    """With the system's own words."""
    async with listening() as listener:
        port = listener.port
    seen = await prober().look(f"http://127.0.0.1:{port}/")
    assert not seen.ok
    assert seen.detail


async def test_an_endless_answer_is_cut_off() -> None:
    """What has answered well by then is healthy."""
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BODY_BYTES_MAX + 1)
    async with listening(endless) as listener:
        assert (await prober().look(f"http://127.0.0.1:{listener.port}/")).ok


async def test_a_tcp_check_only_connects() -> None:
    """Who takes the connection is healthy."""
    async with listening(answer("200 OK")) as listener:
        seen = await prober().look(f"tcp://127.0.0.1:{listener.port}")
        assert (seen.ok, seen.detail) == (True, "accepted a connection")
        port = listener.port
    assert not (await prober().look(f"tcp://127.0.0.1:{port}")).ok


async def test_a_name_nobody_knows_is_unhealthy() -> None:
    """It has no address to connect to."""
    seen = await prober(addresses={"nowhere.example": []}).look("http://nowhere.example/")
    assert (seen.ok, "has no address" in seen.detail) == (False, True)
