"""Finds and reads the settings file, with the line number of each key."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from coordinator.logs import redact
from coordinator.settings.model import PREFIX
from events.errors import Refused

FILE_NAME = "coordinator.yaml"
FILE_BYTES_MOST = 1024 * 1024
_EXAMPLE = "scheduler: {max_retries: 5}"
Keys = tuple[str | int, ...]


def find_file(config: Path | None = None) -> Path | None:
    """
    Return the file to read: *config*, `$COORDINATOR_CONFIG`, `./coordinator.yaml`, the user's own, or None.

    Raises:
        Refused: the file that *config* or the variable names does not exist.
    """
    named = os.environ.get(f"{PREFIX}CONFIG", "")
    if config is not None or named:
        path, how = (config, "--config") if config is not None else (Path(named), f"${PREFIX}CONFIG")
        if not os.path.exists(path):  # noqa: PTH110  # Path.exists raises where a parent may not be read
            raise _unusable(path, f"does not exist: name an existing file ({how})")
        return path
    own = os.environ.get("XDG_CONFIG_HOME", "")
    parent = own if os.path.isabs(own) else os.path.expanduser("~/.config")  # noqa: PTH111, PTH117  # raise without a home
    candidates = (Path(FILE_NAME), Path(parent) / "coordinator" / FILE_NAME)
    return next((path for path in candidates if os.path.exists(path)), None)  # noqa: PTH110


class SettingsFile(NamedTuple):
    """A file's name, content, and the line of each key; empty if there is no file."""

    name: str
    content: dict[Any, Any]
    lines: dict[Keys, int]


def read(path: Path) -> SettingsFile:
    """
    Read a file.

    Raises:
        Refused: it cannot be read, is not YAML, or has a key twice.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(FILE_BYTES_MOST + 1)
        text = raw.decode("utf-8-sig")
        lines: dict[Keys, int] = {}
        _note_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, set(), path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be parsed")
        raise _unusable(path, f"is not YAML: {problem}", None if mark is None else mark.line + 1) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, an impossible date, ten thousand brackets
        raise _unusable(path, f"is not YAML in UTF-8: {str(error)[:200]}") from None
    if len(raw) > FILE_BYTES_MOST or not isinstance(content, dict | None):
        raise _unusable(path, f"is not a mapping of at most {FILE_BYTES_MOST} bytes: use e.g. {_EXAMPLE!r}")
    return SettingsFile(str(path), content or {}, lines)


def dotted(keys: Keys) -> str:
    """Return a key as users write it, without credentials."""
    return redact(".".join(str(key) if str(key).isprintable() else ascii(key) for key in keys))[:200]


def _note_lines(node: Any, at: Keys, lines: dict[Keys, int], seen: set[int], path: Path) -> None:
    """Record the line of each key; refuse a repeated key, since YAML would silently use the last one."""
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))  # with aliases, a node may occur in several places, even in itself
    for key, value in node.value:
        here, line = (*at, str(key.value)), key.start_mark.line + 1
        if here in lines:
            raise _unusable(path, f"repeats {dotted(here)} of line {lines[here]}: remove one of them", line)
        lines[here] = line
        _note_lines(value, here, lines, seen, path)


def _unusable(path: Path, problem: str, line: int | None = None) -> Refused:
    where = "" if line is None else f" line {line}"
    return Refused(f"config file {path}{where} {redact(problem)}", reason="bad_config")
