"""What the end or the pause of a real container means for its service, its worker and the task it runs."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.app.app import embedded
from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats
from coordinator.commands.reads import Events
from coordinator.commands.worker import ListWorkers
from coordinator.container import ContainerConfig, ContainerManager
from coordinator.registry import ServiceRegistry
from coordinator.scheduler import TaskScheduler
from coordinator.settings.model import Settings
from coordinator.settings.sections import SchedulerSettings
from events.codec import seconds_of
from events.container import ContainerStatus
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.worker import WorkerStatus
from tests.process_runtimes import lives

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from coordinator.app.app import App
    from coordinator.scheduler import TaskInfo

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 30.0
GRACE_S, ENDED_WITHIN_S = 1.0, 1.0
LEASE_S = 5.0
HANDLERS = """
import asyncio, os, pathlib, time
from coordinator.registry import ServiceRegistry
from coordinator.worker import task

@task("nap")
async def nap(payload):
    await asyncio.sleep(payload)
    return "rested"

@task("crash_once")
async def crash_once(payload):
    if not pathlib.Path(payload).exists():
        pathlib.Path(payload).touch()
        os._exit(3)

@task("deaf")
async def deaf(payload):
    pathlib.Path(payload).write_text(str(os.getpid()))
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass

@task("blocked")
def blocked(payload):
    pathlib.Path(payload).write_text(str(os.getpid()))
    time.sleep(600)  # what is raised in its thread waits for its end

@task("register")
async def register(payload):
    async with ServiceRegistry() as registry:
        return await registry.register_service(payload, "agent", "localhost", 9, service_id=payload)
"""


class Fleet:
    """A cluster in this process whose node runs one container with a service and a worker."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.containers, self.registry, self.tasks = ContainerManager(app), ServiceRegistry(app), TaskScheduler(app)
        self.id = ""

    async def until(self, what: Callable[[], Any], wanted: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await what() != wanted:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.02)

    async def found(self, name: str = "task_agent") -> bool:
        """Whether there is a healthy instance; discovery never hands out the built-in agent, which has no port."""
        return bool(await self.registry.find_services(name, ServiceStatus.HEALTHY))

    async def worker(self) -> WorkerStatus | None:
        return {one.worker_id: one.status for one in await self.app.execute(ListWorkers())}.get(self.id)

    async def napping(self, seconds: float) -> str:
        """Let the worker run a task."""
        task_id = await self.tasks.submit_task("nap", payload=seconds)
        await self.until(lambda: self.status(task_id), TaskStatus.RUNNING)
        return task_id

    async def task(self, task_id: str) -> TaskInfo:
        return await self.tasks.get_task(task_id)

    async def status(self, task_id: str) -> TaskStatus:
        return (await self.task(task_id)).status


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    handlers = folder / "nap_handlers.py"
    handlers.write_text(HANDLERS)
    async with embedded(folder / "home", Settings(scheduler=SchedulerSettings(lease_s=LEASE_S))) as app:
        it = Fleet(app)
        config = ContainerConfig(
            agent_id="a", agent_type="task_agent", environment={"COORDINATOR_HANDLERS": str(handlers)}
        )
        it.id = await it.containers.create_container(config)
        assert await it.containers.start_container(it.id)
        await it.until(it.found, True)
        await it.until(it.worker, WorkerStatus.ACTIVE)
        yield it


async def test_a_destroyed_container_is_gone_for_all_at_once(tmp_path: Path) -> None:
    """Its service is out of discovery when the call returns, and its task waits for another worker, uncounted."""
    async with fleet(tmp_path) as it:
        task_id = await it.napping(60)
        began = time.monotonic()
        await it.containers.destroy_container(it.id, force=True)
        assert not await it.found()
        await it.until(lambda: it.status(task_id), TaskStatus.PENDING)
        assert time.monotonic() - began < LEASE_S
        assert (await it.task(task_id)).retry_count == 0
        assert await it.worker() is WorkerStatus.LEFT


