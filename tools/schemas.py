# ruff: noqa: INP001  # a folder of programs, not a package
"""
Write docs/schema/ from the code: `python -m tools.schemas`; `--check` only compares.

Writes the JSON Schema of the events and the AsyncAPI document of the NATS protocol, with the default namespace, and no
other file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.api.asyncapi import asyncapi
from events.schema import json_schema

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
PAGES: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/schema/events.json": json_schema,
    "docs/schema/asyncapi.json": asyncapi,
}


def render(page: str) -> str:
    """Return the current content of a file."""
    return msgspec.json.format(msgspec.json.encode(PAGES[page]())).decode() + "\n"


def outdated() -> list[str]:
    """Return the files that are out of date."""
    found = []
    for page in PAGES:
        path = ROOT / page
        if not path.exists() or path.read_text(encoding="utf-8") != render(page):
            found.append(page)
    return found


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` only report which are out of date."""
    stale = outdated()
    if "--check" in arguments:
        for page in stale:
            sys.stderr.write(f"{page} is out of date: run python -m tools.schemas\n")
        return 1 if stale else 0
    for page in stale:
        path = ROOT / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(page), encoding="utf-8")
        sys.stdout.write(f"wrote {page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
