"""How processes connect: the times of the settings are those that each connection has."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from coordinator.app.app import acquire_app, embedded, release_app
from coordinator.app.subscribe import subscribe
from coordinator.cli.connection import connected
from coordinator.client.client import ATTEMPT_TIMEOUT_S, CALL_TIMEOUT_S, Client
from coordinator.commands.task import SubmitTask
from coordinator.processes.coordinator import instance_of, serve
from coordinator.processes.credentials import patience
from coordinator.processes.follower import follow
from coordinator.processes.node import serve_node
from coordinator.settings.load import load
from coordinator.settings.model import Settings
from coordinator.settings.sections import ClientSettings, NodeSettings
from events.errors import Unavailable
from tests.real_server import real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from tests.real_server import RealServer

NOBODY = "nats://127.0.0.1:1"
WAIT_S = 0.3


async def _subscribed(_: Settings) -> None:
    async with subscribe("task.*", url=NOBODY):
        pass


async def _asked(settings: Settings) -> None:
    async with connected(settings, NOBODY):
        pass


PROGRAMS: list[Callable[[Settings], Coroutine[Any, Any, Any]]] = [
    _asked,
    _subscribed,
    lambda _: acquire_app(),
    lambda settings: serve(settings, NOBODY, without_follower=True),
    lambda settings: follow(settings, NOBODY),
    lambda settings: serve_node(settings, NOBODY),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=["cli", "subscribe", "facades", "serve", "follow", "node"])
async def test_each_program_waits_for_a_server_as_long_as_the_settings_say(
    program: Callable[[Settings], Coroutine[Any, Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nats.connect_timeout_s` holds for every program, not only for the command line."""
    for name, value in (("HOME", tmp_path), ("URL", NOBODY), ("NATS__CONNECT_TIMEOUT_S", WAIT_S)):
        monkeypatch.setenv(f"COORDINATOR_{name}", str(value))
    began = time.monotonic()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(30):
            await program(load())
    assert WAIT_S <= time.monotonic() - began < 4.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RealServer]:
    async with real_server(tmp_path) as one:
        yield one


async def test_clients_have_the_times_of_the_settings(server: RealServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The facades, the command line, and what any other process opens."""
    for name, value in (("CALL_TIMEOUT_S", "7"), ("ATTEMPT_TIMEOUT_S", "0.7")):
        monkeypatch.setenv(f"COORDINATOR_CLIENT__{name}", value)
    monkeypatch.setenv("COORDINATOR_URL", server.url)
    settings = load()
    async with connected(settings, server.url) as client:
        assert (client.call_timeout_s, client.attempt_timeout_s) == (7, 0.7)
    async with Client.open(server.url, **patience(settings)) as client:
        assert (client.call_timeout_s, client.attempt_timeout_s) == (7, 0.7)
    app = await acquire_app()
    try:
        assert (app.client.call_timeout_s, app.client.attempt_timeout_s) == (7, 0.7)
    finally:
        await release_app(app)


def test_the_defaults_are_those_of_the_client() -> None:
    """Without settings a client has the same times."""
    assert patience(Settings()) == {
        "connect_timeout_s": instance_of(Settings(), url="", name="x").connect_timeout_s,
        "call_timeout_s": CALL_TIMEOUT_S,
        "attempt_timeout_s": ATTEMPT_TIMEOUT_S,
    }


async def test_an_embedded_coordinator_is_waited_for_as_long_as_the_settings_say(tmp_path: Path) -> None:
    """`client.call_timeout_s` holds without a network, too."""
    client = ClientSettings(call_timeout_s=WAIT_S, attempt_timeout_s=WAIT_S)
    async with embedded(tmp_path, Settings(client=client, node=NodeSettings(runtime="fake"))) as app:
        (ports,) = (tmp_path / "nats").glob("*.ports")
        server = int(ports.stem.rpartition("_")[2])
        os.kill(server, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Unavailable, match=r"was not answered within 0\.3 s"):
                await app.execute(SubmitTask(task_id="t", task_name="n"))
            assert WAIT_S <= time.monotonic() - began < 4.0
        finally:
            os.kill(server, signal.SIGCONT)
