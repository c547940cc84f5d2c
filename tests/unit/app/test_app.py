"""
The app that all facades of an event loop share: the first facade opens it, the last one to be closed closes it.

What is opened here is an engine in memory; `tests/e2e/test_app.py` opens the real thing.
"""

from __future__ import annotations

import asyncio
import io
import os
import pwd
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import structlog
from structlog.testing import capture_logs

from coordinator.app import app as app_module
from coordinator.app.app import acquire_app, release_app
from coordinator.app.leases import HELD_MAX, Held
from coordinator.app.locate import find_lasting, find_url, located, where
from coordinator.app.sender import sender
from coordinator.home import Home
from coordinator.registry import ServiceRegistry
from coordinator.scheduler import TaskScheduler
from coordinator.settings.model import Settings
from coordinator.settings.sections import ClientSettings, NatsSettings
from coordinator.task_groups import task_group
from events.errors import Refused, Unavailable
from events.ids import checked
from tests.facades import opened_here

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.app.app import App


class Opened:
    """Counts what was opened and closed instead of a real coordinator; opening takes *takes_s* and may fail."""

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.takes_s = 0.0
        self.failure: Exception | None = None
        self.breaks = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[App]:
        self.opened += 1
        try:
            await asyncio.sleep(self.takes_s)
            if self.failure is not None:
                raise self.failure
            async with opened_here() as (app, _), task_group() as tasks:
                breaking = tasks.create_task(self._break())
                yield app
                breaking.cancel()
                await self.may_close.wait()
        finally:
            self.closed += 1

    async def _break(self) -> None:
        await self.breaks.wait()
        raise Unavailable("the machine is on fire")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened()
    monkeypatch.setattr(app_module, "_open", opened.open)
    return opened


async def test_facades_share_one_app(opened: Opened) -> None:
    """A second facade uses the app of the first; closing one does not affect the other; the last closes the app."""
    scheduler, registry = TaskScheduler(), ServiceRegistry()
    assert opened.opened == 0  # making a facade opens nothing
    task_id = await scheduler.submit_task("a")
    await registry.register_service("agent", "worker", "localhost", 80)
    assert opened.opened == 1
    await scheduler.close()
    assert opened.closed == 0
    assert len(await registry.find_services()) == 1
    async with TaskScheduler() as other:
        assert (await other.get_task(task_id)).task_name == "a"
    assert opened.closed == 0
    await registry.close()
    assert (opened.opened, opened.closed) == (1, 1)


async def test_closing_twice(opened: Opened) -> None:
    """A facade holds one reference to the app, however often it is used, initialized or closed."""
    scheduler, registry = TaskScheduler(), ServiceRegistry()
    await registry.initialize()
    for _ in range(3):
        await scheduler.initialize()
    for _ in range(3):
        await scheduler.close()
    assert opened.closed == 0
    await registry.close()
    assert opened.closed == 1


async def test_opening_again(opened: Opened) -> None:
    """A facade that is used after it was closed opens again, with a new app if the old one had been closed."""
    scheduler = TaskScheduler()
    await scheduler.submit_task("a")
    await scheduler.close()
    assert await scheduler.list_tasks() == []
    assert (opened.opened, opened.closed) == (2, 1)
    await scheduler.close()
    assert opened.closed == 2


async def test_many_at_once(opened: Opened) -> None:
    """Concurrent first calls open one app, which is closed once."""
    opened.takes_s = 0.02
    scheduler, other = TaskScheduler(), TaskScheduler()
    await asyncio.gather(*(facade.submit_task("a") for facade in (scheduler, other) for _ in range(20)))
    assert opened.opened == 1
    assert len(await scheduler.list_tasks(limit=100)) == 40
    await scheduler.close()
    assert opened.closed == 0
    await other.close()
    assert opened.closed == 1


async def test_a_cancel_while_opening(opened: Opened) -> None:
    """A caller cancelled while the app opens leaves no reference; other waiting callers still get the app."""
    opened.takes_s = 0.1
    before = asyncio.all_tasks()
    alone = asyncio.ensure_future(TaskScheduler().initialize())
    await asyncio.sleep(0.02)
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert (opened.opened, opened.closed) == (1, 1)
    assert asyncio.all_tasks() == before

    waiting = TaskScheduler()
    first = asyncio.ensure_future(TaskScheduler().initialize())
    second = asyncio.ensure_future(waiting.initialize())
    await asyncio.sleep(0.02)
    first.cancel()
    await second
    assert (opened.opened, opened.closed) == (2, 1)
    await waiting.close()
    assert opened.closed == 2


