"""
`coordinator up` on a machine where anything may be killed at any moment.

A process that dies is restarted and answers; acknowledged data is still there; and however `up` itself ends, none of
its processes is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, ListContainers, StartContainer
from coordinator.commands.reads import Wait
from coordinator.commands.service import FindServices
from coordinator.commands.task import ListTasks, SubmitTask
from coordinator.home import Home
from coordinator.journal.stream import NatsJournal
from events.container import ContainerStatus
from events.errors import Refused
from tests.commands import Up, call, running, up
from tests.conftest import living_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.commands.command import Command

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0
GONE_WITHIN_S = 20.0


def ask(url: str, *commands: Command) -> list[Any]:
    """Send commands and questions one after the other."""

    async def all_of_them(client: Client) -> list[Any]:
        return [await client.execute(command, timeout_s=PATIENCE_S) for command in commands]

    answers: list[Any] = talk(url, all_of_them)
    return answers


def talk(url: str, body: Callable[[Client], Awaitable[Any]]) -> Any:
    """Run a function with a client."""

    async def run() -> Any:
        async with (
            Client.open(url, source="other", connect_timeout_s=PATIENCE_S) as client,
            asyncio.timeout(PATIENCE_S * 2),
        ):
            return await body(client)

    return asyncio.run(run())


def pids(started: Up) -> dict[str, int]:
    """Return the process ids of the programs, by what they run."""
    found = {}
    for process in living_in(started.home):
        words = process.command.split()
        for name, word in (("coordinator", "serve"), ("follower", "follow"), ("node", "node")):
            if word in words and "coordinator.cli" in words:
                found[name] = process.pid
        if words[0].endswith("nats-server"):
            found["nats-server"] = process.pid
    return found


def agents(url: str = "") -> list[int]:
    """Return the processes in containers that talk to *url*; a container has an environment of its own."""
    wanted = f"COORDINATOR_URL={url}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            if b"COORDINATOR_AGENT_TYPE=task_agent" in variables and (not url or wanted in variables):
                found.append(int(entry.name))
    return found


def until_gone(home: Path, url: str, timeout_s: float = GONE_WITHIN_S) -> float:
    """Wait until no process of *home* is alive, nor any container that talks to *url*; return how long that took."""
    began = time.monotonic()
    while left := [*living_in(home), *agents(url)]:
        assert time.monotonic() - began < timeout_s, left
        time.sleep(0.02)
    return time.monotonic() - began


async def read_model_follows(client: Client) -> None:
    """Wait until the read model has reached the current end of the journal."""
    stats = await client.execute(GetStats(), timeout_s=PATIENCE_S)
    # A follower that was just killed may have received the question: it must be asked again in time.
    await ask_follower(client, Wait(position=stats.position, timeout_s=2.0), timeout_s=PATIENCE_S)


async def node_answers(client: Client) -> None:
    """Wait until a container can be started."""
    container_id = f"probe_{time.monotonic_ns()}"
    await client.execute(CreateContainer(container_id=container_id, agent_id="a", agent_type="task_agent"))
    await client.execute(StartContainer(container_id=container_id))
    question = GetContainer(container_id=container_id, unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
    found = await client.execute(question)
    assert found.status is ContainerStatus.RUNNING, found


def test_each_program_that_is_killed_is_started_again(tmp_path: Path) -> None:
    """`kill -9` of coordinator, follower, node agent and nats-server: each comes back, and everything works again."""
    with up(tmp_path / "home") as started:
        url = started.url
        before = pids(started)
        assert set(before) == {"coordinator", "follower", "node", "nats-server"}
        for number, (name, pid) in enumerate(before.items()):
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            ask(url, SubmitTask(task_id=f"after_{name}", task_name="n"))
            talk(url, read_model_follows)
            if name in ("node", "nats-server"):
                talk(url, node_answers)
            print(f"{name} killed: all works again after {time.monotonic() - began:.2f} s")
            assert len(ask(url, ListTasks())[0]) == number + 1
            assert pids(started)[name] != pid
        assert started.url == url
        assert started.stop(signal.SIGINT) == 0
        until_gone(started.home, url)


def test_whatever_end_it_finds_the_next_one_goes_on(tmp_path: Path) -> None:
    """
    After `kill -9` of `up` the next one may start at once, finds the tasks and runs the containers again.

    SIGTERM ends it with 0: the containers are stopped, the last commit records it, no process is left and none is
    listed as running. After a kill without a restart no process is left after 5 s, containers included.
    """
    home = tmp_path / "home"
    with up(home) as first:
        ask(first.url, SubmitTask(task_id="kept", task_name="n", priority=3))
        start_container(first.url, "box")
        nodes = ask(first.url, GetStats())[0].nodes
        first.process.kill()
        assert first.ended() == -signal.SIGKILL
        assert Home(home).read_running() is None
        began = time.monotonic()
    with up(home) as second:
        print(f"up again {time.monotonic() - began:.2f} s after kill -9")
        goes_on(second, nodes)
        url, began = second.url, time.monotonic()
        assert second.stop() == 0
        print(f"stopped after {time.monotonic() - began:.2f} s")
        until_gone(home, url, 0.5)
    assert "Traceback" not in second.written
    assert Home(home).read_running() is None
    assert call("task", "list").code == 8
    with up(home) as third:
        goes_on(third, nodes)
        types = talk(third.url, recorded)
        assert types.count("coordinator.started") == 3
        assert types.count("coordinator.stopped") in (1, 2), "the killed one may have found the time"
        url = third.url
        third.process.kill()
        third.ended()
        print(f"gone {until_gone(home, url):.2f} s after kill -9")


def goes_on(started: Up, nodes: dict[str, int]) -> None:
    """Check that it has the earlier task, node and container, and runs the container."""
    (kept,) = ask(started.url, ListTasks())[0]
    assert (kept.task_id, kept.priority) == ("kept", 3)
    assert ask(started.url, GetStats())[0].nodes == nodes
    runs_again(started, "box")


def start_container(url: str, container_id: str) -> None:
    ask(
        url,
        CreateContainer(container_id=container_id, agent_id="a", agent_type="task_agent"),
        StartContainer(container_id=container_id),
        GetContainer(container_id=container_id, unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S),
    )


def runs_again(started: Up, container_id: str) -> None:
    """Wait until a container runs again and its agent is registered, as exactly one process."""

    async def until(client: Client) -> None:
        while True:
            container = await client.execute(GetContainer(container_id=container_id))
            offered = {view.service.container_id for view in await client.execute(FindServices())}
            is_running = container.status is ContainerStatus.RUNNING and container.pid in agents(started.url)
            if is_running and container_id in offered:
                return
            await asyncio.sleep(0.05)

    began = time.monotonic()
    talk(started.url, until)
    print(f"{container_id} runs again {time.monotonic() - began:.2f} s after up")
    listed = ask(started.url, ListContainers())[0]
    assert [one.container_id for one in listed] == [container_id]


async def recorded(client: Client) -> list[str]:
    """Return the types of all events, in order."""
    from events import codec

    journal = NatsJournal(client.bus, client.subjects)
    bounds = await journal.bounds()
    return [
        envelope.type
        async for batch in journal.read(0, bounds.last)
        for record in batch
        if record.kind == "commit"
        for envelope in codec.decode(record.body)
    ]


def test_a_signal_while_it_starts_ends_it(tmp_path: Path) -> None:
    """Ctrl-C works before everything is up."""
    home = tmp_path / "home"
    for pause_s in (0.6, 1.2):
        with running("up", "--port", "0", written=tmp_path / "up.out", COORDINATOR_HOME=str(home)) as starting:
            time.sleep(pause_s)
            starting.process.send_signal(signal.SIGINT)
            assert starting.ended(GONE_WITHIN_S) in (0, -signal.SIGINT, 130)
            until_gone(home, "nowhere")
    assert Home(home).read_running() is None


def test_a_home_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    """When a file is in its way `up` refuses to start, and names it."""
    (tmp_path / "file").touch()
    os.environ["COORDINATOR_HOME"] = str(tmp_path / "file")
    ended = call("up")
    assert ended.code == 5
    assert "cannot be created" in ended.err
    with pytest.raises(Refused):
        Home(tmp_path / "file")
