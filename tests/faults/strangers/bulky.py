"""What is large, and what is not taken away: giant payloads, giant environments, slow readers."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

from tests.faults.strangers.sender import S

if TYPE_CHECKING:
    from tests.faults.strangers.sender import Place

PAYLOADS = (60_000, 60_000, 250_000, 900_000)
"""Bytes: half of them are accepted, the others are larger than a payload may be."""
CONTAINERS = 90
READERS = 3
UNREAD = (("task", "list", "list_tasks", {"limit": 1000}), ("service", "find", "find_services", {"limit": 10_000}))


def request(name: str, **data: Any) -> bytes:
    """Return the body of a request."""
    return json.dumps([{"type": name, "data": data}]).encode()


def payload(value: str) -> dict[str, str]:
    """Return *value* as a payload."""
    data = json.dumps(value)
    return {"encoding": "json", "data": data, "digest": sha256(data.encode()).hexdigest()}


async def giant_payloads(place: Place) -> None:
    """Submit tasks with payloads as large as they may be, and much larger ones."""
    bodies = [request("submit_task", task_id="ID", task_name="n", payload=payload("x" * size)) for size in PAYLOADS]
    chosen, numbers = cycle(bodies), count()
    async with place.sender() as sender:
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                if place.pace.is_over:
                    break
                await sender.raw("task", "submit", next(chosen).replace(b'"ID"', b'"g%d"' % number, 1))


async def giant_environments(place: Place) -> None:
    """Create, start and destroy containers with environments as large as they may be, larger, and full of controls."""
    environments: list[dict[str, Any]] = [
        {"A": "x" * 30_000},
        {f"V{number}": "y" * 20 for number in range(1000)},
        {"CONTROL": "\x01" * 20_000},
        {"HUGE": "z" * 700_000},
        {f"S{number}": {"secret": f"none{number}"} for number in range(100)},
    ]
    chosen = cycle(environments)
    async with place.sender() as sender:
        turns = count()
        async for allowed in place.pace.turns():
            for number, _ in zip(turns, range(allowed), strict=False):
                if place.pace.is_over:
                    break
                container_id = f"{place.name}{number // 3 % CONTAINERS}"
                if number % 3 == 0:
                    data: dict[str, Any] = {"container_id": container_id, "agent_id": "a", "agent_type": "dies"}
                    await sender.send("container", "create", "create_container", **data, environment=next(chosen))
                elif number % 3 == 1:
                    await sender.send("container", "start", "start_container", container_id=container_id)
                else:
                    forced: dict[str, Any] = {"container_id": container_id, "force": True}
                    await sender.send("container", "destroy", "destroy_container", **forced)


async def slow_readers(place: Place) -> None:
    """Ask for long answers and subscribe to all events, on connections that are never read."""
    readers = [place.deaf() for _ in range(READERS)]
    for reader in readers:
        reader.subscribe(f"_INBOX.{reader.user}.>")
        reader.subscribe("coordination.events.>")
        reader.subscribe(S.services)
    chosen, asking = cycle(UNREAD), cycle(range(READERS))
    async with place.sender() as sender:
        numbers = count()
        async for allowed in place.pace.turns():
            for number, _ in zip(numbers, range(allowed), strict=False):
                index = next(asking)
                if number % 4 == 0:  # events for them to leave unread
                    await sender.send("task", "submit", "submit_task", task_id=f"s{number}", task_name="none")
                    continue
                kind, verb, name, data = next(chosen)
                subject, reply = S.rpc(readers[index].user, kind, verb), f"_INBOX.{place.name}.unread{index}"
                if not readers[index].publish(subject, request(name, **data), reply):
                    place.tally.answers["cut off"] += 1
                    readers[index].close()
                    readers[index] = await asyncio.to_thread(place.deaf)
                    readers[index].subscribe(f"_INBOX.{place.name}.>")
