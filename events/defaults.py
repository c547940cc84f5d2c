"""
Whether the rare fields of a struct have their defaults, in a fraction of the time that a look at each one takes.

Structs grow by fields that most of their values leave alone; new ones are added at the end.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def defaults_of(kind: type[msgspec.Struct], names: Sequence[str]) -> tuple[Any, ...]:
    """Return the defaults of these fields; an empty list or map for a factory of them."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    return tuple(
        fields[name].default_factory() if fields[name].default is msgspec.NODEFAULT else fields[name].default
        for name in names
    )


def getter_of(kind: type[msgspec.Struct], names: Sequence[str]) -> Callable[[tuple[Any, ...]], Any]:
    """Return what takes the values of these fields, in the order of the class, out of what `astuple` returns."""
    places = [kind.__struct_fields__.index(name) for name in names]
    if places == list(range(places[0], places[0] + len(places))):
        return itemgetter(slice(places[0], places[-1] + 1))
    get: Callable[[tuple[Any, ...]], Any] = itemgetter(*places)  # of two or more: a tuple
    return get


def is_plain_from(first: str, kind: type[msgspec.Struct]) -> Callable[[Any], bool]:
    """
    Return whether, of a struct, all fields from *first* on have their defaults.

    Args:
        first: the first of the fields at the end that are asked for.
        kind: the class of the structs, exactly.
    """
    names = kind.__struct_fields__
    at = names.index(first)
    rest = defaults_of(kind, names[at:])
    return lambda one: astuple(one)[at:] == rest
