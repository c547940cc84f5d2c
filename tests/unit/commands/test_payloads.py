"""Payloads: values survive the conversion, and values that cannot be sent are refused with the reason."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands.payloads import PAYLOAD_BYTES_MAX, payload_of, value_of
from events.errors import Corrupt, Refused
from events.task import Payload, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable


class Word(StrEnum):
    """Text."""

    OK = "ok"


@dataclass
class Point:
    """Something with fields."""

    x: int
    y: Any


@pytest.mark.parametrize(
    "value", [None, "", "ä€😀", 0, -1.5, 2**80, True, [], [1, [2]], {}, {"a": {"b": None}}, b"", b"\0\xff" * 100]
)
def test_what_goes_in_comes_out(value: object) -> None:
    """A value that JSON can express, and bytes, come back unchanged."""
    assert value_of(payload_of(value)) == value


@pytest.mark.parametrize(
    ("value", "back"),
    [
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), {"x": 1, "y": 2}),
        ([Point(1, (2,))], [{"x": 1, "y": [2]}]),
        (Word.OK, "ok"),
        (OrderedDict(a=Word.OK), {"a": "ok"}),
        (bytearray(b"a"), b"a"),
        (memoryview(b"abcd")[::2], b"ac"),
    ],
)
def test_the_guide_says_what_comes_back_otherwise(value: object, back: object) -> None:
    """Tuples come back as lists, dataclasses as dicts; what is equal to its form in JSON is that afterwards."""
    assert value_of(payload_of(value)) == back


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "payload is nan (float): JSON has no such number"),
        ({"a": [1, {"b": float("-inf")}]}, "payload['a'][1]['b'] is -inf"),
        ({1: "a", "1": "b"}, "payload has the key 1: use text"),
        ({"a": {True: 1}}, "payload['a'] has the key True"),
        ([{None: 1}], "payload[0] has the key None"),
        ({"a": b"x"}, "payload['a'] is b'x' (bytes): bytes are sent alone"),
        (({1},), "payload[0] is {1} (set): a set has no form in JSON"),
        (Point(1, {2}), "payload.y is {2} (set)"),
        ([date(2026, 1, 2)], "payload[0] is datetime.date(2026, 1, 2) (date): a time has no form in JSON: use its iso"),
        (Decimal("1.5"), "payload is Decimal('1.5') (Decimal): it has no form in JSON: use its str()"),
        (TaskStatus.FAILED, "a member that is no text or number itself has no form in JSON: use its value"),
        (["\ud800"], "payload[0] is '\\ud800' (str): half a surrogate pair is no text"),
        ({"\ud800": 1}, "payload has the key '\\ud800'"),
    ],
)
def test_what_would_be_changed_is_refused_with_its_place(value: object, says: str) -> None:
    """JSON would take each of these, and give something else back."""
    with pytest.raises(Refused) as caught:
        payload_of(value)
    assert says in caught.value.message
    assert caught.value.reason == "bad_payload"
    with pytest.raises(Refused, match=r"^a result of type"):
        payload_of(value, "result")


@pytest.mark.parametrize("of", [lambda inside: [inside], lambda inside: {"]": inside}, lambda inside: (inside, 2)])
def test_nesting_has_a_limit_that_every_reader_can_take(of: Callable[[Any], Any]) -> None:
    """500 levels are carried, 501 are not, whatever they are made of; a wide value is no deep one."""
    value: Any = 1
    for _ in range(500):
        value = of(value)
    assert payload_of(value) is not None
    with pytest.raises(Refused, match="is nested more than 500 deep"):
        payload_of(of(value))
    wide = [{"a": [number]} for number in range(2000)]
    assert value_of(payload_of(wide)) == wide


@pytest.mark.parametrize("value", [object(), lambda: None, [*range(3)].__iter__()])
def test_what_cannot_be_written_is_refused_by_type(value: object) -> None:
    """The message names the type and what is allowed."""
    with pytest.raises(Refused, match=f"of type {type(value).__name__} .*use None, text") as caught:
        payload_of(value)
    assert caught.value.reason == "bad_payload"


def test_what_holds_itself_is_refused() -> None:
    """A list that contains itself is an error, not a crash."""
    endless: list[Any] = []
    endless += [endless] * 1000
    with pytest.raises(Refused, match=r"of type list .* or holds itself"):
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
