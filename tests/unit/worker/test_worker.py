"""The worker without a coordinator: handlers, threads, and reports of their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands.cancel_ladder import ReportCancel
from coordinator.commands.notices import ToCancel
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import CompleteTask, FailTask, ProgressTask
from coordinator.worker import AttemptCancelled, Context, DoNotRetry, RetryAfter, Worker, load_handlers, task
from coordinator.worker.attempts import Attempts
from coordinator.worker.handlers import Handler, add_handler, handler_of, handlers_of
from coordinator.worker.reported_error import error_text
from coordinator.worker.threads import Threads
from events.base import Position
from events.errors import Refused, StaleLease, Unavailable
from events.retry import RetryPolicy
from events.task import Payload, TaskStatus, TaskUsage
from projections.cancelling import Cancelling
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from coordinator.commands.command import Command

URL = "nats://127.0.0.1:1"
PATIENCE_S = 5.0


# --- handlers ---------------------------------------------------------------------------------------------------------


class Called:
    """A handler that is an object instead of a function."""

    async def __call__(self, payload: object) -> object:
        return payload


async def alone(payload: object) -> object:
    return payload


def with_context(context: Context, payload: object) -> tuple[str, object]:
    return context.task_id, payload


def with_default(payload: object, factor: int = 2) -> object:
    return payload, factor


def with_optional(ctx: Context, payload: object = None) -> object:
    return ctx, payload


@pytest.mark.parametrize(
    ("function", "is_async", "wants_context"),
    [
        (alone, True, False),
        (with_context, False, True),
        (with_default, False, False),
        (with_optional, False, True),
        (Called(), True, False),
        (partial(with_context, Context(task_id="t")), False, False),
        (lambda context, payload: (context, payload), False, True),
        (lambda left, right: (left, right), False, True),
    ],
)
def test_handlers_are_known_by_what_they_take(
    function: Callable[..., Any], is_async: bool, wants_context: bool
) -> None:
    """A single parameter is the payload; a first parameter for the context receives it."""
    handler = handler_of("some.name", function)
    assert (handler.is_async, handler.wants_context) == (is_async, wants_context)


def _generator(payload: object) -> Any:
    yield payload


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda: None, r"takes \(\): use handler\(payload\)"),
        (lambda a, b, c: (a, b, c), r"takes \(a, b, c\)"),
        (lambda *given: given, r"takes \(\*given\)"),
        (lambda payload, *, needed: (payload, needed), r"takes \(payload, needed\)"),
        (lambda context: context, "only a context"),
        (_generator, "is a generator"),
        (7, "cannot be called"),
        (type("Odd", (), {"__signature__": 7, "__call__": print})(), "unknown arguments"),
    ],
)
def test_a_handler_that_could_not_be_called_is_refused_at_once(function: Any, why: str) -> None:
    """A handler with wrong parameters is refused when it is registered, not when its first task arrives."""
    with pytest.raises(Refused, match=why) as caught:
        Worker("billing", url=URL).task("invoice")(function)
    assert caught.value.reason == "bad_handler"


@pytest.mark.parametrize("name", ["", "x" * 129, "a\nb", with_context])
def test_a_handler_needs_a_name(name: Any) -> None:
    """`@task` without a valid name is refused."""
    with pytest.raises(Refused, match="the name of a task"):
        task(name)(alone)


def test_two_handlers_of_one_name_are_refused() -> None:
    """A task name has one handler; the same function again, after a reload, replaces the first."""
    handlers: dict[str, Handler] = {}
    add_handler(handlers, handler_of("one", alone))
    add_handler(handlers, handler_of("one", alone))
    with pytest.raises(Refused, match=r"two handlers, .*alone and .*with_context: keep one"):
        add_handler(handlers, handler_of("one", with_context))


HANDLERS = """
from coordinator.worker import task

@task("double")
async def double(payload):
    return payload * 2

@task("half")
def half(payload):
    return payload / 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    return tmp_path


