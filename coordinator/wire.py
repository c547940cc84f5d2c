"""
How commands and answers travel: a JSON array each way, the answers in the order of the commands.

    [{"id": "cmd_…", "type": "submit_task", "data": {…}}]
    [{"ok": …, "epoch": "1.17", "position": "1042.3"} | {"error": {"code", "message", "reason", "retry_after_s"}, …}]

`tenant` and `traceparent` may stand beside `type`. What cannot be read is refused by itself: the others in the same
request are not held up.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import msgspec

from coordinator.commands import COMMANDS, Command
from events.codec import UNREADABLE
from events.errors import CoordinationError, Refused, error_of
from events.ids import checked

MOST_COMMANDS = 1000
"""Commands in one request."""


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One command on its way; the type on the wire is the tag of the subclass."""

    data: Command
    id: str = ""
    tenant: str = "default"
    traceparent: str = ""


def _order_class(name: str, command: type[Command]) -> type[Order]:
    return msgspec.defstruct(  # type: ignore[return-value]  # a subclass, for `bases` says so
        f"{command.__name__}Order",
        [("data", command)],
        bases=(Order,),
        tag_field="type",
        tag=name,
        frozen=True,
        kw_only=True,
        gc=False,
        omit_defaults=True,
    )


ORDERS: dict[type[Command], type[Order]] = {command: _order_class(name, command) for name, command in COMMANDS.items()}

_any_order: Any = None
for _class in ORDERS.values():
    _any_order = _class if _any_order is None else _any_order | _class
_orders_decoder = msgspec.json.Decoder(list[_any_order])
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


def encode_orders(orders: list[Order]) -> bytes:
    """Write a request."""
    return _encoder.encode(orders)


def decode_orders(body: bytes) -> list[Order | Refused]:
    """Read a request; whatever of it cannot be read stands there as the reason why."""
    try:
        orders: list[Order | Refused] = _orders_decoder.decode(body)
    except UNREADABLE:
        return _decode_one_by_one(body)
    return orders if len(orders) <= MOST_COMMANDS else [_too_many(len(orders))]


def _decode_one_by_one(body: bytes) -> list[Order | Refused]:
    try:
        parts = _raw_decoder.decode(body)
    except UNREADABLE as error:
        msg = f"the request is no JSON array of commands ({error}): send [{{'id', 'type', 'data'}}]"
        return [Refused(msg, reason="bad_request")]
    if len(parts) > MOST_COMMANDS:
        return [_too_many(len(parts))]
    return [_decode_one(bytes(part)) for part in parts]


def _too_many(count: int) -> Refused:
    return Refused(f"the request has {count} commands: at most {MOST_COMMANDS}", reason="bad_request")


def _decode_one(part: bytes) -> Order | Refused:
    try:
        head = _head_decoder.decode(part)
    except UNREADABLE as error:
        return Refused(f"a command is no object with a type ({error})", reason="bad_request")
    command = COMMANDS.get(head.type)
    if command is None:
        near = get_close_matches(head.type, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(COMMANDS))}"
        return Refused(f"command type {head.type[:80]!r} is not known: {hint}", reason="unknown_command")
    try:
        return msgspec.json.decode(part, type=ORDERS[command])
    except UNREADABLE as error:
        return Refused(f"{head.type}: {error}", reason="bad_request")


def check_order(order: Order, kind: str, verb: str) -> None:
    """
    Check what stands around a command: its ids, and that it came in on the subject of its kind.

    Raises:
        Refused: it did not; permissions are given by subject.
    """
    command = type(order.data)
    if (kind, verb) != (command.KIND, command.VERB):
        msg = f"a {command.__name__} belongs on ….{command.KIND}.{command.VERB}, not on ….{kind}.{verb}"
        raise Refused(msg, reason="wrong_subject")
    checked(order.tenant, "tenant")
    if order.id:
        checked(order.id, "command id")
    if len(order.traceparent) > 64 or not order.traceparent.isascii():  # noqa: PLR2004  # W3C: 55 characters
        msg = f"traceparent {order.traceparent[:80]!a} is none: see W3C Trace Context"
        raise Refused(msg, reason="bad_request")


def encode_answer(value: Any, error: CoordinationError | None, epoch: str, position: str) -> bytes:
    """Write one answer."""
    if error is None:
        return _encoder.encode(_Ok(ok=value, epoch=epoch, position=position))
    wire = WireError(code=error.code, message=error.message, reason=error.reason, retry_after_s=error.retry_after_s)
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
        CoordinationError: it was refused.
    """
    if answer.error is not None:
        error = answer.error
        raise error_of(error.code, error.message, reason=error.reason, retry_after_s=error.retry_after_s)
    if answer.ok is msgspec.UNSET or type(command).Answer is None:
        return None
    return msgspec.json.decode(answer.ok, type=type(command).Answer)
