"""
Every code sample of the requirements runs unchanged, embedded and against a coordinator in other processes.

The samples are copies, unchanged except for the import root. What a sample assumes is created before it; each ending
of a task gets a fresh task.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.container import AgentContainer, ContainerConfig, ContainerManager, ContainerStatus
from coordinator.home import Home
from coordinator.processes.coordinator import rules_of
from coordinator.processes.up import run_cluster
from coordinator.registry import ServiceDiscovery, ServiceRegistry, ServiceStatus
from coordinator.scheduler import (
    PolicyType,
    SchedulingPolicy,
    SchedulingStrategy,
    TaskScheduler,
    TaskStatus,
)
from coordinator.settings.load import load
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SAMPLES = Path(__file__).with_name("samples")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), pytest.mark.untraced]


def source(name: str) -> str:
    return (SAMPLES / f"{name}.py.txt").read_text()


async def run(name: str, **presumed: Any) -> dict[str, Any]:
    """Run a sample as the body of an async function; return its local variables."""
    body = textwrap.indent(source(name), "    ")
    code = f"async def sample():\n{body}\n    return locals()\n"
    space: dict[str, Any] = {"asyncio": asyncio, **presumed}
    exec(compile(code, f"samples/{name}", "exec"), space)
    left: dict[str, Any] = await space["sample"]()
    return left


@pytest.fixture(params=["embedded", "remote"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Where the facades of a sample find their coordinator."""
    async with _cluster(tmp_path) if request.param == "remote" else nullcontext():
        yield request.param


@asynccontextmanager
async def _cluster(folder: Path) -> AsyncIterator[None]:
    async with run_cluster(Home(folder / "cluster"), load(), quiet=True) as cluster:
        os.environ["COORDINATOR_URL"] = cluster.url
        try:
            yield
        finally:
            del os.environ["COORDINATOR_URL"]


def test_the_states_are_those_of_the_requirements() -> None:
    """Names and values, of every enum the sample defines."""
    from enum import Enum

    space: dict[str, Any] = {"Enum": Enum}
    exec(source("states"), space)
    ours = {
        "ContainerStatus": ContainerStatus,
        "ServiceStatus": ServiceStatus,
        "TaskStatus": TaskStatus,
        "SchedulingStrategy": SchedulingStrategy,
    }
    for name, enum in ours.items():
        assert {one.name: one.value for one in enum} == {one.name: one.value for one in space[name]}


async def test_a_program_may_pass_its_own_copy_of_an_enum(place: str) -> None:
    """Wherever a member is taken, one of the sample's enum stands for its value, and any other is refused."""
    from enum import Enum

    space: dict[str, Any] = {"Enum": Enum}
    exec(source("states"), space)
    left = await run("service_registry", ServiceStatus=space["ServiceStatus"])
    registry, scheduler = left["registry"], TaskScheduler()
    try:
        found = await registry.find_services(status=space["ServiceStatus"].UNKNOWN)
        assert left["service_id"] in {one.service_id for one in found}
        task_id = await scheduler.submit_task("data_processing")
        assert [one.task_id for one in await scheduler.list_tasks(status=space["TaskStatus"].PENDING)] == [task_id]
        task = await scheduler.get_next_task("worker_001", strategy=space["SchedulingStrategy"].PRIORITY)
        assert task is not None
        assert task.task_id == task_id
        with pytest.raises(Refused, match=r"status <TaskStatus\.FAILED: 'failed'> is not one of healthy"):
            await registry.find_services(status=space["TaskStatus"].FAILED)
        strategy = Enum("Strategy", {"ANY": "least_loaded"}).ANY  # type: ignore[attr-defined]  # made here
        assert await ServiceDiscovery(registry).discover_service("task_agent", strategy) is not None
    finally:
        await registry.close()
        await scheduler.close()


async def test_containers(place: str) -> None:
    """The manager's sample, one container as an object, and restarting it."""
    left = await run("container_manager")
    manager, container_id = left["container_manager"], left["container_id"]
    try:
        assert left["success"] is True
        assert left["status"] is ContainerStatus.RUNNING
        restart = await run("restart_failed_container", container_manager=manager)
        await restart["restart_failed_container"](container_id)
        assert await manager.get_container_status(container_id) is ContainerStatus.RUNNING
        await manager.destroy_container(container_id)
        config = ContainerConfig(agent_id="agent_002", agent_type="task_agent", resources={"cpu": "1"})
        await _one_container(config)
    finally:
        await manager.close()


async def _one_container(config: ContainerConfig) -> None:
    """The sample asks for usage and logs of a container it has just destroyed: usage is zero and there are no logs."""
    left = await run("agent_container", container_id="container_of_my_own", config=config)
    assert left["resources"]["memory_bytes"] == 0
    assert left["logs"] == []
    container: AgentContainer = left["container"]
    with pytest.raises(Refused):
        await container.start()
    await container.close()
    running = AgentContainer("another_of_my_own", config)
    assert await running.start()
    assert (await running.get_resource_usage())["memory_bytes"] > 0
    assert await running.get_logs() == []
    assert await running.destroy(force=True)
    await running.close()