def test_handlers_come_from_a_file_or_a_dotted_name(folder: Path) -> None:
    """A module, by name or by path, provides its own handlers, those of its submodules, and those that it imports."""
    (folder / "plain_handlers.py").write_text(HANDLERS)
    package = folder / "handler_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner\n")
    (package / "inner.py").write_text(HANDLERS)
    (folder / "imports_them.py").write_text("from plain_handlers import double\n")
    assert set(load_handlers(str(folder / "plain_handlers.py"))) == {"double", "half"}
    assert set(load_handlers("plain_handlers.py")) == {"double", "half"}
    assert set(load_handlers("plain_handlers")) == {"double", "half"}
    assert set(load_handlers("handler_package")) == {"double", "half"}
    assert set(load_handlers("imports_them")) == {"double"}


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("nowhere", "module 'nowhere' not found"),
        ("nowhere.at.all", "module 'nowhere.at.all' not found"),
        ("nowhere.py", "file 'nowhere.py' not found"),
        ("empty_one", "module empty_one has no handlers: decorate a function"),
        ("broken_one", "'broken_one' cannot be imported: ZeroDivisionError"),
        ("needs_more", "'needs_more' cannot be imported: ModuleNotFoundError: No module named 'missing_one'"),
        ("broken_one.py", "'broken_one.py' cannot be imported: ZeroDivisionError"),
    ],
)
def test_a_module_that_gives_no_handlers_is_refused(folder: Path, module: str, why: str) -> None:
    """The message says what is wrong with the module."""
    (folder / "empty_one.py").write_text("")
    (folder / "broken_one.py").write_text("1 / 0\n")
    (folder / "needs_more.py").write_text("import missing_one\n")
    with pytest.raises(Refused, match=why):
        load_handlers(module)


async def test_a_worker_without_handlers_does_not_start() -> None:
    """A worker without handlers is refused: it would be given tasks of any name."""
    with pytest.raises(Refused, match="has no handlers"):
        await Worker("idle", url=URL).run()
    with pytest.raises(Refused, match="has no handlers"):
        handlers_of(sys.modules["json"])


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": 10_001}, {"beat_s": 0}, {"drain_s": -1}])
def test_limits_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """A number out of range is refused with its range."""
    with pytest.raises(Refused, match="out of range"):
        Worker("w", url=URL, **options)


