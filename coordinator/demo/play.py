"""
The demo: a cluster on this machine, two agents in containers, and a few hundred tasks of real work.

It uses the public interface only: the facades send commands, and the events come from the journal. All state is in a
temporary folder that is removed at the end, also after an error or an interrupt.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click

from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.reads import Wait
from coordinator.demo.show import Show, say
from coordinator.home import Home
from coordinator.journal.stream import NatsJournal
from coordinator.processes.credentials import patience
from coordinator.processes.up import run_cluster
from coordinator.registry import ServiceStatus
from coordinator.task_groups import task_group
from coordinator.terminal import clean
from events.errors import CoordinationError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from coordinator.processes.up import Cluster
    from coordinator.settings.model import Settings


AGENTS = 2
IN_FLIGHT = 64
TIME_LIMIT_S = 120.0
SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3", "turtledemo"}
BIGGEST = 8
LOG_LINES = 5
READ_MODEL_S = 10.0


async def play(settings: Settings, most: int) -> bool:
    """Run the demo with at most *most* tasks; return True if all of them completed."""
    began = time.monotonic()
    modules = list(_modules())[:most]
    with tempfile.TemporaryDirectory(prefix="coordinator-demo-") as folder:
        home = Home(Path(folder))
        say(f"starting nats-server (fsync always), coordinator, follower and node agent in {folder}")
        try:
            async with run_cluster(home, settings, quiet=True) as cluster:
                say(f"up after {time.monotonic() - began:.1f} s")
                done = await _with_url(cluster, _perform(settings, cluster, modules))
        except CoordinationError:
            _show_logs(home.path)
            raise
        if not done:
            _show_logs(home.path)
    say(f"stopped and removed the cluster; {time.monotonic() - began:.1f} s in total")
    return done


async def _with_url(cluster: Cluster, work: Coroutine[Any, Any, bool]) -> bool:
    """Run *work* with COORDINATOR_URL set, so that its facades find this cluster."""
    before = os.environ.get("COORDINATOR_URL")
    os.environ["COORDINATOR_URL"] = cluster.url
    try:
        return await work
    finally:
        if before is None:
            del os.environ["COORDINATOR_URL"]
        else:
            os.environ["COORDINATOR_URL"] = before


async def _perform(settings: Settings, cluster: Cluster, modules: list[tuple[str, str]]) -> bool:
    async with Client.open(cluster.url, namespace=settings.namespace, source="demo", **patience(settings)) as client:
        with Show(len(modules)) as show:
            done = await _run(client, show, modules)
        await _sum_up(client, cluster, show)
    return done


async def _run(client: Client, show: Show, modules: list[tuple[str, str]]) -> bool:
    """Start the agents, submit the tasks and wait until all have ended."""
    from coordinator.container import ContainerManager
    from coordinator.registry import ServiceRegistry
    from coordinator.scheduler import TaskScheduler

    async with (
        task_group() as tasks,
        ContainerManager() as containers,
        ServiceRegistry() as registry,
        TaskScheduler() as scheduler,
    ):
        following = tasks.create_task(show.follow(NatsJournal(client.bus, client.subjects)))
        try:
            async with asyncio.timeout(TIME_LIMIT_S):
                if await _start_agents(containers, registry):
                    show.began = time.monotonic()
                    await _submit(scheduler, modules)
                    await show.all_ended.wait()
        except TimeoutError:
            say(f"only {show.ended} of {len(modules)} tasks have ended after {TIME_LIMIT_S:g} s")
        show.took_s = time.monotonic() - show.began
        following.cancel()
        return show.ended == len(modules) and not show.failed


async def _start_agents(containers: Any, registry: Any) -> bool:
    """Start the agents in containers and wait until they are registered and healthy."""
    from coordinator.container import ContainerConfig

    for number in range(AGENTS):
        config = ContainerConfig(
            agent_id=f"analyst_{number}",
            agent_type="task_agent",
            resources={"cpu": "500m", "memory": "256Mi"},
            environment={"COORDINATOR_HANDLERS": "coordinator.demo.handlers", "COORDINATOR_WORKER_SLOTS": "8"},
        )
        container_id = await containers.create_container(config)
        if not await containers.start_container(container_id):
            say(f"container {container_id} did not start: {await containers.get_container_logs(container_id)}")
            return False
    while len(found := await registry.find_services("task_agent", ServiceStatus.HEALTHY)) < AGENTS:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    for one in found:
        say(f"found {one.service_name} {one.service_id}, {one.status.value}")
    return True


async def _submit(scheduler: Any, modules: list[tuple[str, str]]) -> None:
    """Submit one task for each module, IN_FLIGHT at a time."""
    waiting = iter(modules)

    async def submit() -> None:
        for module, path in waiting:
            await scheduler.submit_task(
                task_name="analyse_module",
                task_type="batch",
                timeout=60,
                payload={"module": module, "path": path},
            )

    async with task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.create_task(submit())


def _modules() -> Iterator[tuple[str, str]]:
    """Yield the name and path of each module of the standard library."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not SKIPPED & set(inside.parts) and not inside.parts[0].startswith("config-"):
            yield ".".join(inside.with_suffix("").parts), str(path)


