"""Snapshots over a real nats-server: written next to a follower, trusted only if they are of this journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.errors import Corrupt
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.follower.snapshotter import SnapshotLimits
from coordinator.journal.replay import begun
from coordinator.journal.snapshots import Manifest, Packer, Snapshots, unpacked
from coordinator.journal.stream import NatsJournal
from events.base import Position
from events.subjects import Subjects
from projections.memory import TASK
from projections.world import World
from tests.journals import a_bit_of_everything, folded, some_tasks
from tests.real_server import RealServer

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.engine.engine import Engine

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
PATIENCE_S = 20.0
QUICK = FollowerLimits(first_pause_s=0.01, longest_pause_s=0.1)
OFTEN = SnapshotLimits(every_events=20, pause_s=0.0, look_s=0.01, kept=2)


@pytest.fixture
def snapshots(bus: Bus) -> Snapshots:
    return Snapshots(bus, SUBJECTS)


async def newest(snapshots: Snapshots, journal: NatsJournal) -> World | None:
    return await snapshots.newest(journal, World.restore)


async def until_written(snapshots: Snapshots, count: int = 1) -> list[Manifest]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if len(found := await snapshots.manifests()) >= count:
                return found
            await asyncio.sleep(0.02)


async def change(bus: Bus, snapshots: Snapshots, **changed: Any) -> None:
    """Replace the newest manifest."""
    manifest = (await snapshots.manifests())[0]
    body = msgspec.json.encode(msgspec.structs.replace(manifest, **changed))
    await bus.js_request(
        f"STREAM.PURGE.{SUBJECTS.stream_snapshots}", {"filter": SUBJECTS.snapshot_manifest}, timeout_s=5
    )
    await bus.js_publish(SUBJECTS.snapshot_manifest, body, timeout_s=5)


async def test_followers_write_what_they_fold(
    server: RealServer, engine: Engine, journal: NatsJournal, snapshots: Snapshots, tmp_path: Path
) -> None:
    """Snapshots are written while work goes on; each is the world at its position, and the oldest are removed."""
    async with Follower.open(server.url, tmp_path / "state.db", limits=QUICK, snapshots=OFTEN):
        await a_bit_of_everything(engine)
        seen: set[str] = set()
        for turn in range(8):
            await some_tasks(engine, f"t{turn}", 12)
            seen |= {one.digest for one in await until_written(snapshots)}
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < 3:
                await some_tasks(engine, f"u{len(seen)}-{asyncio.get_running_loop().time():.0f}", 12)
                seen |= {one.digest for one in await snapshots.manifests()}
                await asyncio.sleep(0.05)
        found = await until_written(snapshots, 2)
    assert len(await snapshots.manifests()) == 2
    for manifest in found[:1]:
        world = await folded(journal, manifest.position.sequence)
        assert world.digest() == manifest.digest
        assert World.restore(await snapshots.load(manifest)).digest() == manifest.digest


async def test_a_world_begins_with_the_newest(engine: Engine, journal: NatsJournal, snapshots: Snapshots) -> None:
    """A snapshot and the rest of the journal give the same world as the fold from the first slot."""
    await a_bit_of_everything(engine)
    await snapshots.write((await folded(journal)).frozen())
    await some_tasks(engine, "later", 12)
    used = await newest(snapshots, journal)
    assert used is not None
    assert used.position < engine.committed
    assert (await begun(journal, snapshots)).digest() == (await folded(journal)).digest()


async def test_without_any_it_begins_with_the_first_slot(
    engine: Engine, journal: NatsJournal, snapshots: Snapshots
) -> None:
    """There is no stream, or no snapshot is left."""
    await a_bit_of_everything(engine)
    assert await snapshots.manifests() == []
    assert (await begun(journal, snapshots)).digest() == (await folded(journal)).digest()


@pytest.mark.parametrize(
    "changed",
    [{"fold_version": 0}, {"digest": "0" * 64}, {"size_bytes": 7}, {"chain": "0" * 64}, {"chunks": [10_000]}],
    ids=lambda changed: next(iter(changed)),
)
async def test_what_cannot_be_believed_is_passed_over(
    bus: Bus, engine: Engine, journal: NatsJournal, snapshots: Snapshots, changed: dict[str, Any]
) -> None:
    """The previous snapshot is used, or none; the world is the same."""
    await a_bit_of_everything(engine)
    await snapshots.write((await folded(journal)).frozen())
    await change(bus, snapshots, **changed)
    assert await newest(snapshots, journal) is None
    older = await folded(journal, 5)
    await snapshots.write(older.frozen())
    used = await newest(snapshots, journal)
    assert used is not None
    assert used.digest() == older.digest()
    assert (await begun(journal, snapshots)).digest() == (await folded(journal)).digest()


async def test_a_sealed_slice_is_stored_once_for_several_snapshots(
    engine: Engine, journal: NatsJournal, snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later snapshots refer to its chunks, and store it again before the space that this keeps grows too large."""
    monkeypatch.setattr("coordinator.journal.snapshots.MOST_REUSED", 3)
    await a_bit_of_everything(engine)
    world = await folded(journal)
    for number in range(20_000):
        world.memory.note(TASK, f"task_{number:025d}", b"x" * 11, world.time)
    stored: list[tuple[int, int]] = []
    for number in range(6):
        world.memory.note(TASK, f"other-{number}", b"x", world.time)
        world.position = Position(world.position.sequence, number)
        manifest = await snapshots.write(world.frozen())
        assert World.restore(await snapshots.load(manifest)).digest() == world.digest() == manifest.digest
        first = next(at for at, one in enumerate(manifest.parts) if one.size_bytes > 300_000)
        before = sum(one.chunks for one in manifest.parts[:first])
        stored.append((manifest.parts[first].reused, manifest.chunks[before]))
    assert [reused for reused, _ in stored] == [0, 1, 2, 3, 0, 1]
    assert len({chunk for _, chunk in stored}) == 2


