"""
`coordinator up` that is started again, or started while programs already look for it.

Workers and programs find it again, with the same token and, if it is free, on the same port. A program that comes while
it starts waits for it. Whatever runs in its containers when it is stopped is stopped too.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.client import Client
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.home import Home
from coordinator.journal.stream import NatsJournal
from coordinator.scheduler import TaskScheduler
from events.container import ContainerFailed, ContainerStatus
from events.nats_address import DEFAULT_PORT
from events.task import TaskStatus
from tests.commands import Running, Up, call, run, running, up
from tests.conftest import living_in
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projections.container import Container

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
HANDLERS = """
from coordinator.worker import task

@task("double")
async def double(payload):
    return payload * 2
"""


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Listen on a port, unless another program does already."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            pass
        yield


async def doubled(app_task: str) -> Any:
    """Submit a task through the facades of this process and return its result."""
    async with TaskScheduler() as scheduler:
        task_id = await scheduler.submit_task("double", payload=21, task_id=app_task)
        task = await scheduler.wait_for_task(task_id, wait_s=PATIENCE_S)
        return task.result


# --- the same place ---------------------------------------------------------------------------------------------------


def test_a_restart_keeps_port_and_token(tmp_path: Path) -> None:
    """The URL stays the same, so that what holds it reconnects; the token is in a file that only its owner may read."""
    home, port = tmp_path / "home", free_ports(1)[0]
    urls = []
    for _ in range(2):
        with up(home, port=port) as started:
            urls.append(started.url)
            assert started.stop() == 0
    assert urls[0] == urls[1]
    assert port_of(urls[0]) == port
    assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
    assert (home / "token").read_text() == urls[0].removeprefix("nats://").partition("@")[0]


def test_the_next_port_is_taken_when_the_default_one_is_not_free(tmp_path: Path) -> None:
    """It says so; a port that was asked for is not replaced by another."""
    with listening(DEFAULT_PORT):
        with up(tmp_path / "home", port=None) as started:
            assert DEFAULT_PORT < port_of(started.url) <= DEFAULT_PORT + 100
            assert f"port {DEFAULT_PORT} is in use by another program" in started.written
        port = free_ports(1)[0]
        with listening(port):
            refused = run("up", "--port", str(port), COORDINATOR_HOME=str(tmp_path / "home"))
    assert refused.code == 8
    assert f"port {port} is in use by another program" in refused.err


def test_worker_and_program_find_it_at_another_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart with another port they look again where they first looked, and go on."""
    home = tmp_path / "home"
    monkeypatch.setenv("COORDINATOR_HOME", str(home))
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with up(home) as first:
        url = first.url
        with running("worker", "run", str(tmp_path / "handlers.py"), written=tmp_path / "worker.out") as worker:
            asyncio.run(_through_a_restart(home, first, url))
            assert worker.stop() == 0
    assert "nats_server_moved" in worker.written


async def _through_a_restart(home: Path, first: Up, url: str) -> None:
    async with TaskScheduler() as scheduler:
        assert await doubled("before") == 42
        assert await asyncio.to_thread(first.stop) == 0
        with listening(port_of(url)):
            again = await asyncio.to_thread(_started, home)
            try:
                assert Home(home).read_running().url != url  # type: ignore[union-attr]
                assert (await scheduler.get_task("before")).status is TaskStatus.COMPLETED
                assert await doubled("after") == 42
            finally:
                await asyncio.to_thread(again.__exit__, None, None, None)


def _started(home: Path) -> Any:
    manager = up(home)
    manager.__enter__()
    return manager


