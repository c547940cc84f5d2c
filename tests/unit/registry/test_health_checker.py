"""Custom checks run in the process that registered them; the coordinator decides the health as with any check."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from coordinator.registry import HealthChecker, ServiceRegistry, ServiceStatus
from coordinator.settings.sections import RegistrySettings
from events.errors import NotFound, Refused, Unavailable
from tests.descriptors import no_descriptor_left
from tests.facades import opened_here

if TYPE_CHECKING:
    from coordinator.app.app import App
    from coordinator.registry import ServiceInfo

URL = "http://192.0.2.1/health"
"""A documentation address, outside the networks that may be checked: the coordinator's probes do not interfere."""


async def well(_: ServiceInfo) -> bool:
    return True


async def ill(_: ServiceInfo) -> bool:
    return False


@pytest.fixture
async def registry(app: App) -> ServiceRegistry:
    return ServiceRegistry(app)


@pytest.fixture
async def followed(embedded_app: App) -> ServiceRegistry:
    """A registry of a cluster that has a follower, which keeps the outcomes."""
    return ServiceRegistry(embedded_app)


async def _registered(registry: ServiceRegistry, name: str = "agent") -> str:
    return await registry.register_service(name, "worker", "192.0.2.1", 80, URL)


async def _status(registry: ServiceRegistry, service_id: str) -> ServiceStatus:
    return (await registry.get_service(service_id)).status


async def _until(registry: ServiceRegistry, service_id: str, status: ServiceStatus) -> None:
    async with asyncio.timeout(5):
        while await _status(registry, service_id) is not status:  # noqa: ASYNC110  # it tells nobody of a change
            await asyncio.sleep(0.005)


async def test_a_custom_check_that_lacks_a_descriptor_is_no_failure(registry: ServiceRegistry) -> None:
    """What this process lacks says nothing about the instance; its health stays, and the reason is shown."""

    async def opens(_: ServiceInfo) -> bool:
        with no_descriptor_left():
            try:
                with socket.socket():
                    return True
            except OSError as error:
                raise RuntimeError("the check needs a socket") from error

    service_id = await _registered(registry)
    async with HealthChecker(registry) as checker:
        await checker.register_custom_health_check("agent", well)
        await _until(registry, service_id, ServiceStatus.HEALTHY)
        await checker.register_custom_health_check("agent", opens)
        for _ in range(3):
            with pytest.raises(Unavailable, match="could not check") as raised:
                await checker.check_service(service_id)
            assert raised.value.reason == "could_not_check"
    shown = await registry.get_service(service_id)
    assert (shown.status, "could not check" in shown.not_checked) == (ServiceStatus.HEALTHY, True)


async def test_the_first_round_is_over_when_it_is_registered(registry: ServiceRegistry) -> None:
    """Every instance of the name, and no other instance, is checked before the call returns."""
    ids = [await _registered(registry) for _ in range(30)]
    other = await _registered(registry, "other")
    seen: list[str] = []

    async def check(service: ServiceInfo) -> bool:
        seen.append(service.service_id)
        await asyncio.sleep(0.001)
        return service.service_id != ids[0]

    async with HealthChecker(registry) as checker:
        await checker.register_custom_health_check("agent", check)
        assert sorted(seen) == sorted(ids)
        healthy = await registry.find_services("agent", ServiceStatus.HEALTHY)
        assert {one.service_id for one in healthy} == set(ids[1:])
        assert await _status(registry, ids[0]) is ServiceStatus.UNHEALTHY
        assert await _status(registry, other) is ServiceStatus.UNKNOWN


async def test_checks_are_repeated(followed: ServiceRegistry) -> None:
    """A service that becomes unhealthy is detected by later rounds, after the required number of failures in a row."""
    registry = followed
    service_id = await _registered(registry)
    answers = [True, False, True, False, False]

    async def check(_: ServiceInfo) -> bool:
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async with HealthChecker(registry, interval_s=0.02) as checker:
        await checker.register_custom_health_check("agent", check)
        await _until(registry, service_id, ServiceStatus.UNHEALTHY)
        history = await checker.get_health_history(service_id)
        assert [one.ok for one in reversed(history)][:5] == [True, False, True, False, False]
        assert [one.status.value for one in reversed(history)][:5] == ["healthy"] * 4 + ["unhealthy"]
        assert {one.check for one in history} == {"custom"}
        assert [one.at for one in history] == sorted((one.at for one in history), reverse=True)
        assert len(await checker.get_health_history(service_id, limit=2)) == 2


async def test_the_interval_is_that_of_the_settings() -> None:
    """Without an interval of its own, a custom check is repeated as `registry.health_check_interval` says."""
    quick = RegistrySettings(health_check_interval=0.05, health_check_timeout_s=0.05)
    seen = asyncio.Semaphore(0)

    async def check(_: ServiceInfo) -> bool:
        seen.release()
        return True

    async with (
        opened_here(registry=quick) as here,
        ServiceRegistry(here.app) as registry,
        HealthChecker(registry) as checker,
    ):
        await _registered(registry)
        await checker.register_custom_health_check("agent", check)
        async with asyncio.timeout(10):
            for _ in range(3):
                await seen.acquire()


async def test_a_service_that_is_seldom_checked_stays_online() -> None:
    """A passed custom check counts for two intervals, also for those of the settings."""
    seldom = RegistrySettings(health_check_interval=300.0)
    async with (
        opened_here(registry=seldom) as here,
        ServiceRegistry(here.app) as registry,
        HealthChecker(registry) as checker,
    ):
        service_id = await registry.register_service("agent", "worker", "192.0.2.1", 80)
        await checker.register_custom_health_check("agent", well)
        here.rig.hands.turn(290.0)
        await here.rig.settle()
        assert await _status(registry, service_id) is ServiceStatus.HEALTHY
        here.rig.hands.turn(320.0)
        await here.rig.settle()
        assert await _status(registry, service_id) is ServiceStatus.OFFLINE