async def test_a_manifest_that_is_none_is_passed_over(
    bus: Bus, engine: Engine, journal: NatsJournal, snapshots: Snapshots
) -> None:
    """Foreign messages in the stream are ignored."""
    await a_bit_of_everything(engine)
    await snapshots.write((await folded(journal)).frozen())
    await bus.js_publish(SUBJECTS.snapshot_manifest, b"\xff{", timeout_s=5)
    assert len(await snapshots.manifests()) == 1


async def test_half_of_one_is_never_seen(engine: Engine, journal: NatsJournal, bus: Bus, snapshots: Snapshots) -> None:
    """Chunks without a manifest are ignored, and deleted at the next removal."""
    await a_bit_of_everything(engine)
    world = await folded(journal)
    await snapshots.write(world.frozen())
    await bus.js_publish(SUBJECTS.snapshot_chunk, b"half", timeout_s=5)
    assert len(await snapshots.manifests()) == 1
    for turn in range(4):
        await some_tasks(engine, f"t{turn}", 4)
        await snapshots.write((await folded(journal)).frozen())
    assert len(await snapshots.manifests()) == 3


async def test_a_journal_that_ends_before_a_snapshot_of_it_has_lost_its_tail(
    bus: Bus, engine: Engine, journal: NatsJournal, snapshots: Snapshots
) -> None:
    """An older copy of the store was put back: no coordinator may continue from there."""
    await a_bit_of_everything(engine)
    await snapshots.write((await folded(journal)).frozen())
    manifest = (await snapshots.manifests())[0]
    await change(bus, snapshots, position=msgspec.structs.replace(manifest).position._replace(sequence=10_000))
    with pytest.raises(Corrupt, match="lost its tail"):
        await begun(journal, snapshots)


async def test_a_follower_begins_with_one(
    server: RealServer, engine: Engine, journal: NatsJournal, snapshots: Snapshots, tmp_path: Path
) -> None:
    """The follower folds only what came after the snapshot, and has the same rows."""
    path = tmp_path / "state.db"
    async with Follower.open(server.url, path, limits=QUICK) as follower:
        await a_bit_of_everything(engine)
        await (await follower.wait_opened(PATIENCE_S)).wait_for(engine.committed, PATIENCE_S)
    last = engine.committed.sequence
    await snapshots.write((await folded(journal, last - 2)).frozen())
    async with Follower.open(server.url, path, limits=QUICK) as follower:
        await some_tasks(engine, "later", 4)
        await (await follower.wait_opened(PATIENCE_S)).wait_for(engine.committed, PATIENCE_S)
        assert follower.projector is not None
        assert 0 < follower.projector.folded < 60
        assert follower.projector.world.digest() == (await folded(journal)).digest()


def test_chunks_are_small_and_all_that_went_in_comes_out() -> None:
    """A snapshot of any piece size is read back, and a changed one is reported."""
    pieces = [bytes([number % 251]) * number for number in range(2000)]
    packer = Packer(iter(pieces), chunk_bytes=1000)
    chunks = list(iter(packer.next, b""))
    assert all(len(chunk) <= 1000 for chunk in chunks)
    packed = b"".join(chunks)
    assert unpacked(packed, packer.size_bytes, packer.digest) == b"".join(pieces)
    for damaged in (packed[:-100], packed[:500] + bytes([packed[500] ^ 1]) + packed[501:], b""):
        with pytest.raises(Corrupt):
            unpacked(damaged, packer.size_bytes, packer.digest)
    with pytest.raises(Corrupt):
        unpacked(packed, packer.size_bytes - 1, packer.digest)
