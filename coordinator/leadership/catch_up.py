"""
Folds the journal up to its end, and holds it against what was seen of it before.

Whoever is about to lead goes by this alone: a journal that ends before what was seen, or is another one, is `Corrupt`,
and nothing may be written then, not even a claim, nor a stream be made where one is missing. Only a raised generation,
which a restore and `coordinator verify --accept` write, tells that the journal is right and the memory is of a lost
one. Witnesses are the instance's own mark, its read model, and the feed; each may be missing, none may be ahead. What
is of another stream, as in a home whose namespace was changed, is no witness.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog

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
    from projections.source import Bounds
    from projections.world import World

log = structlog.get_logger(__name__)

DOUBT_PAUSE_S = 1.0
ANSWER_TIMEOUT_S = 5.0
WENT_BACK, RECREATED, GONE, BRANCHED = "went_back", "recreated", "journal_gone", "branched"
"""Reasons of `Corrupt`: it ends too soon; it was made anew; there is none; it holds something else."""

WHAT_TO_DO = (
    "Nothing was written. Look with 'coordinator verify'; then put a good copy of the store back, or restore a backup, "
    "or accept the loss with 'coordinator verify --accept'"
)


class CatchUp:
    """
    Folds *journal* for one instance, whose own mark is *high_water*; *witnesses* are what others have seen.

    A replica cut off from the others may show an older journal: damage is believed after *doubt_s* of seeing it.
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
    ) -> None:
        self._journal = journal
        self._high_water = high_water
        self._snapshots = snapshots
        self._witnesses = witnesses
        self._stream = stream
        self._doubt_s = doubt_s
        self._beside = beside
        self._created = ""

    async def begun(self) -> World:
        """
        Fold a new world up to the journal's end.

        Raises:
            Corrupt: the journal is damaged, or is not the one that was seen.
            Unavailable: it cannot be read now.
        """
        waited_s = 0.0
        while True:
            try:
                await self._look()
                world = await begun(self._journal, self._snapshots)
                for seen in self._seen():
                    await self._check(world, seen)
            except Corrupt as error:
                if error.reason not in (WENT_BACK, GONE) or waited_s >= self._doubt_s:
                    raise
                log.warning("journal_in_doubt", reason=error.message)
            else:
                self._witnesses = []  # they are of before the start: from here on our own mark is ahead of them
                self.note(world)
                return world
            await asyncio.sleep(DOUBT_PAUSE_S)
            waited_s += DOUBT_PAUSE_S

    async def to_end(self, world: World) -> None:
        """
        Fold what *world* has not folded yet.

        Raises:
            Unavailable: the journal cannot be read now; or *world* is of another one than stands there: begin again,
            which tells a journal that was restored from one that is damaged.
        """
        before = world.position
        try:
            last = (await self._look()).last
            if last < before.sequence:
                self._went_back(last, before.sequence, "this instance")
            await fold(world, self._journal, last)
        except Corrupt as error:
            msg = f"what was folded up to {before} is not in the journal any more: {error.message}"
            raise Unavailable(msg, reason=BRANCHED) from error
        if world.position != before:
            self.note(world)

    async def to_claim(self, world: World, sequence: int) -> None:
        """
        Fold up to our claim in slot *sequence*, which ends what others wrote.

        Raises:
            Corrupt: the journal is damaged, or went back while it was claimed.
        """
        if sequence <= world.position.sequence:
            self._went_back(sequence, world.position.sequence, "this instance")
        await fold(world, self._journal, sequence)
        self.note(world)

    def note(self, world: World) -> None:
        """Remember how far *world* has come; what it holds must have been acknowledged."""
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
        """Make sure that the journal is there and holds the slot that it says it ends with."""
        try:
            bounds, self._created = await self._journal.look()
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
            raise Corrupt(f"stream {self._stream} is gone. {WHAT_TO_DO}", reason=GONE) from error
        if bounds.last >= bounds.first and await self._journal.slot(bounds.last) is None:
            msg = (
                f"stream {self._stream} says that it ends at {bounds.last}, but there is nothing in that slot: its "
                f"tail was lost. {WHAT_TO_DO}"
            )
            raise Corrupt(msg, reason=WENT_BACK)
        return bounds

    def _seen(self) -> list[Seen]:
        """What is known of this stream, the mark first; what is of another one says nothing about it."""
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
                f"stream {self._stream} was created again at {self._created} and ends at {world.position.sequence}; "
                f"{seen.by} has seen {seen.sequence} records of the one made at {seen.created}. {WHAT_TO_DO}"
            )
            raise Corrupt(msg, reason=RECREATED)
        if is_short:
            self._went_back(world.position.sequence, seen.sequence, seen.by)
        msg = (
            f"record {seen.sequence} of stream {self._stream} is not the one that {seen.by} has seen: what stands up "
            f"to there hashes to {found}, and should to {seen.chain}; it is another journal, or an older copy that "
            f"went its own way. {WHAT_TO_DO}"
        )
        raise Corrupt(msg, reason=BRANCHED)

    def _went_back(self, last: int, reached: int, by: str) -> NoReturn:
        msg = (
            f"stream {self._stream} ends at {last}, but {by} has seen it reach {reached}: it went back to "
            f"an older state, or lost its tail. {WHAT_TO_DO}"
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
    replicas: int = 1,
) -> CatchUp:
    """
    Gather who has seen how much of the journal, and make sure that it was not lost altogether; *store* is a file.

    Raises:
        Corrupt: it is gone.
        Unavailable: JetStream does not answer.
    """
    stream, doubt_s = subjects.stream_journal, STALE_LEADER_S if replicas > 1 else 0.0
    at_home, beside = seen_by_store(Path(store)) if store else None, ""
    if at_home is not None and is_of_another(at_home, high_water.seen, stream):
        log.warning("read_model_ignored", store=store, stream=stream, reason="it is of another stream")
        beside, at_home = at_home.chain, None
    found = (at_home, await seen_by_feed(bus, subjects))
    witnesses = [seen for seen in found if seen is not None]
    mark = [high_water.seen] if high_water.seen is not None and high_water.seen.stream == stream else []
    await _check_there(journal, bus, subjects, snapshots, mark + witnesses, doubt_s=doubt_s)
    return CatchUp(journal, high_water, snapshots, witnesses, stream=stream, doubt_s=doubt_s, beside=beside)


