"""
Health URLs are checked for real: nats-server, coordinator, worker, and servers on loopback.

No connection here leaves loopback; an audit hook checks that.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from coordinator.app.app import embedded
from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.reads import CheckOutcomes
from coordinator.commands.service import (
    CheckOutcome,
    FindServices,
    GetHealthHistory,
    GetService,
    RegisterService,
    ReportCheck,
)
from coordinator.deciders.rules import Rules
from coordinator.follower.follower import Follower
from coordinator.health.check_worker import run_health_checks
from coordinator.processes.follower import checks_of
from coordinator.registry import HealthChecker, ServiceDiscovery, ServiceRegistry, ServiceStatus
from coordinator.settings.model import Settings
from coordinator.settings.sections import RegistrySettings
from coordinator.task_groups import task_group
from events.errors import Refused
from tests.commands import running, up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from projections.service import Service
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

QUICK: dict[str, Any] = {"health_check_interval": 0.2, "health_check_timeout_s": 0.2}


class Connections:
    """The addresses this process connects to while *watching*; an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.watching = False
        self.hosts: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watching and event == "socket.connect" and isinstance(arguments[1], tuple):
            self.hosts.append(arguments[1][0])


@pytest.fixture(scope="module")
def hook() -> Connections:
    return Connections()


@pytest.fixture(autouse=True)
def connections(hook: Connections) -> Iterator[Connections]:
    """Fail a test in which this process connected to anything except loopback."""
    hook.hosts.clear()
    hook.watching = True
    yield hook
    hook.watching = False
    assert hook.hosts
    assert [host for host in hook.hosts if not ip_address(host).is_loopback] == []


class Health:
    """An HTTP server of one page, which answers with *status*."""

    def __init__(self) -> None:
        self.status = 200
        self.requests = 0
        self.port = 0

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 {self.status} Said\r\nContent-Length: 0\r\n\r\n".encode())
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1") -> AsyncIterator[Health]:
        async with await asyncio.start_server(self._take, host, self.port) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self


@asynccontextmanager
async def checking(client: Client, **registry: Any) -> AsyncIterator[None]:
    """Check services as the follower's process does."""
    settings = Settings(registry=RegistrySettings(**QUICK | registry))
    async with task_group() as tasks:
        task = tasks.create_task(run_health_checks(client, **checks_of(settings)))
        try:
            yield
        finally:
            task.cancel()


def service(service_id: str, url: str, name: str = "agent") -> RegisterService:
    return RegisterService(
        service_id=service_id, service_name=name, service_type="a", host="localhost", port=1, health_check_url=url
    )


async def seen(client: Client, service_id: str) -> Service:
    found: Service = (await client.execute(GetService(service_id=service_id))).service
    return found


async def until(client: Client, service_id: str, status: ServiceStatus) -> Service:
    async with asyncio.timeout(20):
        while (found := await seen(client, service_id)).status is not status:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.02)
    return found


async def test_health_follows_what_the_server_says(cluster: Cluster, tmp_path: Path) -> None:
    """The first check decides; two bad ones in a row make it unhealthy, two good ones healthy; all is recorded."""
    client = cluster.client
    async with (
        Follower.open(cluster.url, tmp_path / "state.db", checks=tmp_path / "checks.db"),
        Health().serving() as health,
        checking(client, health_check_interval=1.0, health_check_timeout_s=1.0),
    ):
        await client.execute(service("s", f"http://127.0.0.1:{health.port}/health"))
        assert (await until(client, "s", ServiceStatus.HEALTHY)).health_rule == "first http check"
        health.status = 503
        ill = await until(client, "s", ServiceStatus.UNHEALTHY)
        assert ill.health_rule == "2 http checks in a row failed"
        assert ill.health_detail == "answered 503"
        health.status = 204
        assert (await until(client, "s", ServiceStatus.HEALTHY)).health_rule == "2 http checks in a row passed"
        history = await ask_follower(client, CheckOutcomes(id="s"))
    said = [one.detail for one in reversed(history)]
    assert said[0] == "answered 200"
    assert {"answered 200", "answered 503", "answered 204"} == set(said)


