"""What really crosses NATS matches the AsyncAPI document, checked by an independent validator."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from coordinator.api.asyncapi import asyncapi
from coordinator.commands import COMMANDS
from coordinator.commands.payloads import payload_of
from events.subjects import Subjects

if TYPE_CHECKING:
    from coordinator.bus.subscription import Message
    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

DOCUMENT = asyncapi()
SUBJECTS = Subjects()
PATIENCE_S = 20.0
WATCHED = ("journal", "epoch", "leader", "services")

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("submit_task", {"task_id": "t1", "task_name": "n", "resources": {"gpus": 0}, "priority": 3}),
    ("submit_task", {"task_id": "t2", "task_name": ""}),
    ("register_worker", {"worker_id": "w1", "slots": 2, "handles": ["n"]}),
    ("claim_tasks", {"claim_id": "c1", "worker_id": "w1", "wait_s": 1}),
    ("get_task", {"task_id": "t1"}),
    ("list_tasks", {}),
    ("complete_task", {"task_id": "t1", "lease": "c1.1.1"}),
    ("get_task", {"task_id": "nowhere"}),
    ("register_service", {"service_id": "s1", "service_name": "x", "service_type": "t", "host": "h", "port": 1}),
    ("heartbeat_service", {"service_id": "s1", "load": 0.5}),
    ("find_services", {"service_name": "x"}),
    ("report_check", {"service_id": "s1", "ok": False, "check": "own"}),
    ("get_health_history", {"service_id": "s1"}),
    ("register_node", {"node_id": "n1", "capacity": {"cpu_millis": 4000, "memory_bytes": 1 << 30}, "runtime": "fake"}),
    ("create_container", {"container_id": "k1", "agent_id": "a", "agent_type": "task_agent"}),
    ("start_container", {"container_id": "k1"}),
    ("sync_node", {"node_id": "n1"}),
    ("list_nodes", {}),
    ("list_workers", {}),
    ("define_pool", {"pool_id": "p1", "capacity": {"gpus": 2}}),
    ("allocate_pool", {"pool_id": "p1", "request_id": "r1", "resources": {"gpus": 1}}),
    ("get_pool", {"pool_id": "p1"}),
    ("bind_session", {"session_id": "z1", "container_id": "k1"}),
    ("get_session", {"session_id": "z1"}),
    ("get_stats", {}),
]


def validate(message: dict[str, Any], body: bytes) -> None:
    schema = {**message["payload"], "components": DOCUMENT["components"]}
    said = [error.message[:300] for error in Draft7Validator(schema).iter_errors(json.loads(body))]
    assert said == [], body[:500]


async def test_what_travels_is_what_the_document_says(cluster: Cluster) -> None:
    """Requests, answers, errors, commits, service notices and leader notices, each on its own channel."""
    channels, seen = DOCUMENT["channels"], dict[str, int]()

    def look(channel: str) -> Any:
        (message,) = channels[channel]["messages"].values()

        def take(received: Message) -> None:
            validate(message, received.data)
            seen[channel] = seen.get(channel, 0) + 1

        return take

    bus = cluster.client.bus
    watched = [await bus.subscribe(channels[name]["address"], look(name)) for name in WATCHED]
    await bus.flush()
    with pytest.raises(AssertionError, match="task_id"):
        validate(channels["rpc.submit_task"]["messages"]["submit_task"], b'[{"type":"submit_task","data":{}}]')
    payload = msgspec.to_builtins(payload_of([1]))
    for number, (name, data) in enumerate(ASKED):
        command = COMMANDS[name]
        more = {"payload": payload} if name == "submit_task" else {}
        body = json.dumps([{"id": f"cmd_{number}", "type": name, "data": {**data, **more}}]).encode()
        (request,) = channels[f"rpc.{name}"]["messages"].values()
        validate(request, body)
        answer = await bus.request(SUBJECTS.rpc("test", command.KIND, command.VERB), body, timeout_s=PATIENCE_S)
        validate(channels["answers"]["messages"][name], answer)
    await cluster.stop()
    await cluster.start()
    async with asyncio.timeout(PATIENCE_S):
        while len(seen) < len(WATCHED):  # noqa: ASYNC110  # told over NATS
            await asyncio.sleep(0.01)
    assert [one.failures for one in watched] == [0, 0, 0, 0]
