"""
Reads the journal from JetStream, once or for ever, and proves that nothing is missing.

A consumer is only a way to get bytes, never a memory: after a reconnect, a gap, or silence, it is replaced by a new one
behind the last record handed out. What a new consumer and the stream leader both miss is `Corrupt`; a hole must never
be skipped, and an outage must never be called damage.
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
"""A replica cut off from the others may believe for that long that it leads, and show an older journal."""
GAP_PROOFS = 2
"""So many consumers in a row must miss the same record before the leader's word on it is final."""


class JournalReader:
    """
    Read and follow one journal; see `CommitSource`. *slot* reads one record from the stream leader.

    What only an older journal would explain is believed after *doubt_s* of seeing it, and after `STALE_LEADER_S` when
    the stream says that it has replicas: followers and tools need not be told.
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
        """Ask the stream leader for first and last sequence."""
        return (await self.look())[0]

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """Give the records behind *after* up to *until*; both must be there."""
        return _Reading(self, after, until).batches()

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """Give the records behind *after*, and new ones as they come; close the iterator to end it."""
        return _Reading(self, after, None).batches()

    def record(self, message: Message, sequence: int) -> Record:
        """Make a record of a message of the journal."""
        raw = message.raw_headers
        return Record(
            sequence=sequence,
            kind="claim" if message.subject == self.subjects.epoch else "commit",
            body=message.data,
            chain=_header(raw, b"\r\nChain: "),
            message_id=_header(raw, b"\r\nNats-Msg-Id: "),
        )

    async def look(self) -> tuple[Bounds, str]:
        """Ask the stream leader for first and last sequence, and for the moment the stream was created."""
        name = self.subjects.stream_journal
        try:
            info = await stream_info(self.bus, name, timeout_s=self.limits.answer_timeout_s)
        except ApiError as error:
            if error.err_code == NO_STREAM:
                msg = f"there is no stream {name}: a coordinator creates it when it first starts"
                raise Unavailable(msg, reason=NO_JOURNAL) from error
            raise Unavailable(error.message) from error
        if info["config"]["num_replicas"] > 1:
            self.doubt_s = max(self.doubt_s, STALE_LEADER_S)
        state = info["state"]
        first, last = state["first_seq"], state["last_seq"]
        if not state["messages"]:
            first = last + 1
        elif first > 1 or state["messages"] <= last - first:
            first = await self._behind_claim(first)
        return Bounds(first, last), info["created"]

    async def _behind_claim(self, first: int) -> int:
        """Something has left the stream: pass over the claims that an archive leaves, for a while or for good."""
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
        # A journal always begins with a claim. From there to the first commit either all is there, or what is missing
        # was archived up to that commit, and the claims before it are about to leave as well.
        for sequence in range(commit - 1, first, -1):
            if await self.slot(sequence) is None:
                return commit
        return first


class _Reading:
    """One call of `read` or `follow`: how far it is, and what it has seen of the stream."""

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
        """Give what there is, consumer after consumer."""
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
                            # Nothing comes either where all that should is missing, up to the end.
                            lost = await reader.slot(self._after + 1) is None
                            if lost or consumer.has_stalled():
                                raise Interrupted("the stream holds more, and nothing came", gap=lost)
            except Interrupted as stop:
                log.info("journal_reading_restarted", after=self._after, reason=stop.reason)
                if stop.gap:
                    await self._prove_gap()
                await self._pause(stop.reason)
            except (Unavailable, ApiError) as error:
                log.warning("journal_reading_waits", after=self._after, reason=error.message)
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
        """Make sure that the stream is the one we read, and still holds what comes next; give its last sequence."""
        name = self._reader.subjects.stream_journal
        after, until = self._after, self._until
        try:
            (first, last), created = await self._reader.look()
        except Unavailable as error:
            if error.reason == NO_JOURNAL and (after or self._created):
                self._corrupt(f"stream {name} is gone; records up to {after} were read from it")
            raise
        if self._created not in (None, created):
            self._corrupt(f"stream {name} was created again at {created}; we read the one of {self._created}")
        if last < after:
            self._corrupt(f"stream {name} ends at {last}, but {after} was read: it went backwards or was recreated")
        if until is not None and last < until:
            self._corrupt(f"stream {name} ends at {last}, but {until} was there: it went backwards or was recreated")
        if first > after + 1:
            self._corrupt(f"stream {name} begins at {first}: records {after + 1} to {first - 1} are gone, or archived")
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
        """A consumer skipped the next record: ask the stream leader whether it is there."""
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
            msg = f"record {missing} is missing from {name}, which says that it holds later ones: they were lost"
            raise Corrupt(msg)

    async def _pause(self, reason: str) -> None:
        silent_s = _now() - self._progress_at
        if self._until is not None and silent_s > self._reader.limits.patience_s:
            msg = f"the journal could not be read for {silent_s:.0f} s: {reason}"
            raise Unavailable(msg)
        await asyncio.sleep(self._pause_s)
        # A connection that turned silent breaks by itself only after a minute.
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
