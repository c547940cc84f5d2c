"""A node with a real OCI runtime in a real cluster: agent types with an image, and what is reported of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.client.nodes import ask_node
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer, StopContainer
from coordinator.commands.node import NodeQuestion
from coordinator.deciders.rules import Rules
from coordinator.home import Home
from coordinator.processes.node import open_runtime
from coordinator.settings.runtimes import OciSettings
from coordinator.settings.sections import NodeSettings
from events.agents import AgentType
from events.container import ContainerStatus
from events.errors import Refused
from events.resources import Resources
from tests.nodes import serving
from tests.oci_images import IMAGE, PROGRAMS, make_images, needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from coordinator.runtime.protocol import Runtime
    from projections.container import Container
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.oci]

PATIENCE_S = 60.0
RULES = Rules(
    agents={
        "shell": AgentType(
            image=IMAGE, command=("sh", "-c", "echo $COORDINATOR_CONTAINER_ID; sleep 600"), stop_grace_s=1.0
        ),
        "greedy": AgentType(image=IMAGE, command=("dd", "if=/dev/zero", "of=/dev/null", "bs=512M", "count=1")),
        "nowhere": AgentType(image="nowhere", command=("sh",)),
        "bare": AgentType(image=IMAGE),
    },
    restart_backoff_s=60.0,
)
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@pytest.fixture(params=["oci", "gvisor"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Runtime]:
    needed(request.param)
    home = Home(tmp_path / "home")
    make_images(home.images)
    settings = NodeSettings(oci=OciSettings(program=PROGRAMS[request.param]))
    async with open_runtime("oci", home, namespace="coordination", node=settings) as runtime:
        yield runtime
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)


async def started(cluster: Cluster, container_id: str, agent_type: str) -> None:
    resources = Resources(cpu_millis=500, memory_bytes=128 * 2**20)
    await cluster.client.execute(
        CreateContainer(container_id=container_id, agent_id="a", agent_type=agent_type, resources=resources)
    )
    await cluster.client.execute(StartContainer(container_id=container_id))


async def until(cluster: Cluster, container_id: str, is_so: Callable[[Container], bool]) -> Container:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: Container = await cluster.client.execute(GetContainer(container_id=container_id))
            if is_so(found):
                return found
            await asyncio.sleep(0.05)


@on_cluster
async def test_an_image_runs_and_stops(cluster: Cluster, machine: Runtime) -> None:
    """From the command to the OCI runtime and back: started, asked for its output and usage, stopped."""
    async with serving(cluster.client, machine):
        await started(cluster, "c", "shell")
        await until(cluster, "c", lambda one: one.status is ContainerStatus.RUNNING)
        asked = NodeQuestion(container_id="c", lines=5)
        async with asyncio.timeout(PATIENCE_S):
            while await ask_node(cluster.client, "n", "logs", asked) != ["c"]:  # noqa: ASYNC110 - nobody tells of lines
                await asyncio.sleep(0.05)
        assert (await ask_node(cluster.client, "n", "usage", asked))["pids"] >= 1
        await cluster.client.execute(StopContainer(container_id="c"))
        await until(cluster, "c", lambda one: one.status is ContainerStatus.STOPPED)


@on_cluster
@pytest.mark.parametrize("machine", ["oci"], indirect=True)
async def test_what_fails_says_why(cluster: Cluster, machine: Runtime) -> None:
    """The cause reaches the journal: too much memory, an image that is not there; without a command none is created."""
    async with serving(cluster.client, machine):
        await started(cluster, "greedy", "greedy")
        failed = await until(cluster, "greedy", lambda one: one.status is ContainerStatus.ERROR)
        assert failed.last_exit is not None
        assert failed.last_exit.cause == "oom"
        await started(cluster, "nowhere", "nowhere")
        refused = await until(cluster, "nowhere", lambda one: one.status is ContainerStatus.ERROR)
        assert "'nowhere' cannot be used: it is not on this node" in refused.reason
        with pytest.raises(Refused, match="has runtime oci, which needs command"):
            await started(cluster, "bare", "bare")
