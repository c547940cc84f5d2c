"""
Keeps what a handler's tasks raise inside its attempt.

A SystemExit or a KeyboardInterrupt in any task ends the event loop, and with it all that runs in it: no `except` around
the handler sees it first. So the tasks that a handler starts, and theirs, turn both into `HandlerExit`, and the attempt
that they belong to is told.

A handler may fork. What returns from it in the child, or comes back to the loop there, must end: it would go on as a
second worker, with the tasks, the loop and the leases of the first.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

from coordinator.own_process.forks import depth, protect
from coordinator.stop_signals import is_from_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextvars import Context, Token

    End = Callable[[BaseException], None]

_CONTAINS = "_contains_handlers"
"""The attribute of our task factory."""
_end: ContextVar[End | None] = ContextVar("end", default=None)
"""What to call when a task exits that belongs to the attempt of this context."""


class HandlerExit(RuntimeError):
    """A task that a handler started raised SystemExit or KeyboardInterrupt"""


def contained_by(end: End) -> Token[End | None]:
    """
    Call *end* when a task exits, now or later, that this code starts from now on.

    Reset the token's variable with it to start no more of them.
    """
    return _end.set(end)


def contain(loop: asyncio.AbstractEventLoop) -> None:
    """Make *loop* contain the tasks of handlers, from now on; all others are as before."""
    protect(loop, _end_in_loop)
    before: Any = loop.get_task_factory()
    if hasattr(before, _CONTAINS):
        return
    task, get = asyncio.Task, _end.get

    def create(loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None, **options: Any) -> Any:
        end = get() if context is None else context.get(_end)
        if end is not None:
            work = _Contained(work, end)
        if before is None:
            return task(work, loop=loop, context=context, **options)
        if context is not None:  # a factory of others may not know it
            options["context"] = context
        return before(loop, work, **options)

    setattr(create, _CONTAINS, True)
    loop.set_task_factory(create)


def contained(loop: asyncio.AbstractEventLoop, end: End) -> list[asyncio.Task[Any]]:
    """Return the tasks whose exits are told to *end*, and which still run."""
    works = ((task, task.get_coro()) for task in asyncio.all_tasks(loop))
    return [task for task, work in works if isinstance(work, _Contained) and work.end == end]


def end_if_forked(worker_depth: int, error: BaseException | None) -> None:
    """End this process if it is a fork of the worker's: with 0, or as Python ends one that raised *error*."""
    if depth() != worker_depth:
        _end_fork(error)


def _end_fork(error: BaseException | None) -> NoReturn:
    code = 0
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    try:
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
        elif error is not None and not isinstance(error, SystemExit):
            code = 1
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _end_in_loop() -> NoReturn:
    _end_fork(RuntimeError("a process that a handler forked cannot use the worker's event loop"))


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose exits are contained; else the same as *work*."""

    def __init__(self, work: Coroutine[Any, Any, Any], end: End) -> None:
        self._work = work
        self.end = end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)  # what shows a task shows the frames of its coroutine

    def send(self, value: Any) -> Any:
        return self._step(self._work.send, value)

    def throw(self, *error: Any) -> Any:
        return self._step(self._work.throw, *error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._work.__await__()

    def _step(self, step: Callable[..., Any], *given: Any) -> Any:
        try:
            return step(*given)
        except (SystemExit, KeyboardInterrupt) as error:
            if is_from_signal(error):
                raise
            self.end(error)
            msg = f"a task of this handler raised {type(error).__name__}: {error}"
            raise HandlerExit(msg) from error
