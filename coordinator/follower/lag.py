"""
The lag: how far the read model and the feed are behind the journal, in records and in seconds.

The journal is read only when the lag is asked for; nothing is cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.clock import SystemClock
from coordinator.journal.search import time_of

if TYPE_CHECKING:
    from coordinator.follower.feed import Feed
    from coordinator.follower.store_size import StoreSize
    from coordinator.journal.search import SearchableJournal
    from projections.source import Record
    from projections.store.port import Store

LOOK_AHEAD = 32
"""How many slots are read to find the oldest commit that was not processed yet; claims among them are skipped."""


class Behind(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many records are not processed yet, and the age in seconds of the oldest commit among them."""

    through: int
    behind: int
    behind_s: float
    state: str = ""
    reason: str = ""


class Lag(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The last slot of the journal; the lag of this follower's store and feed, and the store's size, if it has one."""

    journal: int
    store: Behind | None
    feed: Behind | None
    size: StoreSize | None = None


async def lag(journal: SearchableJournal, store: Store | None, feed: Feed | None, size: StoreSize | None = None) -> Lag:
    """
    Return how far *store* and *feed* are behind *journal*.

    Raises:
        Unavailable: the journal cannot be read now.
    """
    now = SystemClock().wall()
    stored = None if store is None else store.position().position.sequence
    fed = None if feed is None else feed.through
    last = (await journal.bounds()).last
    return Lag(
        journal=last,
        size=size,
        store=None if stored is None else await _behind(journal, stored, last, now),
        feed=None
        if feed is None or fed is None
        else msgspec.structs.replace(await _behind(journal, fed, last, now), state=feed.state, reason=feed.reason),
    )


async def _behind(journal: SearchableJournal, through: int, last: int, now: float) -> Behind:
    oldest: Record | None = None
    for sequence in range(through + 1, min(last, through + LOOK_AHEAD) + 1):
        oldest = await journal.slot(sequence)
        if oldest is None or oldest.kind == "commit":
            break
    waits = oldest is not None and oldest.kind == "commit"
    return Behind(
        through=through,
        behind=max(0, last - through),
        behind_s=max(0.0, now - time_of(oldest)) if oldest is not None and waits else 0.0,
    )
