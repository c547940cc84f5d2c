"""What a program is told whose `get_next_task` found nothing although tasks wait: once for each reason."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from coordinator.commands.explain import ExplainTask, Tier
from coordinator.commands.task import ListTasks
from events.errors import CoordinationError
from events.task import TaskStatus

if TYPE_CHECKING:
    from coordinator.app.app import App
    from coordinator.commands.explain import Explanation
    from projections.task import Task

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 60.0
LOOKED_AT = 200
"""Pending tasks that are looked at; the newest."""
NAMES_SHOWN = 5
EXPLAINED = 3
"""Tasks of a program that are explained at a time, the oldest of each name."""
_NEVER = frozenset({"other_names", "labels", "too_small", "other_version", "rule"})
"""What keeps a task from a worker for good, by the codes of an explanation."""


async def tell_what_waits(app: App, worker_id: str) -> None:
    """
    Log which tasks wait that this worker does not get.

    They may be of other programs, as this one may have been started to execute them, or no task for this worker.
    """
    now = asyncio.get_running_loop().time()
    if now < app.looks_at:
        return
    app.looks_at = now + LOOK_EVERY_S
    try:
        pending: list[Task] = await app.execute(ListTasks(status=TaskStatus.PENDING, limit=LOOKED_AT))
        _tell_of_others(app, pending)
        own = {task.task_name: task for task in pending if task.program == app.program}
        for task in list(own.values())[:EXPLAINED]:
            _tell_misfit(app, worker_id, await app.execute(ExplainTask(task_id=task.task_id)))
    except CoordinationError as error:  # who may claim may not always list
        log.debug("pending_tasks_not_listed", why=error.message)


def _tell_of_others(app: App, pending: list[Task]) -> None:
    names = sorted({task.task_name for task in pending if task.program != app.program})
    if names and "others" not in app.told:
        app.told.add("others")
        log.warning(
            "tasks_of_other_programs_wait",
            program=app.program,
            names=names[:NAMES_SHOWN],
            hint=f"get_next_task returns tasks of this program: pass task_names={names[:1]} for those of others",
        )


def _tell_misfit(app: App, worker_id: str, found: Explanation) -> None:
    """Log why this worker, or any, does not get a task, if it never will as things are."""
    mine = next((one.against for one in found.workers if one.worker_id == worker_id), {})
    against = {code: text for code, text in mine.items() if code in _NEVER}
    never = {reason.code: reason for reason in found.reasons if reason.tier is Tier.NEVER}
    if (against or never) and app.told.isdisjoint(against or never):
        app.told.update(against, never)
        log.warning(
            "task_does_not_fit",
            task_id=found.task_id,
            worker_id=worker_id,
            why="; ".join(against.values()) or found.summary,
            hint=next((reason.change for reason in never.values()), f"coordinator task explain {found.task_id}"),
        )
