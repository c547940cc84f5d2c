"""
NATS at every kind of address: IPv6, and hosts with several addresses of which some are dead.

The process-wide resolver has no such names, so the event loop's resolver answers for one name here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream
from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.errors import Unavailable
from events.publisher import EventPublisher
from events.subjects import Subjects
from tests.listeners import deaf
from tests.real_server import TOKEN, Server6, real_server

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.bus.subscription import Message

MANY = "many.test"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of `many.test`."""
    addresses: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        if host != MANY:
            return resolve(host, port, **options)
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
            for one in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return addresses


async def _echo(url: str) -> float:
    """Connect, and hear what was published; return how long connecting took."""
    began = time.monotonic()
    async with Bus.open(url, name="t", connect_timeout_s=10) as bus:
        took_s = time.monotonic() - began
        heard: asyncio.Queue[Message] = asyncio.Queue()
        await bus.subscribe("a", heard.put_nowait)
        await bus.publish("a", b"x")
        assert (await asyncio.wait_for(heard.get(), 10)).data == b"x"
    return took_s


async def test_ipv6(tmp_path: Path) -> None:
    """A bus and a publisher connect to an IPv6 address; one that nobody listens on is told in brackets."""
    server = Server6(tmp_path)
    await server.start()
    try:
        await _echo(server.url)
        async with Bus.open(server.url, name="admin") as bus:
            await ensure_stream(bus, inbox_stream(Subjects(), "execution", InboxLimits(max_bytes=64 * 1024**2)))
        async with EventPublisher.open(server.url, domain="execution") as publisher:
            await publisher.publish("task.completed", {"execution_time_s": 1.5})
    finally:
        await server.stop()
    with pytest.raises(Unavailable, match=rf"\[::1\]:{server.port}"):
        await _echo(server.url)
    with pytest.raises(Unavailable, match=rf"\[::1\]:{server.port}"):
        async with EventPublisher.open(server.url, domain="execution"):
            pass


async def test_a_moved_server_is_found_at_an_ipv6_address(tmp_path: Path) -> None:
    """A function as URL may return one, before each attempt to connect."""
    server = Server6(tmp_path)
    await server.start()
    try:
        async with Bus.open(lambda: server.url, name="t") as bus:
            await server.kill()
            await server.start()
            async with asyncio.timeout(30):
                while not await bus.probe(1.0):  # noqa: ASYNC110  # it reconnects by itself
                    await asyncio.sleep(0.05)
    finally:
        await server.stop()


async def test_addresses_that_are_dead_are_passed_over(tmp_path: Path, many: list[str]) -> None:
    """One that refuses costs nothing, one that does not answer a quarter of a second, at each connection."""
    async with real_server(tmp_path) as server:
        url = f"nats://{TOKEN}@{MANY}:{server.port}"
        many[:] = ["::1", "127.0.0.2", "127.0.0.1"]
        assert await _echo(url) < 1.5
        with deaf("127.0.0.2", server.port), deaf("127.0.0.3", server.port):
            many[:] = ["127.0.0.2", "127.0.0.3", "::1", "127.0.0.1"]
            assert await _echo(url) < 1.9  # the time-out of one attempt is 2 s
            async with Bus.open(url, name="t") as bus:
                await server.kill()
                await server.start()
                async with asyncio.timeout(30):
                    while not await bus.probe(1.0):  # noqa: ASYNC110  # it reconnects by itself
                        await asyncio.sleep(0.05)
            many[:] = ["127.0.0.2"]
            began = time.monotonic()
            with pytest.raises(Unavailable, match=MANY):
                async with Bus.open(url, name="t", connect_timeout_s=1.0):
                    pass
            assert time.monotonic() - began < 10
