"""A program whose `get_next_task` finds nothing is told why its tasks wait: once for each reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.client.machine import machine
from coordinator.commands.worker import ListWorkers, RegisterWorker
from coordinator.scheduler import TaskScheduler
from coordinator.worker import Worker
from events.errors import Refused
from events.resources import Resources

if TYPE_CHECKING:
    from tests.facades import Here

HUGE = {"cpu": 1000}


def told(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr()
    return said.out + said.err


async def test_a_task_that_fits_no_machine_waits_and_says_why(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """The worker of `get_next_task` has what this machine has: nothing is overbooked in silence."""
    scheduler = TaskScheduler(here.app)
    task_id = await scheduler.submit_task("huge", resources=HUGE)
    for _ in range(3):
        assert await scheduler.get_next_task("worker_1") is None
    (worker,) = await here.app.execute(ListWorkers())
    assert worker.resources == machine()
    said = told(capsys)
    assert said.count("task_does_not_fit") == 1
    assert all(one in said for one in (task_id, "worker_1", "has ", "start a worker with 1000 cores"))
    await scheduler.submit_task("licensed", resources={"licences": 1})
    assert await scheduler.get_next_task("worker_1") is None
    assert "task_does_not_fit" not in told(capsys)  # the same reason
    await scheduler.submit_task("european", worker_filter='labels.zone == "eu"')
    assert await scheduler.get_next_task("worker_1") is None
    said = told(capsys)
    assert said.count("task_does_not_fit") == 1
    assert 'asked is labels.zone == "eu"' in said.replace('\\"', '"')


async def test_what_fits_is_taken_until_the_machine_is_full(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    """A full machine is no reason to say anything: a task ends sooner or later."""
    scheduler, whole = TaskScheduler(here.app), {"memory": machine().memory_bytes}
    first = await scheduler.submit_task("whole", resources=whole)
    second = await scheduler.submit_task("whole", resources=whole)
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    assert task.task_id == first
    assert await scheduler.get_next_task("worker_1") is None
    await scheduler.complete_task(first)
    task = await scheduler.get_next_task("worker_1")
    assert task is not None
    assert task.task_id == second
    assert "task_does_not_fit" not in told(capsys)


async def test_a_worker_that_is_registered_keeps_what_it_has(here: Here) -> None:
    """Its own word counts."""
    await here.app.execute(RegisterWorker(worker_id="gpus", resources=Resources(gpus=2), labels={"zone": "eu"}))
    scheduler = TaskScheduler(here.app)
    await scheduler.submit_task("train", resources={"gpu": 2}, worker_filter='labels.zone == "eu"')
    assert await scheduler.get_next_task("gpus") is not None


@pytest.mark.parametrize(
    ("given", "has"),
    [
        (None, machine()),
        ({}, machine()),
        ({"gpu": 1, "licences": 2}, machine() + Resources(gpus=1, named={"licences": 2})),
        ({"cpu": 2}, Resources(cpu_millis=2000, memory_bytes=machine().memory_bytes)),
        ({"cpu": 0, "memory": "1Gi"}, Resources(memory_bytes=2**30)),
    ],
)
def test_a_worker_has_its_machine_unless_it_says_otherwise(given: dict[str, Any] | None, has: Resources) -> None:
    """Only what is named is another amount."""
    assert Worker("w", url="nats://h:1", resources=given)._resources == has


def test_labels_of_a_worker_are_texts_numbers_and_truth_values() -> None:
    """Checked before anything is sent."""
    assert Worker("w", url="nats://h:1", labels={"zone": "eu", "gpu": 16})._labels == {"zone": "eu", "gpu": 16}
    with pytest.raises(Refused, match="labels"):
        Worker("w", url="nats://h:1", labels={"zone": ["eu"]})  # type: ignore[dict-item]  # what a user might pass
    assert Worker("w", url="nats://h:1", cpu_overcommit=1.0)._resources == machine(1.0)
    with pytest.raises(Refused, match="cpu_overcommit"):
        Worker("w", url="nats://h:1", cpu_overcommit=0.0)
