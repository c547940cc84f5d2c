"""
Whether a slot is ours, when the network decides nothing.

Tests the table in `coordinator.journal.slots` row by row, and at random with a virtual clock.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from coordinator.errors import Corrupt, Unavailable
from coordinator.journal.memory import Lost, MemoryJournal, MemoryStream, Point
from coordinator.journal.slots import (
    NO_JOURNAL,
    Deposed,
    Draft,
    Epoch,
    Outcome,
    SlotWriter,
    Stored,
    Undecided,
    WrongLast,
)
from projections.source import GENESIS, Bounds, Record
from tests.virtual_time import run_virtual

EPOCH = Epoch(1, 3)
OURS = Record(sequence=7, kind="commit", body=b"x", chain=GENESIS.hex(), message_id="1.3.7")
THEIRS = Record(sequence=7, kind="commit", body=b"x", chain=GENESIS.hex(), message_id="1.5.7")
CLAIM = Record(sequence=3, kind="claim", body=b"", message_id="claim_a.0")
LATER_CLAIM = Record(sequence=5, kind="claim", body=b"", message_id="claim_b.3")


class Script:
    """Slots that return the answers of a script, in turn; the last answer of a kind is repeated."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.sent: list[Draft] = []

    def _next(self, what: str) -> Any:
        answers = self.answers[what]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def publish_once(self, draft: Draft) -> Outcome:
        self.sent.append(draft)
        outcome: Outcome = self._next("publish")
        return outcome

    async def slot(self, sequence: int) -> Record | None:
        assert sequence == 7
        record: Record | None = self._next("slot")
        return record

    async def last_claim(self) -> Record | None:
        record: Record | None = self._next("claim")
        return record

    async def bounds(self) -> Bounds:
        bounds: Bounds = self._next("bounds")
        return bounds


async def _commit(script: Script, *, doubt_s: float = 0.0) -> None:
    await SlotWriter(script, doubt_s=doubt_s).commit(7, EPOCH, GENESIS, b"x")


async def test_the_draft_names_its_slot_its_epoch_and_what_stands_before() -> None:
    """A commit expects the slot before it as the last, and its own claim as the last claim."""
    script = Script(publish=[Stored(7)])
    await _commit(script)
    assert script.sent == [
        Draft(kind="commit", message_id="1.3.7", body=b"x", last_claim=3, last=6, chain=GENESIS.hex())
    ]


async def test_no_answer_means_the_same_bytes_again() -> None:
    """What is undecided is sent again unchanged until it is decided."""
    script = Script(publish=[Undecided("time-out"), Undecided("503"), Undecided("10164"), Stored(7)])
    await _commit(script)
    assert len(script.sent) == 4
    assert all(draft == script.sent[0] for draft in script.sent)


async def test_a_duplicate_in_its_slot_is_ours() -> None:
    """A stream with replicas answers `duplicate` for a draft that it has stored before: done, if it is our record."""
    await _commit(Script(publish=[Undecided("time-out"), Stored(7, duplicate=True)], slot=[OURS]))
    unread = Script(publish=[Stored(7, duplicate=True)], slot=[Unavailable("not now"), OURS])
    await _commit(unread)
    assert len(unread.sent) == 2


async def test_a_duplicate_with_another_body_deposes() -> None:
    """Another writer took our epoch for its own: it made the same id, and its commit was stored first."""
    other = Record(sequence=7, kind="commit", body=b"y", chain=GENESIS.hex(), message_id="1.3.7")
    with pytest.raises(Deposed, match="slot 7"):
        await _commit(Script(publish=[Stored(7, duplicate=True)], slot=[other]))


async def test_a_duplicate_in_another_slot_is_corruption() -> None:
    """Our message id in another slot means that this is not the journal that the writer folded."""
    with pytest.raises(Corrupt, match="slot 4"):
        await _commit(Script(publish=[Stored(4, duplicate=True)]))


async def test_a_lost_acknowledgement_is_found_in_the_slot() -> None:
    """10071 after a lost acknowledgement: slot n holds our id, so it is ours."""
    await _commit(Script(publish=[Undecided("time-out"), WrongLast()], slot=[OURS]))


