"""
How commands and answers travel: a JSON array each way, the answers in the order of the commands.

    [{"id": "cmd_…", "type": "submit_task", "data": {…}}]
    [{"ok": …, "epoch": "1.17", "position": "1042.3"} | {"error": {"code", "message", "reason", "retry_after_s"}, …}]

`tenant` and `traceparent` may stand beside `type`. What cannot be read is refused by itself: the others in the same
request are not held up. A request that is no such array, or too long a one, gets one answer. What comes in is
anybody's: an error shows so much of it and no more, and nothing in it may stop whoever reads it.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from events.codec import UNREADABLE
from events.errors import CoordinationError, Refused, error_of, shown
from events.ids import checked
from events.resources import Resources

MOST_COMMANDS = 1000
"""Commands in one request."""
MESSAGE_CHARS_MOST = 1000
"""What an error says at most; what is longer quotes something."""
DEFAULT_TENANT = "default"
TRACEPARENT_CHARS_MOST = 64
"""W3C Trace Context has 55."""

_place = re.compile(r"(.*) - at `(?:key in )?\$([^`]*)`", re.DOTALL).fullmatch
_steps = re.compile(r"\.(\w+)|\[(\d+)\]|(.)", re.DOTALL).findall
_may_name_amounts = re.compile(rb'"(?:resources|capacity)"').search
_unknown_field = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL).fullmatch


class WireCommand(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """One command on its way; the type on the wire is the tag of the subclass."""

    data: Command
    id: str = ""
    tenant: str = DEFAULT_TENANT
    traceparent: str = ""


def _wire_class(name: str, command: type[Command]) -> type[WireCommand]:
    return msgspec.defstruct(  # type: ignore[return-value]  # a subclass, for `bases` says so
        f"{command.__name__}Command",
        [("data", command)],
        bases=(WireCommand,),
        tag_field="type",
        tag=name,
        frozen=True,
        kw_only=True,
        gc=False,
        omit_defaults=True,
        forbid_unknown_fields=True,
    )


WIRE_COMMANDS: dict[type[Command], type[WireCommand]] = {
    command: _wire_class(name, command) for name, command in COMMANDS.items()
}

_any_command: Any = None
for _class in WIRE_COMMANDS.values():
    _any_command = _class if _any_command is None else _any_command | _class
_request_decoder = msgspec.json.Decoder(list[_any_command])
_raw_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class _Head(msgspec.Struct):
    type: str
    id: str = ""


_head_decoder = msgspec.json.Decoder(_Head)
_encoder = msgspec.json.Encoder()


class WireError(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """An error as it travels; told apart by `code`, the message is for people."""

    code: str
    message: str
    reason: str = ""
    retry_after_s: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One answer: `ok` or `error`, from which writer's reign and as of which position."""

    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: WireError | None = None
    epoch: str = ""
    position: str = ""