async def _sum_up(client: Client, cluster: Cluster, show: Show) -> None:
    """Print the tables at the end."""
    completed = show.ended - show.failed
    rows = [("tasks", f"{completed} completed, {show.failed} failed, {show.total - show.ended} open, of {show.total}")]
    if show.to_end_s:
        rows += [
            ("throughput", f"{show.ended / show.took_s:,.0f} tasks/s of real work on {os.cpu_count()} cores"),
            ("submit → start", _spread(show.to_start_s)),
            ("submit → recorded end", _spread(show.to_end_s)),
            ("lines analysed", f"{sum(one['lines'] for one in show.results):,}"),
        ]
    restarts = ", ".join(f"{name} {one.starts - 1}" for name, one in cluster.programs.items())
    _table("what happened", [*rows, ("programs restarted", restarts)])
    events = sum(show.types.values())
    await ask_follower(client, Wait(position=str(show.position), timeout_s=READ_MODEL_S))
    _table(
        "where each event went",
        [
            ("journal", f"{events:,} events in {show.commits:,} fsynced commits, {show.bytes / 1e6:.1f} MB: the truth"),
            ("read model", f"all of them, up to {show.position}, in state.db: may be deleted, is rebuilt"),
            ("this demo", "follows the journal for everything shown here"),
            ("heartbeats", "in a stream in memory; only health changes enter the journal"),
        ],
    )
    _table("events by type", [(kind, f"{count:>6,}") for kind, count in show.types.most_common()])
    biggest = sorted(show.results, key=lambda one: -one["lines"])[:BIGGEST]
    if biggest:
        _table(
            "the biggest modules",
            [
                (one["module"], f"{one['lines']:>6,} lines {one['definitions']:>5,} definitions  {one['digest'][:12]}")
                for one in biggest
            ],
        )


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:  # noqa: PLR2004  # quantiles need two
        return f"{seconds[0] * 1000:.1f} ms"
    return f"median {median(seconds) * 1000:,.1f} ms, 99 % within {quantiles(seconds, n=100)[-1] * 1000:,.1f} ms"


def _table(title: str, rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    click.echo(f"\n{title}")
    for name, value in rows:
        click.echo(f"  {name.ljust(width)}  {value}")


def _show_logs(folder: Path) -> None:
    """Print the last log lines of each program before the folder is removed."""
    for file in sorted((folder / "logs").glob("*.log")):
        for line in file.read_text(errors="replace").splitlines()[-LOG_LINES:]:
            click.echo(f"{file.stem}: {clean(line)}", err=True)
