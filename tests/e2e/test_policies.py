"""Live policies, queues and policies of programs, against a real coordinator and nats-server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.scheduler import (
    PolicyType,
    SchedulingPolicy,
    TaskQueues,
    TaskScheduler,
    TaskUsage,
)
from events.errors import NotFound, Refused
from tests.facades import logs_as_before

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.app.app import App


@pytest.fixture
async def queues(app: App) -> AsyncIterator[TaskQueues]:
    async with TaskQueues(app) as queues:
        yield queues


__all__ = ["logs_as_before"]


async def taken(scheduler: TaskScheduler, count: int, **wanted: Any) -> list[str]:
    """Claim and complete that many tasks; return their names, '' where there was none."""
    names = []
    for _ in range(count):
        task = await scheduler.get_next_task("w", **wanted)
        names.append("" if task is None else task.task_name)
        if task is not None:
            await scheduler.complete_task(task.task_id, usage=TaskUsage(input_tokens=10))
    return names


async def test_the_live_policy_is_switched_by_a_command(scheduler: TaskScheduler, queues: TaskQueues) -> None:
    """From the next claim on, for tasks that wait already."""
    for name, priority in (("old", 0), ("urgent", "high"), ("late", 0)):
        await scheduler.submit_task(name, priority=priority)
    assert await taken(scheduler, 1) == ["old"]
    await queues.set_policy(SchedulingPolicy(PolicyType.PRIORITY), reason="the demo")
    assert await taken(scheduler, 3) == ["urgent", "late", ""]
    view = await queues.get_queue()
    assert (view.policy.strategy, view.policy.ageing_s, view.pending, view.running) == ("priority", 60.0, 0, 0)


async def test_keys_share_a_queue_and_it_is_seen_who_used_what(scheduler: TaskScheduler, queues: TaskQueues) -> None:
    """By tokens that the attempts report."""
    policy = SchedulingPolicy(PolicyType.FAIR)
    policy.configure({"by": "key", "cost": "tokens", "weights": {"acme": 3}})
    await queues.define_queue("reports")
    await queues.set_policy(policy, queue="reports")
    for _ in range(12):
        for name in ("acme", "blue"):
            await scheduler.submit_task(name, queue="reports", fairness_key=name)
    names = await taken(scheduler, 12)
    assert (names.count("acme"), names.count("blue")) == (9, 3)
    view = await queues.get_queue("reports")
    shares = {one.key: (one.weight, one.share, one.ready, round(one.used)) for one in view.sharers}
    assert shares == {"acme": (3.0, 0.75, 3, 90), "blue": (1.0, 0.25, 9, 30)}


async def test_a_paused_queue_waits_and_a_misspelt_one_is_refused(scheduler: TaskScheduler, queues: TaskQueues) -> None:
    """And nothing that was accepted is lost."""
    await queues.define_queue("reports", weight=2)
    await queues.pause_queue("reports", "the model is down")
    await scheduler.submit_task("report", queue="reports")
    with pytest.raises(Refused, match="did you mean reports"):
        await scheduler.submit_task("report", queue="report")
    assert await taken(scheduler, 1) == [""]
    waits = asyncio.create_task(taken(scheduler, 1, wait_s=10, queues=["reports"]))
    await asyncio.sleep(0.1)
    await queues.resume_queue("reports")
    assert await waits == ["report"]
    await queues.delete_queue("reports")
    assert [view.queue.queue_id for view in await queues.list_queues()] == ["default"]
    with pytest.raises(NotFound):
        await queues.get_queue("reports")


class Longest(SchedulingPolicy):
    """Takes the task with the longest name."""

    def __init__(self) -> None:
        super().__init__(PolicyType.CUSTOM)
        self.seen: list[int] = []

    def select_task(self, available_tasks: Any, available_workers: Any, **_: Any) -> Any:
        self.seen.append(len(available_tasks))
        assert available_workers == ["w"]
        return max(available_tasks, key=lambda task: len(task.task_name))


async def test_a_policy_of_the_program_selects_what_is_claimed(app: App, scheduler: TaskScheduler) -> None:
    """From the window of the first ready tasks; if none is ready, the claim waits for any."""
    policy = Longest()
    async with TaskScheduler(app, policy=policy, policy_window=2) as picky:
        for name in ("a", "bbb", "cc"):
            await scheduler.submit_task(name)
        assert await taken(picky, 3) == ["bbb", "cc", "a"]
        assert policy.seen == [2, 2, 1]
        waits = asyncio.create_task(taken(picky, 1, wait_s=10))
        await asyncio.sleep(0.1)
        await scheduler.submit_task("late")
        assert await waits == ["late"]


async def test_two_programs_with_policies_get_each_task_once(app: App, scheduler: TaskScheduler) -> None:
    """Both want the same task again and again: one gets it, the other one chooses anew."""
    for number in range(20):
        await scheduler.submit_task("x" * (number + 1))
    async with TaskScheduler(app, policy=Longest()) as one, TaskScheduler(app, policy=Longest()) as other:
        got = await asyncio.gather(taken(one, 10), taken(other, 10))
    assert sorted(len(name) for names in got for name in names) == list(range(1, 21))


async def test_a_policy_that_selects_nothing_it_was_offered_is_an_error(app: App, scheduler: TaskScheduler) -> None:
    """And nothing is claimed."""

    class Wrong(Longest):
        def select_task(self, *_: Any, **__: Any) -> Any:
            return "task_that_is_none"

    await scheduler.submit_task("a")
    async with TaskScheduler(app, policy=Wrong()) as wrong:
        with pytest.raises(Refused, match="the policy selected 'task_that_is_none', which is none of the 1 tasks"):
            await wrong.get_next_task("w")
    assert await taken(scheduler, 1) == ["a"]


@pytest.mark.parametrize(
    ("arguments", "said"), [({"policy": 3}, "policy 3"), ({"policy_window": 0}, "policy_window 0")]
)
def test_what_is_no_policy_is_refused(arguments: dict[str, Any], said: str) -> None:
    """With its value."""
    with pytest.raises(Refused, match=said):
        TaskScheduler(**arguments)
