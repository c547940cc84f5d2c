"""Bytes become events in one pass; unknown events are kept; bytes that are not a commit are `Corrupt`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events import codec
from events.base import Envelope, Event, Position, UnknownEvent
from events.errors import Corrupt
from events.task import TaskCancelled, TaskStarted, TaskSubmitted
from tests.golden.examples import EXAMPLES, enveloped
from tests.golden.files import golden

if TYPE_CHECKING:
    from collections.abc import Callable

TASK = golden("task.cancelled.v1")
MOON = (
    b'{ "type":"moon.risen", "specversion":"1.0","id":"7.0","source":"/sky","subject":"moon_1",\n'
    b'"time":"2026-11-23T17:15:00Z","dataversion":3,"tenant":"acme","actor":"night","commandid":"cmd_9",'
    b'"phase":"full", "data" : {"z":1.50,"a":[1,2,{}],"\\u00fc":null} }'
)


def altered(change: Callable[[dict[str, Any]], object], stem: str = "task.cancelled.v1") -> bytes:
    """Return a golden event with some of its attributes changed."""
    whole = msgspec.json.decode(golden(stem))
    change(whole)
    return msgspec.json.encode(whole)


def decode_one(raw: bytes) -> Envelope:
    (one,) = codec.decode(codec.join([raw]))
    return one


# --- one pass ---------------------------------------------------------------------------------------------------------


def test_the_usual_commit_is_decoded_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known types of current versions never take the slow path, however many types are mixed."""

    def slow(body: bytes) -> list[Envelope]:
        pytest.fail("took the slow path")

    monkeypatch.setattr(codec, "_decode_one_by_one", slow)
    body = codec.join(golden(stem) for stem in EXAMPLES)
    assert codec.decode(body) == [enveloped(example) for example in EXAMPLES.values()]


def test_both_paths_read_the_same() -> None:
    """One unknown event in a commit does not change how the others are decoded."""
    known = [golden(stem) for stem in EXAMPLES]
    fast = codec.decode(codec.join(known))
    slow = codec.decode(codec.join([*known, MOON]))
    assert slow[:-1] == fast
    assert [type(one) for one in slow[:-1]] == [type(one) for one in fast]


def test_a_commit_is_its_events_in_order() -> None:
    """Joining and decoding keep the order; no events make an empty commit."""
    parts = [golden("task.started.v1"), TASK, golden("task.started.v1")]
    assert [one.type for one in codec.decode(codec.join(parts))] == ["task.started", "task.cancelled", "task.started"]
    assert codec.join([]) == b"[]"
    assert codec.decode(b"[]") == []


def test_an_envelope_carries_the_attributes_that_were_given() -> None:
    """Optional attributes that are empty are not written at all."""
    plain = codec.envelope(TaskCancelled(task_id="t"), position=Position(3, 1), time="then", source="/c/1")
    assert msgspec.json.decode(codec.encode(plain)) == {
        "type": "task.cancelled", "specversion": "1.0", "id": "3.1", "source": "/c/1", "subject": "t", "time": "then",
        "dataversion": 1, "data": {"task_id": "t"},
    }  # fmt: skip
    full = codec.envelope(
        TaskCancelled(task_id="t"), position=Position(3, 1), time="then", source="/c/1", tenant="acme", actor="me"
    )
    assert (full.tenant, full.actor, full.commandid) == ("acme", "me", "")
    assert decode_one(codec.encode(full)) == full


def test_an_envelope_may_carry_an_id_of_another_domain() -> None:
    """An event without a position has any text as its id that is unique at its source."""
    one = codec.envelope(TaskCancelled(task_id="t"), position="evt_1", time="then", source="/c/1")
    assert one.id == "evt_1"


def test_an_attribute_of_another_release_is_ignored() -> None:
    """A newer writer may add CloudEvents attributes and fields with defaults; this release can still read them."""

    def add(whole: dict[str, Any]) -> None:
        whole["moonphase"] = "full"
        whole["data"]["mood"] = {"deep": [1]}

    assert decode_one(altered(add)) == enveloped(EXAMPLES["task.cancelled.v1"])


# --- other releases ---------------------------------------------------------------------------------------------------


