"""Backups of a live journal, and operation after a restore into another nats-server."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.archive.archive import Archive
from coordinator.archive.manifest import MANIFEST, read_contents, write_contents
from coordinator.archive.verify import verify_records
from coordinator.backup import create as backup
from coordinator.backup.drill import drill
from coordinator.backup.restore import restore
from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.clock import SystemClock
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.task import ClaimTasks, CompleteTask, GetTask, SubmitTask
from coordinator.errors import Corrupt, NotFound, Refused, StaleLease, Unavailable
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.journal.replay import begun
from coordinator.journal.slots import Deposed, Epoch
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.fake import FakeRuntime
from coordinator.task_groups import task_group
from events.resources import Resources
from events.subjects import Subjects
from tests.commands import run, running
from tests.journal_worlds import read
from tests.journals import CALLER, a_bit_of_everything, folded, leading, rows_of, some_tasks, states_of
from tests.real_server import RealServer, real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.archive.manifest import Contents
    from coordinator.backup.restore import Restored

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
PATIENCE_S = 30.0
QUICK = FollowerLimits(first_pause_s=0.01, longest_pause_s=0.1)


class Place:
    """A nats-server with its journal."""

    def __init__(self, server: RealServer, bus: Bus) -> None:
        self.url = server.url
        self.server = server
        self.bus = bus
        self.journal = NatsJournal(bus, SUBJECTS)
        self.snapshots = Snapshots(bus, SUBJECTS)

    async def restore(self, folder: Path, **options: Any) -> Restored:
        """Verify a backup and restore it here."""
        contents, _ = verify_records(folder)
        return await restore(self.bus, SUBJECTS, folder, contents, **options)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Place]:
    folder.mkdir()  # noqa: ASYNC240
    async with real_server(folder) as server, Bus.open(server.url, name="test", buffered=False) as bus:
        yield Place(server, bus)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Place]:
    """The live server."""
    async with place(tmp_path / "here") as live:
        await live.journal.prepare()
        yield live


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Place]:
    """An empty server to restore into."""
    async with place(tmp_path / "there") as empty:
        yield empty


async def backed_up(here: Place, folder: Path, *, name: str = "a") -> Contents:
    """Create events of every kind, and back the journal up."""
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine, name)
    return await backup.create(here.bus, SUBJECTS, folder)


async def test_a_backup_is_of_one_moment_while_writing_goes_on(here: Place, there: Place, tmp_path: Path) -> None:
    """Writers are not blocked, and the restored journal is the original, slot by slot and byte for byte."""
    folder = tmp_path / "backup"
    over = asyncio.Event()

    async def work(engine: Any) -> None:
        number = 0
        while not over.is_set():
            await some_tasks(engine, f"w{number}", 20)
            number += 1

    async with leading(here.journal) as engine, asyncio.TaskGroup() as tasks:
        await a_bit_of_everything(engine)
        working = tasks.create_task(work(engine))
        await asyncio.sleep(0.3)
        before = engine.committed
        contents = await backup.create(here.bus, SUBJECTS, folder)
        after = engine.committed
        await some_tasks(engine, "later", 20)
        over.set()
        await working
    assert before.sequence <= contents.last <= after.sequence
    restored = await there.restore(folder)
    assert (restored.first, restored.last) == (1, contents.last)
    assert await read(there.journal, 0, contents.last) == await read(here.journal, 0, contents.last)
    live = await folded(here.journal, contents.last)
    assert contents.snapshot is not None
    assert contents.snapshot.digest == live.digest() == (await folded(there.journal, contents.last)).digest()
    world = await folded(there.journal)
    assert (world.generation, world.epoch) == (restored.generation, contents.last + 1)
    assert (await begun(there.journal, there.snapshots)).digest() == world.digest()


async def test_everything_goes_on_after_a_restore(here: Place, there: Place, tmp_path: Path) -> None:
    """Pending tasks complete under their ids, running ones are queued again, and nothing of the old reign acts."""
    folder = tmp_path / "backup"
    async with leading(here.journal) as engine:
        for number in range(6):
            await engine.execute(SubmitTask(task_id=f"t{number}", task_name="n", idempotency_key=f"k{number}"), CALLER)
        held = await engine.execute(ClaimTasks(claim_id="c", worker_id="w", slots=2, wait_s=1), CALLER)
        await backup.create(here.bus, SUBJECTS, folder)
        for task in held:  # after the backup: the restored journal does not have it
            await engine.execute(CompleteTask(task_id=task.task_id, lease=task.lease), CALLER)
        lost = await engine.execute(ClaimTasks(claim_id="d", worker_id="w", slots=4, wait_s=1), CALLER)
        await engine.execute(SubmitTask(task_id="never", task_name="n"), CALLER)
        old = engine.epoch
        old_last, old_chain = engine.world.position.sequence, engine.world.chain
    restored = await there.restore(folder)
    with running("serve", "--without-follower", written=tmp_path / "out", COORDINATOR_URL=there.url):
        async with Client.open(there.url) as client:
            stats = await client.execute(GetStats(), timeout_s=PATIENCE_S)
            assert stats.epoch.startswith(f"{restored.generation}.")
            for task in (*held, *lost):
                with pytest.raises(StaleLease):
                    await until_released(client, task.task_id, task.lease)
            with pytest.raises(NotFound):
                await client.execute(GetTask(task_id="never"), timeout_s=PATIENCE_S)
            again = SubmitTask(task_id="other", task_name="n", idempotency_key="k3")
            assert await client.execute(again, timeout_s=PATIENCE_S) == "t3"
            done: set[str] = set()
            while len(done) < 6:
                claim = ClaimTasks(claim_id=f"e{len(done)}", worker_id="v", slots=6, wait_s=5)
                for task in await client.execute(claim, timeout_s=PATIENCE_S):
                    await client.execute(CompleteTask(task_id=task.task_id, lease=task.lease), timeout_s=PATIENCE_S)
                    done.add(task.task_id)
            assert done == {f"t{number}" for number in range(6)}
        # A writer of the old reign that finds the restored journal is refused, whatever slot it is at.
        for sequence in (old_last + 1, restored.last + 1, (await there.journal.bounds()).last + 1):
            async with Bus.open(there.url, name="old", buffered=False) as stale, asyncio.timeout(PATIENCE_S):
                with pytest.raises((Deposed, Corrupt)):
                    await NatsJournal(stale, SUBJECTS).commit(sequence, old, old_chain, b"[]")
    world = await folded(there.journal)
    assert {one.status.value for one in world.tasks.values()} == {"completed"}
    assert world.generation == restored.generation > old.generation
    assert Epoch(world.generation, world.epoch) > old


async def until_released(client: Client, task_id: str, lease: str) -> None:
    """Report under an old lease after the writer's first turn, in which it checks leases."""

    async def released() -> bool:
        task = await client.execute(GetTask(task_id=task_id), timeout_s=PATIENCE_S)
        return bool(task.status.value != "running")

    await until(released)
    await client.execute(CompleteTask(task_id=task_id, lease=lease), timeout_s=PATIENCE_S)


