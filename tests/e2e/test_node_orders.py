"""Orders and reports of a node that are larger than one message, and coordinators and agents of earlier releases."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from coordinator.bus.nats_client import NatsClient
from coordinator.commands.container import CreateContainer, ListContainers, StartContainer, StopContainer
from coordinator.commands.node import NodeOrders, ObservedContainer, RegisterNode, SyncNode
from coordinator.deciders.rules import Rules
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.fake import FakeRuntime
from events.agents import AgentType
from events.container import ContainerStatus, Secret
from events.errors import Refused
from events.resources import Resources
from tests.nodes import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from contextlib import AbstractAsyncContextManager

    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from projections.container import Container
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
CONTROL = "\x01" * 26_000
"""156,000 bytes as JSON: eight of them are more than a message."""
RULES = Rules(
    max_containers=10_000,
    node_lease_s=3.0,
    agents={"task_agent": AgentType(command=("agent",))},
    restart_backoff_s=60.0,
)
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@pytest.fixture
async def machine() -> AsyncIterator[FakeRuntime]:
    async with FakeRuntime(cluster="coordination", now=time.time) as runtime:
        yield runtime


def node(client: Client, machine: FakeRuntime) -> AbstractAsyncContextManager[NodeAgent]:
    return serving(client, machine)


async def create(client: Client, container_ids: Iterable[str], **values: str) -> None:
    environment: dict[str, str | Secret] = dict(values)
    for one in container_ids:
        await client.execute(
            CreateContainer(container_id=one, agent_id="a", agent_type="task_agent", environment=environment)
        )


async def at_once(client: Client, commands: Iterable[Command]) -> None:
    await asyncio.gather(*(client.execute(one, timeout_s=PATIENCE_S) for one in commands))


async def until_all(client: Client, status: ContainerStatus, *, patience_s: float = PATIENCE_S) -> list[Container]:
    """Wait until all containers have this status, and return them."""
    async with asyncio.timeout(patience_s):
        while True:
            found: list[Container] = await client.execute(ListContainers(limit=1000), timeout_s=PATIENCE_S)
            if all(one.status is status for one in found):
                return found
            await asyncio.sleep(0.05)


@on_cluster
async def test_large_environments_cut_no_node_off(cluster: Cluster, machine: FakeRuntime) -> None:
    """All of them start, a few at a time, and what runs beside them goes on."""
    client = cluster.client
    async with node(client, machine):
        await create(client, ["innocent"])
        await client.execute(StartContainer(container_id="innocent"))
        (before,) = await until_all(client, ContainerStatus.RUNNING)
        giants = [f"giant-{number}" for number in range(20)]
        await create(client, giants, V=CONTROL)
        await at_once(client, (StartContainer(container_id=one) for one in giants))
        found = await until_all(client, ContainerStatus.RUNNING)
    assert {one.container_id: one.starts for one in found} == dict.fromkeys(["innocent", *giants], 1)
    assert next(one for one in found if one.container_id == "innocent").generation == before.generation


@on_cluster
async def test_an_environment_is_bounded_as_it_travels(cluster: Cluster, machine: FakeRuntime) -> None:
    """Any text of the allowed length passes; what takes several bytes for each character is refused, with both sums."""
    async with node(cluster.client, machine):
        await create(cluster.client, ["wide"], V="\U0001f600" * 32_767)
        with pytest.raises(Refused, match=r"environment takes 180008 bytes as JSON.*use at most 163840") as refused:
            await create(cluster.client, ["wider"], V="\x01" * 30_000)
    assert refused.value.reason == "bad_environment"


@on_cluster
async def test_a_node_with_many_containers_gets_its_orders_in_parts(
    cluster: Cluster, machine: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Report and orders are many times as large as a message here; a stop reaches its container, and no other ends."""
    client = cluster.client
    ids = [f"{number:03}-{'x' * 40}" for number in range(400)]
    async with node(client, machine):
        monkeypatch.setattr(NatsClient, "max_payload", 20_000)
        for begin in range(0, len(ids), 20):
            await create(client, ids[begin : begin + 20])
            await at_once(client, (StartContainer(container_id=one) for one in ids[begin : begin + 20]))
        monkeypatch.setattr(NatsClient, "max_payload", 1_048_576)
        await until_all(client, ContainerStatus.RUNNING)
        monkeypatch.setattr(NatsClient, "max_payload", 20_000)
        await asyncio.sleep(2 * RULES.node_lease_s)
        await client.execute(StopContainer(container_id=ids[-1]))
        await asyncio.sleep(1.0)
        (crashes,) = [one for one in await machine.list() if one.container_id == ids[200]]
        machine.exit(crashes.container_id, crashes.generation, 3)
        await asyncio.sleep(1.0)
    monkeypatch.setattr(NatsClient, "max_payload", 1_048_576)
    found = {one.container_id: one for one in await client.execute(ListContainers(limit=1000))}
    status = {one: found[one].status for one in (ids[200], ids[-1])}
    assert status == {ids[200]: ContainerStatus.ERROR, ids[-1]: ContainerStatus.STOPPED}
    assert all(one.status is ContainerStatus.RUNNING for one in found.values() if one.container_id not in status)
    assert {one.starts for one in found.values()} == {1}


