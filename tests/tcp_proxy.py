"""A TCP proxy that can delay or drop the data of either side, or cut all connections, when a test requests it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK = 65_536


class Proxy:
    """A proxy for a server on loopback; clients connect to `port`."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._to_clients: set[asyncio.StreamWriter] = set()
        self._to_servers: set[asyncio.StreamWriter] = set()
        self._muted: set[asyncio.StreamWriter] = set()
        self._stalled: set[asyncio.StreamWriter] = set()
        self._released = asyncio.Event()
        self._to_clients_open = asyncio.Event()
        self._to_servers_open = asyncio.Event()
        self.mend()

    def mute(self) -> None:
        """Drop all further data of the server on the open connections; data of clients arrives."""
        self._muted |= self._to_clients

    def stall(self) -> None:
        """Read nothing more from the connected clients, until they disconnect."""
        self._stalled |= self._to_servers

    def hold(self) -> None:
        """Delay the data of clients until `mend`; data of the server arrives."""
        self._to_servers_open.clear()

    def part(self) -> None:
        """Delay the data of both sides until `mend`, also on new connections."""
        self.hold()
        self._to_clients_open.clear()

    def mend(self) -> None:
        """Deliver the delayed data, and stop delaying."""
        self._to_clients_open.set()
        self._to_servers_open.set()

    def cut(self) -> None:
        """Break the open connections."""
        self._released.set()
        for writer in (*self._to_clients, *self._to_servers):
            writer.transport.abort()

    async def serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            to_client.transport.abort()
            return
        self._to_clients.add(to_client)
        self._to_servers.add(to_server)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._carry(from_client, to_server, to_client, self._to_servers_open))
            tasks.create_task(self._carry(from_server, to_client, to_server, self._to_clients_open))
        self._to_clients.discard(to_client)
        self._to_servers.discard(to_server)
        self._muted.discard(to_client)

    async def _carry(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        is_open: asyncio.Event,
    ) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK):
                if sink in self._stalled:
                    await self._released.wait()
                await is_open.wait()
                if sink not in self._muted:
                    sink.write(chunk)
                    await sink.drain()
        sink.transport.abort()
        back.transport.abort()


@asynccontextmanager
async def proxy(server_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy for *server_port* while the block runs."""
    made = Proxy(server_port)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listener:
        made.port = listener.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            made.mend()
            made.cut()
            listener.close()