async def test_the_read_model_of_a_lost_future_is_set_aside(here: Place, there: Place, tmp_path: Path) -> None:
    """A read model ahead of the restored journal, or overtaken by it, is detected by the generation and rebuilt."""
    folder, ahead, overtaken = tmp_path / "backup", tmp_path / "ahead.db", tmp_path / "overtaken.db"
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine)
        await backup.create(here.bus, SUBJECTS, folder)
        await some_tasks(engine, "lost", 12)
    for path in (ahead, overtaken):
        async with Follower.open(here.url, path, limits=QUICK) as follower:
            await (await follower.wait_opened(PATIENCE_S)).wait_for(engine.committed, PATIENCE_S)
    restored = await there.restore(folder)
    assert restored.claim < (await here.journal.bounds()).last
    await expect_built_anew(there, ahead)
    async with leading(there.journal, generation=restored.generation) as engine:
        for number in range(6):
            await some_tasks(engine, f"new{number}", 12)
    await expect_built_anew(there, overtaken)


async def expect_built_anew(there: Place, path: Path) -> None:
    last = (await there.journal.bounds()).last
    async with Follower.open(there.url, path, limits=QUICK) as follower:

        async def is_anew() -> bool:
            store = follower.store
            aside = path.with_name(f"{path.name}.aside").exists()
            return aside and store is not None and store.position().position.sequence >= last

        await until(is_anew)
        assert follower.store is not None
        assert await rows_of(follower.store) == states_of(await folded(there.journal))


