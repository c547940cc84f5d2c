"""
The wire format of commands and answers: a JSON array each way, the answers in the order of the commands.

    [{"id": "cmd_…", "type": "submit_task", "data": {…}}]
    [{"ok": …, "epoch": "1.17", "position": "1042.3"} | {"error": {"code", "message", "reason", "retry_after_s"}, …}]

`tenant` and `traceparent` are optional keys next to `type`. A command that cannot be read is refused alone: the others
in the same request are executed. A request that is not such an array, or too long, gets one answer. Input is not
trusted: an error quotes a limited part of it, and nothing in it may stop the reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from events.codec import UNREADABLE
from events.errors import CoordinationError, Refused, Unavailable, error_of, shown
from events.ids import DEFAULT_TENANT, checked
from events.resources import NONE, Resources

MOST_COMMANDS = 1000
"""How many commands one request may have."""
ITEMS_AT_ONCE = 16
"""So many items of a list are encoded before it is asked whether the time is up: 0.05 to 0.1 ms."""
COUNTED_BYTES = 16_384
"""A request of this size may have so many commands that to decode them all, only to refuse them, takes too long."""
MESSAGE_CHARS_MOST = 1000
"""The longest error message; a longer one quotes input and is truncated."""
ASK_AGAIN = "ask_again"
"""The reason of an answer that had no room in its message: repeated in a smaller request, it gets the same outcome."""
TRACEPARENT_CHARS_MOST = 64
"""W3C Trace Context has 55."""

T = TypeVar("T")

_place = re.compile(r"(.*) - at `(?:key in )?\$([^`]*)`", re.DOTALL).fullmatch
_steps = re.compile(r"\.(\w+)|\[(\d+)\]|(.)", re.DOTALL).findall
_may_name_amounts = re.compile(rb'"(?:resources|capacity)"').search
_unknown_field = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL).fullmatch


class WireCommand(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """One command on the wire; its type is the tag of the subclass."""

    data: Command
    id: str = ""
    tenant: str = DEFAULT_TENANT
    traceparent: str = ""


def _wire_class(name: str, command: type[Command]) -> type[WireCommand]:
    return msgspec.defstruct(  # type: ignore[return-value]  # a subclass, by `bases`
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
_nothing: Any = None


class WireError(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """An error on the wire; `code` identifies it, the message is for people."""

    code: str
    message: str
    reason: str = ""
    retry_after_s: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One answer: `ok` or `error`, with the epoch of the writer and the position of its state."""

    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: WireError | None = None
    epoch: str = ""
    position: str = ""
    key_holds_until: float | None = None
    """Until which commit time the idempotency key of the command is remembered, in seconds since 1970."""
    warning: str = ""
    """What the sender of a command that was carried out should know, for people."""


