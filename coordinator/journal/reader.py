"""
Reads the journal from JetStream, up to a slot or without end, and proves that no record is missing.

A consumer only delivers bytes; it holds no state that counts. After a reconnect, a gap or a stall it is replaced by a
new one that starts after the last record returned. A record that both a new consumer and the stream leader lack is
`Corrupt`. A gap must never be skipped, and an outage must never be reported as damage.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import structlog

from coordinator.bus.jetstream import NO_MESSAGE, NO_STREAM, ApiError
from coordinator.bus.pull_consumer import Interrupted, PullLimits, open_consumer
from coordinator.bus.streams import stored_message, stream_info
from coordinator.journal.slots import NO_JOURNAL
from events.errors import Corrupt, Unavailable
from projections.source import Bounds, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
PROBE_TIMEOUT_S = 2.0
STALE_LEADER_S = 15.0
"""How long a replica cut off from the others may believe that it leads, and show an older journal."""
GAP_PROOFS = 2
"""How many consumers in a row must skip the same record before the leader's answer that it is missing counts."""


class JournalReader:
    """
    Read and follow one journal; see `CommitSource`. *slot* reads one record from the stream leader.

    A journal that looks older than before is reported as damaged only after it has looked so for *doubt_s*, or for
    `STALE_LEADER_S` if that is longer and the stream has replicas. The number of replicas is read from the stream, so
    followers and tools need no setting for it.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        limits: PullLimits,
        slot: Callable[[int], Awaitable[Record | None]],
        *,
        doubt_s: float,
    ) -> None:
        self.bus = bus
        self.subjects = subjects
        self.limits = limits
        self.slot = slot
        self.doubt_s = doubt_s

    async def bounds(self) -> Bounds:
        """Ask the stream leader for the first and the last sequence."""
        return (await self.look())[0]

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """Return the records after *after* up to *until*; both must exist."""
        return _Reading(self, after, until).batches()

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """Return the records after *after*, then new ones as they are written; close the iterator to stop."""
        return _Reading(self, after, None).batches()

    def record(self, message: Message, sequence: int) -> Record:
        """Convert a message of the journal into a record."""
        raw = message.raw_headers
        return Record(
            sequence=sequence,
            kind="claim" if message.subject == self.subjects.epoch else "commit",
            body=message.data,
            chain=_header(raw, b"\r\nChain: "),
            message_id=_header(raw, b"\r\nNats-Msg-Id: "),
        )

    async def look(self) -> tuple[Bounds, str]:
        """Ask the stream leader for the first and the last sequence, and for the time the stream was created."""
        name = self.subjects.stream_journal
        try:
            info = await stream_info(self.bus, name, timeout_s=self.limits.answer_timeout_s)
        except ApiError as error:
            if error.err_code == NO_STREAM:
                msg = f"there is no stream {name}: a coordinator creates it when it starts for the first time"
                raise Unavailable(msg, reason=NO_JOURNAL) from error
            raise Unavailable(error.message) from error
        if info["config"]["num_replicas"] > 1:
            self.doubt_s = max(self.doubt_s, STALE_LEADER_S)
        state = info["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            first = last + 1
        elif first > 1 or state["messages"] <= last - first:
            first = await self._first_after_archive(first)
        return Bounds(first, last), info["created"]

    async def _first_after_archive(self, first: int) -> int:
        """Return the first slot of a stream that was archived: claims that the archive left behind do not count."""
        which = {"seq": first, "next_by_subj": self.subjects.journal}
        try:
            found = await stored_message(
                self.bus, self.subjects.stream_journal, which, timeout_s=self.limits.answer_timeout_s
            )
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return first
            raise Unavailable(error.message) from error
        commit: int = found["seq"]
        if first > 1:
            return commit
        # A journal always begins with a claim. Between it and the first commit either every slot is there, or all up
        # to that commit was archived and the remaining claims are about to be purged too.
        for sequence in range(commit - 1, first, -1):
            if await self.slot(sequence) is None:
                return commit
        return first


class _Reading:
    """One call of `read` or `follow`: its progress, and what it has seen of the stream."""

    def __init__(self, reader: JournalReader, after: int, until: int | None) -> None:
        self._reader = reader
        self._after = after
        self._until = until
        self._created: str | None = None
        self._pause_s = FIRST_PAUSE_S
        self._doubt_since: float | None = None
        self._gap_since: float | None = None
        self._gaps = 0
        self._progress_at = _now()

    async def batches(self) -> AsyncIterator[list[Record]]:
        """Yield the records in batches; replace the consumer whenever it is interrupted."""
        reader = self._reader
        while not self._done():
            try:
                await self._check()
                name, make = reader.subjects.stream_journal, reader.record
                async with open_consumer(reader.bus, name, reader.limits, make, self._after, self._until) as consumer:
                    while not self._done():
                        batch = await consumer.take()
                        if batch:
                            self._progress(batch[-1].sequence)
                            yield batch
                        elif await self._check() > self._after:
                            # The consumer also delivers nothing when all records up to the end are missing.
                            lost = await reader.slot(self._after + 1) is None
                            if lost or consumer.has_stalled():
                                raise Interrupted("the stream has more records, but none were delivered", gap=lost)
            except Interrupted as stop:
                log.info("journal_reading_restarted", after=self._after, reason=stop.reason)
                if stop.gap:
                    await self._prove_gap()
                await self._pause(stop.reason)
            except (Unavailable, ApiError) as error:
                log.warning("journal_reading_paused", after=self._after, reason=error.message)
                await self._pause(error.message)

    def _done(self) -> bool:
        return self._until is not None and self._after >= self._until

    def _progress(self, after: int) -> None:
        self._after = after
        self._pause_s = FIRST_PAUSE_S
        self._gap_since = None
        self._gaps = 0
        self._progress_at = _now()

    async def _check(self) -> int:
        """Check that the stream is still the same and holds the next record; return its last sequence."""
        name = self._reader.subjects.stream_journal
        after, until = self._after, self._until
        try:
            (first, last), created = await self._reader.look()
        except Unavailable as error:
            if error.reason == NO_JOURNAL and (after or self._created):
                self._corrupt(f"stream {name} does not exist any more, but records up to {after} were read from it")
            raise
        if self._created not in (None, created):
            self._corrupt(
                f"stream {name} was created again at {created}, but the one created at {self._created} was being read"
            )
        if last < after:
            self._corrupt(
                f"stream {name} ends at {last}, but record {after} was already read: it went backwards or was recreated"
            )
        if until is not None and last < until:
            self._corrupt(
                f"stream {name} ends at {last}, but record {until} was there before: it went backwards or was recreated"
            )
        if first > after + 1:
            self._corrupt(
                f"stream {name} begins at {first}: records {after + 1} to {first - 1} were archived or are missing"
            )
        self._created = created
        self._doubt_since = None
        return last

    def _corrupt(self, message: str) -> NoReturn:
        if self._doubt_since is None:
            self._doubt_since = _now()
        if _now() - self._doubt_since >= self._reader.doubt_s:
            raise Corrupt(message)
        raise Interrupted(message)

    async def _prove_gap(self) -> None:
        """Ask the stream leader whether the record that a consumer skipped exists; raise Corrupt if it does not."""
        missing = self._after + 1
        try:
            if await self._reader.slot(missing) is not None:
                return
        except Unavailable:
            return
        self._gaps += 1
        if self._gap_since is None:
            self._gap_since = _now()
        if self._gaps >= GAP_PROOFS and _now() - self._gap_since >= self._reader.doubt_s:
            name = self._reader.subjects.stream_journal
            msg = f"record {missing} is missing from stream {name}, which has later ones: the record was lost"
            raise Corrupt(msg)

    async def _pause(self, reason: str) -> None:
        stalled_s = _now() - self._progress_at
        if self._until is not None and stalled_s > self._reader.limits.patience_s:
            msg = f"the journal could not be read for {stalled_s:.0f} s: {reason}"
            raise Unavailable(msg)
        await asyncio.sleep(self._pause_s)
        # Without a probe, a dead connection is noticed only after a minute.
        if not await self._reader.bus.probe(PROBE_TIMEOUT_S):
            await self._reader.bus.until_connected(LONGEST_PAUSE_S)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)


def _header(raw: bytes, name: bytes) -> str | None:
    start = raw.find(name)
    if start < 0:
        return None
    start += len(name)
    return raw[start : raw.find(b"\r\n", start)].decode("ascii", "replace")


def _now() -> float:
    return asyncio.get_running_loop().time()
