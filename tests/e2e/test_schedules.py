"""Schedules on a real cluster: fired once, over crashes, takeovers and a stop; and many of them at once."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.schedule import DefineSchedule
from coordinator.commands.task import GetTask
from coordinator.scheduler import Schedules, ScheduleStatus, TaskScheduler, TaskStatus
from coordinator.task_groups import task_group
from coordinator.worker import Worker
from events.errors import NotFound, Refused
from events.schedule import TaskContent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e
MANY = 1000


@pytest.fixture
async def schedules(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Schedules]:
    """A facade that uses the cluster."""
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    async with Schedules() as made:
        yield made


async def test_each_slot_is_fired_once_over_crashes_of_the_coordinator(cluster: Cluster, schedules: Schedules) -> None:
    """A worker gets one task for each second, also those of the time in which nobody led."""
    worker = Worker("tested", url=cluster.url, slots=4)
    ran: list[str] = []

    @worker.task("tick")
    async def tick(payload: dict[str, Any]) -> None:
        ran.append(payload["n"])

    await schedules.define_schedule(
        "each-second", "tick", every=1, catchup="all", overlap="queue", payload={"n": 1}, max_retries=50
    )
    async with task_group() as group:
        running = group.create_task(worker.run())
        for _ in range(2):
            await asyncio.sleep(2.5)
            await cluster.crash()
            await asyncio.sleep(1.0)
            await cluster.start()
        await asyncio.sleep(2.5)
        info = await schedules.get_schedule("each-second")
        await schedules.delete_schedule("each-second")
        async with asyncio.timeout(20.0):
            while len(ran) < info.fired:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
        worker.stop()
        await running
    assert info.fired >= 7
    async with TaskScheduler() as scheduler:
        tasks = [one for one in await scheduler.list_tasks() if one.task_name == "tick"]
    slots = sorted(one.task_id for one in tasks)
    first = datetime.strptime(slots[0], "each-second-%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    wanted = [f"each-second-{first + timedelta(seconds=number):%Y%m%dT%H%M%SZ}" for number in range(len(slots))]
    assert slots == wanted
    assert len(ran) == len(slots)


async def test_a_schedule_is_paused_filled_and_deleted(schedules: Schedules) -> None:
    """As its user sees it, in the zone of the schedule."""
    info = await schedules.define_schedule("nightly", "report", cron="30 2 * * *", time_zone="Europe/Berlin")
    runs = await schedules.next_runs("nightly", 100)
    assert runs[0] == info.next_run
    assert all(run.minute in {0, 30} and run.hour in {2, 3} for run in runs)
    assert (await schedules.define_schedule("nightly", "report", cron="30 2 * * *", time_zone="Europe/Berlin")) == info
    await schedules.pause_schedule("nightly", "r")
    assert (await schedules.get_schedule("nightly")).status is ScheduleStatus.PAUSED
    await schedules.resume_schedule("nightly")
    now = datetime.now(UTC)
    ids = await schedules.backfill_schedule("nightly", now - timedelta(days=3), now)
    assert len(ids) == 3
    assert await schedules.backfill_schedule("nightly", now - timedelta(days=3), now) == ids
    async with TaskScheduler() as scheduler:
        assert (await scheduler.get_task(ids[0])).status is TaskStatus.PENDING
    assert [(one.schedule_id, one.fired) for one in await schedules.list_schedules()] == [("nightly", 3)]
    await schedules.delete_schedule("nightly")
    with pytest.raises(NotFound):
        await schedules.get_schedule("nightly")
    with pytest.raises(Refused, match="Europe/Atlantis"):
        await schedules.define_schedule("nightly", "report", cron="30 2 * * *", time_zone="Europe/Atlantis")
    with pytest.raises(Refused, match="no zone"):
        await schedules.define_schedule("nightly", "report", every=5, start=datetime(2026, 1, 1))  # noqa: DTZ001


async def test_a_thousand_schedules_of_one_second_all_start_within_two(cluster: Cluster) -> None:
    """From the slot to the start of the last task, with workers that wait."""
    at = int(time.time()) + 8
    command = DefineSchedule(schedule_id="", task=TaskContent(task_name="work"), every_s=86_400, start=float(at))
    names = [f"s{number}" for number in range(MANY)]

    async def define(name: str) -> None:
        given = DefineSchedule(schedule_id=name, task=command.task, every_s=command.every_s, start=command.start)
        await cluster.client.execute(given)

    await asyncio.gather(*map(define, names))
    assert time.time() < at, "it took too long to define them"
    worker = Worker("tested", url=cluster.url, slots=MANY)

    @worker.task("work")
    async def work(_: object) -> None: ...

    slot = f"{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    async with task_group() as group:
        running = group.create_task(worker.run())
        await asyncio.sleep(at + 1.0 - time.time())
        started = [
            (await cluster.client.execute(GetTask(task_id=f"{name}-{slot}", wait_s=20.0))).started_at for name in names
        ]
        worker.stop()
        await running
    last_s = max(one for one in started if one is not None) - at
    print(f"{MANY} schedules of one second: the last task started {last_s:.3f} s after the slot")
    assert last_s < 2.0
