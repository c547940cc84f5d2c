"""Choosing an instance: every strategy, failover, and the statistics of a service."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.service import ReportCheck, ServiceLoad, ServiceView
from coordinator.registry import LoadBalancingStrategy, ServiceDiscovery, ServiceRegistry, ServiceStatus
from coordinator.registry import discovery as discovery_module
from coordinator.registry.discovery import AVOID_S, Round, choose
from events.base import START
from projections.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.app.app import App

ROUND_ROBIN = LoadBalancingStrategy.ROUND_ROBIN
LEAST_CONNECTIONS = LoadBalancingStrategy.LEAST_CONNECTIONS
LEAST_LOADED = LoadBalancingStrategy.LEAST_LOADED
WEIGHTED = LoadBalancingStrategy.WEIGHTED_ROUND_ROBIN


def view(service_id: str, *, weight: int = 1, load: float | None = None, connections: int = 0) -> ServiceView:
    service = Service(
        service_id=service_id,
        service_name="agent",
        service_type="worker",
        host="localhost",
        port=80,
        status=ServiceStatus.HEALTHY,
        registered=START,
        registered_at=0.0,
        weight=weight,
    )
    reported = None if load is None else ServiceLoad(heard_s_ago=0.0, load=load, connections=connections)
    return ServiceView(service=service, reported=reported)


def turns(candidates: Sequence[ServiceView], strategy: LoadBalancingStrategy, count: int, round_: Round) -> str:
    return "".join(choose(candidates, strategy, round_).service.service_id for _ in range(count))


def test_round_robin_goes_round() -> None:
    """Round robin chooses the instances in turn by id, regardless of the order of the list."""
    assert turns([view("c"), view("a"), view("b")], ROUND_ROBIN, 7, Round()) == "abcabca"


def test_weights_are_shares_spread_over_the_round() -> None:
    """An instance of weight 5 gets five of seven turns, with the turns of the others in between."""
    assert turns([view("a", weight=5), view("b"), view("c")], WEIGHTED, 14, Round()) == "aabacaa" * 2


def test_weights_are_exact_however_large() -> None:
    """Over a whole round each instance is chosen exactly as often as its weight; large weights cost no more time."""
    candidates = [view("a", weight=1000), view("b", weight=999), view("c", weight=1)]
    assert Counter(turns(candidates, WEIGHTED, 2000, Round())) == {"a": 1000, "b": 999, "c": 1}


def test_weights_survive_a_change_of_instances() -> None:
    """An instance that leaves loses its credit, and one that joins gets its share of the turns."""
    round_ = Round()
    turns([view("a", weight=3), view("b")], WEIGHTED, 3, round_)
    assert Counter(turns([view("a"), view("c")], WEIGHTED, 40, round_)) == pytest.approx({"a": 20, "c": 20}, abs=3)
    assert round_.credits.keys() == {"a", "c"}


@pytest.mark.parametrize("strategy", [LEAST_CONNECTIONS, LEAST_LOADED])
def test_ties_go_round(strategy: LoadBalancingStrategy) -> None:
    """Instances with equal load are chosen in turn, instead of always the first."""
    assert turns([view("a"), view("b"), view("c")], strategy, 6, Round()) == "abcabc"


def test_least_connections_counts_those_of_the_caller() -> None:
    """The connections that an instance reported and those that the caller has open are added."""
    candidates = [view("a", load=0.0, connections=3), view("b", load=0.9, connections=2), view("c", connections=9)]
    candidates[2] = view("c", load=0.0, connections=9)
    assert choose(candidates, LEAST_CONNECTIONS, Round()).service.service_id == "b"
    assert choose(candidates, LEAST_CONNECTIONS, Round(), {"b": 2}).service.service_id == "a"


def test_least_loaded() -> None:
    """The lowest reported load is chosen; among equal loads, the instance with the fewest connections open here."""
    candidates = [view("a", load=0.5), view("b", load=0.2), view("c", load=0.2)]
    assert turns(candidates, LEAST_LOADED, 4, Round()) == "bbcb"
    assert choose(candidates, LEAST_LOADED, Round(), {"b": 1}).service.service_id == "c"


@pytest.fixture
async def registry(app: App) -> ServiceRegistry:
    return ServiceRegistry(app)


async def test_healthy_before_unknown(registry: ServiceRegistry) -> None:
    """An UNKNOWN instance is chosen only if none is HEALTHY, and an UNHEALTHY one never."""
    discovery = ServiceDiscovery(registry)
    assert await discovery.discover_service("agent") is None
    assert await discovery.discover_service("") is None
    assert await discovery.discover_service_with_failover("agent") is None
    unknown = await registry.register_service("agent", "worker", "192.0.2.1", 80, "http://192.0.2.1/")
    for find in (discovery.discover_service, discovery.discover_service_with_failover):
        found = await find("agent", "least_loaded")
        assert found is not None
        assert (found.service_id, found.status) == (unknown, ServiceStatus.UNKNOWN)
    healthy = await registry.register_service("agent", "worker", "localhost", 80)
    for _ in range(3):
        found = await discovery.discover_service("agent", LoadBalancingStrategy.LEAST_CONNECTIONS)
        assert found is not None
        assert found.service_id == healthy


async def test_an_instance_without_a_port_is_not_chosen(registry: ServiceRegistry) -> None:
    """Nobody can connect to it: it is listed, and no kind of choice returns it."""
    service_id = await registry.register_service("agent", "agent", "127.0.0.1", 0)
    discovery = ServiceDiscovery(registry)
    assert [one.service_id for one in await registry.find_services("agent")] == [service_id]
    for find in (discovery.discover_service, discovery.discover_service_with_failover):
        for strategy in LoadBalancingStrategy:
            assert await find("agent", strategy) is None
    other = await registry.register_service("agent", "agent", "127.0.0.1", 8080)
    for find in (discovery.discover_service, discovery.discover_service_with_failover):
        for strategy in LoadBalancingStrategy:
            found = [await find("agent", strategy) for _ in range(3)]
            assert {one.service_id for one in found if one is not None} == {other}


async def test_each_service_has_its_own_round(registry: ServiceRegistry) -> None:
    """Choosing an instance of one service does not advance the round of another."""
    for name in ("a", "b"):
        for number in (1, 2):
            await registry.register_service(name, "worker", "localhost", 80, service_id=f"{name}{number}")
    discovery = ServiceDiscovery(registry)
    found = [await discovery.discover_service(name) for name in ("a", "b", "a", "b")]
    assert [one.service_id for one in found if one] == ["a1", "b1", "a2", "b2"]


async def test_reported_load_decides(registry: ServiceRegistry) -> None:
    """LEAST_LOADED uses the loads of the latest heartbeats."""
    ids = [await registry.register_service("agent", "worker", "localhost", 80) for _ in range(2)]
    discovery = ServiceDiscovery(registry)
    for loads, chosen in (((0.9, 0.1), ids[1]), ((0.1, 0.9), ids[0])):
        for service_id, load in zip(ids, loads, strict=True):
            await registry.update_heartbeat(service_id, load=load)
        for _ in range(2):
            found = await discovery.discover_service("agent", LEAST_LOADED)
            assert found is not None
            assert found.service_id == chosen


async def test_connections_are_open_until_reported(registry: ServiceRegistry) -> None:
    """With LEAST_CONNECTIONS a choice counts as a connection until its result is reported."""
    for service_id in ("a", "b"):
        await registry.register_service("agent", "worker", "localhost", 80, service_id=service_id)
    discovery = ServiceDiscovery(registry)

    async def chosen() -> str:
        found = await discovery.discover_service("agent", LEAST_CONNECTIONS)
        assert found is not None
        return found.service_id

    assert [await chosen() for _ in range(4)] == ["a", "b", "a", "b"]
    for _ in range(2):
        discovery.report_result("b", ok=True)
    assert [await chosen() for _ in range(2)] == ["b", "b"]


async def test_failover(registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that the caller reported as failed is avoided for a while, but chosen if there is no other."""
    for service_id in ("a", "b"):
        await registry.register_service("agent", "worker", "localhost", 80, service_id=service_id)
    discovery = ServiceDiscovery(registry)
    now = [1000.0]
    monkeypatch.setattr(discovery._clock, "heard", lambda: now[0], raising=False)

    async def chosen() -> str:
        found = await discovery.discover_service_with_failover("agent")
        assert found is not None
        return found.service_id

    discovery.report_result("a", ok=False)
    assert [await chosen() for _ in range(3)] == ["b", "b", "b"]
    plain = [await discovery.discover_service("agent") for _ in range(2)]
    assert {one.service_id for one in plain if one} == {"a", "b"}
    discovery.report_result("b", ok=False)
    assert {await chosen() for _ in range(4)} == {"a", "b"}
    discovery.report_result("a", ok=True)
    assert {await chosen() for _ in range(4)} == {"a"}
    now[0] += AVOID_S
    assert {await chosen() for _ in range(4)} == {"a", "b"}


