"""What was once published can be read for ever: every event type and version has a golden file that says how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from events import codec
from events.base import Event, UnknownEvent, version_of
from events.errors import Corrupt
from tests.golden.examples import EXAMPLES, enveloped
from tests.golden.files import FOLDER, Named, golden, write_missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = sorted(path.stem for path in FOLDER.iterdir())
CURRENT = [stem for stem in EXAMPLES if Named.parse(stem).version == version_of(EXAMPLES[stem])]


def fields(value: msgspec.Struct) -> Iterator[tuple[msgspec.structs.FieldInfo, object]]:
    for field in msgspec.structs.fields(value):
        yield field, getattr(value, field.name)


def default_of(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def left_at_default(value: msgspec.Struct, path: str) -> Iterator[str]:
    for field, held in fields(value):
        here = f"{path}.{field.name}"
        if held == default_of(field):
            yield here
        elif isinstance(held, msgspec.Struct):
            yield from left_at_default(held, here)


@pytest.mark.parametrize("stem", FILES)
def test_a_golden_file_decodes_to_the_value_it_stands_for(stem: str) -> None:
    """Reading what was published gives the same envelope and event today."""
    assert codec.decode(codec.join([golden(stem)])) == [enveloped(EXAMPLES[stem])]


@pytest.mark.parametrize("stem", CURRENT)
def test_an_example_is_written_as_its_golden_file_says(stem: str) -> None:
    """Writing the value today gives the bytes that were published, so that hashes over them stay what they are."""
    assert codec.encode(enveloped(EXAMPLES[stem])) == golden(stem)


def test_every_event_type_has_a_golden_file_and_every_golden_file_a_type() -> None:
    """No type of this release is without its file, no file and no example is left over."""
    assert set(FILES) == set(EXAMPLES)
    current = {f"{name}.v{event.VERSION}" for name, event in codec.EVENTS.items()}
    assert current <= set(FILES)
    for stem in FILES:
        named = Named.parse(stem)
        assert codec.EVENTS[named.type] is type(EXAMPLES[stem])
        assert 1 <= named.version <= EXAMPLES[stem].VERSION


@pytest.mark.parametrize("stem", FILES)
def test_a_golden_file_says_the_type_and_version_it_is_named_for(stem: str) -> None:
    """The name is no other statement than the content."""
    held = msgspec.json.decode(golden(stem))
    assert (held["type"], held["dataversion"]) == Named.parse(stem)


@pytest.mark.parametrize("name", codec.EVENTS)
def test_some_example_sets_every_field_to_something_else_than_its_default(name: str) -> None:
    """A field that no example sets could be renamed unnoticed."""
    lefts = [set(left_at_default(one, name)) for stem, one in EXAMPLES.items() if Named.parse(stem).type == name]
    never = "" if name.partition(".")[0] in ("task", "worker", "schedule") else ".named"  # nothing else names amounts
    assert {one for one in set.intersection(*lefts) if not never or not one.endswith(never)} == set()


def test_the_envelope_of_the_examples_sets_every_attribute() -> None:
    """The same for the attributes around the event."""
    one = enveloped(EXAMPLES["container.destroyed.v1"])
    assert [field.name for field, held in fields(one) if held == default_of(field)] == []


def changed(stem: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a golden file as it would be if a field had another name, or were not there."""
    for part in ("data", None):
        whole = msgspec.json.decode(golden(stem))
        for key in list(whole[part] if part else whole):
            for new in (f"{key}_renamed", None):
                whole = msgspec.json.decode(golden(stem))
                at = whole[part] if part else whole
                value = at.pop(key)
                if new is not None:
                    at[new] = value
                yield f"{key} → {new}", whole


@pytest.mark.parametrize("stem", FILES)
def test_a_removed_or_renamed_field_is_caught(stem: str) -> None:
    """Were any field called otherwise on one side, or gone, then reading would fail or give another value."""
    for what, held in changed(stem):
        try:
            read = codec.decode(msgspec.json.encode([held]))
        except Corrupt:
            continue
        assert read != [enveloped(EXAMPLES[stem])], what


def test_a_class_that_lost_a_field_is_caught_by_what_it_writes() -> None:
    """An event class without one of its fields, or with another name for it, does not write its golden bytes."""
    stem = "task.cancelled.v1"
    for name in ("why", None):
        others = {name: "not needed any more"} if name else {}
        other = msgspec.defstruct("TaskCancelled", [("task_id", str), *others], kw_only=True)
        values = {"task_id": "task_1", **others}
        written = msgspec.structs.replace(enveloped(EXAMPLES[stem]), data=other(**values))
        assert codec.encode(written) != golden(stem)


def test_new_golden_files_are_written_and_existing_ones_never_touched(tmp_path: Path) -> None:
    """The script adds what is missing; what is there stays, even when it is wrong."""
    kept = tmp_path / "node.returned.v1.json"
    kept.write_bytes(b"as it was")
    written = write_missing(tmp_path)
    assert kept.read_bytes() == b"as it was"
    assert {path.stem for path in written} == set(EXAMPLES) - {"node.returned.v1"}
    assert all(path.read_bytes() == golden(path.stem) + b"\n" for path in written)
    assert write_missing(tmp_path) == []


def test_a_file_of_an_older_version_is_not_made_up_afterwards(tmp_path: Path) -> None:
    """Only what this release publishes may be written as golden: version 2 cannot show how version 1 looked."""

    class TaskNoted(Event, frozen=True, kw_only=True, gc=False):
        VERSION = 2

    with pytest.raises(AssertionError, match="is of an earlier release"):
        write_missing(tmp_path, {"task.noted.v1": TaskNoted()})


@pytest.mark.parametrize(
    "stem", ["task.submitted", "task.submitted.v0", "task.submitted.v1.0", "Task.Submitted.v1", "x"]
)
def test_a_file_of_any_other_name_is_refused(stem: str) -> None:
    """A misnamed file would not be looked at."""
    with pytest.raises(AssertionError, match="is no name of a golden file"):
        Named.parse(stem)


def test_no_golden_event_is_unknown() -> None:
    """A type that went missing from the codec would be kept as unknown, not refused; that is caught too."""
    read = codec.decode(codec.join(golden(stem) for stem in FILES))
    assert not [one for one in read if isinstance(one.data, UnknownEvent)]
    assert len(read) == len(FILES)
