"""
Standby and takeover, provoked: a writer that is cut off, delayed in the middle of a commit, or asked to end.

Most coordinators run in this loop, each behind a proxy that can delay what it sends and receives; nats-server is real.
The outcome is read from the journal and from the wire.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.task import ClaimTasks, ListTasks, SubmitTask
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.task_groups import task_group
from events.errors import Unavailable
from tests.faults.instances import instances, lease_of, led_by, start_all
from tests.faults.outcome import Outcome, promises_kept, under_calls
from tests.faults.wiretap import Record, record_of, tap
from tests.real_server import TOKEN, RealServer
from tests.tcp_proxy import Proxy, proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

TTL_S, RENEW_S, FRESH_S = 2, 0.5, 1.0
PATIENCE_S = 40.0


class One:
    """A coordinator behind a proxy of its own."""

    def __init__(self, name: str, door: Proxy, tasks: asyncio.TaskGroup) -> None:
        url = f"nats://{TOKEN}@127.0.0.1:{door.port}"
        self.name = name
        self.door = door
        self.coordinator = Coordinator(
            Instance(url=url, name=name, version="0", lease_ttl_s=TTL_S, lease_renew_s=RENEW_S, lease_fresh_s=FRESH_S)
        )
        self.running = tasks.create_task(self.coordinator.run())

    async def leads(self) -> None:
        """Wait until it leads."""
        async with asyncio.timeout(PATIENCE_S):
            await self.coordinator.leading.wait()

    async def stands_by(self) -> None:
        """Wait until it no longer leads."""
        async with asyncio.timeout(PATIENCE_S):
            while self.coordinator.leading.is_set() or self.coordinator.engine is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Make it hand over and end."""
        self.coordinator.stop("the test says so")
        async with asyncio.timeout(PATIENCE_S):
            await self.running


@asynccontextmanager
async def several(server: RealServer, count: int) -> AsyncIterator[list[One]]:
    """Run *count* coordinators; the first leads."""
    async with AsyncExitStack() as doors:
        opened = [await doors.enter_async_context(proxy(server.port)) for _ in range(count)]
        async with task_group() as tasks:
            made: list[One] = []
            for number, door in enumerate(opened):
                made.append(One(f"one_{number}", door, tasks))
                await made[0].leads()
            yield made
            for one in made:
                one.door.mend()
                await one.stop()


async def submit(client: Client, *names: str) -> None:
    for name in names:
        await client.execute(SubmitTask(task_id=name, task_name="n"), timeout_s=PATIENCE_S)


def check(record: Record, *holders: str) -> None:
    """Assert that *holders* reigned one after the other, and none wrote after the next had claimed."""
    assert [reign.holder for reign in record.reigns] == list(holders)
    assert record.commits_of_the_past == 0
    assert record.submitted_twice == 0


@pytest.mark.alone
async def test_a_writer_that_is_cut_off_answers_nobody_and_changes_nothing(server: RealServer) -> None:
    """
    A writer that is cut off is replaced, and clients continue by themselves.

    Its earlier answers stay valid, and what it sends after it is back changes nothing. It is on standby, and leads
    again when the other ends.
    """
    outcome = Outcome()
    async with several(server, 2) as (first, second):
        async with under_calls(outcome, server.url, every_s=0.02) as (client, calls):
            await asyncio.sleep(0.5)
            first.door.part()
            await second.leads()
            before = len(calls.made)
            first.door.mend()
            await first.stands_by()
            while len(calls.made) < before + 50:  # noqa: ASYNC110  # told over NATS
                await asyncio.sleep(0.02)
            assert (await client.execute(GetStats(), timeout_s=PATIENCE_S)).leader == second.name
        check(await record_of(server.url), first.name, second.name)
        await second.stop()
        await first.leads()
    assert promises_kept(outcome.told()), outcome.told()
    check(await record_of(server.url), first.name, second.name, first.name)


async def test_a_commit_that_comes_too_late_is_none(server: RealServer) -> None:
    """
    The commit of a replaced writer reaches the server late, and is refused.

    The new writer answered the caller long before, once; no caller got a success from the old one.
    """
    async with (
        several(server, 2) as (first, second),
        Client.open(server.url) as client,
        tap(server.url) as tapped,
    ):
        await submit(client, "before")
        first.door.hold()  # it receives everything; what it sends is delayed for long
        asking = asyncio.ensure_future(submit(client, "meanwhile"))
        await second.leads()
        async with asyncio.timeout(PATIENCE_S):
            await asking
        first.door.mend()
        await first.stands_by()
        await submit(client, "after")
        assert set(tapped.accepted) == {"before", "meanwhile", "after"}
        assert tapped.differing == 0
        record = await record_of(server.url)
        check(record, first.name, second.name)
        assert set(record.submitted) == {"before", "meanwhile", "after"}
        reign = f"1.{record.reigns[1].sequence}"
        assert tapped.accepted["meanwhile"] == reign
        assert tapped.accepted["before"] != reign