async def test_a_crashed_container_is_gone_until_it_runs_again(tmp_path: Path) -> None:
    """Its attempts count, as one of them may have ended the process, and go to the next generation."""
    async with fleet(tmp_path) as it:
        marker = tmp_path / "crashed"
        napping = await it.napping(2)
        task_id = await it.tasks.submit_task("crash_once", payload=str(marker))
        await it.until(lambda: it.status(napping), TaskStatus.PENDING)
        assert marker.exists()
        assert not await it.found()
        for one in (task_id, napping):
            await it.until(lambda one=one: it.status(one), TaskStatus.COMPLETED)  # type: ignore[misc]  # bound at once
            assert (await it.task(one)).retry_count == 1
        assert await it.found()


async def test_a_paused_container_is_out_of_everything_and_comes_back(tmp_path: Path) -> None:
    """Its task waits for longer than its lease, and nobody else gets it; another task waits too."""
    async with fleet(tmp_path) as it:
        task_id = await it.napping(0.5)
        await it.containers.pause_container(it.id)
        assert not await it.found()
        waiting = await it.tasks.submit_task("nap", payload=0.1)
        await it.until(lambda: it.containers.get_container_status(it.id), ContainerStatus.PAUSED)
        await asyncio.sleep(2 * LEASE_S)
        assert await it.status(task_id) is TaskStatus.RUNNING
        assert await it.status(waiting) is TaskStatus.PENDING
        await it.containers.resume_container(it.id)
        await it.until(it.found, True)
        for one in (task_id, waiting):
            await it.until(lambda one=one: it.status(one), TaskStatus.COMPLETED)  # type: ignore[misc]  # bound at once
            assert (await it.task(one)).retry_count == 0


async def test_what_a_program_registers_in_a_container_ends_with_it(tmp_path: Path) -> None:
    """It names no container: the node agent has told it in the environment."""
    async with fleet(tmp_path) as it:
        task_id = await it.tasks.submit_task("register", payload="mine")
        await it.until(lambda: it.status(task_id), TaskStatus.COMPLETED)
        assert (await it.registry.get_service("mine")).container_id == it.id
        await it.containers.stop_container(it.id)
        assert not await it.found("mine")


@pytest.mark.parametrize(("name", "how"), [("deaf", "left_behind"), ("blocked", "raised")])
async def test_a_handler_that_nothing_ends_is_ended_with_its_container(tmp_path: Path, name: str, how: str) -> None:
    """Asked, told, forced, and then its container, within a second of the grace; each step is an event."""
    pid_file = tmp_path / "pid"
    async with fleet(tmp_path) as it:
        task_id = await it.tasks.submit_task(name, payload=str(pid_file))
        async with asyncio.timeout(PATIENCE_S):
            while not pid_file.exists() or not pid_file.read_text():  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)
        pid = int(pid_file.read_text())
        status = await it.tasks.cancel_task(task_id, "enough", grace=GRACE_S, escalate="container")
        assert status is TaskStatus.CANCELLED
        await it.until(lambda: it.containers.get_container_status(it.id), ContainerStatus.STOPPED)
        async with asyncio.timeout(ENDED_WITHIN_S):
            while lives(pid):  # noqa: ASYNC110  # it was killed, and ends
                await asyncio.sleep(0.01)
        position = (await it.app.execute(GetStats())).position
        page = await ask_follower(it.app.client, Events(limit=1000, at_least=position))
    steps = [(one["type"], one["data"].get("how", "")) for one in page.events if one["subject"] == task_id]
    assert [one for one in steps if "cancel" in one[0]][:2] == [("task.cancel_asked", ""), ("task.cancel_told", "")]
    assert {("task.cancel_forced", how), ("task.cancel_forced", "container")} < {*steps}
    assert steps[-1][0] == "task.cancelled"
    (stopping,) = [one["data"] for one in page.events if one["type"] == "container.stopping"]
    assert (stopping["force"], stopping["reason"]) == (True, "cancel_escalated")
    at = {one["type"]: seconds_of(one["time"]) for one in page.events}
    for ended in ("task.cancelled", "container.stopped"):
        assert GRACE_S <= at[ended] - at["task.cancel_asked"] < GRACE_S + ENDED_WITHIN_S, ended
