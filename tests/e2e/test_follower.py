"""Followers as processes of their own, over a real nats-server: killed, deleted, cut off, given wrong records."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.diagnostics.findings import State
from coordinator.diagnostics.read_model import compare_store
from coordinator.errors import Corrupt, Unavailable
from coordinator.follower.follower import Follower, FollowerLimits
from coordinator.guard import Child, spawn
from coordinator.journal.stream import NatsJournal
from events.base import Position
from events.subjects import Subjects
from events.task import TaskStatus
from projections.history import world_at
from projections.projector import ProjectorLimits
from projections.store.memory import MemoryStore
from projections.store.sqlite import SqliteStore
from tests.journals import a_bit_of_everything, events_of, folded, leading, rows_of, some_tasks, states_of
from tests.real_server import RealServer
from tests.unit.projections.test_projector import project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.engine.engine import Engine

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

SUBJECTS = Subjects()
PATIENCE_S = 20.0
QUICK = FollowerLimits(first_pause_s=0.01, longest_pause_s=0.1)
ONE_BY_ONE = FollowerLimits(projector=ProjectorLimits(batch_events=1), first_pause_s=0.01)


@pytest.fixture
async def bus(server: RealServer) -> AsyncIterator[Bus]:
    async with Bus.open(server.url, name="test") as opened:
        yield opened


@pytest.fixture
async def journal(server: RealServer) -> AsyncIterator[NatsJournal]:
    """An existing journal."""
    async with Bus.open(server.url, name="writer", buffered=False) as unbuffered:
        made = NatsJournal(unbuffered, SUBJECTS)
        await made.prepare()
        yield made


@asynccontextmanager
async def follower_process(server: RealServer, home: Path, **environment: str) -> AsyncIterator[Child]:
    """Run `coordinator follow` over the state directory *home*."""
    env = {**os.environ, "COORDINATOR_HOME": str(home), "COORDINATOR_URL": server.url, **environment}
    async with await spawn([sys.executable, "-m", "coordinator.cli", "follow"], env=env) as child:
        yield child


async def ask(bus: Bus, verb: str, **question: Any) -> Any:
    """Ask any follower, until one has opened its door."""
    body = msgspec.json.encode(question)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                raw = await bus.request(SUBJECTS.read("tester", verb), body, timeout_s=5)
            except Unavailable:
                await asyncio.sleep(0.05)
                continue
            answer = msgspec.json.decode(raw)
            if answer.get("error", {}).get("reason") not in ("starting", "behind"):
                return answer


async def wait_for(bus: Bus, position: Position) -> None:
    """Wait until a follower has reached *position*."""
    assert "ok" in await ask(bus, "wait", position=str(position), timeout_s=5)


async def expect_whole(path: Path, journal: NatsJournal) -> Position:
    """Open the store that a process left: its rows and events must equal the fold up to its position."""
    async with SqliteStore.open(path) as store:
        assert await store.check() == ()
        position = store.position().position
        assert await rows_of(store) == states_of(await world_at(journal, position))
        straight = MemoryStore()
        await project(journal, straight)
        expected = [(place, body) for place, body in await events_of(straight) if Position.parse(place) <= position]
        assert await events_of(store) == expected
        return position


async def test_what_is_committed_can_be_asked_for(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """A process started next to the coordinator reads the journal and answers; SIGTERM ends it cleanly."""
    await a_bit_of_everything(engine)
    async with follower_process(server, tmp_path / "home") as child:
        await wait_for(bus, engine.committed)
        pool = (await ask(bus, "get", kind="pool", id="a-pool"))["ok"]
        assert sorted(pool["allocations"]) == ["request-0", "request-2"]
        await some_tasks(engine, "later", 4)
        task = await ask(bus, "get", kind="task", id="later-task-3", at_least=str(engine.committed))
        assert task["ok"]["status"] == "pending"
        assert Position.parse(task["position"]) >= engine.committed
        missing = await ask(bus, "get", kind="task", id="nobody")
        assert missing["error"]["code"] == "not_found"
        os.kill(child.pid, signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) == 0
    assert await expect_whole(tmp_path / "home" / "state.db", journal) >= engine.committed


async def test_a_follower_may_be_killed_anywhere(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """Killed while it writes, repeatedly, it leaves rows, events and position of one batch, and resumes there."""
    path = tmp_path / "home" / "state.db"
    stop = asyncio.Event()

    async def work() -> None:
        number = 0
        while not stop.is_set():
            await some_tasks(engine, f"k{number}", 40)
            number += 1
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(work())
        reached = [Position(0, 0)]
        for turn in range(4):
            async with follower_process(server, tmp_path / "home") as child:
                await wait_for(bus, Position(reached[-1].sequence + 1, 0))
                await asyncio.sleep(0.007 * turn)
                child.kill()
                assert await child.wait() == -signal.SIGKILL
            reached.append(await expect_whole(path, journal))
            assert reached[-1] > reached[-2]
        stop.set()
        await working
    end = engine.committed
    async with follower_process(server, tmp_path / "home"):
        await wait_for(bus, end)
    assert await expect_whole(path, journal) >= end


async def test_a_store_deleted_while_nobody_runs_is_built_anew(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """Deleting `state.db` is always allowed: the next follower has the same rows."""
    await a_bit_of_everything(engine)
    path = tmp_path / "home" / "state.db"
    async with follower_process(server, tmp_path / "home"):
        await wait_for(bus, engine.committed)
    await expect_whole(path, journal)
    _delete(path)
    async with follower_process(server, tmp_path / "home"):
        await wait_for(bus, engine.committed)
    assert await expect_whole(path, journal) >= engine.committed


async def test_a_store_deleted_under_a_follower_is_built_anew(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """The follower detects it at the next commit, starts a new file, and answers from that."""
    path = tmp_path / "state.db"
    async with Follower.open(server.url, path, limits=QUICK):
        await a_bit_of_everything(engine)
        await wait_for(bus, engine.committed)
        _delete(path)
        assert (await ask(bus, "get", kind="pool", id="a-pool"))["ok"]["pool_id"] == "a-pool"
        await some_tasks(engine, "later", 4)
        await wait_for(bus, engine.committed)
    assert await expect_whole(path, journal) == engine.committed


async def test_a_follower_started_first_waits_for_the_journal(server: RealServer, bus: Bus, tmp_path: Path) -> None:
    """Without a stream there is nothing to follow yet: the follower answers from an empty store, then follows."""
    async with Follower.open(server.url, tmp_path / "state.db", limits=QUICK) as follower:
        await follower.wait_opened(PATIENCE_S)
        assert (await ask(bus, "position"))["ok"] == "0.0"
        async with Bus.open(server.url, name="writer", buffered=False) as unbuffered:
            journal = NatsJournal(unbuffered, SUBJECTS)
            await journal.prepare()
            async with leading(journal) as engine:
                await a_bit_of_everything(engine)
                await wait_for(bus, engine.committed)


async def test_a_server_that_crashes_is_followed_on(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """After kill -9 of the nats-server the follower continues by itself, with every record."""
    async with Follower.open(server.url, tmp_path / "state.db", limits=ONE_BY_ONE) as follower:
        for turn in range(3):
            await some_tasks(engine, f"t{turn}", 20)
            await server.kill()
            await server.start()
            await bus.until_connected(PATIENCE_S)
        await some_tasks(engine, "end", 4)
        store = await follower.wait_opened(PATIENCE_S)
        await store.wait_for(engine.committed, PATIENCE_S)
        assert await rows_of(store) == states_of(await folded(journal))


async def test_a_damaged_journal_is_told_and_the_past_stays_readable(
    server: RealServer, bus: Bus, journal: NatsJournal, tmp_path: Path
) -> None:
    """A foreign record in the journal ends the follower with a message; the history before it can still be read."""
    async with leading(journal) as engine:
        await a_bit_of_everything(engine)
    last = (await journal.bounds()).last
    async with Follower.open(server.url, tmp_path / "state.db", limits=QUICK) as follower:
        await wait_for(bus, Position(last, 0))
        await bus.js_publish(SUBJECTS.journal, b"[]", timeout_s=5)
        with pytest.raises(Corrupt, match=f"commit {last + 1}"):
            await asyncio.wait_for(follower.wait_failed(), PATIENCE_S)
        answer = await ask(bus, "get", kind="pool", id="a-pool")
        assert answer["ok"]["pool_id"] == "a-pool"
        assert Position.parse(answer["position"]).sequence == last
    async with follower_process(server, tmp_path) as child:
        assert await asyncio.wait_for(child.wait(), PATIENCE_S) != 0


async def test_another_journal_under_the_same_store_is_told(server: RealServer, tmp_path: Path) -> None:
    """A recreated journal is not mistaken for the one in the store."""
    async with Bus.open(server.url, name="writer", buffered=False) as unbuffered:
        journal = NatsJournal(unbuffered, SUBJECTS)
        for turn in range(2):
            await journal.prepare()
            async with leading(journal) as engine:
                await a_bit_of_everything(engine, f"t{turn}")
            async with Follower.open(server.url, tmp_path / "state.db", limits=QUICK) as follower:
                store = await follower.wait_opened(PATIENCE_S)
                if turn == 0:
                    await store.wait_for(engine.committed, PATIENCE_S)
                else:
                    with pytest.raises(Corrupt, match="delete the store"):
                        await asyncio.wait_for(follower.wait_failed(), PATIENCE_S)
            if turn == 0:
                await unbuffered.js_request(f"STREAM.DELETE.{SUBJECTS.stream_journal}", timeout_s=5)


async def test_followers_share_the_questions(server: RealServer, bus: Bus, engine: Engine, tmp_path: Path) -> None:
    """Each question gets one answer, and when a follower ends the others answer."""
    await a_bit_of_everything(engine)
    async with AsyncExitStack() as stack:
        followers = []
        for name in ("one", "two"):
            opened = Follower.open(server.url, tmp_path / name / "state.db", limits=QUICK)
            followers.append(await stack.enter_async_context(opened))
        for follower in followers:
            await (await follower.wait_opened(PATIENCE_S)).wait_for(engine.committed, PATIENCE_S)
        seen: list[bytes] = []
        inbox = bus.new_inbox()
        await bus.subscribe(inbox, lambda message: seen.append(message.data))
        for _ in range(50):
            await bus.publish(SUBJECTS.read("tester", "position"), b"{}", reply=inbox)
        await ask(bus, "position")
        await asyncio.sleep(0.2)
        assert len(seen) == 50


async def test_many_questions_at_once_are_all_answered(
    server: RealServer, bus: Bus, engine: Engine, tmp_path: Path
) -> None:
    """Reads continue while the journal is read, and each sees at least the position it asked for."""
    async with Follower.open(server.url, tmp_path / "state.db", limits=QUICK) as follower:
        await follower.wait_opened(PATIENCE_S)
        for turn in range(5):
            await some_tasks(engine, f"m{turn}", 20)
            at_least = str(engine.committed)
            answers = await asyncio.gather(
                *(ask(bus, "get", kind="task", id=f"m{turn}-task-{n}", at_least=at_least) for n in range(20))
            )
            assert [answer["ok"]["task_id"] for answer in answers] == [f"m{turn}-task-{n}" for n in range(20)]


def _delete(path: Path) -> None:
    path.unlink()


async def test_a_bounded_read_model_says_what_it_removed_and_can_be_verified(
    server: RealServer, bus: Bus, engine: Engine, journal: NatsJournal, tmp_path: Path
) -> None:
    """Its events have a beginning, before which they are refused, not skipped; what lives is there."""
    home = tmp_path / "home"
    for number in range(8):
        await some_tasks(engine, f"k{number}", 20)
    bounded = {"COORDINATOR_FOLLOWER__KEEP_EVENTS": "60"}
    async with follower_process(server, home, **bounded):
        await wait_for(bus, engine.committed)
        async with asyncio.timeout(PATIENCE_S):
            while "begins" not in (page := (await ask(bus, "events", limit=1000))["ok"]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        begins = page["begins"]
        assert len(page["events"]) <= 60
        assert Position.parse(page["events"][0]["id"]) >= Position.parse(begins)
        refused = await ask(bus, "events", after="0.0")
        assert (refused["error"]["reason"], begins in refused["error"]["message"]) == ("bad_position", True)
        gone = await ask(bus, "get", kind="task", id="k0-task-0")
        assert "ended before" in gone["error"]["message"]
        pending = (await ask(bus, "list", kind="task", status="pending", limit=1000))["ok"]["items"]
        assert len(pending) == sum(
            one.status is TaskStatus.PENDING for one in (await world_at(journal, engine.committed)).tasks.values()
        )
        size = (await ask(bus, "lag"))["ok"]["size"]
        assert size["bytes"] >= (home / "state.db").stat().st_size - 2**20
        assert size["free_bytes"] > 0
    last = (await journal.bounds()).last
    found = await compare_store(home / "state.db", journal, last)
    assert found.state is State.OK, found.seen
    with closing(sqlite3.connect(home / "state.db")) as connection:
        connection.execute("DELETE FROM events WHERE place = (SELECT max(place) FROM events)")
        connection.commit()
    assert (await compare_store(home / "state.db", journal, last)).state is State.FAIL
