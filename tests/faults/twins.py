"""
Node agents cut off, killed and stopped, many at once: no container ever runs twice.

Every node has several containers: some exit with 0 when told to, some are slow, some ignore SIGTERM and have a grace
far longer than the lease. Meanwhile containers are stopped and started again, so that some are within that grace when
their node is cut off. What runs is recorded by the containers themselves.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.client.client import Client
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer, StopContainer
from coordinator.commands.node import ListNodes
from coordinator.errors import CoordinationError
from coordinator.task_groups import task_group
from events.container import ContainerStatus
from projections.container import Desired
from projections.node import NodeStatus
from tests.faults.instances import instances
from tests.faults.nodes import DEAF, GENTLE, SLOW, NodeProcess, closed_after, recorded, recorder, twins
from tests.real_server import real_server
from tests.tcp_proxy import Proxy, proxy

if TYPE_CHECKING:
    from projections.container import Container

PATIENCE_S = 90.0
FAULTS = ("cut", "killed", "stopped")
KINDS = (GENTLE, SLOW, DEAF)
_POLL_S = 0.2


async def run(
    times: int = 200, *, nodes: int = 10, containers: int = 30, lease_s: int = 3, seed: int = 1
) -> dict[str, Any]:
    """Make *times* faults on *nodes* nodes in parallel, and count the twins."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="coordinator-twins-") as folder:
        home = Path(folder)
        for name in ("nats", "ran"):
            (home / name).mkdir()
        environment = _settings(home, lease_s)
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(real_server(home / "nats"))
            (coordinator,) = await stack.enter_async_context(instances(home, server.url, 1, environment=environment))
            client = await stack.enter_async_context(Client.open(server.url, source="twins"))
            client.call_timeout_s = PATIENCE_S
            await coordinator.start()
            those = []
            for number in range(nodes):
                line = await stack.enter_async_context(proxy(server.port))
                url = server.url.replace(str(server.port), str(line.port))
                node = NodeProcess(home / f"node_{number}", url, f"node_{number}", environment=environment)
                await stack.enter_async_context(closed_after(node))
                await node.start()
                those.append(_Node(node, line))
            play = _Play(client, those, rng, lease_s)
            ids = await play.begin(containers)
            await play.faults(times, ids)
            states = await play.until_running(ids)
        ran = recorded(home / "ran")
    found = twins(ran)
    return {
        "faults": dict(play.made),
        "containers": containers,
        "starts": sum(map(len, ran.values())),
        "moved": play.moved(ran),
        "twins": len(found),
        "overlap_s": max((seconds for seconds, *_ in found), default=0.0),
        "first_twins": found[:5],
        "running": sum(one.status is ContainerStatus.RUNNING for one in states),
        "others": [f"{one.container_id} {one.status.value} {one.reason}" for one in states if not one.pid][:5],
        "ended_by_themselves": [words for node in those for words in node.ended],
        "lease_s": lease_s,
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if no container ran twice, although some were moved, and all run at the end."""
    return bool(
        result["twins"] == 0
        and result["moved"] > 0
        and result["faults"].keys() == set(FAULTS)
        and result["running"] == result["containers"]
    )


class _Node:
    """One node agent, and the line between it and NATS."""

    def __init__(self, process: NodeProcess, line: Proxy) -> None:
        self.process = process
        self.line = line
        self.ended: list[str] = []
        """The last words of each agent that has ended by itself, as one does that cannot connect at its start."""

    async def keep(self) -> None:
        """Start the agent again if it has ended by itself."""
        if not self.process.runs:
            self.ended.append(self.process.logged[-300:])
            await self.process.start()

    async def suffer(self, fault: str, seconds: float) -> None:
        """Be cut off, killed or stopped for some seconds."""
        await self.keep()
        match fault:
            case "cut":
                self.line.part()
                await asyncio.sleep(seconds)
                self.line.mend()
            case "killed":
                await self.process.kill()
                await asyncio.sleep(seconds)
                await self.process.start()
            case _:
                with suppress(ProcessLookupError):
                    self.process.freeze()
                    await asyncio.sleep(seconds)
                    self.process.thaw()


class _Play:
    def __init__(self, client: Client, nodes: list[_Node], rng: random.Random, lease_s: int) -> None:
        self.made: Counter[str] = Counter()
        self._client = client
        self._nodes = nodes
        self._rng = rng
        self._lease_s = lease_s

    async def begin(self, containers: int) -> list[str]:
        """Start the containers when all nodes are there."""
        async with asyncio.timeout(PATIENCE_S):
            while len(await self._ready()) < len(self._nodes):  # noqa: ASYNC110  # nothing tells of a node
                await asyncio.sleep(_POLL_S)
        ids = [f"ctr_{number}" for number in range(containers)]
        for number, container_id in enumerate(ids):
            kind = KINDS[number % len(KINDS)]
            await self._client.execute(
                CreateContainer(container_id=container_id, agent_id=container_id, agent_type=kind)
            )
            await self._client.execute(StartContainer(container_id=container_id))
        await self.until_running(ids)
        return ids

    async def faults(self, times: int, ids: list[str]) -> None:
        """Make the faults, and stop and start containers meanwhile."""
        async with task_group() as tasks:
            stopping = tasks.create_task(self._stop_and_start(ids))
            faults = [FAULTS[number % len(FAULTS)] for number in range(times)]
            self._rng.shuffle(faults)
            suffering = [
                tasks.create_task(self._suffer(node, faults[number :: len(self._nodes)]))
                for number, node in enumerate(self._nodes)
            ]
            await asyncio.gather(*suffering)
            stopping.cancel()

    async def _suffer(self, node: _Node, faults: list[str]) -> None:
        for fault in faults:
            await asyncio.sleep(self._lease_s * self._rng.uniform(0.3, 2.0))
            await node.suffer(fault, self._lease_s * self._rng.uniform(0.5, 3.0))
            self.made[fault] += 1

    async def _stop_and_start(self, ids: list[str]) -> None:
        """Stop a container now and then, and start all that are stopped; some are slow to stop."""
        while True:
            with suppress(CoordinationError):
                await self._client.execute(StopContainer(container_id=self._rng.choice(ids)))
            await asyncio.sleep(self._lease_s / 6)
            await self._start_stopped(ids)

    async def _start_stopped(self, ids: list[str], *, force: bool = False) -> None:
        """Start what is stopped; with *force* do not wait for what is within its grace."""
        for container_id in ids:
            container = await self._client.execute(GetContainer(container_id=container_id))
            if container.status is ContainerStatus.STOPPING and force:
                await self._client.execute(StopContainer(container_id=container_id, force=True))
            if container.desired is Desired.STOPPED and container.status is ContainerStatus.STOPPED:
                with suppress(CoordinationError):  # no node has room: they are all lost now
                    await self._client.execute(StartContainer(container_id=container_id))

    async def until_running(self, ids: list[str]) -> list[Container]:
        """Wait until everything runs; return what there is if that takes too long."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            for node in self._nodes:
                await node.keep()
            states = [await self._client.execute(GetContainer(container_id=one)) for one in ids]
            if all(one.status is ContainerStatus.RUNNING for one in states):
                return states
            if asyncio.get_running_loop().time() > deadline:
                return states
            await self._start_stopped(ids, force=True)
            await asyncio.sleep(_POLL_S)

    async def _ready(self) -> list[str]:
        return [one.node_id for one in await self._client.execute(ListNodes()) if one.status is NodeStatus.READY]

    @staticmethod
    def moved(ran: dict[str, list[Any]]) -> int:
        """Return how many starts were not the first of their container."""
        return sum(len(generations) - 1 for generations in ran.values())


def _settings(home: Path, lease_s: int) -> dict[str, str]:
    """Write the settings, and return the variables that name them."""
    agents = {
        # Longer than any lease here: only the node's lease can end it in time.
        DEAF: recorder(home / "ran", DEAF, stop_grace_s=600),
        GENTLE: recorder(home / "ran", GENTLE),
        SLOW: recorder(home / "ran", SLOW),
    }
    node = {"node_lease_s": lease_s, "sync_interval_s": lease_s / 10}
    # A mass silence would keep the containers where they are.
    registry = {"mass_silence_least": 1000}
    container = {"restart_backoff_s": 0.5, "restart_backoff_max_s": 2}
    config = home / "coordinator.yaml"
    config.write_text(json.dumps({"agents": agents, "node": node, "registry": registry, "container": container}))
    return {"COORDINATOR_CONFIG": str(config)}
