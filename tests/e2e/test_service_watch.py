"""Services as a watcher knows them, over a real NATS: changes are seen, lost notices are detected and fetched."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.app.app import App, _Remote, _running
from coordinator.client import service_watch as watch_module
from coordinator.client.client import Client
from coordinator.client.service_watch import ServiceWatch
from coordinator.commands.notices import ServiceNotice
from coordinator.commands.service import DeregisterService, HeartbeatService, RegisterService, ReportCheck
from coordinator.registry import LoadBalancingStrategy, ServiceDiscovery, ServiceRegistry, ServiceStatus
from coordinator.settings.model import Settings
from events.base import Position
from events.errors import Unavailable
from tests.tcp_proxy import proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from coordinator.bus.subscription import Message
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
HEALTHY, UNKNOWN, UNHEALTHY = ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN, ServiceStatus.UNHEALTHY
EXPLODED = (
    b'[{"type":"service.exploded","specversion":"1.0","id":"9.0","source":"/x","subject":"a",'
    b'"time":"2026-11-23T17:15:00Z","dataversion":1,"data":{}}]'
)
LEAST_LOADED = LoadBalancingStrategy.LEAST_LOADED


def offer(service_id: str, name: str = "search", *, port: int = 80, **more: Any) -> RegisterService:
    return RegisterService(
        service_id=service_id, service_name=name, service_type="http", host="127.0.0.1", port=port, **more
    )


def ids(watch: ServiceWatch, name: str = "search", status: ServiceStatus = HEALTHY) -> list[str] | None:
    found = watch.find(name, status)
    return None if found is None else [view.service.service_id for view in found]


def fail(_: set[str]) -> None:
    raise LookupError


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  # told over NATS
            await asyncio.sleep(0.005)


@asynccontextmanager
async def watching(client: Client, **settings: Any) -> AsyncIterator[ServiceWatch]:
    """Watch until the services are known."""
    async with ServiceWatch.open(client, **settings) as watch:
        async with asyncio.timeout(PATIENCE_S):
            await watch.ready.wait()
        yield watch


@asynccontextmanager
async def remote_app(cluster: Cluster, **settings: Any) -> AsyncIterator[App]:
    """An app of another process, from the coordinator's point of view."""
    async with (
        Client.open(cluster.url, name="remote") as client,
        _running(_Remote(client), client, Settings(**settings), "test") as app,
    ):
        yield app


async def test_changes_are_seen(cluster: Cluster) -> None:
    """Registered, changed in health, renamed and deregistered: each is seen without asking."""
    await cluster.client.execute(offer("a"))
    async with Client.open(cluster.url) as client, watching(client) as watch:
        told: list[set[str]] = []
        watch.on_change += [told.append, fail]
        assert ids(watch) == ["a"]
        assert ids(watch, "nothing") == []
        await cluster.client.execute(offer("0", "agents", port=0))  # nobody can connect to it
        await cluster.client.execute(offer("1", "agents"))
        await until(lambda: ids(watch, "agents") == ["1"])
        await cluster.client.execute(offer("c"))
        await cluster.client.execute(offer("b", health_check_url="http://127.0.0.1:9/"))
        await until(lambda: ids(watch) == ["a", "c"] and ids(watch, status=UNKNOWN) == ["b"])
        await cluster.client.execute(ReportCheck(service_id="b", ok=False, check="http"))
        await until(lambda: ids(watch, status=UNHEALTHY) == ["b"] and ids(watch, status=UNKNOWN) == [])
        await cluster.client.execute(offer("c", "other"))
        await until(lambda: ids(watch) == ["a"] and ids(watch, "other") == ["c"])
        await cluster.client.execute(DeregisterService(service_id="a"))
        await until(lambda: ids(watch) == [])
        assert told == [{"agents"}, {"agents"}, {"search"}, {"search"}, {"search"}, {"search", "other"}, {"search"}]
        assert (watch.fetches, watch.stale_for_s) == (1, 0.0)


