"""
Custom health checks, and the history of all health checks.

A custom check is a function that runs in this process, for every instance of a service. Only its outcomes are sent to
the coordinator, which decides the service's health from them, as from its own probes: the first outcome decides while
the health is UNKNOWN; after that, `registry.check_rise` passed or `registry.check_fall` failed checks in a row change
it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from coordinator.app.facade import Facade
from coordinator.client.reads import ask_follower
from coordinator.client.service_list import list_services
from coordinator.clock import SystemClock
from coordinator.commands.arguments import number, text, wanted, whole
from coordinator.commands.reads import CheckOutcomes
from coordinator.commands.service import CheckOutcome, GetHealthHistory, GetService, ReportCheck, ReportNotChecked
from coordinator.commands.validation import shortened
from coordinator.health.outcome import could_not_check, kind_of, not_checked_report_of, one_line, told
from coordinator.registry.service_registry import ServiceInfo, ServiceRegistry, service_info
from coordinator.runtime.shortage import is_shortage
from coordinator.task_groups import task_group
from events.errors import CoordinationError, NotFound, Refused, Unavailable, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.app.app import App
    from coordinator.commands.service import ServiceView

    Check = Callable[[ServiceInfo], Awaitable[bool]]

log = structlog.get_logger(__name__)

CUSTOM = "custom"
FOLLOWER_S = 3.0
"""How long a follower may take to answer."""
HEARS_WITHIN_S = 0.5
AT_ONCE = 20
"""Custom checks of one service that run at the same time."""


class _Registered(NamedTuple):
    """A custom check, and the task that repeats it."""

    check: Check
    task: asyncio.Task[None]


class HealthChecker(Facade):
    """
    Checks services with functions of this process, until it is closed.

    Args:
        registry: the registry of the services; the checker uses the same coordinator.
        interval_s: seconds between two checks of an instance; by default `registry.health_check_interval`.
        timeout_s: seconds after which a check that has not ended fails.

    Raises:
        Refused: an argument has the wrong type, or a time is not above 0.
    """

    def __init__(self, registry: ServiceRegistry, *, interval_s: float | None = None, timeout_s: float = 10.0) -> None:
        super().__init__(wanted("registry", registry, ServiceRegistry, "a ServiceRegistry").given_app)
        self._interval_s = None if interval_s is None else _seconds("interval_s", interval_s)
        self._timeout_s = _seconds("timeout_s", timeout_s)
        self._checks: dict[str, _Registered] = {}
        self._replacing = threading.Lock()
        self._clock = SystemClock()

    async def register_custom_health_check(self, service_name: str, check: Check) -> None:
        """
        Check every instance of a service with *check*, now and then every `interval_s` seconds.

        It replaces an earlier check of the service. When this returns, every instance has been checked once.

        Args:
            service_name: the name of the service.
            check: an async function that takes the `ServiceInfo` of an instance and returns True if it is healthy. Any
                other value, an exception and a time-out are failures.

        Raises:
            Refused: the name is not text or is empty, or *check* is not callable.
        """
        name = text("service_name", service_name)
        if not name or not callable(check):
            msg = (
                f"check {shown(check)} of service {name!r} is invalid: use a name and an async function that takes a"
                " ServiceInfo"
            )
            raise Refused(msg, reason="bad_type")
        app = await self.opened()
        interval_s = self._interval_s if self._interval_s is not None else app.settings.registry.health_check_interval
        due_at = asyncio.get_running_loop().time() + interval_s
        await self._check_all(app, name, check, every_s=interval_s)
        registered = _Registered(check, app.start(self._keep_checking(app, name, check, due_at, interval_s)))
        with self._replacing:  # threads with loops of their own may register at once; there is a check all the time
            before, self._checks[name] = self._checks.get(name), registered
        if before is not None:
            _cancel(before.task)

    async def check_service(self, service_id: str) -> CheckOutcome:
        """
        Check one instance now and return the outcome.

        Uses the custom check registered here for its service, or its health URL if there is none.

        Raises:
            NotFound: the instance is not registered.
            Refused: there is no custom check here and no health URL, or the URL is outside
                `registry.health_check_networks`.
            Unavailable: the check could not be made, as this process lacks descriptors, memory, threads or a route, or
                the host is not resolved. This says nothing about the instance's health.
        """
        view: ServiceView = await self.execute(GetService(service_id=text("service_id", service_id)))
        service = service_info(view)
        registered = self._checks.get(service.service_name)
        if registered is not None:
            report = await self._run(await self.opened(), registered.check, service, every_s=None)
            if isinstance(report, ReportNotChecked):
                await _tell(await self.opened(), report)
                raise Unavailable(report.detail, reason="could_not_check")
        elif service.health_check_url:
            report = await self._probe(service)
        else:
            msg = f"service {service_id!r} has no health_check_url and no custom check in this process: register one"
            raise Refused(msg, reason="nothing_to_check")
        await self.execute(report)
        after: ServiceView = await self.execute(GetService(service_id=service_id))
        return CheckOutcome(
            at=self._clock.wall(),
            ok=report.ok,
            check=report.check,
            status=after.service.status,
            detail=report.detail,
            latency_ms=report.latency_ms,
        )

    async def get_health_history(self, service_id: str, limit: int = 50) -> list[CheckOutcome]:
        """
        Return the last outcomes of an instance's checks from all sources, newest first.

        A follower keeps the last hundred; in `lost` an outcome says how many before it are missing. Before the oldest
        one come the changes of health that the journal has, with `is_change`. When no follower answers, which is
        logged, only the last outcome and the last change are known.

        Args:
            service_id: the instance.
            limit: how many outcomes, 1 to 1,000.

        Raises:
            NotFound: the instance is not registered.
            Refused: the limit is out of range.
        """
        question = GetHealthHistory(service_id=text("service_id", service_id), limit=whole("limit", limit))
        known: list[CheckOutcome] = await self.execute(question)
        newest = known[0].at if known else 0.0
        try:
            kept = await self._kept(question, since=newest)
        except (Unavailable, Refused) as error:  # a follower of an earlier release refuses
            log.warning("checks_not_known", service_id=service_id, reason=error.message)
            return known
        heard = kept[0].at if kept else 0.0
        return [*(one for one in known if one.at > heard), *kept][:limit]

    async def _kept(self, question: GetHealthHistory, *, since: float) -> list[CheckOutcome]:
        """Return what a follower knows; it is given a moment to hear of the outcome at *since*."""
        client = (await self.opened()).client
        asked = CheckOutcomes(id=question.service_id, limit=question.limit)
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + HEARS_WITHIN_S
        while True:
            kept = await ask_follower(client, asked, timeout_s=FOLLOWER_S)
            if not since or (kept and kept[0].at >= since) or loop.time() >= patient_until:
                return kept
            await asyncio.sleep(HEARS_WITHIN_S / 10)

    async def close(self) -> None:
        """Stop all custom checks and release the connection."""
        ended = [one.task for one in self._checks.values() if not one.task.done()]
        self._checks.clear()
        for task in ended:
            _cancel(task)
        here = [task for task in ended if task.get_loop() is asyncio.get_running_loop()]
        if here:
            await asyncio.wait(here)
        await super().close()

    async def _keep_checking(self, app: App, service_name: str, check: Check, due_at: float, interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(due_at - loop.time())
            # Fixed times, so that checks do not drift; checks that were missed are not repeated.
            due_at = max(due_at + interval_s, loop.time())
            try:
                await self._check_all(app, service_name, check, every_s=interval_s)
            except CoordinationError as error:
                if _is_cancelled():
                    raise asyncio.CancelledError from error
                log.warning("services_not_checked", service_name=service_name, reason=error.message)

    async def _check_all(self, app: App, service_name: str, check: Check, *, every_s: float) -> None:
        """Check every instance once, at most `AT_ONCE` at a time."""
        views = await list_services(app, service_name=service_name)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(service: ServiceInfo) -> None:
            async with room:
                report = await self._run(app, check, service, every_s=every_s)
            if isinstance(report, ReportNotChecked):
                await _tell(app, report)
                return
            try:
                await app.execute(report)
            except NotFound:
                log.debug("service_gone", service_id=service.service_id)

        async with task_group() as tasks:
            for view in views:
                tasks.create_task(one(service_info(view)))

    async def _run(
        self, app: App, check: Check, service: ServiceInfo, *, every_s: float | None
    ) -> ReportCheck | ReportNotChecked:
        """
        Run a custom check; every result, also an exception, becomes an outcome.

        Except that this process lacks descriptors, memory or threads: then the check could not be made.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s):
                returned: Any = check(service)
                if isawaitable(returned):
                    returned = await returned
        except TimeoutError:
            ok, detail = False, f"no answer within {self._timeout_s:g} s"
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            ok, detail = False, told(error)
        except Exception as error:  # noqa: BLE001  # the user's check may raise anything
            if is_shortage(error):
                return self._not_made(app, service.service_id, CUSTOM, could_not_check(told(error)))
            ok, detail = False, told(error)
        else:
            ok = returned is True
            detail = "" if isinstance(returned, bool) else f"the check returned {type(returned).__name__}, not bool"
        return ReportCheck(
            service_id=service.service_id,
            ok=ok,
            check=CUSTOM,
            detail=shortened(one_line(detail), app.settings.engine.text_chars_max),
            latency_ms=round((loop.time() - began) * 1000, 3),
            every_s=every_s,
        )

    def _not_made(self, app: App, service_id: str, check: str, error: CoordinationError) -> ReportNotChecked:
        log.warning("service_not_checked", service_id=service_id, reason=error.message)
        limit = app.settings.engine.text_chars_max
        return not_checked_report_of(service_id, check, error.message, detail_chars_max=limit)

    async def _probe(self, service: ServiceInfo) -> ReportCheck:
        """Probe an instance's health URL from this process; report why, and raise, when that cannot be done."""
        from coordinator.health.outcome import report_of
        from coordinator.health.probes import Prober

        app = await self.opened()
        settings = app.settings
        registry = settings.registry
        prober = Prober(registry.health_check_networks, timeout_s=registry.health_check_timeout_s)
        try:
            outcome = await prober.look(service.health_check_url)
        except Unavailable as error:
            await _tell(app, self._not_made(app, service.service_id, kind_of(service.health_check_url), error))
            raise
        return report_of(
            service.service_id, service.health_check_url, outcome, detail_chars_max=settings.engine.text_chars_max
        )


async def _tell(app: App, report: ReportNotChecked) -> None:
    """Report that a check could not be made; a coordinator of an earlier release refuses that."""
    try:
        await app.execute(report)
    except CoordinationError as error:
        log.debug("check_not_reported", service_id=report.service_id, reason=error.message)


def _is_cancelled() -> bool:
    """
    Return whether the current task is being cancelled.

    Before Python 3.13, a task group raises only the error when a cancel and an error arrive together.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seconds(name: str, value: Any) -> float:
    given = number(name, value)
    if given <= 0:
        raise Refused(f"{name} {given:g} is not allowed: use a number of seconds above 0", reason="bad_number")
    return given


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task of this loop, or of another that may run in another thread or have ended."""
    loop = task.get_loop()
    if loop is asyncio.get_running_loop():
        task.cancel()
        return
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(task.cancel)
