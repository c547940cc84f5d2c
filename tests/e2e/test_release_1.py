"""What release 1 wrote and said (tests/golden/release-1) can be opened, led, verified and answered by this code."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import tarfile
import zlib
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from nats.errors import NoRespondersError
from structlog.testing import capture_logs

from coordinator.archive.source import ArchiveSource
from coordinator.bus.connection import Bus
from coordinator.journal.replay import begun
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from events.subjects import Subjects
from projections.world import World
from tests.golden.release_journal import (
    SNAPSHOTS,
    Process,
    command,
    connected,
    differences,
    digest_of,
    folded,
    portrait,
    read_journal,
    serving,
)
from tests.golden.release_play import Calls, until
from tests.golden.release_wire import Exchange, recorded_with, replay

if TYPE_CHECKING:
    from projections.source import Record

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

FOLDER = Path(__file__).parent.parent / "golden" / "release-1"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
COMMANDS = frozenset(EXPECTED["commands"])
JOURNAL_BLOCK = "nats/jetstream/$G/streams/COORDINATION_JOURNAL/msgs/1.blk"


@pytest.fixture(scope="module")
def witnesses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All witnesses, unpacked; nothing may change them: a test that changes one takes a `copy`."""
    folder = tmp_path_factory.mktemp("release-1")
    with tarfile.open(FOLDER / "witnesses.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def copy(source: Path, into: Path) -> Path:
    """Copy a part of the witnesses, to be modified."""
    shutil.copytree(source, into, dirs_exist_ok=True)
    return into


def damage(file: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


async def journal_of(store: Path, tmp_path: Path) -> list[Record]:
    """Read the journal of a store."""
    async with serving(tmp_path / "reader", store) as server:
        return await read_journal(server.url)


def rows_of(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Read every table of a read model, each in order."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: sorted(database.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in tables}


def sequence_of(store: Path) -> int:
    """Return the position of a read model; 0 while there is none."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        try:
            return int(database.execute("SELECT sequence FROM position").fetchone()[0])
        except (sqlite3.OperationalError, TypeError):  # the file is being created
            return 0


def types_of(recorded: list[Exchange]) -> set[str]:
    """Return the types of the commands and questions in requests."""
    requests = [json.loads(one.request) for one in recorded]
    return {order["type"] for orders in requests if isinstance(orders, list) for order in orders}


async def work_goes_on(call: Calls) -> None:
    """Submit, claim and complete a task."""
    await call("worker.register", "register_worker", worker_id="of-now", handles=["now"])
    await call("task.submit", "submit_task", task_id="now", task_name="now")
    (given,) = await call("task.claim", "claim_tasks", claim_id="of-now", worker_id="of-now", wait_s=5)
    await call("task.complete", "complete_task", task_id="now", lease=given["lease"])
    assert (await call("task.get", "get_task", task_id="now"))["status"] == "completed"


async def test_its_journal_folds_to_the_same_world(witnesses: Path, tmp_path: Path) -> None:
    """Event by event, and row by row in each field that release 1 had; the chain is checked as well."""
    records = await journal_of(copy(witnesses / "home", tmp_path / "home") / "nats", tmp_path)
    world, kinds = folded(records)
    before = json.loads((witnesses / "world.json").read_bytes())
    assert digest_of(before) == EXPECTED["world"]
    for name in before.pop("remembered"):
        actor, _, commandid = name.partition("/")
        assert world.outcome_of(actor, commandid) is not None
    for name, keyed in before.pop("keyed").items():
        found = world.keyed_task(*name.split("/", 1))
        assert found is not None
        assert found.task_id == keyed["task_id"]
    assert list(differences(before, msgspec.json.decode(msgspec.json.encode(portrait(world))))) == []
    assert dict(kinds) == EXPECTED["kinds"]
    assert kinds.total() == EXPECTED["events"] >= 20_000
    assert [records[0].sequence, records[-1].sequence] == [EXPECTED["first"], EXPECTED["last"]]
    assert (str(world.position), world.chain.hex()) == (EXPECTED["position"], EXPECTED["chain"])


async def test_its_home_is_taken_up(witnesses: Path, tmp_path: Path) -> None:
    """`coordinator up` leads the old journal in a later reign, and work continues; verify passes before and after."""
    home = copy(witnesses / "home", tmp_path / "home")
    code, said, error = await command(tmp_path / "tools", "verify", "--home", str(home))
    assert code == 0, said + error
    async with Process.running(home, "up", "--port", "0") as up:
        await until(lambda: _is_running(home, up))
        async with Calls.open(json.loads((home / "running.json").read_text())["url"]) as call:
            stats = await call("coordinator.stats", "get_stats")
            generation, claim = map(int, stats["epoch"].split("."))
            assert (generation, claim) > (EXPECTED["generation"], EXPECTED["last"])
            assert stats["totals"]["tasks_completed"] >= EXPECTED["kinds"]["task.completed"]
            await work_goes_on(call)
            # A task that ended long ago, which only the read model has.
            # The read model is brought up to date meanwhile.
            await until(lambda: _is_told(call, "early-0", "completed"))
    code, said, error = await command(tmp_path / "tools", "verify", "--home", str(home))
    assert code == 0, said + error
    assert not list(home.glob("*.aside*"))


async def _is_told(call: Calls, task_id: str, status: str) -> bool:
    question = json.dumps({"kind": "task", "id": task_id}).encode()
    try:
        answer = json.loads((await call.connection.request("coordination.read.play.get", question, timeout=5)).data)
    except NoRespondersError:
        return False  # the follower has not begun to answer
    return "ok" in answer and answer["ok"]["status"] == status


async def _is_running(home: Path, up: Process) -> bool:
    assert up.code is None, up.log.read_text()
    return (home / "running.json").exists()


async def test_a_changed_byte_of_its_journal_is_noticed(witnesses: Path, tmp_path: Path) -> None:
    """`coordinator verify` finds the damage, so the tests above can fail."""
    home = copy(witnesses / "home", tmp_path / "home")
    damage(home / JOURNAL_BLOCK)
    code, said, _ = await command(tmp_path / "tools", "verify", "--home", str(home))
    assert code == 1, said


async def test_its_archive_and_the_archived_journal(witnesses: Path, tmp_path: Path) -> None:
    """The archive is valid; the journal that starts after it can be led, which only its snapshot makes possible."""
    code, said, error = await command(tmp_path / "tools", "archive", "verify", str(witnesses / "archive"))
    assert code == 0, error
    report = json.loads(said)
    assert (report["first"], report["last"]) == (1, EXPECTED["archived_through"])
    assert report["folded"]
    store = copy(witnesses / "archived", tmp_path / "archived") / "nats"
    async with serving(tmp_path / "server", store) as server:
        async with (
            Process.running(tmp_path / "home", "serve", "--without-follower", url=server.url),
            Calls.open(server.url) as call,
        ):
            await work_goes_on(call)
        archive = str(witnesses / "archive")
        code, said, error = await command(tmp_path / "tools", "verify", "--nats", server.url, "--archive", archive)
        assert code == 0, said + error


async def test_what_its_fold_did_not_keep_is_folded_again(witnesses: Path, tmp_path: Path) -> None:
    """With the archive, the converted snapshot gives the world that all records give; else what is missing is told."""
    store = copy(witnesses / "archived", tmp_path / "archived") / "nats"
    async with serving(tmp_path / "server", store) as server, Bus.open(server.url, name="test") as bus:
        journal, snapshots = NatsJournal(bus, Subjects()), Snapshots(bus, Subjects())
        archived = ArchiveSource(witnesses / "archive", journal)
        whole = World()
        async for records in archived.read(0, (await journal.bounds()).last):
            for record in records:
                whole.apply_record(record)
        with capture_logs() as logs:
            again = await begun(journal, snapshots, archived)
            short = await begun(journal, snapshots)
        assert again.digest() == whole.digest() != short.digest()
        assert short.digest_of_living() == whole.digest_of_living()
        assert [log["event"] for log in logs if log["event"].startswith("memory")] == [
            "memory_folded_again", "memory_incomplete",
        ]  # fmt: skip
        assert whole.memory.count > short.memory.count


async def test_without_its_snapshot_the_archived_journal_is_not_led(witnesses: Path, tmp_path: Path) -> None:
    """The journal cannot be led without its snapshot, so the test above proves that the snapshot is used."""
    store = copy(witnesses / "archived", tmp_path / "archived") / "nats"
    async with serving(tmp_path / "server", store) as server:
        async with connected(server.url) as connection:
            await connection.jetstream().purge_stream(SNAPSHOTS, subject="coordination.snapshot.>")
        async with Process.running(tmp_path / "home", "serve", "--without-follower", url=server.url) as coordinator:
            await until(lambda: _has_ended(coordinator))
            assert coordinator.code == 1, coordinator.log.read_text()


async def _has_ended(process: Process) -> bool:
    return process.code is not None


async def test_its_snapshot_is_the_world_at_its_position(witnesses: Path, tmp_path: Path) -> None:
    """The snapshot is restored as it was stored, and equals a fold of the journal up to its position."""
    manifest = json.loads((witnesses / "snapshot/manifest.json").read_bytes())
    chunks = sorted((witnesses / "snapshot").glob("chunk-*"), key=lambda path: int(path.name.partition("-")[2]))
    data = zlib.decompress(b"".join(path.read_bytes() for path in chunks))
    assert sha256(data).hexdigest() == manifest["digest"]
    restored = World.restore(data)
    records = await journal_of(copy(witnesses / "home", tmp_path / "home") / "nats", tmp_path)
    world, _ = folded(records, manifest["position"][0])
    assert portrait(restored) == portrait(world)
    assert restored.digest_of_living() == world.digest_of_living()
    assert (restored.remembers_since, world.remembers_since) == (world.time, 0.0)
    assert str(restored.position) == EXPECTED["snapshot_position"]
    assert manifest["fold_version"] == EXPECTED["fold_version"]


async def test_its_backup_is_restored(witnesses: Path, tmp_path: Path) -> None:
    """The backup is valid; a new server gets the same slots plus a new generation. A damaged backup is refused."""
    backup = copy(witnesses / "backup", tmp_path / "backup")
    code, said, error = await command(tmp_path / "tools", "backup", "verify", str(backup))
    assert code == 0, error
    assert json.loads(said)["folded"]
    home = tmp_path / "restored"
    code, said, error = await command(home, "backup", "restore", str(backup))
    assert code == 0, error
    assert json.loads(said)["generation"] > EXPECTED["generation"]
    code, said, error = await command(tmp_path / "tools", "verify", "--home", str(home))
    assert code == 0, said + error
    before = await journal_of(copy(witnesses / "home", tmp_path / "home") / "nats", tmp_path)
    after = await journal_of(home / "nats", tmp_path)
    assert [(one.kind, one.body, one.chain) for one in after[:-1]] == [
        (one.kind, one.body, one.chain) for one in before
    ]
    assert after[-1].kind == "claim"
    damage(next(backup.glob("*.records.gz")))
    code, _, error = await command(tmp_path / "tools", "backup", "verify", str(backup))
    assert code == 1, error


async def test_its_read_model_is_taken_up(witnesses: Path, tmp_path: Path) -> None:
    """A follower continues with it where old commits left the journal; one built from the archive has equal rows."""
    store = copy(witnesses / "archived", tmp_path / "archived") / "nats"
    taken_up, rebuilt = tmp_path / "taken-up", tmp_path / "rebuilt"
    taken_up.mkdir()
    shutil.copy(witnesses / "home/state.db", taken_up)
    async with serving(tmp_path / "server", store) as server:
        async with (
            Process.running(tmp_path / "home", "serve", "--without-follower", url=server.url),
            Calls.open(server.url) as call,
        ):
            await work_goes_on(call)
        last = (await read_journal(server.url))[-1].sequence
        archive = {"COORDINATOR_FOLLOWER__ARCHIVE": str(witnesses / "archive"), "COORDINATOR_FEED__MODE": "none"}
        for home, variables in ((taken_up, {"COORDINATOR_FEED__MODE": "none"}), (rebuilt, archive)):
            async with Process.running(home, "follow", url=server.url, **variables):
                await until(lambda home=home: _is_as_far(home / "state.db", last))  # type: ignore[misc]
    assert not list(taken_up.glob("*.aside*"))
    first, second = rows_of(taken_up / "state.db"), rows_of(rebuilt / "state.db")
    assert first == second
    assert sum(map(len, first.values())) > EXPECTED["events"]


async def _is_as_far(store: Path, last: int) -> bool:
    return await asyncio.to_thread(sequence_of, store) >= last


async def test_its_requests_are_answered_alike(tmp_path: Path) -> None:
    """
    Each request of its clients, sent again to a fresh journal, gets the same answer, byte for byte.

    Values that differ from run to run and texts for people are masked: `MASKED` in tests/golden/release_wire.py lists
    these fields, with reasons.
    """
    lines = (FOLDER / "wire.jsonl").read_bytes().splitlines()
    recorded = [msgspec.json.decode(line, type=Exchange) for line in lines]
    assert len(recorded) == EXPECTED["exchanges"]
    assert types_of(recorded) >= COMMANDS
    (tmp_path / "nats").mkdir()
    async with (
        serving(tmp_path / "server", tmp_path / "nats") as server,
        recorded_with(tmp_path / "home", server.url),
    ):
        assert await replay(server.url, recorded) == []