def test_the_variables_for_a_shell_connect_it(tmp_path: Path) -> None:
    """
    `eval "$(coordinator env)"` sets what a program elsewhere needs; without a coordinator it prints nothing.

    Where all share one token, the journal has the name of the operating system's user as the actor.
    """
    home = tmp_path / "home"
    nothing = run("env", COORDINATOR_HOME=str(home))
    assert (nothing.code, nothing.out) == (8, "")
    with up(home) as started:
        printed = run("env", COORDINATOR_HOME=str(home))
        assert printed.out == f"export COORDINATOR_URL={started.url}\n"
        line = f"{printed.out}{sys.executable} -m coordinator.cli task submit elsewhere"
        elsewhere = {**os.environ, "COORDINATOR_HOME": str(tmp_path / "other")}
        submitted = subprocess.run(
            ["/bin/sh", "-c", line], env=elsewhere, capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        task_id = submitted.stdout.strip()
        assert run("task", "get", task_id, COORDINATOR_HOME=str(home)).code == 0
        told = run("events", "tail", "--no-follow", "--kind", "task.submitted", COORDINATOR_HOME=str(home))
        assert f"actor=cli-{pwd.getpwuid(os.geteuid()).pw_name}" in told.out


# --- while it starts --------------------------------------------------------------------------------------------------


def test_a_program_that_comes_while_it_starts_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is in the journal of that coordinator, not in one of its own that is removed at its end."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("COORDINATOR_HOME", str(home))
    with running("up", "--port", "0", written=tmp_path / "up.out") as started:
        started.until(lambda: Home(home).is_locked("up"))
        assert Home(home).read_running() is None
        assert asyncio.run(_submitted()) == "coordinator up"
        assert call("task", "get", "early").code == 0
        assert started.stop() == 0


async def _submitted() -> str:
    async with TaskScheduler() as scheduler:
        await scheduler.submit_task("x", task_id="early")
        return (await scheduler.opened()).where


# --- the end ----------------------------------------------------------------------------------------------------------


def containers_of(home: Path) -> list[int]:
    """Return the processes of the containers in *home*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str((entry / "cwd").readlink()).startswith(str(home / "containers")):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def run_container(started: Running, url: str, agent_type: str) -> None:
    """Start a container and wait until it runs."""

    async def start() -> None:
        async with Client.open(url) as client:
            await client.execute(CreateContainer(container_id="box", agent_id="a", agent_type=agent_type))
            await client.execute(StartContainer(container_id="box"))
            question = GetContainer(container_id="box", unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
            assert (await client.execute(question)).status is ContainerStatus.RUNNING

    asyncio.run(start())


def test_it_stops_the_containers_of_a_killed_node_agent(tmp_path: Path) -> None:
    """With no node agent left, `up` itself stops what runs in its home before it ends with 0."""
    home = tmp_path / "home"
    with up(home) as started:
        run_container(started, started.url, "task_agent")
        (node,) = [one.pid for one in living_in(home) if "coordinator.cli node run" in one.command]
        # The next node agent refuses to start, so there is none when `up` is told to stop.
        (home / "node.instance").write_text("not a name\n")
        os.kill(node, signal.SIGKILL)
        started.until_written('"program":"node","code":5')
        assert containers_of(home)
        assert started.stop() == 0
        assert containers_of(home) == []


async def told_of(url: str, container_id: str) -> tuple[Container, list[str]]:
    """Wait until a container runs again; return it, and the causes of its ends so far."""
    from events import codec

    async with Client.open(url) as client, asyncio.timeout(PATIENCE_S):
        while True:
            container: Container = await client.execute(GetContainer(container_id=container_id))
            if container.status is ContainerStatus.RUNNING and container.starts > 1:
                break
            await asyncio.sleep(0.02)
        journal = NatsJournal(client.bus, client.subjects)
        bounds = await journal.bounds()
        events = [
            envelope.data
            async for batch in journal.read(0, bounds.last)
            for record in batch
            if record.kind == "commit"
            for envelope in codec.decode(record.body)
        ]
        return container, [event.cause for event in events if isinstance(event, ContainerFailed)]


def test_a_container_runs_again_soon_after_a_restart(tmp_path: Path) -> None:
    """It ended in order, with its record, so it starts again at once, and nothing is counted against it."""
    home = tmp_path / "home"
    with up(home) as started:
        run_container(started, started.url, "task_agent")
        assert started.stop() == 0
    with up(home) as again:
        began = time.monotonic()
        container, failed = asyncio.run(told_of(again.url, "box"))
        assert time.monotonic() - began < 5
        assert (container.starts, container.restarts, container.failures) == (2, 0, 0)
        assert failed == ["requested"]


STUBBORN = """
trap 'sleep 15.5; echo finished >"$0"; exit 0' TERM
echo ready >"$0"
while :; do sleep 0.1; done
"""


def test_a_long_grace_is_kept(tmp_path: Path) -> None:
    """A container that needs longer to stop than other programs may take is given its own grace, then `up` ends."""
    home, done = tmp_path / "home", tmp_path / "finished"
    settings = {"agents": {"slow": {"command": ["/bin/sh", "-c", STUBBORN, str(done)], "stop_grace_s": 18.0}}}
    (tmp_path / "coordinator.yaml").write_text(json.dumps(settings))
    with up(home, COORDINATOR_CONFIG=str(tmp_path / "coordinator.yaml")) as started:
        run_container(started, started.url, "slow")
        started.until(done.exists)
        began = time.monotonic()
        assert started.stop(timeout_s=40.0) == 0
        assert time.monotonic() - began > 15
        assert containers_of(home) == []
    assert done.read_text() == "finished\n"


def test_a_node_agent_that_is_refused_ends_it(tmp_path: Path) -> None:
    """A node agent that cannot start is not restarted for ever: `up` ends, and refers to the reason."""
    home = Home(tmp_path / "home")
    (home.path / "node.instance").write_text("not a name\n")
    ended = run("up", "--port", "0", timeout_s=PATIENCE_S, COORDINATOR_HOME=str(home.path))
    assert ended.code == 5, ended
    assert "not a name" in ended.err
    assert "the node agent was refused 3 times in a row" in ended.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"COORDINATOR_NODE__DOCKER__NETWORK": "a b"}, "node.docker.network is 'a b'"),
        ({"COORDINATOR_NATS__AUTH": "{empty}"}, "coordinator auth"),
    ],
)
def test_settings_that_a_program_would_refuse_are_refused_at_once(
    tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    """It starts nothing that would be refused and restarted for ever, and states the reason."""
    (tmp_path / "empty").mkdir()
    given = {name: value.format(empty=tmp_path / "empty") for name, value in settings.items()}
    ended = run("up", "--port", "0", timeout_s=PATIENCE_S, COORDINATOR_HOME=str(tmp_path / "home"), **given)
    assert ended.code == 5, ended
    assert said in ended.err
    assert "program_ended" not in ended.err