def test_an_unknown_type_is_kept_byte_for_byte() -> None:
    """Spaces, the order of keys and the spelling of numbers are all written back unchanged."""
    before, unknown, after = codec.decode(codec.join([TASK, MOON, TASK]))
    assert before == after == enveloped(EXAMPLES["task.cancelled.v1"])
    assert unknown.data == UnknownEvent(type="moon.risen", about="moon_1", raw=MOON)
    assert codec.encode(unknown) == MOON
    assert codec.join(map(codec.encode, [before, unknown, after])) == codec.join([TASK, MOON, TASK])


def test_the_envelope_of_an_unknown_event_is_read_all_the_same() -> None:
    """The actor, time and command are known even if the event is not."""
    unknown = decode_one(MOON)
    assert (unknown.id, unknown.source, unknown.subject) == ("7.0", "/sky", "moon_1")
    assert (unknown.tenant, unknown.actor, unknown.commandid) == ("acme", "night", "cmd_9")
    assert (unknown.dataversion, unknown.time, unknown.type) == (3, "2026-11-23T17:15:00Z", "moon.risen")
    assert isinstance(unknown.data, UnknownEvent)
    assert unknown.data.subject == "moon_1"


def test_an_unknown_event_needs_no_data() -> None:
    """CloudEvents may come without."""
    bare = altered(lambda whole: (whole.update(type="moon.set"), whole.pop("data")))
    assert codec.encode(decode_one(bare)) == bare


def test_a_newer_version_is_kept_as_unknown() -> None:
    """A version of a later release must not be read as if it were ours."""
    newer = altered(lambda whole: whole.update(dataversion=3))
    kept = decode_one(newer)
    assert kept.data == UnknownEvent(type="task.cancelled", about="task_1", raw=newer)
    assert kept.dataversion == 3
    assert codec.encode(kept) == newer


def test_a_newer_version_that_no_longer_fits_is_kept_as_unknown_too() -> None:
    """This holds even if this release cannot read its data."""
    newer = altered(lambda whole: whole.update(dataversion=9, data=[1, 2, 3]))
    assert codec.encode(decode_one(newer)) == newer


class TaskCancelledNext(TaskCancelled, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What `task.cancelled` might be with another shape than before."""

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {}

    severity: int = 0


@pytest.fixture
def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the codec that of a release where `task.cancelled` has version 3."""
    _publish(monkeypatch, TaskCancelledNext, (3,))


def _publish(monkeypatch: pytest.MonkeyPatch, kind: type[Event], versions: tuple[int, ...]) -> None:
    name = "task.cancelled"
    monkeypatch.setitem(codec.EVENTS, name, kind)
    monkeypatch.setitem(codec.ENVELOPES, kind, codec._envelope_class(name, kind))
    classes = tuple(codec.ENVELOPES[event] for event in codec.EVENTS.values())
    union: Any = classes[0]
    for one in classes[1:]:
        union |= one
    monkeypatch.setattr(codec, "_commit_decoder", msgspec.json.Decoder(list[union]))
    monkeypatch.setitem(codec.READ_AS_IS, kind, versions)


def test_an_older_version_is_raised_step_by_step(next_release: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each upcaster converts the data to the next version; the result is a current event."""
    raised: list[int] = []

    def first(data: dict[str, Any]) -> dict[str, Any]:
        raised.append(1)
        return {**data, "why": data["reason"]}

    def second(data: dict[str, Any]) -> dict[str, Any]:
        raised.append(2)
        return {"task_id": data["task_id"], "reason": data["why"].upper(), "severity": 7}

    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 1), first)
    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 2), second)
    one = decode_one(TASK)
    assert one.data == TaskCancelledNext(task_id="task_1", reason="NOT NEEDED ANY MORE", severity=7)
    assert raised == [1, 2]
    assert one.dataversion == 3
    assert (one.tenant, one.actor, one.id) == ("acme", "communication", "1042.3")
    assert decode_one(codec.encode(one)) == one


def test_an_older_version_is_never_taken_for_the_current_one(next_release: None) -> None:
    """Old data without an upcaster is `Corrupt`, even if it happens to fit the new class."""
    with pytest.raises(Corrupt, match=r"task\.cancelled of version 1 cannot be converted from version 1"):
        decode_one(TASK)


def test_only_the_old_event_of_a_commit_is_raised(next_release: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of the current version in the same commit are decoded as usual."""
    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 1), dict)
    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 2), lambda data: {**data, "severity": 1})
    new = codec.encode(
        codec.envelope(TaskCancelledNext(task_id="n", severity=5), position=Position(1, 0), time="then", source="s")
    )
    read = codec.decode(codec.join([new, TASK, golden("task.started.v1")]))
    assert [getattr(one.data, "severity", None) for one in read] == [5, 1, None]


