"""
The writer's doors on NATS.

Commands come in on `….rpc.<source>.<kind>.<verb>`, signs of life on `….heartbeat.<kind>.<id>`.

Both are read in the connection's read loop and only hand over: whatever decides is the engine's. Who asks is the
subject's `<source>`, which NATS permissions vouch for, never a field of the message. Only the instance that leads
opens these doors, in a queue group of its epoch, so one that was stopped and wakes takes nobody's request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.commands.caller import Caller
from coordinator.commands.service import FindServices
from coordinator.commands.task import WithdrawClaim
from coordinator.commands.wire import WireCommand, check_command, decode_request, encode_answer
from coordinator.doors.dropped import SHOWN_CHARS, Dropped
from coordinator.engine.intake import Asked
from events.errors import CoordinationError, Refused
from events.ids import checked
from events.subjects import may_answer

if TYPE_CHECKING:
    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from coordinator.doors.micro import Endpoint, RequestStats
    from coordinator.engine.engine import Engine
    from events.base import Position
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

_ONE_WAY = (WithdrawClaim,)
"""What may come without a reply subject: a hint, which may be lost."""


class RpcDoor:
    """Turns requests into commands and outcomes into answers."""

    def __init__(self, engine: Engine, bus: Bus, subjects: Subjects, stats: RequestStats) -> None:
        self.now = asyncio.get_running_loop().time
        self._stats = stats.by_subject
        self._engine = engine
        self._bus = bus
        self._subjects = subjects
        self._unanswerable = Dropped("request_dropped")
        self._last_source = ""
        self._as_of: tuple[Position | None, str, str] = (None, "", "")

    def take(self, message: Message) -> None:
        """Hand every command of a request to the engine; the answers leave together, when the last is known."""
        if message.reply and not may_answer(message.reply):
            self._unanswerable.say(message.subject, f"nobody may be answered on {message.reply[:SHOWN_CHARS]!r}")
            return
        source, kind, verb = self._subjects.parse_rpc(message.subject)
        orders = decode_request(message.data)
        request = _Request(self, message.reply, len(orders), self._stats.get((kind, verb)))
        for index, order in enumerate(orders):
            reply = _Reply(request, index)
            try:
                taken = self._checked(order, source, kind, verb, message)
            except Refused as error:
                reply(None, error)
            else:
                self._hand_over(taken, source, reply)

    def _checked(
        self, order: WireCommand | Refused, source: str, kind: str, verb: str, message: Message
    ) -> WireCommand:
        if isinstance(order, Refused):
            raise order
        if source != self._last_source:
            self._last_source = checked(source, "source")
        check_command(order, kind, verb)
        if not message.reply and not isinstance(order.data, _ONE_WAY):
            # A claim whose answer nobody gets, say, would lend tasks to nobody.
            self._unanswerable.say(message.subject, "it has no reply subject: send it as a request")
            raise Refused("a command needs a reply subject", reason="bad_request")
        return order

    def _hand_over(self, order: WireCommand, source: str, reply: Any) -> None:
        command = order.data
        caller = Caller(actor=source, tenant=order.tenant, command_id=order.id, traceparent=order.traceparent)
        if isinstance(command, FindServices):
            try:
                found = self._engine.ask_now(command, caller)
            except CoordinationError as error:
                reply(None, error)
            else:
                reply(found, None)
            return
        self._engine.put(Asked(command, caller, reply))

    def encode(self, value: Any, error: CoordinationError | None) -> bytes:
        """Write one answer, with the reign and position it is from."""
        committed, epoch, position = self._as_of
        if committed is not self._engine.committed:
            # The same for all answers of a turn.
            committed, epoch, position = self._engine.committed, str(self._engine.epoch), str(self._engine.committed)
            self._as_of = (committed, epoch, position)
        try:
            return encode_answer(value, error, epoch, position)
        except (TypeError, ValueError, OverflowError) as unwritable:
            log.exception("answer_unwritable")
            refused = Refused(f"the coordinator cannot write this answer: {unwritable}", reason="internal")
            return encode_answer(None, refused, epoch, position)

    def send(self, subject: str, answers: list[bytes]) -> None:
        """Send the answers of one request; never raises, for the writer's turn calls it."""
        if not subject:
            return
        try:
            self._bus.send(subject, b"[%b]" % b",".join(answers))
        except Refused as error:
            self._send_instead(subject, [self.encode(None, error)] * len(answers))

    def _send_instead(self, subject: str, answers: list[bytes]) -> None:
        try:
            self._bus.send(subject, b"[%b]" % b",".join(answers))
        except Refused as error:
            log.warning("answer_not_sent", why=error.message)


class _Request:
    """One request under way: collects its answers and sends them when all are there."""

    __slots__ = ("_answers", "_began", "_door", "_endpoint", "_error", "_open", "_to")

    def __init__(self, door: RpcDoor, to: str, count: int, endpoint: Endpoint | None) -> None:
        self._began = door.now()
        self._endpoint = endpoint
        self._error: CoordinationError | None = None
        self._door = door
        self._to = to
        self._answers: list[bytes] = [b""] * count
        self._open = count
        if count == 0:
            door.send(to, [])

    def answer(self, index: int, value: Any, error: CoordinationError | None) -> None:
        """Take the outcome of one command."""
        self._answers[index] = self._door.encode(value, error)
        if error is not None:
            self._error = error
        self._open -= 1
        if self._open == 0:
            self._door.send(self._to, self._answers)
            if self._endpoint is not None:
                self._endpoint.note(self._door.now() - self._began, self._error)


class _Reply:
    """Where the outcome of one command of a request goes."""

    __slots__ = ("_index", "_request")

    def __init__(self, request: _Request, index: int) -> None:
        self._request = request
        self._index = index

    def __call__(self, value: Any, error: CoordinationError | None) -> None:
        self._request.answer(self._index, value, error)
