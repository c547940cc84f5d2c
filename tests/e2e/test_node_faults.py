"""What goes wrong with one container of a node ends neither its agent nor another container."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.nodes import ask_node
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer, StopContainer
from coordinator.commands.node import NodeQuestion
from coordinator.deciders.rules import Rules
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.process.runtime import ProcessRuntime
from events.agents import AgentType
from events.container import ContainerStatus, Secret
from events.errors import CoordinationError, Refused, Unavailable
from tests.nodes import serving

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from coordinator.runtime.protocol import Launch, Observed, Runtime
    from projections.container import Container
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 20.0
RULES = Rules(
    node_lease_s=3.0,
    agents={"task_agent": AgentType(command=("sleep", "300"), stop_grace_s=1.0)},
    restart_backoff_s=60.0,
)
on_cluster = pytest.mark.parametrize("cluster", [RULES], indirect=True)
ERRORS = [
    *(OSError(number, os.strerror(number)) for number in (errno.EMFILE, errno.ENOSPC, errno.ENOMEM, errno.EIO)),
    MemoryError(),
    RuntimeError("can't start new thread"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    KeyError("k"),
    RecursionError(),
    TimeoutError(),
    Unavailable("the machine cannot do it"),
    Refused("the launch is wrong"),
]


def node(cluster: Cluster, machine: Runtime, secrets: Path) -> AbstractAsyncContextManager[NodeAgent]:
    return serving(cluster.client, machine, secrets=secrets)


async def start(cluster: Cluster, container_id: str, **environment: str | Secret) -> None:
    await cluster.client.execute(
        CreateContainer(container_id=container_id, agent_id="a", agent_type="task_agent", environment=environment)
    )
    await cluster.client.execute(StartContainer(container_id=container_id))


async def until(cluster: Cluster, container_id: str, status: ContainerStatus) -> Container:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found: Container = await cluster.client.execute(GetContainer(container_id=container_id))
            if found.status is status:
                return found
            await asyncio.sleep(0.02)


async def runs(cluster: Cluster, container_id: str) -> bool:
    """Return whether a container runs in its first generation, after more than a lease."""
    await asyncio.sleep(RULES.node_lease_s * 1.5)
    found: Container = await cluster.client.execute(GetContainer(container_id=container_id))
    return (found.status, found.starts) == (ContainerStatus.RUNNING, 1)


@on_cluster
async def test_a_secret_that_cannot_be_used_fails_its_container_alone(cluster: Cluster, tmp_path: Path) -> None:
    """Each fails with the name of its secret; the node agent and its other containers go on."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "good").write_text("value")
    (secrets / "binary").write_bytes(b"\xff\xfe\x00")
    (secrets / "nul").write_bytes(b"a\0b")
    (secrets / "huge").write_bytes(b"x" * 10_000_000)
    (secrets / "folder").mkdir()
    os.mkfifo(secrets / "pipe")
    bad = ("binary", "nul", "huge", "folder", "pipe", "missing")
    async with (
        ProcessRuntime(tmp_path / "containers", cluster="coordination") as machine,
        node(cluster, machine, secrets) as agent,
    ):
        await start(cluster, "innocent", V=Secret(secret="good"))
        await until(cluster, "innocent", ContainerStatus.RUNNING)
        for name in bad:
            await start(cluster, f"with-{name}", V=Secret(secret=name))
        for name in bad:
            failed = await until(cluster, f"with-{name}", ContainerStatus.ERROR)
            assert failed.reason.startswith(f"secret '{name}' on node n ")
        assert agent.failures == len(bad)
        await start(cluster, "later")
        await until(cluster, "later", ContainerStatus.RUNNING)
        assert await runs(cluster, "innocent")
        await agent.stop_all()


class Breaking(FakeRuntime):
    """A machine on which each action on the container `broken` raises the next of `errors`."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(cluster="coordination", now=time.time)
        self.errors = list(errors)
        self.raised = 0

    def _break(self, container_id: str) -> None:
        if container_id == "broken" and self.errors:
            self.raised += 1
            raise self.errors.pop(0)

    async def start(self, launch: Launch) -> Observed:
        self._break(launch.container_id)
        return await super().start(launch)

    async def stop(self, container_id: str, generation: str, **how: Any) -> None:
        self._break(container_id)
        await super().stop(container_id, generation, **how)

    async def remove(self, container_id: str, generation: str) -> None:
        self._break(container_id)
        await super().remove(container_id, generation)

    async def logs(self, container_id: str, generation: str, lines: int) -> list[str]:
        self._break(container_id)
        return await super().logs(container_id, generation, lines)

    async def grant(self, until: float) -> None:
        self._break("broken" if self.breaks_all else "")
        await super().grant(until)

    async def list(self) -> list[Observed]:
        self._break("broken" if self.breaks_all else "")
        return await super().list()

    breaks_all = False


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@on_cluster
async def test_a_start_that_raises_anything_is_told_as_a_failure(
    cluster: Cluster, tmp_path: Path, error: Exception
) -> None:
    """What is told of an unexpected error is its type: its text may quote a secret."""
    async with Breaking(error) as machine, node(cluster, machine, tmp_path) as agent:
        await start(cluster, "broken")
        failed = await until(cluster, "broken", ContainerStatus.ERROR)
        told = error.message if isinstance(error, CoordinationError) else type(error).__name__
        assert told in failed.reason
        assert agent.failures == 1
        await start(cluster, "later")
        await until(cluster, "later", ContainerStatus.RUNNING)


@on_cluster
async def test_a_stop_that_raises_anything_is_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    """Each failure is counted; the stop succeeds in the end."""
    async with Breaking() as machine, node(cluster, machine, tmp_path) as agent:
        await start(cluster, "broken")
        await until(cluster, "broken", ContainerStatus.RUNNING)
        machine.errors = list(ERRORS)
        await cluster.client.execute(StopContainer(container_id="broken", force=True))
        await until(cluster, "broken", ContainerStatus.STOPPED)
        assert agent.failures == len(ERRORS)


@on_cluster
async def test_a_machine_that_raises_anything_is_looked_at_again(cluster: Cluster, tmp_path: Path) -> None:
    """For less than a lease: nothing is ended, and the agent goes on."""
    async with Breaking() as machine, node(cluster, machine, tmp_path):
        await start(cluster, "innocent")
        await until(cluster, "innocent", ContainerStatus.RUNNING)
        machine.breaks_all = True
        machine.errors = ERRORS[::7]
        async with asyncio.timeout(PATIENCE_S):
            while machine.errors:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert machine.raised == len(ERRORS[::7])
        assert await runs(cluster, "innocent")


@on_cluster
async def test_a_question_that_raises_anything_is_answered(cluster: Cluster, tmp_path: Path) -> None:
    """The caller hears what is wrong, and does not wait for the time-out."""
    async with Breaking() as machine, node(cluster, machine, tmp_path):
        await start(cluster, "broken")
        found = await until(cluster, "broken", ContainerStatus.RUNNING)
        question = NodeQuestion(container_id="broken")
        for error in ERRORS:
            machine.errors = [error] * 9  # it is asked again if the answer is late
            with pytest.raises(CoordinationError) as told:
                await ask_node(cluster.client, found.node_id, "logs", question, timeout_s=PATIENCE_S)
            why = error.message if isinstance(error, CoordinationError) else f"node n failed to answer: {_name(error)}"
            assert told.value.message.startswith(why)
        machine.errors = []
        assert await ask_node(cluster.client, found.node_id, "logs", question) == []


def _name(error: Exception) -> str:
    return type(error).__name__
