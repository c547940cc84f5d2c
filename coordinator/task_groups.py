"""Task groups that fail like plain code: with the first error itself, not with an exception group."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """
    Run a task group and raise its first error without a group; later errors are added to it as notes.

    If this task was cancelled, CancelledError is raised even if a child failed too: `TaskGroup` would raise only the
    errors, and a caller that retries on one of them would never stop.
    """
    task = asyncio.current_task()
    assert task is not None  # only a task can enter a group
    before, aborted = task.cancelling(), False
    tasks = asyncio.TaskGroup()
    try:
        async with tasks:
            try:
                yield tasks
            finally:
                aborted = _has_cancelled(tasks)
    except BaseExceptionGroup as group:
        first, *others = _leaves(group)
        for other in others:
            first.add_note(f"and then {other!r}")
        if sys.version_info < (3, 13) and not aborted and _has_cancelled(tasks):
            task.uncancel()  # these versions do not when a child fails after the end of the block
        if task.cancelling() > before:
            raise asyncio.CancelledError from first
        raise first from first.__cause__


def is_aborting(tasks: asyncio.TaskGroup) -> bool:
    """Return whether the group is cancelling its tasks, because one of them or its block has failed."""
    return bool(getattr(tasks, "_aborting", False))


def leave_behind(tasks: asyncio.TaskGroup | None, task: asyncio.Task[Any]) -> None:
    """
    Let the group, and `asyncio.run`, end without a task that ignores its cancellation.

    It stays suspended when its loop ends; what it raises before is dropped.
    """
    if tasks is not None:
        task.remove_done_callback(tasks._on_task_done)  # noqa: SLF001  # as below
        tasks._tasks.discard(task)  # noqa: SLF001  # a group has no other way
    setattr(task, "_log_destroy_pending", False)  # noqa: B010  # as `asyncio.gather` does; no type has it
    asyncio._unregister_task(task)  # noqa: SLF001  # "Extending" in asyncio's documentation
    _left_behind.add(task)
    task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()


_left_behind: set[asyncio.Task[Any]] = set()
"""Keeps them: one that nobody refers to would be closed, in the middle of what it does."""


def _has_cancelled(tasks: asyncio.TaskGroup) -> bool:
    """Return whether the group has cancelled its parent, because a child failed."""
    return bool(getattr(tasks, "_parent_cancel_requested", False))


def _leaves(group: BaseExceptionGroup) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