@pytest.mark.parametrize("stem", EXAMPLES)
def test_any_event_could_be_raised_from_an_older_version(stem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event decoded through plain data equals one decoded directly, for every type of field."""
    name = enveloped(EXAMPLES[stem]).type
    monkeypatch.setitem(codec.UPCASTERS, (name, 0), lambda data: data)
    assert decode_one(altered(lambda whole: whole.update(dataversion=0), stem)) == enveloped(EXAMPLES[stem])


@pytest.mark.parametrize("version", [0, -1, -(10**15)])
def test_a_version_before_the_first_is_corrupt(version: int) -> None:
    """No such version exists; the search for its upcaster ends soon."""
    with pytest.raises(Corrupt, match=f"version {version} cannot be converted"):
        decode_one(altered(lambda whole: whole.update(dataversion=version)))


@pytest.mark.parametrize("data", [None, [], "x", 7])
def test_an_upcaster_is_only_given_what_it_can_take(data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that is not an object is `Corrupt` before any upcaster gets it."""
    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 0), lambda _: pytest.fail("was called"))
    with pytest.raises(Corrupt, match="cannot be converted"):
        decode_one(altered(lambda whole: whole.update(dataversion=0, data=data)))


class TaskCancelledWider(TaskCancelled, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What `task.cancelled` might be with a field that a reader must not miss, and one that it may."""

    VERSION = 2
    SINCE: ClassVar = {"severity": 2}

    severity: int = 0
    note: str = ""


@pytest.fixture
def wider_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the codec that of a release where `task.cancelled` has got those fields."""
    _publish(monkeypatch, TaskCancelledWider, (1, 2))


def wider(**fields: Any) -> bytes:
    event = TaskCancelledWider(task_id="n", **fields)
    return codec.encode(codec.envelope(event, position=Position(1, 0), time="then", source="s"))


def test_an_event_is_written_with_the_lowest_version_that_says_all_of_it(wider_release: None) -> None:
    """An older release reads what it can read, and keeps as unknown what it would misread."""
    assert [json.loads(wider(**some))["dataversion"] for some in ({}, {"note": "x"}, {"severity": 1})] == [1, 1, 2]
    read = codec.decode(codec.join([wider(), TASK, wider(severity=3)]))
    assert [(one.dataversion, getattr(one.data, "severity", None)) for one in read] == [(1, 0), (1, 0), (2, 3)]


def test_versions_before_an_added_field_are_raised_to_the_one_before_it(
    wider_release: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upcasters end where the fields begin that need none; the envelope says the version that the result has."""
    monkeypatch.setitem(codec.UPCASTERS, ("task.cancelled", 0), lambda data: data)
    assert decode_one(altered(lambda whole: whole.update(dataversion=0))).dataversion == 1


def test_a_commit_with_an_unknown_type_keeps_the_events_of_lower_versions(wider_release: None) -> None:
    """The slow path reads them like the fast one."""
    read = codec.decode(codec.join([MOON, TASK, wider(severity=3)]))
    assert [type(one.data) for one in read] == [UnknownEvent, TaskCancelledWider, TaskCancelledWider]


def test_a_value_of_a_later_release_makes_the_event_unknown_and_nothing_else() -> None:
    """A status that this release does not know is no damage; data of a wrong type is."""
    stem = next(stem for stem in EXAMPLES if stem.startswith("service.health_changed"))
    later = altered(lambda whole: whole["data"].update(status="degraded"), stem)
    kept, other = codec.decode(codec.join([later, TASK]))
    assert (type(kept.data), type(other.data)) == (UnknownEvent, TaskCancelled)
    assert codec.encode(kept) == later
    with pytest.raises(Corrupt):
        decode_one(altered(lambda whole: whole["data"].update(status=7), stem))


# --- garbage ----------------------------------------------------------------------------------------------------------

ATTRIBUTES = ("specversion", "id", "source", "subject", "time", "dataversion", "data", "type")

GARBAGE = {
    "nothing": b"",
    "NUL": b"\0",
    "no JSON": b"hello",
    "cut off": codec.join([TASK])[:-5],
    "more after the end": codec.join([TASK]) + b"]",
    "two arrays": b"[][]",
    "one event, no array": TASK,
    "an object": b"{}",
    "a number": b"7",
    "null": b"null",
    "null in it": b"[null]",
    "a number in it": b"[1]",
    "an array in it": b"[[]]",
    "an empty object in it": b"[{}]",
    "type is no text": altered(lambda whole: whole.update(type=7)).join([b"[", b"]"]),
    "data is null": altered(lambda whole: whole.update(data=None)).join([b"[", b"]"]),
    "id is no text": altered(lambda whole: whole.update(id=1042.3)).join([b"[", b"]"]),
    "id of an unknown event is no text": altered(lambda whole: whole.update(id=1, type="moon.risen")).join(
        [b"[", b"]"]
    ),
    "no UTF-8": b'["\xff"]',
    "no UTF-8 where nobody looks at first": b"[" + MOON.replace(b"full", b"\xff") + b"]",
    "half a surrogate": b"[" + TASK.replace(b"not needed", b"\\ud800") + b"]",
    "a number beyond all": b"[" + MOON.replace(b"1.50", b"1e999") + b"]",
    "an integer beyond all": b"[" + MOON.replace(b"1.50", b"1" * 6000) + b"]",
    "open for ever": b"[" * 200_000,
    "nested too deep": b"[" + MOON.replace(b"1.50", b"[" * 100_000 + b"]" * 100_000) + b"]",
    "nested too deep in a known event": b"[" + TASK.replace(b'"tenant"', b'"x":' + b"[" * 100_000) + b"]",
    "trailing comma": codec.join([TASK, b""]),
    "a byte order mark": b"\xef\xbb\xbf" + codec.join([TASK]),
    "UTF-16": codec.join([TASK]).decode().encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_corrupt_and_shown(body: bytes) -> None:
    """Never another exception, never a guess, never a hang; the message shows how it begins and stays short."""
    with pytest.raises(
        Corrupt, match=r"the commit is not a JSON array of CloudEvents \(.+\); it begins with b"
    ) as corrupt:
        codec.decode(body)
    assert len(corrupt.value.message) < 600


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_an_event_without_a_required_attribute_is_corrupt(attribute: str) -> None:
    """Known or unknown: an event has an id, a source, a subject, a time, a type and a version."""
    with pytest.raises(Corrupt):
        decode_one(altered(lambda whole: whole.pop(attribute)))
    if attribute not in {"data", "type"}:
        with pytest.raises(Corrupt):
            decode_one(altered(lambda whole: (whole.pop(attribute), whole.update(type="moon.risen"))))


@pytest.mark.parametrize("stem", EXAMPLES)
def test_a_field_of_another_type_is_corrupt(stem: str) -> None:
    """Every field of every event is checked strictly."""
    raw = {"data"} if stem.startswith("inbox.recorded") else set()  # which may be any JSON
    for field in msgspec.json.decode(golden(stem))["data"].keys() - raw:
        with pytest.raises(Corrupt):
            decode_one(altered(lambda whole, field=field: whole["data"].update({field: [[{}]]}), stem))  # type: ignore[misc]


@given(st.binary(max_size=200))
@example(b"[" * 50_000)
def test_any_bytes_are_events_or_corrupt(body: bytes) -> None:
    """There is no third outcome."""
    with suppress(Corrupt):
        assert isinstance(codec.decode(body), list)


@given(st.sampled_from(sorted(EXAMPLES)), st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_event_is_read_or_corrupt(stem: str, at: int, put: bytes, taken: int) -> None:
    """Bytes changed, lost or added anywhere in a commit never lead to another exception."""
    body = codec.join([golden(stem), MOON])
    at %= len(body)
    with suppress(Corrupt):
        codec.decode(body[:at] + put + body[at + taken :])


texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts, texts, st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1))
def test_any_value_survives(task_id: str, text: str, timeout_s: float, priority: int) -> None:
    """Texts of every script and control character, floats and integers come back as they were."""
    event = TaskSubmitted(
        task_id=task_id, task_name=text, timeout_s=timeout_s, priority=priority, idempotency_key=text[::-1]
    )
    one = codec.envelope(event, position=Position(1, 0), time=text, source=text, tenant=text, traceparent=text)
    assert decode_one(codec.encode(one)) == one


# --- time -------------------------------------------------------------------------------------------------------------

microseconds = st.integers(0, 4_102_444_800 * 10**6)


@given(microseconds)
def test_a_time_is_read_back_to_the_microsecond(since_1970: int) -> None:
    """A parsed time formats to the same text again, so that every fold computes with the written time."""
    text = codec.rfc3339(since_1970 / 10**6)
    assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_1970)
    assert codec.seconds_of(text) == since_1970 / 10**6
    assert codec.rfc3339(codec.seconds_of(text)) == text


@given(microseconds, microseconds)
def test_times_sort_as_texts(one: int, other: int) -> None:
    """Readers may compare times without parsing them."""
    assert (codec.rfc3339(one / 10**6) < codec.rfc3339(other / 10**6)) == (one < other)


def test_a_time_looks_like_this() -> None:
    """RFC 3339 in UTC with six digits, always."""
    assert codec.rfc3339(0) == "1970-01-01T00:00:00.000000Z"
    assert codec.rfc3339(1_795_454_100.123456) == "2026-11-23T17:15:00.123456Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01T02:00:00+02:00", 0.0),
        ("1970-01-01T00:00:01.5-00:00", 1.5),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140.0),
    ],
)
def test_times_of_other_writers_are_read(text: str, seconds: float) -> None:
    """Any offset, any number of digits."""
    assert codec.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-23",
        "2026-11-23T17:15:00",
        "2026-13-01T00:00:00Z",
        "1795454100",
        "2026-11-23T17:15:00ZZ",
        "\0",
    ],
)
def test_what_is_no_time_is_corrupt(text: str) -> None:
    """A time without an offset would be another moment on another machine."""
    with pytest.raises(Corrupt, match="is not RFC 3339") as corrupt:
        codec.seconds_of(text)
    assert repr(text) in corrupt.value.message


def test_a_time_without_offset_is_refused_in_every_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold gives the same result on every machine."""
    for zone in ("UTC", "Asia/Tokyo"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert codec.seconds_of("2026-11-23T17:15:00Z") == 1_795_454_100.0
        with pytest.raises(Corrupt):
            codec.seconds_of("2026-11-23T17:15:00")
    monkeypatch.undo()
    time.tzset()


def test_heartbeats_are_the_types_that_never_enter_the_journal() -> None:
    """Each kind that sends signs of life has one."""
    assert {name for name in codec.EVENTS if name.endswith(".heartbeat")} == codec.HEARTBEATS


def test_an_event_class_that_no_type_names_cannot_be_written() -> None:
    """An event outside the closed union never gets an envelope."""

    class MoonRisen(Event, frozen=True, kw_only=True, gc=False):
        SUBJECT = "moon_id"
        moon_id: str

    with pytest.raises(KeyError):
        codec.envelope(MoonRisen(moon_id="m"), position=Position(1, 0), time="", source="")


def test_equal_data_of_two_types_is_told_apart() -> None:
    """The type decides, not the shape of the data."""
    started = TaskStarted(task_id="t", worker_id="w", claim_id="c", attempt=1, lease="c.1")
    one = codec.envelope(started, position=Position(1, 0), time="", source="")
    other = codec.encode(one).replace(b"task.started", b"task.cancelled")
    assert decode_one(other).data == TaskCancelled(task_id="t", lease="c.1")


def test_a_commit_is_cut_into_its_events_byte_for_byte() -> None:
    """What passes events on without reading them passes on what was written, of unknown types too."""
    body = codec.join([TASK, MOON])
    assert [(head.type, head.time, bytes(raw)) for head, raw in codec.split(body)] == [
        ("task.cancelled", "2026-11-23T17:15:00.123456Z", TASK),
        ("moon.risen", "2026-11-23T17:15:00Z", MOON.strip()),
    ]
    assert [bytes(raw) for raw in codec.parts(body)] == [TASK, MOON.strip()]
    with pytest.raises(Corrupt, match="not a JSON array of CloudEvents"):
        codec.parts(TASK)


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"id":"1.0"}]', b'[{"type":"\xff"}]', TASK])
def test_what_is_no_commit_is_not_cut(body: bytes) -> None:
    """It is `Corrupt`, as when it is decoded."""
    with pytest.raises(Corrupt, match="not a JSON array of CloudEvents"):
        codec.split(body)
