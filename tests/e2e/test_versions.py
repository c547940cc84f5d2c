"""Versions of workers against a real coordinator: a ramp, a roll back, a retirement, and what is said of each."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from coordinator.cli import EXIT_REFUSED
from coordinator.commands.explain import ExplainTask
from coordinator.commands.queue import RouteQueue
from coordinator.commands.version import ListVersions, RetireVersion, VersionView
from coordinator.commands.worker import ListWorkers
from coordinator.guard import spawn
from events.queue import Route
from events.task import TaskStatus
from projections.version import begins_on
from tests.commands import PROGRAM, call
from tests.e2e.test_worker import PATIENCE_S, _nothing, ended, serving, some_worker, submit, task_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e


async def test_a_version_is_ramped_up_rolled_back_and_retired(cluster: Cluster) -> None:
    """Each task begins on the side that its id says, and goes on where it began until that version is retired."""
    workers = [some_worker(cluster, worker_id=f"w-{build_id}", build_id=build_id) for build_id in ("b1", "b2")]
    until = asyncio.Event()
    for worker in workers:
        worker.task("n")(_nothing)

        @worker.task("fails_once")
        async def fails_once(_payload: object) -> None:
            if not until.is_set():
                raise ValueError

    ramp = Route(current="b1", ramping="b2", percent=30.0)
    async with serving(cluster, workers[0]):
        async with serving(cluster, workers[1]):
            async with asyncio.timeout(PATIENCE_S):
                while len(await cluster.client.execute(ListWorkers())) < len(workers):  # noqa: ASYNC110  # it is asked
                    await asyncio.sleep(0.02)
            await cluster.client.execute(RouteQueue(route=ramp))
            ids = await submit(cluster, "n", count=60, task_id="ramp")
            sides = {task.task_id: task.worker_id for task in await ended(cluster, ids)}
            assert sides == {task_id: f"w-{begins_on(ramp, task_id)}" for task_id in ids}
            assert {*sides.values()} == {"w-b1", "w-b2"}
            await cluster.client.execute(RouteQueue(route=Route(current="b1")))
            ids = await submit(cluster, "n", count=20, task_id="back")
            assert {task.worker_id for task in await ended(cluster, ids)} == {"w-b1"}
            await cluster.client.execute(RouteQueue(route=Route(current="b2")))
            (begun,) = await submit(cluster, "fails_once", task_id="begun", max_retries=9)
            async with asyncio.timeout(PATIENCE_S):
                while not (await task_of(cluster, begun)).failures:  # noqa: ASYNC110  # it is asked
                    await asyncio.sleep(0.02)
            await cluster.client.execute(RouteQueue(route=Route(current="b1")))
        until.set()
        task = await task_of(cluster, begun)
        assert (task.status, task.build_id) == (TaskStatus.PENDING, "b2")
        found = await cluster.client.execute(ExplainTask(task_id=begun))
        assert "version_without_workers" in [reason.code for reason in found.reasons]
        await cluster.client.execute(RetireVersion(build_id="b2", move_to="b1"))
        assert [task.worker_id for task in await ended(cluster, [begun])] == ["w-b1"]
        listed = {view.build_id: view for view in await cluster.client.execute(ListVersions())}
        assert listed["b1"] == VersionView(build_id="b1", workers=1, heard=1, current_in=["default"])
        assert listed["b2"].retired is not None
        assert listed["b2"].retired.move_to == "b1"


async def test_the_command_line_says_and_routes_versions(cluster: Cluster, tmp_path: Path) -> None:
    """A worker has its build from an option or the environment; a version that nobody has is refused."""
    (tmp_path / "some.py").write_text(
        "from coordinator.worker import task\n@task('n')\nasync def n(payload): return payload\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COORDINATOR_BUILD_ID": "main-41"}
    argv = [*PROGRAM, "worker", "run", str(tmp_path / "some.py"), "--nats", cluster.url, "--id", "w"]
    with (tmp_path / "log").open("ab") as log:
        child = await spawn(argv, env=environ, stdout=log, stderr=log, grace_s=5.0)
    async with child, asyncio.timeout(PATIENCE_S):
        while not (known := await cluster.client.execute(ListWorkers())):  # noqa: ASYNC110  # it is asked
            await asyncio.sleep(0.05)
        assert known[0].build_id == "main-41"

        def version(*more: str) -> tuple[int, str, str]:
            done = call("version", *more, "--url", cluster.url)
            return done.code, done.out, done.err

        assert await asyncio.to_thread(version, "route", "--current", "main-41") == (0, "", "")
        code, _, err = await asyncio.to_thread(version, "route", "default", "--current", "main-42")
        assert code == EXIT_REFUSED
        assert "no worker with the build id 'main-42' is registered; did you mean 'main-41'?" in err
        assert (await asyncio.to_thread(version, "route"))[0] == 2
        assert (await asyncio.to_thread(version, "retire", "main-41"))[0] == EXIT_REFUSED
        code, out, _ = await asyncio.to_thread(version, "list")
        assert code == 0
        assert out.splitlines()[1].split() == ["main-41", "1", "1", "0", "0", "default"]
        (done,) = await submit(cluster, "n")
        assert [task.build_id for task in await ended(cluster, [done])] == ["main-41"]
        assert await asyncio.to_thread(version, "route", "--any") == (0, "", "")
        assert await asyncio.to_thread(version, "retire", "main-41", "--reason", "r") == (0, "", "")
        code, out, _ = await asyncio.to_thread(version, "list")
        assert out.splitlines()[1].endswith("(as new ones)")
        assert await asyncio.to_thread(version, "reinstate", "main-41") == (0, "", "")
