"""
Choose an instance of a service: balance the load, and avoid instances that fail.

A choice depends only on the candidates and on the state of the round. A `ServiceDiscovery` keeps that state, and the
results that its caller recently reported. It never keeps the list of instances: the `ServiceWatch` of the process does,
and when that is out of date, the coordinator is asked.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from coordinator.client.service_list import find_services
from coordinator.clock import SystemClock
from coordinator.commands.arguments import flag, member, number, text, wanted
from coordinator.commands.service import NO_PORT, FindServices
from coordinator.registry.service_registry import ServiceInfo, ServiceRegistry, service_info
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.client.service_watch import ServiceWatch
    from coordinator.commands.service import ServiceView

AVOID_S = 10.0
"""Seconds for which an instance reported as failed is not chosen, if there is another one."""
SMOOTHING = 0.2
"""The weight of a new response time in the moving average."""
KEPT = 10_000
"""Instances and services that are remembered; beyond this number the oldest is forgotten."""
CANDIDATES_MAX = 1000
"""The most candidates of a choice: more do not fit into one answer, and such a large service needs no more."""


class LoadBalancingStrategy(Enum):
    """
    How an instance is chosen; ties take turns.

    ROUND_ROBIN: each in turn. LEAST_CONNECTIONS: the fewest open connections. LEAST_LOADED: the lowest reported load.
    WEIGHTED_ROUND_ROBIN: in turn, each as often as its weight.
    """

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"


_BY_LOAD = (LoadBalancingStrategy.LEAST_CONNECTIONS, LoadBalancingStrategy.LEAST_LOADED)


class Round:
    """The state of the choices among the instances of one service: turns taken, and weighted credit per instance."""

    __slots__ = ("credits", "turns")

    def __init__(self) -> None:
        self.turns = 0
        self.credits: dict[str, int] = {}


def choose(
    candidates: Sequence[ServiceView],
    strategy: LoadBalancingStrategy,
    round_: Round,
    open_here: Mapping[str, int] | None = None,
) -> ServiceView:
    """
    Return one of *candidates*, and advance *round_* by one turn. Ties take turns.

    Args:
        candidates: the instances, at least one.
        strategy: how to choose.
        round_: the state of the choices among these instances.
        open_here: connections that the caller itself has open, by service id, in addition to those reported.
    """
    return _choose(sorted(candidates, key=_id), strategy, round_, open_here or {})


def _choose(
    ordered: Sequence[ServiceView], strategy: LoadBalancingStrategy, round_: Round, here: Mapping[str, int]
) -> ServiceView:
    """Choose as `choose` does, among candidates ordered by id."""
    first = round_.turns % len(ordered)
    round_.turns += 1
    if strategy is LoadBalancingStrategy.ROUND_ROBIN:
        return ordered[first]
    ordered = ordered[:CANDIDATES_MAX]
    first %= len(ordered)
    if strategy is LoadBalancingStrategy.WEIGHTED_ROUND_ROBIN:
        return _weighted(ordered, round_)
    turned = [*ordered[first:], *ordered[:first]]
    if strategy is LoadBalancingStrategy.LEAST_CONNECTIONS:
        return min(turned, key=lambda one: _connections(one) + here.get(_id(one), 0))
    return min(turned, key=lambda one: (_load(one), here.get(_id(one), 0)))


def _weighted(ordered: Sequence[ServiceView], round_: Round) -> ServiceView:
    """
    Choose each instance as often as its weight, spread evenly over the round.

    This is the smooth weighted round-robin of nginx: in each turn every instance earns its weight as credit; the one
    with the most credit is chosen, and pays the sum of all weights.
    """
    round_.credits = {_id(one): round_.credits.get(_id(one), 0) + one.service.weight for one in ordered}
    chosen = max(ordered, key=lambda one: round_.credits[_id(one)])
    round_.credits[_id(chosen)] -= sum(one.service.weight for one in ordered)
    return chosen


def _id(view: ServiceView) -> str:
    return view.service.service_id


def _load(view: ServiceView) -> float:
    return view.reported.load if view.reported is not None else 0.0


def _connections(view: ServiceView) -> int:
    return view.reported.connections if view.reported is not None else 0


class _Seen:
    """The requests of this caller to one instance, and the results it reported."""

    __slots__ = ("failed_at", "failures", "open", "requests", "response_time_ms")

    def __init__(self) -> None:
        self.open = 0
        self.requests = 0
        self.failures = 0
        self.failed_at: float | None = None
        self.response_time_ms: float | None = None


class ServiceDiscovery:
    """
    Chooses an instance of a service to connect to.

    Args:
        registry: the registry to find instances in.

    Raises:
        Refused: *registry* is not a `ServiceRegistry`.
    """

    def __init__(self, registry: ServiceRegistry) -> None:
        self._registry: ServiceRegistry = wanted("registry", registry, ServiceRegistry, "a ServiceRegistry")
        self._rounds: dict[str, Round] = {}
        self._seen: dict[str, _Seen] = {}
        self._clock = SystemClock()
        self._watch: ServiceWatch | None = None

    @property
    def stale_for_s(self) -> float:
        """Seconds since the watched list of instances was last known to be current; 0 while it is current."""
        return self._watch.stale_for_s if self._watch is not None else 0.0

    async def discover_service(
        self,
        service_name: str,
        strategy: LoadBalancingStrategy | str = LoadBalancingStrategy.ROUND_ROBIN,
    ) -> ServiceInfo | None:
        """
        Return a HEALTHY instance, or an UNKNOWN one if none is HEALTHY; None if there is neither.

        An instance without a port has no address to connect to and is never returned; see `find_services` for those.

        Args:
            service_name: the name of the service.
            strategy: how to choose, as a member or its value.

        Raises:
            Refused: the name is not text, or the strategy is unknown.
            Unavailable: the coordinator did not answer.
        """
        chosen = member("strategy", strategy, LoadBalancingStrategy)
        candidates = await self._candidates(service_name, chosen)
        return self._take(service_name, candidates, chosen) if candidates else None

    async def discover_service_with_failover(
        self,
        service_name: str,
        strategy: LoadBalancingStrategy | str = LoadBalancingStrategy.ROUND_ROBIN,
    ) -> ServiceInfo | None:
        """
        Return an instance as `discover_service` does, avoiding those reported as failed.

        An instance that `report_result` reported as failed in the last 10 s is chosen only if there is no other one,
        HEALTHY or UNKNOWN.

        Raises:
            Refused: the name is not text, or the strategy is unknown.
            Unavailable: the coordinator did not answer.
        """
        chosen = member("strategy", strategy, LoadBalancingStrategy)
        now = self._clock.heard()
        failed: Sequence[ServiceView] = ()
        for status in (ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN):
            candidates = await self._find(service_name, status, chosen)
            usable = [one for one in candidates if not self._failed_lately(_id(one), now)]
            if usable:
                return self._take(service_name, usable, chosen)
            failed = failed or candidates
        return self._take(service_name, failed, chosen) if failed else None

    def report_result(self, service_id: str, *, ok: bool, response_time_ms: float | None = None) -> None:
        """
        Report the result of a request to a chosen instance. It also ends the connection that was counted for it.

        Args:
            service_id: the instance.
            ok: whether the request succeeded.
            response_time_ms: how long the request took, in milliseconds.

        Raises:
            Refused: an argument has the wrong type.
        """
        succeeded = flag("ok", ok)
        took_ms = None if response_time_ms is None else number("response_time_ms", response_time_ms)
        seen = self._remembered(text("service_id", service_id))
        seen.open = max(0, seen.open - 1)
        seen.requests += 1
        seen.failures += not succeeded
        seen.failed_at = None if succeeded else self._clock.heard()
        if took_ms is not None:
            before = seen.response_time_ms
            seen.response_time_ms = took_ms if before is None else before + SMOOTHING * (took_ms - before)

    async def get_service_stats(self, service_name: str) -> dict[str, Any]:
        """
        Return statistics of a service.

        The keys are `service_name`, `total_instances`, the number of instances by status (`healthy_instances` and so
        on), `requests` and `failures` reported to this object, and `avg_response_time` in milliseconds. That is the
        mean over `measured_instances`: of those the response time was reported here or by the instance itself, or a
        check measured it. It is 0 if there is none.

        Raises:
            Refused: the name is not text.
        """
        found = await self._registry.find_services(
            service_name=text("service_name", service_name), limit=CANDIDATES_MAX
        )
        seen = [self._seen[one.service_id] for one in found if one.service_id in self._seen]
        times = [time for one in found if (time := self._response_time(one)) is not None]
        return {
            "service_name": service_name,
            "total_instances": len(found),
            **{f"{status.value}_instances": sum(one.status is status for one in found) for status in ServiceStatus},
            "requests": sum(one.requests for one in seen),
            "failures": sum(one.failures for one in seen),
            "measured_instances": len(times),
            "avg_response_time": sum(times) / len(times) if times else 0.0,
        }

    def _response_time(self, service: ServiceInfo) -> float | None:
        seen = self._seen.get(service.service_id)
        if seen is not None and seen.response_time_ms is not None:
            return seen.response_time_ms
        return service.response_time_ms if service.response_time_ms is not None else service.check_ms

    async def _candidates(self, service_name: str, strategy: LoadBalancingStrategy) -> Sequence[ServiceView]:
        return await self._find(service_name, ServiceStatus.HEALTHY, strategy) or await self._find(
            service_name, ServiceStatus.UNKNOWN, strategy
        )

    async def _find(
        self, service_name: str, status: ServiceStatus, strategy: LoadBalancingStrategy
    ) -> Sequence[ServiceView]:
        """Return the instances of that status, ordered by id: from the watch, or else from the coordinator."""
        name = text("service_name", service_name)
        if not name:
            return ()  # no service has an empty name, and `FindServices` would return all services for it
        watch = self._watch = (await self._registry.opened()).services
        watched = watch.find(name, status, with_loads=strategy in _BY_LOAD) if watch is not None else None
        if watched is not None:
            return watched
        question = FindServices(service_name=name, status=status, limit=CANDIDATES_MAX)
        found = await find_services(self._registry, question)
        return sorted((one for one in found if one.service.port != NO_PORT), key=_id)

    def _take(
        self, service_name: str, candidates: Sequence[ServiceView], strategy: LoadBalancingStrategy
    ) -> ServiceInfo:
        round_ = self._rounds.get(service_name)
        if round_ is None:
            _make_room(self._rounds)
            round_ = self._rounds[service_name] = Round()
        open_here: dict[str, int] = {}
        if strategy in _BY_LOAD:
            ids = map(_id, candidates)
            open_here = {service_id: seen.open for service_id in ids if (seen := self._seen.get(service_id))}
        chosen = _choose(candidates, strategy, round_, open_here)
        if strategy is LoadBalancingStrategy.LEAST_CONNECTIONS:
            self._remembered(_id(chosen)).open += 1
        return service_info(chosen)

    def _remembered(self, service_id: str) -> _Seen:
        seen = self._seen.get(service_id)
        if seen is None:
            _make_room(self._seen)
            seen = self._seen[service_id] = _Seen()
        return seen

    def _failed_lately(self, service_id: str, now: float) -> bool:
        seen = self._seen.get(service_id)
        return seen is not None and seen.failed_at is not None and now - seen.failed_at < AVOID_S


def _make_room(kept: dict[str, Any]) -> None:
    if len(kept) >= KEPT:
        del kept[next(iter(kept))]
