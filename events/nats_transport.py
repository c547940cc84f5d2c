"""
A nats-py client that connects to a host with several addresses as browsers do (RFC 8305), and reads much at once.

nats-py tries them one after the other, so that one that does not answer takes the whole time-out of each attempt. It
reads 32 KiB at a time, in which a message of 250 KB takes twice the time: the server cuts off who reads too slowly.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from time import monotonic
from typing import TYPE_CHECKING

from nats.aio.client import Client
from nats.aio.transport import TcpTransport

if TYPE_CHECKING:
    from urllib.parse import ParseResult

    from nats.aio.client import Srv

NEXT_ADDRESS_AFTER_S = 0.25
READ_BYTES = 256 * 1024
"""As much as asyncio takes from a socket at once."""


class RacingTransport(TcpTransport):
    """Tries the next address of a host when the one before has failed or has not answered for a quarter of a second."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: float) -> None:
        """Connect to a server within *connect_timeout* seconds."""
        host = uri.hostname or ""
        # An address has no others to race with: asyncio's race of one leaves its socket to the garbage collector.
        delay_s = None if _is_address(host) else NEXT_ADDRESS_AFTER_S
        connecting = asyncio.open_connection(host, uri.port, limit=buffer_size, happy_eyeballs_delay=delay_s)
        reader, writer = await asyncio.wait_for(connecting, connect_timeout)
        # nats-py keeps the first pair too: after an upgrade to TLS nothing else would.
        self._bare_io_reader = self._io_reader = reader
        self._bare_io_writer = self._io_writer = writer

    async def read(self, buffer_size: int) -> bytes:
        """Return what has come in, up to `READ_BYTES`."""
        read: bytes = await super().read(max(buffer_size, READ_BYTES))
        return read


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
