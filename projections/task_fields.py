"""
What a filter may name of a task. Pure.

`ALL` has every field. `LASTING` has those that stay as they were submitted, so that a hold is decided once for a task.
"""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from events.queue import DEFAULT
from projections.filters import Fields, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.task import Task

_MAPS: dict[str, Callable[[Task], Any]] = {"attributes": attrgetter("attributes")}


def _queue(task: Task) -> str:
    return task.queue or DEFAULT


def _gang(task: Task) -> str:
    return "" if task.gang is None else task.gang.gang_id


def _status(task: Task) -> str:
    return task.status.value


_LASTING: dict[str, Callable[[Task], Any]] = {
    **{name: attrgetter(name) for name in ("task_id", "task_name", "task_type")},
    "queue": _queue,
    **{name: attrgetter(name) for name in ("tenant", "source", "program", "priority", "fairness_key")},
    "gang": _gang,
}

LASTING = Fields(_LASTING, _MAPS)
ALL = Fields(
    {**_LASTING, "status": _status, **{name: attrgetter(name) for name in ("attempt", "worker_id", "build_id")}}, _MAPS
)


@lru_cache(maxsize=1024)
def lasting(where: str) -> Callable[[Task], bool]:
    """
    Return what tells whether a task meets a filter, the same for as long as the task lives.

    Raises:
        Refused: it is not a condition on fields that a task keeps as it was submitted.
    """
    return parsed(where, LASTING)
