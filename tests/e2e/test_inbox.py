"""Other domains publish as strangers do: with plain nats-py and none of our code, against the real server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import nats
import pytest

from coordinator.bus.streams import ensure_stream
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.diagnostics import doctor
from coordinator.diagnostics.findings import State
from coordinator.doors.inbox import InboxLimits, ensure_inbox, find_inboxes, inbox_stream
from coordinator.errors import NotFound, Refused, Unavailable
from coordinator.journal.stream import NatsJournal
from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused
from events.publisher import EventPublisher
from events.task import TaskSubmitted
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from nats.aio.client import Client as Nats

    from events.base import Envelope, Position
    from tests.e2e.conftest import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

PATIENCE_S = 60.0
INBOX = "coordination.inbox.execution"
STREAM = "COORDINATION_INBOX_EXECUTION"


@asynccontextmanager
async def stranger(cluster: Cluster) -> AsyncIterator[Nats]:
    """Connect as any client would."""
    client = await nats.connect(cluster.url, max_reconnect_attempts=-1, reconnect_time_wait=0.2)
    try:
        yield client
    finally:
        await client.close()


async def add_inbox(cluster: Cluster, domain: str = "execution", limits: InboxLimits | None = None) -> None:
    """Create an inbox, as `coordinator inbox add` does."""
    client = cluster.client
    await ensure_stream(
        client.bus, inbox_stream(client.subjects, domain, limits or InboxLimits(max_bytes=64 * 1024**2))
    )


async def journal(cluster: Cluster) -> list[Envelope]:
    """Read every event; folding them checks the chain."""
    source = NatsJournal(cluster.client.bus, cluster.client.subjects)
    world, found = World(), []
    async for records in source.read(0, (await source.bounds()).last):
        for record in records:
            found += world.apply_record(record)
    return found


async def until_read(cluster: Cluster, sequence: int, domain: str = "execution") -> list[Envelope]:
    """Wait until the journal records that the inbox is read up to here; return all events."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            events = await journal(cluster)
            reads = [one.data for one in events if isinstance(one.data, InboxRead) and one.data.domain == domain]
            if reads and reads[-1].sequence >= sequence:
                return events
            await asyncio.sleep(0.1)


def of(events: list[Envelope], kind: type) -> list[Any]:
    """Select the events of one type."""
    return [one.data for one in events if isinstance(one.data, kind)]


async def test_a_stranger_submits_completes_and_tells(cluster: Cluster) -> None:
    """Bare JSON, a CloudEvent, a batch: commands are executed as by RPC, other facts recorded, all in order."""
    await add_inbox(cluster)
    async with stranger(cluster) as client:
        js = client.jetstream()
        await js.publish(f"{INBOX}.task.submitted", b'{"task_id":"t1","task_name":"n"}')
        done = {"specversion": "1.0", "id": "e1", "source": "/exec", "type": "task.completed", "subject": "t1"}
        await js.publish(f"{INBOX}.task.completed", json.dumps({**done, "data": {"execution_time_s": 1.5}}).encode())
        facts = [
            {"specversion": "1.0", "id": f"f{n}", "source": "/exec", "type": "robot.moved", "data": {"x": n}}
            for n in range(3)
        ]
        await js.publish(f"{INBOX}.robot.moved", json.dumps(facts).encode())
    events = await until_read(cluster, 3)
    assert (await cluster.client.execute(GetTask(task_id="t1"))).execution_time_s == 1.5
    by_domain = [one.type for one in events if one.actor == "execution"]
    assert by_domain == ["task.submitted", "task.started", "task.completed", *["inbox.recorded"] * 3]
    assert [json.loads(bytes(fact.data)) for fact in of(events, InboxRecorded)] == [{"x": 0}, {"x": 1}, {"x": 2}]


