"""
Parses inbox messages: each becomes a command to decide, a fact to keep, or a refusal with its reason. Pure.

A message is a CloudEvent (structured, or binary with `ce-` headers), a batch of them, or plain JSON that takes its type
from the subject. Event types of our own kinds are commands, the same as over RPC: the only table is `COMMAND_OF_EVENT`.
All other types are facts of the domain. A message that cannot be read becomes an item too: it must not stop those after
it, and no item may be left out, because the position in the inbox counts items.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from coordinator.commands import command_type
from coordinator.commands.command import Command
from coordinator.commands.inbox import COMMAND_OF_EVENT, KINDS, Asks, Item, refusal
from coordinator.commands.validation import check_text
from coordinator.commands.wire import check_caller, cut, decode_command, nearest
from events.codec import UNREADABLE, seconds_of
from events.errors import Corrupt, Refused, shown
from events.ids import checked
from events.inbox import InboxRecorded, InboxRefused

MOST_EVENTS = 1000
"""CloudEvents in one batch."""
DEPTH_MOST = 64
"""Levels of nesting in a fact: programs that read the journal have limits too, some of them low."""
TEXT_CHARS_MOST = 256
DATA_BYTES_MOST = 64 * 1024


class Incoming(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message of an inbox, as it arrived; `stream_created` identifies the stream it came from."""

    domain: str
    kind: str
    event: str
    sequence: int
    body: bytes
    stream_created: str = ""
    headers: dict[str, str] = {}


class _CloudEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The attributes of a CloudEvent that are used; others are ignored."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    tenant: str | None = None
    traceparent: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Probe(msgspec.Struct, frozen=True, gc=False):
    specversion: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_event_decoder = msgspec.json.Decoder(_CloudEvent)
_probe_decoder = msgspec.json.Decoder(_Probe)
_parts_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_BINARY = "ce-"
_NAMES = {asks.command: command_type(asks.command) for asks in COMMAND_OF_EVENT.values()}
_ID_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {
    field: msgspec.json.Decoder(
        msgspec.defstruct(f"_With_{field}", [("given", str | None, None)], rename={"given": field})
    )
    for field in {asks.field for asks in COMMAND_OF_EVENT.values()}
}


def items_of(message: Incoming) -> list[Item]:
    """Return one item for each event in *message*, in order; never raises, whatever the content."""
    try:
        parts = _parts_of(message)
    except Refused as refused:
        return [Item(sequence=message.sequence, event=_refused(message, 0, message.body, refused))]
    if not parts:
        return [Item(sequence=message.sequence)]
    last = len(parts) - 1
    return [_item(message, index, part, is_last=index == last) for index, part in enumerate(parts)]


def _refused(message: Incoming, index: int, body: bytes, error: Refused, event_id: str = "") -> InboxRefused:
    named = f"{message.kind}.{message.event}"
    item = Item(
        sequence=message.sequence,
        index=index,
        # A bad type or id may be the reason of the refusal, so they are checked before they are used.
        type=named if len(named) <= TEXT_CHARS_MOST and named.isprintable() else "",
        event_id=event_id if len(event_id) <= TEXT_CHARS_MOST and event_id.isprintable() else "",
        body=body,
    )
    return refusal(message.domain, item, error)


def _parts_of(message: Incoming) -> list[_CloudEvent | bytes]:
    """
    Split a message into events, decoded or still as bytes.

    Raises:
        Refused: the message is not in a format that an inbox accepts.
    """
    checked(message.kind, "kind (in the subject)")
    checked(message.event, "event (in the subject)")
    if any(name[:3].lower() == _BINARY for name in message.headers):
        return [_binary(message)]
    body = message.body
    first = body.lstrip(b" \t\r\n")[:1]
    try:
        if first == b"[":
            return _batch(_parts_decoder.decode(body))
        if first == b"{" and _probe_decoder.decode(body).specversion is not msgspec.UNSET:
            return [body]
        _decode_any(body)
    except UNREADABLE as error:
        msg = f"the message is not JSON ({cut(str(error))}): send a CloudEvent, a batch of them, or a JSON value"
        raise Refused(msg, reason="unreadable") from error
    return [_bare(message)]


def _batch(parts: list[msgspec.Raw]) -> list[_CloudEvent | bytes]:
    if len(parts) > MOST_EVENTS:
        msg = f"the batch has {len(parts)} events: send at most {MOST_EVENTS} in one message"
        raise Refused(msg, reason="too_large")
    return [bytes(part) for part in parts]


def _bare(message: Incoming) -> _CloudEvent:
    """Make an event from plain JSON: its type is that of the subject, its id that of the message."""
    given = message.headers.get("Nats-Msg-Id", "")
    return _CloudEvent(
        specversion="1.0",
        id=given or str(message.sequence),
        # A sequence identifies a message only together with its stream.
        source="" if given else message.stream_created,
        type=f"{message.kind}.{message.event}",
        traceparent=message.headers.get("traceparent"),
        data=msgspec.Raw(message.body),
    )


def _binary(message: Incoming) -> _CloudEvent:
    """Read the attributes from the headers, by the CloudEvents binding for NATS; the body is the data."""
    attributes = {name[3:].lower(): value for name, value in message.headers.items() if name[:3].lower() == _BINARY}
    attributes.pop("data", None)
    attributes.pop("data_base64", None)
    try:
        if message.body:
            _decode_any(message.body)
        event = msgspec.convert(attributes, _CloudEvent)
    except UNREADABLE as error:
        msg = f"the message has ce- headers but is not a CloudEvent ({cut(str(error))}): its data must be JSON"
        raise Refused(msg, reason="unreadable") from error
    return msgspec.structs.replace(event, data=msgspec.Raw(message.body or b"null"))


