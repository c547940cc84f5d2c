"""A new writer recalls everyone's last heartbeat, and counts none of them as a sign of life."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.bus.connection import Bus
from coordinator.commands.service import FindServices, RegisterService
from coordinator.commands.worker import RegisterWorker
from coordinator.doors import heartbeats as heartbeat_recall
from coordinator.doors.heartbeats import recall_heartbeats
from events.codec import encode, envelope
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from events.base import Event
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
TIME = "2026-11-23T17:15:00.000000Z"
PATIENCE_S = 20.0


async def beat(bus: Bus, kind: str, event: Event) -> None:
    """Publish a heartbeat as any client would."""
    body = encode(envelope(event, position="b", time=TIME, source="/test"))
    await bus.publish(SUBJECTS.heartbeat(kind, event.subject), body)
    await bus.flush()


async def kept(bus: Bus) -> int:
    """Count the senders in the stream."""
    info = await bus.js_request(f"STREAM.INFO.{SUBJECTS.stream_heartbeats}", timeout_s=5)
    return int(info["state"]["messages"])


async def until_kept(bus: Bus, count: int) -> None:
    """Wait until that many senders are in the stream."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await kept(bus) >= count:
                return
            await asyncio.sleep(0.01)


async def test_loads_are_known_at_once_after_a_take_over(cluster: Cluster) -> None:
    """The next writer sorts services by load before any new heartbeat; silence is counted from the writer's start."""
    client = cluster.client
    for service_id in ("busy", "idle", "quiet"):
        await client.execute(
            RegisterService(service_id=service_id, service_name="s", service_type="http", host="127.0.0.1", port=1)
        )
    await client.execute(RegisterWorker(worker_id="worker"))
    async with Bus.open(cluster.url, name="test") as bus:
        await beat(bus, "service", ServiceHeartbeat(service_id="busy", load=0.9, connections=7))
        await beat(bus, "service", ServiceHeartbeat(service_id="idle", load=0.1))
        await beat(bus, "service", ServiceHeartbeat(service_id="stranger", load=0.5))
        await beat(bus, "worker", WorkerHeartbeat(worker_id="worker", load=0.7))
        await bus.publish(SUBJECTS.heartbeat("service", "garbled"), b"{")
        await until_kept(bus, 5)
    await cluster.crash()
    await cluster.start()
    engine = cluster.coordinator.engine
    assert engine is not None
    found = await client.execute(FindServices(service_name="s"))
    loads = {one.service.service_id: one.reported for one in found}
    assert loads["busy"] is not None
    assert loads["idle"] is not None
    assert (loads["busy"].load, loads["busy"].connections, loads["idle"].load) == (0.9, 7, 0.1)
    assert loads["quiet"] is None
    assert engine.signs.worker_loads == {"worker": 0.7}
    assert set(engine.signs.loads) == {"busy", "idle"}
    assert engine.signs.services == engine.signs.workers == {}


async def test_any_number_of_senders_is_recalled(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read page by page, each sender once, with its last heartbeat."""
    monkeypatch.setattr(heartbeat_recall, "PAGE", 7)
    async with Bus.open(cluster.url, name="test") as bus:
        assert await recall_heartbeats(bus, SUBJECTS, lambda _: None) == 0
        for number in range(21):
            for load in (0.1, 0.2):
                await beat(bus, "service", ServiceHeartbeat(service_id=f"s{number}", load=load))
        await until_kept(bus, 21)
        found: list[tuple[str, bool]] = []
        count = await recall_heartbeats(
            bus, SUBJECTS, lambda message: found.append((message.subject, b'"load":0.2' in message.data))
        )
    assert count == 21
    assert sorted(found) == sorted((SUBJECTS.heartbeat("service", f"s{number}"), True) for number in range(21))


async def test_without_the_stream_nothing_is_recalled(cluster: Cluster) -> None:
    """A writer starts even if there is nothing to recall."""
    async with Bus.open(cluster.url, name="test") as bus:
        await bus.js_request(f"STREAM.DELETE.{SUBJECTS.stream_heartbeats}", timeout_s=5)
        assert await recall_heartbeats(bus, SUBJECTS, lambda _: None) == 0
