"""Every operation's example, sent to a real coordinator: it succeeds, and the answer is of the shape that it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import pytest

from coordinator.client.client import Client
from coordinator.commands.cluster import ClusterStats, GetStats
from coordinator.commands.operations import OPERATIONS
from coordinator.commands.pool import AllocatePool, DefinePool
from coordinator.commands.task import CancelTask, GetTask, ListTasks, SubmitTask
from events.resources import Resources
from events.task import TaskStatus
from projections.pool import Pool
from projections.task import Task
from tests.commands import running
from tests.examples import DOMAIN, STORY, differences, play

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.commands.command import Command
    from tests.e2e.conftest import Cluster
    from tests.real_server import RealServer

pytestmark = pytest.mark.e2e


def test_every_operation_has_its_place_in_the_story() -> None:
    """An operation without it would have an example that nobody has tried."""
    played = [step for step in STORY if isinstance(step, str)]
    assert sorted(played) == sorted(OPERATIONS), "add the new operation to STORY in tests/examples.py"


async def test_every_example_succeeds_and_gets_an_answer_of_its_shape(server: RealServer, tmp_path: Path) -> None:
    """What the reference shows is what a coordinator does; its numbers and times may be others."""
    environment = {
        "COORDINATOR_HOME": str(tmp_path / "home"),
        "COORDINATOR_URL": server.url,
        "COORDINATOR_SCHEDULER__WORKER_TIMEOUT_S": "5",
        "COORDINATOR_SCHEDULER__LEASE_S": "5",
    }
    with running("serve", written=tmp_path / "serve.out", **environment):
        async with Client.open(server.url, source=DOMAIN) as client:
            told = await play(client)
    found = {
        name: wrong
        for name, operation in OPERATIONS.items()
        if (wrong := differences(operation.EXAMPLE.answer, told[name]))
    }
    assert found == {}


async def test_an_answer_has_the_type_that_the_operation_says(cluster: Cluster) -> None:
    """For the type checker, without a cast, and for the program."""
    client: Client = cluster.client
    submitted = await client.execute(SubmitTask(task_id="t", task_name="n"))
    assert_type(submitted, str)
    tasks = await client.execute(ListTasks())
    assert_type(tasks, list[Task])
    task = await client.execute(GetTask(task_id="t"))
    assert_type(task, Task)
    status = await client.execute(CancelTask(task_id="t"))
    assert_type(status, TaskStatus)
    pool = await client.execute(DefinePool(pool_id="p", capacity=Resources(gpus=1)))
    assert_type(pool, Pool)
    is_granted = await client.execute(AllocatePool(pool_id="p", request_id="r", resources=Resources(gpus=1)))
    assert_type(is_granted, bool)
    commands: list[Command] = [SubmitTask(task_id="t", task_name="n"), GetStats()]
    several = [await client.execute(one) for one in commands]
    assert_type(several, list[object])
    found = [type(one) for one in (submitted, tasks[0], task, status, pool, is_granted, *several)]
    assert found == [str, Task, Task, TaskStatus, Pool, bool, str, ClusterStats]
