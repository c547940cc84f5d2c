"""Cancel the tasks that meet a filter, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.client.pace import paced
from coordinator.client.paging import found
from coordinator.commands.task import FindTasks
from events.errors import NotFound, Refused
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.client.client import Door
    from coordinator.commands.task import CancelTask
    from projections.task import Task

RATE_PER_S = 100.0
"""How many tasks a second are cancelled, unless more or fewer are asked for."""
CANCELLED_MAX = 100_000
"""How many tasks are cancelled at once."""


async def cancel_each(
    door: Door, where: str, command: CancelTask, *, most: int = CANCELLED_MAX, rate_per_s: float = RATE_PER_S
) -> AsyncIterator[tuple[str, TaskStatus]]:
    """
    Cancel the tasks that meet the filter *where* now and have not ended, and yield each id with its status then.

    One that ends in the meantime is passed over. A running one is asked to end, as *command* says, and not waited for.

    Args:
        door: where to ask.
        where: the filter.
        command: how each task is cancelled; its `task_id` is replaced.
        most: how many tasks are cancelled at most, those that wait first.
        rate_per_s: how many are cancelled in a second at most.

    Raises:
        CoordinationError: the filter is invalid, or the coordinator did not answer or refused one: those before it are
            cancelled.
    """
    tasks: list[Task] = []
    for status in (TaskStatus.PENDING, TaskStatus.RUNNING):
        if left := most - len(tasks):
            tasks += await found(door, FindTasks(where=where, status=status, limit=left))
    async for task in paced(tasks, rate_per_s):
        try:
            yield task.task_id, await door.execute(msgspec.structs.replace(command, task_id=task.task_id))
        except NotFound:
            continue
        except Refused as error:
            if error.reason != "already_ended":
                raise
