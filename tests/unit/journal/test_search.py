"""Searching the journal by time or generation, wherever the claims are, and when nothing is found."""

from __future__ import annotations

import pytest

from coordinator.journal.search import first_commit, first_since, generation_of, time_of
from events import codec
from events.errors import Corrupt, Unavailable
from projections.source import Bounds, Record


class Slots:
    """Records from *first* on: a time makes a commit, None a claim."""

    def __init__(self, *times: float | None, first: int = 1, trimmed: int = 0) -> None:
        self.reads = 0
        self._first = first
        self._trimmed = trimmed
        self._records = [
            Record(sequence=at, kind="claim", body=b"{}", message_id=None)
            if time is None
            else Record(
                sequence=at,
                kind="commit",
                body=b'[{"type":"task.failed","time":"%b"}]' % codec.rfc3339(time).encode(),
                message_id=f"{int(time)}.1.{at}",
            )
            for at, time in enumerate(times, first)
        ]

    async def bounds(self) -> Bounds:
        return Bounds(self._first, self._first + len(self._records) - 1)

    async def slot(self, sequence: int) -> Record | None:
        self.reads += 1
        return self._records[sequence - self._first] if sequence > self._trimmed else None


@pytest.mark.parametrize("first", [1, 1000])
@pytest.mark.parametrize("at", range(12))
async def test_the_first_commit_of_a_time_is_found(at: int, first: int) -> None:
    """For any time, no commit from the result on is earlier, and every commit before it is."""
    times = [None, 1.0, 2.0, None, None, 3.0, 5.0, 5.0, None, 8.0, None]
    journal = Slots(*times, first=first)
    found = await first_since(journal, float(at)) - first
    assert all(time is None or time < at for time in times[:found])
    assert all(time is None or time >= at for time in times[found:])


async def test_few_records_are_read() -> None:
    """A search among a million commits reads about twenty."""
    journal = Slots(*map(float, range(10_000)))
    assert await first_since(journal, 7654.5) == 7656
    assert journal.reads <= 15


async def test_an_empty_journal_has_its_place_behind_its_end() -> None:
    """An empty journal has nothing to read."""
    assert await first_since(Slots(first=7), 1.0) == 7


async def test_generations_are_read_from_message_ids() -> None:
    """The generation is read from the record's message id; without an id it is 0."""
    journal = Slots(None, 1.0, 1.0, None, 2.0, 2.0)
    assert await first_commit(journal, lambda commit: generation_of(commit) > 1) in (4, 5)
    assert generation_of(Record(sequence=1, kind="commit", body=b"")) == 0


async def test_what_is_trimmed_meanwhile_is_unavailable() -> None:
    """A journal that is trimmed during the search is reported as unavailable."""
    with pytest.raises(Unavailable, match="record 2 of the journal does not exist any more"):
        await first_since(Slots(1.0, 2.0, trimmed=5), 1.0)


@pytest.mark.parametrize("body", [b"[]", b'[{"type":"x"}]', b"{"])
def test_a_commit_without_a_time_is_corrupt(body: bytes) -> None:
    """Every commit must have a time."""
    with pytest.raises(Corrupt):
        time_of(Record(sequence=1, kind="commit", body=body))
