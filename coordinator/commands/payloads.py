"""
Converts the input and the result of a task between Python values and `Payload`; the same on every side.

Values that JSON can express are sent as JSON text, bytes as base64. What is sent comes back equal, except that a tuple
comes back as a list, and a dataclass as a dict of its fields. All else is refused with its place, because JSON would
change it in silence: NaN to null, a key 1 to "1", a set to a list. Nothing here is ever executed: anyone who may submit
tasks can send a payload.
"""

from __future__ import annotations

import dataclasses
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Corrupt, Refused, shown
from events.task import Payload

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PAYLOAD_BYTES_MAX = 64 * 1024
"""The largest inline payload, encoded: bytes of the text in UTF-8."""
DEPTH_MAX = 500
"""The deepest nesting of lists and dicts: Python reads 1,000 levels at most, and less where its own calls are deep."""
PATH_CHARS_MAX = 120
"""How much of the path to a value a message has."""

_ALLOWED = "use None, text, numbers, lists, dicts with text keys, dataclasses, or bytes"
_INSTEAD: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bytes, bytearray, memoryview), "bytes are sent alone or not at all: use their base64 text"),
    ((set, frozenset), "a set has no form in JSON: use a sorted list"),
    ((date, time), "a time has no form in JSON: use its isoformat()"),
    (timedelta, "a duration has no form in JSON: use its total_seconds()"),
    (Decimal, "it has no form in JSON: use its str()"),
    (Enum, "a member that is no text or number itself has no form in JSON: use its value"),
    ((str, int, float), "JSON does not keep a class of your own: use str(), int() or float() of it"),
)
"""What to send instead of a value of these types."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def payload_of(value: Any, name: str = "payload") -> Payload | None:
    """
    Convert *value* to a payload; None and a value that is a payload already are returned unchanged.

    Args:
        value: what to send; bytes, a bytearray and a memoryview come back as bytes.
        name: what it is to the caller, for messages.

    Raises:
        Refused: something in *value* would not come back as it is, or *value* is larger than 64 KiB.
    """
    if value is None or type(value) is Payload:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _payload("base64", b64encode(bytes(value)), value, name)
    try:
        data = _encode(value)
    except Exception as error:  # an object of the caller's may raise anything
        raise _refused(name, value, _wrong(name, value) or f"{_told(error)}: {_ALLOWED}") from error
    payload = _payload("json", data, value, name)
    if type(value) is not str and not _comes_back(data, value) and (wrong := _wrong(name, value)):
        raise _refused(name, value, wrong)
    return payload


def value_of(payload: Payload | None) -> Any:
    """
    Convert a payload back to a value.

    Raises:
        Corrupt: the data does not match the digest.
        Refused: the payload is in the object store, or the data does not match the encoding.
    """
    if payload is None:
        return None
    if payload.ref:
        msg = f"the payload is in the object store as {shown(payload.ref)}: read it from there"
        raise Refused(msg, reason="payload_elsewhere")
    try:
        data = payload.data.encode()
    except UnicodeEncodeError as error:
        raise Refused(f"the payload's data is not valid text: {error}", reason="bad_payload") from error
    found = sha256(data).hexdigest()
    if found != payload.digest and found != payload.digest.lower():
        msg = f"the payload of {len(data)} bytes has the digest {found}, but its `digest` is {shown(payload.digest)}"
        raise Corrupt(msg, reason="bad_digest")
    return _read(payload.encoding, data)


def _payload(encoding: str, data: bytes, value: object, name: str) -> Payload:
    if len(data) > PAYLOAD_BYTES_MAX:
        msg = (
            f"a {name} of type {type(value).__name__} takes {len(data)} bytes as {encoding}: at most"
            f" {PAYLOAD_BYTES_MAX} (64 KiB) fit inline; store larger data elsewhere and send its address"
        )
        raise Refused(msg, reason="payload_too_large")
    return Payload(encoding=encoding, digest=sha256(data).hexdigest(), data=data.decode())


def _refused(name: str, value: object, why: str) -> Refused:
    return Refused(f"a {name} of type {type(value).__name__} cannot be written as JSON: {why}", reason="bad_payload")


def _told(error: Exception) -> str:
    """Return the message of *error*, which may be an exception of the caller's that has none."""
    try:
        return str(error)[:200]
    except Exception:  # noqa: BLE001  # its `__str__`
        return type(error).__name__


