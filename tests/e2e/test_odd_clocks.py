"""
A coordinator whose wall clock is years off at its start, and is set while it leads; nats-server's own clock is right.

Nothing else of a cluster goes by a wall clock: leases, heartbeats and grants are counted by elapsed time.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from coordinator.client.client import Client
from coordinator.clock import SystemClock
from coordinator.commands.task import ClaimTasks, CompleteTask, GetTask, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.diagnostics import doctor
from coordinator.diagnostics.findings import State
from coordinator.ids import TimeOrderedIds
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.task_groups import task_group
from events.task import TaskStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.real_server import RealServer

pytestmark = pytest.mark.e2e

YEAR_S = 365 * 86_400.0
PATIENCE_S = 20.0
LEASE_S = 2.0


class Hands(SystemClock):
    """The machine's clock with its hands moved by *years*."""

    def __init__(self, years: float) -> None:
        self.years = years

    def wall(self) -> float:
        return super().wall() + self.years * YEAR_S


@asynccontextmanager
async def led(server: RealServer, clock: Hands) -> AsyncIterator[Client]:
    """Let a coordinator lead by *clock* while the block runs."""
    instance = Instance(url=server.url, name="tested", version="0", rules=Rules(lease_s=LEASE_S, retry_backoff_s=0.05))
    async with task_group() as tasks:
        coordinator = Coordinator(instance, clock=clock)
        serving = tasks.create_task(coordinator.run())
        async with asyncio.timeout(PATIENCE_S), Client.open(server.url, name="test") as client:
            await coordinator.leading.wait()
            yield client
        coordinator.stop("the test is over")
        await serving


async def claimed(client: Client, name: str, *, timeout_s: float | None = None) -> str:
    """Submit a task, claim it, and return its lease."""
    await client.execute(SubmitTask(task_id=name, task_name=name, timeout_s=timeout_s))
    claim = ClaimTasks(
        claim_id=TimeOrderedIds().new("claim"), worker_id="w", task_names=(name,), slots=1, wait_s=PATIENCE_S
    )
    (task,) = await client.execute(claim)
    return str(task.lease)


async def status_of(client: Client, name: str) -> TaskStatus:
    """Return the status of a task."""
    status: TaskStatus = (await client.execute(GetTask(task_id=name))).status
    return status


@pytest.mark.parametrize("years", [-50, -1, 1, 50])
async def test_a_clock_that_is_set_by_years_while_a_coordinator_leads(server: RealServer, years: int) -> None:
    """No time limit, lease or retry ends early or late, tasks go through, and the log says it."""
    clock = Hands(0)
    with capture_logs() as logs:
        async with led(server, clock) as client:
            limited = await claimed(client, "limited", timeout_s=600.0)
            await claimed(client, "silent")
            clock.years = years
            assert await status_of(client, "limited") is TaskStatus.RUNNING
            for number in range(3):
                lease = await claimed(client, f"during{number}")
                await client.execute(CompleteTask(task_id=f"during{number}", lease=lease))
                client.beat_worker("w", (limited,))
                await asyncio.sleep(LEASE_S / 2)
            assert await status_of(client, "limited") is TaskStatus.RUNNING
            assert await status_of(client, "silent") is not TaskStatus.RUNNING
            await client.execute(CompleteTask(task_id="limited", lease=limited))
            clock.years = 0
            await client.execute(CompleteTask(task_id="during0"), timeout_s=PATIENCE_S)
    said = {line["event"] for line in logs}
    assert ("wall_clock_jumped" if years > 0 else "wall_clock_behind") in said
    assert "lease_lost" not in said
    assert "leadership_lost" not in said


@pytest.mark.parametrize("years", [-50, 50])
async def test_a_clock_that_is_years_off_for_one_reign(server: RealServer, years: int) -> None:
    """The next reign goes on from the last commit; doctor and the log say how far recorded times are off, or were."""
    with capture_logs() as logs:
        async with led(server, Hands(years)) as client:
            lease = await claimed(client, "before", timeout_s=600.0)
            first = (await client.execute(GetTask(task_id="before"))).submitted_at
        async with led(server, Hands(0)) as client:
            second = await claimed(client, "after")
            assert (await client.execute(GetTask(task_id="after"))).submitted_at > first
            await client.execute(CompleteTask(task_id="after", lease=second))
            (found,) = [one for one in await doctor._clock(client) if one.check == "commit time"]
            if years > 0:
                assert await status_of(client, "before") is TaskStatus.RUNNING
                await client.execute(CompleteTask(task_id="before", lease=lease))
                assert found.state is State.FAIL
                assert "durations are right" in found.do
            else:
                # As after fifty years without a coordinator: nobody can tell that there were none.
                assert found.state is State.OK
    said = {line["event"] for line in logs}
    assert said >= ({"wall_clock_behind"} if years > 0 else {"wall_clock_wrong", "wall_clock_far_ahead"})
