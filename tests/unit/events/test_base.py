"""Positions, type names and envelopes."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import codec
from events.base import START, Event, Position, UnknownEvent, type_of
from events.errors import Refused
from events.task import TaskAttemptFailed, TaskCancelled

NO_POSITIONS = [
    "", ".", "1", "1.", ".1", "1.2.3", "-1.0", "1.-1", "+1.0", " 1.0", "1.0 ", "1.0\n", "1,0", "0x1.0", "1e3.0",
    "1_0.0",
    "१.०", "１.０", "².0", "a.b", "None", "1.0\0", f"{'9' * 5000}.0", f"0.{'9' * 5000}", "9" * 21 + ".0",
]  # fmt: skip


@given(st.integers(0, 2**64), st.integers(0, 2**32))
def test_a_position_is_read_back_as_it_was_written(sequence: int, index: int) -> None:
    """`str` and `parse` are each other's inverse."""
    position = Position(sequence, index)
    assert Position.parse(str(position)) == position
    assert str(position) == f"{sequence}.{index}"


@pytest.mark.parametrize("text", NO_POSITIONS)
def test_what_is_no_position_is_refused_and_shown(text: str) -> None:
    """Whatever comes from outside is refused with a reason, however long it is."""
    with pytest.raises(Refused, match=r"is not of the form '<sequence>\.<index>'") as refused:
        Position.parse(text)
    assert refused.value.reason == "bad_position"
    assert repr(text)[:20] in refused.value.message
    assert len(refused.value.message) < 200


def test_positions_order_events_first_by_commit() -> None:
    """Sequence counts before index, and everything comes after the start."""
    assert sorted([Position(10, 0), Position(9, 12), Position(9, 2), START]) == [
        START, Position(9, 2), Position(9, 12), Position(10, 0),
    ]  # fmt: skip


def test_a_class_name_gives_the_type_on_the_wire() -> None:
    """The first word is the kind, the rest the event."""
    assert type_of(TaskAttemptFailed) == "task.attempt_failed"
    assert type_of(TaskCancelled) == "task.cancelled"


@pytest.mark.parametrize("event", get_args(codec.AnyEvent), ids=lambda event: event.__name__)
def test_every_event_is_a_frozen_value_about_one_thing(event: type[Event]) -> None:
    """Events cannot be changed, are given by keyword, cost the collector nothing, and name what they are about."""
    config = event.__struct_config__
    assert (config.frozen, config.gc) == (True, False)
    assert event.SUBJECT in event.__struct_fields__
    assert event.__struct_fields__[0] == event.SUBJECT
    assert event.VERSION >= 1
    assert event.__doc__
    with pytest.raises(TypeError):
        event("positional")


def test_no_event_class_is_forgotten() -> None:
    """Every event class of this package is in the closed union, under a type of its own."""
    assert leaves(Event) - {UnknownEvent} == set(codec.EVENTS.values())
    assert len(codec.EVENTS) == len(get_args(codec.AnyEvent))


def leaves(base: type[Event]) -> set[type[Event]]:
    below = [one for one in base.__subclasses__() if one.__module__.startswith("events.")]
    return {leaf for one in below for leaf in leaves(one)} if below else {base}


def test_an_event_says_what_it_is_about() -> None:
    """The subject is the value of the field that holds the id."""
    assert TaskCancelled(task_id="t").subject == "t"
    assert UnknownEvent(type="moon.risen", about="m", raw=b"").subject == "m"


def test_an_envelope_knows_the_type_of_its_event() -> None:
    """The type of an unknown event is the one it came with."""
    known = codec.envelope(TaskCancelled(task_id="t"), position=START, time="", source="s")
    assert known.type == "task.cancelled"
    (unknown,) = codec.decode(
        b'[{"specversion":"1.0","type":"moon.risen","id":"1.0","source":"s","subject":"m","time":"","dataversion":1}]'
    )
    assert unknown.type == "moon.risen"
    assert unknown.subject == "m"


def test_every_field_that_a_version_added_has_a_default_and_its_version() -> None:
    """A field in SINCE is optional, and the newest version is that of a field or of an upcaster."""
    for event in codec.EVENTS.values():
        optional = {field.name for field in msgspec.structs.fields(event) if not field.required}
        parts = {name for name in event.SINCE if isinstance(getattr(event, name, None), property)}
        assert set(event.SINCE) <= optional | parts
        assert max(event.SINCE.values(), default=1) <= event.VERSION
        assert min(event.SINCE.values(), default=2) > 1
