"""
Folds the journal up to its end, and compares it with what was seen of it before.

An instance runs this check before it leads. A journal that is shorter than a high-water mark, or is another journal, is
`Corrupt`: then nothing may be written, not even a claim, and no missing stream may be created. Only a higher
generation, which a restore and `coordinator verify --accept` write, means that the journal is right and the mark is of
a lost one. The witnesses are the instance's own mark, its read model, and the feed; any of them may be missing, none
may be ahead of the journal. A mark of another stream, as in a home whose namespace was changed, does not count.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

from coordinator.archive.source import ArchiveSource
from coordinator.bus.jetstream import NO_STREAM, ApiError, key_stream
from coordinator.bus.streams import stream_info
from coordinator.journal.reader import STALE_LEADER_S
from coordinator.journal.replay import begun, fold
from coordinator.journal.slots import NO_JOURNAL
from coordinator.journal.witnesses import Seen, chain_at, is_of_another, seen_by_feed, seen_by_store
from events.errors import Corrupt, Unavailable

if TYPE_CHECKING:
    from coordinator.bus.connection import Bus
    from coordinator.journal.high_water import HighWater
    from coordinator.journal.snapshots import Snapshots
    from coordinator.journal.stream import NatsJournal
    from events.subjects import Subjects
    from projections.source import Bounds, CommitSource
    from projections.world import World

log = structlog.get_logger(__name__)

DOUBT_PAUSE_S = 1.0
ANSWER_TIMEOUT_S = 5.0
WENT_BACK, RECREATED, GONE, BRANCHED = "went_back", "recreated", "journal_gone", "branched"
"""Reasons of `Corrupt`: the journal is too short; was created again; does not exist; has other records."""

WHAT_TO_DO = (
    "Nothing was written. Check the journal with 'coordinator verify'; then put back a good copy of the store, restore "
    "a backup, or accept the loss with 'coordinator verify --accept'"
)


class CatchUp:
    """
    Folds *journal* for one instance, whose own mark is *high_water*; *witnesses* are the marks of others.

    A replica cut off from the others may show an older journal: damage is reported only after it has lasted *doubt_s*.
    """

    def __init__(
        self,
        journal: NatsJournal,
        high_water: HighWater,
        snapshots: Snapshots,
        witnesses: list[Seen],
        *,
        stream: str,
        doubt_s: float,
        beside: str = "",
        archived: CommitSource | None = None,
    ) -> None:
        self._journal = journal
        self._high_water = high_water
        self._snapshots = snapshots
        self._witnesses = witnesses
        self._stream = stream
        self._doubt_s = doubt_s
        self._beside = beside
        self._archived = archived
        self._created = ""

    async def begun(self) -> World:
        """
        Fold a new world up to the journal's end.

        Raises:
            Corrupt: the journal is damaged, shorter than a mark, or not the one that was seen before.
            Unavailable: it cannot be read now.
        """
        waited_s = 0.0
        while True:
            try:
                await self._look()
                world = await begun(self._journal, self._snapshots, self._archived)
                for seen in self._seen():
                    await self._check(world, seen)
            except Corrupt as error:
                if error.reason not in (WENT_BACK, GONE) or waited_s >= self._doubt_s:
                    raise
                log.warning("journal_in_doubt", reason=error.message)
            else:
                self._witnesses = []  # they date from before the start: from here on our own mark is ahead of them
                self.note(world)
                return world
            await asyncio.sleep(DOUBT_PAUSE_S)
            waited_s += DOUBT_PAUSE_S

    async def to_end(self, world: World) -> None:
        """
        Fold what *world* has not folded yet.

        Raises:
            Unavailable: the journal cannot be read now, or *world* was folded from another journal: begin again with
            `begun`, which distinguishes a restored journal from a damaged one.
        """
        before = world.position
        try:
            last = (await self._look()).last
            if last < before.sequence:
                self._went_back(last, before.sequence, "this instance")
            await fold(world, self._journal, last)
        except Corrupt as error:
            msg = f"the records folded up to {before} are not in the journal any more: {error.message}"
            raise Unavailable(msg, reason=BRANCHED) from error
        if world.position != before:
            self.note(world)

    async def to_claim(self, world: World, sequence: int) -> None:
        """
        Fold up to our claim in slot *sequence*, after which no other writer can append.

        Raises:
            Corrupt: the journal is damaged, or lost records while it was claimed.
        """
        if sequence <= world.position.sequence:
            self._went_back(sequence, world.position.sequence, "this instance")
        await fold(world, self._journal, sequence)
        self.note(world)

    def note(self, world: World) -> None:
        """Set the high-water mark to the position of *world*; the journal must have acknowledged all of it."""
        self._high_water.note(
            Seen(
                sequence=world.position.sequence,
                generation=world.generation,
                chain=world.chain.hex(),
                created=self._created,
                stream=self._stream,
                by="this coordinator's mark",
                beside=self._beside,
            )
        )

    async def _look(self) -> Bounds:
        """Check that the journal exists and that its last slot can be read."""
        try:
            bounds, self._created = await self._journal.look()
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
            raise Corrupt(f"stream {self._stream} does not exist any more. {WHAT_TO_DO}", reason=GONE) from error
        if bounds.last >= bounds.first and await self._journal.slot(bounds.last) is None:
            msg = (
                f"stream {self._stream} reports {bounds.last} as its last slot, but that slot is empty: the tail of "
                f"the journal was lost. {WHAT_TO_DO}"
            )
            raise Corrupt(msg, reason=WENT_BACK)
        return bounds

    def _seen(self) -> list[Seen]:
        """Return the marks of this stream, our own first; marks of another stream are ignored."""
        every = [self._high_water.seen, *self._witnesses]
        return [seen for seen in every if seen is not None and seen.stream in ("", self._stream)]

    async def _check(self, world: World, seen: Seen) -> None:
        is_short = world.position.sequence < seen.sequence
        found = "" if is_short else await chain_at(self._journal, world, seen.sequence)
        if not is_short and (not seen.chain or not found or found == seen.chain):
            return
        if world.generation > seen.generation:
            log.warning("mark_superseded", by=seen.by, sequence=seen.sequence, generation=world.generation)
            return
        if seen.created and seen.created != self._created:
            msg = (
                f"stream {self._stream} was created again at {self._created} and ends at {world.position.sequence}, "
                f"but {seen.by} has seen {seen.sequence} records of the stream created at {seen.created}: the old "
                f"stream was deleted. {WHAT_TO_DO}"
            )
            raise Corrupt(msg, reason=RECREATED)
        if is_short:
            self._went_back(world.position.sequence, seen.sequence, seen.by)
        msg = (
            f"record {seen.sequence} of stream {self._stream} is not the one that {seen.by} has seen: the records up "
            f"to there hash to {found}, but {seen.chain} is expected. This is another journal, or an older copy that "
            f"another coordinator has written to since. {WHAT_TO_DO}"
        )
        raise Corrupt(msg, reason=BRANCHED)

    def _went_back(self, last: int, reached: int, by: str) -> NoReturn:
        msg = (
            f"stream {self._stream} ends at {last}, but {by} has seen record {reached}: the stream went back to an "
            f"older state, or lost its tail. {WHAT_TO_DO}"
        )
        raise Corrupt(msg, reason=WENT_BACK)


async def remembering(
    journal: NatsJournal,
    bus: Bus,
    subjects: Subjects,
    high_water: HighWater,
    snapshots: Snapshots,
    *,
    store: str = "",
    archive: str = "",
    replicas: int = 1,
) -> CatchUp:
    """
    Collect the witnesses of the journal, and check that the journal was not lost.

    *store* is the read model's file, *archive* the directory of the archive.

    Raises:
        Corrupt: the journal's stream does not exist any more.
        Unavailable: JetStream does not answer.
    """
    stream, doubt_s = subjects.stream_journal, STALE_LEADER_S if replicas > 1 else 0.0
    from_store, beside = seen_by_store(Path(store)) if store else None, ""
    if from_store is not None and is_of_another(from_store, high_water.seen, stream):
        log.warning("read_model_ignored", store=store, stream=stream, reason="it belongs to another stream")
        beside, from_store = from_store.chain, None
    found = (from_store, await seen_by_feed(bus, subjects))
    witnesses = [seen for seen in found if seen is not None]
    mark = [high_water.seen] if high_water.seen is not None and high_water.seen.stream == stream else []
    await _check_there(journal, bus, subjects, snapshots, mark + witnesses, doubt_s=doubt_s)
    archived = ArchiveSource(Path(archive), journal) if archive else None
    return CatchUp(
        journal, high_water, snapshots, witnesses, stream=stream, doubt_s=doubt_s, beside=beside, archived=archived
    )


async def _check_there(
    journal: NatsJournal, bus: Bus, subjects: Subjects, snapshots: Snapshots, witnesses: list[Seen], *, doubt_s: float
) -> None:
    waited_s = 0.0
    while True:
        # Collected before the journal is asked for: these traces were left when a journal existed, so it must exist.
        traces = [f"{one.by} has seen {one.sequence} records of it" for one in witnesses]
        traces += await _streams_left(bus, subjects) + await _archive_traces(snapshots)
        try:
            await journal.bounds()
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
        else:
            return
        if not traces:
            return
        if waited_s >= doubt_s:
            msg = (
                f"there is no stream {subjects.stream_journal}, but {' and '.join(traces)}: the stream was deleted, or "
                f"nats-server could not read it. {WHAT_TO_DO}; to start with an empty journal, delete these traces too"
            )
            raise Corrupt(msg, reason=GONE)
        await asyncio.sleep(DOUBT_PAUSE_S)
        waited_s += DOUBT_PAUSE_S


async def _streams_left(bus: Bus, subjects: Subjects) -> list[str]:
    """Return the streams that show that there was a journal: the lease's, and the feed if it ever had a message."""
    lease, feed = key_stream(subjects.bucket_lease), subjects.stream_events
    found = [] if await _last_slot(bus, lease) is None else [f"stream {lease} is still there"]
    # On a new machine a follower may create an empty feed before the coordinator creates the journal.
    return found + ([f"stream {feed} is still there"] if await _last_slot(bus, feed) else [])


async def _archive_traces(snapshots: Snapshots) -> list[str]:
    """Return what the archive note shows of a journal; a restore writes it before it creates the journal's stream."""
    try:
        noted = await snapshots.archived()
    except Corrupt as error:
        return [error.message]
    if noted is None:
        return []
    traces = [f"its records up to {noted.through} were archived"] if noted.through else []
    if noted.generation:
        traces.append(
            f"generation {noted.generation} of it was begun (if a restore was cut off, run `backup restore` again)"
        )
    return traces


async def _last_slot(bus: Bus, name: str) -> int | None:
    """Return the last sequence of a stream; None if it does not exist."""
    try:
        info = await stream_info(bus, name, timeout_s=ANSWER_TIMEOUT_S)
    except ApiError as error:
        if error.err_code != NO_STREAM:
            raise Unavailable(error.message) from error
        return None
    return int(info["state"]["last_seq"])
