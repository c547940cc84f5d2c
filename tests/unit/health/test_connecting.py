"""One of several addresses is connected to as browsers do it; what this machine lacks is no failure of a service."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.health.connecting import connect_any, in_turn
from coordinator.health.probes import Prober
from coordinator.runtime.shortage import is_shortage
from events.errors import Unavailable
from tests.descriptors import no_descriptor_left
from tests.listeners import deaf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()


@asynccontextmanager
async def serving(host: str, port: int = 0) -> AsyncIterator[int]:
    async with await asyncio.start_server(_answer, host, port) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.sleep(0.05)  # until the connections that were accepted last are closed here, too


def prober(addresses: Sequence[str], *, timeout_s: float = 2.0) -> Prober:
    async def resolve(_: str, __: str) -> Sequence[str]:
        return addresses

    return Prober(LOOPBACK, timeout_s=timeout_s, resolve=resolve)


@pytest.mark.parametrize("scheme", ["http", "tcp"])
@pytest.mark.parametrize("first", [["127.0.0.2"], ["::1"], ["::1", "127.0.0.2", "127.0.0.3"]])
async def test_addresses_that_refuse_are_passed_over(scheme: str, first: list[str]) -> None:
    """The check passes when any address accepts, within the one time-out."""
    async with serving("127.0.0.1") as port:
        outcome = await prober([*first, "127.0.0.1"]).look(f"{scheme}://many.test:{port}/")
        assert outcome.ok
        assert outcome.latency_ms < 1000
    outcome = await prober([*first, "127.0.0.1"]).look(f"{scheme}://many.test:{port}/")
    assert not outcome.ok
    assert "refused" in outcome.detail.lower() or "connect" in outcome.detail.lower()


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(scheme: str) -> None:
    """The next address is tried beside it, not after the time-out."""
    async with serving("127.0.0.1") as port:
        with deaf("127.0.0.2", port), deaf("127.0.0.3", port):
            outcome = await prober(["127.0.0.2", "127.0.0.3", "127.0.0.1"]).look(f"{scheme}://many.test:{port}/")
            assert outcome.ok
            assert 400 < outcome.latency_ms < 1500
            outcome = await prober(["127.0.0.2", "127.0.0.3"], timeout_s=0.6).look(f"{scheme}://many.test:{port}/")
            assert (outcome.ok, outcome.detail) == (False, "no answer within 0.6 s")
            assert outcome.latency_ms < 1500


@pytest.mark.parametrize("scheme", ["http", "tcp"])
async def test_ipv6(scheme: str) -> None:
    """A URL with an IPv6 address is checked."""
    async with serving("::1") as port:
        assert (await Prober(LOOPBACK).look(f"{scheme}://[::1]:{port}/")).ok


def test_families_take_turns() -> None:
    """The first family is that of the resolver's first address."""
    found = [ip_address(text) for text in ("::1", "::2", "::3", "127.0.0.1", "127.0.0.2")]
    assert [str(one) for one in in_turn(found)] == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]


async def test_of_two_that_accept_one_is_kept() -> None:
    """No other connection is left open; a cancelled attempt leaves none, either."""
    async with serving("127.0.0.1") as port, serving("127.0.0.2", port):
        addresses: list[IPv4Address | IPv6Address] = [IPv4Address("127.0.0.1"), IPv4Address("127.0.0.2")]
        before = _open_descriptors()
        for _ in range(20):
            (await connect_any(addresses, port)).close()
        await _closed(before)
        with deaf("127.0.0.3", port):
            before = _open_descriptors()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connect_any([IPv4Address("127.0.0.3")], port), 0.05)
            await _closed(before)


async def _closed(before: int) -> None:
    """Wait until no more descriptors are open than before; the server closes its side a little later."""
    async with asyncio.timeout(5):
        while _open_descriptors() > before:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


def _open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "tcp://127.0.0.1:{}", "tcp://[::1]:{}", "http://localhost:{}"])
async def test_no_descriptors(url: str) -> None:
    """A process that cannot open a socket says so; the service is not told to have failed."""
    looking = Prober(LOOPBACK)
    async with serving("127.0.0.1") as port:
        with no_descriptor_left(), pytest.raises(Unavailable, match="Too many open files") as raised:
            await looking.look(url.format(port))
        assert raised.value.reason == "could_not_check"
        assert (await looking.look(f"http://127.0.0.1:{port}/")).ok


_WITHOUT_NETWORK = """
import asyncio
from ipaddress import ip_network
from coordinator.health.probes import Prober
from events.errors import Unavailable
from tests.descriptors import no_descriptor_left

async def look(url):
    try:
        print("result", (await Prober([ip_network("0.0.0.0/0"), ip_network("::/0")]).look(url)).ok)
    except Unavailable as error:
        print(error.reason)

for url in ("tcp://192.0.2.1:9", "http://192.0.2.1:9/", "http://[2001:db8::1]:9/"):
    asyncio.run(look(url))
"""


def test_no_route() -> None:
    """A machine without a network cannot check, which says nothing about the service."""
    alone = ["unshare", "--net", "--map-root-user"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(reason="this machine cannot make a network of its own")
    done = subprocess.run(
        [*alone, sys.executable, "-c", _WITHOUT_NETWORK], check=True, capture_output=True, timeout=60, text=True
    )
    assert done.stdout.split() == ["could_not_check"] * 3


async def test_a_route_that_one_address_lacks_does_not_hide_a_failure() -> None:
    """An address that this machine has no route to is passed over; the one that was reached decides."""
    with pytest.raises(ConnectionRefusedError):
        await connect_any([IPv4Address("255.255.255.255"), IPv4Address("127.0.0.1")], 1)
    with pytest.raises(Unavailable, match="no route from here"):
        await connect_any([IPv4Address("255.255.255.255")], 1)


def test_what_counts_as_a_shortage() -> None:
    """The error itself or one that caused it; the numbers of TLS errors are others."""
    inner = OSError(errno.EMFILE, "Too many open files")
    outer = ValueError("the check failed")
    outer.__cause__ = inner
    assert is_shortage(outer)
    assert is_shortage(ExceptionGroup("", [ValueError(), inner]))
    assert is_shortage(MemoryError())
    assert is_shortage(RuntimeError("can't start new thread"))
    assert not is_shortage(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not is_shortage(RuntimeError("a defect"))