def test_a_worker_knows_the_container_it_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node agent says it in the environment."""
    made = [Worker("w", url=URL)]
    monkeypatch.setenv("COORDINATOR_CONTAINER_ID", "k")
    made += [Worker("w", url=URL), Worker("w", url=URL, container_id="l"), Worker("w", url=URL, container_id="")]
    assert [worker._container_id for worker in made] == ["", "k", "l", ""]


# --- attempts ---------------------------------------------------------------------------------------------------------


class Reports:
    """A door that records the commands; it raises the errors in `answers` first, one per command."""

    def __init__(self, *answers: Exception) -> None:
        self.commands: list[Any] = []
        self.answers = list(answers)
        self.open = asyncio.Event()
        self.open.set()

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:  # noqa: ARG002  # the port's
        await self.open.wait()
        self.commands.append(command)
        if self.answers:
            raise self.answers.pop(0)


class Rig:
    """Attempts with a door that records their reports."""

    def __init__(self, attempts: Attempts, door: Reports, handlers: dict[str, Handler]) -> None:
        self.attempts = attempts
        self.door = door
        self.handlers = handlers
        self.retry: RetryPolicy | None = None

    def give(self, function: Callable[..., Any], *, lease: str = "c.1.1", payload: Payload | None = None) -> str:
        name = f"task_{lease}"
        self.handlers[name] = handler_of(name, function)
        self.attempts.start(
            Task(
                task_id=f"t-{lease}",
                task_name=name,
                status=TaskStatus.RUNNING,
                submitted=Position(1, 0),
                submitted_at=0.0,
                started_at=100.0,
                timeout_s=7.0,
                attempt=1,
                lease=lease,
                payload=payload,
                retry=self.retry,
            )
        )
        return lease

    async def outcome(self, function: Callable[..., Any], **given: Any) -> Any:
        self.give(function, **given)
        async with asyncio.timeout(PATIENCE_S):
            await self.attempts.until_idle()
        return self.door.commands[-1] if self.door.commands else None


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110  # what is asked for has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr("coordinator.worker.attempts.REPORT_RETRY_S", 0.01)
    handlers: dict[str, Handler] = {}
    door = Reports()
    async with asyncio.TaskGroup() as tasks:
        attempts = Attempts(handlers, door, tasks, worker_id="w", slots=2)
        yield Rig(attempts, door, handlers)
        await attempts.give_up()


async def test_what_a_handler_returns_is_the_result(rig: Rig) -> None:
    """The result is reported with the lease and the execution time."""
    report = await rig.outcome(alone, payload=payload_of({"n": 1}))
    assert isinstance(report, CompleteTask)
    assert (report.task_id, report.lease, value_of(report.result)) == ("t-c.1.1", "c.1.1", {"n": 1})
    assert report.execution_time_s is not None
    assert not rig.attempts.leases


async def test_a_handler_sees_its_attempt(rig: Rig) -> None:
    """The context holds the number of the attempt and its deadline."""

    def see(context: Context, payload: object) -> object:
        return [context.task_id, context.attempt, context.lease, context.worker_id, context.deadline, context.cancelled]

    report = await rig.outcome(see)
    assert value_of(report.result) == ["t-c.1.1", 1, "c.1.1", "w", 107.0, False]


class Silent(Exception):
    """An error that interrupts who asks what it is"""

    def __str__(self) -> str:
        raise KeyboardInterrupt


class Unspeakable(Exception):
    """An error that cannot say what it is"""

    def __str__(self) -> str:
        raise ValueError


def _raising(error: BaseException, *, is_async: bool) -> Callable[..., Any]:
    def fail(payload: object) -> None:
        raise error

    async def fail_async(payload: object) -> None:
        raise error

    return fail_async if is_async else fail


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("error", "text", "retry"),
    [
        (ValueError("no such invoice"), "ValueError: no such invoice", True),
        (KeyError(), "KeyError", True),
        (DoNotRetry("unknown customer"), "DoNotRetry: unknown customer", False),
        (SystemExit(3), "SystemExit: 3", True),
        (KeyboardInterrupt(), "KeyboardInterrupt", True),
        (GeneratorExit("enough"), "GeneratorExit: enough", True),
        (BaseException("bare"), "BaseException: bare", True),
        (
            BaseExceptionGroup("all", [SystemExit(1), KeyboardInterrupt()]),
            "BaseExceptionGroup: all (2 sub-exceptions)",
            True,
        ),
        (Silent(), "Silent: (its message cannot be read)", True),
        (asyncio.CancelledError(), "CancelledError", True),
        (OSError("two\nlines\x1b[2J"), "OSError: two lines [2J", True),
        (Unspeakable(), "Unspeakable: (its message cannot be read)", True),
    ],
)
async def test_what_a_handler_raises_fails_its_attempt_alone(
    rig: Rig, error: BaseException, text: str, retry: bool, is_async: bool
) -> None:
    """An error is reported as one line; the coordinator decides on a retry, unless the handler raises DoNotRetry."""
    report = await rig.outcome(_raising(error, is_async=is_async))
    assert (type(report), report.error, report.retry) == (FailTask, text, retry)
    assert isinstance(await rig.outcome(alone, lease="c.2.1"), CompleteTask)


async def _exit(_payload: object = None) -> None:
    sys.exit("a child has had enough")


async def _interrupt(_payload: object = None) -> None:
    raise KeyboardInterrupt


async def waits_for_a_child(_payload: object) -> None:
    await asyncio.create_task(_exit())


async def forgets_a_child(_payload: object) -> None:
    child = asyncio.create_task(_exit())
    await asyncio.sleep(PATIENCE_S)
    await child


async def has_a_group(_payload: object) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_exit())
        tasks.create_task(asyncio.sleep(PATIENCE_S))


async def has_a_grandchild(_payload: object) -> None:
    async def child() -> None:
        await asyncio.gather(_exit(), return_exceptions=True)

    await asyncio.create_task(child())


async def has_a_context_of_its_own(_payload: object) -> None:
    await asyncio.create_task(_exit(), context=contextvars.copy_context())


async def is_interrupted_by_a_child(_payload: object) -> None:
    await asyncio.create_task(_interrupt())


async def swallows_everything(_payload: object) -> None:
    with contextlib.suppress(BaseException):  # the worst that a handler can do
        await asyncio.create_task(_exit())


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (waits_for_a_child, "SystemExit: a child has had enough"),
        (forgets_a_child, "SystemExit: a child has had enough"),
        (has_a_group, "SystemExit: a child has had enough"),
        (has_a_grandchild, "SystemExit: a child has had enough"),
        (has_a_context_of_its_own, "SystemExit: a child has had enough"),
        (is_interrupted_by_a_child, "KeyboardInterrupt"),
        (swallows_everything, "SystemExit: a child has had enough"),
    ],
)
async def test_what_a_task_of_a_handler_raises_fails_its_attempt_alone(
    rig: Rig, handler: Callable[..., Any], text: str
) -> None:
    """An exit would end the event loop, and with it the worker; others run on."""
    rig.give(partial(asyncio.sleep, 0.2), lease="c.0.1")
    report = await rig.outcome(handler)
    reports = {one.lease: one for one in rig.door.commands}
    assert isinstance(reports["c.0.1"], CompleteTask)
    report = reports["c.1.1"]
    assert (type(report), report.error, report.retry) == (FailTask, text, True)
    assert isinstance(await rig.outcome(alone, lease="c.2.1"), CompleteTask)


async def test_a_task_that_outlives_its_handler_harms_nobody(rig: Rig) -> None:
    """Its attempt has been reported."""
    children: list[asyncio.Task[None]] = []

    async def late() -> None:
        await asyncio.sleep(0.05)
        sys.exit(7)

    async def leaves_a_child(_payload: object) -> None:
        children.append(asyncio.create_task(late()))

    assert isinstance(await rig.outcome(leaves_a_child), CompleteTask)
    with pytest.raises(RuntimeError, match="SystemExit: 7"):
        await children[0]
    assert isinstance(await rig.outcome(alone, lease="c.2.1"), CompleteTask)


async def test_a_handler_that_cancels_itself_fails_its_attempt(rig: Rig) -> None:
    """Otherwise the task would wait for its lease to expire."""

    async def cancels_itself(_payload: object) -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel("enough")
        await asyncio.sleep(PATIENCE_S)

    async def cancels_itself_last(_payload: object) -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel()
        running.cancel()

    report = await rig.outcome(cancels_itself)
    assert (type(report), report.error) == (FailTask, "CancelledError: enough")
    assert isinstance(await rig.outcome(cancels_itself_last, lease="c.3.1"), CompleteTask)
    assert isinstance(await rig.outcome(alone, lease="c.2.1"), CompleteTask)


async def test_stop_iteration_from_a_thread_fails_its_attempt(rig: Rig) -> None:
    """A `StopIteration`, which no future can carry, does not hang the attempt."""
    report = await rig.outcome(_raising(StopIteration(), is_async=False))
    assert "StopIteration" in report.error


async def test_a_result_that_cannot_travel_is_not_tried_again(rig: Rig) -> None:
    """A result that cannot be encoded fails the task without a retry: the next attempt would return the same."""
    report = await rig.outcome(lambda _payload: object())
    assert (type(report), report.retry) == (FailTask, False)
    assert "of type object" in report.error


async def test_an_unreadable_payload_never_reaches_the_handler(rig: Rig) -> None:
    """A payload with a wrong digest fails the task without a retry."""
    report = await rig.outcome(alone, payload=Payload(encoding="json", data="1", digest="0" * 64))
    assert (type(report), report.retry) == (FailTask, False)
    assert report.error.startswith("Corrupt: ")


async def test_an_outcome_is_reported_until_it_is_answered(rig: Rig) -> None:
    """A report without an answer is repeated, and the lease is held until the answer arrives."""
    rig.door.answers = [Unavailable(), Unavailable()]
    await rig.outcome(alone)
    assert [type(command) for command in rig.door.commands] == [CompleteTask] * 3
    assert len(set(map(msgspec.json.encode, rig.door.commands))) == 1


async def test_a_stale_outcome_is_dropped(rig: Rig) -> None:
    """After StaleLease nothing more is reported: another attempt holds the task."""
    rig.door.answers = [StaleLease()]
    await rig.outcome(alone)
    assert len(rig.door.commands) == 1


async def test_a_result_the_coordinator_refuses_fails_the_task(rig: Rig) -> None:
    """A refused result is reported as a failure: otherwise the lease would expire and the task run again in vain."""
    rig.door.answers = [Refused("too large", reason="payload_too_large")]
    report = await rig.outcome(alone, payload=payload_of(1))
    assert (type(report), report.error, report.retry) == (FailTask, "Refused: too large", False)


async def test_no_more_run_at_once_than_there_are_slots(rig: Rig) -> None:
    """Tasks beyond the slots wait; handlers in threads and coroutines both occupy slots."""
    now = most = 0

    async def work(payload: object) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    for number in range(6):
        rig.give(work, lease=f"c.{number}.1")
    rig.give(work, lease="c.0.1")  # given again: it runs already
    await rig.attempts.until_idle()
    assert (most, len(rig.door.commands)) == (2, 6)


async def test_a_lost_lease_ends_the_handler_and_nothing_is_reported(rig: Rig) -> None:
    """When a lease is lost, an async handler is cancelled, queued or running, and its slot is free again."""
    ended: list[str] = []
    started = asyncio.Event()

    async def hang(context: Context, payload: object) -> None:
        try:
            started.set()
            await asyncio.sleep(60)
        finally:
            ended.append(context.lease)

    leases = [rig.give(hang, lease=f"c.{number}.1") for number in range(3)]
    await started.wait()
    rig.attempts.lose([*leases, "unknown"])
    assert rig.attempts.usable < 2
    await until(lambda: rig.attempts.usable == 2)
    assert ended in (leases[:1], leases[:2])  # the second may not have begun; the third waited for a slot
    assert not rig.attempts.leases
    assert isinstance(await rig.outcome(alone, lease="c.9.1"), CompleteTask)
    assert len(rig.door.commands) == 1


async def test_a_lease_lost_before_the_handler_began_frees_its_slot(rig: Rig) -> None:
    """An attempt that is cancelled before its first step frees its slot, although its coroutine never runs."""
    leases = [rig.give(alone, lease=f"c.{number}.1") for number in range(2)]
    rig.attempts.lose(leases)
    assert rig.attempts.usable == 2
    assert isinstance(await rig.outcome(alone, lease="c.9.1"), CompleteTask)
    assert len(rig.door.commands) == 1


async def test_a_lost_lease_is_told_to_a_thread_which_keeps_its_slot(rig: Rig) -> None:
    """A thread cannot be cancelled: `context.cancelled` is set, and its slot stays occupied until it returns."""
    told = threading.Event()
    listening = 0

    def listen(context: Context, payload: object) -> None:
        nonlocal listening
        listening += 1
        give_up_at = time.monotonic() + PATIENCE_S
        while not context.cancelled and time.monotonic() < give_up_at:
            time.sleep(0.005)
        told.wait(PATIENCE_S)

    leases = [rig.give(listen, lease=f"c.{number}.1") for number in range(2)]
    await until(lambda: listening == 2)
    rig.attempts.lose(leases)
    assert (rig.attempts.usable, rig.attempts.leases) == (0, {})
    told.set()
    async with asyncio.timeout(PATIENCE_S):
        await rig.attempts.until_usable()
    await rig.outcome(alone, lease="c.9.1")
    assert [command.lease for command in rig.door.commands] == ["c.9.1"]


async def test_what_a_plain_handler_returns_is_awaited_and_cancelled_like_an_async_one(rig: Rig) -> None:
    """A lost lease ends it; one that is lost while its thread still runs is never begun."""
    ended: list[str] = []
    returns = threading.Event()

    async def wait() -> None:
        try:
            ended.append("began")
            await asyncio.sleep(PATIENCE_S * 10)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rig.give(lambda _payload: wait(), lease="c.1.1")
    await until(lambda: ended == ["began"])
    rig.attempts.lose(["c.1.1"])
    await until(lambda: ended == ["began", "cancelled"] and rig.attempts.usable == 2)
    rig.give(lambda _payload: (returns.wait(PATIENCE_S), wait())[1], lease="c.1.2")
    await asyncio.sleep(0.05)
    rig.attempts.lose(["c.1.2"])
    returns.set()
    await until(lambda: rig.attempts.usable == 2)
    assert ended == ["began", "cancelled"]
    assert rig.door.commands == []


async def test_a_notice_does_not_stop_a_report(rig: Rig) -> None:
    """A lease reported as lost while its own report is in flight is ignored: the report itself ended the lease."""
    rig.door.open.clear()
    lease = rig.give(alone)
    await asyncio.sleep(0.01)
    rig.attempts.lose([lease])
    rig.door.open.set()
    await rig.attempts.until_idle()
    assert [type(command) for command in rig.door.commands] == [CompleteTask]


async def test_giving_up_leaves_threads_behind(rig: Rig) -> None:
    """A handler that does not return does not delay the end of a draining worker."""
    release = threading.Event()
    rig.give(lambda _payload: release.wait(PATIENCE_S))
    rig.give(lambda _payload: None, lease="c.2.1")
    rig.give(lambda _payload: None, lease="c.3.1")
    began = time.monotonic()
    await rig.attempts.give_up()
    assert time.monotonic() - began < 20
    assert not rig.attempts.leases
    release.set()


async def test_progress_is_reported_from_coroutines_and_threads(rig: Rig) -> None:
    """Progress from coroutines and threads reaches the coordinator; the blocking call is refused in a coroutine."""

    async def tell(context: Context, payload: object) -> str:
        await context.progress(0.5, "half")
        try:
            context.progress_from_thread(0.6)
        except Refused as error:
            return error.message
        return ""

    report = await rig.outcome(tell)
    assert "await context.progress()" in value_of(report.result)
    await rig.outcome(lambda context, _payload: context.progress_from_thread(0.75), lease="c.2.1")
    told = [command for command in rig.door.commands if isinstance(command, ProgressTask)]
    assert [(one.lease, one.progress, one.message) for one in told] == [("c.1.1", 0.5, "half"), ("c.2.1", 0.75, "")]


async def test_what_was_used_is_reported_at_once_and_with_the_outcome(rig: Rig) -> None:
    """Each report is of all so far; it counts however the handler ends, and whether it was answered or not."""

    async def uses(context: Context, _payload: object) -> None:
        await context.report_usage(input_tokens=5, cached_tokens=1)
        context.add_usage(TaskUsage(output_tokens=2))
        rig.door.answers = [Unavailable()]
        await context.report_usage(reasoning_tokens=3, money_micros=4)
        if context.lease == "c.2.1":
            raise ValueError

    first = TaskUsage(input_tokens=5, cached_tokens=1)
    whole = TaskUsage(input_tokens=5, cached_tokens=1, output_tokens=2, reasoning_tokens=3, money_micros=4)
    report = await rig.outcome(uses)
    assert (type(report), report.usage) == (CompleteTask, whole)
    assert [one.usage for one in rig.door.commands] == [first, whole, whole]
    report = await rig.outcome(uses, lease="c.2.1")
    assert (type(report), report.usage) == (FailTask, whole)
    in_thread = await rig.outcome(lambda c, _payload: c.report_usage_from_thread(output_tokens=9), lease="c.3.1")
    assert in_thread.usage == TaskUsage(output_tokens=9)
    rig.door.answers = [Refused("too large", reason="payload_too_large")]
    refused = await rig.outcome(lambda c, _payload: c.add_usage(first) or 1, lease="c.4.1")
    assert (type(refused), refused.usage) == (FailTask, first)


async def test_what_an_attempt_used_whose_lease_was_lost_is_reported_once(rig: Rig) -> None:
    """That is refused, and charged; if the coordinator knows it already, nothing is said."""
    going = asyncio.Event()

    async def hang(context: Context, _payload: object) -> None:
        context.add_usage(TaskUsage(input_tokens=5))
        if context.lease == "c.2.1":
            await context.report_usage()
        going.set()
        await asyncio.sleep(60)

    for lease in ("c.1.1", "c.2.1"):
        going.clear()
        rig.give(hang, lease=lease)
        await going.wait()
        rig.door.answers = [StaleLease()]
        rig.attempts.lose([lease])
        await until(lambda: rig.attempts.usable == 2)
    await rig.outcome(alone, lease="c.3.1")
    used = [(one.lease, one.usage) for one in rig.door.commands if isinstance(one, ProgressTask)]
    assert used == [("c.1.1", TaskUsage(input_tokens=5)), ("c.2.1", TaskUsage(input_tokens=5))]


async def test_who_is_cancelled_says_what_was_used(rig: Rig) -> None:
    """With each step: the last one is charged."""
    going = asyncio.Event()

    async def hang(context: Context, _payload: object) -> None:
        context.add_usage(TaskUsage(input_tokens=5))
        going.set()
        await asyncio.sleep(60)

    lease = rig.give(hang)
    await going.wait()
    rig.attempts.cancel(asked(lease, 5.0))
    await rig.attempts.until_idle()
    steps = [one.usage for one in rig.door.commands if isinstance(one, ReportCancel)]
    assert steps == [TaskUsage(input_tokens=5)] * 2


@pytest.mark.parametrize("odd", [-1, 2**60, 1.5, True, "1"])
async def test_odd_amounts_are_refused(odd: Any) -> None:
    """The message names the kind; nothing is counted."""
    context = Context(task_id="t")
    with pytest.raises(Refused, match="output_tokens"):
        await context.report_usage(output_tokens=odd)
    with pytest.raises(Refused, match="output_tokens"):
        context.report_usage_from_thread(output_tokens=odd)
    assert context.usage is None


async def test_a_context_can_be_made_for_a_test() -> None:
    """A handler can be called directly with a context; its progress is ignored."""
    context = Context(task_id="t")
    await context.progress(0.5)
    context.progress_from_thread(0.5)
    await context.report_usage(input_tokens=5)
    context.report_usage_from_thread(input_tokens=1)
    assert context.usage == TaskUsage(input_tokens=6)
    assert with_context(context, 1) == ("t", 1)


async def test_threads_are_used_again() -> None:
    """An idle thread runs the next call; only as many threads are started as calls run at once."""
    threads = Threads("test")
    names = {await threads.run(lambda: threading.current_thread().name) for _ in range(5)}
    assert names == {"test-1"}
    both = threading.Barrier(2, timeout=PATIENCE_S)
    await asyncio.gather(threads.run(both.wait), threads.run(both.wait))
    threads.close()


def test_a_long_error_is_cut() -> None:
    """The length of an error's text in the journal is limited."""
    assert len(error_text(ValueError("x" * 5000))) == 1000


