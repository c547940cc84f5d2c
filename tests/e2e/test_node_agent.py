"""The node agent on a real cluster, with containers in memory: what it ends and why, and what runs again afterwards."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.client.client import Client
from coordinator.client.nodes import ask_node
from coordinator.clock import SystemClock
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer, StopContainer
from coordinator.commands.node import DEAD_AFTER, NodeQuestion
from coordinator.deciders.rules import Rules
from coordinator.deciders.silence import NODE_LOST_AFTER
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.fake import DEAF, FakeRuntime, OnStop
from coordinator.runtime.protocol import RuntimeState
from events.agents import AgentType
from events.container import ContainerStatus, ExitCause
from events.errors import Refused
from tests.commands import running, up
from tests.nodes import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from coordinator.commands.command import Command
    from coordinator.runtime.protocol import Observed
    from projections.container import Container
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

LEASE_S = 2.0
PATIENCE_S = 15.0
RULES = Rules(
    node_lease_s=LEASE_S,
    agents={
        "task_agent": AgentType(command=("agent",), stop_grace_s=60.0),
        "kept": AgentType(command=("agent",), when_cut_off="keep"),
    },
    # So long that whatever waits for it fails its test.
    restart_backoff_s=60.0,
)
GENTLE, SLOW = OnStop(code=0), OnStop(code=0, after_s=0.2)

on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


class Clock(SystemClock):
    """The machine's clock, which jumps ahead when the machine has slept."""

    slept_s = 0.0

    def heard(self) -> float:
        return super().heard() + self.slept_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def machine(clock: Clock) -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(cluster="coordination", now=clock.wall, heard=clock.heard) as runtime:
        runtime.stops = {"gentle": GENTLE, "kept": GENTLE, "slow": SLOW, "deaf": DEAF}
        yield runtime


