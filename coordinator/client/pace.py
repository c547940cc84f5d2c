"""Take things one after the other, so many in a second at most."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

T = TypeVar("T")


async def paced(things: Iterable[T], rate_per_s: float) -> AsyncIterator[T]:
    """Yield *things*, at most *rate_per_s* in a second."""
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    for thing in things:
        await asyncio.sleep(next_at - loop.time())
        next_at = max(next_at, loop.time()) + 1.0 / rate_per_s
        yield thing