@pytest.mark.parametrize("other", [THEIRS, CLAIM, Record(sequence=7, kind="commit", body=b"y", message_id="1.3.7")])
async def test_anothers_record_in_the_slot_deposes(other: Record) -> None:
    """Another id, a claim, or our id with another body in the slot: another writer leads."""
    with pytest.raises(Deposed, match="slot 7"):
        await _commit(Script(publish=[WrongLast()], slot=[other]))


async def test_a_later_claim_deposes_even_when_the_slot_is_empty() -> None:
    """The slot is free but not ours: another writer has claimed since."""
    script = Script(publish=[WrongLast()], slot=[None], bounds=[Bounds(1, 6)], claim=[LATER_CLAIM])
    with pytest.raises(Deposed, match="claim_b"):
        await _commit(script)


async def test_an_empty_slot_that_may_still_be_ours_is_tried_again() -> None:
    """10071, an empty slot, and our own claim as the last: undecided."""
    script = Script(publish=[WrongLast(), Stored(7)], slot=[None], bounds=[Bounds(1, 6)], claim=[CLAIM])
    await _commit(script)
    assert len(script.sent) == 2


async def test_a_slot_filled_between_two_looks_is_looked_at_again() -> None:
    """The slot was empty, then the journal had a later slot: it is read again before an error is raised."""
    script = Script(publish=[WrongLast()], slot=[None, OURS], bounds=[Bounds(1, 7)])
    await _commit(script)


async def test_a_hole_is_corruption() -> None:
    """The journal has slots after one that is empty."""
    with pytest.raises(Corrupt, match="removed"):
        await _commit(Script(publish=[WrongLast()], slot=[None], bounds=[Bounds(1, 9)]))


async def test_a_journal_that_ends_too_early_is_corruption() -> None:
    """Slot n-1 was there when commit n was decided."""
    with pytest.raises(Corrupt, match="ends at 4, but slot 6"):
        await _commit(Script(publish=[WrongLast()], slot=[None], bounds=[Bounds(1, 4)]))


def test_a_journal_that_is_gone_is_corruption_and_no_endless_wait() -> None:
    """After many attempts without an answer, reading the slot shows that the journal does not exist."""
    gone = Unavailable("no stream", reason=NO_JOURNAL)
    with pytest.raises(Corrupt, match="does not exist any more"):
        run_virtual(_commit(Script(publish=[Undecided("503")], slot=[gone])))


@pytest.mark.parametrize(
    ("slot", "bounds", "claim", "verdict"),
    [
        (None, Bounds(1, 4), CLAIM, Corrupt),
        (None, Bounds(1, 9), CLAIM, Corrupt),
        (None, Bounds(1, 6), None, Deposed),
        (Unavailable("no stream", reason=NO_JOURNAL), Bounds(1, 6), CLAIM, Corrupt),
    ],
)
def test_what_a_stale_leader_could_show_is_believed_only_after_a_while(
    slot: Any, bounds: Bounds, claim: Record | None, verdict: type[Exception]
) -> None:
    """With replicas, an older journal is an error only when it lasts longer than a replica that is cut off can lead."""

    async def elapsed() -> float:
        with pytest.raises(verdict):
            await _commit(Script(publish=[WrongLast()], slot=[slot], bounds=[bounds], claim=[claim]), doubt_s=15)
        return asyncio.get_running_loop().time()

    assert 15 <= run_virtual(elapsed()) <= 17


def test_a_stale_leader_that_gives_way_harms_nothing() -> None:
    """A journal that looks shorter for some seconds and then complete again does not undo the commit."""
    script = Script(publish=[WrongLast()] * 10 + [Stored(7)], slot=[None], bounds=[Bounds(1, 4)])
    run_virtual(_commit(script, doubt_s=15))


def test_the_pauses_grow_to_one_second() -> None:
    """Pauses between attempts are 10 ms, 20 ms … and at most one second."""

    async def elapsed() -> float:
        await _commit(Script(publish=[Undecided("503")] * 7 + [Stored(7)], slot=[None], bounds=[Bounds(1, 6)]))
        return asyncio.get_running_loop().time()

    assert run_virtual(elapsed()) == pytest.approx(0.01 + 0.02 + 0.04 + 0.08 + 0.16 + 0.32 + 0.64)


async def test_what_cannot_be_read_is_not_decided() -> None:
    """While the leader does not answer, the commit stays undecided."""
    script = Script(publish=[WrongLast()], slot=[Unavailable("503"), Unavailable("503"), OURS])
    await _commit(script)


