"""Every operation's example, sent to a real coordinator: it succeeds, and the answer is of the shape that it says."""

from __future__ import annotations

import asyncio
import json
import shlex
from typing import TYPE_CHECKING, Any, assert_type

import msgspec
import pytest

from coordinator.cli.operations import call_line
from coordinator.client.client import Client
from coordinator.commands.cluster import ClusterStats, GetStats
from coordinator.commands.operations import OPERATIONS
from coordinator.commands.pool import AllocatePool, DefinePool
from coordinator.commands.task import CancelTask, GetTask, ListTasks, SubmitTask
from events.resources import Resources
from events.task import TaskStatus
from projections.pool import Pool
from projections.task import Task
from tests.commands import Said, call, running
from tests.examples import DOMAIN, STORY, ask, differences, play

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.commands.command import Command, Operation
    from tests.e2e.conftest import Cluster
    from tests.real_server import RealServer

pytestmark = pytest.mark.e2e


def test_every_operation_has_its_place_in_the_story() -> None:
    """An operation without it would have an example that nobody has tried."""
    played = [step for step in STORY if isinstance(step, str)]
    assert sorted(played) == sorted(OPERATIONS), "add the new operation to STORY in tests/examples.py"


@pytest.mark.parametrize("face", ["client", "command line"])
async def test_every_example_succeeds_and_gets_an_answer_of_its_shape(
    server: RealServer, tmp_path: Path, face: str
) -> None:
    """What the reference shows is what a coordinator does, on each face; its numbers and times may be others."""
    environment = {
        "COORDINATOR_HOME": str(tmp_path / "home"),
        "COORDINATOR_URL": server.url,
        "COORDINATOR_SCHEDULER__WORKER_TIMEOUT_S": "5",
        "COORDINATOR_SCHEDULER__LEASE_S": "5",
    }
    with running("serve", written=tmp_path / "serve.out", **environment):
        async with Client.open(server.url, source=DOMAIN) as client:

            async def by_client(operation: Operation[Any]) -> Any:
                return msgspec.json.decode(msgspec.json.encode(await ask(client, operation)))

            async def by_command_line(operation: Operation[Any]) -> Any:
                words = shlex.split(call_line(type(operation)).replace("\\\n", ""))  # as a shell does
                said = await asyncio.to_thread(call, *words[1:], "--url", server.url, "-o", "json")
                assert (said.code, said.err) == (0, ""), words
                return json.loads(said.out)

            told = await play(client, by_client if face == "client" else by_command_line)
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


async def test_a_request_is_json_or_options_or_both(cluster: Cluster) -> None:
    """Options take precedence; the answer is for people, or JSON; errors have the exit codes of other commands."""

    async def said(*words: str) -> Said:
        return await asyncio.to_thread(call, "call", *words, "--url", cluster.url)

    both = '{"task_id": "a", "task_name": "add", "priority": 7}'
    assert await said("task.submit", both, "--task-id", "b", "--resources", '{"cpu_millis": 500}') == (0, "b\n", "")
    task = json.loads((await said("task.get", '{"task_id": "b"}', "--json")).out)
    assert (task["task_id"], task["priority"], task["resources"]) == ("b", 7, {"cpu_millis": 500})
    shown = (await said("task.get", "--task-id", "b")).out
    assert "\nstatus        pending\n" in shown
    assert '\nresources     {"cpu_millis": 500}\n' in shown
    heads, row = (await said("task.list")).out.splitlines()
    assert heads.split()[:3] == ["TASK_ID", "TASK_NAME", "STATUS"]
    assert row.split()[:3] == ["b", "add", "pending"]
    await said("worker.register", "--worker-id", "w", "--handles", "add", "--handles", "sub")
    worker = json.loads((await said("worker.list", "-o", "json")).out)
    assert worker[0]["handles"] == ["add", "sub"]
    assert await said("worker.drain", "--worker-id", "w") == (0, "", "")
    assert (
        '\ncapacity     {"gpus": 1}\n' in (await said("pool.define", "--pool-id", "p", "--capacity", '{"gpus": 1}')).out
    )
    assert (await said("pool.release", "--pool-id", "p", "--request-id", "r")).out == "false\n"
    assert (await said("task.submit", "--task-id", "c", "--task-name", "n", "--tenant", "blue")).out == "c\n"
    assert json.loads((await said("task.get", "--task-id", "c", "--json")).out)["tenant"] == "blue"
    assert (await said("read.list", "--kind", "task", "--tenant", "blue")).code == 8, "there is no follower here"
    assert (await said("task.get", "--task-id", "none")).code == 4
    large = await said("task.submit", "--task-id", "d", "--task-name", "n", "--priority", "9" * 40)
    assert (large.code, "priority" in large.err) == (5, True), large
    refused = await said("task.submit", "--task-id", "b", "--task-name", "other")
    assert (refused.code, refused.out) == (5, "")
    assert "task_id 'b' is already used by a task with another task_name" in refused.err
