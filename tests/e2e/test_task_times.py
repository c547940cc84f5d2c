"""Times of tasks on a real cluster: delays, time limits, checkpoints."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from coordinator.scheduler import TaskScheduler, TaskStatus
from coordinator.task_groups import task_group
from coordinator.worker import Context, Worker
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture
async def scheduler(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskScheduler]:
    """A facade that uses the cluster."""
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    async with TaskScheduler() as made:
        yield made


async def test_a_delayed_task_starts_when_its_time_has_come_also_after_a_takeover(
    cluster: Cluster, scheduler: TaskScheduler
) -> None:
    """A claim that waits gets it then, not before, and no other command is needed for it."""
    begun = time.time()
    task_id = await scheduler.submit_task("later", delay=3.0)
    at = datetime.now(UTC) + timedelta(hours=1)
    other = await scheduler.submit_task("much later", not_before=at)
    assert (await scheduler.get_task(other)).not_before == at
    await cluster.crash()
    await cluster.start()
    task = await scheduler.get_next_task("worker_1", wait_s=20.0)
    assert task is not None
    assert task.task_id == task_id
    assert 3.0 <= task.started_at - task.submitted_at < 4.5  # type: ignore[operator]  # it has started
    assert time.time() - begun < 15.0
    await scheduler.cancel_task(other)
    assert (await scheduler.get_task(other)).status is TaskStatus.CANCELLED


async def test_a_time_without_a_zone_is_refused(scheduler: TaskScheduler) -> None:
    """Nobody can know what it means; the coordinator is not asked."""
    for wrong, reason in ((datetime(2126, 1, 1), "bad_time"), (5.0, "bad_type"), ("tomorrow", "bad_type")):  # noqa: DTZ001
        with pytest.raises(Refused) as caught:
            await scheduler.submit_task("later", not_before=wrong)  # type: ignore[arg-type]  # that is the point
        assert caught.value.reason == reason
    with pytest.raises(Refused, match="one of them"):
        await scheduler.submit_task("later", not_before=datetime.now(UTC), delay=1.0)


async def test_each_limit_strikes_and_says_which_it_was(cluster: Cluster, scheduler: TaskScheduler) -> None:
    """One task waits too long, one attempt runs too long, one reports nothing and is retried until it has no time."""
    waits = await scheduler.submit_task("nobody", start_within=1.0)
    runs = await scheduler.submit_task("runs", timeout=1.0)
    silent = await scheduler.submit_task("silent", heartbeat=1.0, finish_within=6.0, max_retries=9)
    assert await scheduler.get_next_task("worker_1", task_names=["runs"], wait_s=5.0)
    assert await scheduler.get_next_task("worker_2", task_names=["silent"], wait_s=5.0)
    again = await scheduler.get_next_task("worker_2", task_names=["silent"], wait_s=10.0)
    assert again is not None
    assert (again.attempt, again.exceeded) == (2, "heartbeat_s")
    assert "reported nothing" in again.error
    for task_id, exceeded in ((waits, "start_within_s"), (runs, "timeout_s"), (silent, "finish_within_s")):
        task = await scheduler.wait_for_task(task_id, wait_s=20.0)
        assert (task.status, task.exceeded) == (TaskStatus.TIMEOUT, exceeded)
    task = await scheduler.get_task(silent)
    assert (task.start_within, task.finish_within, task.heartbeat) == (None, 6.0, 1.0)


async def test_a_handler_that_reports_or_asks_for_more_time_goes_on(cluster: Cluster, scheduler: TaskScheduler) -> None:
    """Each report counts, also one without a number; in a thread as well."""
    worker = Worker("tested", url=cluster.url, slots=2)
    ends: list[float | None] = []

    @worker.task("steps")
    async def steps(context: Context, _: object) -> int:
        for _ in range(8):
            await asyncio.sleep(0.4)
            await context.progress()
        return context.attempt

    @worker.task("long")
    def long(context: Context, _: object) -> int:
        ends.append(context.deadline)
        for _ in range(4):
            time.sleep(0.5)
            ends.append(context.extend_from_thread(1.0))
        return context.attempt

    async with task_group() as group:
        running = group.create_task(worker.run())
        ids = [await scheduler.submit_task("steps", heartbeat=1.0), await scheduler.submit_task("long", timeout=1.0)]
        done = [await scheduler.wait_for_task(one, wait_s=20.0) for one in ids]
        worker.stop()
        await running
    assert [(task.status, task.attempt) for task in done] == [(TaskStatus.COMPLETED, 1)] * 2
    assert [round(end - (ends[0] or 0.0)) for end in ends if end is not None] == [0, 1, 2, 3, 4]


async def test_a_claimed_task_is_extended_by_its_holder(scheduler: TaskScheduler) -> None:
    """The answer is when it ends now; a task without a limit has no end."""
    await scheduler.submit_task("limited", timeout=100.0)
    task = await scheduler.get_next_task("worker_1", wait_s=5.0)
    assert task is not None
    assert task.started_at is not None
    ends = await scheduler.extend_task(task.task_id, 60.0)
    assert ends is not None
    assert abs(ends.timestamp() - task.started_at - 160.0) < 0.001
    await scheduler.submit_task("unlimited")
    task = await scheduler.get_next_task("worker_1", wait_s=5.0)
    assert task is not None
    assert await scheduler.extend_task(task.task_id, 60.0) is None


async def test_the_next_attempt_goes_on_from_the_checkpoint(cluster: Cluster, scheduler: TaskScheduler) -> None:
    """Over a takeover as well; in the loop and in a thread; the last one counts."""
    worker = Worker("tested", url=cluster.url, slots=2)

    @worker.task("counts")
    async def counts(context: Context, most: int) -> list[int]:
        done = context.checkpoint or []
        while len(done) < most:
            await context.save_checkpoint([*done, context.attempt], len(done) / most)
            done = context.checkpoint
            if len(done) == context.attempt * 2:
                raise RuntimeError
        return list(done)

    @worker.task("bytes")
    def of_bytes(context: Context, _: object) -> str:
        if context.checkpoint is None:
            context.save_checkpoint_from_thread(b"\0\1")
            raise RuntimeError
        return repr(context.checkpoint)

    ids = [await scheduler.submit_task("counts", payload=5), await scheduler.submit_task("bytes")]
    async with task_group() as group:
        running = group.create_task(worker.run())
        async with asyncio.timeout(20.0):
            while (task := await scheduler.get_task(ids[0])).checkpoint is None:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.02)
        await cluster.crash()
        await cluster.start()
        done = [await scheduler.wait_for_task(one, wait_s=30.0) for one in ids]
        worker.stop()
        await running
    assert [one.result for one in done] == [[1, 1, 2, 2, 3], "b'\\x00\\x01'"]
    assert task.checkpoint[0] == 1
