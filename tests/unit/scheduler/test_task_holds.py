"""Holds, lists by a filter and cancelling by one, through the facades."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.cancel_tasks import cancel_each
from coordinator.client.paging import found
from coordinator.commands.task import CancelTask, FindTasks, SubmitTask, TasksFound
from coordinator.scheduler import TaskHolds, TaskScheduler, TaskStatus
from events.errors import NotFound, Refused
from events.task import Payload

if TYPE_CHECKING:
    from coordinator.app.app import App
    from projections.task import Task

ACME = 'attributes.customer == "acme"'


async def test_a_held_task_waits_until_the_hold_is_lifted(app: App) -> None:
    """Others do not; the hold says how many it keeps."""
    scheduler, holds = TaskScheduler(app), TaskHolds(app)
    hold_id = await holds.place_hold(ACME, reason="why")
    for customer in ("acme", "blue"):
        await scheduler.submit_task("n", task_id=customer, attributes={"customer": customer})
    taken = [await scheduler.get_next_task("w") for _ in range(2)]
    assert [task and task.task_id for task in taken] == ["blue", None]
    (view,) = await holds.list_holds()
    assert (view.hold_id, view.tasks, view.hold.reason, view.hold.where) == (hold_id, 1, "why", ACME)
    assert await holds.get_hold(hold_id) == view
    assert await holds.place_hold(ACME, reason="why", hold_id=hold_id) == hold_id
    await holds.lift_hold(hold_id, "done")
    task = await scheduler.get_next_task("w")
    assert task is not None
    assert task.task_id == "acme"
    with pytest.raises(NotFound):
        await holds.lift_hold(hold_id)
    with pytest.raises(NotFound):
        await holds.get_hold(hold_id)


async def test_tasks_are_listed_and_cancelled_by_a_filter(app: App) -> None:
    """Pending ones at once; one that runs is asked to end, and is not waited for; those that ended stay."""
    scheduler = TaskScheduler(app)
    for number, customer in enumerate(("acme", "blue", "acme", "acme")):
        await scheduler.submit_task("n", task_id=f"t{number}", attributes={"customer": customer})
    await scheduler.cancel_task("t3")
    assert await scheduler.get_next_task("w") is not None
    assert [task.task_id for task in await scheduler.list_tasks(where=ACME)] == ["t3", "t2", "t0"]
    assert [task.task_id for task in await scheduler.list_tasks("pending", where=ACME)] == ["t2"]
    assert await scheduler.list_tasks(where=ACME, paused=True) == []
    assert await scheduler.cancel_tasks(ACME, "r", most=1, rate=1000) == ["t2"]
    assert await scheduler.cancel_tasks(ACME, "r", grace=5.0, rate=1000) == ["t0"]
    assert (await scheduler.get_task("t0")).status is TaskStatus.RUNNING
    assert (await scheduler.get_task("t2")).error == "r"
    assert (await scheduler.get_task("t1")).status is TaskStatus.PENDING


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"where": 5}, "where 5 is not text"),
        ({"where": "x"}, "'x' is not a field"),
        ({"most": 0}, "most 0"),
        ({"most": 100_001}, "most 100001"),
        ({"rate": 0}, "rate 0"),
        ({"rate": "fast"}, "rate 'fast'"),
        ({"grace": "long"}, "grace 'long'"),
        ({"reason": 5}, "reason 5"),
    ],
)
async def test_what_is_cancelled_by_a_filter_is_checked(app: App, given: dict[str, Any], why: str) -> None:
    """The error names the argument."""
    with pytest.raises(Refused, match=why):
        await TaskScheduler(app).cancel_tasks(**{"where": "true", **given})


class Door:
    """Answers searches with at most *fits* tasks, and cancels."""

    def __init__(self, tasks: list[Task], fits: int) -> None:
        self.tasks = tasks
        self.fits = fits
        self.asked: list[int] = []

    async def execute(self, question: FindTasks) -> TasksFound:
        self.asked.append(question.limit)
        ids = [task.task_id for task in self.tasks]
        begin = ids.index(question.after) + 1 if question.after else 0
        page = self.tasks[begin : begin + question.limit]
        if len(page) > self.fits:
            raise Refused("it does not fit", reason="too_large")
        more = begin + len(page) < len(ids)
        return TasksFound(tasks=page, next=page[-1].task_id if more else "")


async def test_a_long_list_is_read_in_pages_that_fit(app: App) -> None:
    """As many tasks as were asked for; a single one that does not fit is an error."""
    for number in range(7):
        await app.execute(_submit(f"t{number}"))
    tasks: list[Task] = (await app.execute(FindTasks(where="true"))).tasks
    door = Door(tasks, fits=3)
    assert await found(door, FindTasks(where="true", limit=100)) == tasks  # type: ignore[arg-type]  # it answers
    assert door.asked == [100, 50, 25, 12, 6, 3, 3, 3]
    door = Door(tasks, fits=3)
    assert await found(door, FindTasks(where="true", limit=4)) == tasks[:4]  # type: ignore[arg-type]  # it answers
    assert door.asked == [4, 2, 2]
    with pytest.raises(Refused, match="does not fit"):
        await found(Door(tasks, fits=0), FindTasks(where="true"))  # type: ignore[arg-type]  # it answers


class Ending(Door):
    """Tasks of which some have ended when they are to be cancelled."""

    async def execute(self, question: Any) -> Any:
        if isinstance(question, FindTasks):
            return TasksFound(tasks=[task for task in self.tasks if task.status is question.status])
        if question.task_id == "t1":
            raise Refused("it has ended", reason="already_ended")
        if question.task_id == "t2":
            raise NotFound("it ended long ago")
        if question.task_id == "t4":
            raise Refused("no", reason="bad_text")
        return TaskStatus.CANCELLED


async def test_what_ends_while_others_are_cancelled_is_passed_over(app: App) -> None:
    """Every other refusal is an error."""
    for number in range(5):
        await app.execute(_submit(f"t{number}"))
    tasks: list[Task] = (await app.execute(FindTasks(where="true"))).tasks
    door: Any = Ending(tasks[::-1], fits=9)
    cancelled = cancel_each(door, "true", CancelTask(task_id=""), rate_per_s=1000.0)
    assert await anext(cancelled) == ("t0", TaskStatus.CANCELLED)
    assert await anext(cancelled) == ("t3", TaskStatus.CANCELLED)
    with pytest.raises(Refused, match="no"):
        await anext(cancelled)


def _submit(task_id: str) -> Any:
    return SubmitTask(task_id=task_id, task_name="n", payload=Payload(encoding="text", digest="0" * 64, data=""))
