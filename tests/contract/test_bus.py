"""The bus against a real server: its promises, and each trap of nats-py."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from nats.errors import StaleConnectionError

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.bus.subscription import Message
from coordinator.errors import Refused, Unavailable
from tests.real_server import real_server
from tests.tcp_proxy import Proxy, proxy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real_server import RealServer


async def test_no_server_is_told_with_its_address_and_without_the_token() -> None:
    """Connecting where nothing listens raises Unavailable within the time-out, naming host and port but no secret."""
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        async with Bus.open("nats://s3cret@127.0.0.1:1", name="t", connect_timeout_s=0.6):
            pass
    assert "127.0.0.1:1" in caught.value.message
    assert "s3cret" not in caught.value.message
    assert time.monotonic() - started < 20


async def test_a_server_that_never_speaks_is_told_too() -> None:
    """A port that accepts and sends nothing is not a server: Unavailable, within the time-out."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match=str(port)):
            async with Bus.open(f"nats://127.0.0.1:{port}", name="t", connect_timeout_s=0.5):
                pass


async def test_a_wrong_token_is_refused_at_once(server: RealServer) -> None:
    """Bad credentials are reported before the time-out, as an error of the caller."""
    started = time.monotonic()
    with pytest.raises(Refused) as caught:
        async with Bus.open(f"nats://wrong@127.0.0.1:{server.port}", name="t", connect_timeout_s=60):
            pass
    assert caught.value.reason == "bad_credentials"
    assert "wrong@" not in caught.value.message
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", ["http://x:1", "localhost:4222", "nats://", ""])
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    """An invalid NATS URL is refused with what is allowed."""
    with pytest.raises(Refused, match="nats://host:port"):
        async with Bus.open(url, name="t"):
            pass


async def test_messages_reach_plain_and_async_callbacks(bus: Bus) -> None:
    """Both kinds of callback get subject, reply, data and headers, in order."""
    plain: list[Message] = []
    later: list[Message] = []

    async def take(message: Message) -> None:
        later.append(message)

    await bus.subscribe("a.*", plain.append)
    await bus.subscribe("a.>", take)
    for number in range(100):
        await bus.publish("a.b", b"%d" % number, reply="r.s", headers={"One": "1", "Two": "zwei – ü"})
    await bus.flush(2)
    await asyncio.sleep(0.01)
    assert [m.data for m in plain] == [m.data for m in later] == [b"%d" % n for n in range(100)]
    first = plain[0]
    assert (first.subject, first.reply, first.headers) == ("a.b", "r.s", {"One": "1", "Two": "zwei – ü"})
    assert first.header(b"Two") == "zwei – ü"
    assert first.header(b"Three") is None
    assert first.status == 0


async def test_a_callback_that_raises_is_counted_and_ends_nothing(bus: Bus) -> None:
    """Exceptions in callbacks, plain and async, are counted; later messages still arrive."""
    seen: list[bytes] = []

    def plain(message: Message) -> None:
        seen.append(message.data)
        raise RuntimeError

    async def later(message: Message) -> None:
        seen.append(message.data)
        raise RuntimeError

    first = await bus.subscribe("x", plain)
    second = await bus.subscribe("x", later)
    for _ in range(3):
        await bus.publish("x", b"")
    await bus.flush(2)
    await asyncio.sleep(0.01)
    assert (first.failures, second.failures, len(seen)) == (3, 3, 6)


async def test_overflow_is_reported(bus: Bus) -> None:
    """Messages for which a slow async callback leaves no room are counted and reported, never dropped silently."""
    told: list[int] = []

    async def slow(_: Message) -> None:
        await asyncio.sleep(60)

    subscription = await bus.subscribe("x", slow, limit_messages=10, on_overflow=told.append)
    for _ in range(50):
        await bus.publish("x", b"")
    await bus.flush(2)
    await asyncio.sleep(0.01)
    assert subscription.dropped == 50 - 10
    assert told[-1] == subscription.dropped


async def test_waiting_messages_have_a_limit_in_bytes(bus: Bus) -> None:
    """Their headers count as their data does."""

    async def slow(_: Message) -> None:
        await asyncio.sleep(60)

    subscription = await bus.subscribe("x", slow, limit_bytes=5000)
    for _ in range(10):
        await bus.publish("x", b"x" * 500, headers={"Large": "x" * 500})
    await bus.flush(2)
    await asyncio.sleep(0.01)
    assert subscription.dropped in (10 - 4, 10 - 1 - 4)  # one is handled already, or not yet


async def test_queue_group_members_share(bus: Bus) -> None:
    """Each message reaches one subscriber of a queue group."""
    seen: list[str] = []
    await bus.subscribe("q", lambda _: seen.append("one"), queue="g")
    await bus.subscribe("q", lambda _: seen.append("two"), queue="g")
    for _ in range(100):
        await bus.publish("q", b"")
    await bus.flush(2)
    assert len(seen) == 100
    assert set(seen) == {"one", "two"}


