"""The store in a file against what happens to files: crashes, damage, deletion, full disks, other programs."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.errors import Unavailable
from events.base import START, Position
from events.task import TaskStatus
from projections.store import sqlite as store_sqlite
from projections.store.port import KINDS, STORE_BUSY, Batch, EventRow, Mark, StoredEvents, StoreUnfit, place_of
from projections.store.sqlite import SCHEMA_VERSION, SqliteStore, set_aside
from projections.task import Task
from projections.upgrade import FOLD_VERSION

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state.db"


def batch(store: SqliteStore, sequence: int, tasks: int = 1, size: int = 10) -> Batch:
    """Make the batch that brings the store to *sequence*, with new tasks of *size* bytes."""
    places = [Position(sequence, index) for index in range(tasks)]
    made = [
        Task(task_id=f"task-{at}", task_name="x" * size, status=TaskStatus.PENDING, submitted=at, submitted_at=1.0)
        for at in places
    ]
    return Batch(
        before=store.position().position,
        after=Mark(position=Position(sequence, tasks)),
        events=[EventRow(place_of(at), "task.submitted", "task", "x", "", "", "", "", b"x" * size) for at in places],
        states={"task": {one.task_id: one for one in made}},
    )


async def contents(store: SqliteStore) -> tuple[int, int, Position]:
    """Count tasks and events, and return the position."""
    things = await store.list("task", limit=10_000)
    events = await store.events(limit=10_000)
    return len(things.items), len(events.items), store.position().position


async def fill(path: Path, batches: int = 3) -> None:
    async with SqliteStore.open(path) as store:
        for sequence in range(1, batches + 1):
            await store.write(batch(store, sequence))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


def aside(path: Path) -> Path:
    return path.with_name("state.db.aside")


async def test_what_was_written_is_there_after_a_restart(path: Path) -> None:
    """The position, the rows and the events are unchanged."""
    await fill(path)
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (3, 3, Position(3, 1))
        assert await store.check() == ()


async def test_the_file_is_its_owners_alone(path: Path) -> None:
    """Nobody else may read the file or folder, whatever the umask."""
    before = os.umask(0)
    try:
        await fill(path)
    finally:
        os.umask(before)
    assert [mode(one) for one in (path, path.parent)] == [0o600, 0o700]


async def test_a_file_that_is_no_database_is_moved_aside(path: Path) -> None:
    """The old store is kept unchanged, and a new one is created."""
    put(path, b"hello, this is no database\n" * 1000)
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)
    assert aside(path).read_bytes().startswith(b"hello")


@pytest.mark.parametrize(
    "change",
    [
        f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
        "PRAGMA user_version = 0",
        f"UPDATE position SET fold_version = {FOLD_VERSION + 1}",
    ],
)
async def test_a_store_of_another_release_is_moved_aside(path: Path, change: str) -> None:
    """Another schema or another fold makes other rows: rebuild rather than mix."""
    await fill(path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(change)
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)
        await store.write(batch(store, 1))
    assert aside(path).exists()


async def test_only_the_last_one_moved_aside_is_kept(path: Path) -> None:
    """A store that is rebuilt repeatedly does not fill the disk."""
    for _ in range(3):
        await fill(path)
        set_aside(path, "for the test")
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.db.aside"]
    async with SqliteStore.open(aside(path)) as store:
        assert await contents(store) == (3, 3, Position(3, 1))


async def test_what_a_crash_left_is_moved_aside_whole(path: Path) -> None:
    """File and log move together: the old store can still be read, and the new one never sees the old log."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1, tasks=20))
        shutil.copytree(path.parent, path.parent.with_name("crashed"))
    crashed = path.parent.with_name("crashed") / path.name
    set_aside(crashed, "for the test")
    async with SqliteStore.open(crashed) as store, SqliteStore.open(aside(crashed)) as old:
        assert await contents(store) == (0, 0, START)
        assert await contents(old) == (20, 20, Position(1, 20))