async def until(so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await so():
                return
            await asyncio.sleep(0.02)


async def test_a_node_adopts_what_the_journal_knows_and_ends_the_rest(
    here: Place, there: Place, tmp_path: Path
) -> None:
    """A container that ran at the backup keeps running under its generation; a later one is stopped and removed."""
    async with FakeRuntime(cluster="coordination", now=SystemClock().wall) as runtime:
        async with coordinating(here) as client, serving(client, runtime):
            await start_container(client, "kept")
            await backup.create(here.bus, SUBJECTS, tmp_path / "backup")
            await start_container(client, "gone")
        before = {one.container_id: one for one in await runtime.list()}
        assert set(before) == {"kept", "gone"}
        restored = await there.restore(tmp_path / "backup")
        async with coordinating(there) as client, serving(client, runtime):

            async def is_true() -> bool:
                return [one.container_id for one in await runtime.list()] == ["kept"]

            await until(is_true)
            assert await runtime.list() == [before["kept"]]
            seen = await client.execute(GetContainer(container_id="kept"), timeout_s=PATIENCE_S)
            assert (seen.status.value, seen.generation) == ("running", before["kept"].generation)
            await start_container(client, "new")
            assert runtime.launches[-1].epoch.startswith(f"{restored.generation}.")


@asynccontextmanager
async def coordinating(place: Place) -> AsyncIterator[Client]:
    """Run a coordinator, and yield a client of it."""
    coordinator = Coordinator(Instance(url=place.url, name="tested", version="0"))
    async with task_group() as tasks, Client.open(place.url, name="test") as client:
        running = tasks.create_task(coordinator.run())
        await asyncio.wait_for(coordinator.leading.wait(), PATIENCE_S)
        yield client
        coordinator.stop("the test is over")
        await running


@asynccontextmanager
async def serving(client: Client, runtime: FakeRuntime) -> AsyncIterator[None]:
    """Serve a node with the resources of this machine."""
    options = {"capacity": Resources(cpu_millis=4000, memory_bytes=1 << 30), "secrets": Path(), "interval_s": 0.05}
    async with NodeAgent.open(client, runtime, node_id="n", reach={}, **options) as agent:
        await asyncio.wait_for(agent.ready.wait(), PATIENCE_S)
        yield


async def start_container(client: Client, name: str) -> None:
    create = CreateContainer(container_id=name, agent_id=name, agent_type="task_agent")
    await client.execute(create, timeout_s=PATIENCE_S)
    await client.execute(StartContainer(container_id=name), timeout_s=PATIENCE_S)

    async def runs() -> bool:
        found = await client.execute(GetContainer(container_id=name), timeout_s=PATIENCE_S)
        return bool(found.status.value == "running")

    await until(runs)


async def test_only_an_empty_nats_is_restored_into(here: Place, there: Place, tmp_path: Path) -> None:
    """A restore is refused onto a journal, under a running coordinator, a second time, and under another name."""
    await backed_up(here, tmp_path / "backup")
    with pytest.raises(Refused, match="has a journal of slots 1 to"):
        await here.restore(tmp_path / "backup")
    contents, _ = verify_records(tmp_path / "backup")
    with pytest.raises(Refused, match="namespace"):
        await restore(there.bus, Subjects("other"), tmp_path / "backup", contents)
    with pytest.raises(Refused, match="higher"):
        await there.restore(tmp_path / "backup", generation=1)
    await there.restore(tmp_path / "backup", generation=2)
    with pytest.raises(Refused, match="empty"):
        await there.restore(tmp_path / "backup")
    assert (await folded(there.journal)).generation == 2


async def test_two_restores_of_one_backup_are_two_generations(here: Place, there: Place, tmp_path: Path) -> None:
    """Writers of the first restore cannot act on the second: each restore has its own, higher generation."""
    await backed_up(here, tmp_path / "backup")
    first = await there.restore(tmp_path / "backup")
    await asyncio.sleep(1.1)
    async with place(tmp_path / "elsewhere") as elsewhere:
        second = await elsewhere.restore(tmp_path / "backup")
    assert second.generation > first.generation > 1
    assert second.claim == first.claim


async def test_nobody_leads_on_half_of_a_journal(here: Place, there: Place, tmp_path: Path) -> None:
    """A restore interrupted at any point is reported to a coordinator that starts, and completes when run again."""
    contents = await backed_up(here, tmp_path / "backup")
    whole = await read(here.journal, 0, contents.last)
    cut = _Cut(there.bus, after=7)
    with pytest.raises(Unavailable):
        await restore(cut, SUBJECTS, tmp_path / "backup", contents)  # type: ignore[arg-type]
    assert 0 < (await there.journal.bounds()).last < contents.last
    with pytest.raises(Corrupt, match="being restored"):
        await begun(there.journal, there.snapshots)
    cut.after = contents.last
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(restore(cut, SUBJECTS, tmp_path / "backup", contents), 2)  # type: ignore[arg-type]
    assert await read(there.journal, 0, contents.last) == whole
    with pytest.raises(Corrupt, match="cut off"):  # everything except the claim
        await begun(there.journal, there.snapshots)
    restored = await there.restore(tmp_path / "backup")
    assert (await begun(there.journal, there.snapshots)).generation == restored.generation


@pytest.mark.parametrize("before", [None, 6], ids=["whole", "archived"])
async def test_nobody_makes_the_journal_of_a_restore_that_was_cut_off(
    here: Place, there: Place, tmp_path: Path, before: int | None
) -> None:
    """Interrupted before the stream is made: a starting coordinator reports it and makes none; the restore resumes."""
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine)
        if before is not None:
            await Archive(here.bus, SUBJECTS, tmp_path / "archive").run(before=before)
    contents = await backup.create(here.bus, SUBJECTS, tmp_path / "backup")
    assert contents.first == (before or 1)
    with pytest.raises(Unavailable, match="cut off"):
        await restore(_Unmade(there.bus), SUBJECTS, tmp_path / "backup", contents)  # type: ignore[arg-type]
    for _ in range(2):
        coordinator = Coordinator(Instance(url=there.url, name="tested", version="0"))
        with pytest.raises(Corrupt, match="of it was begun"):
            await asyncio.wait_for(coordinator.run(), PATIENCE_S)
    with pytest.raises(Unavailable, match="no stream"):
        await there.journal.bounds()
    restored = await there.restore(tmp_path / "backup")
    assert restored.first == contents.first
    async with coordinating(there) as client:
        stats = await client.execute(GetStats(), timeout_s=PATIENCE_S)
        assert stats.epoch.startswith(f"{restored.generation}.")


