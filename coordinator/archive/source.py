"""
The whole journal, archive and stream together: records purged from the stream are read from the archive's files.

It only reads. Whenever one of the two ends, it checks again which one has the next record, since the archive may grow
while it reads.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from coordinator.archive.manifest import read_contents
from coordinator.archive.segments import read_records
from events.errors import Corrupt
from projections.source import Bounds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from projections.source import CommitSource, Record


class ArchiveSource:
    """A `CommitSource` over the archive in *folder* and the *journal* that continues it."""

    def __init__(self, folder: Path, journal: CommitSource) -> None:
        self._folder = folder
        self._journal = journal

    async def bounds(self) -> Bounds:
        """See `CommitSource.bounds`."""
        first, last = await self._journal.bounds()
        if first > 1:
            contents = await asyncio.to_thread(read_contents, self._folder, "archive")
            if contents is not None and contents.last >= first - 1:
                return Bounds(contents.first, last)
        return Bounds(first, last)

    async def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.read`."""
        async for records in self._archived(after, until):
            after = records[-1].sequence
            yield records
        if after < until:
            async for records in self._journal.read(after, until):
                yield records

    async def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.follow`."""
        while True:
            async for records in self._archived(after):
                after = records[-1].sequence
                yield records
            following = cast("AsyncGenerator[list[Record]]", self._journal.follow(after))
            try:
                async with aclosing(following) as batches:
                    async for records in batches:
                        after = records[-1].sequence
                        yield records
            except Corrupt:
                if (await self._journal.bounds()).first <= after + 1:
                    raise
                # The next record may have been archived while we followed; if not, `_archived` raises Corrupt.

    async def _archived(self, after: int, until: int | None = None) -> AsyncIterator[list[Record]]:
        """Yield the records after *after* that were purged from the stream."""
        through = (await self._journal.bounds()).first - 1
        if after >= through:
            return
        contents = await asyncio.to_thread(read_contents, self._folder, "archive")
        if contents is None or contents.first > after + 1 or contents.last < through:
            has = "nothing" if contents is None else f"records {contents.first} to {contents.last}"
            msg = (
                f"records {after + 1} to {through} are not in the journal any more, and the archive {self._folder} has "
                f"{has}: name the archive that has them"
            )
            raise Corrupt(msg)
        end = through if until is None else min(through, until)
        reading = read_records(self._folder, contents, after)
        while batch := await asyncio.to_thread(next, reading, None):
            wanted = [record for record in batch if record.sequence <= end]
            if wanted:
                yield wanted
            if batch[-1].sequence >= end:
                return
