"""Large requests of one source: answered in order as small ones are, and refused when too many of them wait."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.payloads import payload_of
from coordinator.commands.task import SubmitTask
from coordinator.doors.rpc import LARGE_BYTES
from coordinator.engine.intake import AT_ONCE_BYTES, COMMAND_BYTES_MOST
from events.subjects import Subjects
from tests.commands import Running, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.bus.subscription import Message
    from tests.real_server import RealServer

pytestmark = pytest.mark.e2e

PATIENCE_S = 60.0
PAYLOAD = msgspec.to_builtins(payload_of("x" * 60_000))
SOURCE = "giant"


class Sender:
    """Sends requests without waiting, and keeps their answers by number."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = bus.new_inbox()
        self._sent = 0
        self._answers: dict[int, list[Any]] = {}
        self._came = asyncio.Event()

    async def listen(self) -> None:
        await self._bus.subscribe(f"{self._inbox}.*", self._answered)

    def _answered(self, message: Message) -> None:
        number = int(message.subject.rpartition(".")[2])
        assert number not in self._answers, "a request was answered twice"
        self._answers[number] = json.loads(message.data)
        self._came.set()

    async def send(self, kind: str, verb: str, body: bytes) -> int:
        subject = Subjects().rpc(SOURCE, kind, verb)
        await self._bus.publish(subject, body, reply=f"{self._inbox}.{self._sent}")
        self._sent += 1
        return self._sent - 1

    async def flush(self) -> None:
        """Wait until the server has all that was sent."""
        await self._bus.flush()

    async def answers(self) -> list[list[Any]]:
        """Return the answers of all requests, when the last has come."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self._answers) < self._sent:
                self._came.clear()
                await self._came.wait()
        return [self._answers[number] for number in range(self._sent)]


def body(name: str, *data: dict[str, Any]) -> bytes:
    return json.dumps([{"type": name, "data": one} for one in data]).encode()


def submits(*task_ids: str) -> bytes:
    return body("submit_task", *({"task_id": one, "task_name": "n", "payload": PAYLOAD} for one in task_ids))


@asynccontextmanager
async def sending(server: RealServer, folder: Path) -> AsyncIterator[tuple[Sender, Client, Running]]:
    """Run a coordinator; yield who sends large requests, another one, and the coordinator."""
    with running(
        "serve", written=folder / "serve.out", COORDINATOR_HOME=str(folder / "home"), COORDINATOR_URL=server.url
    ) as coordinator:
        async with Client.open(server.url, source="other") as other, Bus.open(server.url, name=SOURCE) as bus:
            await other.execute(GetStats(), timeout_s=PATIENCE_S)
            sender = Sender(bus)
            await sender.listen()
            yield sender, other, coordinator


async def test_large_and_small_requests_are_answered_in_the_order_they_came(server: RealServer, tmp_path: Path) -> None:
    """Also those that wait undecoded: each finds what came before it, and what cannot be read is refused alone."""
    tasks = 60
    assert LARGE_BYTES < len(submits("a")) < AT_ONCE_BYTES < tasks * len(submits("a"))
    async with sending(server, tmp_path) as (sender, *_):
        for number in range(tasks):
            await sender.send("task", "submit", submits(f"t{number}"))
            await sender.send("task", "cancel", body("cancel_task", {"task_id": f"t{number}"}))
        several = await sender.send("task", "submit", submits("a", "b", "a", "no id", "c"))
        elsewhere = await sender.send("task", "cancel", submits("d"))
        nowhere = await sender.send("task", "nothing", submits("d"))
        torn = await sender.send("task", "submit", submits("d")[:-2])
        after = await sender.send("task", "cancel", body("cancel_task", {"task_id": "c"}))
        await sender.answers()
        questions = body("get_task", *({"task_id": one} for one in ["c", *["d" * 64] * 400]))
        asked = [await sender.send("task", "get", questions) for _ in range(3 * AT_ONCE_BYTES // 2 // len(questions))]
        answers = await sender.answers()
    for number in range(tasks):
        assert [one["ok"] for one in answers[2 * number]] == [f"t{number}"]
        assert [one["ok"] for one in answers[2 * number + 1]] == ["cancelled"]
    assert [one.get("ok") or one["error"]["reason"] for one in answers[several]] == ["a", "b", "a", "bad_id", "c"]
    for which in asked:
        found = [one["ok"]["status"] if "ok" in one else one["error"]["code"] for one in answers[which]]
        assert found == ["cancelled", *["not_found"] * 400]
    reasons = [[one["error"]["reason"] for one in answers[which]] for which in (elsewhere, nowhere, torn)]
    assert reasons == [["wrong_subject"], ["wrong_subject"], ["bad_request"]]
    assert [one["ok"] for one in answers[after]] == ["cancelled"]


async def test_too_many_large_requests_are_refused_as_they_come(server: RealServer, tmp_path: Path) -> None:
    """Each as a whole, with one answer and a time to retry; another source is served meanwhile."""
    requests, each = 40, 15
    one = submits(*(f"t{number}" for number in range(each)))
    assert len(one) * requests > COMMAND_BYTES_MOST
    async with sending(server, tmp_path) as (sender, other, coordinator):
        # All of them wait in the connection: on a slow machine it would else decide them as fast as they are sent.
        coordinator.process.send_signal(signal.SIGSTOP)
        try:
            for number in range(requests):
                await sender.send("task", "submit", submits(*(f"t{number}-{index}" for index in range(each))))
            await sender.flush()
        finally:
            coordinator.process.send_signal(signal.SIGCONT)
        await other.execute(SubmitTask(task_id="small", task_name="n"))
        answers = await sender.answers()
    counts = Counter("ok" if all("ok" in answer for answer in some) else some[0]["error"]["reason"] for some in answers)
    assert set(counts) == {"ok", "overloaded"}
    refused = [some for some in answers if "error" in some[0]]
    assert all(len(some) == 1 for some in refused)
    assert {some[0]["error"]["code"] for some in refused} == {"unavailable"}
    assert all(some[0]["error"]["retry_after_s"] > 0 for some in refused)
    assert all(f"{COMMAND_BYTES_MOST} bytes" in some[0]["error"]["message"] for some in refused)
    assert all(len(some) == each for some in answers if some not in refused)
    assert counts["ok"] * len(one) > COMMAND_BYTES_MOST // 4
