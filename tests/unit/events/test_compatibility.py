"""
What was published once stays readable: no release may take a field away, rename one, or begin to insist on one.

The golden files hold every field that ever was; `tests/golden/required.json` those that were needed when a type's
version was first published. Both only grow.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events import codec
from events.base import Event
from tests.golden.files import FOLDER, REQUIRED, Named, golden, required_of, write_missing_required

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES = sorted(path.stem for path in FOLDER.iterdir())
ON_RECORD: dict[str, list[str]] = json.loads(REQUIRED.read_text())


def broken(event: type[Event], version: int, held: Mapping[str, Any], needed: list[str]) -> list[str]:
    """Return how *event* is incompatible with data published as *version*: its fields, and its required fields."""
    if version < event.VERSION:
        return []  # its upcaster sees to that, and the golden test sees to the upcaster
    name = event.__name__
    do = f"raise {name}.VERSION to {version + 1} and add an upcaster from {version} (events/codec.py)"
    fields = {field.encode_name for field in msgspec.structs.fields(event)}
    gone = [f"{name} has lost or renamed {field!r}, which was published: {do}" for field in held if field not in fields]
    insists = [
        f"{name} now needs {field!r}, which was left out where it had its default: give it one, or {do}"
        for field in required_of(event)
        if field not in needed
    ]
    return gone + insists


@pytest.mark.parametrize("stem", FILES)
def test_no_field_was_lost_and_none_became_needed(stem: str) -> None:
    """The data of every golden file is decoded fully, and its required fields alone are enough."""
    named = Named.parse(stem)
    event = codec.EVENTS.get(named.type)
    assert event is not None, f"{named.type} was published and is gone: keep its class, and its fold"
    held = json.loads(golden(stem))["data"]
    assert broken(event, named.version, held, ON_RECORD[f"{named.type}.v{named.version}"]) == []


@pytest.mark.parametrize("name", codec.EVENTS)
def test_an_event_of_its_needed_fields_alone_is_read(name: str) -> None:
    """What every older release wrote where all else had its default."""
    event = codec.EVENTS[name]
    stem = f"{name}.v{event.VERSION}"
    whole = json.loads(golden(stem))
    whole["data"] = {field: whole["data"][field] for field in ON_RECORD[stem]}
    (read,) = codec.decode(json.dumps([whole]).encode())
    assert type(read.data) is event


def test_what_is_needed_is_on_record_for_every_type() -> None:
    """A type without a record is not checked: `python -m tests.golden` records it."""
    assert {f"{name}.v{event.VERSION}" for name, event in codec.EVENTS.items()} <= set(ON_RECORD)


def test_each_way_to_break_is_told_with_the_way_out() -> None:
    """Removed, renamed and newly required fields are found; a new version or a field with a default is allowed."""

    class TaskNoted(Event, frozen=True, kw_only=True, gc=False):
        task_id: str
        text: str
        colour: str = ""

    held = {"task_id": "t", "text": "x"}
    assert broken(TaskNoted, 1, held, ["task_id", "text"]) == []
    (lost,) = broken(TaskNoted, 1, {**held, "note": "x"}, ["task_id", "text"])
    assert "lost or renamed 'note'" in lost
    (needs,) = broken(TaskNoted, 1, held, ["task_id"])
    assert "now needs 'text'" in needs
    assert all("raise TaskNoted.VERSION to 2 and add an upcaster from 1" in told for told in (lost, needs))
    assert broken(TaskNoted, 0, {"note": 1}, []) == []


def test_what_is_on_record_is_never_rewritten(tmp_path: Path) -> None:
    """The script adds types that are missing; those that are there stay, even when they are wrong."""
    record = tmp_path / "required.json"
    record.write_text(json.dumps({"task.cancelled.v1": ["kept"]}))
    current = {f"{name}.v{event.VERSION}" for name, event in codec.EVENTS.items()}
    assert set(write_missing_required(record)) == current - {"task.cancelled.v1"}
    expected = {stem: ON_RECORD[stem] for stem in current} | {"task.cancelled.v1": ["kept"]}
    assert json.loads(record.read_text()) == expected
    assert write_missing_required(record) == []