async def test_failover_to_unknown_health(registry: ServiceRegistry) -> None:
    """When every HEALTHY instance failed recently, an UNKNOWN one is chosen."""
    await registry.register_service("agent", "worker", "localhost", 80, service_id="failing")
    await registry.register_service("agent", "worker", "192.0.2.1", 80, "http://192.0.2.1/", service_id="unknown")
    discovery = ServiceDiscovery(registry)
    discovery.report_result("failing", ok=False)
    found = await discovery.discover_service_with_failover("agent")
    assert found is not None
    assert found.service_id == "unknown"


async def test_statistics(registry: ServiceRegistry) -> None:
    """The response time is the moving average reported here, or what the instance itself reported."""
    discovery = ServiceDiscovery(registry)
    empty = await discovery.get_service_stats("agent")
    assert (empty["total_instances"], empty["avg_response_time"]) == (0, 0.0)
    for service_id in ("a", "b", "c"):
        await registry.register_service("agent", "worker", "localhost", 80, service_id=service_id)
    await registry.update_heartbeat("a", response_time_ms=100.0)
    await registry.update_heartbeat("b", response_time_ms=30.0)
    discovery.report_result("a", ok=True, response_time_ms=10.0)
    discovery.report_result("a", ok=False, response_time_ms=20.0)
    stats = await discovery.get_service_stats("agent")
    assert (stats["total_instances"], stats["healthy_instances"], stats["unknown_instances"]) == (3, 3, 0)
    assert (stats["requests"], stats["failures"]) == (2, 1)
    assert stats["avg_response_time"] == pytest.approx((12.0 + 30.0) / 2)
    assert stats["measured_instances"] == 2


