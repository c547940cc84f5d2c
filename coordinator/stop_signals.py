"""
Stops our processes on SIGTERM, on SIGINT, or when the parent dies; a second SIGINT forces the stop.

A process that is forked from ours, as `multiprocessing` does, must not have our handlers: they would tell the loop of
its parent, and `Process.terminate` would end nothing.
"""

from __future__ import annotations

import asyncio
import dis
import functools
import os
import signal
import traceback
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from coordinator.guard import watch_parent
from coordinator.task_groups import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

_Value = TypeVar("_Value")

_before: dict[int, Any] = {}
"""What handled the signals that we handle now."""


@asynccontextmanager
async def stop_on_signals(stop: Callable[[str], None], force: Callable[[], None]) -> AsyncIterator[None]:
    """
    Call *stop* with the reason at the first signal, and *force* at a second SIGINT, while the block runs.

    One more SIGINT, or a second one while the loop is blocked, raises KeyboardInterrupt. Only for the main thread.
    """
    signals = _Signals(stop, force)
    before: dict[int, Any] = {
        number: signal.signal(number, signals.receive) for number in (signal.SIGTERM, signal.SIGINT)
    }
    outer = dict(_before)
    _before.update(before)
    try:
        async with task_group() as tasks:
            watching = tasks.create_task(_stop_when_orphaned(stop))
            try:
                yield
            finally:
                watching.cancel()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _before.clear()
        _before.update(outer)


@asynccontextmanager
async def stop_signal() -> AsyncIterator[asyncio.Event]:
    """
    Yield an event that is set by SIGTERM, by SIGINT, or when the parent that spawned this process has died.

    A second SIGINT does not wait for a regular end: it raises KeyboardInterrupt.
    """
    stop = asyncio.Event()
    async with stop_on_signals(lambda _: stop.set(), _interrupt):
        yield stop


async def unless_stopped(work: Coroutine[Any, Any, _Value]) -> _Value | None:
    """Run *work* and return its result; if `stop_signal` comes first, cancel *work* and return None."""
    async with stop_signal() as stop, task_group() as tasks:
        working = tasks.create_task(work)
        stopping = tasks.create_task(stop.wait())
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait([working])
        return None if working.cancelled() else working.result()


async def _stop_when_orphaned(stop: Callable[[str], None]) -> None:
    await watch_parent()
    stop("its parent died")


class _Signals:
    """Counts signals; `receive` is called between any two instructions, even while the loop is blocked."""

    def __init__(self, stop: Callable[[str], None], force: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = stop
        self._force = force
        self._stops = False
        self._forces = False
        self._interrupts = 0

    def receive(self, number: int, _frame: object) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and (self._forces or not self._stops):
            raise KeyboardInterrupt
        self._loop.call_soon_threadsafe(self._handle, number)

    def _handle(self, number: int) -> None:
        if not self._stops:
            self._stops = True
            self._stop(signal.Signals(number).name)
        elif number == signal.SIGINT and self._interrupts > 1:
            self._forces = True
            self._force()


def _after_fork_in_child() -> None:
    for number, handler in _before.items():
        # asyncio's handler of SIGINT cancels the main task of the parent's loop.
        is_asyncio = isinstance(handler, functools.partial) and getattr(handler.func, "__name__", "") == "_on_sigint"
        signal.signal(number, signal.default_int_handler if is_asyncio else handler)
    _before.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def is_from_signal(error: BaseException) -> bool:
    """Return whether a SIGINT raised *error*: it is a KeyboardInterrupt that came out of the handler of that signal."""
    if not isinstance(error, KeyboardInterrupt):
        return False
    receive: Any = signal.getsignal(signal.SIGINT)
    while isinstance(receive, functools.partial):
        receive = receive.func
    receiving = getattr(getattr(receive, "__func__", receive), "__code__", None)
    frames = list(traceback.walk_tb(error.__traceback__))
    if receiving is None and frames:
        # Python's own handler has no frame: its error appears in a line that raises nothing itself.
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        assert last is not None
        return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] != "RAISE_VARARGS"
    return any(frame.f_code is receiving for frame, _ in frames)


def _interrupt() -> None:
    raise KeyboardInterrupt
