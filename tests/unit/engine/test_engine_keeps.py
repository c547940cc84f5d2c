"""What is refused leaves nothing behind in the writer, however large it was."""

from __future__ import annotations

import gc
import sys
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands import COMMANDS
from coordinator.errors import CoordinationError
from tests.hostile import VALID
from tests.unit.engine.engine_rig import leading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.commands.command import Command

LONG = 100_000
MESSAGE_CHARS_MOST = 2000
_KEY = "<key>"
Path = tuple[str | int, ...]


def shapes(kind: type[Command]) -> Iterator[dict[str, Any]]:
    """Yield the fields of a command with text, once only those it needs, and once all: some guard others."""
    for fields in ([one for one in msgspec.structs.fields(kind) if one.required], msgspec.structs.fields(kind)):
        texts = {one.name: "x" for one in fields if one.type is str}
        lists = {one.name: ["x"] for one in fields if one.type == tuple[str, ...]}
        yield texts | lists | VALID.get(kind_name(kind), {})


def kind_name(kind: type[Command]) -> str:
    return next(name for name, command in COMMANDS.items() if command is kind)


def places(value: Any, at: Path = ()) -> Iterator[Path]:
    """Yield where *value* has a text, or could have a name."""
    if isinstance(value, str):
        yield at
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*at, name))
        if at:
            yield (*at, _KEY)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*at, index))


def with_text(fields: dict[str, Any], at: Path, text: str) -> dict[str, Any]:
    changed = inner = deepcopy(fields)
    for step in at[:-1]:
        inner = inner[step]  # type: ignore[index]  # a list has numbers
    inner[text if at[-1] == _KEY else at[-1]] = text  # type: ignore[index]  # as above
    return changed


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=lambda kind: kind.__name__)
async def test_no_text_of_a_refused_command_is_kept(kind: type[Command]) -> None:
    """Not as a key of signs, claims or refusals, and not in a message: wherever in the command it is."""
    async with leading() as rig:
        for fields in shapes(kind):
            for at in places(fields):
                text = "x" * LONG + "y"
                before = sys.getrefcount(text)
                try:
                    command = msgspec.convert(with_text(fields, at, text), kind)
                except msgspec.ValidationError:
                    continue
                told = rig.ask(command)
                said = ""
                try:
                    await told.outcome()
                except CoordinationError as error:
                    said = str(error)
                assert len(said) < MESSAGE_CHARS_MOST, at
                del told, command
                rig.asked.clear()
                await rig.settle()
                if sys.getrefcount(text) != before:
                    gc.collect()
                assert sys.getrefcount(text) == before, f"the text of {at} is kept"