HOSTILE: list[tuple[str, bytes, dict[str, str]]] = [
    ("task.submitted", b"", {}),
    ("task.submitted", b"not JSON", {}),
    ("task.submitted", b'{"task_name":"\xff\xfe"}', {}),
    ("task.submitted", b"[" * 400_000, {}),
    ("task.submitted", b'{"task_name":' * 30_000, {}),
    ("task.submitted", b"[" + b"{}," * 150_000 + b"{}]", {}),
    ("task.submitted", b'{"task_id":"a.*.>","task_name":"n"}', {}),
    ("task.submitted", b'{"task_id":"x/../../etc","task_name":"n"}', {}),
    ("task.submitted", b'{"task_name":"\\u001b[2J"}', {}),
    ("task.submitted", b'{"task_name":"\\ud800"}', {}),
    ("task.submitted", b'{"task_name":"n","priority":1e400}', {}),
    ("task.submitted", b'{"task_name":"n","priority":' + b"9" * 5000 + b"}", {}),
    ("task.submitted", b'{"task_name":"n","domain":"coordinator"}', {}),
    ("task.submitted", b'{"task_name":"n"}', {"ce-id": "1"}),
    ("task.submitted", b'{"task_name":"n"}', {"ce-specversion": "1.0", "ce-type": "x", "ce-id": "1", "ce-source": "s"}),
    ("coordinator.started", b'{"instance":"evil","version":"0","retention_s":0,"ended_kept":0}', {}),
    ("inbox.read", b'{"domain":"execution","stream_created":"","sequence":99999,"index":0}', {}),
    ("task.started", b'{"task_id":"t","worker_id":"w","claim_id":"c","attempt":1,"lease":"c.1"}', {}),
    ("node.registered", b'{"node_id":"n","capacity":{},"runtime":"process"}', {}),
    ("robot.moved", b'{"specversion":"1.0","id":"\\u0000","source":"","type":"robot.moved"}', {}),
    ("robot.moved", b'"' + b"x" * 400_000 + b'"', {}),
]


async def test_hostile_messages_are_refused_one_by_one_and_the_next_is_read(cluster: Cluster) -> None:
    """Each has its reason in the journal; none stops what follows, and the coordinator continues normally."""
    await add_inbox(cluster)
    async with stranger(cluster) as client:
        js = client.jetstream()
        for count, (type_, body, headers) in enumerate(HOSTILE):
            await js.publish(f"{INBOX}.{type_}", body, headers=headers or None)
            await js.publish(f"{INBOX}.robot.moved", b'{"after":%d}' % count)
    count = len(HOSTILE)
    events = await until_read(cluster, 2 * count)
    refused = of(events, InboxRefused)
    assert [one.sequence for one in refused] == [2 * n + 1 for n in range(count)]
    assert [json.loads(bytes(one.data)) for one in of(events, InboxRecorded)] == [{"after": n} for n in range(count)]
    assert all(len(one.message) < 1100 and one.message.isprintable() for one in refused)
    assert of(events, TaskSubmitted) == []
    assert {one.actor for one in events} == {"coordinator", "execution"}


async def test_wildcards_and_odd_tokens_in_the_subject_are_refused(cluster: Cluster) -> None:
    """A publisher may use wildcards in a subject, and the server takes them literally; no code of ours expands them."""
    await add_inbox(cluster)
    reader = cluster.client.bus
    subjects = ["*.>", "task.*", "robot.$x", "röbot.moved", "x" * 100 + ".y"]
    for subject in subjects:
        ack = json.loads(await reader.request(f"{INBOX}.{subject}", b"{}", timeout_s=20))
        assert ack["stream"] == STREAM
    refused = of(await until_read(cluster, len(subjects)), InboxRefused)
    assert [one.reason for one in refused] == ["bad_id"] * len(subjects)