# --- what is reported of an error -------------------------------------------------------------------------------------


class Gone(LookupError):
    """An error of a handler."""


def _raiser(error: BaseException) -> Any:
    def handler(_payload: object) -> None:
        raise error

    return handler


async def test_a_failed_attempt_is_reported_with_its_type_and_traceback(rig: Rig) -> None:
    """The type is the qualified name of the class, without the module for a builtin one."""
    report = await rig.outcome(_raiser(Gone("page 7")))
    assert isinstance(report, FailTask)
    assert (report.error, report.error_type, report.retry) == ("Gone: page 7", f"{__name__}.Gone", True)
    assert report.traceback.startswith("Traceback (most recent call last):")
    assert report.traceback.endswith("Gone: page 7\n")
    builtin = await rig.outcome(_raiser(ValueError("x" * 50_000)), lease="c.2.1")
    assert isinstance(builtin, FailTask)
    assert (builtin.error_type, len(builtin.traceback)) == ("ValueError", 4096)


async def test_a_handler_says_when_to_retry(rig: Rig) -> None:
    """`RetryAfter` fails the attempt and says how long to wait; its cause is the error that is reported."""
    report = await rig.outcome(_raiser(RetryAfter(30)))
    assert isinstance(report, FailTask)
    assert (report.retry_after_s, report.retry, report.error) == (30.0, True, "RetryAfter: retry after 30 s")

    def limited(_payload: object) -> None:
        try:
            raise Gone("429")
        except Gone as error:
            raise RetryAfter(1.5, "too many requests") from error

    report = await rig.outcome(limited, lease="c.2.1")
    assert isinstance(report, FailTask)
    assert (report.retry_after_s, report.error_type) == (1.5, f"{__name__}.Gone")
    assert report.error == "RetryAfter: too many requests"


