"""What comes in on a connection to NATS: lines at first, then pieces; on asyncio's event loop and on uvloop's."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pytest
import uvloop

from events.nats_transport import READ_BYTES, UNREAD_BYTES_MOST, RacingTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Pair = tuple[Any, asyncio.StreamWriter]

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Return what runs a coroutine on one of the event loops."""

    def run_on(body: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(body(), 10.0))

    return run_on


@asynccontextmanager
async def connected(host: str = "127.0.0.1") -> AsyncIterator[Pair]:
    """Connect to a server; yield the transport, and what the server writes with."""
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport: Any = RacingTransport()  # type: ignore[no-untyped-call]  # nats-py's has no types
        await transport.connect(urlparse(f"nats://{host}:{port}"), READ_BYTES, 5.0)
        writer = await accepted
        try:
            yield transport, writer
        finally:
            transport.close()
            writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_lines_are_read_first_and_what_follows_as_it_came(run: Any, host: str) -> None:
    """Nothing between them is lost, however they came; at the end there is what there was, then nothing."""

    async def body() -> None:
        async with connected(host) as (transport, writer):
            writer.write(b"INFO 1\r\nPO")
            assert await transport.readline() == b"INFO 1\r\n"
            writer.write(b"NG\r\nMSG a")
            assert await transport.readline() == b"PONG\r\n"
            came = await transport.read(10)
            writer.write(b" 1 2\r\nno end")
            writer.close()
            while piece := await transport.read(10):
                came += piece
            assert came == b"MSG a 1 2\r\nno end"
            assert transport.at_eof()
            assert await transport.readline() == b""

    run(body)


def test_the_rest_of_a_line_is_told_at_its_end(run: Any) -> None:
    """As a `StreamReader` does it."""

    async def body() -> None:
        async with connected() as (transport, writer):
            writer.write(b"INFO")
            writer.close()
            assert await transport.readline() == b"INFO"
            assert await transport.read(1) == b""

    run(body)


def test_a_line_has_a_greatest_length(run: Any) -> None:
    """Who sends no line end cannot fill the memory."""

    async def body() -> None:
        async with connected() as (transport, writer):
            writer.write(b"x" * 2 * READ_BYTES)
            with pytest.raises(ValueError, match=f"a line of more than {READ_BYTES} bytes"):
                await transport.readline()

    run(body)


def test_a_connection_that_breaks_says_so(run: Any) -> None:
    """To who reads now, and to who reads later; what had come before is read first."""

    async def body() -> None:
        async with connected() as (transport, writer):
            reading = asyncio.ensure_future(transport.read(1))
            await asyncio.sleep(0)
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            with pytest.raises(ConnectionResetError):
                await reading
            with pytest.raises(ConnectionResetError):
                await transport.read(1)

    run(body)


def test_what_is_not_read_stays_with_the_sender(run: Any) -> None:
    """The bytes that wait here are bounded, and all of them come, in order."""

    async def body() -> None:
        sent = b"".join(struct.pack(">Q", number) for number in range(4_000_000))
        async with connected() as (transport, writer):
            writer.write(sent)
            for _ in range(100):
                await asyncio.sleep(0.001)
            waiting = transport._io_reader._bytes
            assert UNREAD_BYTES_MOST < waiting <= UNREAD_BYTES_MOST + 2 * READ_BYTES
            writer.close()
            came = bytearray()
            while piece := await transport.read(1):
                came += piece
            assert came == sent

    run(body)


def test_who_stops_waiting_loses_nothing(run: Any) -> None:
    """A read that was cancelled took nothing."""

    async def body() -> None:
        async with connected() as (transport, writer):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(transport.read(1), 0.01)
            writer.write(b"kept")
            assert await transport.read(1) == b"kept"

    run(body)


def test_a_name_server_that_does_not_answer_holds_no_program_up(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the attempt, nor the end of the program."""
    asked, answers = threading.Event(), threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        asked.set()
        answers.wait(30.0)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def body() -> None:
        transport: Any = RacingTransport()  # type: ignore[no-untyped-call]  # nats-py's has no types
        with pytest.raises(TimeoutError):
            await transport.connect(urlparse("nats://somewhere.test:4222"), READ_BYTES, 0.05)

    began = time.monotonic()
    run(body)
    assert asked.is_set()
    assert time.monotonic() - began < 5.0
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "nats-addresses":
            thread.join(5.0)
            assert not thread.is_alive()


def test_a_name_that_does_not_exist_is_told(run: Any) -> None:
    """By the error of the resolver, also for what is no name at all."""

    async def body() -> None:
        for name in ("no.such.name.invalid", "x" * 300):
            transport: Any = RacingTransport()  # type: ignore[no-untyped-call]  # as above
            with pytest.raises((OSError, UnicodeError)):
                await transport.connect(urlparse(f"nats://{name}:4222"), READ_BYTES, 30.0)

    run(body)