async def test_repeats_make_nothing_twice(cluster: Cluster) -> None:
    """Repeats are detected by message id within the server's window, later by the event's id: same task, no refusal."""
    await add_inbox(cluster)
    event = {"specversion": "1.0", "id": "e1", "source": "/exec", "type": "task.submitted", "data": {"task_name": "n"}}
    body = json.dumps(event).encode()
    async with stranger(cluster) as client:
        js = client.jetstream()
        first = await js.publish(f"{INBOX}.task.submitted", body, headers={"Nats-Msg-Id": "e1"})
        again = await js.publish(f"{INBOX}.task.submitted", body, headers={"Nats-Msg-Id": "e1"})
        later = await js.publish(f"{INBOX}.task.submitted", body)
    assert (again.duplicate, later.seq) == (True, first.seq + 1)
    events = await until_read(cluster, later.seq)
    assert len(of(events, TaskSubmitted)) == 1
    assert of(events, InboxRefused) == []


async def test_every_message_has_its_effect_once_over_crashes_of_everything(cluster: Cluster) -> None:
    """The coordinator is aborted three times and the server killed once while a domain publishes."""
    await add_inbox(cluster)
    count = 3000

    async def publish() -> None:
        async with EventPublisher.open(cluster.url, domain="execution", timeout_s=PATIENCE_S) as publisher:
            for start in range(0, count, 50):
                async with asyncio.TaskGroup() as tasks:
                    for n in range(start, start + 50):
                        data = {"task_id": f"t{n}", "task_name": "n"} if n % 2 else {"n": n}
                        kind = "task.submitted" if n % 2 else "robot.moved"
                        tasks.create_task(publisher.publish(kind, data, event_id=f"e{n}"))
                await asyncio.sleep(0.02)

    async def disturb() -> None:
        for crash in range(4):
            await asyncio.sleep(0.4)
            if crash == 2:
                await cluster.restart_nats()
            else:
                await cluster.crash()
                await cluster.start()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish())
        tasks.create_task(disturb())
    info = await cluster.client.bus.js_request(f"STREAM.INFO.{STREAM}", timeout_s=20)
    assert info["state"]["messages"] == count
    events = await until_read(cluster, count)
    assert sorted(one.task_id for one in of(events, TaskSubmitted)) == sorted(f"t{n}" for n in range(1, count, 2))
    assert sorted(one.event_id for one in of(events, InboxRecorded)) == sorted(f"e{n}" for n in range(0, count, 2))
    assert of(events, InboxRefused) == of(events, InboxGap) == []


async def test_what_is_gone_before_it_was_read_is_a_gap(cluster: Cluster) -> None:
    """Purged from the front, deleted in the middle, the stream recreated: each is recorded, and reading continues."""
    await add_inbox(cluster)
    api = cluster.client.bus.js_request
    async with stranger(cluster) as client:
        js = client.jetstream()
        await js.publish(f"{INBOX}.robot.moved", b"1")
        await until_read(cluster, 1)
        await cluster.stop()
        for n in range(2, 12):
            await js.publish(f"{INBOX}.robot.moved", b"%d" % n)
        await api(f"STREAM.PURGE.{STREAM}", {"seq": 5}, timeout_s=20)
        await api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": 7}, timeout_s=20)
        await api(f"STREAM.MSG.DELETE.{STREAM}", {"seq": 8}, timeout_s=20)
        await cluster.start()
        events = await until_read(cluster, 11)
        gaps = of(events, InboxGap)
        assert [(one.from_sequence, one.to_sequence, one.why) for one in gaps] == [(2, 4, "removed"), (7, 8, "removed")]
        assert [bytes(one.data) for one in of(events, InboxRecorded)] == [b"1", b"5", b"6", b"9", b"10", b"11"]
        await api(f"STREAM.DELETE.{STREAM}", timeout_s=20)
        await add_inbox(cluster)
        await js.publish(f"{INBOX}.robot.moved", b"12")
    async with asyncio.timeout(PATIENCE_S):
        while b"12" not in [bytes(one.data) for one in of(await journal(cluster), InboxRecorded)]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    last = of(await journal(cluster), InboxGap)[-1]
    assert (last.why, last.from_sequence, last.to_sequence) == ("recreated", 1, 0)


