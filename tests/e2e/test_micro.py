"""The coordinator as NATS tools see it: asked with plain nats-py, checked by ADR-32 and nats-py's own reader."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.micro.service import SEMVER_REGEX, ServiceInfo, ServicePing, ServiceStats

from coordinator.commands import COMMANDS
from coordinator.commands.task import GetTask, ListTasks, SubmitTask
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.task_groups import task_group
from events.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nats.aio.client import Client as PlainNats

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

PATIENCE_S = 20.0
STANDARD = {"type", "name", "id", "version", "metadata"}


@asynccontextmanager
async def plain(cluster: Cluster) -> AsyncIterator[PlainNats]:
    connection = await nats.connect(cluster.url)
    try:
        yield connection
    finally:
        await connection.close()


async def ask(connection: PlainNats, subject: str) -> dict[str, Any]:
    reply = await connection.request(subject, b"", timeout=PATIENCE_S)
    answer: dict[str, Any] = json.loads(reply.data)
    return answer


async def ask_all(connection: PlainNats, subject: str, count: int) -> list[dict[str, Any]]:
    """Send one request and take *count* answers."""
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.publish(subject, b"", reply=inbox)
    return [json.loads((await answers.next_msg(timeout=PATIENCE_S)).data) for _ in range(count)]


def is_standard(answer: dict[str, Any], verb: str) -> bool:
    """Check what every answer must contain according to the ADR."""
    assert answer["type"] == f"io.nats.micro.v1.{verb}_response"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", answer["name"])
    assert re.fullmatch(r"[A-Za-z0-9_-]+", answer["id"])
    assert SEMVER_REGEX.match(answer["version"])
    assert all(isinstance(value, str) for value in answer["metadata"].values())
    return True


async def test_whoever_asks_is_answered(cluster: Cluster) -> None:
    """All services, those of the name, this instance: each verb answers on all three; another instance does not."""
    async with plain(cluster) as connection:
        for verb in ("PING", "INFO", "STATS"):
            told = [await ask(connection, f"$SRV.{verb}{rest}") for rest in ("", ".coordinator", ".coordinator.tested")]
            assert all(is_standard(answer, verb.lower()) for answer in told)
            assert told[0] == told[1] == told[2]
            with pytest.raises(nats.errors.NoRespondersError):
                await ask(connection, f"$SRV.{verb}.coordinator.another")
        ping = await ask(connection, "$SRV.PING")
    assert set(ping) == STANDARD
    assert ServicePing.from_dict(ping).id == "tested"
    engine = cluster.coordinator.engine
    assert engine is not None
    assert ping["metadata"] == {
        "role": "leader", "epoch": str(engine.epoch), "leader": "tested", "namespace": "coordination",
    }  # fmt: skip


async def test_every_command_is_an_endpoint(cluster: Cluster) -> None:
    """INFO names the subject of each endpoint, and the queue group that really receives the requests."""
    async with plain(cluster) as connection:
        told = await ask(connection, "$SRV.INFO.coordinator")
    assert set(told) == STANDARD | {"description", "endpoints"}
    info = ServiceInfo.from_dict(told)
    assert [endpoint.name for endpoint in info.endpoints] == list(COMMANDS)
    for endpoint, command in zip(info.endpoints, COMMANDS.values(), strict=True):
        assert endpoint.subject == f"coordination.rpc.*.{command.KIND}.{command.VERB}"
        assert endpoint.queue_group == "e{}".format(told["metadata"]["epoch"].replace(".", "-"))
        assert endpoint.metadata is not None
        assert endpoint.metadata["kind"] == ("question" if command.IS_QUESTION else "command")


async def test_requests_are_counted(cluster: Cluster) -> None:
    """Counts are of requests, not of commands; errors, the last error, and the processing time are reported."""
    await asyncio.gather(
        *(cluster.client.execute(SubmitTask(task_id=f"t{number}", task_name="n")) for number in range(50))
    )
    await cluster.client.execute(ListTasks())
    for _ in range(3):
        with pytest.raises(NotFound):
            await cluster.client.execute(GetTask(task_id="nowhere"))
    await cluster.client.bus.request("coordination.rpc.test.no.such", b'[{"type":"list_tasks"}]', timeout_s=PATIENCE_S)
    async with plain(cluster) as connection:
        told = await ask(connection, "$SRV.STATS.coordinator")
    assert set(told) == STANDARD | {"started", "endpoints"}
    assert datetime.fromisoformat(told["started"]).utcoffset() is not None
    by_name = {endpoint.name: endpoint for endpoint in ServiceStats.from_dict(told).endpoints}
    assert 1 <= by_name["submit_task"].num_requests < 50
    assert (by_name["list_tasks"].num_requests, by_name["list_tasks"].num_errors) == (1, 0)
    missing = by_name["get_task"]
    assert (missing.num_requests, missing.num_errors) == (3, 3)
    assert missing.last_error is not None
    assert missing.last_error.startswith("not_found:task 'nowhere' not found")
    assert missing.processing_time > 0
    assert missing.average_processing_time == missing.processing_time // 3
    idle = by_name["define_pool"]
    assert (idle.num_requests, idle.average_processing_time, idle.last_error) == (0, 0, "")


async def test_one_that_stands_by_says_so(cluster: Cluster) -> None:
    """A standby answers too, with no endpoints, and names the leader; once it leads it reports that."""
    second = Coordinator(Instance(url=cluster.url, name="second", version="0"))
    async with plain(cluster) as connection, task_group() as tasks:
        running = tasks.create_task(second.run())
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    told = await ask(connection, "$SRV.INFO.coordinator.second")
                except nats.errors.NoRespondersError:
                    continue
                if told["metadata"]["leader"] == "tested":
                    break
                await asyncio.sleep(0.02)
        assert (told["metadata"]["role"], told["metadata"]["epoch"], told["endpoints"]) == ("standby", "", [])
        both = await ask_all(connection, "$SRV.PING.coordinator", 2)
        assert {answer["id"]: answer["metadata"]["role"] for answer in both} == {
            "tested": "leader",
            "second": "standby",
        }
        await cluster.stop()
        async with asyncio.timeout(PATIENCE_S):
            while (await ask(connection, "$SRV.PING"))["metadata"]["role"] != "leader":  # noqa: ASYNC110  # asked over NATS
                await asyncio.sleep(0.02)
        second.stop("the test is over")
        await running
    await cluster.start()


async def test_only_inboxes_are_answered(cluster: Cluster) -> None:
    """A reply subject elsewhere, or none, gets nothing: nobody can make the coordinator write where they may not."""
    async with plain(cluster) as connection:
        seen = await connection.subscribe("elsewhere.>")
        await connection.publish("$SRV.STATS", b"", reply="elsewhere.reply")
        await connection.publish("$SRV.STATS", b"")
        await ask(connection, "$SRV.PING")  # the coordinator handles it after them
        assert seen.pending_msgs == 0
        with pytest.raises(nats.errors.TimeoutError):
            await seen.next_msg(timeout=0.2)
