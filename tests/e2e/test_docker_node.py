"""A node on real Docker in a real cluster: agent types with an image, their limits, and what is reported of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from coordinator.deciders.rules import Rules
from coordinator.home import Home
from coordinator.processes.node import open_runtime
from coordinator.settings.runtimes import DockerSettings
from coordinator.settings.sections import NodeSettings
from events.agents import AgentType
from tests.commands import run
from tests.docker_engine import IMAGE, Docker, needed_docker, running
from tests.nodes import is_a_failure_by_oom, is_refused, runs_and_stops, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from coordinator.runtime.protocol import Runtime
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.docker]

PATIENCE_S = 60.0
RULES = Rules(
    agents={
        "whole": AgentType(image="whole:test", stop_grace_s=1.0),
        "greedy": AgentType(image=IMAGE, command=("dd", "if=/dev/zero", "of=/dev/null", "bs=512M", "count=1")),
        "nowhere": AgentType(image="nowhere:test"),
    },
    restart_backoff_s=60.0,
)
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker with an image that has a command of its own."""
    needed_docker()
    with running(tmp_path_factory.mktemp("docker")) as daemon:
        daemon.run("create", "--name", "draft", "--network", "none", IMAGE, "true")
        daemon.run(
            "commit", "--change", 'CMD ["sh", "-c", "echo $COORDINATOR_CONTAINER_ID; sleep 600"]', "draft", "whole:test"
        )
        daemon.remove_all()
        yield daemon


@pytest.fixture
async def machine(docker: Docker, tmp_path: Path) -> AsyncIterator[Runtime]:
    home = Home(tmp_path / "home")
    settings = NodeSettings(docker=DockerSettings(socket=docker.socket, pull="never"))
    async with open_runtime("docker", home, namespace="coordination", node=settings) as runtime:
        yield runtime
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)
    docker.remove_all()


@on_cluster
async def test_an_image_runs_and_stops(cluster: Cluster, machine: Runtime) -> None:
    """From the command to Docker and back: started, asked for its output and usage, stopped."""
    async with serving(cluster.client, machine):
        await runs_and_stops(cluster.client, "whole")


@on_cluster
async def test_too_much_memory_is_a_failure_by_oom(cluster: Cluster, machine: Runtime) -> None:
    """The cause reaches the journal; so does the reason of an image that is not there."""
    async with serving(cluster.client, machine):
        await is_a_failure_by_oom(cluster.client, "greedy")
        assert "'nowhere:test' is not on this node" in await is_refused(cluster.client, "nowhere")


def test_the_benchmark_compares_with_docker(docker: Docker, tmp_path: Path) -> None:
    """Ours and a bare `docker run` in turns; nothing is left of either."""
    settings = tmp_path / "settings.yaml"
    settings.write_text(
        f"agents: {{bench: {{image: '{IMAGE}', command: [sleep, '600']}}}}\n"
        f"node: {{runtime: docker, docker: {{socket: '{docker.socket}', pull: never}}}}\n"
    )
    ended = run("bench", "containers", "--starts=2", "--at-once=3", timeout_s=100, COORDINATOR_CONFIG=str(settings))
    assert (ended.code, ended.err) == (0, ""), ended
    figures = json.loads(ended.out)
    assert (figures["runtime"], figures["start_ms"]["n"], figures["bare_ms"]["n"]) == ("docker", 2, 2)
    assert figures["start_to_bare"] > 0
    assert figures["at_once_to_bare"] > 0
    assert docker.run("ps", "-aq") == ""
