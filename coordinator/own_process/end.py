"""
The end of a process that has run code of users: tasks, threads and children that do not end are left behind.

Python waits without limit for tasks that ignore their cancellation, for threads that are not daemons, for the executors
of `asyncio.to_thread` and `concurrent.futures`, and for the children of `multiprocessing`. Here each wait is bounded,
and what was left behind is logged.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Coroutine

_Value = TypeVar("_Value")

CANCEL_GRACE_S = 1.0
"""Seconds that what is left in the loop has to clean up."""
EXIT_GRACE_S = 2.0
"""Seconds that Python has to wait for threads and children."""

log = structlog.get_logger(__name__)

_left: list[asyncio.Runner] = []
"""Loops that could not be closed. They are kept: what is suspended in them must not be closed either."""
_ran = False


def run(work: Coroutine[Any, Any, _Value]) -> _Value:
    """
    Run *work* as `asyncio.run` does, but leave behind what ignores its cancellation; call `leave` afterwards.

    Raises whatever *work* raises.
    """
    global _ran  # noqa: PLW0603  # it is of the process
    _ran = True
    runner = asyncio.Runner()
    ended: list[bool] = []
    try:
        return runner.run(_then_end(work, ended))
    finally:
        if ended and all(ended):
            runner.close()
        else:
            _left.append(runner)


def leave(code: int) -> NoReturn:
    """Exit with *code*; after `run`, without waiting longer than some seconds for threads and children."""
    if _ran:
        threading.Thread(target=_insist, args=(code,), name="end", daemon=True).start()
    sys.exit(code)


async def _then_end(work: Coroutine[Any, Any, _Value], ended: list[bool]) -> _Value:
    try:
        return await work
    finally:
        loop = asyncio.get_running_loop()
        ended += [
            await _cancel(asyncio.all_tasks(loop) - {asyncio.current_task()}),
            await _await(loop.shutdown_asyncgens(), "generators_left_behind"),
            await _await(loop.shutdown_default_executor(), "executor_left_behind"),
        ]


async def _cancel(tasks: set[asyncio.Task[Any]]) -> bool:
    """Cancel *tasks*; return whether all have ended in time."""
    for task in tasks:
        task.cancel()
    if not tasks:
        return True
    done, deaf = await asyncio.wait(tasks, timeout=CANCEL_GRACE_S)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("task_failed_at_exit", task=task.get_name(), error=f"{type(error).__name__}: {error}")
    for task in deaf:
        log.warning("task_left_behind", task=task.get_name(), where=_place(task))
    return not deaf


async def _await(end: Coroutine[Any, Any, None], otherwise: str) -> bool:
    """Wait for *end*; return whether it came in time, and log *otherwise* if not."""
    ending = asyncio.get_running_loop().create_task(end)
    done, _ = await asyncio.wait({ending}, timeout=CANCEL_GRACE_S)
    if not done:
        log.warning(otherwise)
    return bool(done)


def _place(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    return f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else ""


def _insist(code: int) -> None:
    time.sleep(EXIT_GRACE_S)
    threads = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    multiprocessing = sys.modules.get("multiprocessing")
    children = [] if multiprocessing is None else [one.name for one in multiprocessing.active_children()]
    with suppress(Exception):  # whatever happens, the process ends
        log.warning("process_left_behind", threads=threads, children=children)
    os._exit(code)
