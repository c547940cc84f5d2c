"""A node with limits: what it says of itself, and what becomes of a container that takes more memory than it may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import ListNodes
from coordinator.deciders.rules import Rules
from coordinator.home import Home
from coordinator.processes.node import open_node
from coordinator.settings.model import Settings
from events.agents import AgentType
from events.container import ExitCause
from events.resources import Resources
from tests.control_groups import needs_control_groups

if TYPE_CHECKING:
    from pathlib import Path

    from projections.container import Container
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced, needs_control_groups]

HOG = ("python", "-c", "import time; time.sleep(1); print(len(bytearray(324_000_000))); time.sleep(300)")
RULES = Rules(agents={"task_agent": AgentType(command=HOG, stop_grace_s=1.0)}, restart_backoff_s=60.0)


async def container(cluster: Cluster) -> Container:
    found: Container = await cluster.client.execute(GetContainer(container_id="c1"))
    return found


@pytest.mark.parametrize("cluster", [RULES], indirect=True)
async def test_a_node_enforces_limits_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """Its label names what it enforces; the last exit of the container is `oom`."""
    settings = Settings.model_validate({"node": {"isolation": "LIMITS"}})
    async with open_node(settings, Home(tmp_path / "home"), cluster.client, {}, node_id="n1") as agent:
        await agent.ready.wait()
        (node,) = await cluster.client.execute(ListNodes())
        assert node.labels["limits"].startswith("cpu, memory, pids by cgroup v")
        await cluster.client.execute(
            CreateContainer(
                container_id="c1",
                agent_id="a",
                agent_type="task_agent",
                resources=Resources(memory_bytes=32 * 1024 * 1024),
            )
        )
        await cluster.client.execute(StartContainer(container_id="c1"))
        async with asyncio.timeout(20):
            while (ended := (await container(cluster)).last_exit) is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert (ended.cause, ended.reason, ended.exit_code) == (ExitCause.OOM, "oom", 137)
