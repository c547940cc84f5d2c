# ruff: noqa: INP001  # a folder of programs, not a package
"""
Write the settings table in docs/guide/settings.md: `python -m tools.settings_reference`; `--check` only compares.

Keys, defaults, bounds and descriptions come from the settings model. Only the text between the two marks is replaced.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from coordinator.settings.model import KNOWN_KEYS, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

PAGE = Path(__file__).resolve().parent.parent / "docs/guide/settings.md"
BEGIN = "<!-- begin of the table, written by `python -m tools.settings_reference` -->"
END = "<!-- end of the table -->"


def render() -> str:
    """Return the tables, one for each section."""
    sections: dict[str, list[str]] = {}
    for key, field in KNOWN_KEYS.items():
        section, _, rest = key.partition(".")
        name, title = (rest, section) if rest else (key, "")
        row = f"| `{name}` | {_default(field)} | {_values(field)} | {field.description} |"
        sections.setdefault(title, []).append(row)
    lines: list[str] = []
    for title, rows in sections.items():
        about = _about(title)
        lines += [f"### {title}" if title else "### Top level", "", *([about, ""] if about else [])]
        lines += ["| key | default | values | description |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _about(section: str) -> str:
    annotation = Settings.model_fields[section].annotation if section else None
    kind = get_args(annotation)[1] if get_origin(annotation) is dict else annotation
    return str(kind.__doc__).strip() if isinstance(kind, type) and issubclass(kind, BaseModel) else ""


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None or value in ("", ()):
        return "—"
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{json.dumps(value) if isinstance(value, int) else value}`"


def _values(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return " ".join(f"`{one}`" for one in get_args(field.annotation))
    bounds = {side: getattr(one, side) for one in field.metadata for side in ("ge", "le") if hasattr(one, side)}
    if bounds:
        return f"{bounds['ge']:.10g} to {bounds['le']:.10g}"
    if get_origin(field.annotation) is tuple:
        return "list"
    if field.annotation is str:
        return "text"
    return "quantity" if "float" in str(field.annotation) else "path"


def current() -> str:
    """Return the text between the marks."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip("\n")


def is_outdated() -> bool:
    """Return True if the table of the page differs from the code."""
    return current() != render().strip("\n")


def main(argv: list[str]) -> int:
    """Write the table, or with `--check` only report whether it is out of date."""
    if not is_outdated():
        return 0
    if "--check" in argv:
        sys.stdout.write(f"{PAGE.name} is out of date: run python -m tools.settings_reference\n")
        return 1
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render().strip()}\n\n{END}{rest.partition(END)[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
