"""Load for the measurements: tasks, services and worker processes, made through the same doors that everyone uses."""

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
"""Services of one name."""
PAYLOAD = payload_of("x" * 98)
"""100 bytes of JSON."""
READY_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0


async def execute_all(door: Door, commands: Iterable[Command], *, in_flight: int = 1000) -> None:
    """Have all *commands* executed, so many at once."""
    waiting = iter(commands)

    async def work() -> None:
        for command in waiting:
            await door.execute(command)

    async with task_group() as tasks:
        for _ in range(in_flight):
            tasks.create_task(work())


async def submit_all(client: Client, task_name: str, count: int, *, prefix: str) -> None:
    """Submit *count* tasks of 100 bytes, named *prefix* and a number."""
    await execute_all(
        client,
        (SubmitTask(task_id=f"{prefix}_{number}", task_name=task_name, payload=PAYLOAD) for number in range(count)),
    )


def service_ids(services: int) -> list[str]:
    """Name so many services."""
    return [f"bench_{number}" for number in range(services)]


def service_names(services: int) -> list[str]:
    """Give the names that so many services go by, ten by each."""
    return [f"name_{number}" for number in range(services // A_NAME)]


async def register_services(door: Door, services: int) -> None:
    """Register *services* services, ten of each name; a multiple of ten."""
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
    """Run a worker with the handlers of `bench.handlers` in a process of its own, and give its pid once it claims."""
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
