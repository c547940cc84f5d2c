"""Limits against a real coordinator and nats-server: what runs, starts and waits of each key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.explain import ExplainTask
from coordinator.scheduler import Schedules, TaskLimits, TaskScheduler, TaskStatus, WhenBusy
from events.errors import NotFound, Refused
from tests.facades import logs_as_before

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.app.app import App

__all__ = ["logs_as_before"]


@pytest.fixture
async def limits(app: App) -> AsyncIterator[TaskLimits]:
    async with TaskLimits(app) as limits:
        yield limits


async def test_so_many_of_a_key_run(app: App, scheduler: TaskScheduler, limits: TaskLimits) -> None:
    """The next one starts when one has ended; the wait is explained, and others are not held up."""
    await limits.define_limit("per_customer", by="attributes.customer", running=1, reason="fair use")
    first = await scheduler.submit_task("a", attributes={"customer": "acme"})
    second = await scheduler.submit_task("a", attributes={"customer": "acme"})
    other = await scheduler.submit_task("a", attributes={"customer": "umbrella"})
    got = [await scheduler.get_next_task("w") for _ in range(3)]
    assert [task and task.task_id for task in got] == [first, other, None]
    why = await app.execute(ExplainTask(task_id=second))
    assert (why.reasons[0].code, [one.id for one in why.reasons[0].blockers]) == ("key_full", [first])
    [acme, umbrella] = (await limits.get_limit("per_customer")).keys
    assert (acme.value, acme.running, acme.pending, acme.may_start) == ("acme", 1, 1, 0)
    assert umbrella.running == 1
    waiting = asyncio.create_task(scheduler.get_next_task("w", wait_s=10.0))
    await asyncio.sleep(0.1)
    await scheduler.complete_task(first)
    task = await waiting
    assert task is not None
    assert task.task_id == second


async def test_a_rate_is_kept_and_time_opens_it(scheduler: TaskScheduler, limits: TaskLimits) -> None:
    """A claim that waits is answered when the period is over, without any other command."""
    await limits.define_limit("model", starts=2, per=1.0)
    for number in range(4):
        await scheduler.submit_task("a", task_id=f"t{number}")
    began = asyncio.get_running_loop().time()
    got = [await scheduler.get_next_task("w", wait_s=5.0) for _ in range(4)]
    took_s = asyncio.get_running_loop().time() - began
    assert [task and task.task_id for task in got] == ["t0", "t1", "t2", "t3"]
    assert 0.9 < took_s < 3.0


async def test_what_a_busy_key_means(scheduler: TaskScheduler, limits: TaskLimits) -> None:
    """Rejected, the existing one, the place of those that wait, and the end of those that run."""
    await limits.define_limit("one", by="task_name", running=1, when_busy="reject")
    first = await scheduler.submit_task("a")
    with pytest.raises(Refused, match=f"'one:a' is busy by {first}"):
        await scheduler.submit_task("a")
    await limits.define_limit("one", by="task_name", running=1, when_busy=WhenBusy.RETURN_EXISTING)
    assert await scheduler.submit_task("a") == first
    await limits.define_limit("one", by="task_name", running=1, when_busy="replace_waiting")
    second = await scheduler.submit_task("a")
    assert (await scheduler.get_task(first)).status is TaskStatus.CANCELLED
    assert await scheduler.get_next_task("w") is not None
    await limits.define_limit("one", by="task_name", running=1, when_busy="cancel_running")
    third = await scheduler.submit_task("a")
    await scheduler.complete_task(second)
    task = await scheduler.get_next_task("w")
    assert task is not None
    assert task.task_id == third


async def test_debounced_tasks_start_once(scheduler: TaskScheduler, limits: TaskLimits) -> None:
    """The last of several that come in short order."""
    await limits.define_limit("saved", by="attributes.page", debounce=0.5)
    ids = [await scheduler.submit_task("render", attributes={"page": 7}) for _ in range(3)]
    assert await scheduler.get_next_task("w") is None
    task = await scheduler.get_next_task("w", wait_s=5.0)
    assert task is not None
    assert task.task_id == ids[-1]
    assert await scheduler.get_next_task("w") is None


async def test_a_slot_of_a_schedule_that_would_be_refused_is_skipped(
    app: App, scheduler: TaskScheduler, limits: TaskLimits
) -> None:
    """It does not hold up the schedule, and its tasks have attributes."""
    async with Schedules(app) as schedules:
        await limits.define_limit("one", by="attributes.page", running=1, when_busy="reject")
        await schedules.define_schedule("s", "render", every=1, overlap="queue", attributes={"page": 7})
        blocker = await scheduler.submit_task("render", attributes={"page": 7})
        await asyncio.sleep(2.5)
        assert await scheduler.get_next_task("w") is not None
        await scheduler.complete_task(blocker)
        task = await scheduler.get_next_task("w", wait_s=5.0)
        assert task is not None
        assert task.task_id.startswith("s-")


async def test_limits_are_listed_and_deleted(limits: TaskLimits) -> None:
    """More than one page of them; one that does not exist is told."""
    for number in range(3):
        await limits.define_limit(f"l{number}", running=number + 1)
    assert [view.limit.terms.running for view in await limits.list_limits()] == [1, 2, 3]
    await limits.delete_limit("l1")
    with pytest.raises(NotFound):
        await limits.get_limit("l1")