async def test_a_store_that_cannot_be_moved_aside_says_so(path: Path) -> None:
    """The message names the file, and why it was set aside."""
    await fill(path)
    (path.parent / "state.db.aside").mkdir()
    with pytest.raises(Unavailable, match=r"state\.db cannot be moved aside .* for the test"):
        set_aside(path, "for the test")
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (3, 3, Position(3, 1))


async def test_pages_damaged_underneath_are_noticed(path: Path) -> None:
    """A damaged page is found by `check`, and by a reader of it: the store is unfit, and is rebuilt on opening."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1, tasks=2000, size=200))
    with path.open("r+b") as file:
        file.seek(4096 * 20)
        file.write(os.urandom(4096 * 60))
    async with SqliteStore.open(path) as store:
        assert await store.check() != ()
        with pytest.raises(StoreUnfit, match="damaged"):
            await contents(store)
    set_aside(path, "damaged")
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)


async def test_a_damaged_beginning_is_moved_aside_on_opening(path: Path) -> None:
    """Schema and position are read at the start; where they cannot be, the store is rebuilt automatically."""
    await fill(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)


async def test_a_position_behind_its_events_is_found(path: Path) -> None:
    """`check` compares the position with the events: a difference means they were not written in one transaction."""
    await fill(path)
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE position SET sequence = 2")
    async with SqliteStore.open(path) as store:
        assert await store.check() == ("the store contains an event at 3.0, but its position is 2.1",)


async def test_a_deleted_file_is_begun_anew(path: Path) -> None:
    """Deleting the file is enough: a log left behind is ignored."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1, tasks=50))
        logs = {name: path.with_name(name).read_bytes() for name in ("state.db-wal", "state.db-shm")}
    delete(path)
    for name, data in logs.items():
        put(path.with_name(name), data)
    assert logs["state.db-wal"]
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)
        await store.write(batch(store, 1))
        assert await store.check() == ()


async def test_a_file_deleted_while_open_is_noticed(path: Path) -> None:
    """Nobody would ever read what is written into a deleted file: the store is unfit."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1))
        delete(path)
        with pytest.raises(StoreUnfit, match="removed"):
            await store.write(batch(store, 2))
        with pytest.raises(StoreUnfit, match="removed"):
            await store.check()
        assert await contents(store) == (1, 1, Position(1, 1))
    async with SqliteStore.open(path) as store:
        assert await contents(store) == (0, 0, START)


async def test_a_full_disk_keeps_nothing_of_the_batch_and_passes(path: Path) -> None:
    """A batch that does not fit leaves no trace; the same batch is accepted when there is room again."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1))
        [(pages,)] = await store._writer.execute_fetchall("PRAGMA page_count")
        await store._writer.execute_fetchall(f"PRAGMA max_page_count = {pages + 5}")
        large = batch(store, 2, tasks=500, size=1000)
        for _ in range(2):
            with pytest.raises(Unavailable, match="full") as caught:
                await store.write(large)
            assert caught.value.reason == STORE_BUSY
            assert not isinstance(caught.value, StoreUnfit)
            assert await contents(store) == (1, 1, Position(1, 1))
        await store._writer.execute_fetchall("PRAGMA max_page_count = 1000000")
        await store.write(large)
        assert await contents(store) == (501, 501, Position(2, 500))
        assert await store.check() == ()


async def test_another_program_that_holds_the_file_passes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of another program is waited for, then reported as an error that may be retried."""
    monkeypatch.setattr(store_sqlite, "BUSY_TIMEOUT_S", 0.05)
    async with SqliteStore.open(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="locked") as caught:
                await store.write(batch(store, 1))
            other.execute("ROLLBACK")
        assert caught.value.reason == STORE_BUSY
        await store.write(batch(store, 1))


async def test_a_place_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    """The message names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=r"file/state\.db cannot be opened"):
        async with SqliteStore.open(tmp_path / "file" / "state.db"):
            pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unavailable, match="folder cannot be opened"):
        async with SqliteStore.open(tmp_path / "folder"):
            pass