@pytest.mark.parametrize("wrong", [-1, float("nan"), "5", None, 1e9])
def test_a_time_to_wait_that_is_none_is_refused(wrong: Any) -> None:
    """Where it is raised, so that the log says which handler did."""
    with pytest.raises(Refused, match="after_s"):
        RetryAfter(wrong)


@pytest.mark.parametrize(
    ("names", "retry"),
    [((), True), (("ValueError",), True), (("Gone",), False), (("LookupError",), False), (("Exception",), False)],
)
async def test_a_subclass_of_an_error_that_is_not_retried_is_not_retried(
    rig: Rig, names: tuple[str, ...], retry: bool
) -> None:
    """The task names a type; only the worker knows which classes are kinds of it."""
    rig.retry = RetryPolicy(non_retryable=names)
    report = await rig.outcome(_raiser(Gone()))
    assert isinstance(report, FailTask)
    assert report.retry is retry


async def test_an_error_that_cannot_be_read_is_reported_nevertheless(rig: Rig) -> None:
    """The exception is the user's: nothing in it keeps its attempt from being reported."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    Odd.__qualname__ = "Odd\n" + "x" * 500
    report = await rig.outcome(_raiser(Odd()))
    assert isinstance(report, FailTask)
    assert len(report.error_type) == 256
    assert report.error_type.isprintable()


# --- cancelled tasks --------------------------------------------------------------------------------------------------


def asked(lease: str, grace_s: float = 60.0) -> ToCancel:
    return ToCancel(f"t-{lease}", lease, grace_s, "not needed")


def steps(rig: Rig) -> list[tuple[str, str]]:
    """The steps that were reported; any other report by its type."""
    return [
        (one.lease, one.step.value if isinstance(one, ReportCancel) else type(one).__name__)
        for one in rig.door.commands
    ]


async def test_what_has_not_begun_ends_at_once_when_it_is_cancelled(rig: Rig) -> None:
    """It waits for a slot, has not taken its first step, or comes when it was asked to end already."""
    leases = [rig.give(alone, lease=f"c.{number}.1") for number in range(3)]
    for lease in leases:
        rig.attempts.cancel(asked(lease))
    assert not rig.attempts.leases
    assert rig.attempts.usable == 2
    await until(lambda: len(rig.door.commands) == 3)
    assert steps(rig) == [(lease, "ended") for lease in leases]
    late = Cancelling(asked_at=0.0, until=1.0, reason="not needed")
    rig.handlers["late"] = handler_of("late", alone)
    rig.attempts.start(
        Task(
            task_id="late", task_name="late", status=TaskStatus.RUNNING, submitted=Position(1, 0), submitted_at=0.0,
            attempt=1, lease="c.7.1", cancelling=late,
        )
    )  # fmt: skip
    await until(lambda: steps(rig)[3:] == [("c.7.1", "ended")])
    assert isinstance(await rig.outcome(alone, lease="c.9.1"), CompleteTask)


async def test_a_notice_about_another_task_or_an_ended_attempt_changes_nothing(rig: Rig) -> None:
    """The lease may have the name of one that ended; an attempt that is being reported has ended."""
    rig.door.open.clear()
    lease = rig.give(alone)
    await asyncio.sleep(0.01)
    rig.attempts.cancel(asked(lease))
    rig.attempts.cancel(asked("c.unknown.1"))
    go_on = asyncio.Event()

    async def wait(_context: Context, _payload: object) -> None:
        await go_on.wait()

    rig.give(wait, lease="c.2.1")
    await asyncio.sleep(0.01)
    rig.attempts.cancel(ToCancel("another", "c.2.1", 60.0))
    go_on.set()
    rig.door.open.set()
    await rig.attempts.until_idle()
    assert {what for _, what in steps(rig)} == {"CompleteTask"}


async def test_a_handler_is_told_once_and_the_time_may_become_shorter(rig: Rig) -> None:
    """It sees why, and how long it has; a second notice only moves the end of the grace."""
    seen: list[tuple[str, float, bool]] = []
    goes_on = threading.Event()

    def listen(context: Context, _payload: object) -> None:
        while not context.cancelled:
            time.sleep(0.001)
        seen.append((context.cancel_reason, context.cancel_grace_s, context.cancelled))
        while not goes_on.is_set():
            time.sleep(0.001)

    lease = rig.give(listen)
    await asyncio.sleep(0.02)
    rig.attempts.cancel(asked(lease, 60.0))
    await until(lambda: bool(seen))
    rig.attempts.cancel(asked(lease, 0.02))
    await until(lambda: not rig.attempts.leases)
    assert seen == [("not needed", 60.0, True)]
    assert [what for _, what in steps(rig)] == ["told", "raised", "ended"]
    assert rig.attempts.usable == 2


@pytest.mark.parametrize("how", ["raise_if_cancelled", "returns", "fails", "awaitable"])
async def test_how_a_thread_ends_after_it_was_told(rig: Rig, how: str) -> None:
    """By the exception; with a result, which counts; with a failure; or with an awaitable, which is not begun."""

    async def never() -> None:
        raise AssertionError

    def listen(context: Context, _payload: object) -> object:
        while not context.cancelled:
            time.sleep(0.001)
        if how == "raise_if_cancelled":
            context.raise_if_cancelled()
        if how == "fails":
            raise ValueError
        return never() if how == "awaitable" else "done"

    lease = rig.give(listen)
    await asyncio.sleep(0.02)
    rig.attempts.cancel(asked(lease))
    await rig.attempts.until_idle()
    wanted = {"returns": "CompleteTask", "fails": "FailTask"}.get(how, "ended")
    assert [what for _, what in steps(rig)] == ["told", wanted]


async def test_who_raises_the_exception_without_being_told_fails(rig: Rig) -> None:
    """Its lease is held, and nobody asked."""

    def raises(_payload: object) -> None:
        raise AttemptCancelled

    assert isinstance(await rig.outcome(raises), FailTask)
    Context(task_id="t").raise_if_cancelled()


async def test_what_waits_in_c_gets_the_exception_when_it_returns(rig: Rig) -> None:
    """Nothing else can be done to it; the thread then works for others."""
    lease = rig.give(lambda _payload: time.sleep(0.3))
    await asyncio.sleep(0.05)
    rig.attempts.cancel(asked(lease, 0.01))
    await rig.attempts.until_idle()
    assert [what for _, what in steps(rig)][:2] == ["told", "raised"]
    for number in range(20):
        assert isinstance(await rig.outcome(lambda _payload: sum(range(1000)), lease=f"c.{number}.7"), CompleteTask)


async def test_an_exception_for_one_call_never_strikes_another() -> None:
    """However close to its end it comes: the thread is used again and again."""
    threads = Threads("t")
    struck = 0
    for number in range(300):
        whom = object()
        # The longer ones are struck on every machine, the others close to their end on this one or that.
        pause_s = 0.1 if number % 30 == 0 else 0.0005 * (number % 3)
        running = asyncio.ensure_future(threads.run(partial(time.sleep, pause_s), whom))
        await asyncio.sleep(0.0005)
        threads.interrupt(whom, AttemptCancelled)
        try:
            await running
        except AttemptCancelled:
            struck += 1
        assert await threads.run(lambda: "fine", object()) == "fine"
    assert struck > 0
    assert not threads.interrupt(object(), AttemptCancelled)
    threads.close()


async def test_handlers_that_ignore_it_are_left_behind_as_many_as_there_are_slots(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next ones keep their slots, as those do whose lease is lost."""
    monkeypatch.setattr("coordinator.worker.attempts.LEAVE_AFTER_S", 0.05)
    let_go = asyncio.Event()

    async def deaf(_payload: object) -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    for number in range(4):
        lease = rig.give(deaf, lease=f"c.{number}.1")
        await asyncio.sleep(0.01)
        rig.attempts.cancel(asked(lease, 0.01))
        await until(lambda one=lease: one not in rig.attempts.leases)  # type: ignore[misc]
    assert [what for _, what in steps(rig)] == ["told", "left_behind"] * 4
    assert rig.attempts.usable == 0
    let_go.set()
    await until(lambda: rig.attempts.usable == 2)
