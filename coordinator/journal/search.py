"""
Finds a place in the journal by what stands there, reading some thirty records of it.

It only reads, and relies on an order that the journal has: neither commit time nor generation ever runs back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from events import codec
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.source import Bounds, Record


class SearchableJournal(Protocol):
    """A journal of which single records can be read."""

    async def bounds(self) -> Bounds:
        """Say which sequences there are."""
        ...

    async def slot(self, sequence: int) -> Record | None:
        """Read one record; None when it is not there."""
        ...


async def first_commit(journal: SearchableJournal, is_behind: Callable[[Record], bool]) -> int:
    """
    Give a sequence: every commit from it on *is_behind*, and none before it; one behind the end when none is.

    Raises:
        Unavailable: the journal cannot be read, or was trimmed meanwhile.
        Corrupt: a commit is unreadable.
    """
    first, last = await journal.bounds()
    low, high = first, last + 1
    while low < high:
        middle = (low + high) // 2
        commit = await _commit_from(journal, middle, high)
        if commit is None or is_behind(commit):
            high = middle
        else:
            low = commit.sequence + 1
    return low


async def first_since(journal: SearchableJournal, time_s: float) -> int:
    """Give the sequence of the first commit at *time_s* (seconds since 1970, commit time) or later."""
    return await first_commit(journal, lambda commit: time_of(commit) >= time_s)


def time_of(commit: Record) -> float:
    """
    Give a commit's time in seconds since 1970.

    Raises:
        Corrupt: it has none.
    """
    parts = codec.split(commit.body)
    return codec.seconds_of(parts[0][0].time if parts else "")


def generation_of(record: Record) -> int:
    """Give the generation a record was written in; 0 when it does not say."""
    generation = (record.message_id or "").partition(".")[0]
    return int(generation) if generation.isdecimal() else 0


async def _commit_from(journal: SearchableJournal, sequence: int, end: int) -> Record | None:
    """Read the first commit from *sequence* on, below *end*: claims tell neither commit time nor are they many."""
    for at in range(sequence, end):
        record = await journal.slot(at)
        if record is None:
            msg = f"record {at} of the journal is not there any more: it was trimmed meanwhile"
            raise Unavailable(msg)
        if record.kind == "commit":
            return record
    return None
