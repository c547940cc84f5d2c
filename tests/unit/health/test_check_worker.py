"""The worker that checks health URLs: what it checks, when, and what it does when a check is not allowed or fails."""

from __future__ import annotations

import asyncio
import resource
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from coordinator.commands.cluster import GetStats
from coordinator.commands.service import FindServices, ReportCheck
from coordinator.health import check_worker as worker_module
from coordinator.health.check_worker import run_health_checks
from coordinator.health.outcome import CheckResult, could_not_check
from coordinator.health.probes import Prober
from coordinator.health.resolver import Resolver
from coordinator.processes.follower import checks_of
from coordinator.registry import ServiceRegistry, ServiceStatus
from coordinator.settings.model import Settings
from coordinator.settings.sections import RegistrySettings
from coordinator.task_groups import task_group
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.app.app import App
    from coordinator.commands.command import Command

INTERVAL_S = 0.1


class Door:
    """The app's door, which records the commands and can be closed."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.reports: list[ReportCheck] = []
        self.asked: list[ServiceStatus | None] = []
        self.shut: Exception | None = None

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        if self.shut is not None:
            raise self.shut
        if isinstance(command, ReportCheck):
            self.reports.append(command)
        if isinstance(command, FindServices):
            self.asked.append(command.status)
        return await self.app.execute(command, timeout_s=timeout_s)


class Looks:
    """Replaces the probes: holds the result of each URL, and records which URL was probed when."""

    def __init__(self) -> None:
        self.shows: dict[str, CheckResult | Exception] = {}
        self.seen: list[tuple[str, float]] = []
        self.under_way = 0
        self.most = 0
        self.takes_s = 0.0

    async def look(self, url: str, _: str = "") -> CheckResult:
        self.seen.append((url, asyncio.get_running_loop().time()))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.takes_s)
        self.under_way -= 1
        shown = self.shows.get(url, CheckResult(ok=True, detail="answered 200", latency_ms=1.0))
        if isinstance(shown, Exception):
            raise shown
        return shown

    def times(self, url: str) -> list[float]:
        return [at for seen, at in self.seen if seen == url]


class Served:
    """Answers requests, and counts how many it had at a time."""

    def __init__(self, *, takes_s: float) -> None:
        self.takes_s = takes_s
        self.under_way = 0
        self.most = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(self.takes_s)
        self.under_way -= 1
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    monkeypatch.setattr(worker_module, "FOLLOW_S", 0.02)
    looks = Looks()
    monkeypatch.setattr(Prober, "look", looks.look)
    return looks


@asynccontextmanager
async def checking(door: Door, **registry: Any) -> AsyncIterator[None]:
    given = {"health_check_interval": INTERVAL_S, "health_check_timeout_s": INTERVAL_S, **registry}
    settings = Settings(registry=RegistrySettings(**given))
    async with task_group() as tasks:
        task = tasks.create_task(run_health_checks(door, **checks_of(settings)))
        try:
            yield
        finally:
            task.cancel()


async def _until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  # what is waited for happens by itself
            await asyncio.sleep(0.005)


async def test_a_new_service_is_checked_at_once_and_then_in_intervals(app: App, looks: Looks) -> None:
    """The first check decides the health; the next checks follow at fixed intervals, without drifting."""
    registry, door = ServiceRegistry(app), Door(app)
    async with checking(door):
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        service_id = await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/a")
        plain = await registry.register_service("agent", "worker", "localhost", 80)
        await _until(lambda: _is(registry, service_id, ServiceStatus.HEALTHY))
        assert looks.times("http://localhost/a")[0] - began < INTERVAL_S
        await asyncio.sleep(5 * INTERVAL_S)
    times = looks.times("http://localhost/a")
    assert len(times) >= 4
    for number, at in enumerate(times[:4]):
        assert at - times[0] == pytest.approx(number * INTERVAL_S, abs=0.09)
    assert {one.service_id for one in door.reports} == {service_id}
    assert door.reports[0] == ReportCheck(
        service_id=service_id, ok=True, check="http", detail="answered 200", latency_ms=1.0, every_s=INTERVAL_S
    )
    assert await _is(registry, plain, ServiceStatus.HEALTHY)


async def _is(registry: ServiceRegistry, service_id: str, status: ServiceStatus) -> bool:
    return (await registry.get_service(service_id)).status is status


async def test_what_was_registered_before_it_started(app: App, looks: Looks) -> None:
    """A restarted worker checks all services, whatever their health."""
    registry, door = ServiceRegistry(app), Door(app)
    service_id = await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/a")
    await app.execute(ReportCheck(service_id=service_id, ok=True, check="http"))
    looks.shows["http://localhost/a"] = CheckResult(ok=False, detail="answered 500", latency_ms=1.0)
    async with checking(door):
        await _until(lambda: _is(registry, service_id, ServiceStatus.UNHEALTHY))
    assert len(door.reports) == 2  # the first bad check changes nothing yet


async def test_what_is_taken_off_is_not_checked_any_more(app: App, looks: Looks) -> None:
    """Checks stop at the first report that finds the service gone, and start again when it is registered again."""
    registry, door = ServiceRegistry(app), Door(app)
    url = "http://localhost/a"
    async with checking(door):
        service_id = await registry.register_service("agent", "worker", "localhost", 80, url, service_id="mine")
        await _until(lambda: _is(registry, service_id, ServiceStatus.HEALTHY))
        await registry.deregister_service(service_id)
        await asyncio.sleep(2 * INTERVAL_S)
        seen = len(looks.seen)
        await asyncio.sleep(3 * INTERVAL_S)
        assert len(looks.seen) == seen
        await registry.register_service("agent", "worker", "localhost", 80, url, service_id="mine")
        await _until(lambda: _is(registry, service_id, ServiceStatus.HEALTHY))


async def test_another_url(app: App, looks: Looks) -> None:
    """A service that registers with another URL is checked only by the new URL."""
    registry, door = ServiceRegistry(app), Door(app)
    async with checking(door):
        for path in ("a", "b"):
            await registry.register_service(
                "agent", "worker", "localhost", 80, f"http://localhost/{path}", service_id="mine"
            )
            await _until(lambda: _is(registry, "mine", ServiceStatus.HEALTHY))
        seen = len(looks.times("http://localhost/a"))
        await asyncio.sleep(3 * INTERVAL_S)
    assert len(looks.times("http://localhost/a")) == seen
    assert len(looks.times("http://localhost/b")) >= 2


async def test_a_service_that_registers_again_is_checked_no_more_often(app: App, looks: Looks) -> None:
    """It may change its metadata as often as it likes: each extra check would count in the row."""
    registry, door = ServiceRegistry(app), Door(app)
    began = asyncio.get_running_loop().time()
    async with checking(door):
        for number in range(50):
            await registry.register_service(
                "agent", "worker", "localhost", 80, "http://localhost/a", service_id="mine", metadata={"n": str(number)}
            )
            await _until(lambda: _is(registry, "mine", ServiceStatus.HEALTHY))
            await asyncio.sleep(0.01)
        took_s = asyncio.get_running_loop().time() - began
    assert 2 <= len(looks.seen) <= took_s / INTERVAL_S + 2


async def test_where_it_may_not_look(app: App, looks: Looks) -> None:
    """A service that must not be probed stays UNKNOWN, and the reason is logged once, however often it is tried."""
    registry, door = ServiceRegistry(app), Door(app)
    looks.shows["http://192.0.2.1/"] = Refused("it is outside", reason="outside_networks")
    with capture_logs() as logs:
        async with checking(door):
            service_id = await registry.register_service("agent", "worker", "192.0.2.1", 80, "http://192.0.2.1/")
            await asyncio.sleep(4 * INTERVAL_S)
            assert len(looks.seen) >= 3
            assert await _is(registry, service_id, ServiceStatus.UNKNOWN)
    assert door.reports == []
    told = [one for one in logs if one["event"] == "service_not_checked"]
    assert [(one["service_id"], one["reason"]) for one in told] == [(service_id, "it is outside")]


async def test_a_probe_that_crashes_stops_no_other(app: App, looks: Looks) -> None:
    """When a probe crashes, the other services are still checked, and the probe is tried again."""
    registry, door = ServiceRegistry(app), Door(app)
    looks.shows["http://localhost/bad"] = RuntimeError("a defect")
    with capture_logs() as logs:
        async with checking(door):
            await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/bad")
            good = await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/good")
            await _until(lambda: _is(registry, good, ServiceStatus.HEALTHY))
            await asyncio.sleep(2 * INTERVAL_S)
    assert len(looks.times("http://localhost/bad")) >= 2
    assert "check_crashed" in {one["event"] for one in logs}


async def test_no_more_than_so_many_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of open connections is limited, and all services are checked."""
    monkeypatch.setattr(worker_module, "FOLLOW_S", 0.02)
    registry, door = ServiceRegistry(app), Door(app)
    served = Served(takes_s=0.02)
    async with await asyncio.start_server(served.take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ids = [
            await registry.register_service("agent", "worker", "localhost", 80, f"http://127.0.0.1:{port}/{number}")
            for number in range(12)
        ]
        async with checking(door, health_checks_at_once=3, health_check_interval=2.0, health_check_timeout_s=1.0):
            for service_id in ids:
                await _until(lambda service_id=service_id: _is(registry, service_id, ServiceStatus.HEALTHY))
    assert served.most == 3


async def test_slow_names_make_no_other_service_fail(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside 40 services whose names are not resolved, 10 others of the same source are checked all the time."""
    monkeypatch.setattr(worker_module, "FOLLOW_S", 0.02)
    let = threading.Event()

    def look_up(host: str) -> list[str]:  # blocks in its thread, as the system's resolver does
        if host.startswith("slow"):
            let.wait(60)
        return ["127.0.0.1"]

    registry, door = ServiceRegistry(app), Door(app)
    served = Served(takes_s=0)
    settings = Settings(registry=RegistrySettings(health_check_interval=0.5, health_check_timeout_s=0.2))
    async with await asyncio.start_server(served.take, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        ids = {
            name: await registry.register_service("agent", "worker", "localhost", 80, f"http://{name}.test:{port}/")
            for name in [*(f"slow{n}" for n in range(40)), *(f"good{n}" for n in range(10))]
        }
        async with task_group() as tasks:
            task = tasks.create_task(run_health_checks(door, **checks_of(settings), resolve=Resolver(look_up).resolve))
            for number in range(10):
                await _until(lambda number=number: _is(registry, ids[f"good{number}"], ServiceStatus.HEALTHY))
            before = len(door.reports)
            await asyncio.sleep(2)
            task.cancel()
        let.set()
    assert all(report.ok for report in door.reports)
    assert len(door.reports) - before >= 30
    for number in range(40):
        slow = await registry.get_service(ids[f"slow{number}"])
        assert slow.status is ServiceStatus.UNKNOWN
        assert "was not resolved within 0.2 s" in slow.not_checked


async def test_few_descriptors_allow_few_checks_at_once(app: App, looks: Looks) -> None:
    """Checks use a quarter of the descriptors that the process may open, which the log says."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        with capture_logs() as logs:
            async with checking(Door(app)):
                await asyncio.sleep(0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    (told,) = [one for one in logs if one["event"] == "checks_at_once_lowered"]
    assert (told["descriptors"], told["at_once"], told["wanted"]) == (200, 50, 100)


async def test_checks_that_cannot_be_made_change_no_health(app: App, looks: Looks) -> None:
    """They are reported as such, counted in one line of the log, shown with the service, and write no event."""
    registry, door = ServiceRegistry(app), Door(app)
    ids = [
        await registry.register_service("agent", "worker", "localhost", 80, f"http://localhost/{number}")
        for number in range(3)
    ]
    async with checking(door):
        for service_id in ids:
            await _until(lambda service_id=service_id: _is(registry, service_id, ServiceStatus.HEALTHY))
        for number in range(3):
            looks.shows[f"http://localhost/{number}"] = could_not_check("OSError: [Errno 24] Too many open files")
        position = (await app.execute(GetStats())).position
        with capture_logs() as logs:
            await asyncio.sleep(6 * INTERVAL_S)
        for service_id in ids:
            service = await registry.get_service(service_id)
            assert service.status is ServiceStatus.HEALTHY
            assert "Too many open files" in service.not_checked
        assert (await app.execute(GetStats())).position == position
        (told,) = [one for one in logs if one["event"] == "checks_not_made"]
        assert (told["count"], told["total"]) == (1, 1)
        assert "Too many open files" in told["reason"]
        looks.shows.clear()
        await _until(lambda: _checked(registry, ids[0]))


async def _checked(registry: ServiceRegistry, service_id: str) -> bool:
    return not (await registry.get_service(service_id)).not_checked


async def test_what_could_not_be_checked_does_not_count_in_a_row(app: App, looks: Looks) -> None:
    """Two failed checks with one between that could not be made are two in a row."""
    registry, door = ServiceRegistry(app), Door(app)
    service_id = await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/a")
    failed = CheckResult(ok=False, detail="answered 500", latency_ms=1.0)
    await app.execute(ReportCheck(service_id=service_id, ok=True, check="http"))
    await app.execute(ReportCheck(service_id=service_id, ok=False, check="http"))
    looks.shows["http://localhost/a"] = could_not_check("no route")
    async with checking(door):
        await asyncio.sleep(3 * INTERVAL_S)
        assert await _is(registry, service_id, ServiceStatus.HEALTHY)
        looks.shows["http://localhost/a"] = failed
        await _until(lambda: _is(registry, service_id, ServiceStatus.UNHEALTHY))
    assert len(door.reports) == 1


async def test_while_the_coordinator_is_away(app: App, looks: Looks) -> None:
    """While the coordinator is away the worker keeps trying and logs it once; afterwards it reports again."""
    registry, door = ServiceRegistry(app), Door(app)
    service_id = await registry.register_service("agent", "worker", "localhost", 80, "http://localhost/a")
    with capture_logs() as logs:
        door.shut = Unavailable("nobody leads")
        async with checking(door):
            await asyncio.sleep(3 * INTERVAL_S)
            assert door.reports == []
            door.shut = None
            await _until(lambda: _is(registry, service_id, ServiceStatus.HEALTHY))
            door.shut = Refused("not so")
            await asyncio.sleep(2 * INTERVAL_S)
            door.shut = None
            before = len(door.reports)
            await asyncio.sleep(2 * INTERVAL_S)
            assert len(door.reports) > before
    assert [one["event"] for one in logs].count("services_not_listed") == 2


async def test_asking_is_cheap(app: App, looks: Looks) -> None:
    """The worker lists UNKNOWN services often, and all services only once per interval."""
    door = Door(app)
    async with checking(door, health_check_interval=30):
        await asyncio.sleep(0.2)
    assert door.asked[0] is None
    assert len(door.asked) > 3
    assert set(door.asked[1:]) == {ServiceStatus.UNKNOWN}
