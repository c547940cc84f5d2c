"""
Connect to one of several addresses, as browsers do (RFC 8305), and give httpcore2 the connection.

The addresses are those that were checked, in the resolver's order but with the families in turn. The next one is tried
when the one before has failed or has not answered for a quarter of a second; the first that accepts is used.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

import httpcore2

from coordinator.health.outcome import could_not_check, told
from coordinator.runtime.shortage import is_shortage
from coordinator.task_groups import task_group

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Sequence

    Address = IPv4Address | IPv6Address

NEXT_AFTER_S = 0.25

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})
_NOT_FROM_HERE = frozenset(
    {errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPERM, errno.EACCES}
)
"""This machine has no such network, no free port, or does not allow it."""


async def connect_any(addresses: Sequence[Address], port: int) -> socket.socket:
    """
    Return a connection to the first of *addresses* that accepts one.

    Raises:
        OSError: none accepts; the error of one that was reached, if any was.
        Unavailable: this machine cannot connect to any of them, or lacks what a connection takes.
    """
    waiting, errors = deque(in_turn(addresses)), list[OSError]()
    started: list[asyncio.Task[socket.socket | OSError]] = []
    won: socket.socket | None = None
    try:
        async with task_group() as tasks:
            running: set[asyncio.Task[socket.socket | OSError]] = set()
            while won is None and (waiting or running):
                if waiting:
                    started.append(tasks.create_task(_connect(waiting.popleft(), port)))
                    running.add(started[-1])
                done, running = await asyncio.wait(
                    running, timeout=NEXT_AFTER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                outcomes = [task.result() for task in done]
                errors += [one for one in outcomes if isinstance(one, OSError)]
                won = next((one for one in outcomes if isinstance(one, socket.socket)), None)
            for task in running:
                task.cancel()
    except BaseException:
        won = None
        raise
    finally:
        _close_others(started, won)
    if won is None:
        raise _verdict(errors)
    return won


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Return *addresses* with the families in turn, that of the first one first."""
    first = [one for one in addresses if one.version == addresses[0].version]
    others = [one for one in addresses if one.version != addresses[0].version]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]


async def _connect(address: Address, port: int) -> socket.socket | OSError:
    try:
        connection = socket.socket(_family_of(address), socket.SOCK_STREAM)
    except OSError as error:
        return error
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, _target_of(address, port))
    except OSError as error:
        connection.close()
        return _unreachable(address, port, error) if error.errno in _NO_ROUTE else error
    except BaseException:
        connection.close()
        raise
    return connection


def _target_of(address: Address, port: int) -> tuple[Any, ...]:
    if isinstance(address, IPv4Address):
        return str(address), port
    zone = address.scope_id
    index = 0 if zone is None else int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return str(address).partition("%")[0], port, 0, index


def _unreachable(address: Address, port: int, error: OSError) -> OSError:
    """Return *error*, as that of this machine if it has no route; a router may have answered so, too."""
    try:
        with socket.socket(_family_of(address), socket.SOCK_DGRAM) as asking:
            asking.connect(_target_of(address, port))  # this only looks up the route: no packet is sent
    except OSError as unrouted:
        if is_shortage(unrouted):
            return unrouted
        return OSError(errno.ENETDOWN, f"no route from here to {address}: {told(unrouted)}")
    return error


def _family_of(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def _verdict(errors: Sequence[OSError]) -> Exception:
    """Return what it means that no address accepted."""
    shortage = next((one for one in errors if is_shortage(one)), None)
    if shortage is not None:
        return could_not_check(told(shortage))
    answered = next((one for one in errors if one.errno not in _NOT_FROM_HERE), None)
    return answered if answered is not None else could_not_check(told(errors[0]))


def _close_others(started: Iterable[asyncio.Task[socket.socket | OSError]], won: socket.socket | None) -> None:
    for task in started:
        if task.done() and not task.cancelled():
            outcome = task.result()
            if isinstance(outcome, socket.socket) and outcome is not won:
                outcome.close()


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to *addresses*, whatever the host of the URL is."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:  # noqa: ARG002
        """Return a connection to one of the addresses; *host* is not used. See `connect_any`."""
        reader, writer = await asyncio.open_connection(sock=await connect_any(self._addresses, port))
        return _Stream(reader, writer)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection; its time-outs are not used, as the whole check has one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002, ASYNC109
        return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109
        self._writer.write(buffer)
        await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.transport.abort()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109
    ) -> httpcore2.AsyncNetworkStream:
        await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._reader.at_eof()
        return self._writer.get_extra_info({"ssl_object": "ssl_object", "socket": "socket"}.get(info, info))