async def test_a_cancel_while_closing(opened: Opened) -> None:
    """Closing continues when the caller that closes is cancelled."""
    scheduler = TaskScheduler()
    await scheduler.initialize()
    opened.may_close.clear()
    closing = asyncio.ensure_future(scheduler.close())
    await asyncio.sleep(0.02)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert opened.closed == 0
    opened.may_close.set()
    async with asyncio.timeout(5):
        while opened.closed == 0:  # noqa: ASYNC110  # it closes by itself
            await asyncio.sleep(0.005)


async def test_what_cannot_be_opened(opened: Opened) -> None:
    """A failure to open is raised to every waiting caller, and the next call tries again."""
    opened.failure = Refused("there is no usable nats-server")
    scheduler, other = TaskScheduler(), TaskScheduler()
    told = await asyncio.gather(scheduler.initialize(), other.submit_task("a"), return_exceptions=True)
    assert [str(one) for one in told] == ["there is no usable nats-server"] * 2
    assert opened.opened == 1
    opened.failure = None
    await scheduler.submit_task("a")
    await scheduler.close()
    assert opened.closed == 2


async def test_opening_has_a_time_limit(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that does not open in time is cancelled and leaves nothing behind."""
    monkeypatch.setattr(app_module, "OPEN_TIMEOUT_S", 0.05)
    opened.takes_s = 60
    with pytest.raises(Unavailable, match=r"did not open within 0\.05 s"):
        await TaskScheduler().initialize()
    assert opened.closed == 1


async def test_an_app_that_fails(opened: Opened) -> None:
    """
    When the coordinator in this process fails, facades raise an error instead of starting an empty one.

    Once all facades are closed, a new coordinator can be opened.
    """
    scheduler = TaskScheduler()
    await scheduler.submit_task("a")
    opened.breaks.set()
    async with asyncio.timeout(5):
        while opened.closed == 0:  # noqa: ASYNC110  # it breaks by itself
            await asyncio.sleep(0.005)
    for facade in (scheduler, scheduler, TaskScheduler()):
        with pytest.raises(Unavailable, match="on fire"):
            await facade.list_tasks()
    assert opened.opened == 1
    opened.breaks.clear()
    await scheduler.close()
    assert await scheduler.list_tasks() == []
    await scheduler.close()


def test_one_loop_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Facades outlive an event loop that ended without closing them, and each loop has its own app."""
    scheduler = TaskScheduler()
    counts: list[Opened] = []

    async def program() -> None:
        counts.append(Opened())
        monkeypatch.setattr(app_module, "_open", counts[-1].open)
        await scheduler.submit_task("a")
        assert len(await scheduler.list_tasks()) == 1

    for _ in range(3):
        asyncio.run(program())  # ends with the facade open: whatever still runs is cancelled
    assert [(one.opened, one.closed) for one in counts] == [(1, 1)] * 3


async def test_a_given_app_is_left_open(app: App) -> None:
    """A facade closes only what it opened."""
    async with TaskScheduler(app) as scheduler:
        await scheduler.submit_task("a")
    assert len(await scheduler.list_tasks()) == 1
    app.close()
    with pytest.raises(Unavailable, match="closed"):
        await scheduler.list_tasks()


async def test_work_beside_the_app() -> None:
    """Background work ends with the app; its errors are logged and stop nothing else; a closed app refuses new work."""
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("forever")

    async def fails() -> None:
        raise RuntimeError("a defect")

    with structlog.testing.capture_logs() as logs:
        async with opened_here() as (app, _):
            app.start(forever())
            failed = app.start(fails())
            await asyncio.wait([failed])
            assert await TaskScheduler(app).list_tasks() == []
    assert ended == ["forever"]
    assert [one["event"] for one in logs if one["log_level"] == "error"] == ["background_work_failed"]
    with pytest.raises(Unavailable):
        app.start(forever())


async def test_letting_go_of_what_is_not_held(opened: Opened) -> None:
    """Releasing an app that is already closed changes nothing."""
    old = await acquire_app()
    await release_app(old)
    current = await acquire_app()
    await release_app(old)
    assert (opened.opened, opened.closed) == (2, 1)
    await release_app(current)
    assert opened.closed == 2


def test_where_the_coordinator_is(coordinator_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over the settings, they win over a coordinator that runs here; otherwise it is embedded."""
    home = Home(coordinator_home)
    settings = Settings()
    assert where(settings) == ("", "embedded")
    home.write_running("nats://token@127.0.0.1:1")
    assert where(settings) == ("", "embedded")  # left behind by one that was killed
    with home.lock("up"):
        assert where(settings) == ("nats://token@127.0.0.1:1", "coordinator up")
        named = Settings(nats=NatsSettings(url="nats://127.0.0.1:2"))
        assert where(named) == ("nats://127.0.0.1:2", "nats.url")
        monkeypatch.setenv("COORDINATOR_URL", "nats://127.0.0.1:3")
        assert where(named) == ("nats://127.0.0.1:3", "COORDINATOR_URL")


async def test_a_starting_coordinator_is_waited_for(coordinator_home: Path) -> None:
    """While `up` holds the home and is not ready, a program waits; then it finds it, or is embedded if it has ended."""
    home, settings = Home(coordinator_home), Settings()
    assert await located(settings) == ("", "embedded")
    for is_ready in (True, False):
        with home.lock("up"):
            waiting = asyncio.ensure_future(located(settings))
            await asyncio.sleep(0.15)
            assert not waiting.done()
            if is_ready:
                home.write_running("nats://token@127.0.0.1:1")
                assert await waiting == ("nats://token@127.0.0.1:1", "coordinator up")
                home.remove_running()
        if not is_ready:
            assert await waiting == ("", "embedded")


async def test_a_coordinator_that_does_not_get_ready_is_unavailable(coordinator_home: Path) -> None:
    """After `client.call_timeout_s` a program gives up and names the process; it starts no coordinator of its own."""
    settings = Settings(client=ClientSettings(call_timeout_s=1.2, attempt_timeout_s=1.0))
    with Home(coordinator_home).lock("up"), capture_logs() as logs:
        for find in (located, find_url, find_lasting):
            with pytest.raises(Unavailable, match=f"held by process {os.getpid()}") as caught:
                await find(settings)
            assert caught.value.reason == "starting"
    assert [one["event"] for one in logs] == ["coordinator_awaited"] * 3


async def test_what_was_found_here_is_looked_for_again(coordinator_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL of an `up` is a function that returns the current one, '' when none runs; another URL stays as it is."""
    home, settings = Home(coordinator_home), Settings()
    with pytest.raises(Unavailable, match="no coordinator runs here"):
        await find_lasting(settings)
    with home.lock("up"):
        home.write_running("nats://token@127.0.0.1:1")
        look = await find_lasting(settings)
        assert callable(look)
        home.write_running("nats://token@127.0.0.1:2")
        assert look() == "nats://token@127.0.0.1:2"
    assert look() == ""
    monkeypatch.setenv("COORDINATOR_URL", "nats://127.0.0.1:3")
    assert await find_lasting(settings) == "nats://127.0.0.1:3"


def test_the_sender_names_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is an identifier, whatever the system calls the user; a user without a name has a number."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert sender("cli") == f"cli-{user}"
    entry = pwd.getpwuid(os.geteuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda _: pwd.struct_passwd(("jané.d o" + "e" * 80, *entry[1:])))
    assert checked(sender("local")) == ("local-jan__d_o" + "e" * 80)[:64]

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert sender("cli") == f"cli-{os.geteuid()}"


def test_a_programs_output_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Logs go to standard error unless the program has configured structlog, which is then left unchanged."""
    app_module._log_to_stderr("info")
    structlog.get_logger("x").info("said")
    structlog.get_logger("x").debug("not said")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "said" in captured.err
    assert "not said" not in captured.err
    mine = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(mine))
    app_module._log_to_stderr("info")
    structlog.get_logger("x").info("mine")
    assert "mine" in mine.getvalue()
    assert sys.stderr is not mine


def test_leases_that_are_held() -> None:
    """One lease is held per task, and dropped only by its own name; beyond the limit the oldest is dropped."""
    held = Held()
    held.take("a", "w1", "1")
    held.take("b", "w2", "2")
    held.take("a", "w3", "3")
    assert held.by_worker() == {"w2": ["2"], "w3": ["3"]}
    held.drop("a", "1")
    assert held.lease("a") == "3"
    held.drop("a", "3")
    assert held.lease("a") == ""
    for number in range(HELD_MAX):
        held.take(f"t{number}", "w", str(number))
    assert held.lease("b") == ""
    assert sum(map(len, held.by_worker().values())) == HELD_MAX