async def test_an_inbox_put_back_from_an_older_copy_is_read_on_at_its_end(cluster: Cluster, tmp_path: Path) -> None:
    """Its sequences are assigned a second time; messages published from then on are read, and the break is recorded."""
    await add_inbox(cluster)
    (folder,) = cluster.server.store.glob(f"**/streams/{STREAM}")

    async def publish(*numbers: int) -> None:
        async with stranger(cluster) as client:
            for n in numbers:
                await client.jetstream().publish(f"{INBOX}.robot.moved", b"%d" % n)

    async def exchange(source: Path, target: Path) -> None:
        os.kill(cluster.server.pid, signal.SIGKILL)
        await cluster.server.wait_exit()
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        await cluster.server.restart()
        assert await cluster.client.bus.until_connected(PATIENCE_S)

    await publish(1, 2)
    await until_read(cluster, 2)
    await exchange(folder, tmp_path / "copy")
    await publish(3, 4, 5)
    await until_read(cluster, 5)
    await exchange(tmp_path / "copy", folder)
    async with asyncio.timeout(PATIENCE_S):
        while not of(await journal(cluster), InboxGap):  # noqa: ASYNC110  # the journal tells nobody
            await asyncio.sleep(0.1)
    await publish(6)
    async with asyncio.timeout(PATIENCE_S):
        while len(of(await journal(cluster), InboxRecorded)) < 6:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    events = await journal(cluster)
    assert [bytes(one.data) for one in of(events, InboxRecorded)] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [(one.why, one.to_sequence) for one in of(events, InboxGap)] == [("went_backwards", 2)]


async def test_an_inbox_is_found_while_the_coordinator_leads(cluster: Cluster) -> None:
    """An added inbox needs no restart; a removed one is no longer read, and is read again once it exists again."""
    for domain in ("one", "two"):
        await add_inbox(cluster, domain)
        async with EventPublisher.open(cluster.url, domain=domain) as publisher:
            await publisher.publish("robot.moved", 1)
        await until_read(cluster, 1, domain)
    assert set(await find_inboxes(cluster.client.bus, cluster.client.subjects)) == {"one", "two"}


async def test_a_stream_that_only_looks_like_an_inbox_is_not_read(cluster: Cluster) -> None:
    """Permissions vouch for the domain: a stream with another's subjects would speak in that domain's name."""
    api = cluster.client.bus.js_request
    for name, subjects in (("COORDINATION_INBOX_FORGED", [f"{INBOX}.a.*", "forged"]), ("OTHER", [f"{INBOX}.b.*"])):
        await api(f"STREAM.CREATE.{name}", {"name": name, "subjects": subjects}, timeout_s=20)
    await add_inbox(cluster, "honest")
    async with stranger(cluster) as client:
        for subject in (f"{INBOX}.a.x", f"{INBOX}.b.x", "forged"):
            await client.jetstream().publish(subject, b"{}")
        await client.jetstream().publish("coordination.inbox.honest.a.x", b"{}")
    events = await until_read(cluster, 1, "honest")
    assert {one.data.domain for one in events if isinstance(one.data, InboxRecorded | InboxRefused)} == {"honest"}
    with pytest.raises(NotFound):
        await cluster.client.execute(GetTask(task_id="x"))


async def test_a_flood_is_bounded_and_read_to_its_end(cluster: Cluster) -> None:
    """More messages than the intake limit at once, in batches and alone."""
    await add_inbox(cluster)
    async with stranger(cluster) as client:
        batch = [
            {"specversion": "1.0", "id": f"b{n}", "source": "/x", "type": "robot.moved", "data": n} for n in range(1000)
        ]
        for _ in range(10):
            await client.jetstream().publish(f"{INBOX}.robot.moved", json.dumps(batch).encode())
        for _ in range(2000):
            await client.publish(f"{INBOX}.robot.moved", b"{}")
        await client.flush()
    events = await until_read(cluster, 2010)
    assert len(of(events, InboxRecorded)) == 12_000