async def test_instances_that_come_later(registry: ServiceRegistry) -> None:
    """An instance registered after the check is checked in the next round."""
    async with HealthChecker(registry, interval_s=0.02) as checker:
        await checker.register_custom_health_check("agent", well)
        service_id = await _registered(registry)
        await _until(registry, service_id, ServiceStatus.HEALTHY)


async def test_whatever_goes_wrong_is_a_failure(followed: ServiceRegistry) -> None:
    """An exception, a time-out, and a return value that is not a bool are failures whose detail says what happened."""
    registry = followed

    async def raises(_: ServiceInfo) -> bool:
        raise RuntimeError("the model\nis \x1b[31mred")

    async def hangs(_: ServiceInfo) -> bool:
        await asyncio.sleep(60)
        return True

    async def says_nothing(_: ServiceInfo) -> bool:
        return None  # type: ignore[return-value]

    async def says_one(_: ServiceInfo) -> bool:
        return 1  # type: ignore[return-value]

    async def cancels_itself(_: ServiceInfo) -> bool:
        raise asyncio.CancelledError

    class Speechless(Exception):
        def __str__(self) -> str:
            raise ValueError

    async def raises_the_unspeakable(_: ServiceInfo) -> bool:
        raise Speechless

    def at_once(_: ServiceInfo) -> bool:
        return False

    told = {
        raises: "RuntimeError: the model�is �[31mred",
        hangs: "no answer within 0.05 s",
        says_nothing: "the check returned NoneType, not bool",
        says_one: "the check returned int, not bool",
        cancels_itself: "CancelledError",
        raises_the_unspeakable: "Speechless",
        at_once: "",
    }
    async with HealthChecker(registry, timeout_s=0.05) as checker:
        for number, (check, detail) in enumerate(told.items()):
            service_id = await _registered(registry, f"agent{number}")
            await checker.register_custom_health_check(f"agent{number}", check)  # type: ignore[arg-type]
            (outcome,) = await checker.get_health_history(service_id)
            assert (outcome.ok, outcome.detail) == (False, detail)
            assert outcome.status is ServiceStatus.UNHEALTHY


async def test_one_check_a_service(registry: ServiceRegistry) -> None:
    """A check registered again replaces the first, which no longer runs."""
    await _registered(registry)
    seen: list[str] = []

    async def first(_: ServiceInfo) -> bool:
        seen.append("first")
        return True

    async def second(_: ServiceInfo) -> bool:
        seen.append("second")
        return True

    async with HealthChecker(registry, interval_s=0.02) as checker:
        await checker.register_custom_health_check("agent", first)
        await checker.register_custom_health_check("agent", second)
        seen.clear()
        await asyncio.sleep(0.1)
    assert set(seen) == {"second"}


async def test_closing_ends_the_checks(registry: ServiceRegistry) -> None:
    """After `close` no check runs, while the registry stays open."""
    await _registered(registry)
    count = 0

    async def check(_: ServiceInfo) -> bool:
        nonlocal count
        count += 1
        return True

    checker = HealthChecker(registry, interval_s=0.01)
    await checker.register_custom_health_check("agent", check)
    await asyncio.sleep(0.05)
    await checker.close()
    ran = count
    await asyncio.sleep(0.05)
    assert count == ran > 1
    assert len(await registry.find_services("agent")) == 1


async def test_the_app_ends_the_checks_of_a_checker_left_open() -> None:
    """A checker that was not closed leaves no task behind when the app closes."""
    before = asyncio.all_tasks()
    async with opened_here() as (app, _):
        registry = ServiceRegistry(app)
        await _registered(registry)
        await HealthChecker(registry, interval_s=0.01).register_custom_health_check("agent", well)
        await asyncio.sleep(0.03)
    assert asyncio.all_tasks() == before


async def test_checking_now(followed: ServiceRegistry) -> None:
    """`check_service` runs the custom check, or probes the URL; if it can do neither, the error says why."""
    registry = followed
    service_id = await _registered(registry)
    plain = await registry.register_service("plain", "worker", "localhost", 80)
    async with HealthChecker(registry) as checker:
        with pytest.raises(Refused, match=r"registry\.health_check_networks.*192\.0\.2\.1/32"):
            await checker.check_service(service_id)
        assert await _status(registry, service_id) is ServiceStatus.UNKNOWN
        with pytest.raises(Refused, match="no health_check_url and no custom check"):
            await checker.check_service(plain)
        with pytest.raises(NotFound):
            await checker.check_service("never-was")
        await checker.register_custom_health_check("agent", ill)
        outcome = await checker.check_service(service_id)
        assert (outcome.ok, outcome.check, outcome.status) == (False, "custom", ServiceStatus.UNHEALTHY)
        assert len(await checker.get_health_history(service_id)) == 2
        assert await checker.get_health_history(plain) == []
        with pytest.raises(NotFound):
            await checker.get_health_history("never-was")


async def test_checking_a_url_now(registry: ServiceRegistry) -> None:
    """A URL inside the networks is probed from this process, and the outcome is reported."""

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        service_id = await registry.register_service("agent", "worker", "127.0.0.1", port, f"tcp://127.0.0.1:{port}")
        async with HealthChecker(registry) as checker:
            outcome = await checker.check_service(service_id)
        assert (outcome.ok, outcome.check, outcome.status) == (True, "tcp", ServiceStatus.HEALTHY)
        assert outcome.latency_ms is not None
