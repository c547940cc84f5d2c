"""The JSON Schema of the events, judged by a validator that is not ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from events import codec
from events.schema import IN_JOURNAL, json_schema
from tests.golden.examples import EXAMPLES
from tests.golden.files import FOLDER, Named, golden

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = json_schema()
FILES = sorted(path.stem for path in FOLDER.iterdir())
ANY_EVENT = Draft202012Validator(SCHEMA)


def validator(name: str) -> Draft202012Validator:
    """Judge by one definition alone, whose complaints are to the point."""
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})


def raised(stem: str) -> dict[str, Any]:
    """Give a golden event as this release writes it."""
    (read,) = codec.decode(codec.join([golden(stem)]))
    written: dict[str, Any] = json.loads(codec.encode(read))
    return written


def test_the_schema_is_one() -> None:
    """It is a valid schema of the dialect it names, and every reference in it leads to a definition."""
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    named = {one.rpartition("/")[2] for one in references(SCHEMA)}
    assert named <= set(SCHEMA["$defs"])
    assert set(codec.EVENTS) <= named
    assert set(SCHEMA["$defs"]) - named == {"commit"}


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if "$ref" in value else set()
    return own.union(*map(references, value.values()))


@pytest.mark.parametrize("stem", FILES)
def test_what_was_published_validates(stem: str) -> None:
    """Every golden file is valid as an event, as an event of its type, and as no other."""
    event = raised(stem)
    assert [error.message for error in validator(event["type"]).iter_errors(event)] == []
    ANY_EVENT.validate(event)  # by exactly one of the types


def test_a_commit_validates() -> None:
    """An array of events of the journal is a commit; an empty one is none, nor is one with a heartbeat."""
    stems = [stem for stem in EXAMPLES if Named.parse(stem).type in IN_JOURNAL]
    commit = validator("commit")
    commit.validate([raised(stem) for stem in stems])
    assert not commit.is_valid([])
    assert not commit.is_valid([raised("worker.heartbeat.v1")])


MUTATIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another type": lambda event: event.update(type="task.exploded"),
    "the type of another event": lambda event: event.update(type="worker.left"),
    "another specification": lambda event: event.update(specversion="0.3"),
    "no id": lambda event: event.update(id=""),
    "an id that is no id": lambda event: event["data"].update(task_id="a.b"),
    "a subject that is no id": lambda event: event.update(subject="*"),
    "no time": lambda event: event.update(time="yesterday"),
    "a time without an offset": lambda event: event.update(time="2026-11-23T17:15:00"),
    "another version": lambda event: event.update(dataversion=9),
    "a number as text": lambda event: event["data"].update(priority="high"),
    "a field of the wrong type": lambda event: event["data"]["resources"].update(cpu_millis=1.5),
    "a digest that is none": lambda event: event["data"]["payload"].update(digest="x"),
    "a cause that is no position": lambda event: event.update(causationid="42"),
    "a tenant that is no id": lambda event: event.update(tenant="a b"),
    "no data": lambda event: event.pop("data"),
    "data that is none": lambda event: event.update(data=None),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_what_is_no_event_of_ours_does_not_validate(what: str) -> None:
    """One thing wrong is enough."""
    event = raised("task.submitted.v1")
    MUTATIONS[what](event)
    assert not ANY_EVENT.is_valid(event)


@pytest.mark.parametrize("stem", FILES)
def test_what_lacks_a_needed_field_does_not_validate(stem: str) -> None:
    """Each field without a default must be there, in the envelope and in the data."""
    name = Named.parse(stem).type
    judge = validator(name)
    for part, needed in (("", name), ("data", codec.EVENTS[name].__name__)):
        for field in SCHEMA["$defs"][needed]["required"]:
            event = raised(stem)
            del (event[part] if part else event)[field]
            assert not judge.is_valid(event), field


def test_what_a_later_release_adds_validates() -> None:
    """A field that is not known yet does no harm: readers go on."""
    event = raised("task.submitted.v1")
    event["data"]["colour"] = "green"
    event["dataschema"] = "urn:example"
    ANY_EVENT.validate(event)


def test_units_and_descriptions_are_told() -> None:
    """Each type says what it means, and a field with a unit which."""
    assert [name for name in codec.EVENTS if not SCHEMA["$defs"][name]["description"]] == []
    lost = SCHEMA["$defs"]["WorkerLost"]["properties"]
    assert lost["silent_for_s"] == {"type": "number", "description": "In seconds."}
