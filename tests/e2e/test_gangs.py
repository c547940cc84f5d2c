"""Tasks that begin together or not at all, with real workers and a real server, beside small tasks that never stop."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import json

from coordinator.cli import EXIT_REFUSED
from coordinator.commands.explain import ExplainTask
from coordinator.commands.task import SubmitTask
from coordinator.task_groups import task_group
from events.task import Gang, TaskStatus
from events.time_limits import GANG_DEADLINE
from tests.commands import call
from tests.e2e.test_worker import _nothing, ended, serving, some_worker, submit, task_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

SMALL_S = 0.2
AHEAD = 6
"""So many small tasks wait at any moment."""


@asynccontextmanager
async def small_tasks(cluster: Cluster) -> AsyncIterator[list[str]]:
    """Submit small tasks all the time, so that some always wait; yield the ids of those that have ended."""
    done: list[str] = []

    async def one_after_the_other(lane: int) -> None:
        for number in range(100_000):
            long_s = SMALL_S * (1.0 + 0.37 * lane)  # so that they do not end together
            ids = await submit(cluster, "small", long_s, task_id=f"s{lane}-{number}")
            done.extend(task.task_id for task in await ended(cluster, ids))

    async with task_group() as tasks:
        lanes = [tasks.create_task(one_after_the_other(lane)) for lane in range(AHEAD)]
        try:
            yield done
        finally:
            for lane in lanes:
                lane.cancel()


async def test_a_gang_begins_beside_small_tasks(cluster: Cluster) -> None:
    """Over two workers with 2 and 1 slots, as does another one that needs all of them; all at the same moment."""
    workers = some_worker(cluster, worker_id="two", slots=2), some_worker(cluster, worker_id="one", slots=1)

    async def nap(payload: float | None) -> None:
        await asyncio.sleep(payload or SMALL_S)

    for worker in workers:
        worker.task("small")(nap)
        worker.task("rank")(nap)
    async with serving(cluster, workers[0]), serving(cluster, workers[1]), small_tasks(cluster) as done:
        gangs = [Gang(gang_id=name, size=3, deadline_s=16.0) for name in ("first", "second")]
        await asyncio.sleep(5 * SMALL_S)
        ids = [await submit(cluster, "rank", count=3, task_id=gang.gang_id, gang=gang) for gang in gangs]
        for gang_ids in ids:
            tasks = await ended(cluster, gang_ids)
            assert {task.status for task in tasks} == {TaskStatus.COMPLETED}, tasks
            assert len({task.started_at for task in tasks}) == 1
            assert sorted(task.worker_id for task in tasks) == ["one", "two", "two"]
        assert len(done) > 10
        before = len(done)
        await asyncio.sleep(5 * SMALL_S)
        assert len(done) > before


async def test_a_gang_that_stays_incomplete_ends_at_its_deadline(cluster: Cluster) -> None:
    """It says what is missing; the command line submits, explains and cancels gangs."""
    worker = some_worker(cluster, worker_id="w", slots=4)
    worker.task("rank")(_nothing)

    def run(*line: str) -> Any:
        return call("task", *line, "--url", cluster.url)

    async with serving(cluster, worker):
        gang = Gang(gang_id="short", size=3, deadline_s=1.0)
        ids = await submit(cluster, "rank", count=2, task_id="short", gang=gang)
        # A second reason is told while the worker, which has just registered, does not ask for tasks yet.
        reasons = (await cluster.client.execute(ExplainTask(task_id=ids[0]))).reasons
        assert [one.change for one in reasons if one.code == "gang_gathers"] == ["submit 1 more with gang short"]
        assert {(task.status, task.exceeded) for task in await ended(cluster, ids)} == {
            (TaskStatus.TIMEOUT, GANG_DEADLINE)
        }
        options = ("--gang", "long", "--gang-size", "2", "--gang-deadline", "60")
        assert (await asyncio.to_thread(run, "submit", "rank", "--id", "a", *options)).code == 0
        refused = await asyncio.to_thread(run, "submit", "rank", "--id", "b", *options[:2], "--gang-size", "3")
        assert refused.code == EXIT_REFUSED
        assert "gang 'long' has size 2 and deadline_s 60 by task 'a'" in refused.err
        assert "--gang-size" in (await asyncio.to_thread(run, "submit", "rank", "--gang", "long")).err
        told = await asyncio.to_thread(run, "explain", "a")
        assert "gang_gathers: 1 of 2 tasks of gang long are here, 1 wait" in told.out
        shown = await asyncio.to_thread(run, "get", "a")
        assert "long, 2 tasks, begins by" in shown.out
        assert (await task_of(cluster, "a")).status is TaskStatus.PENDING
        cancelled = await asyncio.to_thread(run, "cancel", "--where", 'gang == "long"')
        assert cancelled.code == 0
        assert (await task_of(cluster, "a")).status is TaskStatus.CANCELLED
        again = [
            SubmitTask(task_id=f"again-{one}", task_name="rank", gang=Gang(gang_id="long", size=2)) for one in "ab"
        ]
        for command in again:
            await cluster.client.execute(command)
        assert {task.status for task in await ended(cluster, ["again-a", "again-b"])} == {TaskStatus.COMPLETED}
        listed = await asyncio.to_thread(run, "list", "--where", 'gang == "long"', "--json")
        assert {one["task_id"] for one in json.decode(listed.out)} >= {"again-a", "again-b"}