async def test_a_server_that_dies_and_returns(cluster: Cluster) -> None:
    """Refused connections count as failures, for http and tcp alike."""
    client, health = cluster.client, Health()
    async with checking(client):
        async with health.serving():
            await client.execute(service("web", f"http://127.0.0.1:{health.port}/"))
            await client.execute(service("raw", f"tcp://127.0.0.1:{health.port}"))
            for service_id in ("web", "raw"):
                await until(client, service_id, ServiceStatus.HEALTHY)
        for service_id in ("web", "raw"):
            await until(client, service_id, ServiceStatus.UNHEALTHY)
        async with health.serving():
            for service_id in ("web", "raw"):
                await until(client, service_id, ServiceStatus.HEALTHY)


async def test_what_may_not_be_looked_at(cluster: Cluster, connections: Connections) -> None:
    """A server outside the allowed networks gets no connection; its service stays UNKNOWN, and the log says why."""
    client = cluster.client
    canary, health = Health(), Health()
    async with health.serving(), canary.serving("127.0.0.2"):
        with capture_logs() as logs:
            async with checking(client, health_check_networks=["127.0.0.1/32"]):
                hostile = {
                    "plain": f"http://127.0.0.2:{canary.port}/",
                    "decimal": f"http://2130706434:{canary.port}/",
                    "raw": f"tcp://127.0.0.2:{canary.port}",
                }
                for service_id, url in hostile.items():
                    await client.execute(service(service_id, url))
                await client.execute(service("good", f"http://127.0.0.1:{health.port}/"))
                await until(client, "good", ServiceStatus.HEALTHY)
                await asyncio.sleep(1.5)
        assert canary.requests == 0
        assert "127.0.0.2" not in connections.hosts
    for service_id in hostile:
        assert (await seen(client, service_id)).status is ServiceStatus.UNKNOWN
        (told,) = [one for one in logs if one.get("service_id") == service_id]
        assert told["event"] == "service_not_checked"
        assert "add 127.0.0.2/32" in told["reason"]


async def test_many_services(cluster: Cluster) -> None:
    """More services than fit into one answer are all checked."""
    client = cluster.client
    async with Health().serving() as health, checking(client, health_check_interval=5.0, health_check_timeout_s=3.0):
        await asyncio.gather(
            *(client.execute(service(f"s{n}", f"http://127.0.0.1:{health.port}/")) for n in range(600))
        )
        async with asyncio.timeout(30):
            while await client.execute(FindServices(status=ServiceStatus.UNKNOWN)):  # noqa: ASYNC110  # nor of this
                await asyncio.sleep(0.1)
        assert len(await client.execute(FindServices(status=ServiceStatus.HEALTHY))) == 600
        assert health.requests >= 600


@pytest.mark.parametrize("cluster", [Rules(check_fall=1)], indirect=True)
async def test_checks_go_on_over_a_takeover(cluster: Cluster) -> None:
    """The next leader gets the reports; services that were healthy stay healthy in between."""
    client = cluster.client
    async with Health().serving() as health, checking(client):
        await client.execute(service("s", f"http://127.0.0.1:{health.port}/"))
        await until(client, "s", ServiceStatus.HEALTHY)
        await cluster.crash()
        health.status = 500
        await cluster.start()
        await until(client, "s", ServiceStatus.UNHEALTHY)


