"""
Fixtures for facades over an engine in memory, with a clock that the test moves: no network and no other process.

Containers also need a node that runs them; see `embedded_app`.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import pytest
import structlog

from coordinator.app.app import App, embedded
from coordinator.app.in_process import InProcess
from coordinator.settings.model import Settings
from coordinator.task_groups import task_group
from tests.unit.engine.engine_rig import leading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from coordinator.client.client import Client
    from coordinator.deciders.rules import Rules
    from tests.unit.engine.engine_rig import Rig

Opened = TypeVar("Opened")


class Here(NamedTuple):
    """An app for facades, and the engine behind it."""

    app: App
    rig: Rig


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Undo the logging configuration that opening an app makes when the program has made none."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def here(request: pytest.FixtureRequest) -> AsyncIterator[Here]:
    """An app over a new engine; `parametrize("here", [Rules(…)], indirect=True)` sets its rules."""
    async with in_one_task(opened_here(getattr(request, "param", None))) as opened:
        yield opened


@pytest.fixture
async def app(here: Here) -> App:
    """The app of `here`."""
    return here.app


@pytest.fixture
async def embedded_app(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[App]:
    """A whole embedded coordinator with the fake runtime; indirect parameters are its settings."""
    settings = Settings(**{"node": {"runtime": "fake", "sync_interval_s": 0.05}} | getattr(request, "param", {}))
    async with in_one_task(embedded(tmp_path, settings)) as opened:
        yield opened


@asynccontextmanager
async def opened_here(rules: Rules | None = None, **settings: Any) -> AsyncIterator[Here]:
    """Open an app over an engine in memory."""
    async with leading(rules=rules) as rig, task_group() as tasks:
        opened = App(InProcess(rig), cast("Client", None), Settings(**settings), tasks, where="in memory")
        opened.start(opened.keep_leases())
        try:
            yield Here(opened, rig)
        finally:
            opened.close()


@asynccontextmanager
async def in_one_task(context: AbstractAsyncContextManager[Opened]) -> AsyncIterator[Opened]:
    """Enter and leave *context* in the same task: task groups require it, and pytest's fixtures do not do it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Opened] = loop.create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with context as entered:
            ready.set_result(entered)
            await over.wait()

    living: asyncio.Future[None] = loop.create_task(live())
    await asyncio.wait((living, ready), return_when=asyncio.FIRST_COMPLETED)
    try:
        if living.done():
            living.result()
        yield ready.result()
    finally:
        over.set()
        await living
