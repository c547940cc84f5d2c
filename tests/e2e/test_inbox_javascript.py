"""A domain written in JavaScript publishes with the NATS project's client; see tests/javascript/publish.js."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.bus.streams import ensure_stream
from coordinator.commands.task import GetTask
from coordinator.doors.inbox import InboxLimits, inbox_stream
from events.inbox import InboxRecorded, InboxRefused
from events.task import TaskStatus
from tests.e2e.test_inbox import of, until_read

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
INSTALL_S = 300.0
RUN_S = 60.0


async def run(*argv: str, timeout_s: float, **environment: str) -> str:
    """Run a program that must succeed and return its output."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=ROOT / "tests/javascript",
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    return out.decode()


async def test_a_domain_in_javascript_publishes_into_its_inbox(cluster: Cluster) -> None:
    """Bare JSON, both forms of a CloudEvent, a batch, and unreadable messages between them."""
    await run("sh", str(ROOT / "tools/javascript.sh"), timeout_s=INSTALL_S)
    limits = InboxLimits(max_bytes=64 * 1024**2)
    await ensure_stream(cluster.client.bus, inbox_stream(cluster.client.subjects, "communication", limits))
    told = json.loads(await run("node", "publish.js", timeout_s=RUN_S, NATS_URL=cluster.url))
    assert told == {"stored": [1, 2, 3, 4, 5, 6]}
    events = await until_read(cluster, 6, "communication")
    done, cancelled = [await cluster.client.execute(GetTask(task_id=task_id)) for task_id in ("js_1", "js_2")]
    assert (done.status, done.priority, done.execution_time_s) == (TaskStatus.COMPLETED, 5, 0.25)
    assert (cancelled.status, cancelled.task_name) == (TaskStatus.CANCELLED, "größe")
    assert [json.loads(bytes(fact.data)) for fact in of(events, InboxRecorded)] == [{"hop": 1}, {"hop": 2}, {"hop": 3}]
    (refused,) = of(events, InboxRefused)
    assert (refused.sequence, refused.reason, refused.begins) == (5, "unreadable", "{task_name: 'single quotes'}")
    assert {one.actor for one in events if one.type.startswith("task.")} == {"communication"}
