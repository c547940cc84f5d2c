"""
Checks the services that have a health URL: a new one at once, then each every `registry.health_check_interval`.

It runs beside the follower, knows of services by asking for them, and reports what it saw; what that means for a
service's health the coordinator decides. Where it may not look (`probes`) it reports nothing, and the service stays
UNKNOWN. It keeps nothing that it would not learn anew after a restart.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import structlog

from coordinator.client.service_list import list_services
from coordinator.health.outcome import report_of
from coordinator.health.probes import Prober
from coordinator.task_groups import task_group
from events.errors import CoordinationError, NotFound, Refused
from events.service import ServiceStatus

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.health.outcome import CheckResult
    from coordinator.health.probes import Resolve
    from projections.service import Service

log = structlog.get_logger(__name__)

FOLLOW_S = 1.0
"""How often it asks for services that were not checked yet; all are asked for once an interval."""
REPORT_TIMEOUT_S = 5.0


async def run_health_checks(door: Door, settings: Any, *, resolve: Resolve | None = None) -> NoReturn:
    """
    Check services until cancelled.

    Args:
        door: where services are asked for and outcomes reported.
        settings: all settings; those of `registry` count.
        resolve: gives the addresses of a host name; the operating system's own when not given.
    """
    registry = settings.registry
    prober = Prober(registry.health_check_networks, timeout_s=registry.health_check_timeout_s, resolve=resolve)
    async with task_group() as tasks:
        checks = HealthChecks(
            door,
            prober,
            tasks,
            interval_s=registry.health_check_interval,
            at_once=registry.health_checks_at_once,
            detail_chars_max=settings.engine.text_chars_max,
        )
        await checks.keep_following()
    raise AssertionError


class _Watched(NamedTuple):
    """One registration of a service, and the task that checks it."""

    registration: tuple[str, str]
    task: asyncio.Task[None]


class HealthChecks:
    """The services that are being checked, each by a task of its own in *tasks*; at most *at_once* checks run."""

    def __init__(
        self,
        door: Door,
        prober: Prober,
        tasks: asyncio.TaskGroup,
        *,
        interval_s: float,
        at_once: int = 100,
        detail_chars_max: int = 1024,
    ) -> None:
        self._door = door
        self._prober = prober
        self._tasks = tasks
        self._interval_s = interval_s
        self._room = asyncio.Semaphore(at_once)
        self._detail_chars_max = detail_chars_max
        self._watched: dict[str, _Watched] = {}

    async def keep_following(self) -> NoReturn:
        """Keep checking what is registered, for ever."""
        loop = asyncio.get_running_loop()
        all_due_at = loop.time()
        can_ask = True
        while True:
            is_all = loop.time() >= all_due_at
            try:
                await self._follow(is_all=is_all)
            except CoordinationError as error:
                if can_ask:
                    log.warning("services_not_listed", reason=error.message)
                can_ask = False
            else:
                can_ask = True
                if is_all:
                    all_due_at = loop.time() + max(self._interval_s, FOLLOW_S)
            await asyncio.sleep(FOLLOW_S)

    async def _follow(self, *, is_all: bool) -> None:
        """Begin with what is new; where all are asked for, end with what is no longer there."""
        views = await list_services(self._door, status=None if is_all else ServiceStatus.UNKNOWN)
        listed = [view.service for view in views if view.service.health_check_url]
        for service in listed:
            self._watch(service)
        if is_all:
            for service_id in self._watched.keys() - {one.service_id for one in listed}:
                self._watched.pop(service_id).task.cancel()

    def _watch(self, service: Service) -> None:
        registration = (service.health_check_url, str(service.registered))
        known = self._watched.get(service.service_id)
        if known is not None and known.registration == registration and not known.task.done():
            return
        if known is not None:
            known.task.cancel()
        task = self._tasks.create_task(self._keep_checking(service.service_id, service.health_check_url))
        self._watched[service.service_id] = _Watched(registration, task)

    async def _keep_checking(self, service_id: str, url: str) -> None:
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        why_not = ""
        while True:
            outcome = None
            try:
                async with self._room:
                    outcome = await self._prober.look(url)
            except Refused as error:
                if error.message != why_not:
                    log.warning("service_not_checked", service_id=service_id, reason=error.message)
                why_not = error.message
            except Exception:  # what one service makes of a probe must never stop the others' checks
                log.exception("check_crashed", service_id=service_id)
            if outcome is not None and not await self._report(service_id, url, outcome):
                return
            # By the clock, so that checks do not drift; what is overdue by then is not made up for.
            due_at = max(due_at + self._interval_s, loop.time())
            await asyncio.sleep(due_at - loop.time())

    async def _report(self, service_id: str, url: str, outcome: CheckResult) -> bool:
        """Report what was seen; False when the service is not registered any more."""
        report = report_of(service_id, url, outcome, detail_chars_max=self._detail_chars_max)
        try:
            await self._door.execute(report, timeout_s=REPORT_TIMEOUT_S)
        except NotFound:
            return False
        except CoordinationError as error:
            log.debug("check_not_reported", service_id=service_id, reason=error.message)
        return True
