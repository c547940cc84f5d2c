"""Whether rare fields have their defaults: as a look at each one says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from events.defaults import defaults_of, getter_of, is_plain_from


class Thing(msgspec.Struct, frozen=True, kw_only=True):
    """A struct with fields that are rarely used."""

    name: str
    size: int = 0
    note: str = ""
    tags: list[str] = []
    cost: float | None = None
    is_kept: bool = True


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from([0, 1]),
    "note": st.sampled_from(["", "x"]),
    "tags": st.sampled_from([[], ["a"]]),
    "cost": st.sampled_from([None, 0.0]),
    "is_kept": st.booleans(),
}
DEFAULTS = {"size": 0, "note": "", "tags": [], "cost": None, "is_kept": True}


@given(st.fixed_dictionaries(VALUES))
def test_a_thing_is_plain_if_each_of_the_fields_has_its_default(values: dict[str, Any]) -> None:
    """From a field on, whatever those before it are."""
    thing = Thing(name="t", **values)
    odd = {name for name, value in values.items() if value != DEFAULTS[name]}
    assert is_plain_from("tags", Thing)(thing) is not bool(odd & {"tags", "cost", "is_kept"})
    assert is_plain_from("cost", Thing)(thing) is not bool(odd & {"cost", "is_kept"})


@pytest.mark.parametrize("names", [["note"], ["size", "note", "tags"], ["size", "cost"]])
def test_fields_are_taken_in_the_order_of_the_class(names: list[str]) -> None:
    """However they lie: one, in a row, apart."""
    assert getter_of(Thing, names)(astuple(Thing(name="t"))) == defaults_of(Thing, names)
    assert defaults_of(Thing, names) == tuple(DEFAULTS[name] for name in names)