def _comes_back(data: bytes, value: Any) -> bool:
    """Return whether *data* reads as what *value* is; False says only that it must be looked at."""
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX and not _is_shallow(data):
        return False
    try:
        return bool(_decode(data) == value)
    except Exception:  # noqa: BLE001  # an object of the caller's compares itself, or wrote its JSON itself
        return False


def _is_shallow(data: bytes) -> bool:
    """Return whether *data* is surely not nested too deep; brackets in its texts count too."""
    brackets = data.translate(None, _NOT_BRACKETS)
    for _ in range(8):
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return len(brackets) < DEPTH_MAX


def _wrong(name: str, value: Any) -> str:
    """Return the first thing in *value* that would not come back as it is: where it is, and what to send instead."""
    inside: list[Iterator[tuple[str, Any]]] = [iter([(name, value)])]
    path: list[str] = []
    while inside:
        del path[len(inside) - 1 :]
        step, one = next(inside[-1], (None, None))
        if step is None:
            inside.pop()
            continue
        path.append(step)
        where = "".join(path)[:PATH_CHARS_MAX]
        if len(path) > DEPTH_MAX + 1:
            return f"{where}… is nested more than {DEPTH_MAX} deep, or holds itself: use a flatter form"
        if isinstance(one, dict):
            for key in one:
                if not isinstance(key, str) or not _is_utf8(key):
                    return f"{where} has the key {shown(key)}: use text, as all keys in JSON are"
        parts = _parts(one)
        if parts is not None:
            inside.append(parts)
        elif why := _why_not(one):
            return f"{where} is {shown(one)} ({type(one).__name__}): {why}"
    return ""


def _parts(one: Any) -> Iterator[tuple[str, Any]] | None:
    """Yield what a value holds, each with the step of the path to it; return None if it holds nothing."""
    if isinstance(one, dict):
        return ((f"[{shown(key)}]", item) for key, item in one.items())
    if isinstance(one, list | tuple):
        return ((f"[{index}]", item) for index, item in enumerate(one))
    kind = type(one)
    names: Iterable[str]
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    elif isinstance(one, msgspec.Struct):
        names = one.__struct_fields__
    else:
        return None
    return ((f".{name}", getattr(one, name, None)) for name in names)


def _why_not(one: Any) -> str:
    """Return what to send instead of a value that holds no others; '' if it comes back as it is."""
    if isinstance(one, str) and not _is_utf8(one):
        return "half a surrogate pair is no text: use characters"
    if isinstance(one, float) and not isfinite(one):
        return "JSON has no such number: use None or text"
    if one is None or type(one) in (bool, int, float, str):
        return ""
    if isinstance(one, Enum) and isinstance(one, str | int | float) and one == one.value:
        return ""
    return next((instead for kinds, instead in _INSTEAD if isinstance(one, kinds)), _ALLOWED)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(encoding: str, data: bytes) -> Any:
    try:
        match encoding:
            case "json":
                return _decode(data)
            case "base64":
                return b64decode(data, validate=True)
            case "text":
                return data.decode()
            case _:
                msg = f"payload encoding {shown(encoding)} is not known: use json, text or base64"
                raise Refused(msg, reason="bad_payload")
    except (msgspec.DecodeError, Base64Error, RecursionError) as error:
        msg = f"the payload's data is not valid {encoding}, which is its encoding: {error}"
        raise Refused(msg, reason="bad_payload") from error
