"""
A journal in memory that follows the same rules as the real one, for tests and the seeded simulation.

`MemoryStream` is the server: it checks expectations, remembers message ids, and outlives its clients. `MemoryJournal`
is one process's connection to it, over a network that loses, delays and refuses as `Faults` decides. It uses only
`asyncio.sleep` and the loop's clock, no threads, and no randomness that is not injected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol

from coordinator.ids import Ids
from coordinator.journal.slots import Draft, Epoch, Outcome, SlotWriter, Stored, Undecided, WrongLast
from events.errors import Corrupt, Unavailable
from projections.source import Bounds, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DUPLICATE_WINDOW_S = 120.0
RESTART_PAUSE_S = 0.1
BATCH = 1000

Point = Literal["publish", "stored", "read", "deliver"]
"""
Where a fault may strike: *publish*, the draft on its way to the server; *stored*, the acknowledgement on its way back;
*read*, a request for a slot, a claim or the bounds; *deliver*, a batch on its way to a reader.
"""


class Lost(Exception):
    """Raised by faults: the message is lost. At *publish* it may still arrive, after *arrives_after_s*."""

    def __init__(self, reason: str = "no answer", *, arrives_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.arrives_after_s = arrives_after_s


class Faults(Protocol):
    """Consulted at each point: return at once, sleep first, or raise `Lost`."""

    async def at(self, point: Point) -> None:
        """Let a message pass *point*."""
        ...


class NoFaults:
    """A network that works."""

    async def at(self, point: Point) -> None:
        """Let it pass one iteration of the loop later, so that callers interleave as they would over a network."""
        del point
        await asyncio.sleep(0)


class MemoryStream:
    """
    What the server stores and checks.

    With *replicated* the checks run in the order of a stream with replicas: the message id before the expectations.
    Repeating a stored draft is then a duplicate; on a single server it is a wrong expectation.
    """

    def __init__(self, *, replicated: bool = False) -> None:
        self.replicated = replicated
        self._first = 1
        self._records: list[Record] = []
        self._last_claim: Record | None = None
        self._seen: dict[str, tuple[int, float]] = {}
        self._changed = asyncio.Event()

    @property
    def bounds(self) -> Bounds:
        """The first and the last slot."""
        return Bounds(self._first, self._first + len(self._records) - 1)

    @property
    def last_claim(self) -> Record | None:
        """The last claim that was not purged."""
        return self._last_claim

    def store(self, draft: Draft) -> Stored | WrongLast:
        """Check *draft* and store it, as the server does."""
        known = self._known(draft.message_id)
        if self.replicated and known is not None:
            return known
        last = self.bounds.last
        claimed = 0 if self._last_claim is None else self._last_claim.sequence
        if claimed != draft.last_claim or draft.last not in (None, last):
            return WrongLast()
        if known is not None:
            return known
        record = Record(
            sequence=last + 1, kind=draft.kind, body=draft.body, chain=draft.chain, message_id=draft.message_id
        )
        self._records.append(record)
        if draft.kind == "claim":
            self._last_claim = record
        self._seen[draft.message_id] = (record.sequence, asyncio.get_running_loop().time())
        self._wake()
        return Stored(record.sequence)

    def get(self, sequence: int) -> Record | None:
        """Read one slot."""
        index = sequence - self._first
        return self._records[index] if 0 <= index < len(self._records) else None

    def after(self, sequence: int, until: int | None = None) -> list[Record]:
        """
        Read up to 1,000 records after *sequence*.

        Raises:
            Corrupt: the journal ends before *sequence* or *until*, or begins after the next one.
        """
        first, last = self.bounds
        if last < sequence or (until is not None and last < until):
            msg = (
                f"the journal ends at {last}, but record {max(sequence, until or 0)} was there before: it went "
                "backwards (an older copy, or its tail was lost)"
            )
            raise Corrupt(msg)
        if first > sequence + 1:
            msg = f"records {sequence + 1} to {first - 1} are missing: the journal begins at {first}"
            raise Corrupt(msg)
        start = sequence + 1 - first
        stop = start + BATCH if until is None else min(start + BATCH, until + 1 - first)
        return self._records[start:stop]

    def purge(self, before: int) -> None:
        """Remove all slots below *before*, as the archive does."""
        count = min(before - self._first, len(self._records))
        del self._records[:count]
        self._first += count
        if self._last_claim is not None and self._last_claim.sequence < self._first:
            self._last_claim = None
        self._wake()

    def truncate(self, last: int) -> None:
        """Lose all slots above *last*, as with a broken disk or a wrong restore."""
        del self._records[last + 1 - self._first :]
        claims = [record for record in self._records if record.kind == "claim"]
        self._last_claim = claims[-1] if claims else None
        self._seen = {name: entry for name, entry in self._seen.items() if entry[0] <= last}
        self._wake()

    async def change(self) -> None:
        """Wait until something was stored or removed."""
        await self._changed.wait()

    def _known(self, message_id: str) -> Stored | None:
        oldest = asyncio.get_running_loop().time() - DUPLICATE_WINDOW_S
        for name, (_, at) in list(self._seen.items()):
            if at >= oldest:
                break
            del self._seen[name]
        known = self._seen.get(message_id)
        return None if known is None else Stored(known[0], duplicate=True)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryJournal:
    """One process's connection to a stream; processes that share the stream see each other's writes."""

    def __init__(
        self,
        stream: MemoryStream | None = None,
        *,
        faults: Faults | None = None,
        ids: Ids | None = None,
    ) -> None:
        self.stream = stream if stream is not None else MemoryStream()
        self.faults: Faults = faults if faults is not None else NoFaults()
        self._writer = SlotWriter(self, ids=ids)

    async def claim(self, body: bytes) -> int:
        """See `Journal.claim`."""
        return await self._writer.claim(body)

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        """See `Journal.commit`."""
        await self._writer.commit(sequence, epoch, chain_before, body)

    async def bounds(self) -> Bounds:
        """See `CommitSource.bounds`."""
        await self._pass("read")
        return self.stream.bounds

    async def slot(self, sequence: int) -> Record | None:
        """Read one slot."""
        await self._pass("read")
        return self.stream.get(sequence)

    async def last_claim(self) -> Record | None:
        """Read the last claim."""
        await self._pass("read")
        return self.stream.last_claim

    async def publish_once(self, draft: Draft) -> Outcome:
        """Send *draft* over a network that may lose it or its acknowledgement."""
        try:
            await self.faults.at("publish")
        except Lost as lost:
            if lost.arrives_after_s is not None:
                asyncio.get_running_loop().call_later(lost.arrives_after_s, self.stream.store, draft)
            return Undecided(lost.reason)
        outcome = self.stream.store(draft)
        try:
            await self.faults.at("stored")
        except Lost as lost:
            return Undecided(lost.reason)
        return outcome

    async def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.read`."""
        while after < until:
            await self._pass("deliver")
            batch = self.stream.after(after, until)
            yield batch
            after = batch[-1].sequence

    async def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.follow`."""
        while True:
            batch = self.stream.after(after)
            if not batch:
                await self.stream.change()
                continue
            try:
                await self.faults.at("deliver")
            except Lost:
                await asyncio.sleep(RESTART_PAUSE_S)  # the real journal restarts after the last good record
                continue
            yield batch
            after = batch[-1].sequence

    async def _pass(self, point: Point) -> None:
        try:
            await self.faults.at(point)
        except Lost as lost:
            raise Unavailable(lost.reason) from None
