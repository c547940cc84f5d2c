"""
The writer's RPC door on NATS: commands come in on `….rpc.<source>.<kind>.<verb>`.

Requests are read in the connection's read loop and handed over; only the engine decides. The caller is the subject's
`<source>`, which NATS permissions guarantee, never a field of the message. Only the leader opens this door, in a queue
group of its epoch, so a deposed writer that wakes up receives no requests.
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
"""Commands that may come without a reply subject: hints, which may be lost."""


class RpcDoor:
    """Turns requests into commands, and outcomes into answers."""

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
        """Pass every command of a request to the engine; the answers are sent together, when the last is known."""
        if message.reply and not may_answer(message.reply):
            self._unanswerable.say(
                message.subject, f"its reply subject is not an inbox: {message.reply[:SHOWN_CHARS]!r}"
            )
            return
        source, kind, verb = self._subjects.parse_rpc(message.subject)
        wire_commands = decode_request(message.data)
        request = _Request(self, message.reply, len(wire_commands), self._stats.get((kind, verb)))
        for index, wire_command in enumerate(wire_commands):
            reply = _Reply(request, index)
            try:
                taken = self._checked(wire_command, source, kind, verb, message)
            except Refused as error:
                reply(None, error)
            else:
                self._hand_over(taken, source, reply)

    def _checked(
        self, wire_command: WireCommand | Refused, source: str, kind: str, verb: str, message: Message
    ) -> WireCommand:
        if isinstance(wire_command, Refused):
            raise wire_command
        if source != self._last_source:
            self._last_source = checked(source, "source")
        check_command(wire_command, kind, verb)
        if not message.reply and not isinstance(wire_command.data, _ONE_WAY):
            # For example, a claim without a receiver for the answer would lease tasks to no worker.
            self._unanswerable.say(message.subject, "it has no reply subject: send it as a request")
            raise Refused("a command needs a reply subject: send it as a request", reason="bad_request")
        return wire_command

    def _hand_over(self, wire_command: WireCommand, source: str, reply: Any) -> None:
        command = wire_command.data
        caller = Caller(
            actor=source, tenant=wire_command.tenant, command_id=wire_command.id, traceparent=wire_command.traceparent
        )
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
        """Encode one answer, with the epoch and the position it is from."""
        committed, epoch, position = self._as_of
        if committed is not self._engine.committed:
            # The same for all answers of a turn.
            committed, epoch, position = self._engine.committed, str(self._engine.epoch), str(self._engine.committed)
            self._as_of = (committed, epoch, position)
        try:
            return encode_answer(value, error, epoch, position)
        except (TypeError, ValueError, OverflowError) as unwritable:
            log.exception("answer_encoding_failed")
            refused = Refused(f"the coordinator cannot encode this answer: {unwritable}", reason="internal")
            return encode_answer(None, refused, epoch, position)

    def send(self, subject: str, answers: list[bytes]) -> None:
        """Send the answers of one request; never raises, because the writer's turn calls it."""
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
            log.warning("answer_send_failed", why=error.message)


class _Request:
    """One request: collects its answers and sends them when all are known."""

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
        """Record the outcome of one command."""
        self._answers[index] = self._door.encode(value, error)
        if error is not None:
            self._error = error
        self._open -= 1
        if self._open == 0:
            self._door.send(self._to, self._answers)
            if self._endpoint is not None:
                self._endpoint.note(self._door.now() - self._began, self._error)


class _Reply:
    """Receives the outcome of one command of a request."""

    __slots__ = ("_index", "_request")

    def __init__(self, request: _Request, index: int) -> None:
        self._request = request
        self._index = index

    def __call__(self, value: Any, error: CoordinationError | None) -> None:
        self._request.answer(self._index, value, error)