async def _check_there(
    journal: NatsJournal, bus: Bus, subjects: Subjects, snapshots: Snapshots, witnesses: list[Seen], *, doubt_s: float
) -> None:
    waited_s = 0.0
    while True:
        # Asked for first: what is there now was made when there was a journal, so that there must be one from here on.
        told = [f"{one.by} has seen {one.sequence} records of it" for one in witnesses]
        told += await _remains(bus, subjects) + await _noted(snapshots)
        try:
            await journal.bounds()
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
        else:
            return
        if not told:
            return
        if waited_s >= doubt_s:
            msg = (
                f"there is no stream {subjects.stream_journal}, but {' and '.join(told)}: it was deleted, or "
                f"nats-server could not read it. {WHAT_TO_DO}; to begin with nothing, delete what is left of it too"
            )
            raise Corrupt(msg, reason=GONE)
        await asyncio.sleep(DOUBT_PAUSE_S)
        waited_s += DOUBT_PAUSE_S


async def _remains(bus: Bus, subjects: Subjects) -> list[str]:
    """Say which streams tell of a journal: one that only a coordinator makes, one in which something has been."""
    lease, feed = key_stream(subjects.bucket_lease), subjects.stream_events
    found = [] if await _last_slot(bus, lease) is None else [f"stream {lease} is still there"]
    # A follower makes the feed as soon as it runs, which on a new machine may be before the coordinator does.
    return found + ([f"stream {feed} is still there"] if await _last_slot(bus, feed) else [])


async def _noted(snapshots: Snapshots) -> list[str]:
    """Say what the note beside the snapshots tells: a restore writes it before it makes the journal's stream."""
    try:
        noted = await snapshots.archived()
    except Corrupt as error:
        return [error.message]
    if noted is None:
        return []
    told = [f"its records up to {noted.through} were archived"] if noted.through else []
    if noted.generation:
        told.append(
            f"generation {noted.generation} of it was begun (if a restore was cut off, run `backup restore` again)"
        )
    return told


async def _last_slot(bus: Bus, name: str) -> int | None:
    """Give how far a stream has come; None when there is none of that name."""
    try:
        info = await stream_info(bus, name, timeout_s=ANSWER_TIMEOUT_S)
    except ApiError as error:
        if error.err_code != NO_STREAM:
            raise Unavailable(error.message) from error
        return None
    return int(info["state"]["last_seq"])
