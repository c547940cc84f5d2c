"""A policy of the operator's in a process of its own, live in a real coordinator."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.app.app import embedded
from coordinator.client.reads import ask_follower
from coordinator.commands.reads import Events
from coordinator.scheduler import TaskQueues, TaskScheduler
from coordinator.settings.model import Settings
from coordinator.settings.sections import NodeSettings, SchedulerSettings
from tests.facades import in_one_task, logs_as_before

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.app.app import App

__all__ = ["logs_as_before"]


@asynccontextmanager
async def led(tmp_path: Path, policy: str, *, deadline_s: float = 0.5) -> AsyncIterator[tuple[App, TaskScheduler]]:
    """Open a coordinator whose tasks are taken by a policy of `tests/custom_policies.py`."""
    settings = Settings(
        node=NodeSettings(runtime="fake"),
        scheduler=SchedulerSettings(
            default_strategy="custom", custom_policy=f"tests.custom_policies:{policy}", policy_deadline_s=deadline_s
        ),
    )
    async with in_one_task(embedded(tmp_path, settings)) as app, TaskScheduler(app) as scheduler:
        yield app, scheduler


async def taken(scheduler: TaskScheduler, worker: str = "w", wait_s: float = 0.0) -> str:
    task = await scheduler.get_next_task(worker, wait_s=wait_s)
    if task is None:
        return ""
    await scheduler.complete_task(task.task_id)
    return task.task_name


async def until_it_chooses(app: App, scheduler: TaskScheduler) -> None:
    """Wait until the process of the policy runs: until then tasks are taken by priority."""
    async with asyncio.timeout(30):
        while True:
            await scheduler.submit_task("xx")
            await scheduler.submit_task("x")
            first, _ = await taken(scheduler, wait_s=5), await taken(scheduler, wait_s=5)
            if first == "x":
                return
            await asyncio.sleep(0.1)


async def failures(app: App) -> list[tuple[str, int]]:
    """Return why the policy failed and for how many times in a row, as the journal has it."""
    page = await ask_follower(app.client, Events(type="queue.policy_failed", limit=100), timeout_s=10)
    told = [one["data"] for one in page.events]
    return [(one["why"], one.get("times", 1)) for one in told]


async def test_it_chooses_which_task_is_next(tmp_path: Path) -> None:
    """Whatever came first; claims that do not wait and those that do."""
    async with led(tmp_path, "Shortest") as (app, scheduler):
        await until_it_chooses(app, scheduler)
        for name in ("aaaa", "a", "aaa", "aa"):
            await scheduler.submit_task(name)
        assert [await taken(scheduler), await taken(scheduler, wait_s=5)] == ["a", "aa"]
        assert [await taken(scheduler), await taken(scheduler), await taken(scheduler)] == ["aaa", "aaaa", ""]
        waits = asyncio.create_task(taken(scheduler, wait_s=10))
        await asyncio.sleep(0.2)
        await scheduler.submit_task("late")
        assert await waits == "late"
        async with TaskQueues(app) as queues:
            view = await queues.get_queue()
        assert (view.policy.strategy, view.policy.custom) == ("custom", "tests.custom_policies:Shortest")


async def test_what_it_does_not_choose_waits(tmp_path: Path) -> None:
    """Its silence about a task is not a failure, and a claim that names a strategy of its own still gets it."""
    async with led(tmp_path, "OnlyShort") as (app, scheduler):
        await until_it_chooses(app, scheduler)
        await scheduler.submit_task("too_long")
        assert await taken(scheduler, wait_s=0.5) == ""
        await scheduler.submit_task("ok")
        assert await taken(scheduler, wait_s=5) == "ok"
        task = await scheduler.get_next_task("w", "fifo")
        assert task is not None
        assert task.task_name == "too_long"


@pytest.mark.parametrize(
    ("policy", "why"),
    [("Slow", "late"), ("Raising", "wrong"), ("Inventing", "wrong"), ("Dying", "dead"), ("NoPolicy", "dead")],
)
async def test_one_that_fails_delays_nothing_and_is_off_after_three_times(
    tmp_path: Path, policy: str, why: str
) -> None:
    """Tasks are taken by priority instead; each failure is told, and the change of the policy says why."""
    async with led(tmp_path, policy, deadline_s=0.05) as (app, scheduler), TaskQueues(app) as queues:
        async with asyncio.timeout(40):
            while (view := await queues.get_queue()).policy.strategy == "custom":
                await scheduler.submit_task("low")
                await scheduler.submit_task("high", priority="high")
                assert [await taken(scheduler, wait_s=5), await taken(scheduler, wait_s=5)] == ["high", "low"]
                await asyncio.sleep(0.05)
        assert view.policy.strategy == "priority"
        assert not view.queue.policy_by_settings
        async with asyncio.timeout(10):
            while len(found := await failures(app)) < 3:  # noqa: ASYNC110  # the read model follows
                await asyncio.sleep(0.1)
        assert found[-3:] == [(why, 1), (why, 2), (why, 3)]