async def test_what_the_fold_cannot_take_stops_nobody(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in a fold costs one reign, not the cluster: the message that caused it is refused, the rest executed."""
    apply = World.apply

    def failing(self: World, envelope: Envelope, position: Position, time: float) -> None:
        if isinstance(envelope.data, TaskSubmitted) and envelope.data.task_id.startswith("poison"):
            raise ZeroDivisionError
        apply(self, envelope, position, time)

    monkeypatch.setattr(World, "apply", failing)
    await add_inbox(cluster)
    async with stranger(cluster) as client:
        for task_id in ("a", "poison_1", "b", "poison_2", "c"):
            order = json.dumps({"task_id": task_id, "task_name": "n"}).encode()
            await client.jetstream().publish(f"{INBOX}.task.submitted", order)
    events = await until_read(cluster, 5)
    with pytest.raises(Refused, match="failed on this command"):
        await cluster.client.execute(SubmitTask(task_id="poison_3", task_name="n"))
    await cluster.client.execute(SubmitTask(task_id="d", task_name="n"))
    assert [one.task_id for one in of(await journal(cluster), TaskSubmitted)] == ["a", "b", "c", "d"]
    assert [(one.sequence, one.reason) for one in of(events, InboxRefused)] == [(2, "internal"), (4, "internal")]


async def with_limits(cluster: Cluster, limits: InboxLimits) -> None:
    """Let the next coordinator of the cluster keep what was read for another time."""
    await cluster.stop()
    cluster._instance = msgspec.structs.replace(cluster._instance, inbox=limits)


async def stream_of(cluster: Cluster) -> dict[str, Any]:
    """Return the info of the inbox's stream."""
    info: dict[str, Any] = await cluster.client.bus.js_request(f"STREAM.INFO.{STREAM}", timeout_s=20)
    return info


async def until_messages(cluster: Cluster, most: int) -> dict[str, Any]:
    """Wait until the inbox's stream has at most so many messages; return its info."""
    async with asyncio.timeout(PATIENCE_S):
        while (info := await stream_of(cluster))["state"]["messages"] > most:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.1)
    return info


async def test_an_inbox_of_an_earlier_release_keeps_what_is_unread_from_the_first_start_on(cluster: Cluster) -> None:
    """It let go of messages by age and by size; what is in it is read whole, and `inbox add` accepts it too."""
    await cluster.stop()
    for domain, name in (("execution", STREAM), ("other", "COORDINATION_INBOX_OTHER")):
        wanted = inbox_stream(cluster.client.subjects, domain, InboxLimits(max_bytes=64 * 1024**2))
        before = wanted | {"discard": "old", "max_age": 7 * 86_400 * 10**9}
        await cluster.client.bus.js_request(f"STREAM.CREATE.{name}", before, timeout_s=20)
    async with stranger(cluster) as client:
        for n in range(20):
            await client.jetstream().publish(f"{INBOX}.robot.moved", b"%d" % n)
    await ensure_inbox(cluster.client.bus, cluster.client.subjects, "other", InboxLimits(max_bytes=64 * 1024**2))
    other = await cluster.client.bus.js_request("STREAM.INFO.COORDINATION_INBOX_OTHER", timeout_s=20)
    assert (other["config"]["discard"], other["config"]["max_age"]) == ("new", 0)
    assert (await stream_of(cluster))["config"]["discard"] == "old"
    (found,) = await doctor._inboxes(cluster.client)
    assert (found.check, found.state) == ("inbox execution", State.WARN)
    await cluster.start()
    events = await until_read(cluster, 20)
    assert [bytes(one.data) for one in of(events, InboxRecorded)] == [b"%d" % n for n in range(20)]
    assert of(events, InboxGap) == []
    async with asyncio.timeout(PATIENCE_S):
        while (info := await stream_of(cluster))["config"]["discard"] != "new":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert (info["config"]["max_age"], info["config"]["max_bytes"]) == (0, 64 * 1024**2)
    (found,) = await doctor._inboxes(cluster.client)
    assert (found.check, found.state) == ("inboxes", State.OK)


