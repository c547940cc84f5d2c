"""A world is written in pieces: always the same bytes, those that MessagePack writes for the whole."""

from __future__ import annotations

import msgspec
import pytest

from events.task import Payload
from projections.snapshot import PIECE_BYTES, Snapshot, pieces
from projections.upgrade import decoded
from projections.world import World
from tests.specification import BEGIN, Scribe, fold
from tests.unit.deciders.facts import started, submitted, worker
from tests.unit.projections.histories import write_history


def whole(snapshot: Snapshot) -> bytes:
    return msgspec.msgpack.encode(snapshot)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_pieces_join_to_the_whole(size: int) -> None:
    """The pieces join to the same bytes whatever their size; a world may be written step by step."""
    snapshot = write_history(1, 60).world.frozen()
    assert b"".join(pieces(snapshot, size)) == whole(snapshot)
    assert decoded(whole(snapshot)) == snapshot


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_any_number_of_things_can_be_written(count: int) -> None:
    """MessagePack encodes few, many and very many items differently."""
    world = World()
    one = fold(submitted()).tasks["t"]
    world.tasks.update((str(number), one) for number in range(count))
    world.totals.update((str(number), 1) for number in range(count))
    snapshot = world.frozen()
    assert b"".join(pieces(snapshot)) == whole(snapshot)


def test_large_values_make_no_large_pieces() -> None:
    """To encode a thousand tasks with large payloads at once would hold up what else its process does."""
    world = World()
    large = Payload(encoding="text", data="x" * 64 * 1024, digest="0" * 64)
    one = fold(submitted(payload=large)).tasks["t"]
    world.tasks.update((str(number), one) for number in range(1000))
    snapshot = world.frozen()
    found = list(pieces(snapshot))
    assert max(map(len, found)) < PIECE_BYTES + 2 * len(large.data)
    assert b"".join(found) == whole(snapshot)


def test_what_was_frozen_stays_as_it_was() -> None:
    """The world changes while the snapshot is written."""
    scribe = write_history(2, 40)
    frozen, before = scribe.world.frozen(), scribe.world.snapshot()
    scribe.commit(submitted(task_id="later"))
    assert b"".join(pieces(frozen)) == before != scribe.world.snapshot()


def test_a_new_generation_says_when_the_one_before_ended() -> None:
    """A claim of a higher generation is a restore; a claim of the same one is a writer that took over."""
    scribe = Scribe()
    scribe.claim(generation=1)
    assert scribe.world.restored_at == 0.0
    scribe.commit(worker(), submitted(), started())
    scribe.claim(generation=1)
    assert scribe.world.restored_at == 0.0
    scribe.claim(generation=7)
    assert (scribe.world.restored_at, scribe.world.generation) == (BEGIN, 7)
    again = World()
    for record in scribe.records:
        again.apply_record(record)
    assert World.restore(again.snapshot()).restored_at == BEGIN
