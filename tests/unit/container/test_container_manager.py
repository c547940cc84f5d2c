"""Containers through their facades, with a real node agent and the fake runtime."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock

import pytest

from coordinator.commands.node import RegisterNode
from coordinator.container import AgentContainer, ContainerConfig, ContainerManager, ContainerStatus, container_manager
from coordinator.follower import read_door
from coordinator.scheduler import TaskScheduler
from events.errors import NotFound, Refused, Unavailable
from events.resources import Resources
from projections import world

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.app.app import App

CONFIG = ContainerConfig(agent_id="a", agent_type="task_agent", resources={"cpu": "1"}, environment={"ENV": "test"})
TOO_BIG = ContainerConfig(agent_id="a", agent_type="task_agent", resources={"memory": "7Pi"})


async def test_a_containers_life(embedded_app: App) -> None:
    """Each call returns when the change has happened on the node, and the counts agree."""
    manager = ContainerManager(embedded_app)
    assert (await manager.get_container_stats())["success_rate"] == 1.0
    container_id = await manager.create_container(CONFIG)
    assert await manager.get_container_status(container_id) is ContainerStatus.CREATED
    assert await manager.start_container(container_id)
    assert await manager.start_container(container_id)  # it runs already
    assert await manager.get_container_status(container_id) is ContainerStatus.RUNNING
    found = await manager.get_container(container_id)
    assert (found.agent_id, found.resources.cpu_millis, found.environment) == ("a", 1000, {"ENV": "test"})
    assert (await manager.get_resource_usage(container_id))["pids"] == 1
    assert await manager.get_container_logs(container_id, lines=10) == []
    assert await manager.pause_container(container_id)
    assert await manager.get_container_status(container_id) is ContainerStatus.PAUSED
    with pytest.raises(Refused, match="resume it"):
        await manager.start_container(container_id)
    assert await manager.resume_container(container_id)
    stats = await manager.get_container_stats()
    assert (stats["total_containers"], stats["running_containers"], stats["starts"]) == (1, 1, 1)
    assert stats["by_status"]["running"] == 1
    assert await manager.stop_container(container_id)
    assert await manager.stop_container(container_id, force=True)  # it has stopped already
    with pytest.raises(Refused, match="only a running container can be paused"):
        await manager.pause_container(container_id)
    with pytest.raises(NotFound, match="is not running, so it has no usage"):
        await manager.get_resource_usage(container_id)
    assert await manager.start_container(container_id)
    assert await manager.destroy_container(container_id, force=True)
    assert await manager.destroy_container(container_id)
    with pytest.raises(Refused, match="create a new one"):
        await manager.start_container(container_id)
    assert [one.status for one in await manager.list_containers()] == [ContainerStatus.DESTROYED]
    assert (await manager.get_container_stats())["total_containers"] == 0


@pytest.mark.parametrize("embedded_app", [{"engine": {"retention_s": 0.0}}], indirect=True)
async def test_statistics_remember_what_left_memory(embedded_app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts, failures and destroyed containers are counted since the cluster was created."""
    monkeypatch.setattr(world, "HARD_S", 0.0)
    manager = ContainerManager(embedded_app)
    for _ in range(3):
        container_id = await manager.create_container(CONFIG)
        assert await manager.start_container(container_id)
        assert await manager.destroy_container(container_id, force=True)
    await TaskScheduler(embedded_app).submit_task("a turn later")
    assert await manager.list_containers() == []
    stats = await manager.get_container_stats()
    assert (stats["starts"], stats["failures"], stats["success_rate"]) == (3, 0, 1.0)
    assert (stats["total_containers"], stats["by_status"]["destroyed"], stats["is_complete"]) == (0, 3, True)


