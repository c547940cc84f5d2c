"""
The attempts that a worker executes: at most one handler per slot, a lease for each attempt, one report of each outcome.

Whatever a handler or a task that it started raises ends its attempt, never the worker: an exit and an interrupt too,
unless the interrupt is a signal to this process. An outcome is reported again until the coordinator has
answered. A lost lease ends the handler, and nothing is reported. Nothing here decides whether a task is retried.

A handler that goes on although its lease is lost is left behind: some seconds later it costs no slot, and when the
worker ends nothing waits for it. The log says so.

A task that is to be cancelled keeps its lease. Its handler is told and has the grace that the notice says to end; then
an exception is raised in its thread, or an async handler is left behind. Each step is reported.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import time
from collections import deque
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from coordinator.commands.acting import act_for, acting_for_nobody, ids_of, in_span
from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.notices import ToCancel
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.task import CompleteTask, FailTask, ProgressTask
from coordinator.own_process.forks import depth
from coordinator.stop_signals import is_from_signal
from coordinator.task_groups import is_aborting, leave_behind
from coordinator.worker.containment import contain, contained, contained_by, end_if_forked
from coordinator.worker.handlers import AttemptCancelled, Context, DoNotRetry, RetryAfter
from coordinator.worker.reported_error import error_text, reported_error, type_name
from coordinator.worker.threads import Threads
from events.errors import CoordinationError, Refused, StaleLease, Unavailable
from events.retry import is_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordinator.client.client import Door
    from coordinator.commands.command import Command
    from coordinator.worker.handlers import Handler
    from events.task import Payload
    from projections.task import Task

log = structlog.get_logger(__name__)

REPORT_RETRY_S = 0.5
PROGRESS_TIMEOUT_S = 5.0
CANCEL_GRACE_S = 1.0
"""Seconds that cancelled handlers have to clean up when the worker ends."""
LEAVE_AFTER_S = 5.0
"""Seconds after which a handler whose lease was lost, and that goes on, gives its slot back."""
_NO_SPAN = nullcontext()


class Attempt:
    """
    One attempt at a task.

    `lost` is set when its lease is lost and its outcome must not be reported, `exit` when a task of its handler exited,
    `left` when it has given its slot back although its handler goes on. `in_loop` is whether it can be cancelled now.
    `forcing` is set when its task is to be cancelled: what happens when the grace is over.
    """

    __slots__ = ("began", "context", "exit", "forcing", "handler", "in_loop", "left", "lost", "running", "task")

    def __init__(self, task: Task, handler: Handler, context: Context) -> None:
        self.task = task
        self.handler = handler
        self.in_loop = handler.is_async
        self.context = context
        self.lost = False
        self.began = False
        self.left = False
        self.exit: BaseException | None = None
        self.forcing: asyncio.TimerHandle | None = None
        self.running: asyncio.Task[None] | None = None

    def end(self, error: BaseException) -> None:
        """End the attempt with the exit of a task that its handler started; the first one counts."""
        log.warning(
            "handler_task_exited", task_id=self.task.task_id, task_name=self.task.task_name, error=error_text(error)
        )
        if self.exit is None and not self.lost and self.running is not None:
            self.exit = error
            if self.running is not asyncio.current_task():
                self.running.cancel()


class Attempts:
    """
    The attempts of one worker. `leases` maps the leases to renew to their attempts; other threads may read it.

    A handler in a thread cannot be cancelled, and one that is async may ignore it. Such a handler keeps its slot for
    5 s after its lease is lost. Then it is left behind, unless as many as there are slots already are.

    Args:
        handlers: the handlers by task name.
        door: where outcomes are reported.
        tasks: the group that the attempts run in.
        worker_id: the worker.
        slots: how many handlers run at the same time.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], door: Door, tasks: asyncio.TaskGroup, *, worker_id: str, slots: int
    ) -> None:
        self.leases: dict[str, Attempt] = {}
        self._handlers = handlers
        self._door = door
        self._tasks = tasks
        self._worker_id = worker_id
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        contain(self._loop)
        self._context = contextvars.copy_context()
        self._threads = Threads(worker_id)
        self._queued: deque[Attempt] = deque()
        self._running: set[Attempt] = set()
        self._left: set[Attempt] = set()
        self._depth = depth()
        self._stray = 0
        self._changed = asyncio.Event()

    @property
    def usable(self) -> int:
        """The number of slots, without those that are occupied by handlers whose lease was lost."""
        return self._slots - self._stray

    def start(self, task: Task) -> None:
        """Execute a task as soon as a slot is free. Starting an attempt again changes nothing."""
        if task.lease in self.leases:
            return
        context = Context(
            task_id=task.task_id,
            task_name=task.task_name,
            attempt=task.attempt,
            lease=task.lease,
            worker_id=self._worker_id,
            tenant=task.tenant,
            traceparent=task.traceparent,
            deadline=None if task.timeout_s is None or task.started_at is None else task.started_at + task.timeout_s,
            report=self._progress(task),
            send=self._send,
            saved=task.checkpoint,
            loop=self._loop,
        )
        attempt = self.leases[task.lease] = Attempt(task, self._handlers[task.task_name], context)
        self._queued.append(attempt)
        if task.cancelling is not None:  # the answer to its claim came late
            self.cancel(ToCancel(task.task_id, task.lease, 0.0, task.cancelling.reason))
        self._fill()

    def cancel(self, asked: ToCancel) -> None:
        """
        Tell the handler of an attempt that its task is to be cancelled; when the grace is over, force its end.

        Asking again only changes when that is. An attempt that is being reported has ended already.
        """
        attempt = self.leases.get(asked.lease)
        if attempt is None or attempt.task.task_id != asked.task_id:
            return
        if attempt.running is not None and attempt not in self._running:
            return
        if attempt.forcing is not None:
            attempt.forcing.cancel()
            attempt.forcing = self._loop.call_later(asked.grace_s, self._force, attempt)
            return
        task, context = attempt.task, attempt.context
        log.info("task_cancelling", task_id=task.task_id, lease=asked.lease, grace_s=asked.grace_s, why=asked.reason)
        context.cancelled, context.cancel_reason, context.cancel_grace_s = True, asked.reason, asked.grace_s
        attempt.forcing = self._loop.call_later(asked.grace_s, self._force, attempt)
        if attempt.began:
            self._step(attempt, CancelStep.TOLD)
            if attempt.in_loop and attempt.running is not None:
                attempt.running.cancel()
            return
        attempt.forcing.cancel()
        del self.leases[asked.lease]
        attempt.lost = True
        if attempt.running is None:
            self._queued.remove(attempt)
        else:  # a task that is cancelled before its first step never runs
            self._running.discard(attempt)
            attempt.running.cancel()
        self._step(attempt, CancelStep.ENDED)
        self._fill()
        self._changed.set()

    def _force(self, attempt: Attempt) -> None:
        """Force the end of an attempt whose grace is over: in its thread, or without waiting for its handler."""
        if attempt.lost or attempt not in self._running:
            return
        if not attempt.in_loop:
            if self._threads.interrupt(attempt, AttemptCancelled):
                self._step(attempt, CancelStep.RAISED)
            return
        self._step(attempt, CancelStep.LEFT_BEHIND)
        self._drop(attempt)
        self._leave(attempt)

    def _step(self, attempt: Attempt, step: CancelStep) -> None:
        if is_aborting(self._tasks):
            return
        self._tasks.create_task(self._report(self._cancelled(attempt, step)), context=self._context.copy())

    def lose(self, leases: Iterable[str]) -> None:
        """
        Drop attempts whose leases were lost: cancel their handlers and report nothing.

        An attempt that is being reported continues: its lease may have ended by its own report, not yet answered.
        """
        for lease in leases:
            attempt = self.leases.get(lease)
            if attempt is None or (attempt.running is not None and attempt not in self._running):
                continue
            task = attempt.task
            ids = ids_of(task.tenant, task.traceparent)
            log.warning("lease_lost", task_id=task.task_id, lease=lease, task_name=task.task_name, **ids)
            if attempt.running is None:
                del self.leases[lease]
                attempt.lost = attempt.context.cancelled = True
                self._queued.remove(attempt)
            elif not attempt.began:
                # A task that is cancelled before its first step never runs, so its slot must be freed here.
                del self.leases[lease]
                attempt.lost = attempt.context.cancelled = True
                self._running.discard(attempt)
                attempt.running.cancel()
            else:
                self._drop(attempt)
                self._loop.call_later(LEAVE_AFTER_S, self._leave, attempt)
                if attempt.in_loop:
                    attempt.running.cancel()
        self._fill()
        self._changed.set()

    def _drop(self, attempt: Attempt) -> None:
        """Report nothing more of an attempt whose handler runs, and renew its lease no more."""
        self.leases.pop(attempt.task.lease, None)
        attempt.lost = attempt.context.cancelled = True
        self._stray += 1

    def take_queued(self) -> list[Task]:
        """Remove and return the tasks that wait for a slot."""
        tasks = [attempt.task for attempt in self._queued]
        for attempt in self._queued:
            del self.leases[attempt.task.lease]
        self._queued.clear()
        self._changed.set()
        return tasks

    async def until_usable(self) -> int:
        """Wait until at least one slot is usable; return the number of usable slots."""
        while self.usable <= 0:
            self._changed.clear()
            await self._changed.wait()
        return self.usable

    async def until_idle(self) -> None:
        """Wait until all attempts have ended and are reported."""
        while self.leases:
            self._changed.clear()
            await self._changed.wait()

    async def give_up(self) -> None:
        """
        Cancel all attempts and report nothing. Waits at most one second; handlers that go on are left behind.

        Their tasks are then no longer in the group.
        """
        self.take_queued()
        attempts = {*self.leases.values(), *self._running, *self._left}
        for attempt in attempts:
            attempt.lost = attempt.context.cancelled = True
        self.leases.clear()
        left = {attempt.running: attempt for attempt in attempts if attempt.running is not None}
        for running in left:
            running.cancel()
        self._threads.close()
        if left:
            _, deaf = await asyncio.wait(left, timeout=CANCEL_GRACE_S)
            for running in deaf:
                leave_behind(self._tasks, running)
                for child in contained(self._loop, left[running].end):
                    leave_behind(None, child)
        for attempt in attempts:
            if not attempt.left and (attempt.running is not None or attempt in self._threads.busy):
                _say_left_behind(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """Free the slot of a handler that goes on although its lease was lost a while ago, unless too many do."""
        if attempt not in self._running:
            return
        if len(self._left) >= self._slots:
            self._loop.call_later(LEAVE_AFTER_S, self._leave, attempt)
            return
        self._running.discard(attempt)
        self._left.add(attempt)
        attempt.left = True
        self._stray = max(0, self._stray - 1)
        _say_left_behind(attempt)
        self._fill()
        self._changed.set()

    # --- executing ----------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        while self._queued and len(self._running) < self._slots:
            attempt = self._queued.popleft()
            self._running.add(attempt)
            # Not in the context of the attempt that has just ended, whose handler may have set variables there.
            attempt.running = self._tasks.create_task(
                self._execute(attempt), name=attempt.task.task_id, context=self._context.copy()
            )

    async def _execute(self, attempt: Attempt) -> None:
        attempt.began = True
        task = attempt.task
        structlog.contextvars.bind_contextvars(task_id=task.task_id)
        if ids := ids_of(task.tenant, task.traceparent):
            structlog.contextvars.bind_contextvars(**ids)
        try:
            try:
                report = await self._outcome(attempt)
                if (used := attempt.context.usage) is not None and isinstance(report, CompleteTask | FailTask):
                    report = replace(report, usage=used)
            finally:
                self._running.discard(attempt)
                if attempt.left:
                    self._left.discard(attempt)
                elif attempt.lost:
                    self._stray = max(0, self._stray - 1)
            if attempt.forcing is not None:
                attempt.forcing.cancel()
            self._fill()
            if report is None:
                self._bill(attempt)
                return
            if attempt.running is not None and attempt.running.cancelling():
                await self._take_back(attempt, attempt.running)
            if not attempt.lost:
                await self._report(report)
        finally:
            if not attempt.lost:
                self.leases.pop(task.lease, None)
            # Its context knows the attempt: without this each attempt would be left to the garbage collector.
            attempt.running = None
            self._changed.set()

    async def _take_back(self, attempt: Attempt, running: asyncio.Task[None]) -> None:
        """Take back what the handler did to cancel its own task."""
        while running.cancelling() and not attempt.lost:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # it may not have been delivered yet
            if is_aborting(self._tasks):
                raise asyncio.CancelledError
            running.uncancel()

    async def _outcome(self, attempt: Attempt) -> CompleteTask | FailTask | ReportCancel | None:
        """Run the handler; return the command that reports its outcome, or None if the lease was lost."""
        task = attempt.task
        began = time.monotonic()
        try:
            payload = value_of(task.payload)
        except CoordinationError as error:
            return self._failed(task, error, retry=False)
        try:
            value = await self._call(attempt, payload)
            took_s = time.monotonic() - began
            try:
                result = payload_of(value, "result")
            except Refused as error:
                return self._failed(task, attempt.exit or error, retry=attempt.exit is not None)
        except DoNotRetry as error:
            return self._failed(task, attempt.exit or error, retry=attempt.exit is not None)
        except asyncio.CancelledError as error:
            if attempt.lost:
                return None
            if is_aborting(self._tasks):
                raise
            if attempt.forcing is not None and attempt.exit is None:
                return self._cancelled(attempt, CancelStep.ENDED)
            # The handler did it: it cancelled itself, raised this error, or a task of its own exited.
            return self._failed(task, attempt.exit or error, retry=True)
        except AttemptCancelled as error:
            if attempt.lost:
                return None
            if attempt.forcing is not None:
                return self._cancelled(attempt, CancelStep.ENDED)
            return self._failed(task, attempt.exit or error, retry=True)
        except BaseException as error:  # any exception, even SystemExit, ends only the attempt
            if is_from_signal(error):
                raise
            return self._failed(task, attempt.exit or error, retry=True)
        if attempt.exit is not None:
            return self._failed(task, attempt.exit, retry=True)
        return self._completed(task, result, took_s)

    async def _call(self, attempt: Attempt, payload: Any) -> Any:
        handler = attempt.handler
        task = attempt.task
        call = handler.bound(attempt.context, payload)
        # Only what the handler itself sends is sent for the tenant of its task: a worker need not be allowed to act for
        # it to report the outcome.
        acting, containing = act_for(task), contained_by(attempt.end)
        try:
            with in_span(task.traceparent) if task.traceparent else _NO_SPAN:
                value = await (call() if handler.is_async else self._threads.run(call, attempt))
                return await self._awaited(attempt, value) if hasattr(value, "__await__") else value
        finally:
            end_if_forked(self._depth, sys.exception())
            acting.var.reset(acting)
            containing.var.reset(containing)

    async def _awaited(self, attempt: Attempt, value: Any) -> Any:
        """Await what a handler returned, as one does that a plain decorator or a lambda wraps."""
        attempt.in_loop = True
        if attempt.lost or attempt.forcing is not None:  # while it was in its thread, where nobody could cancel it
            if hasattr(value, "close"):
                value.close()
            raise asyncio.CancelledError
        return await value

    def _completed(self, task: Task, result: Payload | None, execution_time_s: float) -> CompleteTask:
        return CompleteTask(
            task_id=task.task_id,
            lease=task.lease,
            worker_id=self._worker_id,
            execution_time_s=execution_time_s,
            result=result,
        )

    def _cancelled(self, attempt: Attempt, step: CancelStep) -> ReportCancel:
        task = attempt.task
        return ReportCancel(task_id=task.task_id, lease=task.lease, step=step, usage=attempt.context.usage)

    def _failed(self, task: Task, error: BaseException, *, retry: bool) -> FailTask:
        reported = reported_error(error)
        if task.retry is not None and any(is_named(one, task.retry.non_retryable) for one in reported.types):
            retry = False
        bound = log.bind(
            task_id=task.task_id, task_name=task.task_name, attempt=task.attempt, retry=retry, error=reported.text
        )
        try:
            bound.warning("attempt_failed", exc_info=error if retry else None)
        except BaseException as raised:  # what logs an error calls its `__str__`, which may raise anything
            if is_from_signal(raised):
                raise
            bound.warning("attempt_failed")
        return FailTask(
            task_id=task.task_id,
            lease=task.lease,
            worker_id=self._worker_id,
            error=reported.text,
            retry=retry,
            error_type=reported.types[0],
            retry_after_s=error.after_s if isinstance(error, RetryAfter) else None,
            traceback=reported.traceback,
        )

    # --- reporting ----------------------------------------------------------------------------------------------------

    async def _report(self, report: CompleteTask | FailTask | ReportCancel) -> None:
        """Report until the coordinator answers: a task must not run again because an answer was slow."""
        while True:
            try:
                await self._door.execute(report)
                return
            except StaleLease as error:
                log.warning("report_stale", task_id=report.task_id, lease=report.lease, why=error.message)
                return
            except Unavailable as error:
                log.warning("report_unanswered", task_id=report.task_id, why=error.message)
                await asyncio.sleep(REPORT_RETRY_S)
            except CoordinationError as error:
                log.warning("report_refused", task_id=report.task_id, code=error.reason, why=error.message)
                if not isinstance(report, CompleteTask) or report.result is None:
                    return
                # The coordinator's limit for results is lower than ours. Report a failure: without a report, the task
                # would run again for nothing.
                report = FailTask(
                    task_id=report.task_id,
                    lease=report.lease,
                    worker_id=self._worker_id,
                    error=error_text(error),
                    retry=False,
                    usage=report.usage,
                    error_type=type_name(error),
                )

    def _bill(self, attempt: Attempt) -> None:
        """Say what an attempt used whose lease was lost: that is refused, and the budgets are charged all the same."""
        task, context = attempt.task, attempt.context
        if context.has_untold_usage and not is_aborting(self._tasks):
            command = ProgressTask(task_id=task.task_id, lease=task.lease, usage=context.usage)
            self._tasks.create_task(self._late(command), context=self._context.copy())

    async def _late(self, command: ProgressTask) -> None:
        with suppress(CoordinationError):
            await self._door.execute(command, timeout_s=PROGRESS_TIMEOUT_S)

    async def _send(self, command: Command[Any]) -> Any:
        with acting_for_nobody():  # as the report of the outcome
            return await self._door.execute(command, timeout_s=PROGRESS_TIMEOUT_S)

    def _progress(self, task: Task) -> Any:
        async def report(fraction: float | None, message: str) -> None:
            command = ProgressTask(task_id=task.task_id, lease=task.lease, progress=fraction, message=message)
            try:
                await self._send(command)
            except Unavailable as error:
                log.debug("progress_not_reported", task_id=task.task_id, why=error.message)

        return report


def _say_left_behind(attempt: Attempt) -> None:
    task = attempt.task
    log.warning(
        "handler_left_behind",
        task_id=task.task_id,
        task_name=task.task_name,
        handler=attempt.handler.where,
        why="it ignores its cancellation" if attempt.in_loop else "its thread has not returned",
        **ids_of(task.tenant, task.traceparent),
    )
