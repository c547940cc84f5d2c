"""
Signs of life: when each service, worker, node and lease was last heard, and the load that it reported.

Times are of the writer's monotonic clock. Signs are input, never state: they are not folded, and a new writer starts
without any, so everything alive gets one full period of grace from then on. Nothing here reads a clock; every method
gets the time as an argument.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.node import RegisterNode, SyncNode
from coordinator.commands.service import (
    CheckOutcome,
    HeartbeatService,
    RegisterService,
    ReportCheck,
    ReportNotChecked,
    ServiceLoad,
)
from coordinator.commands.task import ClaimTasks, ExtendTask, ProgressTask
from coordinator.commands.worker import RegisterWorker
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.service import ServiceStatus
    from projections.world import World

_CHECKS_MISSED = 2.0
"""A service counts as checked for this many intervals of its checks, if that is longer than the limit for silence."""
_SIGN_OF: dict[type[Command], tuple[str, str]] = {
    RegisterWorker: ("workers", "worker_id"),
    ClaimTasks: ("workers", "worker_id"),
    RegisterNode: ("nodes", "node_id"),
    SyncNode: ("nodes", "node_id"),
    RegisterService: ("services", "service_id"),
}
"""The table that holds the sign of a command, and the command's field with the id."""
SIGNS_OF_LIFE = frozenset({*_SIGN_OF, ReportCheck, ReportNotChecked, HeartbeatService, ProgressTask, ExtendTask})
"""The commands that `Signs.before` and `Signs.accepted` look at."""


class Checks(NamedTuple):
    """
    The last health check of one service, and how many in a row had the same outcome.

    `latency_ms` is that of the last one that passed and told it. Followers keep the outcomes before.
    """

    last: CheckOutcome
    streak: int
    latency_ms: float | None


