"""One source asks whatever it likes: the commands of another go on, and the writer's memory stays what it was."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bench.measure import resident_bytes
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.pool import AllocatePool, DefinePool
from coordinator.commands.service import RegisterService
from coordinator.commands.task import CancelTask, SubmitTask
from events.ids import checked
from events.resources import Resources
from tests.commands import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.real_server import RealServer

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.timeout(300), pytest.mark.untraced]

SERVICES = 5000
PENDING = 20_000
WAITS = 10_000
TIMES_SLOWER_MOST = 10
QUIET_LEAST_S = 0.005
"""A quiet machine is faster than any is while others use it."""
MEMORY_MOST = 64 * 1024 * 1024
MEASURED = 150


def request(name: str, count: int, **data: Any) -> bytes:
    return json.dumps([{"type": name, "data": data}] * count).encode()


FLOODS: dict[str, tuple[str, str, bytes]] = {
    "find all services": ("service", "find", request("find_services", 1000)),
    "find services, 10,000 each": ("service", "find", request("find_services", 1000, limit=10_000)),
    "find services by tag": ("service", "find", request("find_services", 1000, tag="nowhere")),
    "one find at a time": ("service", "find", request("find_services", 1)),
    "list failed tasks": ("task", "list", request("list_tasks", 1000, status="failed")),
    "list pending tasks": ("task", "list", request("list_tasks", 1000, status="pending", limit=1000)),
    "list the oldest tasks": ("task", "list", request("list_tasks", 1000, after="t0")),
    "list all tasks": ("task", "list", request("list_tasks", 1000, limit=1000)),
    "get a large pool": ("pool", "get", request("get_pool", 1000, pool_id="p")),
    "statistics": ("coordinator", "stats", request("get_stats", 1000)),
    "wait for a task": ("task", "get", request("get_task", 1000, task_id="t0", wait_s=0.5)),
    "what is not there": ("task", "get", request("get_task", 1000, task_id="none")),
}


class Measured:
    """A coordinator in a process of its own, and another caller who submits tasks."""

    def __init__(self, client: Client, url: str, pid: int, folder: Path) -> None:
        self.client = client
        self.url = url
        self.pid = pid
        self.folder = folder
        self.resident = 0
        self._numbers = iter(range(1_000_000))

    async def submits(self) -> float:
        """Submit tasks one after the other; return the 99th percentile in seconds."""
        took = []
        for _ in range(MEASURED):
            began = time.perf_counter()
            await self.client.execute(SubmitTask(task_id=f"measured-{next(self._numbers)}", task_name="n"))
            took.append(time.perf_counter() - began)
            self.resident = max(self.resident, resident_bytes(self.pid))
            await asyncio.sleep(0.001)
        return sorted(took)[int(len(took) * 0.99)]

    @asynccontextmanager
    async def flooded(self, name: str) -> AsyncIterator[None]:
        kind, verb, body = FLOODS[name]
        file = self.folder / "request.json"
        file.write_bytes(body)
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.questioner", self.url, kind, verb, str(file), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert asking.stdout is not None
            await asking.stdout.readline()
            await asyncio.sleep(0.5)
            yield
            assert asking.returncode is None
        finally:
            if asking.returncode is None:
                asking.kill()
            await asking.wait()


@asynccontextmanager
async def measured(server: RealServer, folder: Path, *, pending: int = PENDING) -> AsyncIterator[Measured]:
    home = folder / "home"
    with running(
        "serve",
        written=folder / "serve.out",
        COORDINATOR_HOME=str(home),
        COORDINATOR_URL=server.url,
        COORDINATOR_REGISTRY__MAX_SERVICES="10000",
        COORDINATOR_REGISTRY__HEARTBEAT_TIMEOUT="3600",
    ) as started:
        async with Client.open(server.url, source="other") as client:
            await client.execute(GetStats(), timeout_s=30.0)
            services = (
                RegisterService(
                    service_id=f"s{number:05}", service_name=f"n{number % 500}", service_type="t", host="h", port=1
                )
                for number in range(SERVICES)
            )
            await asyncio.gather(*map(client.execute, services))
            for begin in range(0, pending, 10_000):
                tasks = (SubmitTask(task_id=f"t{number}", task_name="n") for number in range(begin, begin + 10_000))
                await asyncio.gather(*map(client.execute, tasks))
            await client.execute(DefinePool(pool_id="p", capacity=Resources(cpu_millis=1_000_000)))
            shares = (
                AllocatePool(pool_id="p", request_id=f"r{number}", resources=Resources(cpu_millis=1))
                for number in range(4000)
            )
            await asyncio.gather(*map(client.execute, shares))
            yield Measured(client, server.url, started.process.pid, folder)


async def test_no_question_of_one_holds_up_the_commands_of_another(server: RealServer, tmp_path: Path) -> None:
    """Whatever it asks and however much at once."""
    found = {}
    async with measured(server, tmp_path) as cluster:
        quiet = await cluster.submits()
        before = cluster.resident
        for name in FLOODS:
            cluster.resident = 0
            async with cluster.flooded(name):
                found[name] = (await cluster.submits(), cluster.resident - before)
        quiet = max(quiet, await cluster.submits(), QUIET_LEAST_S)
    for name, (during, memory) in found.items():
        print(f"{name:30} quiet {quiet * 1e3:5.1f} ms, during {during * 1e3:6.1f} ms, {memory / 2**20:+6.1f} MB")
    assert {name for name, (during, _) in found.items() if during > TIMES_SLOWER_MOST * quiet} == set()
    assert {name for name, (_, memory) in found.items() if memory > MEMORY_MOST} == set()


async def test_many_who_wait_for_one_task_give_up_or_are_told_without_a_standstill(
    server: RealServer, tmp_path: Path
) -> None:
    """All of them are answered."""
    async with measured(server, tmp_path, pending=10_000) as cluster:
        quiet = await cluster.submits()
        for ends in (False, True):
            async with Client.open(server.url, source="waits") as waiting:
                subject = waiting.subjects.rpc("waits", "task", "get")
                wait_s = 30.0 if ends else 1.0
                asked = [
                    asyncio.create_task(
                        waiting.bus.request(
                            subject, request("get_task", 1000, task_id="t1", wait_s=wait_s), timeout_s=60.0
                        )
                    )
                    for _ in range(WAITS // 1000)
                ]
                await asyncio.sleep(0.5)
                if ends:
                    await cluster.client.execute(CancelTask(task_id=checked("t1")))
                during = await cluster.submits()
                answers = [answer for raw in await asyncio.gather(*asked) for answer in json.loads(raw)]
            assert len(answers) == WAITS
            assert {answer["ok"]["status"] for answer in answers} == {"cancelled" if ends else "pending"}
            print(f"ends {ends}: quiet {quiet * 1e3:.1f} ms, during {during * 1e3:.1f} ms")
            assert during <= TIMES_SLOWER_MOST * max(quiet, QUIET_LEAST_S)