async def test_request_gives_the_answer(bus: Bus) -> None:
    """Each of many concurrent requests gets its own answer."""

    async def echo(message: Message) -> None:
        await bus.publish(message.reply, message.data)

    await bus.subscribe("echo", echo)
    answers = await asyncio.gather(*(bus.request("echo", b"%d" % n, timeout_s=5) for n in range(500)))
    assert answers == [b"%d" % n for n in range(500)]


async def test_request_without_listener_is_unavailable_at_once(bus: Bus) -> None:
    """A request that nobody listens to fails at once, with the subject."""
    with pytest.raises(Unavailable, match=r"nobody\.there") as caught:
        await bus.request("nobody.there", b"", timeout_s=20)
    assert caught.value.reason == "no_responders"


async def test_request_without_answer_is_unavailable_in_time(bus: Bus) -> None:
    """A listener that does not answer costs the time-out and no more."""
    await bus.subscribe("mute", lambda _: None)
    with pytest.raises(Unavailable) as caught:
        await bus.request("mute", b"", timeout_s=0.1)
    assert caught.value.reason == "timeout"


async def test_a_request_ends_when_the_connection_breaks(server: RealServer, bus: Bus) -> None:
    """Waiting for an answer ends with the connection, not with the time-out."""
    await bus.subscribe("mute", lambda _: None)
    waiting = asyncio.create_task(bus.request("mute", b"", timeout_s=60))
    await bus.flush(2)
    await server.kill()
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(waiting, 5)
    assert caught.value.reason == "disconnected"
    await server.start()


async def test_unbuffered_publishing_while_disconnected_is_unavailable(server: RealServer, bus: Bus) -> None:
    """The writer's connection keeps nothing for later: nothing is written after its caller was told of a failure."""
    seen: list[bytes] = []
    await bus.subscribe("x", lambda m: seen.append(m.data))
    await server.kill()
    await _disconnected(bus)
    with pytest.raises(Unavailable):
        await bus.publish("x", b"ghost")
    await server.start()
    assert await bus.until_connected(10)
    await bus.publish("x", b"real")
    await bus.flush(2)
    assert seen == [b"real"]


async def test_a_buffered_bus_sends_after_the_reconnect(server: RealServer) -> None:
    """A buffered connection keeps its subscriptions and what is published while it is broken."""
    seen: list[bytes] = []
    hooks: list[str] = []
    async with Bus.open(server.url, name="t") as bus:
        bus.on_disconnect.append(lambda: hooks.append("down"))
        bus.on_reconnect.append(lambda: hooks.append("up"))
        await bus.subscribe("x", lambda m: seen.append(m.data))
        await server.kill()
        await _disconnected(bus)
        await bus.publish("x", b"kept")
        await server.start()
        assert await bus.until_connected(10)
        await bus.flush(2)
        assert seen == [b"kept"]
        assert hooks == ["down", "up"]


async def test_a_bus_looks_again_where_its_server_is(server: RealServer, tmp_path: Path) -> None:
    """Before each attempt it asks for the URL: it follows a server to another port, and waits while there is none."""
    told = server.url
    asked: list[str] = []

    def look() -> str:
        asked.append(told)
        return told

    other_folder = tmp_path / "other"
    other_folder.mkdir()
    async with real_server(other_folder) as other, Bus.open(look, name="t", buffered=False) as bus:
        assert bus.where == f"127.0.0.1:{server.port}"
        told = ""
        await server.kill()
        await _disconnected(bus)
        await server.start()  # the old one is back, but it is not where we are told to look
        before = len(asked)
        while len(asked) < before + 3:  # noqa: ASYNC110  # asked by nats-py
            await asyncio.sleep(0.02)
        assert not bus.connected
        told = other.url
        assert await bus.until_connected(10)
        assert bus.where == f"127.0.0.1:{other.port}"
    with pytest.raises(Unavailable, match="no coordinator runs"):
        async with Bus.open(lambda: "", name="t"):
            pass


async def test_a_late_pong_does_not_end_the_read_loop(server: RealServer, bus: Bus) -> None:
    """A flush that timed out, and whose PONG comes later, leaves the connection usable."""
    server.pause()
    with pytest.raises(Unavailable):
        await bus.flush(0.1)
    server.resume()
    await bus.flush(5)
    assert await bus.request("$JS.API.INFO", b"", timeout_s=5)


async def test_a_frozen_server_is_noticed_by_a_probe(server: RealServer, bus: Bus) -> None:
    """A connection that no longer answers is closed by `probe` and comes back with the server."""
    server.pause()
    assert not await bus.probe(0.2)
    await asyncio.sleep(0.05)
    assert not bus.connected
    server.resume()
    assert await bus.until_connected(10)
    assert await bus.probe(2)


async def test_what_was_unsent_when_the_connection_broke_is_never_sent(server: RealServer, bus: Bus) -> None:
    """Nothing is sent late: what was still waiting for the socket is dropped with the connection."""
    await bus.js_request("STREAM.CREATE.S", {"name": "S", "subjects": ["s"]}, timeout_s=5)
    server.pause()
    for _ in range(20):
        await bus.publish("s", bytes(500_000))
        await asyncio.sleep(0)
    await server.kill()
    await _disconnected(bus)
    await server.start()
    assert await bus.until_connected(10)
    await bus.flush(5)
    info = await bus.js_request("STREAM.INFO.S", timeout_s=5)
    assert info["state"]["messages"] == 0


