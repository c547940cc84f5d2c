"""
The same records give the same world, however they were read, and its indexes follow from its tables.

Each case is a history by seed; a failure names the seed, and `write_history(seed, …)` writes it again.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from events import codec
from events.errors import Corrupt
from events.task import TaskSubmitted
from projections.world import World
from tests.specification import Scribe, journal_record
from tests.unit.projections.histories import Historian, write_history
from tests.unit.projections.index_content import assert_bounded, content_from, content_of

if TYPE_CHECKING:
    from events.base import Envelope
    from projections.source import Record

SEEDS = range(25)
COMMITS = 150


@pytest.fixture(scope="module", params=SEEDS)
def scribe(request: pytest.FixtureRequest) -> Scribe:
    """Return one history."""
    return write_history(request.param, COMMITS)


def replay(records: list[Record], into: World | None = None) -> World:
    world = into if into is not None else World()
    for record in records:
        world.apply_record(record)
    return world


def assert_same(one: World, other: World) -> None:
    """Assert the same bytes, the same digest, and equal indexes, each as its own tables say."""
    assert one.snapshot() == other.snapshot()
    assert one.digest() == other.digest()
    assert content_of(one.indexes) == content_of(other.indexes)
    assert content_of(one.indexes) == content_from(one)
    assert one._ended == other._ended
    assert [list(ended) for ended in one._ended.values()] == [list(ended) for ended in other._ended.values()]


def test_histories_hold_everything() -> None:
    """The generator covers every journal event, ends, evictions, parked tasks and remembered commands."""
    seen: set[str] = set()
    evicted = parked = 0
    for seed in SEEDS:
        written = write_history(seed, COMMITS)
        world = World()
        for record in written.records:
            seen |= {envelope.type for envelope in world.apply_record(record)}
            parked += bool(world.indexes.parked_members)
        evicted += sum(world.totals.values()) - sum(task.is_ended for task in world.tasks.values())
    assert seen == set(codec.EVENTS) - codec.HEARTBEATS
    assert evicted > 100
    assert parked > 100


def test_the_same_seed_gives_the_same_history() -> None:
    """A failing history can be written again."""
    assert write_history(3, 40).records == write_history(3, 40).records
    assert write_history(3, 40).records != write_history(4, 40).records


def test_a_replay_ends_up_where_the_writer_was(scribe: Scribe) -> None:
    """The writer folds before it writes, everyone else what was written: the same world, bit for bit."""
    assert_same(replay(scribe.records), scribe.world)


def test_indexes_follow_from_the_tables_after_every_record(scribe: Scribe) -> None:
    """An index holds no facts of its own at any point, and no heap exceeds its bound."""
    world = World()
    for record in scribe.records:
        world.apply_record(record)
        assert content_of(world.indexes) == content_from(world)
        assert_bounded(world.indexes)


def test_a_restored_world_goes_on_as_if_it_had_never_been_away(scribe: Scribe, request: pytest.FixtureRequest) -> None:
    """Snapshot anywhere, restore, fold the rest: the same digest and indexes, evictions included."""
    random = Random(scribe.records[-1].body)
    for cut in sorted(random.sample(range(1, len(scribe.records)), 6)):
        before = replay(scribe.records[:cut])
        restored = World.restore(before.snapshot())
        assert_same(restored, before)
        assert_same(replay(scribe.records[cut:], into=restored), scribe.world)


def test_a_world_restored_after_every_record_is_the_same(scribe: Scribe) -> None:
    """A snapshot loses nothing, however often it is restored."""
    world = World()
    for record in scribe.records[:60]:
        world = World.restore(world.snapshot())
        world.apply_record(record)
    assert_same(world, replay(scribe.records[:60]))


def test_any_change_of_a_record_is_noticed(scribe: Scribe) -> None:
    """A body changed anywhere breaks the chain at the next commit, at the latest."""
    random = Random(scribe.records[-1].body)
    commits = [at for at, record in enumerate(scribe.records) if record.kind == "commit"]
    for at in random.sample(commits[:-1], 5):
        changed = list(scribe.records)
        body = changed[at].body.replace(b"ann", b"eve").replace(b"bob", b"eve")
        assert body != changed[at].body
        changed[at] = type(changed[at])(
            sequence=changed[at].sequence, kind="commit", body=body, chain=changed[at].chain
        )
        following = commits[commits.index(at) + 1]
        replay(changed[:following])
        with pytest.raises(Corrupt, match="the journal was changed"):
            replay(changed[: following + 1])


def events_of(record: Record) -> list[Envelope]:
    return codec.decode(record.body) if record.kind == "commit" else []


def _not_before(envelope: Envelope, time: float) -> Envelope:
    """Return an event that is as late as the last commit, at least: commit time goes on."""
    late = max(codec.seconds_of(envelope.time), time)
    return msgspec.structs.replace(envelope, time=codec.rfc3339(late))


@pytest.mark.parametrize("seed", range(100, 110))
def test_what_no_coordinator_wrote_is_folded_or_corrupt(seed: int) -> None:
    """
    Events of one history inserted into another are legal by chance, or `Corrupt`; there is no third outcome.

    Where they are legal, the indexes still follow from the tables.
    """
    random = Random(seed)
    strange = [envelope for record in write_history(seed, 60).records for envelope in events_of(record)]
    refused = folded = 0
    world = replay(Historian(seed + 1000).write(40).records)
    for _ in range(150):
        before = world.snapshot()
        inserted = [_not_before(random.choice(strange), world.time) for _ in range(random.randint(1, 2))]
        last = {schedule.last_task_id for schedule in world.schedules.values()}
        if any(type(one.data) is TaskSubmitted and one.data.task_id in last for one in inserted):
            continue  # no schedule waits for an id for so long that a later task may have it
        body = codec.join(map(codec.encode, inserted))
        try:
            world.apply_record(journal_record(body, after=world))
        except Corrupt:
            refused += 1
            world = World.restore(before)
        else:
            folded += 1
        assert content_of(world.indexes) == content_from(world)
    assert refused > 10
    assert folded > 10
