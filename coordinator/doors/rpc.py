"""
The writer's RPC door on NATS: commands come in on `….rpc.<source>.<kind>.<verb>`.

Requests are read in the connection's read loop and handed over; only the engine decides. The caller is the subject's
`<source>`, which NATS permissions guarantee, never a field of the message. Only the leader opens this door, in a queue
group of its epoch, so a deposed writer that wakes up receives no requests.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.commands import BY_SUBJECT, COMMANDS
from coordinator.commands.caller import Caller
from coordinator.commands.container import CreateContainer
from coordinator.commands.plain_secrets import warning_of
from coordinator.commands.service import FindServices
from coordinator.commands.task import ClaimTasks, ReleaseTask, SubmitTask, WithdrawClaim
from coordinator.commands.wire import (
    WIRE_COMMANDS,
    AsOf,
    WireCommand,
    ask_again,
    check_command,
    decode_request,
    encode_answer,
    encode_text,
    too_large,
    untold,
)
from coordinator.doors.dropped import SHOWN_CHARS, Dropped
from coordinator.engine.intake import Asked, Unread
from events.errors import CoordinationError, Refused, Unavailable
from events.ids import DEFAULT_TENANT, checked
from events.subjects import may_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from coordinator.commands.command import Command
    from coordinator.doors.micro import Endpoint, RequestStats
    from coordinator.engine.engine import Engine
    from events.base import Position
    from events.subjects import Subjects
    from projections.task import Task

log = structlog.get_logger(__name__)

_ONE_WAY = (WithdrawClaim,)
"""Commands that may come without a reply subject: hints, which may be lost."""

LARGE_BYTES = 32 * 1024
"""A request of more is decoded when its turn comes, if its source has much waiting; to decode it takes 0.05 to 1 ms."""
SMALL_BYTES = 256
"""Room for this much is set aside for each answer of a request: for "ask again", with epoch and position."""
HELD_BYTES_MOST = 16 * 1024 * 1024
"""Answers that wait for the others of their request, over all requests; a source has half of what others leave."""
_MAY_WAIT = frozenset((one.KIND, one.VERB) for one in COMMANDS.values() if "wait_s" in one.__struct_fields__)
_ANSWERED = Refused("")
"""Instead of a command that was answered."""


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
        self._held_bytes = 0
        self._held_of: dict[str, int] = {}
        self._as_of: tuple[Position | None, str, str, bytes] = (None, "", "", b"")

    def take(self, message: Message) -> None:
        """Pass every command of a request to the engine; the answers are sent together, when the last is known."""
        if message.reply and not may_answer(message.reply):
            self._unanswerable.say(
                message.subject, f"its reply subject is not an inbox: {message.reply[:SHOWN_CHARS]!r}"
            )
            return
        source, kind, verb = self._subjects.parse_rpc(message.subject)
        is_leading = self._engine.is_leading()
        if len(message.data) > LARGE_BYTES and is_leading and self._put_off(message, source, kind, verb):
            return
        self._pass(message, source, kind, verb, self._engine.intake.put if is_leading else self._engine.put)

    def _put_off(self, message: Message, source: str, kind: str, verb: str) -> bool:
        """Queue a large request undecoded, or refuse it; return False if it is to be decoded now."""
        command, began = BY_SUBJECT.get((kind, verb)), self.now()

        def read() -> list[Asked]:
            found: list[Asked] = []
            try:
                self._pass(message, source, kind, verb, found.append, began)
            except Exception as error:  # the engine's turn calls this
                log.exception("request_unreadable", subject=message.subject)
                reply(None, Refused(f"the coordinator failed on this request: {error}", reason="internal"))
                return []
            return found

        def reply(value: Any, error: CoordinationError | None) -> None:
            assert value is None
            self.send(message.reply, [self.encode(None, error, None)])
            if (endpoint := self._stats.get((kind, verb))) is not None:
                endpoint.note(self.now() - began, error)

        is_question = command is not None and command.IS_QUESTION
        caller = Caller(actor=source)
        return self._engine.intake.put_off(Unread(caller, reply, len(message.data), is_question=is_question, read=read))

    def _pass(
        self,
        message: Message,
        source: str,
        kind: str,
        verb: str,
        put: Callable[[Asked], None],
        began: float | None = None,
    ) -> None:
        """Decode a request, which came at the time *began*, or now, and pass on each of its commands."""
        wire_commands = decode_request(message.data)
        request = _Request(self, message.reply, source, wire_commands, self._stats.get((kind, verb)), began)
        size = len(message.data) // len(wire_commands) if wire_commands else 0
        may_wait = (kind, verb) in _MAY_WAIT and len(wire_commands) > 1
        if may_wait and any(map(_waits, wire_commands)) and not request.set_aside():
            for index in range(len(wire_commands)):
                request.answer(index, None, _no_room_to_wait())
            return
        last = plain = Caller(actor=source)
        usual = self._usual(source, kind, verb, message)
        for index, taken in enumerate(wire_commands):
            reply, caller = partial(request.answer, index), plain
            if type(taken) is not usual or taken.id or taken.traceparent or taken.tenant != DEFAULT_TENANT:
                try:
                    taken = self._checked(taken, source, kind, verb, message)  # noqa: PLW2901  # the same
                except Refused as error:
                    reply(None, error)
                    continue
                # Usually all are from the same caller.
                if taken.id != last.command_id or taken.tenant != last.tenant or taken.traceparent != last.traceparent:
                    last = Caller(actor=source, tenant=taken.tenant, command_id=taken.id, traceparent=taken.traceparent)
                caller = last
            asked = Asked(taken.data, caller, reply, request, size)
            if type(taken.data) is FindServices and began is None:
                self._engine.discover(asked)
            else:
                put(asked)

    def _usual(self, source: str, kind: str, verb: str, message: Message) -> type[WireCommand] | None:
        """Return the class of the commands in which only id, trace and tenant are left to check; None if none is."""
        if source != self._last_source or not message.reply:
            return None
        command = BY_SUBJECT.get((kind, verb))
        return None if command is None else WIRE_COMMANDS[command]

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

    @property
    def message_bytes(self) -> int:
        """The most bytes of one message."""
        return self._bus.max_payload_bytes

    def hold(self, source: str, size: int) -> bool:
        """Keep *size* bytes of answers until `release`; return False if the source has too many, or all together."""
        mine = self._held_of.get(source, 0) + size
        if mine > HELD_BYTES_MOST - self._held_bytes:
            return False
        self._held_bytes += size
        self._held_of[source] = mine
        return True

    def release(self, source: str, size: int) -> None:
        """Answers of *size* bytes are kept no longer."""
        self._held_bytes -= size
        left = self._held_of[source] - size
        if left:
            self._held_of[source] = left
        else:
            del self._held_of[source]

    def encode(self, value: Any, error: CoordinationError | None, command: Command | None, tenant: str = "") -> bytes:
        """Encode one answer, with the epoch and the position it is from; *command* is None if it was unreadable."""
        committed, epoch, position, done = self._as_of
        if committed is not self._engine.committed:
            # The same for all answers of a turn.
            committed, epoch, position = self._engine.committed, str(self._engine.epoch), str(self._engine.committed)
            done = encode_answer(None, None, epoch, position)
            self._as_of = (committed, epoch, position, done)
        try:
            if type(command) is SubmitTask and command.idempotency_key:
                until = self._engine.world.key_holds_until(tenant, command.idempotency_key)
                return encode_answer(value, error, epoch, position, until)
            if error is None:
                if type(command) is CreateContainer:
                    return encode_answer(value, None, epoch, position, warning=warning_of(command.environment))
                if value is None:
                    return done
                if type(value) is str:
                    return encode_text(value, done)
            if type(value) is AsOf:
                return encode_answer(value.value, None, epoch, value.position)
            return encode_answer(value, error, epoch, position)
        except (TypeError, ValueError, OverflowError) as unwritable:
            log.exception("answer_encoding_failed")
            told = untold(command, f"cannot be encoded: {unwritable}", "internal")
            return encode_answer(None, told, epoch, position)

    def keep_fitting(self, tasks: list[Task], most: int, source: str, tenant: str) -> list[Task]:
        """Return the first tasks of a claim that fit into *most* bytes, and return the others to the queue."""
        kept = 0
        for task in tasks:
            most -= len(msgspec.json.encode(task)) + 1
            if most < 0:
                break
            kept += 1
        if kept:
            caller, why = Caller(actor=source, tenant=tenant), "no room in the answer to its claim"
            for task in tasks[kept:]:
                back = ReleaseTask(task_id=task.task_id, lease=task.lease, reason=why)
                self._engine.put(Asked(back, caller))
        return tasks[:kept]

    def take_back(self, claim: ClaimTasks, source: str, tenant: str) -> None:
        """Return what a claim got to the queue: no message can tell it."""
        back = WithdrawClaim(claim_id=claim.claim_id, worker_id=claim.worker_id)
        self._engine.put(Asked(back, Caller(actor=source, tenant=tenant)))

    def send(self, subject: str, answers: list[bytes]) -> None:
        """Send the answers of one request; never raises, because the writer's turn calls it."""
        if not subject:
            return
        try:
            self._bus.send(subject, b"[%b]" % b",".join(answers))
        except Refused:
            # Not even small answers fit into a message of this server: one answer for the request as a whole.
            self._send_one(subject, self.encode(None, ask_again(), None))

    def _send_one(self, subject: str, answer: bytes) -> None:
        try:
            self._bus.send(subject, b"[%b]" % answer)
        except Refused as error:
            log.warning("answer_send_failed", why=error.message)


