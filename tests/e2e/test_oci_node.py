"""A node with a real OCI runtime in a real cluster: agent types with an image, and what is reported of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.deciders.rules import Rules
from coordinator.home import Home
from coordinator.processes.node import open_runtime
from coordinator.settings.runtimes import OciSettings
from coordinator.settings.sections import NodeSettings
from events.agents import AgentType
from events.errors import Refused
from tests.nodes import is_a_failure_by_oom, is_refused, runs_and_stops, serving, started
from tests.oci_images import IMAGE, PROGRAMS, make_images, needed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.runtime.protocol import Runtime
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


@on_cluster
async def test_an_image_runs_and_stops(cluster: Cluster, machine: Runtime) -> None:
    """From the command to the OCI runtime and back: started, asked for its output and usage, stopped."""
    async with serving(cluster.client, machine):
        await runs_and_stops(cluster.client, "shell")


@on_cluster
@pytest.mark.parametrize("machine", ["oci"], indirect=True)
async def test_what_fails_says_why(cluster: Cluster, machine: Runtime) -> None:
    """The cause reaches the journal: too much memory, an image that is not there; without a command none is created."""
    async with serving(cluster.client, machine):
        await is_a_failure_by_oom(cluster.client, "greedy")
        assert "'nowhere' cannot be used: it is not on this node" in await is_refused(cluster.client, "nowhere")
        with pytest.raises(Refused, match="has runtime oci, which needs command"):
            await started(cluster.client, "bare", "bare")
