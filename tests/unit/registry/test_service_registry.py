"""Services through the registry facade."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.client.service_list import list_services
from coordinator.commands.service import RegisterService
from coordinator.deciders.rules import Rules
from coordinator.registry import ServiceRegistry, ServiceStatus
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from coordinator.app.app import App
    from coordinator.commands.service import FindServices
    from tests.facades import Here


@pytest.fixture
async def registry(app: App) -> ServiceRegistry:
    return ServiceRegistry(app)


async def test_registering_and_finding(registry: ServiceRegistry) -> None:
    """A registered instance is found by name, type, tag and status."""
    first = await registry.register_service(
        "agent", "worker", "10.0.0.1", 80, tags=["blue", "eu"], metadata={"version": "1"}, weight=3
    )
    second = await registry.register_service("agent", "worker", "10.0.0.2", 80, "http://10.0.0.2/health")
    other = await registry.register_service("router", "proxy", "localhost", 81)
    info = await registry.get_service(first)
    assert (info.host, info.port, info.tags, info.metadata, info.weight) == (
        "10.0.0.1", 80, ("blue", "eu"), {"version": "1"}, 3,
    )  # fmt: skip
    assert info.status is ServiceStatus.HEALTHY

    async def found(**by: str | ServiceStatus) -> set[str]:
        return {one.service_id for one in await registry.find_services(**by)}  # type: ignore[arg-type]

    assert await found() == {first, second, other}
    assert await found(service_name="agent") == {first, second}
    assert await found(service_type="proxy") == {other}
    assert await found(tag="blue") == {first}
    assert await found(service_name="agent", status=ServiceStatus.HEALTHY) == {first}
    assert await found(service_name="agent", status="unknown") == {second}
    assert await found(service_name="nobody") == set()


async def test_deregistering(registry: ServiceRegistry) -> None:
    """A deregistered instance is not found; deregistering it again changes nothing; an unknown one raises NotFound."""
    service_id = await registry.register_service("agent", "worker", "localhost", 80)
    await registry.deregister_service(service_id)
    await registry.deregister_service(service_id, "again")
    assert await registry.find_services() == []
    for call in (registry.get_service, registry.update_heartbeat):
        with pytest.raises(NotFound):
            await call(service_id)
    with pytest.raises(NotFound):
        await registry.deregister_service("never-was")


async def test_an_id_of_the_callers_own(registry: ServiceRegistry) -> None:
    """Registering an id again replaces the instance."""
    assert await registry.register_service("agent", "worker", "localhost", 80, service_id="mine") == "mine"
    await registry.register_service("agent", "worker", "localhost", 81, service_id="mine")
    assert [(one.service_id, one.port) for one in await registry.find_services()] == [("mine", 81)]


async def test_an_instance_of_another_program_stays(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """Who registered it before can neither deregister it nor speak for it; who never did may deregister it."""
    here.app.registration = "first"
    first = ServiceRegistry(here.app)
    await first.register_service("agent", "worker", "localhost", 80, service_id="mine")
    await first.update_heartbeat("mine", load=0.5)
    await here.app.execute(
        RegisterService(
            service_id="mine",
            service_name="agent",
            service_type="worker",
            host="localhost",
            port=80,
            registration="second",
        )
    )
    with pytest.raises(Refused, match="another program has registered") as caught:
        await first.update_heartbeat("mine")
    assert caught.value.reason == "replaced"
    await first.deregister_service("mine")
    said = capsys.readouterr()
    assert "service_not_deregistered" in said.out + said.err
    assert (await first.get_service("mine")).status is ServiceStatus.HEALTHY
    here.app.own_services.clear()
    await first.deregister_service("mine")
    assert await first.find_services() == []


async def test_a_reason_that_is_wrong_is_still_refused(registry: ServiceRegistry) -> None:
    """Only what was replaced is left alone."""
    await registry.register_service("agent", "worker", "localhost", 80, service_id="mine")
    with pytest.raises(Refused, match="reason"):
        await registry.deregister_service("mine", "two\nlines")


async def test_heartbeats(here: Here) -> None:
    """A service without a URL becomes OFFLINE without heartbeats, and a heartbeat brings it back."""
    registry = ServiceRegistry(here.app)
    service_id = await registry.register_service("agent", "worker", "localhost", 80)
    await registry.update_heartbeat(service_id, load=0.7, connections=12, response_time_ms=3.5)
    info = await registry.get_service(service_id)
    assert (info.load, info.connections, info.response_time_ms) == (0.7, 12, 3.5)
    here.rig.hands.turn(Rules().heartbeat_timeout_s + 1)
    await here.rig.settle()
    assert (await registry.get_service(service_id)).status is ServiceStatus.OFFLINE
    await registry.update_heartbeat(service_id)
    assert (await registry.get_service(service_id)).status is ServiceStatus.HEALTHY


@pytest.mark.parametrize("here", [Rules(max_services=2)], indirect=True)
async def test_a_full_registry(here: Here) -> None:
    """When the registry is full, the error says how many services there are and which setting limits them."""
    registry = ServiceRegistry(here.app)
    for _ in range(2):
        await registry.register_service("agent", "worker", "localhost", 80)
    with pytest.raises(Refused, match=r"2 services are registered.*registry\.max_services"):
        await registry.register_service("agent", "worker", "localhost", 80)


async def test_statistics(registry: ServiceRegistry) -> None:
    """Registered instances are counted by status, without deregistered ones."""
    ids = [await registry.register_service("agent", "worker", "localhost", 80) for _ in range(3)]
    await registry.register_service("agent", "worker", "localhost", 80, "http://192.0.2.1/")
    await registry.deregister_service(ids[0])
    assert await registry.get_registry_stats() == {
        "total_services": 3,
        "healthy_services": 2,
        "unhealthy_services": 0,
        "unknown_services": 1,
        "offline_services": 0,
    }


class _Narrow:
    """A door whose answers hold at most *most* services."""

    def __init__(self, app: App, most: int) -> None:
        self.app = app
        self.most = most
        self.limits: list[int] = []

    async def execute(self, command: FindServices, *, timeout_s: float | None = None) -> object:
        self.limits.append(command.limit)
        found = await self.app.execute(command, timeout_s=timeout_s)
        if len(found) > self.most:
            raise Refused("the answer is too large for a message", reason="too_large")
        return found


async def test_reading_all_page_by_page(app: App) -> None:
    """All instances are listed once, whatever fits into one answer; if not even one fits, an error is raised."""
    registry = ServiceRegistry(app)
    ids = {await registry.register_service("agent", "worker", "localhost", 80) for _ in range(7)}
    await registry.register_service("other", "worker", "localhost", 80)
    door = _Narrow(app, most=2)
    views = await list_services(door, service_name="agent", page=10)  # type: ignore[arg-type]
    assert [view.service.service_id for view in views] == sorted(ids)
    assert door.limits == [10, 5, 2, 2, 2, 2]
    assert len(await list_services(app, page=3)) == 8
    assert len(await list_services(app, status=ServiceStatus.UNKNOWN)) == 0

    with pytest.raises(Refused):
        await list_services(_Narrow(app, most=0), page=4)  # type: ignore[arg-type]


async def test_a_service_knows_the_container_it_runs_in(
    registry: ServiceRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node agent says it in the environment; what runs elsewhere is registered with its own container, or none."""
    before = await registry.register_service("agent", "worker", "localhost", 80)
    monkeypatch.setenv("COORDINATOR_CONTAINER_ID", "k1")
    inside = await registry.register_service("agent", "worker", "localhost", 80)
    elsewhere = await registry.register_service("agent", "worker", "localhost", 80, container_id="k2")
    nowhere = await registry.register_service("agent", "worker", "localhost", 80, container_id="")
    found = [(await registry.get_service(one)).container_id for one in (before, inside, elsewhere, nowhere)]
    assert found == ["", "k1", "k2", ""]
    with pytest.raises(Refused, match="container_id"):
        await registry.register_service("agent", "worker", "localhost", 80, container_id=7)  # type: ignore[arg-type]