def node(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> AbstractAsyncContextManager[NodeAgent]:
    return serving(cluster.client, machine, clock=clock)


async def started(cluster: Cluster, container_id: str, agent_type: str = "task_agent") -> Container:
    await cluster.client.execute(
        CreateContainer(container_id=container_id, agent_id="a", agent_type=agent_type), timeout_s=PATIENCE_S
    )
    await cluster.client.execute(StartContainer(container_id=container_id))
    return await until(cluster, container_id, is_running)


def is_running(container: Container) -> bool:
    return container.status is ContainerStatus.RUNNING


async def until(cluster: Cluster, container_id: str, is_so: Callable[[Container], bool]) -> Container:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: Container = await cluster.client.execute(GetContainer(container_id=container_id))
            if is_so(found):
                return found
            await asyncio.sleep(0.05)


async def until_seen(machine: FakeRuntime, state: RuntimeState) -> Observed:
    async with asyncio.timeout(PATIENCE_S):
        while (seen := (await machine.list())[0]).state is not state:  # noqa: ASYNC110  # it may never exit
            await asyncio.sleep(0.02)
    return seen


async def runs_again(cluster: Cluster, before: Container) -> Container:
    """Wait until the next generation runs; nothing of its end may have been counted against it."""

    def is_next(container: Container) -> bool:
        return is_running(container) and container.generation != before.generation

    after = await until(cluster, before.container_id, is_next)
    assert (after.failures, after.restarts) == (0, 0)
    return after


@on_cluster
async def test_what_ended_in_order_with_its_node_starts_at_once(
    cluster: Cluster, machine: FakeRuntime, clock: Clock
) -> None:
    """An orderly restart of a node is no failure of its containers."""
    async with node(cluster, machine, clock) as agent:
        before = await started(cluster, "gentle")
        await agent.stop_all()
        (ended,) = await machine.list()
        assert (ended.state, ended.exit_code, ended.cause) == (RuntimeState.EXITED, 0, "requested")
    async with node(cluster, machine, clock):
        await runs_again(cluster, before)
    assert [launch.command for launch in machine.launches] == [("agent",), ("agent",)]


@on_cluster
async def test_the_previous_log_is_that_before_a_start_that_failed(
    cluster: Cluster, machine: FakeRuntime, clock: Clock
) -> None:
    """Such a start leaves nothing on the node: what is there last is of the generation before."""
    async with node(cluster, machine, clock):
        before = await started(cluster, "gentle")
        machine.print("gentle", before.generation, "last words")
        machine.fail_next_start(Refused("no image", reason="no_image"))
        machine.exit("gentle", before.generation, 3)
        await until(cluster, "gentle", lambda one: one.exit_code is not None)
        await cluster.client.execute(StartContainer(container_id="gentle"))
        failed = await until(cluster, "gentle", lambda one: one.reason == "no image")
        question = NodeQuestion(container_id="gentle", generation=failed.generation, previous=True)
        assert await ask_node(cluster.client, failed.node_id, "logs", question) == ["last words"]
        assert failed.last_exit is not None
        assert (failed.last_exit.generation, failed.last_exit.exit_code) == (before.generation, 3)


@on_cluster
async def test_a_grace_longer_than_the_lease_is_kept(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> None:
    """A node that ends in order renews its lease until its containers have ended; none is started again meanwhile."""
    machine.stops["patient"] = OnStop(code=0, after_s=LEASE_S * NODE_LOST_AFTER * 1.5)
    async with node(cluster, machine, clock) as agent:
        patient, gentle = await started(cluster, "patient"), await started(cluster, "gentle")
        await agent.stop_all()
        assert [(one.exit_code, one.cause) for one in await machine.list()] == [(0, "requested"), (0, "requested")]
        for before in (patient, gentle):
            assert await until(cluster, before.container_id, is_running) == before
    async with node(cluster, machine, clock):
        await runs_again(cluster, patient)
        await runs_again(cluster, gentle)


@on_cluster
async def test_what_is_gone_without_a_trace_is_not_started_by_the_node(
    cluster: Cluster, machine: FakeRuntime, clock: Clock
) -> None:
    """Its orders have no command for it then; it reports what is missing, and gets a new generation."""
    async with node(cluster, machine, clock):
        before = await started(cluster, "gentle")
    await machine.stop("gentle", before.generation, grace_s=0)
    await machine.remove("gentle", before.generation)
    async with node(cluster, machine, clock):
        failed = await until(cluster, "gentle", lambda one: one.status is ContainerStatus.ERROR)
    assert (failed.reason, failed.cause, failed.failures) == ("its node no longer has it", "unknown", 1)


@on_cluster
async def test_what_is_cut_off_runs_again(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> None:
    """It exits with 0 when it is told to, and is desired all the same; what is to be kept runs on."""
    async with node(cluster, machine, clock):
        before, kept = await started(cluster, "gentle"), await started(cluster, "kept", "kept")
        await cluster.crash()
        ended = await until_seen(machine, RuntimeState.EXITED)
        assert (ended.exit_code, ended.cause) == (0, "cut_off")
        await cluster.start()
        await runs_again(cluster, before)
        assert (await until(cluster, "kept", is_running)).generation == kept.generation


@on_cluster
async def test_no_grace_outlasts_the_lease(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> None:
    """A container that is deaf, within its own grace of a minute, is dead before it may start elsewhere."""
    async with node(cluster, machine, clock):
        await started(cluster, "deaf")
        await cluster.client.execute(StopContainer(container_id="deaf"))
        async with asyncio.timeout(PATIENCE_S):
            while not (await machine.list())[0].cause:  # noqa: ASYNC110  # no runtime tells of a stop
                await asyncio.sleep(0.01)
        await cluster.crash()
        began = clock.heard()
        ended = await until_seen(machine, RuntimeState.EXITED)
        assert LEASE_S < clock.heard() - began < LEASE_S * NODE_LOST_AFTER
        assert (ended.exit_code, ended.cause) == (137, "requested")
        await cluster.start()
        await until(cluster, "deaf", lambda one: one.status is ContainerStatus.STOPPED)


@on_cluster
async def test_an_end_that_was_begun_is_finished(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> None:
    """The next agent ends a container whose last agent died between the cause and the signal; then it runs again."""
    async with node(cluster, machine, clock):
        before = await started(cluster, "slow")
    stopping = asyncio.create_task(machine.stop("slow", before.generation, grace_s=60.0, cause=ExitCause.CUT_OFF))
    await asyncio.sleep(0)
    stopping.cancel()
    (seen,) = await machine.list()
    assert (seen.state, seen.cause) == (RuntimeState.RUNNING, "cut_off")
    async with node(cluster, machine, clock):
        await runs_again(cluster, before)


@on_cluster
async def test_what_was_given_up_gets_no_grace(cluster: Cluster, machine: FakeRuntime, clock: Clock) -> None:
    """A generation that the coordinator no longer has here may run elsewhere, and is killed at once."""
    async with node(cluster, machine, clock):
        before = await started(cluster, "deaf")
    old = msgspec.structs.replace(machine.launches[0], generation="1.0", name="coordination-deaf-1.0", until=None)
    await machine.start(old)
    async with node(cluster, machine, clock):
        async with asyncio.timeout(LEASE_S):
            while len(await machine.list()) > 1:  # noqa: ASYNC110  # no runtime tells of a removal
                await asyncio.sleep(0.02)
        assert (await until(cluster, "deaf", is_running)).generation == before.generation


@on_cluster
async def test_a_machine_that_slept_ends_nothing_that_it_may_keep(
    cluster: Cluster, machine: FakeRuntime, clock: Clock
) -> None:
    """Its clock jumps when it wakes; the next sync renews the lease before anything is ended."""
    async with node(cluster, machine, clock) as agent:
        before = await started(cluster, "gentle")
        clock.slept_s += 3600
        await asyncio.sleep(LEASE_S * DEAD_AFTER + 0.5)
        assert agent.ready.is_set()
        assert (await until(cluster, "gentle", is_running)).generation == before.generation


@on_cluster
async def test_a_machine_that_wakes_without_a_network_ends_its_containers(
    cluster: Cluster, machine: FakeRuntime, clock: Clock
) -> None:
    """They may run elsewhere since long ago; when the coordinator is back, they run again."""
    async with node(cluster, machine, clock):
        before = await started(cluster, "gentle")
        await cluster.crash()
        clock.slept_s += 3600
        assert (await until_seen(machine, RuntimeState.EXITED)).cause == "cut_off"
        await cluster.start()
        await runs_again(cluster, before)


def test_an_orderly_restart_of_everything_is_no_failure(tmp_path: Path) -> None:
    """`coordinator up` ends its containers in order, and they start again with it: at once, and nothing is counted."""
    agent = CreateContainer(container_id="c", agent_id="a", agent_type="task_agent")
    home = tmp_path / "home"
    with up(home) as first:
        asked(first.url, agent, StartContainer(container_id="c"))
        before = asked_until_running(first.url)
    with up(home) as second:
        after = asked_until_running(second.url, after=before.generation)
    assert (after.starts, after.failures, after.restarts) == (2, 0, 0)


def asked(url: str, *commands: Command) -> Any:
    """Send commands one after the other; return the last answer."""

    async def ask() -> Any:
        async with Client.open(url, source="test", connect_timeout_s=PATIENCE_S) as client:
            return [await client.execute(one, timeout_s=PATIENCE_S) for one in commands][-1]

    return asyncio.run(ask())


def asked_until_running(url: str, after: str = "") -> Container:
    """Wait until the container runs, in another generation than *after*: the state of before stays until its report."""
    found: Container
    for _ in range(int(PATIENCE_S / 0.1)):
        found = asked(url, GetContainer(container_id="c"))
        if is_running(found) and found.generation != after:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_the_times_add_up() -> None:
    """What must not run is dead for a sixth of that time before it is started elsewhere."""
    assert 1 < DEAD_AFTER <= NODE_LOST_AFTER * 5 / 6


STUBBORN = "trap 'echo term >>signals' TERM; echo up >>signals; while [ ! -e go ]; do sleep 0.05; done"
ITS_RULES = Rules(agents={"stubborn": AgentType(command=("sh", "-c", STUBBORN), stop_grace_s=3600.0)})
END_MOST_S = 8.0
"""What it takes to start and end a Python on a busy machine, and much less than a stop may take."""


@pytest.mark.parametrize("cluster", [ITS_RULES], indirect=True)
@pytest.mark.parametrize("ends", ["between the agents", "with the next agent"])
async def test_an_agent_ends_at_once_and_the_next_one_finishes_the_stops_under_way(
    cluster: Cluster, tmp_path: Path, ends: str
) -> None:
    """A container may take an hour to stop: its agent does not wait for it, and the stop is not forgotten."""
    home = tmp_path / "home"
    told = {
        "COORDINATOR_HOME": str(home),
        "COORDINATOR_NATS__URL": cluster.url,
        "COORDINATOR_NODE__SYNC_INTERVAL_S": "0.1",
    }
    agent = partial(running, "node", "run", "--id", "n", written=tmp_path / "log", **told)

    def signals() -> list[str]:
        return [line for file in home.glob("containers/*/*/signals") for line in file.read_text().split()]

    async def until_signals(wanted: list[str]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while signals() != wanted:  # noqa: ASYNC110  # a file tells nobody
                await asyncio.sleep(0.02)

    with agent() as first:
        async with asyncio.timeout(PATIENCE_S):
            while not (await cluster.client.execute(GetStats())).nodes.get("ready"):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.05)
        before = await started(cluster, "c", "stubborn")
        await until_signals(["up"])
        await cluster.client.execute(StopContainer(container_id="c"))
        await until_signals(["up", "term"])
        began = time.monotonic()
        assert await asyncio.to_thread(first.stop) == 0
        assert time.monotonic() - began < END_MOST_S
        assert "actions_left_to_next_agent" in first.written
    (work,) = (file.parent for file in home.glob("containers/*/*/signals"))
    if ends == "between the agents":
        (work / "go").touch()
    with agent() as second:
        if ends == "with the next agent":
            await until_signals(["up", "term", "term"])
            (work / "go").touch()
        after = await until(cluster, "c", lambda one: one.status is ContainerStatus.STOPPED)
        assert (after.failures, after.generation) == (0, before.generation)
        assert await asyncio.to_thread(second.stop) == 0
