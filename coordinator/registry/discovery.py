"""
Choose an instance of a service: balance load, and move away from instances that fail.

Choosing looks at the candidates and at where the round has got to, and at nothing else. A `ServiceDiscovery` keeps
that, and what its own caller told it of instances lately; which instances there are, it never keeps: the process's one
`ServiceWatch` does, and where that does not know, the coordinator is asked.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from coordinator.app.facade import flag, member, number, text, wanted
from coordinator.clock import SystemClock
from coordinator.commands.service import FindServices
from coordinator.registry.service_registry import ServiceInfo, ServiceRegistry, service_info
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.client.service_watch import ServiceWatch
    from coordinator.commands.service import ServiceView

AVOID_S = 10.0
"""An instance reported as failed is not chosen for so long, while there is another."""
SMOOTHING = 0.2
"""How much one more response time counts in the average."""
KEPT = 10_000
"""Instances and services that are remembered; beyond it the oldest is forgotten."""
CANDIDATES_MAX = 1000
"""Instances that are chosen among: more do not fit into one answer, and a service that large needs no more."""


class LoadBalancingStrategy(Enum):
    """By what an instance is chosen."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONNECTIONS = "least_connections"
    LEAST_LOADED = "least_loaded"
    WEIGHTED_ROUND_ROBIN = "weighted_round_robin"


_BY_LOAD = (LoadBalancingStrategy.LEAST_CONNECTIONS, LoadBalancingStrategy.LEAST_LOADED)


class Round:
    """Where choosing among the instances of one service has got to: the turns taken, and each one's weighted credit."""

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
    Choose one of *candidates*, which is not empty, and take one turn of *round_*.

    *open_here* are connections that the caller itself holds, on top of those reported. Ties go round.
    """
    return _choose(sorted(candidates, key=_id), strategy, round_, open_here or {})


def _choose(
    ordered: Sequence[ServiceView], strategy: LoadBalancingStrategy, round_: Round, here: Mapping[str, int]
) -> ServiceView:
    """Choose as `choose` does, among candidates in the order of their ids."""
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
    Give each instance as many turns as its weight, spread over the round.

    Each turn all earn their weight, and the richest pays for all: the smooth weighted round-robin of nginx.
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
    """What a caller did with one instance and told of it."""

    __slots__ = ("failed_at", "failures", "open", "requests", "response_time_ms")

    def __init__(self) -> None:
        self.open = 0
        self.requests = 0
        self.failures = 0
        self.failed_at: float | None = None
        self.response_time_ms: float | None = None


class ServiceDiscovery:
    """Finds an instance to talk to, through a `ServiceRegistry`."""

    def __init__(self, registry: ServiceRegistry) -> None:
        self._registry: ServiceRegistry = wanted("registry", registry, ServiceRegistry, "a ServiceRegistry")
        self._rounds: dict[str, Round] = {}
        self._seen: dict[str, _Seen] = {}
        self._clock = SystemClock()
        self._watch: ServiceWatch | None = None

    @property
    def stale_for_s(self) -> float:
        """For how long what is chosen from is not known to be right, in seconds; 0 while nothing seems amiss."""
        return self._watch.stale_for_s if self._watch is not None else 0.0

    async def discover_service(
        self,
        service_name: str,
        strategy: LoadBalancingStrategy | str = LoadBalancingStrategy.ROUND_ROBIN,
    ) -> ServiceInfo | None:
        """
        Choose a HEALTHY instance, or one of UNKNOWN health when there is none; None when there is neither.

        Raises:
            Refused: the name is no text, or the strategy is none.
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
        Choose as `discover_service` does, or at the worst one that failed rather than none.

        One that `report_result` said had failed in the last 10 s is not chosen while there is another, be it of UNKNOWN
        health.
        """
        chosen = member("strategy", strategy, LoadBalancingStrategy)
        now = self._clock.heard()
        worst: Sequence[ServiceView] = ()
        for status in (ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN):
            candidates = await self._find(service_name, status, chosen)
            well = [one for one in candidates if not self._failed_lately(_id(one), now)]
            if well:
                return self._take(service_name, well, chosen)
            worst = worst or candidates
        return self._take(service_name, worst, chosen) if worst else None

    def report_result(self, service_id: str, *, ok: bool, response_time_ms: float | None = None) -> None:
        """
        Tell how a request to a chosen instance went, and in what time; it also ends the connection counted for it.

        Raises:
            Refused: an argument is of the wrong type.
        """
        went_well = flag("ok", ok)
        took_ms = None if response_time_ms is None else number("response_time_ms", response_time_ms)
        seen = self._remembered(text("service_id", service_id))
        seen.open = max(0, seen.open - 1)
        seen.requests += 1
        seen.failures += not went_well
        seen.failed_at = None if went_well else self._clock.heard()
        if took_ms is not None:
            before = seen.response_time_ms
            seen.response_time_ms = took_ms if before is None else before + SMOOTHING * (took_ms - before)

    async def get_service_stats(self, service_name: str) -> dict[str, Any]:
        """
        Say how a service does: instances by status, `requests` and `failures` reported here, and `avg_response_time`.

        That is in milliseconds, over the instances of which one is known: what was reported here, or else what the
        instance itself said; 0 when nothing is known.
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
            "avg_response_time": sum(times) / len(times) if times else 0.0,
        }

    def _response_time(self, service: ServiceInfo) -> float | None:
        seen = self._seen.get(service.service_id)
        if seen is not None and seen.response_time_ms is not None:
            return seen.response_time_ms
        return service.response_time_ms

    async def _candidates(self, service_name: str, strategy: LoadBalancingStrategy) -> Sequence[ServiceView]:
        return await self._find(service_name, ServiceStatus.HEALTHY, strategy) or await self._find(
            service_name, ServiceStatus.UNKNOWN, strategy
        )

    async def _find(
        self, service_name: str, status: ServiceStatus, strategy: LoadBalancingStrategy
    ) -> Sequence[ServiceView]:
        """Give the instances of that status in the order of their ids, as watched, or else as the coordinator says."""
        name = text("service_name", service_name)
        if not name:
            return ()  # no service bears the empty name; to the question it would mean all
        watch = self._watch = (await self._registry.opened()).services
        watched = watch.find(name, status, with_loads=strategy in _BY_LOAD) if watch is not None else None
        if watched is not None:
            return watched
        question = FindServices(service_name=name, status=status, limit=CANDIDATES_MAX)
        found: list[ServiceView] = await self._registry.execute(question)
        return sorted(found, key=_id)

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