class _Ok(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    ok: Any
    epoch: str
    position: str
    key_holds_until: float | None = None
    warning: str = ""


_answers_decoder = msgspec.json.Decoder(list[Answer])
_answer_decoders = {
    command: None if command.Answer is None else msgspec.json.Decoder(command.Answer) for command in WIRE_COMMANDS
}


def encode_command(command: WireCommand) -> bytes:
    """
    Encode one command; `request_of` makes a request of one or several.

    Raises:
        Refused: it has a value that JSON cannot express.
    """
    try:
        return _encoder.encode(command)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        kind = type(command.data).__name__
        msg = f"{kind} cannot be written as JSON: {_no_text_in(command.data) or error}"
        raise Refused(msg, reason="bad_request") from error


def _no_text_in(command: Command) -> str:
    """Say which field of a command holds text that cannot be written; '' if none of them does."""
    for name in command.__struct_fields__:
        value = getattr(command, name)
        try:
            if isinstance(value, str):
                value.encode()
        except UnicodeEncodeError:
            return f"{name} {shown(value)} holds half a surrogate pair, which is no text: use characters"
    return ""


def request_of(commands: list[bytes]) -> bytes:
    """Put encoded commands into one request."""
    return b"[%b]" % b",".join(commands)


def decode_request(body: bytes) -> list[WireCommand | Refused]:
    """Decode a request; a command that cannot be read is replaced by its error."""
    # Each command has a brace, and one character is found ten times as fast as several.
    is_long = len(body) > COUNTED_BYTES and body.count(b"{") > MOST_COMMANDS
    if is_long and body.count(b'"type"') > MOST_COMMANDS:
        return _decode_one_by_one(body)  # it counts before it decodes
    try:
        commands: list[WireCommand | Refused] = _request_decoder.decode(body)
    except UNREADABLE:
        return _decode_one_by_one(body)
    if _names_amounts(commands) and not _amounts_are_known(body):
        return _decode_one_by_one(body)
    return commands if len(commands) <= MOST_COMMANDS else [_too_many(len(commands))]


class _Amounts(Resources, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """Amounts in a command: unknown fields are errors. Events share the struct but may have unknown fields."""


class _Amounted(msgspec.Struct, gc=False):
    resources: _Amounts | None = None
    capacity: _Amounts | None = None


class _AmountedCommand(msgspec.Struct, gc=False):
    data: _Amounted


_amounts_decoder = msgspec.json.Decoder(list[_AmountedCommand])
_amounts_of: dict[type[Command], Callable[[Any], Any]] = {
    command: attrgetter(name)
    for command in COMMANDS.values()
    for name in _Amounted.__struct_fields__
    if name in command.__struct_fields__
}


def _names_amounts(commands: list[Any]) -> bool:
    """Whether any command names amounts; to look for them in the bytes takes half as long as to decode these."""
    for one in commands:
        amounts_of = _amounts_of.get(type(one.data))
        if amounts_of is not None and (amounts := amounts_of(one.data)) is not NONE and amounts is not None:
            return True
    return False


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
        msg = f"the request is not a JSON array of commands ({cut(str(error))}): send [{{'id', 'type', 'data'}}]"
        return [Refused(msg, reason="bad_request")]
    if len(parts) > MOST_COMMANDS:
        return [_too_many(len(parts))]
    return [_decode_one(bytes(part)) for part in parts]


def _too_many(count: int) -> Refused:
    return Refused(f"the request has {count} commands: send at most {MOST_COMMANDS}", reason="bad_request")


def decode_command(name: str, data: bytes) -> Command:
    """
    Decode the fields of a command of the type *name*; *data* is one JSON value.

    Raises:
        Refused: a field is wrong; the message names it and what is allowed.
    """
    command = _decode_one(b'{"type":"%b","data":%b}' % (name.encode(), data))
    if isinstance(command, Refused):
        raise command
    return command.data


def _decode_one(part: bytes) -> WireCommand | Refused:
    try:
        head = _head_decoder.decode(part)
    except UNREADABLE as error:
        msg = f"a command is not an object with a type ({cut(str(error))}): send {{'id', 'type', 'data'}}"
        return Refused(msg, reason="bad_request")
    known = COMMANDS.get(head.type)
    if known is None:
        msg = f"unknown command type {shown(head.type)}: {nearest(head.type, COMMANDS)}"
        return Refused(msg, reason="unknown_command")
    try:
        command = msgspec.json.decode(part, type=WIRE_COMMANDS[known])
        _check_amounts(part)
    except UNREADABLE as error:
        return Refused(f"{head.type}: {_explained(part, known, str(error))}", reason="bad_request")
    except Refused as error:
        return error
    return command


def _check_amounts(part: bytes) -> None:
    """
    Check that amounts have no unknown field: their struct is that of the events, which allows such fields.

    Raises:
        Refused: there is one, such as `{"cpu": "2"}`, which would otherwise count as no request at all.
    """
    if not _may_name_amounts(part):
        return
    data = msgspec.json.decode(part)["data"]
    for field in ("resources", "capacity"):
        amounts = data.get(field)
        for name in amounts if isinstance(amounts, dict) else ():
            if name not in Resources.__struct_fields__:
                right = nearest(name, Resources.__struct_fields__)
                msg = f"{field} has an unknown field {shown(name)}: {right}, whole numbers"
                raise Refused(msg, reason="bad_request")


def _explained(part: bytes, command: type[Command], problem: str) -> str:
    """Return what is wrong with a command, with the value; *problem* is msgspec's message, which has no values."""
    found = _place(problem)
    what, path = (found[1], found[2]) if found is not None else (problem, "")
    if unknown := _unknown_field(what):
        fields = {".data": command.__struct_fields__, "": ("id", "type", "data", "tenant", "traceparent")}.get(path, ())
        where = path.removeprefix(".") or "the command"
        right = nearest(unknown[1], fields) if fields else "leave it out"
        return f"{where} has an unknown field {shown(unknown[1])}: {right}"
    where = path.removeprefix(".data.")
    if not where or what.startswith("Object missing"):
        return cut(problem)
    if what.startswith("Invalid enum value") and (choices := _choices(command, where)):
        what = f"use one of {', '.join(choices)}"
    return f"{where} is {_value_at(part, path)}: {cut(what[:1].lower() + what[1:])}"


def _choices(command: type[Command], field: str) -> list[str]:
    """Return the values that a field of *command* may have; none if it is not an enum."""
    for found in msgspec.inspect.type_info(command).fields:  # type: ignore[attr-defined]  # of a struct, which it is
        if found.name == field:
            kinds = found.type.types if isinstance(found.type, msgspec.inspect.UnionType) else (found.type,)
            return [one.value for kind in kinds if isinstance(kind, msgspec.inspect.EnumType) for one in kind.cls]
    return []


def _value_at(part: bytes, path: str) -> str:
    """Return the value at *path* of a command as text, or the value around it if the path is not exact."""
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
    """Return a hint with the closest match in *known*, or with all of them."""
    near = get_close_matches(given[:80], known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}"


def cut(text: str) -> str:
    """Truncate *text* to the length of an error message."""
    return text if len(text) <= MESSAGE_CHARS_MOST else f"{text[:MESSAGE_CHARS_MOST]}… ({len(text)} characters)"


def check_command(command: WireCommand, kind: str, verb: str) -> None:
    """
    Check that a command came in on the subject of its type, and that its ids are valid.

    Raises:
        Refused: one of these is wrong. The subject matters because permissions are granted by subject.
    """
    needed = type(command.data)
    if verb != needed.VERB or kind != needed.KIND:
        msg = f"{needed.__name__} must be sent to ….{needed.KIND}.{needed.VERB}, not to ….{kind}.{verb}"
        raise Refused(msg, reason="wrong_subject")
    if command.id:
        checked(command.id, "command id")
    if command.tenant != DEFAULT_TENANT or command.traceparent:
        check_caller(command.tenant, command.traceparent)


def check_caller(tenant: str, traceparent: str) -> None:
    """
    Check the tenant and the trace of a command.

    Raises:
        Refused: one of them is malformed.
    """
    if tenant != DEFAULT_TENANT:
        checked(tenant, "tenant")
    if traceparent and (len(traceparent) > TRACEPARENT_CHARS_MOST or not traceparent.isascii()):
        msg = f"traceparent {traceparent[:80]!a} is not valid: use the format of W3C Trace Context"
        raise Refused(msg, reason="bad_request")


def encode_answer(
    value: Any,
    error: CoordinationError | None,
    epoch: str,
    position: str,
    holds_until: float | None = None,
    warning: str = "",
) -> bytes:
    """Encode one answer; *holds_until* is until when the idempotency key of the command is remembered."""
    if error is None:
        answer = _Ok(ok=value, epoch=epoch, position=position, key_holds_until=holds_until, warning=warning)
        return _encoder.encode(answer)
    message = cut(error.message)
    wire = WireError(code=error.code, message=message, reason=error.reason, retry_after_s=error.retry_after_s)
    return _encoder.encode(Answer(error=wire, epoch=epoch, position=position))


_NO_VALUE = b'{"ok":null'


def encode_text(value: str, done: bytes) -> bytes:
    """Encode an answer whose value is a text; *done* is that of None, with the same epoch and position."""
    return b'{"ok":%b%b' % (_encoder.encode(value), done[len(_NO_VALUE) :])


class DoesNotFit(Exception):
    """A value has more bytes than its answer may have; *items* of a list in the making fit."""

    def __init__(self, items: int = 0) -> None:
        super().__init__()
        self.items = items


def encode_value(value: Any, most: int) -> msgspec.Raw:
    """
    Encode the value of an answer; for a list that comes as an iterator see `ListInTheMaking`.

    Raises:
        DoesNotFit: it has more than *most* bytes.
    """
    encoded = msgspec.Raw(_encoder.encode(value))
    if len(memoryview(encoded)) > most:
        raise DoesNotFit
    return encoded


class ListInTheMaking:
    """The encoded list of *items*, of at most *most* bytes, made some items at a time; read no further than it fits."""

    def __init__(self, items: Iterator[Any], most: int) -> None:
        self._items = items
        self._most = most
        self._parts: list[bytes] = []
        self._size = 2

    def go_on(self, is_time_up: Callable[[], bool]) -> msgspec.Raw | None:
        """
        Go on until the list is complete, and return it; return None when the time is up.

        Raises:
            DoesNotFit: it has more than the bytes allowed.
        """
        parts = self._parts
        for item in self._items:
            part = _encoder.encode(item)
            self._size += len(part) + 1
            if self._size > self._most:
                raise DoesNotFit(len(parts))
            parts.append(part)
            if len(parts) % ITEMS_AT_ONCE == 0 and is_time_up():
                return None
        return msgspec.Raw(b"[%b]" % b",".join(parts))


class AsOf(NamedTuple):
    """An encoded value that shows what was there at an earlier position."""

    value: msgspec.Raw
    position: str


def ask_again() -> Unavailable:
    """Return the error of an answer that has no room in the message it would share: the outcome stays as it is."""
    msg = "the answers to this request do not fit into one message: ask this again, in a smaller request"
    return Unavailable(msg, reason=ASK_AGAIN)


def too_large(command: Command, most: int, items: int = 0) -> CoordinationError:
    """
    Return the error of an answer that does not even fit into a message of its own; it says what to ask instead.

    Args:
        command: the command or question.
        most: the bytes that its answer may have.
        items: how many items of its list fit; 0 if it is no list.
    """
    fits = f", only the first {items} items do" if items else ""
    instead = f": {command.INSTEAD}" if command.INSTEAD else ""
    why = f"does not fit into the {most} bytes of a message{fits}{instead}"
    if command.IS_QUESTION:
        return Refused(f"the answer {why}", reason="too_large")
    return untold(command, why, "too_large")


def untold(command: Command | None, why: str, reason: str) -> CoordinationError:
    """Return the error of a command that was carried out and whose answer cannot be told; it was not refused."""
    return CoordinationError(f"{type(command).__name__} was carried out, but its answer {why}", reason=reason)


def decode_answers(body: bytes) -> list[Answer]:
    """
    Decode the answers to a request.

    Raises:
        CoordinationError: the body is not valid; code `error`.
    """
    try:
        return _answers_decoder.decode(body)
    except UNREADABLE as error:
        msg = f"the answer is unreadable ({error}): {body[:80]!r}"
        raise CoordinationError(msg) from error


def value_of(answer: Answer, command: Command[T]) -> T:
    """
    Return the value of the answer to *command*.

    Raises:
        CoordinationError: the command was refused, or the answer has the wrong type.
    """
    if answer.error is not None:
        error = answer.error
        raise error_of(error.code, error.message, reason=error.reason, retry_after_s=error.retry_after_s)
    decoder = _answer_decoders[type(command)]
    try:
        value: T = _nothing if answer.ok is msgspec.UNSET or decoder is None else decoder.decode(answer.ok)
    except UNREADABLE as error:
        msg = (
            f"the answer to {type(command).__name__} has the wrong type ({error}):"
            " use the same version of client and coordinator"
        )
        raise CoordinationError(msg, reason="bad_answer") from error
    return value