async def test_a_connection_that_takes_nothing_more_is_left_behind(server: RealServer) -> None:
    """Reconnecting does not wait for a broken connection to accept unsent data."""
    async with proxy(server.port) as between, Bus.open(_through(between, server), name="t", buffered=False) as bus:
        between.stall()
        for _ in range(30):  # more than the kernel's buffers hold
            await bus.publish("s", bytes(500_000))
            await asyncio.sleep(0.01)
        await bus._client._process_op_err(StaleConnectionError())
        await asyncio.sleep(0.1)
        assert await bus.until_connected(5)
        await bus.flush(2)


async def test_errors_of_the_callers_block_come_out_as_they_are(server: RealServer) -> None:
    """An error raised in the block is not wrapped in a group, though the connection runs tasks of its own."""

    async def fail() -> None:
        async with Bus.open(server.url, name="t") as bus:
            await bus.subscribe("x", asyncio.sleep)  # type: ignore[arg-type]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_block_that_is_cancelled_ends(server: RealServer) -> None:
    """Cancelling the task that uses a connection closes it and ends the task."""

    async def use() -> None:
        async with Bus.open(server.url, name="t") as bus:
            await bus.subscribe("x", asyncio.sleep)  # type: ignore[arg-type]
            await asyncio.sleep(60)

    using = asyncio.create_task(use())
    await asyncio.sleep(0.1)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(using, 5)


async def test_closing_a_connection_to_a_frozen_server_ends(server: RealServer) -> None:
    """Close never hangs, whatever data is unsent."""
    async with Bus.open(server.url, name="t", buffered=False) as bus:
        server.pause()
        for _ in range(8):
            await bus.publish("x", bytes(900_000))
        started = time.monotonic()
    assert time.monotonic() - started < 20
    server.resume()


async def test_too_large_a_message_is_refused_with_both_sizes(bus: Bus) -> None:
    """A message above the server's limit is refused before it is sent; the server would cut the connection."""
    with pytest.raises(Refused, match="1048576"):
        await bus.publish("x", bytes(2_000_000))
    await bus.flush(2)


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0\r\n", "a\x00b"])
async def test_malformed_subjects_are_refused(bus: Bus, subject: str) -> None:
    """Nothing that could inject protocol lines is sent."""
    with pytest.raises(Refused):
        await bus.publish(subject, b"")
    with pytest.raises(Refused):
        await bus.subscribe(subject, lambda _: None)


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a\n": "b"}, {"a:b": "c"}])
async def test_malformed_headers_are_refused(bus: Bus, headers: dict[str, str]) -> None:
    """Headers cannot inject further headers."""
    with pytest.raises(Refused):
        await bus.publish("x", b"", headers=headers)


async def test_the_jetstream_api_says_no_by_code(bus: Bus) -> None:
    """Errors of the JetStream API keep its codes."""
    with pytest.raises(ApiError) as caught:
        await bus.js_request("STREAM.INFO.NONE", timeout_s=2)
    assert (caught.value.status, caught.value.err_code) == (404, 10059)


async def test_js_publish_gives_stream_and_sequence(bus: Bus) -> None:
    """A stored message is acknowledged with its sequence; the same id again is reported as a duplicate."""
    await bus.js_request("STREAM.CREATE.S", {"name": "S", "subjects": ["s"]}, timeout_s=5)
    first = await bus.js_publish("s", b"1", {"Nats-Msg-Id": "a"}, timeout_s=2)
    again = await bus.js_publish("s", b"1", {"Nats-Msg-Id": "a"}, timeout_s=2)
    assert (first.stream, first.sequence, first.duplicate) == ("S", 1, False)
    assert (again.sequence, again.duplicate) == (1, True)
    with pytest.raises(ApiError) as caught:
        await bus.js_publish("s", b"1", {"Nats-Expected-Last-Sequence": "7"}, timeout_s=2)
    assert caught.value.err_code == 10071


async def test_unsubscribing_ends_the_calls(bus: Bus) -> None:
    """After `unsubscribe` the callback is not called again; a second call is harmless."""
    seen: list[Message] = []
    subscription = await bus.subscribe("x", seen.append)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    await bus.publish("x", b"")
    await bus.flush(2)
    assert seen == []


async def test_a_closed_bus_is_unavailable(server: RealServer, tmp_path: Path) -> None:
    """A closed connection reports that it is closed."""
    async with Bus.open(server.url, name="t") as bus:
        pass
    with pytest.raises(Unavailable):
        await bus.publish("x", b"")
    with pytest.raises(Unavailable):
        await bus.subscribe("x", lambda _: None)


def _through(between: Proxy, server: RealServer) -> str:
    return server.url.replace(f":{server.port}", f":{between.port}")


async def _disconnected(bus: Bus) -> None:
    async with asyncio.timeout(5):
        while bus.connected:  # noqa: ASYNC110 - as a caller sees it
            await asyncio.sleep(0.01)