async def test_the_history_outlives_the_coordinator(cluster: Cluster, tmp_path: Path) -> None:
    """
    The changes come from the journal, the outcomes from the follower; what it missed is told.

    Outcomes are missed while it does not run. Its file is written at its end, and read again at its start.
    """
    client = cluster.client

    @asynccontextmanager
    async def follower() -> AsyncIterator[None]:
        async with Follower.open(cluster.url, tmp_path / "state.db", checks=tmp_path / "checks.db"):
            yield

    async def report(ok: bool, count: int) -> None:
        for _ in range(count):
            await client.execute(ReportCheck(service_id="s", ok=ok, check="http", latency_ms=1.5))

    async def kept(count: int) -> list[CheckOutcome]:
        async with asyncio.timeout(20):
            while True:
                found = await ask_follower(client, CheckOutcomes(id="s"))
                if len(found) == count:
                    return found
                await asyncio.sleep(0.05)

    await client.execute(service("s", "http://127.0.0.1:1/"))
    async with follower():
        await report(ok=True, count=3)
        await report(ok=False, count=2)
        assert [(one.ok, one.number, one.lost) for one in reversed(await kept(5))] == [
            *((True, 1, 0), (True, 2, 0), (True, 3, 0), (False, 4, 0), (False, 5, 0))
        ]
        await cluster.crash()
        await cluster.start()
        await report(ok=True, count=2)
        assert [(one.number, one.lost) for one in await kept(7)][:3] == [(2, 0), (1, 0), (5, 0)]
    await report(ok=False, count=4)
    known = await client.execute(GetHealthHistory(service_id="s"))
    assert [(one.status.value, one.is_change) for one in known] == [("unhealthy", False), ("unhealthy", True)]
    async with follower():
        await report(ok=True, count=1)
        assert [(one.number, one.lost) for one in await kept(8)][:2] == [(7, 4), (2, 0)]
        assert await ask_follower(client, CheckOutcomes(id="nobody")) == []
    (tmp_path / "checks.db").write_bytes(b"no database" * 1000)
    with capture_logs() as logs:
        async with follower():
            await report(ok=True, count=1)
            last, *changes = await kept(5)
            assert (last.number, last.lost, last.is_change) == (8, 7, False)
            assert [(one.status.value, one.is_change) for one in changes] == [
                *(("unhealthy", True), ("healthy", True), ("unhealthy", True), ("healthy", True))
            ]
    assert "checks_file_replaced" in {one["event"] for one in logs}


async def test_a_hundred_outcomes_of_each_service_are_kept(cluster: Cluster, tmp_path: Path) -> None:
    """Those before are removed, which is no loss."""
    client = cluster.client
    async with Follower.open(cluster.url, tmp_path / "state.db", checks=tmp_path / "checks.db"):
        for service_id in ("s", "other"):
            await client.execute(service(service_id, "http://127.0.0.1:1/"))
        for number in range(130):
            await client.execute(ReportCheck(service_id="s", ok=True, check="http", detail=str(number)))
        await client.execute(ReportCheck(service_id="other", ok=True, check="http"))
        async with asyncio.timeout(20):
            while not (await ask_follower(client, CheckOutcomes(id="other"))):  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
        listed = await ask_follower(client, CheckOutcomes(id="s", limit=1000))
        *found, change = listed
        assert change.is_change
        assert [one.detail for one in found] == [str(number) for number in range(129, 29, -1)]
        assert not any(one.lost for one in found)
        assert len(await ask_follower(client, CheckOutcomes(id="s", limit=3))) == 3
        with pytest.raises(Refused, match="limit"):
            await ask_follower(client, CheckOutcomes(id="s", limit=0))


class Deaf:
    """A server that accepts every connection and says nothing."""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()


