"""A limit on what runs at the same time: those who wait are served in turn, source by source."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class FairRoom:
    """
    Places for work under way.

    Args:
        places: how many there are.
        of_one: how many of them one source may have; all by default.
    """

    def __init__(self, places: int, *, of_one: int | None = None) -> None:
        self._free = places
        self._of_one = places if of_one is None else of_one
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """Those who wait, of each source; the source that is served next comes first."""

    @asynccontextmanager
    async def place(self, source: str) -> AsyncIterator[None]:
        """Have a place of *source* while the block runs."""
        await self.enter(source)
        try:
            yield
        finally:
            self.leave(source)

    async def enter(self, source: str) -> None:
        """Wait for a place; `leave` gives it back."""
        if self._free and self._taken[source] < self._of_one and source not in self._waiting:
            self._take(source)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._withdraw(source, waiter)
            else:  # it got the place in the moment that it was cancelled
                self.leave(source)
            raise

    def leave(self, source: str) -> None:
        """Give a place back, to the next source that waits and may have one more."""
        self._free += 1
        self._taken[source] -= 1
        if not self._taken[source]:
            del self._taken[source]
        while self._free and (following := self._next()) is not None:
            queue = self._waiting.pop(following)
            waiter = queue.popleft()
            if queue:
                self._waiting[following] = queue
            if not waiter.done():
                self._take(following)
                waiter.set_result(None)

    def _next(self) -> str | None:
        return next((one for one in self._waiting if self._taken[one] < self._of_one), None)

    def _take(self, source: str) -> None:
        self._free -= 1
        self._taken[source] += 1

    def _withdraw(self, source: str, waiter: asyncio.Future[None]) -> None:
        queue = self._waiting.get(source)
        if queue is None:
            return
        with suppress(ValueError):
            queue.remove(waiter)
        if not queue:
            del self._waiting[source]
