"""A drain with real agents: the task of a container ends, its container moves, and works on the other node."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import DrainNode, ListNodes, RemoveNode, UncordonNode
from coordinator.commands.payloads import payload_of
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.home import Home
from coordinator.processes.node import open_node
from coordinator.settings.model import Settings
from events.agents import AgentType
from events.container import ContainerStatus, Secret
from events.errors import NotFound, Refused
from events.task import TaskStatus
from projections.node import NodeStatus
from tests.e2e.test_agent import HANDLERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from projections.container import Container
    from projections.node import Node
    from projections.task import Task
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
LEASE_S = 3.0
GRACE_S = 10.0
NAP_S = 3.0
RULES = Rules(
    node_lease_s=LEASE_S,
    agents={"task_agent": AgentType(command=(sys.executable, "-m", "coordinator.agent"), stop_grace_s=GRACE_S)},
    # So long that whatever waits for it fails its test.
    restart_backoff_s=60.0,
)

on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@asynccontextmanager
async def serving(cluster: Cluster, folder: Path, node_id: str) -> AsyncIterator[None]:
    """Run the agent of a node, with a home of its own and containers that are processes."""
    settings = Settings.model_validate({"node": {"sync_interval_s": 0.2}})
    reach = {"COORDINATOR_URL": cluster.url, "COORDINATOR_NAMESPACE": "coordination"}
    async with open_node(settings, Home(folder / node_id), cluster.client, reach, node_id=node_id) as agent:
        await asyncio.wait_for(agent.ready.wait(), PATIENCE_S)
        yield
        await agent.stop_all()


async def begin(cluster: Cluster, folder: Path) -> Container:
    """Start a container with an agent that takes tasks."""
    (folder / "agent_handlers.py").write_text(HANDLERS)
    environment: dict[str, str | Secret] = {
        "COORDINATOR_HANDLERS": str(folder / "agent_handlers.py"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = CreateContainer(container_id="k", agent_id="a", agent_type="task_agent", environment=environment)
    await cluster.client.execute(command)
    await cluster.client.execute(StartContainer(container_id="k"))
    return await until(cluster, lambda one: one.status is ContainerStatus.RUNNING)


async def until(cluster: Cluster, is_so: Callable[[Container], bool]) -> Container:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: Container = await cluster.client.execute(GetContainer(container_id="k"))
            if is_so(found):
                return found
            await asyncio.sleep(0.05)


async def until_node(cluster: Cluster, node_id: str, is_so: Callable[[Node], bool]) -> Node:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            nodes: list[Node] = await cluster.client.execute(ListNodes())
            for one in nodes:
                if one.node_id == node_id and is_so(one):
                    return one
            await asyncio.sleep(0.05)


async def ended(cluster: Cluster, task_id: str) -> Task:
    found: Task = await cluster.client.execute(GetTask(task_id=task_id, wait_s=PATIENCE_S))
    return found


async def until_begun(cluster: Cluster, task_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while (await cluster.client.execute(GetTask(task_id=task_id))).status is not TaskStatus.RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@on_cluster
async def test_a_drain_moves_a_container_after_its_task(cluster: Cluster, tmp_path: Path) -> None:
    """The task ends with its first attempt, on the old node; the next one is executed on the new node."""
    async with serving(cluster, tmp_path, "n1"), serving(cluster, tmp_path, "n2"):
        before = await begin(cluster, tmp_path)
        old, new = before.node_id, {"n1": "n2", "n2": "n1"}[before.node_id]
        await cluster.client.execute(SubmitTask(task_id="long", task_name="nap", payload=payload_of(NAP_S)))
        await until_begun(cluster, "long")
        await cluster.client.execute(DrainNode(node_id=old, reason="new kernel", deadline_s=60.0))
        await cluster.client.execute(SubmitTask(task_id="next", task_name="double", payload=payload_of(21)))
        with pytest.raises(Refused, match="has 1 container: drain it first"):
            await cluster.client.execute(RemoveNode(node_id=old))

        first = await ended(cluster, "long")
        assert (first.status, first.attempt) == (TaskStatus.COMPLETED, 1)
        began = time.monotonic()
        after = await until(cluster, lambda one: one.node_id == new and one.status is ContainerStatus.RUNNING)
        assert time.monotonic() - began < GRACE_S
        assert after.generation != before.generation
        assert (after.failures, after.restarts, after.starts) == (0, 0, 2)
        second = await ended(cluster, "next")
        assert (second.status, second.attempt, second.worker_id) == (TaskStatus.COMPLETED, 1, "k")
        assert second.started_at is not None
        assert second.started_at > (after.starting_at or 0.0)

        drained = await until_node(cluster, old, lambda one: one.drained)
        assert (drained.status, drained.reason) == (NodeStatus.CORDONED, "new kernel")
        await cluster.client.execute(RemoveNode(node_id=old))
        # Its agent still runs, so it registers again.
        await until_node(cluster, old, lambda one: one.status is NodeStatus.READY)


@on_cluster
async def test_a_drain_of_the_only_node_waits_for_room(cluster: Cluster, tmp_path: Path) -> None:
    """At the deadline the container is stopped; it starts as soon as a node takes it, here the uncordoned one."""
    async with serving(cluster, tmp_path, "n1"):
        before = await begin(cluster, tmp_path)
        await cluster.client.execute(DrainNode(node_id="n1", deadline_s=1.0))
        await until_node(cluster, "n1", lambda one: one.drained)
        waiting = await until(cluster, lambda one: one.status is ContainerStatus.STOPPED)
        assert (waiting.is_moving, waiting.generation) == (True, before.generation)
        await cluster.client.execute(UncordonNode(node_id="n1"))
        after = await until(cluster, lambda one: one.status is ContainerStatus.RUNNING)
        assert (after.node_id, after.failures, after.restarts) == ("n1", 0, 0)


@on_cluster
async def test_a_removal_by_force_ends_what_runs_before_it_starts_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    """The node's agent is reachable all the time, and still the two generations never run at the same time."""
    async with serving(cluster, tmp_path, "n1"), serving(cluster, tmp_path, "n2"):
        before = await begin(cluster, tmp_path)
        assert before.pid
        await cluster.client.execute(RemoveNode(node_id=before.node_id, force=True))
        after = await until(cluster, lambda one: one.generation != before.generation)
        with pytest.raises(ProcessLookupError):
            os.kill(before.pid, 0)
        assert after.node_id != before.node_id
        await until(cluster, lambda one: one.status is ContainerStatus.RUNNING)
        again = await until_node(cluster, before.node_id, lambda one: one.status is NodeStatus.READY)
        assert not again.cordoned
        with pytest.raises(NotFound):
            await cluster.client.execute(RemoveNode(node_id="n3"))
