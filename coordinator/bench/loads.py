"""Load for the benchmarks: tasks, services and worker processes, created through the public interface."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coordinator.commands.payloads import payload_of
from coordinator.commands.service import RegisterService
from coordinator.commands.task import SubmitTask
from coordinator.commands.worker import ListWorkers
from coordinator.guard import spawn
from coordinator.task_groups import task_group

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from coordinator.client.client import Client, Door
    from coordinator.commands.command import Command

HANDLERS = "coordinator.bench.handlers"
A_NAME = 10
"""Services for each name."""
PAYLOAD = payload_of("x" * 98)
"""100 bytes of JSON."""
READY_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0


async def execute_all(door: Door, commands: Iterable[Command], *, in_flight: int = 1000) -> None:
    """Execute all *commands*, *in_flight* at a time."""
    waiting = iter(commands)

    async def work() -> None:
        for command in waiting:
            await door.execute(command)

    async with task_group() as tasks:
        for _ in range(in_flight):
            tasks.create_task(work())


async def submit_all(client: Client, task_name: str, count: int, *, prefix: str) -> None:
    """Submit *count* tasks with 100 bytes of payload and the ids `<prefix>_<number>`."""
    await execute_all(
        client,
        (SubmitTask(task_id=f"{prefix}_{number}", task_name=task_name, payload=PAYLOAD) for number in range(count)),
    )


def service_ids(services: int) -> list[str]:
    """Return the ids of *services* services."""
    return [f"bench_{number}" for number in range(services)]


def service_names(services: int) -> list[str]:
    """Return the names of *services* services, ten services for each name."""
    return [f"name_{number}" for number in range(services // A_NAME)]


async def register_services(door: Door, services: int) -> None:
    """Register *services* services, a multiple of ten, with ten for each name."""
    names = service_names(services)
    await execute_all(
        door,
        (
            RegisterService(
                service_id=service_id,
                service_name=names[number % len(names)],
                service_type="bench",
                host="127.0.0.1",
                port=1024 + number % 60_000,
            )
            for number, service_id in enumerate(service_ids(services))
        ),
    )


@asynccontextmanager
async def worker_process(client: Client, url: str, worker_id: str, *, slots: int = 8) -> AsyncIterator[int]:
    """Run a worker process with the handlers of `bench.handlers`; yield its pid once it is registered."""
    argv = [
        sys.executable,
        "-P",
        "-m",
        "coordinator.cli",
        "worker",
        "run",
        HANDLERS,
        "--id",
        worker_id,
        "--slots",
        str(slots),
    ]
    env = {**os.environ, "COORDINATOR_URL": url, "COORDINATOR_LOG__LEVEL": "warning"}
    nowhere = subprocess.DEVNULL
    async with await spawn(argv, env=env, stdout=nowhere, stderr=nowhere, grace_s=STOP_GRACE_S) as child:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while worker_id not in {one.worker_id for one in await client.execute(ListWorkers(limit=1000))}:  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.02)
        yield child.pid
