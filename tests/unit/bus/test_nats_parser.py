"""The parser of messages: what nats-py's makes of the same bytes, however they come in."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from coordinator.bus.nats_parser import LINE_BYTES_MOST, MessageParser

SEEDS = range(40)
INFO = b'INFO {"server_id":"x","max_payload":1048576}\r\n'
OTHERS = (b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'permissions violation'\r\n", INFO)


class Client:
    """What a parser tells its client, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.on_error: Any = None

    def take(self, *message: Any) -> None:
        assert all(part is None or type(part) in (int, bytes) for part in message)
        self.told.append(message)

    async def _process_msg(self, *message: Any) -> None:
        self.take(*message)

    async def _process_ping(self) -> None:
        self.told.append(("PING",))

    async def _process_pong(self) -> None:
        self.told.append(("PONG",))

    async def _process_err(self, error: str) -> None:
        self.told.append(("ERR", error))
        if self.on_error is not None:
            self.on_error()

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(("INFO", info["server_id"]))


def message(random: Random) -> bytes:
    """Return a message: with headers or without, with a reply or without, and contents that look like the protocol."""
    body = random.choice((b"", b"\r\n", b"MSG a 1 2\r\nxx\r\n", b"PING\r\n", random.randbytes(random.randint(0, 90))))
    if random.random() < 0.1:
        body *= 200
    reply = random.choice((b"", b"_INBOX.x.1 "))
    sid = b"%d" % random.randint(1, 3)
    if random.random() < 0.5:
        return b"MSG a.b.c %b %b%d\r\n%b\r\n" % (sid, reply, len(body), body)
    block = random.choice((b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0\r\nA: b\r\n\r\n"))
    return b"HMSG a.b.c %b %b%d %d\r\n%b%b\r\n" % (sid, reply, len(block), len(block) + len(body), block, body)


def stream(random: Random) -> bytes:
    return b"".join(random.choice(OTHERS) if random.random() < 0.2 else message(random) for _ in range(40))


def pieces(data: bytes, random: Random, most: int) -> list[bytes]:
    found = []
    while data:
        size = random.randint(1, most)
        found.append(data[:size])
        data = data[size:]
    return found


async def told(parser: Any, client: Client, parts: list[bytes]) -> list[tuple[Any, ...]]:
    for part in parts:
        await parser.parse(part)
    return client.told


@pytest.mark.parametrize("seed", SEEDS)
async def test_all_that_comes_in_is_told_in_order(seed: int) -> None:
    """Whole, byte by byte, and torn anywhere: the same as nats-py's own parser tells."""
    random = Random(seed)
    data = stream(random)
    theirs = Client()
    expected = await told(Parser(theirs), theirs, [data])
    assert len(expected) > 20
    for most in (1, 3, 50, 1000, len(data)):
        mine = Client()
        parser = MessageParser(mine, mine.take)
        assert await told(parser, mine, pieces(data, random, most)) == expected
        await parser.parse(b"PING\r\n")
        assert mine.told[-1] == ("PING",)


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1\r\n",
        b"MSG a b 1 2 3 4\r\n",
        b"MSG a x 5\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 1 five\r\n",
        b"HMSG a 1 5\r\n",
        b"HMSG a 1 9 5\r\n",
        b"HMSG a 1 -1 5\r\n",
        b"WHAT is this\r\n",
        b"WHAT " + b"x" * 5000 + b"\r\n",
        b"x" * (LINE_BYTES_MOST + 1),
    ],
)
async def test_what_is_not_the_protocol_is_an_error(line: bytes) -> None:
    """The connection is then opened anew."""
    client = Client()
    parser = MessageParser(client, client.take)
    await parser.parse(b"MSG a 1 2\r\nok\r\n")
    with pytest.raises(ProtocolError):
        await parser.parse(line)
    assert client.told == [(1, b"a", b"", b"ok", None)]


@pytest.mark.parametrize("rest", [b"MSG a 1 5\r\nhe", b"MSG a 1", b"MSG a 1 2\r\nok", b"MSG a 1 2\r\nok\r", b"PI"])
async def test_a_new_connection_begins_anew(rest: bytes) -> None:
    """Nothing of what the old one left unfinished is joined to it."""
    client = Client()
    parser = MessageParser(client, client.take)
    await parser.parse(rest)
    parser.reset()
    client.told.clear()
    await parser.parse(b"MSG b 1 2\r\nhi\r\nPONG\r\n")
    assert client.told == [(1, b"b", b"", b"hi", None), ("PONG",)]


async def test_what_came_after_the_error_that_ended_a_connection_is_dropped() -> None:
    """The client resets the parser while it is told of the error."""
    client = Client()
    parser = MessageParser(client, client.take)
    client.on_error = parser.reset
    await parser.parse(b"-ERR 'stale connection'\r\nMSG a 1 2\r\nok\r\n")
    assert client.told == [("ERR", "'stale connection'")]
