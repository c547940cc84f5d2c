"""
Handlers: the functions that execute tasks, their registration by task name, and the context they receive.

A handler is checked when it is registered, not when its first task arrives. Nothing here talks to the coordinator.

    @task("invoice.extract")
    async def extract(context: Context, payload: dict[str, str]) -> dict[str, int]: ...

    @task("ocr.page")
    def ocr(payload: str) -> str: ...        # not async: it runs in a thread
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from coordinator.commands.arguments import number, text, whole
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import ExtendTask, ProgressTask
from coordinator.commands.validation import AMOUNT_MAX, check_number, check_text
from events.errors import Refused, Unavailable, shown
from events.retry import PAUSE_MAX_S
from events.task import TaskUsage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import ModuleType

    from coordinator.commands.command import Command
    from events.task import Payload

    Report = Callable[[float | None, str], Awaitable[None]]
    Send = Callable[[Command[Any]], Awaitable[Any]]

PROGRESS_TIMEOUT_S = 10.0

_CONTEXT_NAMES = ("context", "ctx")
_SELVES = ("self", "cls")
_UNKNOWN = object()
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

T = TypeVar("T")
Function = TypeVar("Function", bound="Callable[..., Any]")


class DoNotRetry(Exception):
    """Raised by a handler when retrying cannot help: the task ends as FAILED without a retry"""


class AttemptCancelled(BaseException):
    """
    The task is being cancelled: raised by `Context.raise_if_cancelled`, and in a thread that did not end in time

    Not an `Exception`, so that a handler which catches those does not go on.
    """


class RetryAfter(Exception):
    """
    Raised by a handler to fail the attempt and say how long the retry must wait; it may wait longer by its policy.

    `raise RetryAfter(30) from error` reports the type of *error*, by which tasks name errors that are not retried.

    Args:
        after_s: seconds, 0 to 30 days.
        message: what went wrong, for people.

    Raises:
        Refused: *after_s* is not such a number.
    """

    def __init__(self, after_s: float, message: str = "") -> None:
        self.after_s = number("after_s", after_s)
        check_number("after_s", self.after_s, 0, PAUSE_MAX_S)
        super().__init__(message or f"retry after {self.after_s:g} s")


class Context:
    """
    One attempt at a task, as its handler sees it.

    `deadline` is when the attempt times out, in seconds since 1970 by the coordinator's clock; None without a limit.
    `tenant` and `traceparent` are those of the task, '' if it has none; the commands that the handler sends have them
    too.
    `cancelled` becomes True when the task is to be cancelled, the lease is lost or the worker stops waiting for the
    handler. An async handler is cancelled too; a handler in a thread should check `cancelled` from time to time, or
    call `raise_if_cancelled`. A task that is to be cancelled has `cancel_grace_s` seconds from then on, and
    `cancel_reason` says why; a result that is returned in that time still counts.
    `checkpoint` is what an attempt at this task saved last, None if nothing.

    Args:
        task_id: the task.
        task_name: its name.
        attempt: the number of the attempt, from 1.
        lease: the lease of the attempt.
        worker_id: the worker that executes it.
        tenant: see above.
        traceparent: see above.
        deadline: see above.
        report: sends progress; without it, progress is ignored, as in unit tests of handlers.
        send: sends what else the handler says of its attempt; without it, that is ignored.
        saved: the last checkpoint.
        loop: the event loop of *report* and *send*.
    """

    __slots__ = (
        "_loop", "_report", "_saved", "_send", "_told", "_used", "attempt", "cancel_grace_s", "cancel_reason",
        "cancelled", "deadline", "lease", "task_id", "task_name", "tenant", "traceparent", "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        task_id: str,
        task_name: str = "",
        attempt: int = 1,
        lease: str = "",
        worker_id: str = "",
        tenant: str = "",
        traceparent: str = "",
        deadline: float | None = None,
        report: Report | None = None,
        send: Send | None = None,
        saved: Payload | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_name = task_name
        self.attempt = attempt
        self.lease = lease
        self.worker_id = worker_id
        self.tenant = tenant
        self.traceparent = traceparent
        self.deadline = deadline
        self.cancelled = False
        self.cancel_reason = ""
        self.cancel_grace_s = 0.0
        self._report = report
        self._send = send
        self._saved = saved
        self._used: TaskUsage | None = None
        self._told: TaskUsage | None = None
        self._loop = loop

    def raise_if_cancelled(self) -> None:
        """Raise `AttemptCancelled`, which ends the handler, if `cancelled` is True."""
        if self.cancelled:
            raise AttemptCancelled(self.cancel_reason or "the lease was lost")

    async def progress(self, fraction: float | None = None, message: str = "") -> None:
        """
        Report the progress of the attempt. The report is dropped if the coordinator does not answer within 5 s.

        Args:
            fraction: the share that is done, 0 to 1; without it, the attempt only shows that it goes on.
            message: a short text for people.

        Raises:
            Refused: *fraction* is out of range, or *message* is not short printable text.
            StaleLease: the lease was lost.
        """
        given, told = None if fraction is None else number("fraction", fraction), text("message", message)
        if self._report is not None:
            await self._report(given, told)

    def progress_from_thread(self, fraction: float | None = None, message: str = "") -> None:
        """
        Report progress from a handler that is not async; see `progress`. Returns when the progress is recorded.

        Raises:
            Refused: it was called in an async handler, or an argument is invalid as for `progress`.
            StaleLease: the lease was lost.
            TimeoutError: the coordinator did not answer within 10 s.
        """
        if self._report is not None and self._loop is not None:
            self._in_loop("progress", lambda: self.progress(fraction, message))

    @property
    def checkpoint(self) -> Any:
        """What was saved last, decoded; raises `Refused` or `Corrupt` when it cannot be read."""
        return value_of(self._saved)

    async def save_checkpoint(self, value: Any, fraction: float | None = None, message: str = "") -> None:
        """
        Save where this attempt is, so that the next one can go on from there; the last checkpoint counts.

        It is kept until the task ends, and is a report of progress as well.

        Args:
            value: any JSON value but None, or bytes; at most 16 KiB.
            fraction: see `progress`.
            message: see `progress`.

        Raises:
            Refused: *value* is too large or cannot be sent as it is, or another argument is invalid.
            StaleLease: the lease was lost.
            Unavailable: the coordinator did not answer; the checkpoint may have been saved.
        """
        given = None if fraction is None else number("fraction", fraction)
        saved = payload_of(value, "checkpoint")
        if saved is None:
            raise Refused("checkpoint None is nothing to go on from: use any other JSON value", reason="bad_type")
        command = ProgressTask(
            task_id=self.task_id, lease=self.lease, progress=given, message=text("message", message), checkpoint=saved
        )
        if self._send is not None:
            await self._send(command)
        self._saved = saved

    def save_checkpoint_from_thread(self, value: Any, fraction: float | None = None, message: str = "") -> None:
        """Save a checkpoint in a handler that is not async; see `save_checkpoint`. `TimeoutError` without answer."""
        if self._send is not None:
            self._in_loop("save_checkpoint", lambda: self.save_checkpoint(value, fraction, message))

    @property
    def usage(self) -> TaskUsage | None:
        """All that the attempt has used so far, as it has said; it is reported with the outcome. None for nothing."""
        return self._used

    @property
    def has_untold_usage(self) -> bool:
        """Whether the coordinator does not know of all that was used."""
        return self._used != self._told

    async def report_usage(
        self,
        *,
        input_tokens: int = 0,
        cached_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        money_micros: int = 0,
    ) -> None:
        """
        Say what the attempt has used since the last time; budgets are charged for it even if the worker dies.

        It counts from now on, and goes with the outcome if the coordinator does not answer within 5 s.

        Args:
            input_tokens: tokens that were read, without those from a cache.
            cached_tokens: tokens that were read from a cache.
            output_tokens: tokens that were written, without those of reasoning.
            reasoning_tokens: tokens that were written as reasoning.
            money_micros: money besides what the tokens cost by the price table, in micro-units.

        Raises:
            Refused: an amount is not a whole number from 0 on.
            StaleLease: the lease was lost.
        """
        self.add_usage(
            TaskUsage(
                input_tokens=input_tokens,
                cached_tokens=cached_tokens,
                output_tokens=output_tokens,
                reasoning_tokens=reasoning_tokens,
                money_micros=money_micros,
            )
        )
        if self._send is not None:
            with suppress(Unavailable):
                told = self._used
                await self._send(ProgressTask(task_id=self.task_id, lease=self.lease, usage=told))
                self._told = told

    def add_usage(self, usage: TaskUsage) -> None:
        """
        Add to what the attempt has used, and report it only with the outcome, or with the next `report_usage`.

        Raises:
            Refused: an amount is not a whole number from 0 on.
        """
        for name in usage.__struct_fields__:
            check_number(name, whole(name, getattr(usage, name)), 0, AMOUNT_MAX)
        self._used = usage if self._used is None else self._used + usage

    def report_usage_from_thread(self, **used: int) -> None:
        """Say what was used in a handler that is not async; see `report_usage`. `TimeoutError` without answer."""
        if self._send is None or self._loop is None:
            self.add_usage(TaskUsage(**used))
        else:
            self._in_loop("report_usage", lambda: self.report_usage(**used))

    async def extend(self, by_s: float) -> float | None:
        """
        Give the attempt *by_s* seconds more than the task's `timeout`, and return the new `deadline`.

        Returns None if the task has no `timeout`.

        Raises:
            Refused: *by_s* is out of range, or makes the attempt longer than 366 days.
            StaleLease: the lease was lost.
            Unavailable: the coordinator did not answer; the attempt may have got the time.
        """
        given = number("by_s", by_s)
        if self._send is not None:
            self.deadline = await self._send(ExtendTask(task_id=self.task_id, lease=self.lease, by_s=given))
        return self.deadline

    def extend_from_thread(self, by_s: float) -> float | None:
        """Get more time in a handler that is not async; see `extend`. Raises `TimeoutError` without answer in 10 s."""
        if self._send is None:
            return self.deadline
        return self._in_loop("extend", lambda: self.extend(by_s))

    def _in_loop(self, name: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """
        Run a method of this context in its loop, and wait for its end.

        Raises:
            Refused: this thread is that of the loop.
        """
        assert self._loop is not None
        if _running_loop() is self._loop:
            msg = f"{name}_from_thread() was called in an async handler: use `await context.{name}()` there"
            raise Refused(msg, reason="bad_handler")
        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PROGRESS_TIMEOUT_S)


class Handler(NamedTuple):
    """A function that executes the tasks of one name."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    wants_context: bool

    @property
    def where(self) -> str:
        """The module and the name of the function."""
        return _where(self.function)

    def bound(self, context: Context, payload: Any) -> Callable[[], Any]:
        """Return the function without its arguments: a call of it executes one attempt."""
        return partial(self.function, context, payload) if self.wants_context else partial(self.function, payload)


