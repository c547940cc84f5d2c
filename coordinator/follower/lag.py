"""
The lag: how far the read model and the feed are behind the journal, in records and in seconds.

The journal is read only when the lag is asked for; nothing is cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.clock import SystemClock
from coordinator.commands.reads import Behind, Lag
from coordinator.journal.search import time_of

if TYPE_CHECKING:
    from coordinator.commands.reads import StoreSize
    from coordinator.follower.feed import Feed
    from coordinator.journal.search import SearchableJournal
    from projections.source import Record
    from projections.store.port import Store

LOOK_AHEAD = 32
"""How many slots are read to find the oldest commit that was not processed yet; claims among them are skipped."""


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
