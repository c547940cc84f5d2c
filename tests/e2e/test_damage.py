"""A journal that went back, lost its tail, was recreated or is gone: each is detected before anything is written."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.task import SubmitTask
from coordinator.diagnostics.findings import State
from coordinator.diagnostics.verify import Files, accept, verify
from coordinator.errors import Corrupt
from coordinator.follower.feed import FeedLimits, feed_stream
from coordinator.follower.follower import Follower
from coordinator.journal.high_water import FILE
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.task_groups import task_group
from events.base import Position
from events.subjects import Subjects
from tests.faults import damage
from tests.journals import folded
from tests.real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
WAIT_S = 30.0


def coordinator_of(server: RealServer, mark: Path | None, name: str = "one", **more: Any) -> Coordinator:
    return Coordinator(
        Instance(
            url=server.url,
            name=name,
            version="0",
            lease_ttl_s=2,
            lease_renew_s=0.5,
            lease_fresh_s=1.0,
            seen_file=str(mark) if mark else "",
            **more,
        )
    )


@asynccontextmanager
async def leading(server: RealServer, mark: Path | None, **more: Any) -> AsyncIterator[Client]:
    """Run a leading coordinator during the block; its errors are raised from the block."""
    coordinator = coordinator_of(server, mark, **more)
    async with task_group() as tasks:
        running = tasks.create_task(coordinator.run())
        async with asyncio.timeout(WAIT_S):
            await coordinator.leading.wait()
        async with Client.open(server.url, namespace=more.get("namespace", SUBJECTS.namespace)) as client:
            yield client
        running.cancel()


async def submit(client: Client, count: int, name: str = "t") -> None:
    for number in range(count):
        await client.execute(SubmitTask(task_id=f"{name}{number}", task_name="n"), timeout_s=WAIT_S)


async def says(server: RealServer, mark: Path | None, **more: Any) -> Corrupt:
    """Start a coordinator that must not lead; return its error."""
    with pytest.raises(Corrupt) as told:
        async with asyncio.timeout(WAIT_S):
            await coordinator_of(server, mark, **more).run()
    return told.value


async def last_of(server: RealServer) -> int:
    async with Bus.open(server.url, name="judge") as bus:
        return (await NatsJournal(bus, SUBJECTS).bounds()).last


async def set_back(server: RealServer, copy: Path) -> None:
    """Replace the current store with a copy."""
    await server.stop()
    shutil.rmtree(server.folder / "store")
    shutil.copytree(copy, server.folder / "store")
    await server.start()


async def keep_copy(server: RealServer, copy: Path) -> None:
    await server.stop()
    shutil.copytree(server.folder / "store", copy)
    await server.start()


def test_damage_of_each_sort_is_found_before_a_commit() -> None:
    """The short form of `python -m tests.faults damage`: eight damages, one of each kind."""
    result = asyncio.run(damage.run(len(damage.DAMAGES)))
    print(result)
    assert damage.is_kept(result), result


def test_without_memory_some_damage_is_missed() -> None:
    """The control: a coordinator that knows only the server's state goes on with a journal that lost its tail."""
    result = asyncio.run(damage.run(len(damage.DAMAGES), remembering=False))
    print(result)
    assert result["missed"], result
    assert not damage.is_kept(result)


async def test_a_follower_that_came_first_is_no_loss(server: RealServer, tmp_path: Path) -> None:
    """A follower makes the feed and waits for the journal; a feed that never held anything does not imply a journal."""
    async with Bus.open(server.url, name="follower") as bus:
        await ensure_stream(bus, feed_stream(SUBJECTS, FeedLimits()))
    async with leading(server, tmp_path / FILE) as client:
        await submit(client, 1)


async def test_instances_that_begin_together_begin_one_journal(server: RealServer) -> None:
    """An instance that finds another's lease, taken more quickly, also finds its journal."""
    async with task_group() as tasks:
        several = [coordinator_of(server, None, name) for name in ("one", "two", "three")]
        running = [tasks.create_task(one.run()) for one in several]
        async with Client.open(server.url) as client:
            await submit(client, 1)
        for one in running:
            one.cancel()


async def test_an_older_copy_is_not_led(server: RealServer, tmp_path: Path) -> None:
    """The store is put back while nothing runs: the mark is ahead, the message has both ends, nothing is written."""
    mark = tmp_path / FILE
    async with leading(server, mark) as client:
        await submit(client, 3)
    await keep_copy(server, tmp_path / "copy")
    before = await last_of(server)
    async with leading(server, mark) as client:
        await submit(client, 6, "u")
    await set_back(server, tmp_path / "copy")
    error = await says(server, mark)
    assert error.reason == "went_back"
    assert f"ends at {before}" in error.message
    assert "coordinator verify" in error.message
    assert await last_of(server) == before


async def test_an_older_copy_under_a_running_writer(server: RealServer, tmp_path: Path) -> None:
    """The writer's next commit and a new reign are both refused: it ends with what it had seen."""
    with pytest.raises(Corrupt) as told:
        await _set_back_under_writer(server, tmp_path / "copy")
    assert "went back" in told.value.message
    assert "u" not in await tasks_of(server)
    assert "v" not in await tasks_of(server)


async def _set_back_under_writer(server: RealServer, copy: Path) -> None:
    coordinator = coordinator_of(server, None)  # no file: the state in memory is enough
    async with asyncio.timeout(WAIT_S), task_group() as tasks:
        tasks.create_task(coordinator.run())
        async with Client.open(server.url) as client:
            await coordinator.leading.wait()
            await submit(client, 3)
            await keep_copy(server, copy)
            await submit(client, 5, "u")
            await set_back(server, copy)
            await submit(client, 1, "v")


