"""
Converts the input and the result of a task between Python values and `Payload`; the same on every side.

Values that JSON can express are sent as JSON text, bytes as base64. A value comes back as JSON has it: a tuple as a
list, a number used as a key as text, NaN as None. Nothing here is ever executed: anyone who may submit tasks can send a
payload.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from hashlib import sha256
from typing import Any

import msgspec

from events.errors import Corrupt, Refused, shown
from events.task import Payload

PAYLOAD_BYTES_MAX = 64 * 1024
"""The largest inline payload, encoded: bytes of the text in UTF-8."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def payload_of(value: Any) -> Payload | None:
    """
    Convert *value* to a payload; None and a value that is a payload already are returned unchanged.

    Raises:
        Refused: *value* cannot be written as JSON, or is larger than 64 KiB.
    """
    if value is None or type(value) is Payload:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _payload("base64", b64encode(value), value)
    try:
        return _payload("json", _encode(value), value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        msg = (
            f"a payload of type {type(value).__name__} cannot be written as JSON ({error}):"
            " use None, text, numbers, lists, dicts with text keys, dataclasses, or bytes"
        )
        raise Refused(msg, reason="bad_payload") from error


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


def _payload(encoding: str, data: bytes, value: object) -> Payload:
    if len(data) > PAYLOAD_BYTES_MAX:
        msg = (
            f"a payload of type {type(value).__name__} takes {len(data)} bytes as {encoding}: at most"
            f" {PAYLOAD_BYTES_MAX} (64 KiB) fit inline; store larger data elsewhere and send its address"
        )
        raise Refused(msg, reason="payload_too_large")
    return Payload(encoding=encoding, digest=sha256(data).hexdigest(), data=data.decode())


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
