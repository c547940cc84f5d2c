"""
Threads for handlers that are not async: started when needed and reused, at most one per slot.

They are daemon threads, unlike those of `concurrent.futures`: a handler that never returns must not keep a process
alive that has drained and released its tasks. For the same reason nothing here waits for a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from coordinator.own_process.forks import depth
from coordinator.worker.containment import end_if_forked

if TYPE_CHECKING:
    from collections.abc import Callable

    Outcome = tuple[Any, BaseException | None]
    Job = tuple[Callable[[], Any], asyncio.Future[Outcome], object]


class Threads:
    """Runs functions in threads, for the event loop it was created in. The caller limits how many run at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._depth = depth()
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._count = 0
        self._idle = 0
        self.busy: set[object] = set()
        """For whom calls run now."""
        self._lock = threading.Lock()
        self._at_work: dict[object, int] = {}
        """The thread that runs the call of each, while it runs."""
        self._struck: set[object] = set()
        """Those of them in whose thread an exception was raised."""

    async def run(self, call: Callable[[], Any], whom: object = None) -> Any:
        """Run *call* in a thread for *whom*; return or raise its result. Cancelled, it stops waiting for the thread."""
        future: asyncio.Future[Outcome] = self._loop.create_future()
        if self._idle:
            self._idle -= 1
        else:
            self._count += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
        context = contextvars.copy_context()
        self.busy.add(whom)
        self._jobs.put((partial(context.run, call), future, whom))
        value, error = await future
        if error is not None:
            raise error
        return value

    def interrupt(self, whom: object, error: type[BaseException]) -> bool:
        """
        Raise *error* in the thread that runs the call for *whom*, at its next bytecode; return False if none runs.

        A thread that waits in C code, as in `time.sleep`, gets it when it returns from there; under a tracer of Python
        3.11, such as a debugger or coverage, the other threads wait for it, too.
        """
        with self._lock:
            thread = self._at_work.get(whom)
            if thread is None or not _raise_in(thread, error):
                return False
            self._struck.add(whom)
            return True

    def close(self) -> None:
        """Let each thread end when its current call returns."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        # The loop is closed if a handler returns after the worker has ended.
        with suppress(RuntimeError):
            while (job := self._jobs.get()) is not None:
                call, future, whom = job
                outcome = self._outcome(call, whom)
                end_if_forked(self._depth, outcome[1])
                self._loop.call_soon_threadsafe(self._done, future, outcome, whom)
                del job, call, future, outcome, whom  # an idle thread must not keep references to its last job

    def _outcome(self, call: Callable[[], Any], whom: object) -> Outcome:
        """Call; `interrupt` can reach nothing else of this thread, neither before nor after it."""
        outcome: Outcome = None, None
        try:
            with self._lock:
                self._at_work[whom] = threading.get_ident()
            outcome = call(), None
        except BaseException as error:  # noqa: BLE001  # raised again where the call is awaited
            outcome = None, error
        while True:
            try:
                with self._lock:
                    self._at_work.pop(whom, None)
                    if whom in self._struck:
                        _drop_unraised()
                        self._struck.discard(whom)
            except BaseException as error:  # noqa: BLE001  # it was raised just here, after the call
                outcome = None, error
            else:
                return outcome

    def _done(self, future: asyncio.Future[Outcome], outcome: Outcome, whom: object) -> None:
        self._idle += 1
        self.busy.discard(whom)
        if not future.done():
            future.set_result(outcome)


class _Unraised(BaseException):
    """Takes the place of what was to be raised in a thread."""


def _raise_in(thread: int, error: type[BaseException]) -> bool:
    """Let a thread raise *error* at its next bytecode, instead of what it has not raised yet."""
    return bool(ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error)))


def _drop_unraised() -> None:
    """
    Drop what this thread has not raised yet, by raising something else here.

    To take it back, with NULL, is no way: up to Python 3.12 all threads would then look for it at each call, for ever,
    and under a tracer of Python 3.11 do nothing else.
    """
    try:
        _raise_in(threading.get_ident(), _Unraised)
        while True:
            pass
    except _Unraised:
        pass