def _item(message: Incoming, index: int, part: _CloudEvent | bytes, *, is_last: bool) -> Item:
    event_id = ""
    # A batch may have a thousand unreadable events: hashing the whole message for each would take seconds.
    body = part if isinstance(part, bytes) else message.body
    try:
        event = _event_of(part) if isinstance(part, bytes) else part
        event_id = event.id
        _check(event, message)
        tenant, traceparent = event.tenant or "default", event.traceparent or ""
        check_caller(tenant, traceparent)
        if message.kind in KINDS:
            command: Command | None = _command(event, message)
            fact, known_by = None, _digest(message, event)
        else:
            command, fact, known_by = None, _fact(event, message), ""
    except Refused as refused:
        event_refused = _refused(message, index, body, refused, event_id)
        return Item(sequence=message.sequence, index=index, is_last=is_last, event=event_refused)
    return Item(
        sequence=message.sequence,
        index=index,
        is_last=is_last,
        command=command,
        event=fact,
        type=event.type,
        event_id=event_id,
        command_id=known_by,
        tenant=tenant,
        traceparent=traceparent,
        body=body,
    )


def _event_of(part: bytes) -> _CloudEvent:
    try:
        return _event_decoder.decode(part)
    except UNREADABLE as error:
        msg = f"the event is not a CloudEvent ({cut(str(error))}): send specversion, id, source, type, and data"
        raise Refused(msg, reason="unreadable") from error


def _check(event: _CloudEvent, message: Incoming) -> None:
    if event.specversion != "1.0":
        raise Refused(f"specversion {shown(event.specversion)} is not supported: use '1.0'", reason="unreadable")
    named = f"{message.kind}.{message.event}"
    if event.type != named:
        msg = (
            f"type {shown(event.type)} was published on the subject of {named!r}: publish it on the subject of its "
            "type, because permissions are granted by subject"
        )
        raise Refused(msg, reason="wrong_subject")
    check_text("id", event.id, TEXT_CHARS_MOST, least=1)
    check_text("source", event.source, TEXT_CHARS_MOST)
    check_text("subject", event.subject or "", TEXT_CHARS_MOST)
    if event.data_base64 is not msgspec.UNSET:
        raise Refused("data_base64 is not supported: send JSON in data", reason="bad_data")
    if event.time:
        try:
            seconds_of(event.time)
        except Corrupt as error:
            raise Refused(error.message, reason="bad_time") from error


def _fact(event: _CloudEvent, message: Incoming) -> InboxRecorded:
    data = b"null" if isinstance(event.data, msgspec.UnsetType) else bytes(event.data)
    if len(data) > DATA_BYTES_MOST:
        msg = f"data has {len(data)} bytes, but at most {DATA_BYTES_MOST} are allowed: store larger data elsewhere"
        raise Refused(msg, reason="too_large")
    _check_data(data)
    return InboxRecorded(
        domain=message.domain,
        type=event.type,
        event_id=event.id,
        event_source=event.source,
        about=event.subject or "",
        event_time=event.time or "",
        data=msgspec.Raw(data),
    )


def _check_data(data: bytes) -> None:
    """Check that every reader of the journal can decode *data*: so far it was only skipped, which checks little."""
    try:
        value = _decode_any(data)
    except UNREADABLE as error:
        raise Refused(f"data is not JSON ({cut(str(error))}): send JSON in UTF-8", reason="unreadable") from error
    if data.count(b"[") + data.count(b"{") > DEPTH_MOST and _depth(value) > DEPTH_MOST:
        raise Refused(f"data is nested deeper than {DEPTH_MOST} levels: flatten it", reason="too_deep")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth - 1


def _digest(message: Incoming, event: _CloudEvent) -> str:
    """Return an id made from the domain, source and id of an event: the same event sent again gets the same id."""
    named = f"{message.domain}\0{event.source}\0{event.id}"
    return f"in_{sha256(named.encode()).hexdigest()[:40]}"


def _command(event: _CloudEvent, message: Incoming) -> Command:
    asks = COMMAND_OF_EVENT.get(event.type)
    if asks is None:
        right = nearest(event.type, COMMAND_OF_EVENT)
        msg = f"type {shown(event.type)} is not a command of the coordinator: {right}"
        raise Refused(msg, reason="unknown_type")
    data = b"{}" if isinstance(event.data, msgspec.UnsetType) else bytes(event.data)
    return decode_command(_NAMES[asks.command], _with_id(data, asks, event, message))


def _with_id(data: bytes, asks: Asks, event: _CloudEvent, message: Incoming) -> bytes:
    """Add the id of the entity to *data* if it is only in the event's subject, or is to be generated."""
    try:
        given = _ID_DECODERS[asks.field].decode(data).given
    except UNREADABLE:
        return data  # refused when the command is decoded
    if given is not None:
        if event.subject and event.subject != given:
            msg = f"subject {shown(event.subject)} and data.{asks.field} {shown(given)} differ: leave one of them out"
            raise Refused(msg, reason="bad_data")
        return data
    made = _digest(message, event) if asks.makes else ""
    about = event.subject or made
    if not about:
        msg = f"data.{asks.field} is missing: name there, or in subject, the entity that {event.type} is about"
        raise Refused(msg, reason="bad_data")
    inside = data.strip()[1:-1].strip()
    return b'{"%b":%b%b%b}' % (asks.field.encode(), _encode(about), b"," if inside else b"", inside)
