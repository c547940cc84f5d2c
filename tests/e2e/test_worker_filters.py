"""Which worker a task goes to, against a real coordinator: labels, filters, amounts with names, and what is said."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from coordinator.cli import EXIT_REFUSED
from coordinator.commands.explain import ExplainTask
from coordinator.commands.worker import ListWorkers
from coordinator.guard import spawn
from events.errors import Refused
from events.resources import Resources
from events.task import Prefer, TaskStatus
from tests.commands import PROGRAM, call
from tests.e2e.test_worker import PATIENCE_S, _nothing, ended, serving, some_worker, submit, task_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

EU = 'labels.zone == "eu" && labels.gpu_memory >= 16'
LICENCE = Resources(named={"licences": 1})


async def test_tasks_go_to_the_workers_that_meet_their_filters(cluster: Cluster) -> None:
    """What no worker meets waits, and says why; a takeover changes nothing."""
    eu = some_worker(cluster, worker_id="eu", labels={"zone": "eu", "gpu_memory": 24}, resources={"licences": 1})
    us = some_worker(cluster, worker_id="us", labels={"zone": "us"})
    most = now = 0

    async def licensed(_payload: object) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    for worker in (eu, us):
        worker.task("n")(_nothing)
        worker.task("licensed")(licensed)
    async with serving(cluster, eu), serving(cluster, us):
        there = await submit(cluster, "n", count=20, task_id="there", worker_filter=EU)
        here = await submit(cluster, "n", count=20, task_id="here", worker_filter='worker_id == "us"')
        counted = await submit(cluster, "licensed", count=10, resources=LICENCE)
        (never,) = await submit(cluster, "n", task_id="never", worker_filter='labels.zone == "mars"')
        assert {task.worker_id for task in await ended(cluster, there + counted)} == {"eu"}
        assert {task.worker_id for task in await ended(cluster, here)} == {"us"}
        assert most == 1
        found = await cluster.client.execute(ExplainTask(task_id=never))
        assert [reason.code for reason in found.reasons] == ["no_match"]
        assert (await task_of(cluster, never)).status is TaskStatus.PENDING
        with pytest.raises(Refused, match=r"character 8: 'zone' is not a field") as refused:
            await submit(cluster, "n", worker_filter="       zone")
        assert refused.value.reason == "bad_filter"


async def test_tasks_wait_for_the_worker_that_they_prefer(cluster: Cluster) -> None:
    """As long as they say; one that sticks to another goes where that ran, and the rest anywhere."""
    eu, us = some_worker(cluster, worker_id="eu", labels={"zone": "eu"}, slots=1), some_worker(cluster, worker_id="us")
    for worker in (eu, us):
        worker.task("n")(_nothing)
    begun, until = asyncio.Event(), asyncio.Event()

    @eu.task("long")
    async def long(_payload: object) -> None:
        begun.set()
        await until.wait()

    async with serving(cluster, eu), serving(cluster, us):
        (first,) = await submit(cluster, "n", task_id="first", prefer=Prefer('labels.zone == "eu"'))
        await ended(cluster, [first])
        stuck = await submit(cluster, "n", count=20, task_id="stuck", prefer=Prefer(sticky_to=first, for_s=30.0))
        assert {task.worker_id for task in await ended(cluster, stuck)} == {"eu"}
        (busy,) = await submit(cluster, "long")
        await begun.wait()
        (hurried,) = await submit(cluster, "n", task_id="hurried", prefer=Prefer(sticky_to=first, for_s=0.2))
        (patient,) = await submit(cluster, "n", task_id="patient", prefer=Prefer(sticky_to=first, for_s=30.0))
        assert [task.worker_id for task in await ended(cluster, [hurried])] == ["us"]
        found = await cluster.client.execute(ExplainTask(task_id=patient))
        assert [reason.code for reason in found.reasons] == ["prefers", "workers_busy"]
        until.set()
        assert [task.worker_id for task in await ended(cluster, [patient, busy])] == ["eu", "eu"]


async def test_a_worker_of_the_command_line_says_its_labels(cluster: Cluster, tmp_path: Path) -> None:
    """And what it has; the command line that submits is told when no worker can run a task."""
    (tmp_path / "some.py").write_text(
        "from coordinator.worker import task\n@task('n')\nasync def n(payload): return payload\n"
    )
    options = ["--id", "w", "--label", "zone=eu", "--label", "gpu_memory=24", "--resource", "licences=2", "--cpu", "2"]
    argv = [*PROGRAM, "worker", "run", str(tmp_path / "some.py"), "--nats", cluster.url, *options]
    with (tmp_path / "log").open("ab") as log:
        child = await spawn(
            argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, stdout=log, stderr=log, grace_s=5.0
        )
    async with child, asyncio.timeout(PATIENCE_S):
        while not (known := await cluster.client.execute(ListWorkers())):  # noqa: ASYNC110  # it is asked
            await asyncio.sleep(0.05)
        assert known[0].labels == {"zone": "eu", "gpu_memory": 24}
        assert known[0].resources is not None
        assert (known[0].resources.cpu_millis, known[0].resources.named) == (2000, {"licences": 2})
        assert known[0].resources.memory_bytes > 0

        def said(*more: str) -> tuple[int, str]:
            done = call("task", "submit", "n", "--url", cluster.url, *more)
            return done.code, done.err

        prefers = ("--prefer", 'worker_id == "w"', "--prefer-for", "9")
        fits = ("--worker-filter", EU, "--resource", "licences=2", *prefers, "--wait", "20")
        assert await asyncio.to_thread(said, *fits) == (0, "")
        code, err = await asyncio.to_thread(said, "--worker-filter", 'labels.zone == "us"')
        assert (code, err.partition(";")[0]) == (
            0, "note: none of 1 workers that handle 'n' meets its filter labels.zone == \"us\"",
        )  # fmt: skip
        code, err = await asyncio.to_thread(said, "--resource", "licences=3")
        assert (code, err.partition(";")[0]) == (
            0, "note: it needs 3 licences, more than any of 1 workers that may run 'n' has",
        )  # fmt: skip
        code, err = await asyncio.to_thread(said, "--worker-filter", "zone == 1")
        assert code == EXIT_REFUSED
        assert "character 1: 'zone' is not a field" in err
