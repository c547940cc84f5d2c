"""Times of tasks on a real cluster: delays, time limits, checkpoints."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from coordinator.scheduler import TaskScheduler, TaskStatus
from events.errors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e


@pytest.fixture
async def scheduler(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TaskScheduler]:
    """A facade that uses the cluster."""
    monkeypatch.setenv("COORDINATOR_URL", cluster.url)
    async with TaskScheduler() as made:
        yield made


async def test_a_delayed_task_starts_when_its_time_has_come_also_after_a_takeover(
    cluster: Cluster, scheduler: TaskScheduler
) -> None:
    """A claim that waits gets it then, not before, and no other command is needed for it."""
    begun = time.time()
    task_id = await scheduler.submit_task("later", delay=3.0)
    at = datetime.now(UTC) + timedelta(hours=1)
    other = await scheduler.submit_task("much later", not_before=at)
    assert (await scheduler.get_task(other)).not_before == at
    await cluster.crash()
    await cluster.start()
    task = await scheduler.get_next_task("worker_1", wait_s=20.0)
    assert task is not None
    assert task.task_id == task_id
    assert 3.0 <= task.started_at - task.submitted_at < 4.5  # type: ignore[operator]  # it has started
    assert time.time() - begun < 15.0
    await scheduler.cancel_task(other)
    assert (await scheduler.get_task(other)).status is TaskStatus.CANCELLED


async def test_a_time_without_a_zone_is_refused(scheduler: TaskScheduler) -> None:
    """Nobody can know what it means; the coordinator is not asked."""
    for wrong, reason in ((datetime(2126, 1, 1), "bad_time"), (5.0, "bad_type"), ("tomorrow", "bad_type")):  # noqa: DTZ001
        with pytest.raises(Refused) as caught:
            await scheduler.submit_task("later", not_before=wrong)  # type: ignore[arg-type]  # that is the point
        assert caught.value.reason == reason
    with pytest.raises(Refused, match="one of them"):
        await scheduler.submit_task("later", not_before=datetime.now(UTC), delay=1.0)
