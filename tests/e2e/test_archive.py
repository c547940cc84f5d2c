"""Old commits move from the journal to files and none is lost: over a real nats-server, killed at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.archive.archive import Archive
from coordinator.archive.manifest import read_contents, write_contents
from coordinator.archive.source import ArchiveSource
from coordinator.archive.verify import verify_records
from coordinator.backup import create as backup
from coordinator.backup.drill import drill
from coordinator.backup.restore import restore
from coordinator.bus.connection import Bus
from coordinator.errors import Corrupt, Refused, Unavailable
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.guard import spawn
from coordinator.journal.replay import begun
from coordinator.journal.search import first_since
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from events.base import Position
from events.coordinator import EpochClaim
from events.subjects import Subjects
from projections.history import replay_digest, world_at
from projections.store.memory import MemoryStore
from tests.commands import run
from tests.journal_worlds import follow, read
from tests.journals import a_bit_of_everything, events_of, folded, leading, leading_on, rows_of, some_tasks, states_of
from tests.real_server import RealServer, real_server
from tests.unit.projections.test_projector import project

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.engine.engine import Engine
    from projections.source import Record
    from projections.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

SUBJECTS = Subjects()
PATIENCE_S = 30.0
QUICK = FollowerLimits(first_pause_s=0.01, longest_pause_s=0.1)


@pytest.fixture
def archive(bus: Bus, tmp_path: Path) -> Archive:
    return Archive(bus, SUBJECTS, tmp_path / "archive")


async def busy(engine: Engine, turns: int = 6, name: str = "t") -> None:
    for turn in range(turns):
        await some_tasks(engine, f"{name}{turn}", 12)


async def expect_covered(bus: Bus, journal: NatsJournal, folder: Path, whole: list[Record], world: World) -> None:
    """Everything that left the journal is in the archive, and every usable starting point leads to the same world."""
    first = (await journal.bounds()).first
    if first > 1:
        contents, report = await asyncio.to_thread(verify_records, folder, kind="archive")
        assert report.folded
        assert contents.last >= first - 1
    source = ArchiveSource(folder, journal)
    assert await read(source, 0, len(whole)) == whole
    assert (await begun(journal, Snapshots(bus, SUBJECTS))).digest() == world.digest()


async def test_what_was_archived_is_read_from_files(
    bus: Bus, engine: Engine, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """The writer goes on under its old claim; every replay, rebuild and question about the past returns the same."""
    await a_bit_of_everything(engine)
    await busy(engine)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    straight = MemoryStore()
    await project(journal, straight)
    moved = await archive.run(before=last - 3)
    assert (moved.through, moved.first) == (last - 4, last - 3)
    assert await journal.slot(1) is not None  # the claim
    assert await journal.slot(2) is None
    folder = tmp_path / "archive"
    await expect_covered(bus, journal, folder, whole, world)
    source = ArchiveSource(folder, journal)
    assert await replay_digest(source) == world.digest()
    past = await world_at(source, Position(5, 0))
    assert past.position == Position(5, 0)
    anew = MemoryStore()
    await project(source, anew)
    assert await rows_of(anew) == await rows_of(straight)
    assert await events_of(anew) == await events_of(straight)
    await busy(engine, 2, "later")
    again = await archive.run(before=engine.committed.sequence)
    assert again.through > moved.through
    assert (await begun(journal, Snapshots(bus, SUBJECTS))).digest() == await replay_digest(source)
    assert [one.kind for one in await read(source, 0, 3)] == ["claim", "commit", "commit"]


async def test_claims_before_the_last_leave_as_well(
    bus: Bus, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """A journal of several reigns can be cut anywhere; the first slot after the cut is a commit."""
    for reign in range(4):
        async with leading(journal) as engine:
            await some_tasks(engine, f"r{reign}", 8)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    for before in range(2, last + 3):
        moved = await archive.run(before=before)
        assert moved.first <= before
        record = await journal.slot(moved.first)
        assert moved.first == 1 or (record is not None and record.kind == "commit")
        await expect_covered(bus, journal, tmp_path / "archive", whole, world)
    assert (await journal.bounds()).first > last // 2
    claim = await journal.last_claim()
    assert claim is not None
    async with leading_on(journal, 1, await begun(journal, Snapshots(bus, SUBJECTS))) as engine:
        await some_tasks(engine, "after", 4)


async def test_the_journal_is_whole_between_the_two_purges(
    bus: Bus, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """When commits have left and the claims right before the cut have not, the journal starts after those claims."""
    folder = tmp_path / "archive"
    for reign in range(4):
        async with leading(journal) as engine:
            await some_tasks(engine, f"r{reign}", 8)
        for _ in range(reign):  # claimed and wrote nothing
            claim = EpochClaim(generation=1, holder="tester", time="2026-11-23T17:15:00.000000Z")
            await journal.claim(msgspec.json.encode(claim))
    async with leading(journal) as engine:
        await some_tasks(engine, "last", 8)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    behind_claims = 0
    for before in range(3, last + 1):
        with pytest.raises(Unavailable):
            await Archive(_Cut(bus, "claims"), SUBJECTS, folder).run(before=before)  # type: ignore[arg-type]
        contents = read_contents(folder, "archive")
        assert contents is not None
        first = contents.last + 1
        behind_claims += whole[first - 2].kind == "claim"
        assert await journal.bounds() == (first, last)
        await expect_covered(bus, journal, folder, whole, world)
        made = await backup.create(bus, SUBJECTS, tmp_path / f"backup-{before}")
        assert (made.first, made.last) == (first, last)
        if before > 2 * last // 3 and before % 3 == 0:
            await archive.run(before=before)
            assert await journal.bounds() == (first, last)
    assert behind_claims > 2


async def test_a_follower_builds_its_store_from_archive_and_journal(
    server: RealServer, engine: Engine, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """A follower whose store was deleted and that has no archive reports what is missing."""
    await a_bit_of_everything(engine)
    await busy(engine)
    world = await folded(journal)
    await archive.run(before=engine.committed.sequence - 2)
    async with Follower.open(server.url, tmp_path / "a.db", limits=QUICK, archive=tmp_path / "archive") as follower:
        store = await follower.wait_opened(PATIENCE_S)
        await store.wait_for(engine.committed, PATIENCE_S)
        assert await rows_of(store) == states_of(world)
        await busy(engine, 2, "later")
        await store.wait_for(engine.committed, PATIENCE_S)
    async with Follower.open(server.url, tmp_path / "b.db", limits=QUICK) as follower:
        with pytest.raises(Corrupt, match="begins at"):
            await asyncio.wait_for(follower.wait_failed(), PATIENCE_S)
    # A follower that has everything needs no archive: it starts from a snapshot.
    async with Follower.open(server.url, tmp_path / "a.db", limits=QUICK) as follower:
        store = await follower.wait_opened(PATIENCE_S)
        await busy(engine, 1, "still")
        await store.wait_for(engine.committed, PATIENCE_S)


async def test_a_reader_goes_on_where_the_journal_was_cut_under_it(
    engine: Engine, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """A reader finds in the archive what left the journal before it could read it."""
    await busy(engine)
    last = (await journal.bounds()).last
    whole = await read(journal, 0, last)
    await archive.run(before=4)
    source = ArchiveSource(tmp_path / "archive", journal)
    seen: list[Record] = []
    following = source.follow(0)
    seen += await anext(following)
    await archive.run(before=last - 1)
    async with asyncio.timeout(PATIENCE_S):
        while not seen or seen[-1].sequence < last:
            seen += await anext(following)
    await following.aclose()  # type: ignore[attr-defined]
    assert seen == whole
    rest: list[Record] = []
    await asyncio.wait_for(follow(source, 2, last, rest), PATIENCE_S)
    assert rest == whole[2:]


async def test_what_is_young_is_kept(engine: Engine, journal: NatsJournal, archive: Archive) -> None:
    """The cut is chosen by commit time; the last commit always stays."""
    await busy(engine, 3)
    middle = engine.world.time
    await busy(engine, 3, "later")
    at = await first_since(journal, middle)
    moved = await archive.run(before_s=middle)
    assert (moved.through, moved.first) == (at - 1, at)
    assert (await archive.run(before_s=middle)).copied == 0
    last = (await journal.bounds()).last
    assert (await archive.run(before_s=1e12)).through == last - 1


@pytest.mark.parametrize("step", ["snapshot", "note", "purge"])
async def test_nothing_is_purged_before_it_is_proved(
    bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path, step: str
) -> None:
    """Aborted before any step, the journal is whole, and the next run completes the archiving."""
    await busy(engine)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    folder = tmp_path / "archive"
    with pytest.raises(Unavailable):
        await Archive(_Cut(bus, step), SUBJECTS, folder).run(before=last - 1)  # type: ignore[arg-type]
    assert (await journal.bounds()).first == 1
    assert await read(journal, 0, last) == whole
    await expect_covered(bus, journal, folder, whole, world)
    moved = await Archive(bus, SUBJECTS, folder).run(before=last - 1)
    assert (moved.copied, moved.first) == (0, last - 1)
    await expect_covered(bus, journal, folder, whole, world)


@pytest.mark.parametrize("more", [0, 3])
@pytest.mark.parametrize("is_gone", [False, True])
async def test_what_is_purged_was_read_in_the_files_by_the_same_run(
    bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path, *, is_gone: bool, more: int
) -> None:
    """Files left by a run that did not purge must be valid; a later snapshot does not replace them."""
    await busy(engine)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    folder = tmp_path / "archive"
    with pytest.raises(Unavailable):
        await Archive(_Cut(bus, "purge"), SUBJECTS, folder).run(before=last - 4)  # type: ignore[arg-type]
    await Snapshots(bus, SUBJECTS).write(world.frozen())
    contents = read_contents(folder, "archive")
    assert contents is not None
    path = folder / contents.segments[0].file
    good = path.read_bytes()
    if is_gone:
        path.unlink()
    else:
        path.write_bytes(good[:100] + bytes([good[100] ^ 4]) + good[101:])
    with pytest.raises(Corrupt, match="nothing was purged"):
        await Archive(bus, SUBJECTS, folder).run(before=last - 4 + more)
    assert await journal.bounds() == (1, last)
    assert await read(journal, 0, last) == whole
    path.write_bytes(good)
    moved = await Archive(bus, SUBJECTS, folder).run(before=last - 4 + more)
    assert moved.first == last - 4 + more
    await expect_covered(bus, journal, folder, whole, world)


class _Cut:
    """A bus that fails at one step of archiving."""

    def __init__(self, bus: Bus, step: str) -> None:
        self._bus = bus
        self._subject = {"snapshot": SUBJECTS.snapshot_manifest, "note": SUBJECTS.archive}.get(step, "")
        self._purged = {"purge": SUBJECTS.journal, "claims": SUBJECTS.epoch}.get(step, "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def js_publish(self, subject: str, *arguments: Any, **options: Any) -> Any:
        if subject == self._subject:
            raise Unavailable("cut off")
        return await self._bus.js_publish(subject, *arguments, **options)

    async def js_request(self, api: str, payload: Any = b"", *, timeout_s: float) -> Any:
        if api == f"STREAM.PURGE.{SUBJECTS.stream_journal}" and payload["filter"] == self._purged:
            raise Unavailable("cut off")
        return await self._bus.js_request(api, payload, timeout_s=timeout_s)


async def test_archiving_may_be_killed_anywhere(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """After SIGKILL at any moment, repeatedly, archive and journal together are complete."""
    await a_bit_of_everything(engine)
    await busy(engine, 12)
    last = (await journal.bounds()).last
    whole, world = await read(journal, 0, last), await folded(journal)
    folder = tmp_path / "archive"
    env = {**os.environ, "COORDINATOR_URL": server.url}
    for turn in range(8):
        words = ["archive", "run", str(folder), "--before", str(2 + turn * (last - 2) // 7)]
        async with await spawn([sys.executable, "-m", "coordinator.cli", *words], env=env) as child:
            for _ in range(2000):
                if folder.exists() or child.returncode is not None:
                    break
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.004 * turn)
            if child.returncode is None:
                os.kill(child.pid, signal.SIGKILL)
            await child.wait()
        await expect_covered(bus, journal, folder, whole, world)
    moved = await Archive(bus, SUBJECTS, folder).run(before=last)
    assert moved.first > 2
    await expect_covered(bus, journal, folder, whole, world)


async def test_a_beginning_that_is_gone_without_an_archive_is_corrupt(
    bus: Bus, engine: Engine, journal: NatsJournal
) -> None:
    """A journal purged by somebody else is not made good by a snapshot."""
    await busy(engine)
    snapshots = Snapshots(bus, SUBJECTS)
    await snapshots.write((await folded(journal)).frozen())
    request = {"filter": SUBJECTS.journal, "seq": 5}
    await bus.js_request(f"STREAM.PURGE.{SUBJECTS.stream_journal}", request, timeout_s=5)
    with pytest.raises(Corrupt, match="records 1 to 4 are missing"):
        await begun(journal, snapshots)


async def test_an_archived_journal_without_any_snapshot_gets_one(
    bus: Bus, engine: Engine, journal: NatsJournal, archive: Archive
) -> None:
    """When the stream of snapshots was deleted, the message says what to do, and doing it helps."""
    await busy(engine)
    last = (await journal.bounds()).last
    world = await folded(journal)
    await archive.run(before=last - 1)
    await bus.js_request(f"STREAM.DELETE.{SUBJECTS.stream_snapshots}", timeout_s=5)
    with pytest.raises(Corrupt):
        await begun(journal, Snapshots(bus, SUBJECTS))
    await archive.run(before=last - 1)
    assert (await begun(journal, Snapshots(bus, SUBJECTS))).digest() == world.digest()


async def test_another_archive_is_refused(
    bus: Bus, engine: Engine, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """An archive is refused if invalid, not ending where the journal starts, or of another journal or name."""
    await busy(engine)
    await archive.run(before=6)
    with pytest.raises(Refused, match="another archive"):
        await Archive(bus, SUBJECTS, tmp_path / "new").run(before=8)
    folder = tmp_path / "archive"
    contents = read_contents(folder, "archive")
    assert contents is not None
    last = msgspec.structs.replace(contents.segments[-1], chain_after="0" * 64)
    write_contents(folder, msgspec.structs.replace(contents, segments=(*contents.segments[:-1], last)))
    with pytest.raises(Refused, match="another journal"):
        await archive.run(before=8)
    write_contents(folder, msgspec.structs.replace(contents, namespace="other"))
    with pytest.raises(Refused, match="namespace"):
        await archive.run(before=8)
    await backup.create(bus, SUBJECTS, tmp_path / "backup")
    with pytest.raises(Refused, match="holds a backup"):
        await Archive(bus, SUBJECTS, tmp_path / "backup").run(before=8)


async def test_another_archive_is_refused_where_a_claim_stands_behind_its_end(
    bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """A claim has no chain: the hash at the end of the archive decides, before anything is written or purged."""
    (tmp_path / "there").mkdir()
    async with real_server(tmp_path / "there") as other, Bus.open(other.url, name="there", buffered=False) as there:
        theirs = NatsJournal(there, SUBJECTS)
        await theirs.prepare()
        async with leading(theirs) as leader:
            await some_tasks(leader, "first", 8)
        ends = (await theirs.bounds()).last
        async with leading(theirs) as leader:
            await some_tasks(leader, "second", 8)
        behind = await theirs.slot(ends + 1)
        assert behind is not None
        assert behind.kind == "claim"
        await busy(engine, ends)
        assert (await Archive(bus, SUBJECTS, tmp_path / "archive").run(before=ends + 1)).through == ends
        bounds = await theirs.bounds()
        for before in (2, ends, ends + 1, bounds.last):
            with pytest.raises(Refused, match="another journal"):
                await Archive(there, SUBJECTS, tmp_path / "archive").run(before=before)
        assert await theirs.bounds() == bounds
        assert await Snapshots(there, SUBJECTS).manifests() == []


async def test_an_archive_that_ends_with_a_claim_is_known_by_the_next_commit(
    bus: Bus, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """The same holds across the claim of a restore; until a commit follows it, nothing is purged."""
    async with leading(journal) as engine:
        await busy(engine)
    async with leading(_BackedUp(journal, bus, tmp_path / "backup")) as engine:
        await busy(engine, 2, "later")
    contents, _ = verify_records(tmp_path / "backup")
    claim = contents.last
    assert (await archive.run(before=claim + 1)).through == claim
    (tmp_path / "there").mkdir()
    async with real_server(tmp_path / "there") as other, Bus.open(other.url, name="there", buffered=False) as there:
        await restore(there, SUBJECTS, tmp_path / "backup", contents)
        restored, moving = NatsJournal(there, SUBJECTS), Archive(there, SUBJECTS, tmp_path / "archive")
        with pytest.raises(Refused, match="no commit after"):
            await moving.run(before=claim)
        assert await restored.bounds() == (1, claim + 1)
        world = await begun(restored, Snapshots(there, SUBJECTS))
        async with leading_on(restored, world.generation, world) as engine:
            await busy(engine, 2, "new")
            assert (await moving.run(before=engine.committed.sequence)).purged > 0
            source = ArchiveSource(tmp_path / "archive", restored)
            assert await replay_digest(source) == engine.world.digest()


class _BackedUp:
    """A journal with a backup taken right after a claim."""

    def __init__(self, journal: NatsJournal, bus: Bus, folder: Path) -> None:
        self._journal = journal
        self._bus = bus
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def claim(self, body: bytes) -> int:
        slot = await self._journal.claim(body)
        await backup.create(self._bus, SUBJECTS, self._folder)
        return slot


async def test_a_damaged_archive_is_told(
    bus: Bus, engine: Engine, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """Damage is found on reading and by `archive verify`; no newer commits are purged on top of a damaged archive."""
    await busy(engine)
    await archive.run(before=6)
    folder = tmp_path / "archive"
    contents = read_contents(folder, "archive")
    assert contents is not None
    path = folder / contents.segments[0].file
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 4]) + good[101:])
    with pytest.raises(Corrupt, match="damaged"):
        await replay_digest(ArchiveSource(folder, journal))
    said = await asyncio.to_thread(run, "archive", "verify", str(folder))
    assert (said.code, said.out) == (1, "")
    path.unlink()
    with pytest.raises(Corrupt, match="missing"):
        await replay_digest(ArchiveSource(folder, journal))


async def test_an_archived_journal_is_backed_up_and_restored(
    bus: Bus, journal: NatsJournal, archive: Archive, tmp_path: Path
) -> None:
    """A restored journal starts where the original started, its archive continues, and the drill folds all of it."""
    async with leading(journal) as engine:
        await a_bit_of_everything(engine)
        await busy(engine)
        await archive.run(before=engine.committed.sequence - 2)
        contents = await backup.create(bus, SUBJECTS, tmp_path / "backup")
    folder = tmp_path / "archive"
    assert contents.first > 1
    assert not verify_records(tmp_path / "backup")[1].folded
    assert verify_records(tmp_path / "backup", archive=folder)[1].folded
    assert (await drill(bus, SUBJECTS, archive=folder)).same
    with pytest.raises(Corrupt, match="--archive"):
        await drill(bus, SUBJECTS)
    live = await replay_digest(ArchiveSource(folder, journal), contents.last)
    (tmp_path / "there").mkdir()
    async with real_server(tmp_path / "there") as other, Bus.open(other.url, name="there", buffered=False) as there:
        await restore(there, SUBJECTS, tmp_path / "backup", contents)
        restored = NatsJournal(there, SUBJECTS)
        assert (await restored.bounds()).first == contents.first
        assert await replay_digest(ArchiveSource(folder, restored), contents.last) == live
        world = await begun(restored, Snapshots(there, SUBJECTS))
        async with leading_on(restored, world.generation, world) as engine:
            await some_tasks(engine, "new", 8)
        moved = await Archive(there, SUBJECTS, folder).run(before=(await restored.bounds()).last)
        assert moved.purged > 0
        assert await replay_digest(ArchiveSource(folder, restored)) == engine.world.digest()


async def test_the_command_line_archives(server: RealServer, engine: Engine, tmp_path: Path) -> None:
    """The cut is given by days or by slot, and by exactly one of them."""
    await busy(engine)
    folder = str(tmp_path / "archive")

    async def said(*words: str) -> Any:
        return await asyncio.to_thread(run, *words)

    ended = await said("archive", "run", folder, "--keep-days", "0", "--url", server.url)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["first"] == engine.committed.sequence
    ended = await said("archive", "verify", folder)
    assert json.loads(ended.out)["folded"] is True
    assert (await said("archive", "run", folder, "--url", server.url)).code == 2