@pytest.mark.alone
async def test_of_those_that_stand_by_one_leads(server: RealServer) -> None:
    """Three standbys try at once when the writer is gone, repeatedly: one leads, by one claim."""
    async with several(server, 4) as those, Client.open(server.url) as client:
        left = list(those)
        leader = left[0]
        for number in range(3):
            await submit(client, f"t{number}")
            left.remove(leader)
            leader.door.part() if number % 2 else await leader.stop()
            async with asyncio.timeout(PATIENCE_S):
                while not any(one.coordinator.leading.is_set() for one in left):  # noqa: ASYNC110  # whichever it is
                    await asyncio.sleep(0.02)
            (leader,) = [one for one in left if one.coordinator.leading.is_set()]
        await submit(client, "last")
        record = await record_of(server.url)
    assert len(record.reigns) == len({reign.holder for reign in record.reigns}) == 4
    assert set(record.submitted) == {"t0", "t1", "t2", "last"}
    check(record, *(reign.holder for reign in record.reigns))


async def test_one_that_is_far_behind_catches_up_before_it_leads(server: RealServer) -> None:
    """A standby that missed the last commits folds them before it answers anything."""
    async with several(server, 2) as (first, second), Client.open(server.url) as client:
        second.door.part()
        async with task_group() as tasks:
            for batch in range(10):
                tasks.create_task(submit(client, *(f"t{batch}_{number}" for number in range(40))))
        first.door.part()
        second.door.mend()
        await second.leads()
        listed = await client.execute(ListTasks(limit=1000), timeout_s=PATIENCE_S)
        assert len(listed) == 400
        engine = second.coordinator.engine
        assert engine is not None
        assert len(engine.world.tasks) == 400
        check(await record_of(server.url), first.name, second.name)


async def test_one_that_stands_by_keeps_what_it_folded_while_nats_is_away(server: RealServer, tmp_path: Path) -> None:
    """A standby needed right after NATS was away does not fold again from the first commit; it logs the wait once."""
    environment = lease_of(2 * TTL_S)
    async with (
        instances(tmp_path, server.url, 2, environment=environment) as (first, second),
        Client.open(server.url) as client,
    ):
        await start_all([first, second], client)
        await submit(client, "before")
        server.pause()
        await second.has_logged("standby_read_failed")
        await first.kill()
        server.resume()
        await submit(client, "after")
        assert await led_by(client, second) is second
        assert second.logged.count("standby_started") == 1
        assert second.logged.count("standby_read_failed") == 1
        check(await record_of(server.url), first.name, second.name)


async def test_whoever_waits_for_a_task_is_served_by_the_next_writer(server: RealServer) -> None:
    """A claim that waits during a handover is sent again and gets its task from the new writer, once."""
    async with several(server, 2) as (first, second), Client.open(server.url) as client:
        claim = ClaimTasks(claim_id="c", worker_id="w", slots=1, wait_s=PATIENCE_S)
        waiting = asyncio.ensure_future(client.execute(claim, timeout_s=PATIENCE_S))
        await client.execute(GetStats(), timeout_s=PATIENCE_S)
        await first.stop()
        await second.leads()
        await submit(client, "t")
        async with asyncio.timeout(PATIENCE_S):
            (task,) = await waiting
        assert task.task_id == "t"
        again = await client.execute(claim, timeout_s=PATIENCE_S)
        assert [(one.task_id, one.lease) for one in again] == [("t", task.lease)]


async def test_without_anyone_to_lead_a_call_ends_in_its_time(server: RealServer) -> None:
    """The only coordinator is cut off: calls report no answer; later calls are served when it is back."""
    async with several(server, 1) as (only,), Client.open(server.url) as client:
        await submit(client, "before")
        only.door.part()
        with pytest.raises(Unavailable):
            await client.execute(SubmitTask(task_id="meanwhile", task_name="n"), timeout_s=1.0)
        only.door.mend()
        await submit(client, "meanwhile", "after")
        assert set((await record_of(server.url)).submitted) == {"before", "meanwhile", "after"}
