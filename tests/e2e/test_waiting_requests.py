"""Requests of which one command waits: what they keep meanwhile is limited, and for each source."""

from __future__ import annotations

import gc
import json
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.commands.task import CancelTask, SubmitTask
from coordinator.doors import rpc
from events.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
PATIENCE_S = 20.0
WAITS = {"task_id": "t", "wait_s": 60}
COUNT = 30
LARGE = 900_000


def asks(*questions: dict[str, Any]) -> bytes:
    return json.dumps([{"type": "get_task", "data": one} for one in questions]).encode()


async def ask(bus: Bus, source: str, *questions: dict[str, Any]) -> list[dict[str, Any]]:
    subject = SUBJECTS.rpc(source, "task", "get")
    answers: list[dict[str, Any]] = json.loads(await bus.request(subject, asks(*questions), timeout_s=PATIENCE_S))
    return answers


@asynccontextmanager
async def waiting(cluster: Cluster, source: str, bodies: Iterable[bytes]) -> AsyncIterator[tuple[Bus, list[bytes]]]:
    """Send requests, and yield the connection and the answers that come once the coordinator has taken them."""
    await cluster.client.execute(SubmitTask(task_id="t", task_name="n"))
    answers: list[bytes] = []
    async with Bus.open(cluster.url, name="raw", buffered=False) as bus:
        inbox = bus.new_inbox()
        await bus.subscribe(inbox, lambda message: answers.append(message.data))
        for body in bodies:
            await bus.publish(SUBJECTS.rpc(source, "task", "get"), body, reply=inbox)
            await bus.flush()
        await ask(bus, source, {"task_id": "t"})
        yield bus, answers


async def test_what_was_answered_is_not_kept_for_what_waits(cluster: Cluster) -> None:
    """Of a request of which one question waits, only that is kept, however large the others were."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        bodies = (asks(WAITS, {"task_id": f"{number}{'x' * LARGE}"}) for number in range(COUNT))
        async with waiting(cluster, "raw", bodies) as (_, answers):
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0] - before
            assert answers == []
            await cluster.client.execute(CancelTask(task_id="t"))
    finally:
        tracemalloc.stop()
    assert kept < COUNT * LARGE // 4


async def test_answers_that_wait_for_others_have_room_for_each_source(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lets many wait is refused more, with what to do; another source is not, and what waits is answered."""
    most = 4 * 2 * rpc.SMALL_BYTES
    monkeypatch.setattr(rpc, "HELD_BYTES_MOST", most)
    two = asks(WAITS, {"task_id": "none"})
    async with waiting(cluster, "greedy", [two] * 3) as (bus, answers):
        (first,) = map(json.loads, answers)
        assert [one["error"]["reason"] for one in first] == ["overloaded"] * 2
        assert "in a request of its own" in first[0]["error"]["message"]
        [alone] = await ask(bus, "greedy", {"task_id": "t", "wait_s": 0.05})
        other = await ask(bus, "other", {"task_id": "t", "wait_s": 0.05}, {"task_id": "none"})
        assert (alone["ok"]["task_id"], other[0]["ok"]["task_id"]) == ("t", "t")
        assert other[1]["error"]["code"] == "not_found"
        await cluster.client.execute(CancelTask(task_id="t"))
        late = await ask(bus, "greedy", {"task_id": "t", "wait_s": 5}, {"task_id": "none"})
        assert late[0]["ok"]["status"] == "cancelled"
        assert [json.loads(one)[0]["ok"]["status"] for one in answers[1:]] == ["cancelled"] * 2
