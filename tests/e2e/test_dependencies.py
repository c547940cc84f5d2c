"""Tasks that begin after others, with a real server, a worker, and the command line."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.task import CancelTask, SubmitTask
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.task import TaskStatus
from tests.commands import call
from tests.e2e.test_worker import ended, serving, some_worker, submit, task_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

FAN = 10_000
TURN_S = 0.25
"""How long another request may wait while those that wait for a task are settled; a turn of some hundred takes ms."""


async def test_tasks_run_in_the_order_that_they_were_told(cluster: Cluster) -> None:
    """A diamond: one, then two beside each other, then one; and one that runs because of a failure."""
    worker, order = some_worker(cluster, slots=4), list[str]()

    @worker.task("note")
    async def note(name: str) -> None:
        await asyncio.sleep(0.02)
        order.append(name)

    @worker.task("break")
    async def breaks(_payload: None) -> None:
        raise ValueError

    (top,) = await submit(cluster, "note", "top", task_id="top")
    after_top = After(tasks=(top,))
    sides = [(await submit(cluster, "note", one, task_id=one, after=after_top))[0] for one in ("left", "right")]
    (bottom,) = await submit(cluster, "note", "bottom", task_id="bottom", after=After(tasks=tuple(sides)))
    (bad,) = await submit(cluster, "break", max_retries=0)
    (never,) = await submit(cluster, "note", "never", task_id="never", after=After(tasks=(bad, bottom)))
    (also_never,) = await submit(cluster, "note", "never", task_id="also", after=After(tasks=(never,)))
    clean_up = After(tasks=(bad, also_never), on=AfterOn.END, otherwise=Otherwise.RUN)
    (last,) = await submit(cluster, "note", "clean up", task_id="last", after=clean_up)
    (first_of,) = await submit(cluster, "note", "any", task_id="any", after=After(tasks=(bad, top), join=AfterJoin.ANY))
    async with serving(cluster, worker):
        done = await ended(cluster, [top, *sides, bottom, bad, never, also_never, last, first_of])
    assert [task.status.value for task in done] == [
        *["completed"] * 4, "failed", "cancelled", "cancelled", "completed", "completed",
    ]  # fmt: skip
    diamond = [one for one in order if one in ("top", "left", "right", "bottom")]
    assert (diamond[0], {*diamond[1:3]}, diamond[3]) == ("top", {"left", "right"}, "bottom")
    assert {"clean up", "any"} < {*order}
    assert done[5].error == f"it was to run after task {bad}, which ended as failed"


async def test_ten_thousand_that_wait_hold_up_nobody(cluster: Cluster) -> None:
    """Other requests are answered while they are settled."""
    await submit(cluster, "top")
    await submit(cluster, "many", count=FAN, after=After(tasks=("top-0",)))
    await cluster.client.execute(CancelTask(task_id="top-0"))
    longest_s, began, number = 0.0, time.monotonic(), 0
    while (await task_of(cluster, f"many-{FAN - 1}")).status is TaskStatus.PENDING:
        asked = time.monotonic()
        number += 1
        await cluster.client.execute(SubmitTask(task_id=f"other-{number}", task_name="other"))
        longest_s = max(longest_s, time.monotonic() - asked)
    took_s = time.monotonic() - began
    print(f"{FAN} tasks cancelled in {took_s:.2f} s, another request took {longest_s:.3f} s at most")
    assert longest_s < max(TURN_S, took_s / 3)  # by then, on a slow machine, others were answered too


async def test_the_command_line_shows_what_a_task_waits_for(cluster: Cluster) -> None:
    """And takes it; a task that does not exist is named."""

    async def said(*words: str) -> tuple[int, str, str]:
        found = await asyncio.to_thread(call, *words, "--url", cluster.url)
        return found.code, found.out, found.err

    await submit(cluster, "top")
    code, out, _ = await said("task", "submit", "next", "--id", "t", "--after", "top-0", "--on", "end")
    assert (code, out) == (0, "t\n")
    code, out, _ = await said("task", "get", "t")
    assert code == 0
    assert "the end of top-0" in out
    assert max(map(len, out.splitlines())) <= 80
    code, _, error = await said("task", "submit", "next", "--after", "none")
    assert code == 4
    assert "'none'" in error
    await said("task", "cancel", "top-0")
    code, out, _ = await said("task", "get", "t")
    assert "the end of" not in out
