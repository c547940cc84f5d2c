"""Tenant, trace and cause, from the program that submits to the end of what its task caused, on a real cluster."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.acting import acting, current
from coordinator.commands.payloads import payload_of
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.deciders.rules import Rules
from coordinator.journal.stream import NatsJournal
from coordinator.logs import configure
from coordinator.task_groups import task_group
from coordinator.worker import Context, Worker
from events import codec
from events.subjects import Subjects
from events.task import TaskStatus

if TYPE_CHECKING:
    from events.base import Envelope
    from projections.task import Task
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PATIENCE_S = 30.0


async def written(cluster: Cluster) -> list[Envelope]:
    """Read every event of the journal."""
    journal = NatsJournal(cluster.client.bus, Subjects())
    found: list[Envelope] = []
    async for records in journal.read(0, (await journal.bounds()).last):
        for record in records:
            if record.kind == "commit":
                found += codec.decode(record.body)
    return found


@pytest.mark.parametrize("cluster", [Rules(retry_backoff_s=0.05)], indirect=True)
async def test_from_the_program_to_the_tasks_that_its_task_submits(cluster: Cluster, reset_logs: io.StringIO) -> None:
    """Every event has tenant and trace, and each names its cause; handlers and lines of the log know them too."""
    worker = Worker("tested", url=cluster.url, beat_s=0.2)
    seen: list[Any] = []

    @worker.task("outer")
    async def outer(context: Context, payload: object) -> None:
        seen.append((context.tenant, context.traceparent, *current()))
        await context.progress(0.5)
        if context.attempt == 1:
            raise ValueError("the first attempt")
        await cluster.client.execute(SubmitTask(task_id="inner", task_name="inner", payload=payload_of(None)))

    @worker.task("inner")
    def inner(_payload: object) -> None:
        seen.append(tuple(current()))

    async with task_group() as tasks:
        running = tasks.create_task(worker.run())
        with acting(tenant="blue", traceparent=TRACE):
            submit = SubmitTask(task_id="outer", task_name="outer", payload=payload_of(None), max_retries=1)
            await cluster.client.execute(submit)
        for task_id in ("outer", "inner"):
            task: Task = await cluster.client.execute(GetTask(task_id=task_id, wait_s=PATIENCE_S))
            assert (task.status, task.tenant, task.traceparent) == (TaskStatus.COMPLETED, "blue", TRACE)
        worker.stop()
        await asyncio.wait([running])
    assert seen == [("blue", TRACE, "blue", TRACE)] * 2 + [("blue", TRACE)]

    events = await written(cluster)
    about = [one for one in events if one.type.startswith("task.")]
    assert {(one.tenant, one.traceparent) for one in about} == {("blue", TRACE)}
    by_id = {one.id: one for one in events}
    causes = [(one.type, by_id[one.causationid].type if one.causationid else "") for one in about]
    assert causes[:6] == [
        ("task.submitted", ""),
        ("task.started", "task.submitted"),
        ("task.progressed", "task.started"),
        ("task.attempt_failed", "task.started"),
        ("task.started", "task.attempt_failed"),
        ("task.progressed", "task.started"),
    ]
    assert sorted(causes[6:]) == [
        ("task.completed", "task.started"),
        ("task.completed", "task.started"),
        ("task.started", "task.submitted"),
        ("task.submitted", ""),
    ]
    assert all(by_id[one.causationid].subject == one.subject for one in about if one.causationid)
    lines = [json.loads(line) for line in reset_logs.getvalue().splitlines()]
    (line,) = [one for one in lines if one["event"] == "attempt_failed"]
    assert (line["tenant"], line["traceparent"], line["trace_id"]) == ("blue", TRACE, TRACE[3:35])


@pytest.fixture
def reset_logs() -> Any:
    """The lines of the log, as JSON."""
    import structlog

    lines = io.StringIO()
    configure("info", "json", lines)
    yield lines
    structlog.reset_defaults()


async def test_a_heartbeat_says_for_whom_it_is_sent(cluster: Cluster) -> None:
    """It has the tenant and the trace of the code that sends it."""
    heard: list[Any] = []
    await cluster.client.bus.subscribe(Subjects().heartbeats, lambda message: heard.append(json.loads(message.data)))
    with acting(tenant="blue", traceparent=TRACE):
        cluster.client.beat_service("s")
    cluster.client.beat_worker("w", ())
    async with asyncio.timeout(PATIENCE_S):
        while len(heard) < 2:  # noqa: ASYNC110  # what is asked for has no event
            await asyncio.sleep(0.01)
    assert [(one["tenant"], one.get("traceparent")) for one in heard] == [("blue", TRACE), ("default", None)]
