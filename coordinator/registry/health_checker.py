"""
Health checks of the caller's own, and what all checks have seen.

A custom check is a function of this process: it runs here, for every instance of a service, and only its outcomes
leave. What they mean for a service's health the coordinator decides, as with its own probes: the first outcome decides
what was UNKNOWN, after that `registry.check_rise` good or `registry.check_fall` bad ones in a row change it.
"""

from __future__ import annotations

import asyncio
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from coordinator.app.facade import Facade, number, text, wanted, whole
from coordinator.client.service_list import list_services
from coordinator.clock import SystemClock
from coordinator.commands.service import CheckOutcome, GetHealthHistory, GetService, ReportCheck
from coordinator.health.outcome import one_line, told
from coordinator.registry.service_registry import ServiceInfo, ServiceRegistry, service_info
from coordinator.task_groups import task_group
from events.errors import CoordinationError, NotFound, Refused, shown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.app.app import App
    from coordinator.commands.service import ServiceView

    Check = Callable[[ServiceInfo], Awaitable[bool]]

log = structlog.get_logger(__name__)

CUSTOM = "custom"
AT_ONCE = 20
"""Custom checks of one service under way at a time."""


class _Registered(NamedTuple):
    """A custom check, and the task that repeats it."""

    check: Check
    task: asyncio.Task[None]


class HealthChecker(Facade):
    """
    Checks the services of *registry* with functions of this process, until it is closed.

    Args:
        registry: whose services; both speak with the same coordinator.
        interval_s: seconds between two checks of an instance.
        timeout_s: seconds after which a check that has not ended has failed.
    """

    def __init__(self, registry: ServiceRegistry, *, interval_s: float = 30.0, timeout_s: float = 10.0) -> None:
        super().__init__(wanted("registry", registry, ServiceRegistry, "a ServiceRegistry").given_app)
        self._interval_s = _seconds("interval_s", interval_s)
        self._timeout_s = _seconds("timeout_s", timeout_s)
        self._checks: dict[str, _Registered] = {}
        self._clock = SystemClock()

    async def register_custom_health_check(self, service_name: str, check: Check) -> None:
        """
        Check every instance of a service with *check*, at once and then every `interval_s`; replaces an earlier one.

        It is awaited with the `ServiceInfo` of an instance and says True where that is well; anything else, an error
        and a time-out are failures. When this returns, every instance has been checked once.

        Raises:
            Refused: the name is no text, or *check* cannot be called.
        """
        name = text("service_name", service_name)
        if not name or not callable(check):
            msg = (
                f"check {shown(check)} of service {name!r} is none: give a name and an async function of a ServiceInfo"
            )
            raise Refused(msg, reason="bad_type")
        app = await self.opened()
        due_at = asyncio.get_running_loop().time() + self._interval_s
        await self._check_all(app, name, check)
        before = self._checks.pop(name, None)
        if before is not None:
            before.task.cancel()
        self._checks[name] = _Registered(check, app.start(self._keep_checking(app, name, check, due_at)))

    async def check_service(self, service_id: str) -> CheckOutcome:
        """
        Check one instance now, with the custom check registered here for its service, else by its health URL.

        Raises:
            NotFound: there is no such instance.
            Refused: it has neither, or its URL is outside of `registry.health_check_networks`.
        """
        view: ServiceView = await self.execute(GetService(service_id=text("service_id", service_id)))
        service = service_info(view)
        registered = self._checks.get(service.service_name)
        if registered is not None:
            report = await self._run(await self.opened(), registered.check, service)
        elif service.health_check_url:
            report = await self._probe(service)
        else:
            msg = f"service {service_id!r} has no health_check_url and no custom check here: register one"
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
        Give the last outcomes of an instance's checks, whoever reported them, newest first.

        The last hundred are kept, by the coordinator that leads: after a take-over they begin anew.

        Raises:
            NotFound: there is no such instance.
            Refused: the limit is not 1 to 10,000.
        """
        question = GetHealthHistory(service_id=text("service_id", service_id), limit=whole("limit", limit))
        found: list[CheckOutcome] = await self.execute(question)
        return found

    async def close(self) -> None:
        """End all custom checks and let go of the connection."""
        ended = [one.task for one in self._checks.values() if not one.task.done()]
        self._checks.clear()
        for task in ended:
            task.cancel()
        if ended:
            await asyncio.wait(ended)
        await super().close()

    async def _keep_checking(self, app: App, service_name: str, check: Check, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(due_at - loop.time())
            # By the clock, so that checks do not drift; what is overdue by then is not made up for.
            due_at = max(due_at + self._interval_s, loop.time())
            try:
                await self._check_all(app, service_name, check)
            except CoordinationError as error:
                if _is_cancelled():
                    raise asyncio.CancelledError from error
                log.warning("services_not_checked", service_name=service_name, reason=error.message)

    async def _check_all(self, app: App, service_name: str, check: Check) -> None:
        """Check every instance once, a few at a time."""
        views = await list_services(app, service_name=service_name)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(service: ServiceInfo) -> None:
            async with room:
                report = await self._run(app, check, service)
            try:
                await app.execute(report)
            except NotFound:
                log.debug("service_gone", service_id=service.service_id)

        async with task_group() as tasks:
            for view in views:
                tasks.create_task(one(service_info(view)))

    async def _run(self, app: App, check: Check, service: ServiceInfo) -> ReportCheck:
        """Run a custom check; whatever comes of it is an outcome."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s):
                said: Any = check(service)
                if isawaitable(said):
                    said = await said
        except TimeoutError:
            ok, detail = False, f"no answer within {self._timeout_s:g} s"
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            ok, detail = False, told(error)
        except Exception as error:  # noqa: BLE001  # the caller's own code may raise anything
            ok, detail = False, told(error)
        else:
            ok, detail = said is True, "" if isinstance(said, bool) else f"it gave a {type(said).__name__}, no bool"
        return ReportCheck(
            service_id=service.service_id,
            ok=ok,
            check=CUSTOM,
            detail=one_line(detail)[: app.settings.engine.text_chars_max],
            latency_ms=round((loop.time() - began) * 1000, 3),
        )

    async def _probe(self, service: ServiceInfo) -> ReportCheck:
        """Look at an instance's health URL from this process."""
        from coordinator.health.outcome import report_of
        from coordinator.health.probes import Prober

        settings = (await self.opened()).settings
        registry = settings.registry
        prober = Prober(registry.health_check_networks, timeout_s=registry.health_check_timeout_s)
        outcome = await prober.look(service.health_check_url)
        return report_of(
            service.service_id, service.health_check_url, outcome, detail_chars_max=settings.engine.text_chars_max
        )


def _is_cancelled() -> bool:
    """
    Say whether somebody wants the running task to end.

    A cancel that comes together with an error inside of a task group is shown as that error alone, before Python 3.13.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _seconds(name: str, value: Any) -> float:
    given = number(name, value)
    if given <= 0:
        raise Refused(f"{name} {given:g} is not above 0 seconds", reason="bad_number")
    return given