async def test_the_response_time_of_a_service_that_reports_none(registry: ServiceRegistry) -> None:
    """Its checks measure it; a failed one does not."""
    discovery = ServiceDiscovery(registry)
    await registry.register_service("agent", "worker", "192.0.2.1", 80, "http://192.0.2.1/", service_id="a")
    stats = await discovery.get_service_stats("agent")
    assert (stats["measured_instances"], stats["avg_response_time"]) == (0, 0.0)
    for ok, latency_ms in ((True, 8.0), (False, 2000.0)):
        await registry.execute(ReportCheck(service_id="a", ok=ok, check="http", latency_ms=latency_ms))
    stats = await discovery.get_service_stats("agent")
    assert (stats["measured_instances"], stats["avg_response_time"]) == (1, 8.0)
    assert (await registry.get_service("a")).check_ms == 8.0
    await registry.update_heartbeat("a", response_time_ms=5.0)
    assert (await discovery.get_service_stats("agent"))["avg_response_time"] == 5.0


async def test_what_is_remembered_is_bounded(registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded when a caller sees ever new services and instances."""
    monkeypatch.setattr(discovery_module, "KEPT", 3)
    discovery = ServiceDiscovery(registry)
    for number in range(10):
        await registry.register_service(f"agent{number}", "worker", "localhost", 80)
        await discovery.discover_service(f"agent{number}", LEAST_CONNECTIONS)
    assert len(discovery._rounds) == len(discovery._seen) == 3
