"""`EventPublisher`: an event it reports as stored is stored, once; and its errors say what is wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream
from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.errors import Refused, Unavailable
from events.publisher import BATCH_EVENTS, EventPublisher, Outgoing
from events.subjects import Subjects
from tests import real_server as servers
from tests.real_server import RealServer, real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

STREAM = "COORDINATION_INBOX_EXECUTION"
PATIENCE_S = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RealServer]:
    """A server with the inbox of one domain."""
    async with real_server(tmp_path) as running:
        async with Bus.open(running.url, name="admin") as bus:
            await ensure_stream(bus, inbox_stream(Subjects(), "execution", InboxLimits(max_bytes=64 * 1024**2)))
        yield running


async def stored(server: RealServer) -> list[dict[str, Any]]:
    """Read every message of the inbox: its subject, headers and JSON."""
    found = []
    async with Bus.open(server.url, name="admin") as bus:
        state = (await bus.js_request(f"STREAM.INFO.{STREAM}", timeout_s=20))["state"]
        for sequence in range(state["first_seq"], state["last_seq"] + 1):
            message = (await bus.js_request(f"STREAM.MSG.GET.{STREAM}", {"seq": sequence}, timeout_s=20))["message"]
            headers = base64.b64decode(message.get("hdrs", "")).decode()
            body = json.loads(base64.b64decode(message["data"]))
            found.append({"subject": message["subject"], "headers": headers, "body": body})
    return found


async def test_an_event_is_stored_as_a_cloud_event(server: RealServer) -> None:
    """The id is generated or the caller's; it is also the message id, so the server recognizes a repeat."""
    async with EventPublisher.open(server.url, domain="execution", source="/exec/7") as publisher:
        made = await publisher.publish("task.completed", {"execution_time_s": 1.5}, subject="t1", tenant="acme")
        for _ in range(2):
            assert await publisher.publish("robot.moved", event_id="mine", time=0.5, traceparent="00-1") == "mine"
    first, second = await stored(server)
    assert first["subject"] == "coordination.inbox.execution.task.completed"
    assert f"Nats-Msg-Id: {made}\r\n" in first["headers"]
    assert "Content-Type: application/cloudevents+json\r\n" in first["headers"]
    assert first["body"].pop("time").endswith("Z")
    assert first["body"] == {
        "specversion": "1.0", "id": made, "source": "/exec/7", "type": "task.completed", "subject": "t1",
        "tenant": "acme", "data": {"execution_time_s": 1.5},
    }  # fmt: skip
    assert second["body"] == {
        "specversion": "1.0", "id": "mine", "source": "/exec/7", "type": "robot.moved",
        "time": "1970-01-01T00:00:00.500000Z", "traceparent": "00-1",
    }  # fmt: skip


async def test_many_go_in_order_in_few_messages(server: RealServer) -> None:
    """A message holds events of one type, up to a limit; the same events sent again make the same messages."""
    count = BATCH_EVENTS + 10
    events = [Outgoing(type="a.b", data=n, event_id=f"e{n}") for n in range(count)]
    events += [Outgoing(type="a.c", data="x" * 100_000, event_id=f"big{n}") for n in range(4)]
    events += [Outgoing(type="a.b", data="last", event_id="last")]
    async with EventPublisher.open(server.url, domain="execution") as publisher:
        for _ in range(2):
            assert await publisher.publish_many(events) == [one.event_id for one in events]
        assert await publisher.publish_many([]) == []
    messages = await stored(server)
    assert [len(one["body"]) for one in messages] == [BATCH_EVENTS, 10, 2, 2, 1]
    assert [event["id"] for one in messages for event in one["body"]] == [one.event_id for one in events]
    assert {one["headers"].count("application/cloudevents-batch+json") for one in messages} == {1}


async def test_what_was_acknowledged_is_there_once_over_a_crash_of_the_server(server: RealServer) -> None:
    """Calls in flight wait until the server is back, and are sent again under the same id."""
    acknowledged: list[str] = []
    async with EventPublisher.open(server.url, domain="execution", timeout_s=PATIENCE_S) as publisher:

        async def publish(worker: int) -> None:
            for n in range(60):
                acknowledged.append(await publisher.publish("robot.moved", n, event_id=f"{worker}-{n}"))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            for worker in range(20):
                tasks.create_task(publish(worker))
            await asyncio.sleep(0.1)
            await server.kill()
            await asyncio.sleep(0.3)
            await server.start()
    ids = [one["body"]["id"] for one in await stored(server)]
    assert sorted(ids) == sorted(acknowledged)
    assert len(set(ids)) == 20 * 60