@on_cluster
async def test_a_launch_larger_than_a_message_fails_by_name(
    cluster: Cluster, machine: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been created when the server took larger messages; what runs beside it goes on."""
    client = cluster.client
    async with node(client, machine):
        await create(client, ["a-giant"], V="\U0001f600" * 30_000)
        await create(client, ["innocent"])
        monkeypatch.setattr(NatsClient, "max_payload", 100_000)
        # The answer of the start itself has no room either.
        await asyncio.gather(
            *(client.execute(StartContainer(container_id=one)) for one in ("innocent", "a-giant")),
            return_exceptions=True,
        )
        async with asyncio.timeout(PATIENCE_S):
            while (found := await by_id(client))["a-giant"].status is not ContainerStatus.ERROR:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(RULES.node_lease_s * 1.5)
        found = await by_id(client)
    assert "environment take" in found["a-giant"].reason
    assert (found["innocent"].status, found["innocent"].starts) == (ContainerStatus.RUNNING, 1)


async def by_id(client: Client) -> dict[str, Container]:
    return {one.container_id: one for one in await client.execute(ListContainers(limit=1000))}


class Between:
    """A client behind which, while `is_old`, a coordinator of an earlier release leads: it refuses parts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.is_old = True
        self.parts = self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        if isinstance(command, SyncNode) and command.in_parts:
            if self.is_old:
                self.refused += 1
                raise Refused("sync_node: unknown field 'in_parts'", reason="bad_request")
            self.parts += 1
        return await self._client.execute(command, timeout_s=timeout_s)


@on_cluster
async def test_an_agent_serves_coordinators_of_both_releases(cluster: Cluster, machine: FakeRuntime) -> None:
    """During an upgrade either may take over from the other."""
    between = Between(cluster.client)
    async with node(cast("Client", between), machine):
        await create(cluster.client, ["a", "b"])
        await cluster.client.execute(StartContainer(container_id="a"))
        await until_running(cluster.client, "a")
        assert (between.parts, between.refused) == (0, 2)  # a reign is tried once, and once before it is known
        between.is_old = False
        await cluster.crash()
        await cluster.start()
        await cluster.client.execute(StartContainer(container_id="b"))
        await until_running(cluster.client, "b")
        async with asyncio.timeout(PATIENCE_S):
            while between.parts < 2:  # noqa: ASYNC110  # it tells nobody of its calls
                await asyncio.sleep(0.01)
        between.is_old = True
        await asyncio.sleep(RULES.node_lease_s * 1.5)
        assert {one.starts for one in (await by_id(cluster.client)).values()} == {1}


async def until_running(client: Client, container_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await by_id(client))[container_id].status is not ContainerStatus.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@on_cluster
async def test_an_agent_of_an_earlier_release_hears_of_all_its_containers(cluster: Cluster) -> None:
    """It takes what is not named for gone, and knows of no parts: the launches that have room come first."""
    client = cluster.client
    await client.execute(
        RegisterNode(node_id="n", capacity=Resources(cpu_millis=4000, memory_bytes=2**30), runtime="fake")
    )
    giants = [f"giant-{number:02}" for number in range(12)]
    await create(client, giants, V=CONTROL)
    await at_once(client, (StartContainer(container_id=one) for one in giants))
    told: NodeOrders = await client.execute(SyncNode(node_id="n"))
    assert sorted(one.container_id for one in told.containers) == giants
    startable = [one for one in told.containers if one.environment]
    assert 5 <= len(startable) <= 7
    running = [
        ObservedContainer(container_id=one.container_id, generation=one.generation, state="running")
        for one in startable
    ]
    told = await client.execute(SyncNode(node_id="n", observed=tuple(running), orders_id=told.orders_id))
    assert len([one for one in told.containers if one.environment]) == len(giants) - len(startable)
