"""Reads the settings once, and reports everything that is wrong with them in one message."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import ValidationError

from coordinator.logs import redact
from coordinator.settings.effects import REMOVED
from coordinator.settings.fields import is_mapping, section_of
from coordinator.settings.file import Keys, SettingsFile, dotted, find_file, read
from coordinator.settings.model import DELIMITER, KNOWN_KEYS, PLAIN_NAMES, PREFIX, Settings
from events.errors import Refused

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


# Kubernetes injects these variables into every pod when a service is named `coordinator`.
_is_injected = re.compile(
    r"COORDINATOR_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)"
).fullmatch


def load(config: Path | None = None) -> Settings:
    """
    Return the settings from the environment and *config*, or the file that `find_file` finds.

    Raises:
        Refused: the file cannot be read, or settings are wrong; the message lists all of them.
    """
    path = find_file(config)
    file = SettingsFile("", {}, {}) if path is None else read(path)
    known = {key: value for key, value in file.content.items() if key in Settings.model_fields}
    problems = [*_stray_names(), *(_unknown_key((key,), file) for key in file.content if key not in known)]
    try:
        settings = Settings(**known)
    except ValidationError as error:
        problems += [_problem(details, file) for details in error.errors(include_url=False)]
    else:
        if not problems:
            return settings
    count = "" if len(problems) == 1 else f"{len(problems)} settings are wrong:\n  "
    raise Refused(count + "\n  ".join(problems), reason="bad_settings")


def _stray_names() -> Iterator[str]:
    """Yield an error for each variable with our prefix that is not a setting."""
    known = [*map(_variable, KNOWN_KEYS), *PLAIN_NAMES]
    for name in sorted(os.environ):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in PLAIN_NAMES or _is_injected(upper):
            continue
        head, *rest = upper.removeprefix(PREFIX).lower().split(DELIMITER)
        field = Settings.model_fields.get(head)
        # Names below a section are checked with the file's keys.
        if field is None or (rest and section_of(field) is None):
            nearest = get_close_matches(upper, known, n=1, cutoff=0.0)[0]
            yield f"${redact(name)} is not a setting: the nearest is ${nearest}"


def _unknown_key(keys: Keys, file: SettingsFile) -> str:
    name = dotted(keys)
    if name in REMOVED:
        return f"{name} is not a setting any more{_where(keys, file)}: {REMOVED[name]}"
    known = {leaf: key for key in KNOWN_KEYS for leaf in (key.rpartition(".")[2], key)}
    known |= {section: section for section in Settings.model_fields}
    nearest = known[get_close_matches(name, known, n=1, cutoff=0.0)[0]]
    return f"{name} is not a setting{_where(keys, file)}: the nearest is {nearest}"


def _problem(details: ErrorDetails, file: SettingsFile) -> str:
    """Return the message of one problem: the key, its value, its place, and what is allowed."""
    keys = tuple(key for key in details["loc"] if key != "[key]")
    context: dict[str, Any] = details.get("ctx", {})
    if details["type"] == "apart":
        return str(context["problem"])
    if details["type"] in {"extra_forbidden", "invalid_key"}:
        return _unknown_key(keys, file)
    field = _field_at(keys)
    right = str(context["right"]) if details["type"] == "wrong" else _right(keys, field)
    # A value in place of a URL may be a token.
    shown = "not right" if keys == ("nats",) or not field.repr else _shown(details["input"])[:160]
    return f"{dotted(keys)} is {shown}{_where(keys, file)}: {right}"


def _right(keys: Keys, field: FieldInfo) -> str:
    """Return what is allowed for *field*, from its declaration."""
    section = section_of(field)
    if section is not None:
        name = ".<name>" if is_mapping(field) and len(keys) == 1 else ""
        return f"it is a section: set its keys, such as {dotted(keys)}{name}.{next(iter(section.model_fields))}"
    bounds = {side: getattr(bound, side) for bound in field.metadata for side in ("ge", "le") if hasattr(bound, side)}
    if bounds:
        kind = "a whole number" if field.annotation is int else "a number"
        use = f"{kind} from {bounds['ge']:.10g} to {bounds['le']:.10g}"
    elif get_origin(field.annotation) is Literal:
        use = " or ".join(get_args(field.annotation))
    elif get_origin(field.annotation) is tuple:
        use = "a list of strings"
    else:
        use = "text, in quotes if YAML reads it as something else" if field.annotation is str else "a path"
    return f"use {use} ({field.description})"


def _field_at(keys: Keys) -> FieldInfo:
    """Return the setting at *keys*; the last keys may be indexes into its list."""
    field, is_name = Settings.model_fields[str(keys[0])], False
    for key in keys[1:]:
        is_name = is_mapping(field) and not is_name
        section = None if is_name else section_of(field)
        field = section.model_fields[str(key)] if section is not None else field
    return field


def _where(keys: Keys, file: SettingsFile) -> str:
    """Return the variable or line that sets *keys*, or the nearest section around them."""
    parts = tuple(str(key) for key in keys)
    around = [parts[:length] for length in range(len(parts), 0, -1)]
    names = {name.upper(): name for name, value in os.environ.items() if value}
    for at in around:
        if (name := _variable(".".join(at))) in names:
            return f" (${names[name]})"
    line = next((file.lines[at] for at in around if at in file.lines), None)
    return "" if line is None else f" ({file.name} line {line})"


class _Shortened(Repr):
    """Shows any value shortened, and never a credential."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redact(x), level)


_shown = _Shortened().repr


def _variable(key: str) -> str:
    return f"{PREFIX}{key.replace('.', DELIMITER)}".upper()