async def test_a_server_that_answers_late_is_waited_for(server: RealServer) -> None:
    """While the server is frozen the call is not lost, and the event is stored once."""
    async with EventPublisher.open(server.url, domain="execution", timeout_s=PATIENCE_S) as publisher:
        server.pause()
        publishing = asyncio.ensure_future(publisher.publish("robot.moved", 1, event_id="e"))
        await asyncio.sleep(2.5)  # longer than the publisher waits before it sends again
        server.resume()
        assert await publishing == "e"
    assert len(await stored(server)) == 1


async def test_without_an_inbox_it_says_how_to_make_one(server: RealServer) -> None:
    """The error comes after the publisher has tried for as long as it may."""
    async with EventPublisher.open(server.url, domain="nobody", timeout_s=1.0) as publisher:
        with pytest.raises(Unavailable, match="there is no inbox for 'nobody': create it with 'coordinator inbox add"):
            await publisher.publish("robot.moved")


async def test_what_cannot_be_published_is_refused_with_the_reason(server: RealServer) -> None:
    """Each invalid event is refused separately, at once."""
    async with EventPublisher.open(server.url, domain="execution") as publisher:
        for call, why in [
            (publisher.publish("robot"), "event '' is not an identifier"),
            (publisher.publish("robot.*"), r"event '\*' is not an identifier"),
            (publisher.publish("robot.moved", {1: object()}), "cannot be written as JSON"),
            (publisher.publish("robot.moved", event_id="a\r\nb"), "is not allowed in a header"),
            (publisher.publish("robot.moved", "x" * 2_000_000), "is too large: the server accepts"),
            (publisher.publish("robot.moved", "x" * 600_000), "the server refused the event"),
        ]:
            with pytest.raises(Refused, match=why):
                await call
        await publisher.publish("robot.moved")
    assert len(await stored(server)) == 1


@pytest.mark.parametrize("domain", ["", "Execution", "a.b", "coordinator"])
async def test_a_domain_has_a_name(domain: str) -> None:
    """Invalid settings are refused before anything connects."""
    with pytest.raises(Refused, match="is not a valid name"):
        async with EventPublisher.open("nats://127.0.0.1:1", domain=domain):
            pass


async def test_a_server_that_is_not_there_is_told(server: RealServer) -> None:
    """The error comes within a few seconds, whatever is wrong; it contains no token."""

    async def fails(url: str, error: type[Exception]) -> None:
        with pytest.raises(error) as told:
            async with EventPublisher.open(url, domain="execution"):
                pass
        assert "s3cret" not in str(told.value)

    await asyncio.gather(
        fails("http://x", Refused),
        fails("nats://s3cret@127.0.0.1:1", Unavailable),
        fails(f"nats://s3cret@127.0.0.1:{server.port}", Unavailable),
    )


async def test_an_error_in_the_block_comes_out_as_it_is(server: RealServer) -> None:
    """The error is not wrapped in a group; callers that still wait get an error."""
    waiting: list[asyncio.Future[str]] = []

    async def fail() -> None:
        async with EventPublisher.open(server.url, domain="execution") as publisher:
            server.pause()
            waiting.append(asyncio.ensure_future(publisher.publish("robot.moved")))
            await asyncio.sleep(0.05)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    server.resume()
    with pytest.raises(Unavailable, match="was closed before the event was acknowledged"):
        await waiting[0]


async def test_credentials_that_do_not_allow_a_subject_are_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain may publish into its own inbox only; calls to its own go on."""
    permissions = 'permissions: {{ publish: ["coordination.inbox.execution.robot.>"], subscribe: ["_INBOX.>"] }}'
    users = f"authorization {{{{ users: [ {{{{ user: admin, password: pw }}}}, {{{{ user: exec, password: pw, {permissions} }}}} ] }}}}"  # fmt: skip  # noqa: E501
    monkeypatch.setattr(servers, "_CONF", servers._CONF.replace('authorization {{ token: "{token}" }}', users))
    async with real_server(tmp_path) as running:
        host = f"127.0.0.1:{running.port}"
        async with Bus.open(f"nats://admin:pw@{host}", name="admin") as bus:
            for domain in ("execution", "core"):
                await ensure_stream(bus, inbox_stream(Subjects(), domain, InboxLimits(max_bytes=64 * 1024**2)))
        async with EventPublisher.open(f"nats://exec:pw@{host}", domain="execution") as publisher:
            await publisher.publish("robot.moved")
            with pytest.raises(Refused, match=r"may not publish on .*execution\.task.completed"):
                await publisher.publish("task.completed", subject="t")
            await publisher.publish("robot.moved")
        async with EventPublisher.open(f"nats://exec:pw@{host}", domain="core") as publisher:
            with pytest.raises(Refused, match="may not publish on"):
                await publisher.publish("robot.moved")


def test_importing_it_brings_in_no_nats() -> None:
    """Only opening a publisher imports nats."""
    program = "import sys, events.publisher; print('nats' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "False\n"
