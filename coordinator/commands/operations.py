"""
The registry: every operation by its name, and what its class says of it, for people and for documents.

Everything here is read from the classes when it is asked for; nothing of it is needed to answer an operation.
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.reads import VERBS
from events.errors import NotFound, shown
from events.reasons import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Operation

OPERATIONS: dict[str, type[Operation]] = {one.NAME: one for one in (*COMMANDS.values(), *VERBS.values())}
"""Every operation by its name: those of the writer, then those of the followers."""

ADMINISTRATOR = "admin"


class Field(NamedTuple):
    """One field of a request: its type in words, its default as JSON has it (None if required), its choices if few."""

    name: str
    type: str
    is_required: bool
    default: Any
    choices: tuple[str, ...]
    hint: Any
    """The type itself."""


def operation_of(name: str) -> type[Operation]:
    """
    Return the operation of this name.

    Raises:
        NotFound: there is none; the message has the nearest names.
    """
    found = OPERATIONS.get(name)
    if found is None:
        near = nearest_names(name)
        right = (
            f"did you mean {' or '.join(near)}?" if near else "no name is like it; `coordinator operations` lists all"
        )
        raise NotFound(f"operation {shown(name)} does not exist: {right}", reason="unknown_command")
    return found


def nearest_names(given: str) -> list[str]:
    """Return up to three names of operations that *given* may stand for; its type on the wire is one of them."""
    by_type = {one.__name__.lower(): name for name, one in OPERATIONS.items()}
    plain = given[:80].lower().replace("_", "").replace(" ", ".").replace(":", ".")
    if plain in by_type:
        return [by_type[plain]]
    verbs = [name for name in OPERATIONS if name.rpartition(".")[2] == plain]
    close = get_close_matches(plain, OPERATIONS, n=3, cutoff=0.7)
    return verbs[:3] or close or [by_type[one] for one in get_close_matches(plain, by_type, n=3)]


def summary_of(operation: type[Operation]) -> str:
    """Return the first sentence of an operation's docstring."""
    head, dot, _ = description_of(operation).partition("\n")[0].partition(". ")
    return f"{head}." if dot else head


def description_of(operation: type[msgspec.Struct]) -> str:
    """Return the docstring of an operation, or of a part of one, as paragraphs of one line each."""
    lines = (operation.__doc__ or "").strip().splitlines()
    return "\n".join(" ".join(part.split()) for part in "\n".join(line.strip() for line in lines).split("\n\n"))


def roles_of(operation: type[Operation]) -> tuple[str, ...]:
    """Return the roles that may ask for an operation, sorted, the administrator first."""
    return (ADMINISTRATOR, *sorted(operation.FOR))


def refusals_of(operation: type[Operation]) -> dict[str, str]:
    """Return the reasons of its own that an operation may be refused with, and what they mean."""
    return {code: REASONS[code] for code in sorted(operation.REFUSALS)}


def always_of(operation: type[Operation]) -> dict[str, str]:
    """Return the reasons that any operation of the same door may be refused with, and what they mean."""
    return {code: REASONS[code] for code in sorted(operation.ALWAYS)}


def fields_of(operation: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Return the fields of an operation's request, or of a part of one, in the order of its class."""
    hints = get_type_hints(operation)
    return tuple(
        Field(
            name=one.name,
            type=type_name(hints[one.name]),
            is_required=one.required,
            default=None if one.required or one.default is msgspec.UNSET else msgspec.to_builtins(_default(one)),
            choices=choices_of(hints[one.name]),
            hint=hints[one.name],
        )
        for one in msgspec.structs.fields(operation)
    )


def _default(field: Any) -> Any:
    return field.default_factory() if field.default is msgspec.NODEFAULT else field.default


def answer_of(operation: type[Operation]) -> str:
    """Return the type of an operation's answer in words."""
    return type_name(operation.Answer)


def type_name(hint: Any) -> str:
    """Return what a value of a type is in JSON, in words: `text`, `whole number`, `list of Task`, `Payload or null`."""
    if hint in _WORDS:
        return _WORDS[hint]
    origin, given = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "text"
    if origin in (list, tuple):
        return f"list of {type_name(given[0])}"
    if origin is dict:
        return f"object of {type_name(given[1])}"
    if given:
        return " or ".join(dict.fromkeys(type_name(one) for one in given if one is not msgspec.UnsetType))
    return "text" if issubclass(hint, Enum) else str(hint.__name__)


_WORDS: dict[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    None: "null",
    type(None): "null",
    Any: "any JSON",
}


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return the texts that a value of a type can be, if it is one of a few."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(one.value for one in hint)
    return tuple(found for one in get_args(hint) for found in choices_of(one))


def structs_in(hint: Any) -> Iterator[type[msgspec.Struct]]:
    """Yield the objects that a type is made of, as they are written in a request or an answer."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for one in get_args(hint):
        yield from structs_in(one)