async def test_resources(place: str) -> None:
    """Two pools: what one holds, the other does not."""
    left = await run("resource_manager")
    assert left["success"] is True
    assert left["status"]["allocated"]["cpu"] == 2.0
    other = await run("resource_allocator")
    assert other["success"] is True
    assert other["status"]["allocated"]["cpu"] == 0
    assert other["optimization_results"]["optimizations_applied"] == 0
    await left["resource_manager"].close()
    await other["allocator"].close()


async def test_services(place: str) -> None:
    """The sample's service has a health URL outside the networks that may be checked: it stays UNKNOWN."""
    left = await run("service_registry", ServiceStatus=ServiceStatus)
    registry, service_id = left["registry"], left["service_id"]
    try:
        assert left["services"] == []
        found = await run("service_discovery", registry=registry)
        assert found["service"] is None  # nobody has registered a high_load_service
        fallback = await found["discovery"].discover_service("task_agent")
        assert fallback.service_id == service_id
        assert fallback.status is ServiceStatus.UNKNOWN
        checked = await run("health_checker", registry=registry, service_id=service_id)
        assert (await registry.get_service(service_id)).status is ServiceStatus.HEALTHY
        assert len(checked["history"]) >= 1
        await checked["health_checker"].close()
    finally:
        await registry.close()


async def test_tasks(place: str) -> None:
    """The sample ends a task twice: each ending gets a fresh task, as the text of the sample assumes."""
    body = source("task_scheduler")
    submit, rest = body.split("task = await", 1)
    claim, ends = ("task = await" + rest).split("await scheduler.complete_task", 1)
    complete, fail = ("await scheduler.complete_task" + ends).split("await scheduler.fail_task", 1)
    fresh = 'task_id = await scheduler.submit_task("fresh")\n'
    whole = submit + claim + complete + fresh + "await scheduler.fail_task" + fail
    code = f"async def sample():\n{textwrap.indent(whole, '    ')}\n    return locals()\n"
    space: dict[str, Any] = {}
    exec(compile(code, "samples/task_scheduler", "exec"), space)
    left = await space["sample"]()
    scheduler = left["scheduler"]
    try:
        done = await scheduler.get_task(left["task"].task_id)
        assert done.status is TaskStatus.COMPLETED
        assert done.execution_time == 120.5
        failed = await scheduler.get_task(left["task_id"])
        assert failed.status is TaskStatus.PENDING  # will be retried
        assert failed.error == "Resource allocation failed"
        held_id = await scheduler.submit_task("retried")
        held = await scheduler.get_next_task("worker_001", task_names=["retried"])
        assert held.task_id == held_id
        assert await run("retry", task_info=held) == {}
        again = await scheduler.get_next_task(
            "worker_001", task_names=["retried"], wait_s=10
        )  # it is back in the queue
        assert (again.task_id, again.attempt, again.retry_count) == (held_id, 2, 1)
    finally:
        await scheduler.close()


async def test_policies() -> None:
    """Works on plain lists, and on one strategy written by the user."""
    tasks = [{"task_id": "a", "priority": "low"}, {"task_id": "b", "priority": "high"}]
    left = await run(
        "scheduling_policy", available_tasks=tasks, available_workers=["worker_001", "worker_002"], task=tasks[0]
    )
    assert left["selected_task"]["task_id"] == "b"
    assert left["selected_worker"] in ("worker_001", "worker_002")
    space: dict[str, Any] = {"SchedulingPolicy": SchedulingPolicy, "PolicyType": PolicyType}
    exec(source("custom_policy"), space)
    own = space["CustomSchedulingPolicy"]()
    assert own.policy_type is PolicyType.CUSTOM
    assert own.select_task(tasks, ["worker_001"]) is None


async def test_statistics(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every line the sample prints contains its number."""
    async with ContainerManager() as containers, ServiceRegistry() as registry, TaskScheduler() as scheduler:
        await registry.register_service("task_agent", "agent", host="localhost", port=8080)
        await scheduler.submit_task("waits")
        await run(
            "statistics",
            container_manager=containers,
            registry=registry,
            discovery=ServiceDiscovery(registry),
            scheduler=scheduler,
        )
    printed = capsys.readouterr().out
    assert "success rate: 100.00%" in printed
    assert "healthy: 1" in printed
    assert "pending: 1" in printed


def test_the_configuration_is_read(tmp_path: Path) -> None:
    """Every key of it, with its value."""
    settings = load(SAMPLES / "configuration.yaml")
    assert settings.container.max_containers == 100
    assert settings.registry.max_services == 1000
    assert settings.scheduler.default_strategy == "fifo"
    assert rules_of(settings).max_concurrent_tasks == 100


def test_the_complete_example_runs_as_a_script(tmp_path: Path) -> None:
    """With no configuration: it exits 0, prints nothing else, and leaves nothing behind."""
    script = tmp_path / "example.py"
    script.write_text(source("complete_example"))
    # No setting and no PATH; it needs the home and temporary folders, because this test looks there.
    env = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, script], env=env, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "container_started" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["example.py"]
    told = [file for file in Path("/proc").glob("[0-9]*/environ") if str(tmp_path).encode() in _content(file)]
    assert told == []


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


async def test_the_complete_example(place: str) -> None:
    """Works as the body of a program."""
    space: dict[str, Any] = {"__name__": "sample"}
    exec(source("complete_example"), space)
    await space["main"]()
