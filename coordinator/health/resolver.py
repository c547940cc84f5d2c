"""
Resolve host names with the operating system's resolver, in threads of their own.

A resolver may take half a minute for one name, and nothing can interrupt it. So no lookup runs in the event loop's own
executor; each source has a limited number of threads: some for the names that were resolved in time the last time, some
for those that were not, some for those that are new. A lookup that takes longer than its caller waits gives its place
to the next one and goes on; the next caller for that name waits for the same lookup. The threads are daemon threads:
none keeps a process alive.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from coordinator.health.fair_room import FairRoom
from coordinator.health.outcome import could_not_check, told
from events.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Lookup = Callable[[str], Sequence[str]]

LOOKUPS_MOST = 128
LOOKUPS_OF_ONE = 8
SLOW_LOOKUPS_MOST = 32
SLOW_LOOKUPS_OF_ONE = 4
OVERDUE_MOST = 512
OVERDUE_OF_ONE = 128
"""Lookups that nobody waits for any more, beyond which a slow one keeps its place."""
NAMES_KEPT = 20_000


@dataclass
class _UnderWay:
    """One lookup; `room` is where it has its place, None once it is overdue."""

    source: str
    host: str
    found: asyncio.Future[Sequence[str]]
    room: FairRoom | None


def look_up_by_system(host: str) -> list[str]:
    """
    Return the addresses of *host* from the operating system's resolver; it blocks.

    Raises:
        OSError: the host cannot be resolved.
        UnicodeError: the host cannot be a name.
    """
    try:
        return _addresses_of(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    except socket.gaierror:
        # The C library reports a name as unknown when it has no descriptor to look it up with: this raises then.
        socket.socket().close()
        raise


class Resolver:
    """
    Resolves names, for one event loop.

    Args:
        look_up: returns the addresses of a name, in a thread; by default the operating system's resolver.
    """

    def __init__(self, look_up: Lookup = look_up_by_system) -> None:
        self._look_up = look_up
        self._new = FairRoom(LOOKUPS_MOST, of_one=LOOKUPS_OF_ONE)
        self._rooms = {
            True: FairRoom(LOOKUPS_MOST, of_one=LOOKUPS_OF_ONE),
            False: FairRoom(SLOW_LOOKUPS_MOST, of_one=SLOW_LOOKUPS_OF_ONE),
        }
        self._was_in_time: dict[str, bool] = {}
        self._overdue: Counter[str] = Counter()
        self._under_way: dict[tuple[str, str], _UnderWay] = {}

    async def resolve(self, host: str, source: str) -> Sequence[str]:
        """
        Return the addresses of *host*, for the services of *source*; a numeric host needs no lookup.

        Raises:
            OSError: the host cannot be resolved.
            UnicodeError: the host cannot be a name.
            Unavailable: this process cannot start a thread.
        """
        # Numeric forms that the system accepts (`2130706433`, `0x7f.1`) become the address they stand for.
        with suppress(socket.gaierror):
            return _addresses_of(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        lookup = self._under_way.get((source, host))
        if lookup is None:
            lookup = await self._begin(host, source)
        try:
            found = await asyncio.shield(lookup.found)
        except asyncio.CancelledError:
            self._remember(host, in_time=False)
            self._overtake(lookup)
            raise
        self._remember(host, in_time=True)
        return found

    async def _begin(self, host: str, source: str) -> _UnderWay:
        in_time = self._was_in_time.get(host)
        room = self._new if in_time is None else self._rooms[in_time]
        await room.enter(source)
        if (source, host) in self._under_way:  # another one for the same name got its place first
            room.leave(source)
            return self._under_way[source, host]
        loop = asyncio.get_running_loop()
        lookup = _UnderWay(source, host, loop.create_future(), room)
        try:
            threading.Thread(target=self._run, args=(host, loop, lookup.found), name="resolver", daemon=True).start()
        except RuntimeError as error:  # no further thread can be started
            room.leave(source)
            raise could_not_check(f"{shown(host)} is not resolved: {told(error)}") from error
        self._under_way[source, host] = lookup
        lookup.found.add_done_callback(lambda _: self._ended(lookup))
        return lookup

    def _run(self, host: str, loop: asyncio.AbstractEventLoop, found: asyncio.Future[Sequence[str]]) -> None:
        try:
            settle = partial(_settle, found, self._look_up(host), None)
        except Exception as error:  # noqa: BLE001  # raised again by whoever waits
            settle = partial(_settle, found, (), error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle)

    def _remember(self, host: str, *, in_time: bool) -> None:
        self._was_in_time[host] = in_time
        if len(self._was_in_time) > NAMES_KEPT:
            del self._was_in_time[next(iter(self._was_in_time))]

    def _overtake(self, lookup: _UnderWay) -> None:
        """Give the place of a lookup that takes too long to the next one, unless there are too many of these."""
        is_full = self._overdue[lookup.source] >= OVERDUE_OF_ONE or self._overdue.total() >= OVERDUE_MOST
        if lookup.room is not None and not lookup.found.done() and not is_full:
            self._overdue[lookup.source] += 1
            lookup.room.leave(lookup.source)
            lookup.room = None

    def _ended(self, lookup: _UnderWay) -> None:
        del self._under_way[lookup.source, lookup.host]
        if lookup.room is not None:
            lookup.room.leave(lookup.source)
        else:
            self._overdue -= Counter({lookup.source: 1})
        if not lookup.found.cancelled():
            lookup.found.exception()  # one that nobody waits for is not a defect


def _settle(found: asyncio.Future[Sequence[str]], addresses: Sequence[str], error: Exception | None) -> None:
    if found.done():
        return
    if error is None:
        found.set_result(addresses)
    else:
        found.set_exception(error)


def _addresses_of(found: Sequence[tuple[object, object, object, object, tuple[object, ...]]]) -> list[str]:
    return list(dict.fromkeys(str(info[4][0]) for info in found))
