"""
Attributes of tasks from their payloads, by paths that are declared for each task name.

The client reads them when it submits: the writer never opens a payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.arguments import text, wanted
from events.errors import Refused, shown

if TYPE_CHECKING:
    from coordinator.commands.task import SubmitTask

_NOTHING = object()
_INDEX_DIGITS = 6


def attribute_paths(value: Any) -> dict[str, dict[str, tuple[str, ...]]]:
    """
    Return the path of each attribute, by task name, as its parts.

    Raises:
        Refused: it is not a mapping such as `{"report": {"customer": "customer.id"}}`.
    """
    right = 'a mapping such as {"report": {"customer": "customer.id"}}'
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, paths in wanted("attribute_paths", value, Mapping, right).items():
        inner = f"attribute_paths[{shown(name)}]"
        of_name = wanted(inner, paths, Mapping, 'a mapping such as {"customer": "customer.id"}')
        found[text("attribute_paths: a task name", name)] = {
            text(f"{inner}: a name", attribute): _parts(f"{inner}[{shown(attribute)}]", path)
            for attribute, path in of_name.items()
        }
    return found


def _parts(name: str, path: Any) -> tuple[str, ...]:
    parts = tuple(text(name, path).split("."))
    if not all(parts):
        msg = f"{name} {shown(path)} is not a path: use keys and indexes with dots between them, as in items.0.id"
        raise Refused(msg, reason="bad_text")
    return parts


def with_attributes(command: SubmitTask, paths_of: Mapping[str, Mapping[str, tuple[str, ...]]]) -> SubmitTask:
    """
    Return *command* with the attributes that its payload has at the paths of its name: texts, numbers, truth values.

    What is not there is left out, and what the command has already stays.
    """
    paths, payload = paths_of.get(command.task_name), command.payload
    if not paths or payload is None or payload.encoding != "json":
        return command
    content = msgspec.json.decode(payload.data)
    found = ((name, _at(content, path)) for name, path in paths.items())
    read = {name: one for name, one in found if isinstance(one, str | int | float)}
    return msgspec.structs.replace(command, attributes={**read, **command.attributes})


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        if isinstance(content, dict):
            content = content.get(part, _NOTHING)
        elif isinstance(content, list) and part.isascii() and part.isdigit() and len(part) <= _INDEX_DIGITS:
            content = content[int(part)] if int(part) < len(content) else _NOTHING
        else:
            return _NOTHING
    return content
