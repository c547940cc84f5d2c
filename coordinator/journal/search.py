"""
Finds a commit in the journal by its time or generation, by binary search: it reads about thirty records.

It only reads, and relies on the order of the journal: neither commit time nor generation ever decreases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from events import codec
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.source import Bounds, Record


class SearchableJournal(Protocol):
    """A journal that can read single records."""

    async def bounds(self) -> Bounds:
        """Return the first and the last sequence."""
        ...

    async def slot(self, sequence: int) -> Record | None:
        """Read one record; None if it does not exist."""
        ...


async def first_commit(journal: SearchableJournal, is_behind: Callable[[Record], bool]) -> int:
    """
    Return the sequence from which on *is_behind* is true for every commit, and before which for none.

    If it is true for none, that is the last sequence plus one.

    Raises:
        Unavailable: the journal cannot be read, or was trimmed during the search.
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
    """Return the sequence of the first commit at *time_s* (commit time, seconds since 1970) or later."""
    return await first_commit(journal, lambda commit: time_of(commit) >= time_s)


def time_of(commit: Record) -> float:
    """
    Return a commit's time in seconds since 1970.

    Raises:
        Corrupt: the commit has no time.
    """
    parts = codec.split(commit.body)
    return codec.seconds_of(parts[0][0].time if parts else "")


def generation_of(record: Record) -> int:
    """Return the generation a record was written in, or 0 if its message id does not contain one."""
    generation = (record.message_id or "").partition(".")[0]
    return int(generation) if generation.isdecimal() else 0


async def _commit_from(journal: SearchableJournal, sequence: int, end: int) -> Record | None:
    """Read the first commit from *sequence* on, below *end*. Claims have no commit time and are few: skip them."""
    for at in range(sequence, end):
        record = await journal.slot(at)
        if record is None:
            msg = f"record {at} of the journal does not exist any more: the journal was trimmed during the search"
            raise Unavailable(msg)
        if record.kind == "commit":
            return record
    return None
