"""What concerns the server: reconnect storms and forged subjects."""

from __future__ import annotations

import asyncio
import socket
from itertools import count, cycle
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.faults.strangers.bulky import request
from tests.faults.strangers.sender import S

if TYPE_CHECKING:
    from tests.faults.strangers.sender import Place

OPEN_MOST = 300
"""Connections that are open at a time, half of them without a login."""
SUBMIT = request("submit_task", task_id="forged", task_name="n")
FORGED = (
    *(S.journal, S.epoch, S.leader, S.services, S.event("task.submitted"), "$KV.COORDINATION_LEASE.writer"),
    *(S.rpc("honest", "task", "submit"), S.rpc("admin", "task", "cancel"), "coordination.rpc.*.task.submit"),
    *(S.heartbeat("worker", "honest"), S.notice("worker", "honest"), S.node("n1", "logs"), S.read("honest", "get")),
    *(f"$JS.API.STREAM.DELETE.{S.stream_journal}", f"$JS.API.STREAM.PURGE.{S.stream_journal}", "$SYS.REQ.SERVER.PING"),
    *(S.inbox("honest", "task.done"), "_INBOX.honest.a", "_R_.a", "x" * 1000, "a..b", "coordination.rpc"),
)
REPLIES = (S.journal, S.rpc("honest", "task", "submit"), "_INBOX.honest.a", "$JS.API.INFO", "_R_.a")


async def reconnects(place: Place) -> None:
    """Connect, log in, ask, and be gone before the answer; or connect and never log in."""
    address, numbers = urlsplit(place.url), count()
    silent: list[socket.socket] = []

    def once() -> None:
        try:
            one = place.deaf()
            one.subscribe(f"_INBOX.{place.name}.>")
            one.publish(S.rpc(one.user, "coordinator", "stats"), request("get_stats"), f"_INBOX.{place.name}.a")
            one.close()
            place.tally.answers["connected"] += 1
        except (OSError, ValueError):
            place.tally.answers["not connected"] += 1

    async for allowed in place.pace.turns():
        for number, _ in zip(numbers, range(min(allowed, 20)), strict=False):
            if place.pace.is_over:
                return
            if number % 4 == 0:
                place.tally.requests += 1
                silent.append(socket.create_connection((address.hostname, address.port), 2.0))
                if len(silent) > OPEN_MOST // 2:
                    silent.pop(0).close()
            else:
                await asyncio.to_thread(once)


async def forged_subjects(place: Place) -> None:
    """
    Publish where it is not allowed, with replies that lead elsewhere, and subscribe to what is others'.

    Replies with a wildcard are left out: they make nats-server lose answers under way (docs/guide/security.md).
    """
    one, subjects, replies = place.deaf(), cycle(FORGED), cycle(REPLIES)
    async for allowed in place.pace.turns():
        for number in range(allowed):
            is_sent = (
                one.publish(S.rpc(one.user, "coordinator", "stats"), request("get_stats"), next(replies))
                if number % 4 == 0
                else one.publish(next(subjects), SUBMIT, f"_INBOX.{place.name}.a")
            )
            if number % 50 == 0:
                is_sent = one.subscribe("_INBOX.honest.>") and one.subscribe("coordination.>")
            if not is_sent:
                place.tally.answers["cut off"] += 1
                one.close()
                one = await asyncio.to_thread(place.deaf)
        place.tally.answers["violations"] += one.read().count(b"-ERR")
