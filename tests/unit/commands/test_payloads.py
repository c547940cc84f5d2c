"""Payloads: values survive the conversion, and values that cannot be sent are refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from coordinator.commands.payloads import PAYLOAD_BYTES_MAX, payload_of, value_of
from events.errors import Corrupt, Refused
from events.task import Payload, TaskStatus


@dataclass
class Point:
    """Something with fields."""

    x: int
    y: int


@pytest.mark.parametrize(
    "value", [None, "", "ä€😀", 0, -1.5, 2**80, True, [], [1, [2]], {}, {"a": {"b": None}}, b"", b"\0\xff" * 100]
)
def test_what_goes_in_comes_out(value: object) -> None:
    """A value that JSON can express, and bytes, come back unchanged."""
    assert value_of(payload_of(value)) == value


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, 2), [1, 2]),
        ({1: "one"}, {"1": "one"}),
        (float("nan"), None),
        (Point(1, 2), {"x": 1, "y": 2}),
        (TaskStatus.FAILED, "failed"),
    ],
)
def test_what_json_cannot_tell_apart_comes_back_as_json_has_it(value: object, back: object) -> None:
    """A value without its own form in JSON comes back in the closest one."""
    assert value_of(payload_of(value)) == back


@pytest.mark.parametrize("value", [object(), {(1, 2): 3}, "\ud800", lambda: None])
def test_what_cannot_be_written_is_refused_by_type(value: object) -> None:
    """The message names the type and what is allowed."""
    with pytest.raises(Refused, match=f"of type {type(value).__name__} .*use None, text") as caught:
        payload_of(value)
    assert caught.value.reason == "bad_payload"


def test_what_holds_itself_is_refused() -> None:
    """A list that contains itself is an error, not a crash."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(Refused, match="of type list"):
        payload_of(endless)


def test_the_limit_is_on_what_travels() -> None:
    """64 KiB of JSON or base64 fit; one byte more is refused with both sizes."""
    assert payload_of("x" * (PAYLOAD_BYTES_MAX - 2)) is not None
    with pytest.raises(Refused, match="takes 65537 bytes as json: at most 65536") as caught:
        payload_of("x" * (PAYLOAD_BYTES_MAX - 1))
    assert caught.value.reason == "payload_too_large"
    assert payload_of(bytes(PAYLOAD_BYTES_MAX // 4 * 3)) is not None
    with pytest.raises(Refused, match="type bytes takes 65540 bytes as base64"):
        payload_of(bytes(PAYLOAD_BYTES_MAX // 4 * 3 + 1))


def test_a_changed_payload_is_noticed() -> None:
    """Data that does not match its digest raises an error in the reader."""
    payload = payload_of({"amount": 1})
    assert payload is not None
    with pytest.raises(Corrupt, match="has the digest"):
        value_of(msgspec.structs.replace(payload, data='{"amount":9}'))
    assert value_of(msgspec.structs.replace(payload, digest=payload.digest.upper())) == {"amount": 1}
    assert payload_of(payload) is payload


@pytest.mark.parametrize(
    ("encoding", "data", "why"),
    [
        ("json", "{", "is not valid json"),
        ("base64", "a", "is not valid base64"),
        ("yaml", "a: 1", "use json, text or base64"),
    ],
)
def test_a_payload_that_is_not_what_it_says_is_refused(encoding: str, data: str, why: str) -> None:
    """A payload made by other software is checked before it is used."""
    digest = sha256(data.encode()).hexdigest()
    with pytest.raises(Refused, match=why):
        value_of(Payload(encoding=encoding, data=data, digest=digest))
    with pytest.raises(Refused, match="object store as 'x'"):
        value_of(Payload(encoding=encoding, digest=digest, ref="x"))
    assert value_of(Payload(encoding="text", data=data, digest=digest)) == data
