"""
A nats-py client that connects to a host with several addresses as browsers do (RFC 8305), and reads much at once.

nats-py tries them one after the other, so that one that does not answer takes the whole time-out of each attempt. It
reads 32 KiB at a time, in which a message of 250 KB takes twice the time, through a `StreamReader`, which copies each
byte twice more: the server cuts off who reads too slowly.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from asyncio.staggered import staggered_race
from collections import deque
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from itertools import zip_longest
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from nats.aio.client import Client
from nats.aio.transport import TcpTransport

if TYPE_CHECKING:
    from urllib.parse import ParseResult

    from nats.aio.client import Srv

NEXT_ADDRESS_AFTER_S = 0.25
READ_BYTES = 256 * 1024
"""As much as asyncio takes from a socket at once."""
UNREAD_BYTES_MOST = 2 * READ_BYTES
"""When more has come in than this and was not read, the rest stays with the sender."""


class Pieces(asyncio.StreamReaderProtocol):
    """What comes in on a connection, piece by piece as it came; the methods for reading are a `StreamReader`'s."""

    def __init__(self) -> None:
        self._ends = asyncio.StreamReader()  # it knows how the connection ended, and never has anything to read
        super().__init__(self._ends)
        self._pieces: deque[bytes] = deque()
        self._bytes = 0
        self._is_paused = False
        self._source: asyncio.Transport | None = None
        self._came: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._source = cast("asyncio.Transport", transport)  # another event loop's is none of asyncio's classes

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > UNREAD_BYTES_MOST and not self._is_paused and self._source is not None:
            self._source.pause_reading()
            self._is_paused = True
        self._wake()

    def eof_received(self) -> bool | None:
        keeps_open = super().eof_received()
        self._wake()
        return keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake()

    def at_eof(self) -> bool:
        """Return whether the other side has ended, and everything was read."""
        return not self._pieces and self._ends.at_eof()

    async def read(self, _most: int = -1) -> bytes:
        """Return the next piece, whatever its length; b"" at the end."""
        if not self._pieces and not await self._more():
            return b""
        piece = self._pieces.popleft()
        self._bytes -= len(piece)
        if self._is_paused and self._bytes <= READ_BYTES and self._source is not None:
            self._is_paused = False
            self._source.resume_reading()
        return piece

    async def readline(self) -> bytes:
        """
        Return a line with its end, or what there is of it when the other side has ended.

        Raises:
            ValueError: it is longer than `READ_BYTES`.
        """
        begun = b""
        while b"\n" not in begun and (piece := await self.read()):
            begun += piece
            if len(begun) > READ_BYTES:
                msg = f"a line of more than {READ_BYTES} bytes"
                raise ValueError(msg)
        line, end, rest = begun.partition(b"\n")
        if rest:
            self._pieces.appendleft(rest)
            self._bytes += len(rest)
        return line + end

    async def _more(self) -> bool:
        """Wait until something has come in; return False at the end."""
        while not self._pieces:
            if (error := self._ends.exception()) is not None:
                raise error
            if self._ends.at_eof():
                return False
            self._came = asyncio.get_running_loop().create_future()
            await self._came
        return True

    def _wake(self) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(None)
        self._came = None


class RacingTransport(TcpTransport):
    """Tries the next address of a host when the one before has failed or has not answered for a quarter of a second."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:  # noqa: ARG002  # nats-py's
        """Connect to a server within *connect_timeout* seconds."""
        reader, transport = await asyncio.wait_for(_connected(uri.hostname or "", uri.port or 0), connect_timeout)
        writer = asyncio.StreamWriter(transport, reader, None, asyncio.get_running_loop())
        # nats-py keeps the first pair too: after an upgrade to TLS nothing else would.
        self._bare_io_reader = self._io_reader = reader  # type: ignore[assignment]  # it reads as a `StreamReader`
        self._bare_io_writer = self._io_writer = writer

    async def read(self, buffer_size: int) -> bytes:
        """Return what has come in, up to `READ_BYTES`."""
        read: bytes = await super().read(max(buffer_size, READ_BYTES))
        return read


async def _connected(host: str, port: int) -> tuple[Pieces, asyncio.Transport]:
    loop, reader = asyncio.get_running_loop(), Pieces()
    # An address has no others to race with.
    whom: dict[str, Any] = {"host": host, "port": port} if _is_address(host) else {"sock": await _raced(host, port)}
    transport, _ = await loop.create_connection(lambda: reader, **whom)
    return reader, transport


async def _raced(host: str, port: int) -> socket.socket:
    """Return a socket connected to the address of *host* that accepts first; not every event loop has this race."""
    loop = asyncio.get_running_loop()

    async def attempt(family: int, kind: int, protocol: int, _name: str, address: Any) -> socket.socket:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    found = await _addresses(host, port)
    won: socket.socket | None
    won, _, errors = await staggered_race([partial(attempt, *one) for one in _alternating(found)], NEXT_ADDRESS_AFTER_S)
    if won is None:
        raise next(error for error in errors if error is not None)
    return won


async def _addresses(host: str, port: int) -> list[Any]:
    """
    Return the addresses of a host.

    The event loop would do it in a thread for which the end of the program waits: half a minute with a name server that
    does not answer, however short the time-out was.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Any]] = loop.create_future()

    def settle(addresses: list[Any], error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def look() -> None:
        addresses, trouble = list[Any](), None
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            trouble = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, addresses, trouble)

    threading.Thread(target=look, name="nats-addresses", daemon=True).start()
    return await found


def _alternating(found: list[Any]) -> list[Any]:
    """Return addresses so that those of both families take turns, beginning with the first one's."""
    one = [address for address in found if address[0] == found[0][0]]
    other = [address for address in found if address[0] != found[0][0]]
    return [address for pair in zip_longest(one, other) for address in pair if address is not None]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class RacingClient(Client):
    """nats-py's client on such a transport."""

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = monotonic()
        if not self._transport:  # an unconnected one is false, and nats-py would replace it
            self._transport = RacingTransport()  # type: ignore[no-untyped-call]  # nats-py's has no types
        await self._transport.connect(s.uri, buffer_size=READ_BYTES, connect_timeout=self.options["connect_timeout"])