async def test_a_claim_whose_acknowledgement_was_lost_is_found() -> None:
    """10071 for a claim, and the last claim has our id: it is ours."""
    script = Script(publish=[Undecided("time-out"), WrongLast()], claim=[CLAIM])
    writer = SlotWriter(script, ids=_Numbered())
    script.answers["claim"] = [CLAIM, Record(sequence=9, kind="claim", body=b"b", message_id="claim_1.3")]
    assert await writer.claim(b"b") == 9


async def test_a_claim_overtaken_is_made_again_behind_the_other() -> None:
    """Another claim was stored first: the next attempt names that one, under a new id."""
    script = Script(publish=[WrongLast(), Stored(8)], claim=[CLAIM, LATER_CLAIM])
    assert await SlotWriter(script, ids=_Numbered()).claim(b"b") == 8
    assert [(draft.last_claim, draft.message_id) for draft in script.sent] == [(3, "claim_1.3"), (5, "claim_1.5")]


async def test_claims_that_went_backwards_are_corruption() -> None:
    """The last claim is older than the one seen before."""
    with pytest.raises(Corrupt, match="was in slot 5 and is now in slot 3"):
        await SlotWriter(Script(publish=[WrongLast()], claim=[LATER_CLAIM, CLAIM])).claim(b"b")


async def test_a_claim_waits_for_a_leader_that_can_be_read() -> None:
    """While the last claim cannot be read, the claim is delayed and the read is tried again."""
    script = Script(publish=[Stored(4)], claim=[Unavailable("503"), Unavailable("503"), CLAIM])
    assert await SlotWriter(script).claim(b"b") == 4


class _Numbered:
    """Ids that a test can predict."""

    def new(self, prefix: str) -> str:
        return f"{prefix}_1"


class Weather:
    """A network that loses, delays and repeats messages by a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.calm = False

    async def at(self, point: Point) -> None:
        chance = self._chance
        await asyncio.sleep(chance.random() * 0.005)
        if self.calm or chance.random() > 0.3:
            return
        late = chance.random() * 3 if point == "publish" and chance.random() < 0.5 else None
        await asyncio.sleep(chance.choice([0.0, 0.0, 2.0]))
        raise Lost("lost", arrives_after_s=late)


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_in_any_weather_what_was_acknowledged_is_there_once_and_in_order(seed: int, replicated: bool) -> None:
    """Three rivals commit through losses and late arrivals; each acknowledged commit is in its slot, once."""
    print(f"seed {seed}")
    stream = run_virtual(_storm(seed, MemoryStream(replicated=replicated)))
    ids = [record.message_id for record in stream]
    assert len(set(ids)) == len(ids)
    assert [record.sequence for record in stream] == list(range(1, len(stream) + 1))


async def _storm(seed: int, stream: MemoryStream) -> list[Record]:
    acknowledged: dict[int, bytes] = {}
    weather = [Weather(seed * 10 + who) for who in range(3)]

    async def rival(who: int) -> None:
        journal = MemoryJournal(stream, faults=weather[who])
        chance = random.Random(seed * 100 + who)
        for reign in range(4):
            claimed = await journal.claim(b"%d claims" % who)
            epoch, sequence = Epoch(1, claimed), claimed
            # Catching up to the claim is the reader's business; here only the slot counts.
            with suppress(Deposed):
                for number in range(chance.randrange(1, 30)):
                    sequence += 1
                    body = b"%d %d %d" % (who, reign, number)
                    await journal.commit(sequence, epoch, GENESIS, body)
                    assert sequence not in acknowledged
                    acknowledged[sequence] = body
            await asyncio.sleep(chance.random())

    seen: list[Record] = []

    async def watch() -> None:
        async for batch in MemoryJournal(stream, faults=Weather(seed)).follow(0):
            seen.extend(batch)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        async with asyncio.TaskGroup() as rivals:
            for who in range(3):
                rivals.create_task(rival(who))
        await asyncio.sleep(60)  # what was late has arrived, what was lost has been delivered again
        watching.cancel()
    for sequence, body in acknowledged.items():
        record = stream.get(sequence)
        assert record is not None
        assert record.body == body
    assert seen == stream.after(0)
    assert len(acknowledged) > 10
    return seen
