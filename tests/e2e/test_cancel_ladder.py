"""Running tasks that are cancelled, with real workers: told at once, forced after the grace, ended in time."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.commands.task import CancelTask, ClaimTasks, GetTask
from coordinator.commands.worker import RegisterWorker
from coordinator.journal.stream import NatsJournal
from events import codec
from events.subjects import Subjects
from events.task import TaskStatus
from tests.e2e.test_worker import Workers, eventually, serving, some_worker, submit, until

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.worker import Context
    from projections.task import Task
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

TOLD_WITHIN_S = 0.1
ENDED_WITHIN_S = 1.0
MANY = 50
"""Cancels whose delay is measured; the 99th percentile of so many is the longest."""


@pytest.fixture
def workers(tmp_path: Path, cluster: Cluster) -> Workers:
    return Workers(tmp_path, cluster.url)


async def cancel(cluster: Cluster, task_id: str, **more: Any) -> TaskStatus:
    more = {"grace_s": None, **more}
    return await cluster.client.execute(CancelTask(task_id=task_id, reason="not needed", **more))


async def end_of(cluster: Cluster, task_id: str, within_s: float) -> tuple[Task, float]:
    """Return a task that ends within that time, and how long it took."""
    began = time.monotonic()
    found: Task = await cluster.client.execute(GetTask(task_id=task_id, wait_s=within_s))
    return found, time.monotonic() - began


async def steps_of(cluster: Cluster, task_id: str) -> list[tuple[str, str]]:
    """Return the events about the cancellation of a task from the journal, and how each came about."""
    found: list[tuple[str, str]] = []
    async with Bus.open(cluster.url, name="judge") as bus:
        journal = NatsJournal(bus, Subjects())
        async for records in journal.read(0, (await journal.bounds()).last):
            commits = (codec.decode(record.body) for record in records if record.kind == "commit")
            found += [
                (one.type, getattr(one.data, "how", ""))
                for commit in commits
                for one in commit
                if one.subject == task_id and "cancel" in one.type
            ]
    return found


@pytest.mark.alone
async def test_a_running_handler_hears_of_it_at_once(cluster: Cluster) -> None:
    """Of fifty handlers, async ones and ones in threads, each within 100 ms of the command; each step is an event."""
    worker = some_worker(cluster, slots=MANY)
    heard: dict[str, float] = {}
    began: set[str] = set()

    @worker.task("async")
    async def is_async(context: Context, _payload: None) -> None:
        began.add(context.task_id)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard[context.task_id] = time.monotonic()
            raise

    @worker.task("thread")
    def in_thread(context: Context, _payload: None) -> None:
        began.add(context.task_id)
        while not context.cancelled:
            time.sleep(0.001)
        heard[context.task_id] = time.monotonic()
        context.raise_if_cancelled()

    took_s: list[float] = []
    async with serving(cluster, worker):
        ids = [*await submit(cluster, "async", count=MANY - 5), *await submit(cluster, "thread", count=5)]
        await eventually(lambda: began == {*ids})
        for task_id in ids:
            asked_at = time.monotonic()
            assert await cancel(cluster, task_id) in (TaskStatus.RUNNING, TaskStatus.CANCELLED)
            await eventually(lambda one=task_id: one in heard)  # type: ignore[misc]
            took_s.append(heard[task_id] - asked_at)
            ended, _ = await end_of(cluster, task_id, 5.0)
            assert (ended.status, ended.error, ended.attempt) == (TaskStatus.CANCELLED, "not needed", 1)
        assert worker.running == ()
    took_s.sort()
    print(f"told after {took_s[len(took_s) // 2] * 1e3:.1f} ms, the last after {took_s[-1] * 1e3:.1f} ms")
    assert took_s[-1] < TOLD_WITHIN_S
    wanted = [("task.cancel_asked", ""), ("task.cancel_told", ""), ("task.cancelled", "ended")]
    assert await steps_of(cluster, ids[0]) == wanted
    assert await steps_of(cluster, ids[-1]) == wanted


async def test_a_thread_that_does_not_listen_is_interrupted(cluster: Cluster) -> None:
    """An exception is raised at its next bytecode; its slot, and the next task, are as if nothing had been."""
    worker = some_worker(cluster, slots=1)
    spinning = threading.Event()

    @worker.task("spin")
    def spin(_payload: None) -> None:
        spinning.set()
        while True:
            with suppress(Exception):  # a handler that goes on whatever happens
                sum(range(100))

    @worker.task("next")
    def following(_payload: None) -> str:
        return "done"

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "spin")
        (after,) = await submit(cluster, "next")
        await eventually(spinning.is_set)
        assert await cancel(cluster, task_id, grace_s=0.3) is TaskStatus.RUNNING
        ended, took_s = await end_of(cluster, task_id, 5.0)
        assert ended.status is TaskStatus.CANCELLED
        assert 0.3 - 0.05 < took_s < 0.3 + ENDED_WITHIN_S
        done, _ = await end_of(cluster, after, 5.0)
        assert done.status is TaskStatus.COMPLETED
    assert await steps_of(cluster, task_id) == [
        ("task.cancel_asked", ""), ("task.cancel_told", ""), ("task.cancel_forced", "raised"),
        ("task.cancelled", "ended"),
    ]  # fmt: skip


async def test_a_handler_that_ignores_it_is_left_behind(cluster: Cluster) -> None:
    """Its slot is free after the grace, although it goes on."""
    worker = some_worker(cluster, slots=1)
    let_go = asyncio.Event()
    began = asyncio.Event()

    @worker.task("deaf")
    async def deaf(_payload: None) -> None:
        began.set()
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()

    @worker.task("next")
    async def following(_payload: None) -> str:
        return "done"

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "deaf")
        (after,) = await submit(cluster, "next")
        await began.wait()
        await cancel(cluster, task_id, grace_s=0.3)
        ended, took_s = await end_of(cluster, task_id, 5.0)
        assert ended.status is TaskStatus.CANCELLED
        assert took_s < 0.3 + ENDED_WITHIN_S
        done, _ = await end_of(cluster, after, 2.0)
        assert done.status is TaskStatus.COMPLETED
        assert not let_go.is_set()
        let_go.set()
    assert (await steps_of(cluster, task_id))[-2:] == [
        ("task.cancel_forced", "left_behind"),
        ("task.cancelled", "left_behind"),
    ]


async def test_a_result_that_comes_in_time_counts(cluster: Cluster) -> None:
    """A handler may finish what it has begun; one that fails meanwhile is cancelled, without a retry."""
    worker = some_worker(cluster)

    @worker.task("finish")
    async def finish(_payload: None) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "done"

    @worker.task("break")
    async def breaks(_payload: None) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("seven")

    async with serving(cluster, worker):
        (good,) = await submit(cluster, "finish")
        (bad,) = await submit(cluster, "break")
        await eventually(lambda: len(worker.running) == 2)
        for one in (good, bad):
            await cancel(cluster, one)
        done, _ = await end_of(cluster, good, 5.0)
        broken, _ = await end_of(cluster, bad, 5.0)
    assert done.status is TaskStatus.COMPLETED
    assert (broken.status, broken.failures) == (TaskStatus.CANCELLED, 0)
    assert (await steps_of(cluster, bad))[-1] == ("task.cancelled", "failed")


@pytest.mark.parametrize("how", ["killed", "stopped", "blocked"])
async def test_the_task_ends_in_time_whatever_its_worker_does(cluster: Cluster, workers: Workers, how: str) -> None:
    """It is killed, frozen, or busy in its loop."""
    grace_s = 0.5
    async with workers.process("one", slots=2) as child:
        (task_id,) = await submit(cluster, "spin" if how == "blocked" else "nap", 5.0)
        await until(cluster, TaskStatus.RUNNING, 1)
        await asyncio.sleep(0.1)
        if how in ("killed", "stopped"):
            os.kill(child.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        await cancel(cluster, task_id, grace_s=grace_s)
        ended, took_s = await end_of(cluster, task_id, 5.0)
        if how == "stopped":
            os.kill(child.pid, signal.SIGCONT)
        assert ended.status is TaskStatus.CANCELLED
        assert took_s < grace_s + ENDED_WITHIN_S
    assert (await steps_of(cluster, task_id))[-1] == ("task.cancelled", "grace_over")


async def test_the_next_coordinator_takes_the_next_step(cluster: Cluster) -> None:
    """It dies when it has recorded the wish; its successor ends what its worker does not end."""
    worker = some_worker(cluster, slots=2)
    heard: list[str] = []

    @worker.task("deaf")
    def deaf(context: Context, _payload: None) -> None:
        while not context.cancelled:
            time.sleep(0.01)
        heard.append(context.task_id)
        until_s = time.monotonic() + 3.0
        while time.monotonic() < until_s:
            with suppress(BaseException):  # it goes on whatever is raised in it
                time.sleep(0.01)

    async with serving(cluster, worker):
        (task_id,) = await submit(cluster, "deaf")
        await until(cluster, TaskStatus.RUNNING, 1)
        await cancel(cluster, task_id, grace_s=1.0)
        await cluster.crash()
        await cluster.start()
        ended, _ = await end_of(cluster, task_id, 5.0)
        assert (ended.status, heard) == (TaskStatus.CANCELLED, [task_id])
        assert ended.ended_at is not None
        assert ended.cancelling is not None
        assert ended.ended_at - ended.cancelling.asked_at < 1.0 + ENDED_WITHIN_S


async def test_a_worker_of_an_earlier_release_loses_its_lease(cluster: Cluster) -> None:
    """It does not know the notice, and goes on: the task ends without it, and its report comes too late."""
    client = cluster.client
    await submit(cluster, "old")
    await client.execute(RegisterWorker(worker_id="old"))
    (task,) = await client.execute(ClaimTasks(claim_id="c", worker_id="old", wait_s=5.0))
    assert await cancel(cluster, task.task_id, grace_s=0.3) is TaskStatus.RUNNING
    found, _ = await end_of(cluster, task.task_id, 5.0)
    assert (found.status, found.lease) == (TaskStatus.CANCELLED, task.lease)
    assert await steps_of(cluster, task.task_id) == [("task.cancel_asked", ""), ("task.cancelled", "grace_over")]
