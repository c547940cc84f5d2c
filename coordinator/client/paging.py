"""Read lists, and what is found by a filter, in as many pages as their answers need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.commands.task import FindTasks
    from projections.task import Task


PAGE = 1000
"""Most tasks in one answer."""


async def listed(door: Door, question: Any) -> list[Any]:
    """
    Return the items of a list, as many as the `limit` of *question* at most.

    The pages are read one after the other, and are shorter when they do not fit into a message.

    Args:
        door: where to ask.
        question: a question with `limit` and `after`, whose items have an id named after its kind.

    Raises:
        CoordinationError: the coordinator refused the question or did not answer, or a single item is too large.
    """
    found: list[Any] = []
    page = question.limit
    while True:
        after = getattr(found[-1], f"{question.KIND}_id") if found else question.after
        try:
            items = await door.execute(msgspec.structs.replace(question, limit=page, after=after))
        except Refused as error:
            if error.reason != "too_large" or page <= 1:
                raise
            page //= 2
            continue
        found += items
        left = question.limit - len(found)
        if len(items) < page or left <= 0:
            return found
        page = min(page, left)


async def found(door: Door, question: FindTasks) -> list[Task]:
    """
    Return the tasks that meet a filter, newest first, as many as the `limit` of *question* at most.

    Raises:
        CoordinationError: the coordinator refused the question or did not answer, or a single task is too large.
    """
    tasks: list[Task] = []
    page, after = min(question.limit, PAGE), question.after
    while True:
        try:
            part = await door.execute(msgspec.structs.replace(question, limit=page, after=after))
        except Refused as error:
            if error.reason != "too_large" or page <= 1:
                raise
            page //= 2
            continue
        tasks += part.tasks
        left, after = question.limit - len(tasks), part.next
        if not after or left <= 0:
            return tasks
        page = min(page, left)