class _Request:
    """
    One request: collects its answers and sends them in one message when all are known.

    An answer that has no room there is dropped, and its caller told to ask again. This must never make another outcome
    of what was decided, and never keep more than one message of answers.
    """

    __slots__ = (
        *("_answers", "_began", "_commands", "_door", "_endpoint", "_error", "_held", "_is_full", "_left", "_open"),
        *("_source", "_to"),
    )

    def __init__(
        self,
        door: RpcDoor,
        to: str,
        source: str,
        commands: list[WireCommand | Refused],
        endpoint: Endpoint | None,
        began: float | None,
    ) -> None:
        count = len(commands)
        self._began = door.now() if began is None else began
        self._endpoint = endpoint
        self._error: CoordinationError | None = None
        self._door = door
        self._to = to
        self._source = source
        self._commands = commands
        self._answers: list[bytes] = [b""] * count
        self._open = count
        self._held = 0
        self._is_full = False
        self._left = door.message_bytes - 1 - count * (SMALL_BYTES + 1)  # brackets, commas, and what is set aside
        if count == 0:
            door.send(to, [])

    def set_aside(self) -> bool:
        """Keep the small answers too, of a request of which a command may wait; return whether there is room."""
        size = len(self._answers) * SMALL_BYTES
        if not self._door.hold(self._source, size):
            return False
        self._held += size
        return True

    def alone(self) -> int:
        """How many bytes a value may have in a message of its own."""
        return self._door.message_bytes - SMALL_BYTES - 2

    def left(self) -> int:
        """How many bytes the value of the next question may have."""
        return 0 if self._is_full else self._left

    def answer(self, index: int, value: Any, error: CoordinationError | None) -> None:
        """Record the outcome of one command."""
        door, asked = self._door, self._commands[index]
        command, tenant = (None, "") if isinstance(asked, Refused) else (asked.data, asked.tenant)
        encoded = door.encode(value, error, command, tenant)
        if len(encoded) > SMALL_BYTES:
            if len(encoded) > door.message_bytes - 2 and not isinstance(asked, Refused):
                value, error = self._told_instead(asked, value)
                encoded = door.encode(value, error, command)
            if not self._make_room(len(encoded) - SMALL_BYTES):
                error = ask_again()
                encoded = door.encode(None, error, command)
        self._answers[index] = encoded
        self._commands[index] = _ANSWERED  # others of the request may wait long, and this one may be large
        if error is not None:
            # Its traceback keeps the frames that it came through, and these keep it: memory that only the garbage
            # collector returns, which runs seldom here.
            error.__traceback__ = error.__context__ = None
            self._error = error
        self._open -= 1
        if self._open == 0:
            if self._held:
                door.release(self._source, self._held)
            door.send(self._to, self._answers)
            if self._endpoint is not None:
                self._endpoint.note(door.now() - self._began, self._error)

    def _make_room(self, more: int) -> bool:
        """Take *more* bytes than were set aside, if they are left."""
        if more > self._left or (self._open > 1 and not self._door.hold(self._source, more)):
            self._is_full = True
            return False
        self._left -= more
        if self._open > 1:
            self._held += more
        return True

    def _told_instead(self, asked: WireCommand, value: Any) -> tuple[Any, CoordinationError | None]:
        """Return what is told instead of an answer that does not even fit into a message of its own."""
        if isinstance(asked.data, ClaimTasks):
            if value and (some := self._door.keep_fitting(value, self.alone(), self._source, asked.tenant)):
                return some, None
            self._door.take_back(asked.data, self._source, asked.tenant)
        return None, too_large(asked.data, self.alone())


def _waits(asked: WireCommand | Refused) -> bool:
    """Whether a command may be answered long after the others of its request."""
    return not isinstance(asked, Refused) and getattr(asked.data, "wait_s", 0.0) > 0


def _no_room_to_wait() -> Unavailable:
    msg = "too many answers wait for the others of their requests: send what waits in a request of its own, or later"
    return Unavailable(msg, reason="overloaded", retry_after_s=1.0)