async def tasks_of(server: RealServer) -> str:
    """Return the first letters of the ids of the tasks in the journal."""
    async with Bus.open(server.url, name="judge") as bus:
        world = await folded(NatsJournal(bus, SUBJECTS))
    return "".join(sorted({task_id[0] for task_id in world.tasks}))


async def test_a_journal_made_anew_is_told_from_one_that_went_back(server: RealServer, tmp_path: Path) -> None:
    """A recreated empty stream and a missing stream are each reported as what they are."""
    mark = tmp_path / FILE
    async with leading(server, mark) as client:
        await submit(client, 3)
    async with Bus.open(server.url, name="admin") as bus:
        await bus.js_request(f"STREAM.DELETE.{SUBJECTS.stream_journal}", timeout_s=5)
        gone = await says(server, mark)
        assert gone.reason == "journal_gone"
        # This holds without a mark too: the coordinator's other streams are still there.
        assert (await says(server, None)).reason == "journal_gone"
        await NatsJournal(bus, SUBJECTS).prepare()
    anew = await says(server, mark)
    assert anew.reason == "recreated"
    assert "created again" in anew.message
    assert await last_of(server) == 0


async def test_a_follower_that_is_first_on_a_new_machine_does_no_harm(server: RealServer, tmp_path: Path) -> None:
    """An empty feed does not mean that a journal was lost: the first coordinator starts with nothing."""
    async with Bus.open(server.url, name="follower") as bus:
        await ensure_stream(bus, feed_stream(SUBJECTS, FeedLimits()))
    async with leading(server, tmp_path / FILE) as client:
        await submit(client, 1)


async def test_a_journal_that_went_its_own_way_is_branched(server: RealServer, tmp_path: Path) -> None:
    """An older copy that another coordinator has led since is longer than the mark, but not the same."""
    mark = tmp_path / FILE
    async with leading(server, mark) as client:
        await submit(client, 2)
    await keep_copy(server, tmp_path / "copy")
    async with leading(server, mark) as client:
        await submit(client, 2, "u")
    await set_back(server, tmp_path / "copy")
    async with leading(server, None) as client:  # on another machine, without a mark
        await submit(client, 9, "v")
    assert (await says(server, mark)).reason == "branched"


async def test_a_loss_that_is_accepted_is_gone_on_from(server: RealServer, tmp_path: Path) -> None:
    """After the generation is raised the mark belongs to a lost journal; the next coordinator leads."""
    mark = tmp_path / FILE
    await keep_copy(server, tmp_path / "none")
    async with leading(server, mark) as client:
        await submit(client, 2)
    await keep_copy(server, tmp_path / "copy")
    async with leading(server, mark) as client:
        await submit(client, 4, "u")
    await set_back(server, tmp_path / "copy")
    assert (await says(server, mark)).reason == "went_back"
    async with Bus.open(server.url, name="admin", buffered=False) as bus:
        generation = await accept(bus, SUBJECTS)
    async with leading(server, mark) as client:
        stats = await client.execute(GetStats(), timeout_s=WAIT_S)
        assert stats.epoch.startswith(f"{generation}.")
        await submit(client, 1, "v")
    async with leading(server, mark) as client:
        await submit(client, 1, "w")


async def test_what_a_home_has_of_another_namespace_is_no_witness(server: RealServer, tmp_path: Path) -> None:
    """After a change of namespace the old read model is ignored, at the first start and at later ones."""
    mark, store, other = tmp_path / FILE, tmp_path / "state.db", Subjects("staging")
    async with leading(server, mark) as client:
        await submit(client, 9)
    end = await last_of(server)
    async with Follower.open(server.url, store) as follower:
        opened = await follower.wait_opened(WAIT_S)
        await opened.wait_for(Position(end, 0), WAIT_S)
    for turn in range(2):
        async with Bus.open(server.url, name="judge") as bus:
            report = await verify(bus, other if turn else SUBJECTS, Files(store=store, mark=mark))
        states = {one.check: one.state for one in report.findings}
        assert State.FAIL not in states.values(), report
        assert states["read model"] is (State.UNKNOWN if turn else State.OK)
        assert ("seen by the read model state.db" in states) is (turn == 0)
        async with leading(server, mark, namespace="staging", store_file=str(store)) as client:
            await submit(client, 1, f"s{turn}")
    # Before the other namespace's journal is as long: the read model counts for its own namespace alone.
    assert (await says(server, None, namespace="third", store_file=str(store))).reason == "journal_gone"


async def test_a_damaged_mark_stops_the_start(server: RealServer, tmp_path: Path) -> None:
    """A damaged mark is not treated as a missing one: that would accept a journal without its tail."""
    mark = tmp_path / FILE
    mark.write_bytes(b"x" * 8192)
    assert (await says(server, mark)).reason == "mark_damaged"


async def test_a_follower_that_was_there_first_tells_of_no_loss(server: RealServer) -> None:
    """A feed that never held anything says nothing about a journal; nor do instances that start at the same moment."""
    async with Bus.open(server.url, name="follower") as bus:
        feed = {"name": SUBJECTS.stream_events, "subjects": [SUBJECTS.events_all]}
        await bus.js_request(f"STREAM.CREATE.{SUBJECTS.stream_events}", feed, timeout_s=5)
    async with task_group() as tasks:
        begun = [coordinator_of(server, None, name=f"one_{number}") for number in range(4)]
        running = [tasks.create_task(one.run()) for one in begun]
        async with asyncio.timeout(WAIT_S):
            while not any(one.leading.is_set() or done.done() for one, done in zip(begun, running, strict=True)):  # noqa: ASYNC110  # either may come
                await asyncio.sleep(0.05)
        assert not any(one.done() for one in running)
        for one in begun:
            one.stop("the test is over")