async def test_statistics_without_a_follower_say_so(embedded_app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then they are of what the coordinator has in memory."""
    monkeypatch.setattr(container_manager, "COUNT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(read_door.ReadDoor, "ask", AsyncMock(side_effect=Unavailable("the disk is full")))
    manager = ContainerManager(embedded_app)
    await manager.start_container(await manager.create_container(CONFIG))
    stats = await manager.get_container_stats()
    assert (stats["starts"], stats["total_containers"], stats["is_complete"]) == (1, 1, False)


async def test_what_does_not_fit(embedded_app: App) -> None:
    """The error of a create says what each node lacks; starting an `AgentContainer` that does not fit returns False."""
    manager = ContainerManager(embedded_app)
    with pytest.raises(Refused, match=r"no node has room.*memory: asked") as refused:
        await manager.create_container(TOO_BIG)
    assert refused.value.reason == "no_room"
    assert not await AgentContainer("big", TOO_BIG, embedded_app).start()
    with pytest.raises(NotFound):
        await manager.get_container("big")
    with pytest.raises(NotFound):
        await manager.start_container("never-was")
    unknown = AgentContainer("c", ContainerConfig(agent_id="a", agent_type="nobody-knows"), embedded_app)
    with pytest.raises(Refused, match="not in the catalogue"):
        await unknown.start()


async def test_one_container_as_an_object(embedded_app: App) -> None:
    """An `AgentContainer` is created by its first start; another object with the same id finds it."""
    container = AgentContainer("mine", CONFIG, embedded_app)
    with pytest.raises(NotFound):
        await container.get_status()
    assert await container.start()
    async with AgentContainer("mine", CONFIG, embedded_app) as same:
        assert await same.start()
        assert await same.pause()
        assert await same.resume()
        assert (await same.get_resource_usage())["memory_bytes"] >= 0
    assert await container.get_status() is ContainerStatus.RUNNING
    assert await container.stop()
    assert (await container.get_resource_usage())["pids"] == 0
    assert await container.get_logs() == []
    assert await container.destroy()
    assert (await container.get_resource_usage())["memory_bytes"] == 0
    assert await container.get_logs(lines=5) == []
    with pytest.raises(Refused):
        await container.start()


@pytest.mark.parametrize(
    "embedded_app",
    [{"node": {"runtime": "process", "sync_interval_s": 0.05}, "agents": {"ill": {"command": ["false"]}}}],
    indirect=True,
)
async def test_what_does_not_start(embedded_app: App) -> None:
    """A container that fails right after its start counts as not started; it can be stopped and started repeatedly."""
    manager = ContainerManager(embedded_app)
    container_id = await manager.create_container(ContainerConfig(agent_id="a", agent_type="ill"))
    await manager.start_container(container_id)
    async with asyncio.timeout(10):
        while await manager.get_container_status(container_id) is not ContainerStatus.ERROR:  # noqa: ASYNC110  # by itself
            await asyncio.sleep(0.02)
    assert "exited" in (await manager.get_container(container_id)).reason
    # As the requirements restart a failed container.
    assert await manager.stop_container(container_id, force=True)
    assert await manager.get_container_status(container_id) is ContainerStatus.STOPPED
    await manager.start_container(container_id)
    stats = await manager.get_container_stats()
    assert stats["starts"] >= 2
    assert stats["success_rate"] < 1.0


CRASHES_TWICE = """
echo x >>"$RUNS"
run=$(($(wc -l <"$RUNS")))
echo "run $run"
[ "$run" -gt 2 ] && exec sleep 60
sleep 0.2
exit "$run"
"""


def remains(root: Path) -> list[str]:
    """The directories of containers."""
    return [one.name for one in root.iterdir() if one.is_dir() and not one.name.startswith(".")]


@pytest.mark.parametrize(
    "embedded_app",
    [
        {
            "node": {"runtime": "process", "sync_interval_s": 0.05},
            "container": {"restart_backoff_s": 0.05},
            "agents": {"ill": {"command": ["sh", "-c", CRASHES_TWICE]}},
        }
    ],
    indirect=True,
)
async def test_the_log_and_the_exit_of_a_crash_outlive_the_restart(embedded_app: App, tmp_path: Path) -> None:
    """Those of the last one; what an earlier one left is removed, and all with the container."""
    manager, root = ContainerManager(embedded_app), tmp_path / "containers"
    config = ContainerConfig(agent_id="a", agent_type="ill", environment={"RUNS": str(tmp_path / "runs")})
    container_id = await manager.create_container(config)
    await manager.start_container(container_id)
    async with asyncio.timeout(20):
        while (found := await manager.get_container(container_id)).starts < 3 or found.started_at is None:  # noqa: ASYNC110  # its node does that
            await asyncio.sleep(0.02)
    assert found.last_exit is not None
    assert (found.last_exit.exit_code, found.last_exit.cause, found.cause) == (2, "exited", "")
    assert found.last_exit.generation != found.generation
    async with asyncio.timeout(20):
        while (lines := await manager.get_container_logs(container_id)) == []:  # noqa: ASYNC110  # it has just started
            await asyncio.sleep(0.02)
    assert lines == ["run 3"]
    assert await manager.get_container_logs(container_id, previous=True) == ["run 2"]
    container = AgentContainer(container_id, CONFIG, embedded_app)
    assert await container.get_logs(previous=True) == ["run 2"]
    async with asyncio.timeout(20):
        while len(kept := remains(root)) > 2:  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0.02)
    assert [one.endswith(found.last_exit.generation) for one in kept].count(True) == 1
    assert await manager.destroy_container(container_id, force=True)
    async with asyncio.timeout(20):
        while remains(root):  # noqa: ASYNC110  # likewise
            await asyncio.sleep(0.02)
    with pytest.raises(NotFound):
        await manager.get_container_logs(container_id, previous=True)


async def test_a_container_that_started_once_has_no_previous_log(embedded_app: App) -> None:
    """The error says so; the container itself has none then, as before its first start."""
    manager = ContainerManager(embedded_app)
    container_id = await manager.create_container(CONFIG)
    await manager.start_container(container_id)
    with pytest.raises(NotFound, match="it started once"):
        await manager.get_container_logs(container_id, previous=True)
    assert await AgentContainer(container_id, CONFIG, embedded_app).get_logs(previous=True) == []
    with pytest.raises(Refused, match="previous"):
        await manager.get_container_logs(container_id, previous="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("embedded_app", [{"container": {"default_timeout": 0.3}}], indirect=True)
async def test_a_node_that_does_nothing(embedded_app: App) -> None:
    """Calls return False after `container.default_timeout`; logs and usage of a node that is gone are unavailable."""
    plenty = Resources(cpu_millis=1_000_000, memory_bytes=2**50)
    await embedded_app.execute(RegisterNode(node_id="ghost", capacity=plenty, runtime="none"))
    manager = ContainerManager(embedded_app)
    big = ContainerConfig(agent_id="a", agent_type="task_agent", resources={"memory": "1000Gi"})
    container_id = await manager.create_container(big)
    assert (await manager.get_container(container_id)).node_id == "ghost"
    assert not await manager.start_container(container_id)
    assert await manager.get_container_status(container_id) is ContainerStatus.STARTING
    assert not await manager.stop_container(container_id)
    assert not await manager.destroy_container(container_id)
    for ask in (manager.get_container_logs, manager.get_resource_usage):
        with pytest.raises(Unavailable, match="node ghost does not answer"):
            await ask(container_id)
