"""Snapshots, backups and archives with the fewest permissions of each role, on a server that refuses the rest."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.archive.archive import Archive
from coordinator.archive.source import ArchiveSource
from coordinator.backup import create as backup
from coordinator.backup.restore import restore
from coordinator.diagnostics.verify import accept
from coordinator.errors import Forbidden
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.follower.snapshotter import SnapshotLimits
from coordinator.journal.replay import begun
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.security.permissions import user_of
from events.base import Position
from events.subjects import Subjects
from projections.history import replay_digest
from tests.commands import run
from tests.journals import a_bit_of_everything, folded, leading, some_tasks
from tests.secured import secured

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

S = Subjects()
PATIENCE_S = 30.0
QUICK = FollowerLimits(first_pause_s=0.01, longest_pause_s=0.1)
OFTEN = SnapshotLimits(every_events=10, pause_s=0.0, look_s=0.01)


async def test_each_does_its_part_with_its_own_credentials(tmp_path: Path) -> None:
    """The follower writes snapshots, the archive backs up and purges, the coordinator starts from them and restores."""
    folder, held = tmp_path / "backup", tmp_path / "archive"
    async with secured(tmp_path / "here") as here, here.bus(user_of("coordinator")) as bus:
        journal, snapshots = NatsJournal(bus, S), Snapshots(bus, S)
        await journal.prepare()
        creds = here.creds("follower")
        store = tmp_path / "state.db"
        async with (
            leading(journal) as engine,
            Follower.open(here.url, store, creds=creds, tls_ca=here.authority, limits=QUICK, snapshots=OFTEN),
            asyncio.timeout(PATIENCE_S),
        ):
            await a_bit_of_everything(engine)
            for turn in range(1000):
                if await snapshots.manifests():
                    break
                await some_tasks(engine, f"t{turn}", 4)
                await asyncio.sleep(0.02)
        async with here.bus(user_of("archive")) as archivist:
            moved = await Archive(archivist, S, held).run(before=(await journal.bounds()).last)
            assert moved.purged > 0
            contents = await backup.create(archivist, S, folder)
        assert (await begun(journal, snapshots)).digest() == await replay_digest(ArchiveSource(held, journal))
        async with here.bus(user_of("admin")) as admin:
            with pytest.raises(Forbidden, match="PURGE"):
                await Archive(admin, S, held).run(before=moved.last)
    async with secured(tmp_path / "there") as there, there.bus(user_of("coordinator")) as bus:
        restored = await restore(bus, S, folder, contents)
        world = await begun(NatsJournal(bus, S), Snapshots(bus, S))
        assert (world.generation, world.epoch) == (restored.generation, restored.claim)


async def test_a_loss_is_accepted_with_the_credentials_of_a_coordinator(tmp_path: Path) -> None:
    """Snapshots of what was lost are removed and the claim is written; without both permissions nothing changes."""
    async with secured(tmp_path) as server, server.bus(user_of("coordinator")) as bus:
        journal, snapshots = NatsJournal(bus, S), Snapshots(bus, S)
        await journal.prepare()
        async with leading(journal) as engine:
            await some_tasks(engine, "t", 4)
        world = await folded(journal)
        end = world.position.sequence
        kept = await snapshots.write(world.frozen())
        for ahead in (1, 4):  # one at the slot that the claim will take, and one far behind
            lost = msgspec.structs.replace(kept, position=Position(end + ahead, 0), generation=world.generation + ahead)
            await bus.js_publish(S.snapshot_manifest, msgspec.json.encode(lost), timeout_s=PATIENCE_S)
        async with server.bus(user_of("admin")) as admin:
            with pytest.raises(Forbidden):
                await accept(admin, S)
        assert len(await snapshots.manifests()) == 3
        assert (await journal.bounds()).last == end
        line = ("verify", "--accept", "--nats", server.url)
        accepted = await asyncio.to_thread(run, *line, timeout_s=60.0, **server.environment)
        assert accepted.code == 0, accepted
        assert await snapshots.manifests() == [kept]
        after = await begun(journal, snapshots)
        assert (after.generation, after.epoch) == (json.loads(accepted.out)["generation"], end + 1)