def handler_of(name: Any, function: Any) -> Handler:
    """
    Return a handler for the tasks named *name*.

    Raises:
        Refused: the name is invalid, or *function* is a generator or a class, cannot be called, or does not take
            (payload) or (context, payload).
    """
    if not isinstance(name, str):
        msg = f"the name of a task must be text, not {shown(name)}: use @task('some_name')"
        raise Refused(msg, reason="bad_handler")
    name = check_text("the name of a task", text("the name of a task", name), 128, least=1)
    called = _called(name, function)
    wrapped = inspect.unwrap(called)
    if any(map(_yields, (called, wrapped))):
        msg = f"handler {_where(function)} of task {name!r} is a generator: return the result instead of yielding it"
        raise Refused(msg, reason="bad_handler")
    return Handler(name, function, _is_async(called), _wants_context(name, function))


def _called(name: str, function: Any) -> Callable[..., Any]:
    """
    Return the function that a call of *function* executes.

    Raises:
        Refused: it cannot be called, or a call of it gives no result.
    """
    called, before, why = function, _UNKNOWN, ""
    while called is not before and not why and not _is_plain(called):
        before = called
        if isinstance(called, type) and called.__module__ != "builtins":
            why = "is a class, and a call of it gives an object and no result: use a function, or an object of it"
        elif not callable(called):
            why = "cannot be called: use a function, or a bound method such as one.method or Class.method"
        else:
            called = _next(called)
    if why:
        raise Refused(f"handler {_where(function)} of task {name!r} {why}", reason="bad_handler")
    first = next(iter(inspect.signature(called).parameters), "") if inspect.isfunction(called) else ""
    if called is function and first in _SELVES and "." in called.__qualname__.rpartition("<locals>.")[2]:
        msg = f"handler {_where(function)} of task {name!r} takes {first!r}: register a method of an object or class"
        raise Refused(msg, reason="bad_handler")
    return cast("Callable[..., Any]", called)