@pytest.mark.parametrize("limited", ["before it starts", "while it runs"])
async def test_a_checker_with_few_descriptors(cluster: Cluster, tmp_path: Path, limited: str) -> None:
    """
    A follower that may open 64 descriptors, beside 90 services that never answer, calls no healthy service unhealthy.

    If it knows its limit it makes fewer checks at a time, and all services get the health that is theirs.
    """
    client, written = cluster.client, tmp_path / "log"
    few = {
        "COORDINATOR_HOME": str(tmp_path / "home"),
        "COORDINATOR_REGISTRY__HEALTH_CHECK_INTERVAL": "2",
        "COORDINATOR_REGISTRY__HEALTH_CHECK_TIMEOUT_S": "1",
        "COORDINATOR_REGISTRY__HEALTH_CHECK_NETWORKS": "127.0.0.0/8",
    }
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Health().serving() as health, await asyncio.start_server(Deaf().take, "127.0.0.1", 0) as deaf:
        deaf_port = deaf.sockets[0].getsockname()[1]
        if limited == "before it starts":
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        try:
            following = running("follow", "--nats", cluster.url, written=written, **few)
            follower = following.__enter__()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        try:
            await asyncio.to_thread(follower.until_written, "follower_started")
            resource.prlimit(follower.pid, resource.RLIMIT_NOFILE, (64, 64))
            for number in range(10):
                await client.execute(service(f"good{number}", f"http://127.0.0.1:{health.port}/"))
            for number in range(90):
                await client.execute(service(f"deaf{number}", f"http://127.0.0.1:{deaf_port}/", name="deaf"))
            began, ill, views = asyncio.get_running_loop().time(), set[str](), []
            while asyncio.get_running_loop().time() < began + 20:
                views = await client.execute(FindServices(service_name="agent"))
                ill |= {one.service.health_detail for one in views if one.service.status is ServiceStatus.UNHEALTHY}
                await asyncio.sleep(0.2)
            assert ill == set()
            if limited == "before it starts":
                assert "checks_at_once_lowered" in follower.written
                assert {one.service.status for one in views} == {ServiceStatus.HEALTHY}
                views = await client.execute(FindServices(service_name="deaf"))
                assert {one.service.status for one in views} == {ServiceStatus.UNHEALTHY}
            else:
                assert "checks_not_made" in follower.written
                assert "Too many open files" in follower.written
        finally:
            following.__exit__(None, None, None)


async def test_on_another_nats_nothing_is_checked_until_networks_are_listed(cluster: Cluster, tmp_path: Path) -> None:
    """Loopback of who registers may not be that of the follower, which says so in its log and at the service."""
    client, written = cluster.client, tmp_path / "log"
    async with Health().serving() as health:
        await client.execute(service("s", f"http://127.0.0.1:{health.port}/"))
        with running("follow", "--nats", cluster.url, written=written, COORDINATOR_HOME=str(tmp_path / "home")):
            async with asyncio.timeout(20):
                while not (view := await client.execute(GetService(service_id="s"))).not_checked:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        assert "add 127.0.0.1/32" in view.not_checked
        assert view.service.status is ServiceStatus.UNKNOWN
        assert health.requests == 0
    assert "health_checks_off" in written.read_text()


async def test_up_checks_loopback(tmp_path: Path) -> None:
    """With a server of our own everything that registers is on this machine."""
    async with Health().serving() as health:
        with up(tmp_path / "up") as started:
            async with Client.open(started.url) as client:
                await client.execute(service("s", f"http://127.0.0.1:{health.port}/"))
                await until(client, "s", ServiceStatus.HEALTHY)


async def test_an_embedded_coordinator_checks_by_itself(tmp_path: Path) -> None:
    """
    Health checks need no extra process: a service on this machine becomes healthy.

    A service on another machine, as in the requirements' sample, is outside the default networks and not connected to.
    It stays UNKNOWN, and discovery falls back to it.
    """
    settings = Settings(registry=RegistrySettings(**QUICK))
    async with Health().serving() as health, embedded(tmp_path, settings) as app:
        registry = ServiceRegistry(app)
        near = await registry.register_service(
            "near", "agent", "localhost", health.port, f"http://localhost:{health.port}/health"
        )
        far = await registry.register_service(
            "task_agent", "agent", "192.168.1.100", 8080, "http://192.168.1.100:8080/health"
        )
        await until(app.client, near, ServiceStatus.HEALTHY)
        await asyncio.sleep(1.2)
        assert (await registry.get_service(far)).status is ServiceStatus.UNKNOWN
        found = await ServiceDiscovery(registry).discover_service("task_agent")
        assert found is not None
        assert (found.service_id, found.status) == (far, ServiceStatus.UNKNOWN)
        async with HealthChecker(registry) as checker:
            told, *_ = await checker.get_health_history(far)
            assert (told.could_not, told.ok, told.status) == (True, False, ServiceStatus.UNKNOWN)
            assert "registry.health_check_networks" in told.detail
            assert (await registry.get_service(far)).not_checked == told.detail
            assert [one.check for one in await checker.get_health_history(near, limit=1)] == ["http"]
            assert (await checker.check_service(near)).ok