class Signs:
    """All signs of life; times are monotonic seconds."""

    def __init__(self) -> None:
        self.since = 0.0
        self.services: dict[str, float] = {}
        self.workers: dict[str, float] = {}
        self.nodes: dict[str, float] = {}
        self.orders: dict[str, str] = {}
        """The id of the last orders sent to each node."""
        self.leases: dict[str, float] = {}
        self.reports: dict[str, float] = {}
        """When each attempt that has to report at least every so often did so last, by its lease."""
        self.taken = inf
        """Up to when all commands have been taken up: later reports may wait among them."""
        self.loads: dict[str, ServiceLoad] = {}
        self.worker_loads: dict[str, float] = {}
        self.checks: dict[str, Checks] = {}
        self.not_checked: dict[str, CheckOutcome] = {}
        """The services whose last check could not be made."""
        self.checked: dict[str, float] = {}
        """When each service was last checked, whatever the outcome."""
        self.check_every: dict[str, float] = {}
        """The reported seconds between two checks of a service."""

    def begin(self, now: float) -> None:
        """Start the period of grace: everything counts as heard now."""
        self.since = now

    def silent_for(self, heard: dict[str, float], entity_id: str, now: float) -> float:
        """Return for how long something was not heard; at most since this writer began to listen."""
        return now - max(heard.get(entity_id, self.since), self.since)

    def hear_service(self, service_id: str, now: float, load: ServiceLoad) -> None:
        """Keep the heartbeat of a service; `load.heard_s_ago` is ignored."""
        self.services[service_id] = now
        self.loads[service_id] = load

    def hear_worker(self, worker_id: str, now: float, leases: tuple[str, ...], load: float) -> None:
        """Keep the heartbeat of a worker; it renews exactly the leases it names."""
        self.workers[worker_id] = now
        self.worker_loads[worker_id] = max(0.0, min(1.0, load))
        self.renew(now, leases)

    def renew(self, now: float, leases: tuple[str, ...]) -> None:
        """Keep that these leases were renewed."""
        for lease in leases:
            if lease in self.leases:
                self.leases[lease] = now

    def recall_service(self, service_id: str, load: ServiceLoad) -> None:
        """Keep the load that a service last reported to the previous writer; this is not a sign of life."""
        self.loads.setdefault(service_id, load)

    def recall_worker(self, worker_id: str, load: float) -> None:
        """Keep the load that a worker last reported to the previous writer; this is not a sign of life."""
        self.worker_loads.setdefault(worker_id, max(0.0, min(1.0, load)))

    def before(self, command: Command, now: float) -> Command:
        """
        Keep the sign of life that counts even if the command is refused, and return the command to decide.

        The report of a node keeps its `orders_id` only if the node had our last orders at the time of the report.

        Raises:
            Refused: `orders_id`, or the id of a worker whose sign would be kept, is not an identifier.
        """
        match command:
            case ClaimTasks(registration=""):
                self.workers[checked(command.worker_id, "worker_id")] = now
            case SyncNode(orders_id=given) if given and checked(given, "orders_id") != self.orders.get(command.node_id):
                return msgspec.structs.replace(command, orders_id="")
            case _:
                pass
        return command

    def accepted(self, command: Command, now: float, at: float, world: World) -> None:
        """Keep the sign of life of a command that was accepted at commit time *at*."""
        if type(command) not in SIGNS_OF_LIFE:
            return
        if isinstance(command, (ProgressTask, ExtendTask)):
            if command.lease in self.reports:
                self.reports[command.lease] = now
        elif isinstance(command, ReportCheck):
            self.checked[command.service_id] = now
            if command.ok:
                self.services[command.service_id] = now
            if command.every_s is not None:
                self.check_every[command.service_id] = command.every_s
            self.keep_check(command, at, world.services[command.service_id].status)
        elif isinstance(command, ReportNotChecked):
            self._keep_not_checked(command, at, world.services[command.service_id].status)
        elif isinstance(command, HeartbeatService):
            load = ServiceLoad(
                heard_s_ago=0.0,
                load=command.load,
                connections=command.connections,
                response_time_ms=command.response_time_ms,
            )
            self.hear_service(command.service_id, now, load)
        else:
            table, field = _SIGN_OF[type(command)]
            getattr(self, table)[getattr(command, field)] = now

    def after(self, command: Command, told: Any, turn_id: Callable[[], str]) -> Any:
        """Return the answer *told*; the orders of a node get the id of their turn, which is kept here."""
        if not isinstance(command, SyncNode):
            return told
        orders_id = self.orders[command.node_id] = turn_id()
        return msgspec.structs.replace(told, orders_id=orders_id)

    def silence(self, command: Command, now: float) -> float:
        """Return for how long the worker that *command* registers was not heard; infinite for any other command."""
        if not isinstance(command, RegisterWorker):
            return inf
        return self.silent_for(self.workers, command.worker_id, now)

    def streak(self, report: Command) -> int:
        """Return how many checks in a row, with this one, had the reported outcome; 1 for any other command."""
        if not isinstance(report, ReportCheck):
            return 1
        checks = self.checks.get(report.service_id)
        if checks is None or checks.last.ok is not report.ok:
            return 1
        return checks.streak + 1

    def is_failing(self, service_id: str) -> bool:
        """Return whether the last check of a service that this writer heard of failed."""
        checks = self.checks.get(service_id)
        return checks is not None and not checks.last.ok

    def check_limit_s(self, service_id: str, limit_s: float) -> float:
        """Return for how many seconds a check of the service counts; *limit_s* unless its checks are far apart."""
        return max(limit_s, _CHECKS_MISSED * self.check_every.get(service_id, 0.0))

    def keep_check(self, report: ReportCheck, at: float, status: ServiceStatus) -> None:
        """Keep a check with the status it led to."""
        before = self.checks.get(report.service_id)
        last = CheckOutcome(
            at=at,
            ok=report.ok,
            check=report.check,
            status=status,
            detail=report.detail,
            latency_ms=report.latency_ms,
            number=self._next_number(report.service_id),
        )
        self.not_checked.pop(report.service_id, None)
        latency_ms = report.latency_ms if report.ok else None
        if latency_ms is None and before is not None:
            latency_ms = before.latency_ms
        self.checks[report.service_id] = Checks(last, self.streak(report), latency_ms)

    def _keep_not_checked(self, report: ReportNotChecked, at: float, status: ServiceStatus) -> None:
        """Keep that a check could not be made; the row of equal outcomes goes on as if nobody had tried."""
        self.not_checked[report.service_id] = CheckOutcome(
            at=at,
            ok=False,
            check=report.check,
            status=status,
            detail=report.detail,
            number=self._next_number(report.service_id),
            could_not=True,
        )

    def newest_check(self, service_id: str) -> CheckOutcome | None:
        """Return the last outcome of a service that this writer heard of, one that could not be made too."""
        if service_id in self.not_checked:
            return self.not_checked[service_id]
        checks = self.checks.get(service_id)
        return checks.last if checks is not None else None

    def _next_number(self, service_id: str) -> int:
        newest = self.newest_check(service_id)
        return newest.number + 1 if newest is not None else 1

    def forget(self, world: World) -> None:
        """Drop the signs of entities that left the world, so that the signs cannot outgrow it."""
        for heard, table in (
            (self.services, world.services),
            (self.loads, world.services),
            (self.checks, world.services),
            (self.not_checked, world.services),
            (self.checked, world.services),
            (self.check_every, world.services),
            (self.workers, world.workers),
            (self.worker_loads, world.workers),
            (self.nodes, world.nodes),
            (self.orders, world.nodes),
        ):
            if len(heard) > len(table):
                for gone in heard.keys() - table.keys():
                    del heard[gone]
