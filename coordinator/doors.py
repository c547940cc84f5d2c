"""
The writer's doors on NATS.

Commands come in on `….rpc.<source>.<kind>.<verb>`, signs of life on `….heartbeat.<kind>.<id>`.

Both are read in the connection's read loop and only hand over: whatever decides is the engine's. Who asks is the
subject's `<source>`, which NATS permissions vouch for, never a field of the message. Only the instance that leads
opens these doors, in a queue group of its epoch, so one that was stopped and wakes takes nobody's request.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands import FindServices, ServiceLoad
from coordinator.intake import Asked, Caller
from coordinator.wire import Order, check_order, decode_orders, encode_answer
from events.codec import ENVELOPES, UNREADABLE
from events.errors import CoordinationError, Refused
from events.service import ServiceHeartbeat
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus import Bus, Message
    from coordinator.engine import Engine
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

_heartbeat_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    ENVELOPES[ServiceHeartbeat] | ENVELOPES[WorkerHeartbeat]
)
_LEASES_MAX = 10_000


@asynccontextmanager
async def open_doors(engine: Engine, bus: Bus, subjects: Subjects) -> AsyncIterator[None]:
    """Take commands and heartbeats for *engine* while the block runs, and announce that it leads."""
    rpc = RpcDoor(engine, bus, subjects)
    heartbeats = HeartbeatDoor(engine, subjects)
    subscriptions = [
        await bus.subscribe(subjects.rpc_all, rpc.take, queue=f"e{engine.epoch.generation}-{engine.epoch.sequence}"),
        await bus.subscribe(subjects.heartbeats, heartbeats.take),
    ]
    try:
        await bus.flush()
        bus.send(subjects.leader, msgspec.json.encode({"epoch": str(engine.epoch)}))
        yield
    finally:
        for subscription in subscriptions:
            await subscription.unsubscribe()


class RpcDoor:
    """Turns requests into commands and outcomes into answers."""

    def __init__(self, engine: Engine, bus: Bus, subjects: Subjects) -> None:
        self._engine = engine
        self._bus = bus
        self._subjects = subjects

    def take(self, message: Message) -> None:
        """Hand every command of a request to the engine; the answers leave together, when the last is known."""
        source, kind, verb = self._subjects.parse_rpc(message.subject)
        orders = decode_orders(message.data)
        request = _Request(self, message.reply, len(orders))
        for index, order in enumerate(orders):
            reply = request.reply(index)
            if isinstance(order, Refused):
                reply(None, order)
                continue
            try:
                check_order(order, kind, verb)
            except Refused as error:
                reply(None, error)
            else:
                self._hand_over(order, source, reply)

    def _hand_over(self, order: Order, source: str, reply: Any) -> None:
        command = order.data
        if isinstance(command, FindServices):
            try:
                found = self._engine.ask_now(command)
            except CoordinationError as error:
                reply(None, error)
            else:
                reply(found, None)
            return
        caller = Caller(actor=source, tenant=order.tenant, command_id=order.id, traceparent=order.traceparent)
        self._engine.put(Asked(command, caller, reply))

    def encode(self, value: Any, error: CoordinationError | None) -> bytes:
        """Write one answer, with the reign and position it is from."""
        return encode_answer(value, error, str(self._engine.epoch), str(self._engine.committed))

    def send(self, subject: str, answers: list[bytes]) -> None:
        """Send the answers of one request."""
        if not subject:
            return
        body = b"[%b]" % b",".join(answers)
        try:
            self._bus.send(subject, body)
        except Refused as error:
            self._bus.send(subject, b"[%b]" % b",".join([self.encode(None, error)] * len(answers)))


class _Request:
    """One request under way: collects its answers and sends them when all are there."""

    __slots__ = ("_answers", "_door", "_open", "_to")

    def __init__(self, door: RpcDoor, to: str, count: int) -> None:
        self._door = door
        self._to = to
        self._answers: list[bytes] = [b""] * count
        self._open = count
        if count == 0:
            door.send(to, [])

    def reply(self, index: int) -> Any:
        def reply(value: Any, error: CoordinationError | None) -> None:
            self._answers[index] = self._door.encode(value, error)
            self._open -= 1
            if self._open == 0:
                self._door.send(self._to, self._answers)

        return reply


class HeartbeatDoor:
    """Notes signs of life; what is malformed, or speaks for another than its subject says, is dropped and logged."""

    def __init__(self, engine: Engine, subjects: Subjects) -> None:
        self._engine = engine
        self._subjects = subjects

    def take(self, message: Message) -> None:
        """Note one heartbeat."""
        kind, entity_id = self._subjects.parse_heartbeat(message.subject)
        if kind == "node":
            return  # a node's sign is its sync
        try:
            beat = _heartbeat_decoder.decode(message.data).data
        except UNREADABLE as error:
            log.warning("heartbeat_dropped", subject=message.subject, why=str(error))
            return
        if beat.subject != entity_id or not type(beat).__name__.lower().startswith(kind):
            log.warning("heartbeat_dropped", subject=message.subject, why="it speaks for another than its subject")
        elif isinstance(beat, WorkerHeartbeat):
            self._engine.hear_worker(entity_id, beat.leases[:_LEASES_MAX], beat.load)
        else:
            load = ServiceLoad(
                heard_s_ago=0.0,
                load=beat.load,
                connections=beat.connections,
                response_time_ms=beat.response_time_ms,
            )
            self._engine.hear_service(entity_id, load)