async def test_all_pages_are_fetched_while_services_come_and_go(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change while pages are read is neither missed nor seen twice."""
    monkeypatch.setattr(watch_module, "PAGE", 3)
    for number in range(20):
        await cluster.client.execute(offer(f"s{number:02}"))

    async def come_and_go() -> None:
        for number in range(0, 20, 2):
            await cluster.client.execute(DeregisterService(service_id=f"s{number:02}"))
            await cluster.client.execute(offer(f"t{number:02}"))
            await cluster.client.execute(ReportCheck(service_id="s19", ok=False, check="own"))
            await cluster.client.execute(ReportCheck(service_id="s19", ok=True, check="own"))

    async with Client.open(cluster.url) as client, asyncio.TaskGroup() as tasks:
        changing = tasks.create_task(come_and_go())
        async with watching(client) as watch:
            await changing
            wanted = sorted([f"s{n:02}" for n in range(1, 20, 2)] + [f"t{n:02}" for n in range(0, 20, 2)])
            await until(lambda: ids(watch) == wanted)
            assert watch.fetches == 1


async def test_notices_of_too_many_bytes_are_not_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While pages are read: the services are fetched once more instead."""
    monkeypatch.setattr(watch_module, "PAGE", 3)
    monkeypatch.setattr(watch_module, "PENDING_BYTES_MAX", 100)
    for number in range(20):
        await cluster.client.execute(offer(f"s{number:02}"))
    async with Client.open(cluster.url) as client, asyncio.TaskGroup() as tasks:
        changing = tasks.create_task(all_of(cluster, [DeregisterService(service_id=f"s{n:02}") for n in range(19)]))
        async with watching(client) as watch:
            await changing
            await until(lambda: ids(watch) == ["s19"])
            assert watch.fetches > 1


async def all_of(cluster: Cluster, commands: list[DeregisterService]) -> None:
    for command in commands:
        await cluster.client.execute(command)


async def test_a_lost_notice_is_missed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next notice reveals that one was lost, and a sign of life that the last one was."""
    lose = [False]
    take = ServiceWatch._take

    def lossy(watch: ServiceWatch, message: Message) -> None:
        if lose[0] and msgspec.json.decode(message.data)["events"]:
            lose[0] = False
            return
        take(watch, message)

    monkeypatch.setattr(ServiceWatch, "_take", lossy)
    async with Client.open(cluster.url) as client, watching(client) as watch:
        lose[0] = True
        await cluster.client.execute(offer("a"))
        await cluster.client.execute(offer("b"))
        await until(lambda: ids(watch) == ["a", "b"])
        lose[0] = True
        await cluster.client.execute(DeregisterService(service_id="a"))
        await until(lambda: ids(watch) == ["b"])
        assert watch.fetches == 3


async def test_what_is_no_notice_does_no_harm(cluster: Cluster) -> None:
    """Garbage, an older reign, and events that do not follow: services are fetched again where that may help."""
    async with Client.open(cluster.url) as client, watching(client) as watch:
        await cluster.client.execute(offer("a"))
        await until(lambda: ids(watch) == ["a"])
        send = cluster.client.bus.send
        far = str(Position(10**9, 0))
        event = EXPLODED
        epoch = str(cluster.coordinator.engine.epoch) if cluster.coordinator.engine else ""
        late = ServiceNotice(epoch="0.1", previous="0.0", position=far, events=msgspec.Raw(event))
        assert send(client.subjects.services, msgspec.json.encode(late))
        await cluster.client.execute(offer("b"))
        await until(lambda: ids(watch) == ["a", "b"])
        assert watch.fetches == 1
        unknown = ServiceNotice(epoch=epoch, previous="0.0", position=far, events=msgspec.Raw(event))
        bad_epoch = ServiceNotice(epoch="?", previous="0.0", position=far, events=msgspec.Raw(b"[]"))
        for number, body in enumerate((b"{", msgspec.json.encode(unknown), msgspec.json.encode(bad_epoch))):
            assert send(client.subjects.services, body)
            await until(lambda number=number: watch.fetches >= number + 2)  # type: ignore[misc]
        await cluster.client.execute(offer("c"))
        await until(lambda: ids(watch) == ["a", "b", "c"])


async def test_a_broken_connection(cluster: Cluster) -> None:
    """Changes during a disconnection are seen after the reconnect; until then its duration is reported."""
    async with proxy(int(cluster.url.rpartition(":")[2])) as between:
        url = cluster.url.rpartition(":")[0] + f":{between.port}"
        async with Client.open(url) as client, watching(client, stale_s=100.0) as watch:
            between.mute()  # the connection looks intact, and nothing arrives
            await cluster.client.execute(offer("a"))
            await until(lambda: watch.stale_for_s > 0)
            assert ids(watch) == []
            between.cut()
            await until(lambda: ids(watch) == ["a"])
            assert watch.stale_for_s == 0.0


async def test_long_without_word_the_coordinator_is_asked(cluster: Cluster) -> None:
    """State that is too old is not returned; queries are then unavailable, until the server is back."""
    async with Client.open(cluster.url) as client, watching(client, stale_s=2.5) as watch:
        await cluster.client.execute(offer("a"))
        await until(lambda: ids(watch) == ["a"])
        await cluster.stop()
        await until(lambda: ids(watch) is None)
        assert watch.stale_for_s > 0
        await cluster.start()
        await until(lambda: ids(watch) == ["a"])


async def test_a_take_over(cluster: Cluster) -> None:
    """After another coordinator took over, its changes are seen; until then the known services are returned."""
    async with Client.open(cluster.url) as client, watching(client) as watch:
        await cluster.client.execute(offer("a"))
        await until(lambda: ids(watch) == ["a"])
        await cluster.crash()
        assert ids(watch) == ["a"]
        await cluster.start()
        await cluster.client.execute(offer("b"))
        await cluster.client.execute(DeregisterService(service_id="a"))
        await until(lambda: ids(watch) == ["b"])


async def test_too_many_services_are_not_kept(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit nothing is returned, whether there are too many at the start or later."""
    monkeypatch.setattr(watch_module, "TOO_MANY_PAUSE_S", 0.1)
    async with Client.open(cluster.url) as client, watching(client, services_max=2) as watch:
        for service_id in "abc":
            await cluster.client.execute(offer(service_id))
        await until(lambda: ids(watch) is None)
        await cluster.client.execute(DeregisterService(service_id="b"))
        await until(lambda: ids(watch) == ["a", "c"])


async def test_discovery_from_the_watch(cluster: Cluster) -> None:
    """A remote discovery starts to watch at its first question, chooses as usual, and sees its own commands at once."""
    async with remote_app(cluster) as app:
        registry = ServiceRegistry(app)
        discovery = ServiceDiscovery(registry)
        assert await discovery.discover_service("search") is None
        assert discovery.stale_for_s == 0.0
        assert app.services is not None
        await app.services.ready.wait()
        for number in range(3):
            await registry.register_service("search", "http", "127.0.0.1", 80, service_id=f"s{number}")
            found = [await discovery.discover_service("search") for _ in range(number + 1)]
            assert {one.service_id for one in found if one} == {f"s{n}" for n in range(number + 1)}
        await registry.deregister_service("s0")
        found = [await discovery.discover_service_with_failover("search") for _ in range(4)]
        assert {one.service_id for one in found if one} == {"s1", "s2"}
        assert (await registry.register_service("search", "http", "127.0.0.1", 80, service_id="s1")) == "s1"
        assert await discovery.discover_service("search") is not None
        await cluster.client.execute(ReportCheck(service_id="s2", ok=False, check="own"))
        await cluster.client.execute(ReportCheck(service_id="s2", ok=False, check="own"))
        await until(lambda: ids(app.services) == ["s1"])  # type: ignore[arg-type]
        assert {one.service_id for _ in "12" if (one := await discovery.discover_service("search"))} == {"s1"}
        await cluster.stop()
        await until(lambda: discovery.stale_for_s > 0)
        await cluster.start()
        await until(lambda: discovery.stale_for_s == 0)


async def test_loads_are_renewed_where_they_count(cluster: Cluster) -> None:
    """Loads that decide are refreshed or requested; the coordinator is not asked about other services."""
    async with remote_app(cluster, client={"discovery_refresh_s": 0.1}) as app:
        registry = ServiceRegistry(app)
        for service_id in "ab":
            await registry.register_service("search", "http", "127.0.0.1", 80, service_id=service_id)
        discovery = ServiceDiscovery(registry)

        async def chosen() -> str:
            found = await discovery.discover_service("search", LEAST_LOADED)
            return found.service_id if found else ""

        for loads, lighter in (((0.9, 0.1), "b"), ((0.1, 0.9), "a")):
            for service_id, load in zip("ab", loads, strict=True):
                await cluster.client.execute(HeartbeatService(service_id=service_id, load=load))
            async with asyncio.timeout(PATIENCE_S):
                while await chosen() != lighter:  # noqa: ASYNC110  # told over NATS
                    await asyncio.sleep(0.02)
        for service_id, load in (("a", 0.5), ("b", 0.2)):
            await registry.update_heartbeat(service_id, load=load)  # its own changes are known at once
        assert await chosen() == "b"
        assert app.services is not None
        assert app.services.find("search", HEALTHY, with_loads=True) is not None
        assert app.services._by_load == {"search"}


async def test_a_watch_that_cannot_fetch_tries_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody answers, nothing is returned; as soon as somebody does, services are known."""
    monkeypatch.setattr(watch_module, "PAGE_TIMEOUT_S", 0.2)
    await cluster.client.execute(offer("a"))
    await cluster.stop()
    async with Client.open(cluster.url) as client, ServiceWatch.open(client) as watch:
        await asyncio.sleep(0.5)
        assert ids(watch) is None
        assert watch.stale_for_s == 0.0
        with pytest.raises(Unavailable):
            await client.execute(offer("b"), timeout_s=0.2)
        await cluster.start()
        await until(lambda: ids(watch) == ["a"])