async def test_a_closed_store_is_unavailable(path: Path) -> None:
    """A caller after the close gets that error, and a reader in progress gets no other one."""
    async with SqliteStore.open(path) as store:
        await store.write(batch(store, 1, tasks=5000))
        reading = asyncio.ensure_future(store.events(limit=5000))
        await asyncio.sleep(0.002)
    [outcome] = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(outcome, Unavailable | StoredEvents)
    for question in (store.get("task", "x"), store.write(batch(store, 2)), store.check()):
        with pytest.raises(Unavailable, match="closed"):
            await question


async def test_a_batch_cancelled_anywhere_is_all_or_nothing(path: Path) -> None:
    """Wherever the writer is cancelled, the store is at the position before or after, with the matching rows."""
    async with SqliteStore.open(path) as store:
        for turn in range(30):
            tasks_before, _, before = await contents(store)
            made = batch(store, turn + 1, tasks=20)
            writing = asyncio.ensure_future(store.write(made))
            for _ in range(turn):
                await asyncio.sleep(0)
            await asyncio.sleep(turn / 20_000)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            # A commit whose success was not seen is found by trying again.
            await store.write(made)
            assert await contents(store) == (tasks_before + 20, tasks_before + 20, Position(turn + 1, 20))
            assert before < store.position().position
        assert await store.check() == ()


async def test_a_copy_taken_at_any_moment_is_whole(path: Path, tmp_path: Path) -> None:
    """The state a crash leaves, file and log as they are, opens with position and rows of one batch."""
    for sequence in range(1, 6):
        async with SqliteStore.open(path) as store:
            await store.write(batch(store, sequence, tasks=10))
            await store._writer.execute_fetchall("BEGIN IMMEDIATE")
            await store._writer.execute_fetchall("INSERT INTO events VALUES (1, '', '', '', '', '', '', '', '')")
            crashed = tmp_path / f"crashed-{sequence}"
            shutil.copytree(path.parent, crashed)
            await store._writer.rollback()
        async with SqliteStore.open(crashed / "state.db") as left:
            assert await contents(left) == (sequence * 10, sequence * 10, Position(sequence, 10))
            assert await left.check() == ()


@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_read_by_an_index(kind: str) -> None:
    """No page of a list sorts, and pages of tasks never read more rows than they return."""
    plan = _plan(f"{store_sqlite.LIST[kind]} {store_sqlite.NEWEST_FIRST}", 5, 10)
    assert "SEARCH" in plan
    assert "TEMP B-TREE" not in plan
    if kind == "task":
        for clause in (store_sqlite.WITH_STATUS, store_sqlite.WITH_NAME, store_sqlite.WITH_TENANT):
            plan = _plan(f"{store_sqlite.LIST[kind]} {clause} {store_sqlite.NEWEST_FIRST}", 5, "x", 10)
            assert "USING INDEX tasks_by_" in plan
            assert "TEMP B-TREE" not in plan


def test_events_are_read_by_an_index() -> None:
    """A page of events neither sorts nor reads events of other subjects or kinds."""
    for clauses, values, index in (
        ((), (), "PRIMARY KEY"),
        ((store_sqlite.OF_SUBJECT,), ("x",), "events_by_subject"),
        ((store_sqlite.OF_KIND,), ("task",), "events_by_kind"),
        ((store_sqlite.OF_KIND, store_sqlite.OF_TYPE), ("task", 4, "task"), "events_by_kind"),
    ):
        for order in (store_sqlite.IN_ORDER, store_sqlite.FROM_END):
            plan = _plan(" ".join((store_sqlite.GET_EVENTS, *clauses, order)), 0, *values, 10)
            assert index in plan
            assert "TEMP B-TREE" not in plan


def _plan(statement: str, *values: Any) -> str:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(store_sqlite.SCHEMA + store_sqlite.ADDED)
        return "; ".join(row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values))