async def test_a_full_inbox_refuses_its_publisher_and_loses_nothing(cluster: Cluster) -> None:
    """Nobody reads: the publisher hears it and keeps his event. Once it is read there is room, and all is in order."""
    await add_inbox(cluster, limits=InboxLimits(max_bytes=1024**2))
    await with_limits(cluster, InboxLimits(kept_s=0, discover_s=0.1))
    stored = 0

    async def fill(publisher: EventPublisher) -> None:
        nonlocal stored
        while True:
            await publisher.publish("robot.moved", {"n": stored, "text": "x" * 50_000}, event_id=f"e{stored}")
            stored += 1

    async with EventPublisher.open(cluster.url, domain="execution", timeout_s=1.0) as publisher:
        with pytest.raises(Unavailable, match=r"inbox of 'execution' is full .*again with the same id") as told:
            await fill(publisher)
        assert told.value.reason == "inbox_full"
        assert 15 < stored < 25
        (found,) = await doctor._inboxes(cluster.client)
        assert found.state is State.WARN
        assert "refuses its publisher" in found.seen
        await cluster.start()
        await until_messages(cluster, 0)
        await publisher.publish("robot.moved", {"n": stored}, event_id=f"e{stored}")
    events = await until_read(cluster, stored + 1)
    assert [one.event_id for one in of(events, InboxRecorded)] == [f"e{n}" for n in range(stored + 1)]
    assert of(events, InboxGap) == []


async def test_what_was_read_is_removed_and_is_still_known(cluster: Cluster) -> None:
    """Only up to what a commit accounts for: over crashes nothing is missed. A repeat is still recognised."""
    await add_inbox(cluster)
    await with_limits(cluster, InboxLimits(kept_s=0, discover_s=0.05))
    await cluster.start()
    async with stranger(cluster) as client:
        js = client.jetstream()
        for n in range(300):
            await js.publish(f"{INBOX}.robot.moved", b"%d" % n, headers={"Nats-Msg-Id": f"e{n}"})
            if n in (100, 200):
                await cluster.crash()
                await cluster.start()
        await until_read(cluster, 300)
        await until_messages(cluster, 0)
        assert (await js.publish(f"{INBOX}.robot.moved", b"299", headers={"Nats-Msg-Id": "e299"})).duplicate
        await cluster.stop()
        await js.publish(f"{INBOX}.robot.moved", b"300")
        await asyncio.sleep(0.3)
        assert (await stream_of(cluster))["state"]["messages"] == 1
    await cluster.start()
    events = await until_read(cluster, 301)
    assert [bytes(one.data) for one in of(events, InboxRecorded)] == [b"%d" % n for n in range(301)]
    assert of(events, InboxGap) == []


async def test_what_was_read_a_moment_ago_is_kept_for_repeats(cluster: Cluster) -> None:
    """A nats-server that starts again knows a repeat by the messages it holds; a full inbox needs their room sooner."""
    await add_inbox(cluster, limits=InboxLimits(max_bytes=1024**2))
    async with stranger(cluster) as client:
        js = client.jetstream()
        await js.publish(f"{INBOX}.robot.moved", b"1", headers={"Nats-Msg-Id": "e1"})
        await until_read(cluster, 1)
        await asyncio.sleep(2.5)
        await cluster.restart_nats()
        assert await cluster.client.bus.until_connected(PATIENCE_S)
        async with asyncio.timeout(PATIENCE_S):
            while not client.is_connected:  # noqa: ASYNC110  # nats-py tells nobody
                await asyncio.sleep(0.1)
        assert (await js.publish(f"{INBOX}.robot.moved", b"1", headers={"Nats-Msg-Id": "e1"})).duplicate
        for n in range(12):
            await js.publish(f"{INBOX}.robot.moved", b'"' + b"%d" % n + b"x" * 50_000 + b'"')
    await until_messages(cluster, 10)