class _Unmade:
    """A bus that fails before the journal's stream is made."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def js_request(self, api: str, payload: Any = b"", *, timeout_s: float) -> Any:
        if api == f"STREAM.CREATE.{SUBJECTS.stream_journal}":
            raise Unavailable("cut off")
        return await self._bus.js_request(api, payload, timeout_s=timeout_s)


class _Cut:
    """A bus that fails for good after so many records."""

    def __init__(self, bus: Bus, *, after: int) -> None:
        self._bus = bus
        self.after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def js_publish(self, subject: str, data: bytes, headers: Any = None, *, timeout_s: float) -> Any:
        last = int((headers or {}).get("Nats-Expected-Last-Sequence", -1))
        if subject in (SUBJECTS.journal, SUBJECTS.epoch) and (last >= self.after or (last < 0 and self.after)):
            raise Unavailable("cut off")
        return await self._bus.js_publish(subject, data, headers, timeout_s=timeout_s)


def test_any_flipped_byte_is_found(tmp_path: Path) -> None:
    """A changed byte is found in every file, the manifest included; so is a truncated or missing file."""
    asyncio.run(_make(tmp_path))
    folder = tmp_path / "backup"
    verify_records(folder)
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(files) == 3
    for path in files:
        good = path.read_bytes()
        for at in {0, 1, len(good) // 3, len(good) // 2, len(good) - 9, len(good) - 1}:
            path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
            with pytest.raises((Corrupt, Refused)):
                verify_records(folder, fold=False)
        for short in (good[:-1], good[: len(good) // 2], b""):
            path.write_bytes(short)
            with pytest.raises((Corrupt, Refused)):
                verify_records(folder, fold=False)
        path.unlink()
        with pytest.raises((Corrupt, NotFound)):
            verify_records(folder, fold=False)
        path.write_bytes(good)
    assert verify_records(folder)[1].folded


async def _make(tmp_path: Path) -> None:
    async with place(tmp_path / "here") as live:
        await live.journal.prepare()
        await backed_up(live, tmp_path / "backup")


async def test_a_damaged_backup_is_not_restored(here: Place, there: Place, tmp_path: Path) -> None:
    """Not one record of a damaged backup reaches NATS."""
    contents = await backed_up(here, tmp_path / "backup")
    path = tmp_path / "backup" / contents.segments[0].file
    good = path.read_bytes()
    path.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    said = await asyncio.to_thread(run, "backup", "restore", str(tmp_path / "backup"), "--nats", there.url)
    assert (said.code, said.out) == (1, "")
    assert "is damaged" in said.err
    with pytest.raises(Unavailable):
        await there.journal.bounds()


async def test_what_was_not_finished_is_no_backup(here: Place, tmp_path: Path) -> None:
    """An unfinished backup is not under its final name; the next one replaces what was left."""
    left = tmp_path / "backup.partial"
    left.mkdir()
    (left / "000000000001.partial").write_bytes(b"half")
    await backed_up(here, tmp_path / "backup")
    assert not left.exists()
    with pytest.raises(Refused, match="exists"):
        await backup.create(here.bus, SUBJECTS, tmp_path / "backup")
    (tmp_path / "backup" / MANIFEST).unlink()
    with pytest.raises(NotFound, match="not finished"):
        verify_records(tmp_path / "backup")


async def test_an_empty_journal_is_not_backed_up(here: Place, tmp_path: Path) -> None:
    """A missing journal cannot be backed up either."""
    with pytest.raises(Refused, match="nothing to back up"):
        await backup.create(here.bus, SUBJECTS, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_a_damaged_journal_is_not_backed_up(here: Place, tmp_path: Path) -> None:
    """A record that another program wrote into the journal is reported."""
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine)
    await here.bus.js_publish(SUBJECTS.journal, b"[]", timeout_s=5)
    with pytest.raises(Corrupt, match="chain"):
        await backup.create(here.bus, SUBJECTS, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


async def test_the_drill_says_that_a_backup_is_good(here: Place, tmp_path: Path) -> None:
    """The drill restores into a server of its own, compares worlds, and leaves nothing behind."""
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine)
        await here.snapshots.write((await folded(here.journal)).frozen())
        await some_tasks(engine, "later", 12)
        (tmp_path / "place").mkdir()
        drilled = await drill(here.bus, SUBJECTS, folder=tmp_path / "place")
    assert drilled.same
    assert drilled.live_digest == (await folded(here.journal, drilled.last)).digest()
    assert list((tmp_path / "place").iterdir()) == []


async def test_the_command_line_backs_up_verifies_restores_and_drills(here: Place, tmp_path: Path) -> None:
    """A restore can also go into this machine's own store, from which `up` then continues."""
    async with leading(here.journal) as engine:
        await a_bit_of_everything(engine)
    folder, home = str(tmp_path / "backup"), tmp_path / "restored"

    async def said(*words: str) -> Any:
        ended = await asyncio.to_thread(run, *words)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    created = await said("backup", "create", folder, "--url", here.url)
    verified = await said("backup", "verify", folder)
    assert (verified["last"], verified["digest"], verified["folded"]) == (created["last"], created["digest"], True)
    assert (await said("backup", "verify", folder, "--quick"))["folded"] is False
    assert (await said("backup", "drill", "--url", here.url))["same"] is True
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COORDINATOR_HOME", str(home))
        restored = await said("backup", "restore", folder)
        assert restored["last"] == created["last"]
        again = await asyncio.to_thread(run, "backup", "restore", folder)
        assert (again.code, again.out) == (5, "")
    missing = await asyncio.to_thread(run, "backup", "verify", str(home))
    assert missing.code == 4


def test_a_manifest_cannot_lead_out_of_its_directory(tmp_path: Path) -> None:
    """A backup with unsafe contents is refused, whoever wrote it and even if its hashes are right."""
    asyncio.run(_make(tmp_path))
    folder = tmp_path / "backup"
    contents = read_contents(folder, "backup")
    assert contents is not None
    stray = msgspec.structs.replace(contents.segments[0], file="../here/nats.conf")
    write_contents(folder, msgspec.structs.replace(contents, segments=(stray,)))
    with pytest.raises(Corrupt, match="not in the directory"):
        verify_records(folder)
