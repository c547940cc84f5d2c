"""`coordinator verify --accept` on a journal whose beginning was archived, and on a NATS that stores nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.archive.archive import Archive
from coordinator.diagnostics import verify as verifying
from coordinator.diagnostics.verify import accept
from coordinator.errors import Corrupt, Unavailable
from coordinator.journal.replay import begun
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal, stream_config
from events.base import Position
from events.subjects import Subjects
from tests.commands import run
from tests.journals import folded, leading, some_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from projections.world import World
    from tests.real_server import RealServer

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()


@pytest.fixture
async def world(bus: Bus) -> World:
    """A journal, and a newer snapshot than the end of that journal."""
    journal, snapshots = NatsJournal(bus, SUBJECTS), Snapshots(bus, SUBJECTS)
    await journal.prepare()
    async with leading(journal) as engine:
        for turn in range(4):
            await some_tasks(engine, f"t{turn}", 4)
    world = await folded(journal)
    lost = await snapshots.write(world.frozen())
    ahead = msgspec.structs.replace(lost, position=Position(world.position.sequence + 3, 0))
    await bus.js_publish(SUBJECTS.snapshot_manifest, msgspec.json.encode(ahead), timeout_s=20)
    return world


async def archive_half(bus: Bus, world: World, folder: Path) -> None:
    """Move the older half of the journal into the archive; a snapshot ahead of the journal would prevent that."""
    snapshots = Snapshots(bus, SUBJECTS)
    ahead = (await snapshots.manifests())[0]
    await snapshots.forget_behind(world.position.sequence)
    await Archive(bus, SUBJECTS, folder).run(before=world.position.sequence // 2)
    assert (await NatsJournal(bus, SUBJECTS).bounds()).first > 2
    await bus.js_publish(SUBJECTS.snapshot_manifest, msgspec.json.encode(ahead), timeout_s=20)


async def expect_begins(bus: Bus, generation: int, before: World) -> None:
    """Anyone who starts now is of the new generation and has the old state."""
    after = await begun(NatsJournal(bus, SUBJECTS), Snapshots(bus, SUBJECTS))
    assert (after.generation, after.epoch) == (generation, before.position.sequence + 1)
    assert after.tasks.keys() == before.tasks.keys()


async def test_a_snapshot_stands_for_what_was_archived(bus: Bus, world: World, tmp_path: Path) -> None:
    """Without the archive the fold starts at a snapshot; a snapshot ahead of the journal is not used."""
    await archive_half(bus, world, tmp_path / "archive")
    await expect_begins(bus, await accept(bus, SUBJECTS), world)


async def test_what_was_archived_is_read_from_the_archive(
    server: RealServer, bus: Bus, world: World, tmp_path: Path
) -> None:
    """Where no snapshot can be used, the archive is required; the command passes it on."""
    folder = tmp_path / "archive"
    await archive_half(bus, world, folder)
    await Snapshots(bus, SUBJECTS).forget_behind(0)
    with pytest.raises(Corrupt, match="--archive"):
        await accept(bus, SUBJECTS)
    line = ("verify", "--accept", "--archive", str(folder), "--nats", server.url)
    accepted = await asyncio.to_thread(run, *line, timeout_s=60.0)
    assert accepted.code == 0, accepted
    await Archive(bus, SUBJECTS, folder).run(before=2)  # creates the missing snapshot
    await expect_begins(bus, json.loads(accepted.out)["generation"], world)


async def test_a_beginning_that_nobody_archived_is_damage(bus: Bus, world: World) -> None:
    """A snapshot alone does not replace what was removed."""
    request = {"filter": SUBJECTS.journal, "seq": 5}
    await bus.js_request(f"STREAM.PURGE.{SUBJECTS.stream_journal}", request, timeout_s=20)
    with pytest.raises(Corrupt, match="are missing"):
        await accept(bus, SUBJECTS)
    assert (await NatsJournal(bus, SUBJECTS).bounds()).last == world.position.sequence


async def test_where_nats_does_not_store_it_ends_and_is_run_again(
    bus: Bus, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two attempts no coordinator may start, because the slot of the claim is still free."""
    monkeypatch.setattr(verifying, "CLAIM_TIMEOUT_S", 2.0)
    config = stream_config(SUBJECTS)
    update = f"STREAM.UPDATE.{SUBJECTS.stream_journal}"
    await bus.js_request(update, {**config, "max_msgs": world.position.sequence}, timeout_s=20)
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable, match="run it again"):
            await accept(bus, SUBJECTS)
    with pytest.raises(Corrupt, match="verify --accept"):
        await begun(NatsJournal(bus, SUBJECTS), Snapshots(bus, SUBJECTS))
    await bus.js_request(update, config, timeout_s=20)
    monkeypatch.undo()
    await expect_begins(bus, await accept(bus, SUBJECTS), world)
