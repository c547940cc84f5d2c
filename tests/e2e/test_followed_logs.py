"""Followed logs, over whatever happens to the container, its node and the connection: every line once."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from coordinator.client.follow_logs import LogLine, follow_logs
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    StartContainer,
    StopContainer,
)
from coordinator.deciders.rules import Rules
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.process.runtime import ProcessRuntime
from events.agents import AgentType
from events.container import ContainerStatus
from events.errors import NotFound, Refused, Unavailable
from events.resources import Resources
from projections.container import Container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any

    from coordinator.bus.subscription import Message
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 30.0
COUNTS = """
n=0
trap 'echo "term $COORDINATOR_GENERATION"; exit 0' TERM
while [ $n -lt ${MOST:-1000000} ]; do n=$((n+1)); echo "$COORDINATOR_GENERATION line $n"; sleep ${PAUSE:-0.02}; done
exit 3
"""
RULES = Rules(agents={"counter": AgentType(command=("sh", "-c", COUNTS))}, restart_backoff_s=0.1, node_lease_s=2.0)
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)


@asynccontextmanager
async def node(cluster: Cluster, folder: Path, node_id: str, **options: Any) -> AsyncIterator[NodeAgent]:
    """Run a node agent with containers of its own, or those that it had."""
    async with (
        ProcessRuntime(folder / node_id, cluster="coordination", log_check_s=0.02, **options) as machine,
        NodeAgent.open(
            cluster.client,
            machine,
            node_id=node_id,
            capacity=Resources(cpu_millis=4000, memory_bytes=2**30),
            reach={},
            secrets=folder,
            interval_s=0.1,
        ) as agent,
    ):
        await asyncio.wait_for(agent.ready.wait(), PATIENCE_S)
        yield agent


class Reader:
    """Reads followed logs in a task of its own."""

    def __init__(self, cluster: Cluster, container_id: str = "k", lines: int = 100) -> None:
        self.read: list[LogLine] = []
        self._more = asyncio.Event()
        self.task = asyncio.create_task(self._read(cluster, container_id, lines))

    async def _read(self, cluster: Cluster, container_id: str, lines: int) -> None:
        async with aclosing(follow_logs(cluster.client, container_id, lines)) as found:
            async for line in found:
                self.read.append(line)
                self._more.set()

    @property
    def text(self) -> list[str]:
        return [line.text for line in self.read if not line.is_note]

    @property
    def notes(self) -> list[str]:
        return [line.text for line in self.read if line.is_note]

    async def more(self, count: int = 10) -> None:
        """Wait until so many more lines have come."""
        wanted = len(self.text) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.text) < wanted:
                assert not self.task.done(), self.task.exception() or self.read[-3:]
                self._more.clear()
                await self._more.wait()

    async def generations(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len({line.generation for line in self.read}) < count:
                await self.more(1)

    def check(self) -> list[str]:
        """Check that each generation was read from its first line on, none twice and none left out; return them."""
        by_generation: dict[str, list[str]] = {}
        for line in self.text:
            generation, _, rest = line.partition(" line ")
            if rest:
                by_generation.setdefault(generation, []).append(rest)
        for found in by_generation.values():
            assert found == [str(number) for number in range(1, len(found) + 1)]
        return list(by_generation)


async def created(cluster: Cluster, **environment: str) -> Container:
    await cluster.client.execute(
        CreateContainer(container_id="k", agent_id="a", agent_type="counter", environment=dict(environment))
    )
    await cluster.client.execute(StartContainer(container_id="k"))
    return await status_other_than(cluster, ContainerStatus.STARTING)


async def status_other_than(cluster: Cluster, *unless: ContainerStatus) -> Container:
    found = await cluster.client.execute(GetContainer(container_id="k", unless=unless, wait_s=20))
    assert found.status not in unless
    return found


async def ended(cluster: Cluster, reader: Reader, *, force: bool = False) -> None:
    """Destroy the container; the reader ends by itself."""
    await cluster.client.execute(DestroyContainer(container_id="k", force=force))
    await asyncio.wait_for(reader.task, PATIENCE_S)


@on_cluster
async def test_a_log_is_followed_to_its_last_line(cluster: Cluster, tmp_path: Path) -> None:
    """What a container says when it is destroyed is read before it is removed; over a stop and a start as well."""
    async with node(cluster, tmp_path, "n"):
        await created(cluster)
        reader = Reader(cluster)
        await reader.more()
        await cluster.client.execute(StopContainer(container_id="k"))
        await status_other_than(cluster, ContainerStatus.RUNNING, ContainerStatus.STOPPING)
        await asyncio.sleep(0.5)
        await cluster.client.execute(StartContainer(container_id="k"))
        await reader.generations(2)
        await ended(cluster, reader)
        first, second = reader.check()
        assert [line for line in reader.text if line.startswith("term")] == [f"term {first}", f"term {second}"]
        assert reader.text[-1] == f"term {second}"
        assert reader.notes == []


@on_cluster
async def test_crashes_are_followed(cluster: Cluster, tmp_path: Path) -> None:
    """Each generation is read whole, also when it lives for a moment only; a late reader begins with the last lines."""
    async with node(cluster, tmp_path, "n"):
        await created(cluster, MOST="12", PAUSE="0.01")
        reader = Reader(cluster)
        await reader.generations(4)
        late = Reader(cluster, lines=3)
        await late.more(3)
        await ended(cluster, reader, force=True)
        await asyncio.wait_for(late.task, PATIENCE_S)
        assert len(reader.check()) >= 4
        assert reader.notes == []
        assert {line.partition(" line ")[2] for line in late.text} <= {str(number) for number in range(1, 13)}


@on_cluster
async def test_the_agent_and_the_connection_may_go(cluster: Cluster, tmp_path: Path) -> None:
    """An agent that begins again goes on where it was; so does a NATS server that was killed."""
    reader = None
    async with node(cluster, tmp_path, "n"):
        await created(cluster)
        reader = Reader(cluster)
        await reader.more()
    await asyncio.sleep(0.5)
    async with node(cluster, tmp_path, "n"):
        await reader.more()
        await cluster.restart_nats()
        await reader.more(100)
        await ended(cluster, reader, force=True)
    assert len(reader.check()) == 1
    assert all("asked again" in note for note in reader.notes)


@on_cluster
async def test_a_container_that_moves_is_followed(cluster: Cluster, tmp_path: Path) -> None:
    """To a node that has room, when its own is lost; that the rest of its output is there is said."""
    async with node(cluster, tmp_path, "n1") as first:
        found = await created(cluster)
        assert found.node_id == "n1"
        reader = Reader(cluster)
        await reader.more()
        await first.stop_all()
    async with node(cluster, tmp_path, "n2"):
        await reader.generations(2)
        await ended(cluster, reader, force=True)
    assert len(reader.check()) == 2
    assert {line.node_id for line in reader.read if not line.is_note} == {"n1", "n2"}


@on_cluster
async def test_what_the_bounded_log_drops_is_told(cluster: Cluster, tmp_path: Path) -> None:
    """A reader that is too slow hurts nobody: it gets what is there, and is told in a line that something is not."""
    async with node(cluster, tmp_path, "n", max_log_bytes=20_000):
        await created(cluster, PAUSE="0.0001")
        async with aclosing(follow_logs(cluster.client, "k", 5)) as found:
            lines: list[LogLine] = []
            async for line in found:
                lines.append(line)
                if len(lines) in {20, 200}:
                    await asyncio.sleep(4)
                if any(one.is_note for one in lines) and len(lines) > 400:
                    break
    assert {one.text for one in lines if one.is_note} == {
        "lines are missing here: the log is bounded, and has dropped them"
    }
    numbers = [int(one.text.partition(" line ")[2]) for one in lines if " line " in one.text and one.text[0] != "…"]
    assert numbers == sorted(set(numbers))


@on_cluster
async def test_what_cannot_be_followed_says_so(cluster: Cluster, tmp_path: Path) -> None:
    """No such container; a node without an agent; an agent of a release that does not know the question."""
    with pytest.raises(NotFound):
        await anext(follow_logs(cluster.client, "nobody"))
    async with node(cluster, tmp_path, "n") as agent:
        await created(cluster)
        await agent.stop_all()
    with pytest.raises(Unavailable, match="agent of node n does not answer"):
        await anext(follow_logs(cluster.client, "k"))

    def older(message: Message) -> None:
        cluster.client.bus.send(message.reply, json.dumps({"ok": ["a line"]}).encode())

    subscription = await cluster.client.bus.subscribe(cluster.client.subjects.node("n", "logs"), older)
    with pytest.raises(Refused, match="of an earlier release, which cannot follow logs: update it"):
        await anext(follow_logs(cluster.client, "k"))
    await subscription.unsubscribe()