class _Ok(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    ok: Any
    epoch: str
    position: str


_answers_decoder = msgspec.json.Decoder(list[Answer])
_answer_decoders = {
    command: None if command.Answer is None else msgspec.json.Decoder(command.Answer) for command in WIRE_COMMANDS
}


def encode_command(order: WireCommand) -> bytes:
    """
    Write one command, to go out alone or with others by `request_of`.

    Raises:
        Refused: it holds what JSON cannot.
    """
    try:
        return _encoder.encode(order)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        msg = f"{type(order.data).__name__} cannot be written as JSON: {error}"
        raise Refused(msg, reason="bad_request") from error


def request_of(orders: list[bytes]) -> bytes:
    """Put commands that are written already into one request."""
    return b"[%b]" % b",".join(orders)


def decode_request(body: bytes) -> list[WireCommand | Refused]:
    """Read a request; whatever of it cannot be read stands there as the reason why."""
    try:
        orders: list[WireCommand | Refused] = _request_decoder.decode(body)
    except UNREADABLE:
        return _decode_one_by_one(body)
    if _may_name_amounts(body) and not _amounts_are_known(body):
        return _decode_one_by_one(body)
    return orders if len(orders) <= MOST_COMMANDS else [_too_many(len(orders))]


class _Amounts(Resources, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Amounts as a command may name them; events, whose struct they share, are read leniently."""


class _Amounted(msgspec.Struct, gc=False):
    resources: _Amounts | None = None
    capacity: _Amounts | None = None


class _AmountedCommand(msgspec.Struct, gc=False):
    data: _Amounted


_amounts_decoder = msgspec.json.Decoder(list[_AmountedCommand])


def _amounts_are_known(body: bytes) -> bool:
    try:
        _amounts_decoder.decode(body)
    except UNREADABLE:
        return False
    return True


def _decode_one_by_one(body: bytes) -> list[WireCommand | Refused]:
    try:
        parts = _raw_decoder.decode(body)
    except UNREADABLE as error:
        msg = f"the request is no JSON array of commands ({cut(str(error))}): send [{{'id', 'type', 'data'}}]"
        return [Refused(msg, reason="bad_request")]
    if len(parts) > MOST_COMMANDS:
        return [_too_many(len(parts))]
    return [_decode_one(bytes(part)) for part in parts]


def _too_many(count: int) -> Refused:
    return Refused(f"the request has {count} commands: at most {MOST_COMMANDS}", reason="bad_request")


def decode_command(name: str, data: bytes) -> Command:
    """
    Read the fields of a command of the type *name*; *data* is one JSON value.

    Raises:
        Refused: they are not right; it says which, and what would be.
    """
    order = _decode_one(b'{"type":"%b","data":%b}' % (name.encode(), data))
    if isinstance(order, Refused):
        raise order
    return order.data


def _decode_one(part: bytes) -> WireCommand | Refused:
    try:
        head = _head_decoder.decode(part)
    except UNREADABLE as error:
        msg = f"a command is no object with a type ({cut(str(error))}): send {{'id', 'type', 'data'}}"
        return Refused(msg, reason="bad_request")
    command = COMMANDS.get(head.type)
    if command is None:
        msg = f"command type {shown(head.type)} is not known: {nearest(head.type, COMMANDS)}"
        return Refused(msg, reason="unknown_command")
    try:
        order = msgspec.json.decode(part, type=WIRE_COMMANDS[command])
        _check_amounts(part)
    except UNREADABLE as error:
        return Refused(f"{head.type}: {_explained(part, command, str(error))}", reason="bad_request")
    except Refused as error:
        return error
    return order


def _check_amounts(part: bytes) -> None:
    """
    Refuse amounts of what nobody knows: events are read leniently, and these are the events' own struct.

    Raises:
        Refused: `{"cpu": "2"}`, say, which would otherwise count as nothing asked for.
    """
    if not _may_name_amounts(part):
        return
    data = msgspec.json.decode(part)["data"]
    for field in ("resources", "capacity"):
        amounts = data.get(field)
        for name in amounts if isinstance(amounts, dict) else ():
            if name not in Resources.__struct_fields__:
                right = nearest(name, Resources.__struct_fields__)
                msg = f"{field} has a field {shown(name)} that is not known: {right}, whole numbers"
                raise Refused(msg, reason="bad_request")


def _explained(part: bytes, command: type[Command], problem: str) -> str:
    """Say what is wrong with a command, with the value; *problem* is what msgspec said, which leaves it out."""
    found = _place(problem)
    what, path = (found[1], found[2]) if found is not None else (problem, "")
    if unknown := _unknown_field(what):
        fields = {".data": command.__struct_fields__, "": ("id", "type", "data", "tenant", "traceparent")}.get(path, ())
        where = path.removeprefix(".") or "the command"
        right = nearest(unknown[1], fields) if fields else "leave it out"
        return f"{where} has a field {shown(unknown[1])} that is not known: {right}"
    where = path.removeprefix(".data.")
    if not where or what.startswith("Object missing"):
        return cut(problem)
    if what.startswith("Invalid enum value") and (choices := _choices(command, where)):
        what = f"use one of {', '.join(choices)}"
    return f"{where} is {_value_at(part, path)}: {cut(what[:1].lower() + what[1:])}"


def _choices(command: type[Command], field: str) -> list[str]:
    """Give the words that a field of *command* may be; none when it is no such field."""
    for found in msgspec.inspect.type_info(command).fields:  # type: ignore[attr-defined]  # of a struct, which it is
        if found.name == field:
            kinds = found.type.types if isinstance(found.type, msgspec.inspect.UnionType) else (found.type,)
            return [one.value for kind in kinds if isinstance(kind, msgspec.inspect.EnumType) for one in kind.cls]
    return []


def _value_at(part: bytes, path: str) -> str:
    """Show what stands at *path* of a command, or around it where the path does not say exactly."""
    try:
        value = msgspec.json.decode(part)
        for name, index, _ in _steps(path):
            if not name and not index:
                break
            value = value[name] if name else value[int(index)]
    except (*UNREADABLE, LookupError, TypeError):
        return "not readable"
    return shown(value)


def nearest(given: str, known: Any) -> str:
    """Say which of *known* was perhaps meant, or name them all."""
    near = get_close_matches(given[:80], known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}"


def cut(text: str) -> str:
    """Give as much of *text* as an error says."""
    return text if len(text) <= MESSAGE_CHARS_MOST else f"{text[:MESSAGE_CHARS_MOST]}… ({len(text)} characters)"


def check_command(order: WireCommand, kind: str, verb: str) -> None:
    """
    Check what stands around a command: its ids, and that it came in on the subject of its kind.

    Raises:
        Refused: it did not; permissions are given by subject.
    """
    command = type(order.data)
    if verb != command.VERB or kind != command.KIND:
        msg = f"a {command.__name__} belongs on ….{command.KIND}.{command.VERB}, not on ….{kind}.{verb}"
        raise Refused(msg, reason="wrong_subject")
    if order.id:
        checked(order.id, "command id")
    check_caller(order.tenant, order.traceparent)


def check_caller(tenant: str, traceparent: str) -> None:
    """
    Check for whom something is asked, and within which trace.

    Raises:
        Refused: one of them is malformed.
    """
    if tenant != DEFAULT_TENANT:
        checked(tenant, "tenant")
    if traceparent and (len(traceparent) > TRACEPARENT_CHARS_MOST or not traceparent.isascii()):
        msg = f"traceparent {traceparent[:80]!a} is none: see W3C Trace Context"
        raise Refused(msg, reason="bad_request")


def encode_answer(value: Any, error: CoordinationError | None, epoch: str, position: str) -> bytes:
    """Write one answer."""
    if error is None:
        return _encoder.encode(_Ok(ok=value, epoch=epoch, position=position))
    message = cut(error.message)
    wire = WireError(code=error.code, message=message, reason=error.reason, retry_after_s=error.retry_after_s)
    return _encoder.encode(Answer(error=wire, epoch=epoch, position=position))


def decode_answers(body: bytes) -> list[Answer]:
    """
    Read the answers to a request.

    Raises:
        CoordinationError: the body is none; code `error`.
    """
    try:
        return _answers_decoder.decode(body)
    except UNREADABLE as error:
        msg = f"the answer is unreadable ({error}): {body[:80]!r}"
        raise CoordinationError(msg) from error


def value_of(answer: Answer, command: Command) -> Any:
    """
    Give what *command* was answered.

    Raises:
        CoordinationError: it was refused, or the answer is of another type than it should be.
    """
    if answer.error is not None:
        error = answer.error
        raise error_of(error.code, error.message, reason=error.reason, retry_after_s=error.retry_after_s)
    decoder = _answer_decoders[type(command)]
    if answer.ok is msgspec.UNSET or decoder is None:
        return None
    try:
        return decoder.decode(answer.ok)
    except UNREADABLE as error:
        msg = (
            f"the answer to {type(command).__name__} is not of its type ({error}): is the coordinator of this version?"
        )
        raise CoordinationError(msg, reason="bad_answer") from error
