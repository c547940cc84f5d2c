"""Start estimates against a real coordinator and real workers: most tasks start when they were expected to."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.explain import ExplainTask
from tests.commands import call
from tests.e2e.test_worker import ended, serving, some_worker, submit

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

TASKS, LEAST = 40, 0.7


async def test_most_tasks_start_when_they_were_expected_to(cluster: Cluster) -> None:
    """Their run times differ threefold; the coordinator says how many of its estimates were right."""
    dice = Random(11)
    worker = some_worker(cluster, worker_id="w", slots=3)

    @worker.task("n")
    async def some_time(_payload: object) -> None:
        await asyncio.sleep(dice.uniform(0.1, 0.3))

    async with serving(cluster, worker):
        await ended(cluster, await submit(cluster, "n", count=30, task_id="before"))
        expected: dict[str, tuple[float, float]] = {}
        ids = await submit(cluster, "n", count=TASKS, task_id="t")
        for task_id in ids:
            found = await cluster.client.execute(ExplainTask(task_id=task_id))
            if found.starts_in_s is not None:
                assert found.starts_from_s is not None
                assert found.starts_until_s is not None
                assert 0.0 <= found.starts_from_s <= found.starts_in_s <= found.starts_until_s
                expected[task_id] = (found.for_s + found.starts_from_s, found.for_s + found.starts_until_s)
        tasks = {task.task_id: task for task in await ended(cluster, ids)}
        waits = {task_id: (task.started_at or 0.0) - task.submitted_at for task_id, task in tasks.items()}
        right = [low <= waits[task_id] <= high for task_id, (low, high) in expected.items()]
        assert len(right) >= TASKS - 6, "some had begun before they were explained"
        assert sum(right) >= LEAST * len(right), [(waits[one], expected[one]) for one in expected]
        again = await submit(cluster, "n", count=TASKS, task_id="again")
        found = await cluster.client.execute(ExplainTask(task_id=again[-1]))
        assert found.estimates_scored >= len(right)
        assert found.estimates_right >= LEAST * len(right)
        done = await asyncio.to_thread(call, "task", "explain", again[-1], "--url", cluster.url)
        await ended(cluster, again)
    shown = " ".join(done.out.split())
    assert "(80 %, from" in shown
    assert "past estimates were right" in shown
