"""Logs of containers that are longer than a message: the caller gets all the lines it asked for."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.nodes import ask_node
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.node import NodeQuestion
from coordinator.deciders.rules import Rules
from coordinator.node.answers import KEPT
from coordinator.runtime.process.runtime import ProcessRuntime
from events.agents import AgentType
from events.container import ContainerStatus
from events.errors import Refused, Unavailable
from tests.nodes import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0
WRITES = """
import sys, time
for number in range(400):
    print(f"{number:03}" + "x" * 9_000)
print("\\x01" * 300_000)
print("last", flush=True)
time.sleep(300)
"""
RULES = Rules(agents={"writer": AgentType(command=("python", "-c", WRITES))})
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@asynccontextmanager
async def written(cluster: Cluster, folder: Path) -> AsyncIterator[None]:
    """Run a container that has written its lines while the block runs."""
    async with (
        ProcessRuntime(folder, cluster="coordination") as machine,
        serving(cluster.client, machine, secrets=folder) as agent,
    ):
        await cluster.client.execute(CreateContainer(container_id="k", agent_id="a", agent_type="writer"))
        await cluster.client.execute(StartContainer(container_id="k"))
        await cluster.client.execute(
            GetContainer(container_id="k", unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
        )
        async with asyncio.timeout(PATIENCE_S):
            while await lines(cluster, 1) != ["last"]:  # noqa: ASYNC110  # what is asked for has no event
                await asyncio.sleep(0.05)
        try:
            yield
        finally:
            await agent.stop_all()


async def lines(cluster: Cluster, count: int) -> list[str]:
    found: list[str] = await ask_node(cluster.client, "n", "logs", NodeQuestion(container_id="k", lines=count))
    return found


async def answer(cluster: Cluster, **question: Any) -> dict[str, Any]:
    """Return one answer of the node, as a client of another language gets it."""
    subject = cluster.client.subjects.node("n", "logs")
    body = json.dumps({"container_id": "k", **question}).encode()
    told: dict[str, Any] = json.loads(await cluster.client.bus.request(subject, body, timeout_s=PATIENCE_S))
    return told


@on_cluster
async def test_all_lines_come_in_as_many_answers_as_they_need(cluster: Cluster, tmp_path: Path) -> None:
    """200 lines of 9 kB are two messages; a line that is larger than a message is cut, and says so."""
    async with written(cluster, tmp_path):
        found = await lines(cluster, 200)
        assert found[-1] == "last"
        assert found[-2].startswith("\x01" * 1000)
        assert found[-2].endswith("… (300000 characters)")
        assert [line[:3] for line in found[:-2]] == [f"{number:03}" for number in range(202, 400)]
        assert {len(line) for line in found[:-2]} == {9_003}
        assert len(await lines(cluster, 10_000)) == 402


@on_cluster
async def test_one_answer_has_the_newest_lines(cluster: Cluster, tmp_path: Path) -> None:
    """A client that does not ask on has them; older ones are asked for once, and kept for a few questions."""
    async with written(cluster, tmp_path):
        newest = await answer(cluster, lines=400)
        assert newest["ok"] == ["last"]  # the line before it fills a message
        cut = await answer(cluster, lines=400, older=newest["older"])
        assert [line[-21:] for line in cut["ok"]] == ["… (300000 characters)"]
        older = await answer(cluster, lines=400, older=cut["older"])
        count = len(older["ok"])
        assert count > 100
        assert [line[:3] for line in older["ok"]] == [f"{number:03}" for number in range(400 - count, 400)]
        again = await answer(cluster, lines=400, older=newest["older"])
        assert (again["error"]["code"], "ask again" in again["error"]["message"]) == (Unavailable.code, True)
        for _ in range(KEPT):
            await answer(cluster, lines=400)
        assert "error" in await answer(cluster, lines=400, older=older["older"])
        assert (await answer(cluster, older="a>"))["error"]["code"] == Refused.code