def _is_plain(called: Any) -> bool:
    return inspect.isroutine(called) and not isinstance(called, staticmethod | classmethod)


def _next(called: Any) -> Any:
    """Return what an object that is no function calls; the object if that is not a Python function."""
    if isinstance(called, partial):
        return called.func
    if isinstance(called, staticmethod):
        return called.__func__
    inner = getattr(type(called), "__call__", None)  # noqa: B004  # not whether it can be called, but what
    return inner if inspect.isfunction(inner) else called


def _yields(called: Callable[..., Any]) -> bool:
    return inspect.isasyncgenfunction(called) or (inspect.isgeneratorfunction(called) and not _is_async(called))


def _is_async(called: Callable[..., Any]) -> bool:
    code = getattr(called, "__code__", None)
    by_types = code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)  # `types.coroutine`
    return inspect.iscoroutinefunction(called) or by_types


def _wants_context(name: str, function: Callable[..., Any]) -> bool:
    wrong = f"handler {_where(function)} of task {name!r} takes %s: use handler(payload) or handler(context, payload)"
    try:
        parameters = _parameters(function)
    except (TypeError, ValueError) as error:
        raise Refused(wrong % f"unknown arguments ({error})", reason="bad_handler") from error
    taken = [one for one in parameters if one.kind in _POSITIONAL]
    needed = [one.name for one in taken if one.default is one.empty]
    keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if not taken or len(needed) > 2 or keywords:  # noqa: PLR2004  # a context and a payload
        if any(one.kind is one.VAR_POSITIONAL for one in parameters):
            wrong += "; a decorator hides them unless it uses functools.wraps"
        raise Refused(wrong % f"({', '.join(map(str, parameters))})", reason="bad_handler")
    if len(taken) == 1:
        if _is_context(taken[0]):
            raise Refused(wrong % f"({taken[0]}), only a context", reason="bad_handler")
        return False
    return len(needed) == 2 or _is_context(taken[0])  # noqa: PLR2004  # as above


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return what *function* takes: if it takes anything, as what a decorator returns, what it wraps takes."""
    try:
        own = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except ValueError:  # it is an object in C, as `functools.lru_cache` makes
        own = []
    if own and not any(one.kind is one.VAR_POSITIONAL for one in own):
        return own
    return list(inspect.signature(function).parameters.values())


def _is_context(parameter: inspect.Parameter) -> bool:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return parameter.name in _CONTEXT_NAMES
    return annotation is Context or str(annotation).rpartition(".")[2] == "Context"


def _where(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


# --- the handlers of a module -----------------------------------------------------------------------------------------

_registered: list[tuple[str, Handler]] = []
"""All handlers that `task` registered in this process, in order, and the modules that did; see `handlers_of`."""


def task(name: str) -> Callable[[Function], Function]:
    """
    Register the decorated function as the handler of tasks named *name*, for the workers that run its module.

    An async function runs in the worker's event loop, anything else that can be called in a thread; an awaitable that
    it returns is awaited in the loop. It takes the payload, or a `Context` and the payload, and returns the result: any
    JSON value, or bytes.

    Raises:
        Refused: the name is invalid, or the function is a generator or does not take (payload) or (context, payload).
    """

    def register(function: Function) -> Function:
        # A function of a library, as a partial or an object, does not say which module registers it.
        by = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001  # documented in spite of its name
        _registered.append((by, handler_of(name, function)))
        return function

    return register


def handlers_of(module: ModuleType) -> dict[str, Handler]:
    """
    Return the handlers that *module* or its submodules define or register, or that *module* imports, by task name.

    Raises:
        Refused: there is no handler, or two handlers have the same name.
    """
    imported = {id(value) for value in vars(module).values()}
    found: dict[str, Handler] = {}
    for by, handler in _registered:
        homes = (by, getattr(handler.function, "__module__", None) or "")
        is_own = any(home == module.__name__ or home.startswith(f"{module.__name__}.") for home in homes)
        if is_own or id(handler.function) in imported:
            add_handler(found, handler)
    if not found:
        msg = f"module {module.__name__} has no handlers: decorate a function in it with @task('some_name')"
        raise Refused(msg, reason="no_handlers")
    return found


def add_handler(handlers: dict[str, Handler], handler: Handler) -> None:
    """
    Add a handler. The same function of a module that was imported again replaces the first.

    Raises:
        Refused: another function is the handler of that name.
    """
    known = handlers.get(handler.name)
    if known is not None and _where(known.function) != _where(handler.function):
        msg = (
            f"task {handler.name!r} has two handlers, {_where(known.function)} and {_where(handler.function)}: keep one"
        )
        raise Refused(msg, reason="bad_handler")
    handlers[handler.name] = handler


def load_handlers(module: str) -> dict[str, Handler]:
    """
    Import *module*, a dotted name or the path of a file, and return its handlers by task name.

    A dotted name is also searched in the working directory.

    Raises:
        Refused: the module does not exist, importing it fails, or it has no handlers.
    """
    is_file = module.endswith(".py") or os.sep in module
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = _import_file(Path(module)) if is_file else importlib.import_module(module)
    except Refused:
        raise
    except Exception as error:  # the user's module may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and not is_file and f"{module}.".startswith(f"{missing}."):
            msg = f"module {module!r} not found in {here} or on sys.path: use pkg.module or path/to/file.py"
            raise Refused(msg, reason="no_module") from error
        msg = f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        raise Refused(msg, reason="no_module") from error
    return handlers_of(imported)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        msg = f"file {str(path)!r} not found in {Path.cwd()}: use pkg.module or path/to/file.py"
        raise Refused(msg, reason="no_module")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        msg = f"file {str(path)!r} is not a Python module: its name must end in .py"
        raise Refused(msg, reason="no_module")
    imported = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = imported
    try:
        spec.loader.exec_module(imported)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return imported
