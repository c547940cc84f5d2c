# ruff: noqa: INP001  # a folder of programs, not a package
"""
Writes docs/schema/ from the code: `python -m tools.schemas`; `--check` only compares.

The JSON Schema of the events, and the AsyncAPI document of all that crosses NATS under the usual namespace. It writes
those two files and never anything else.
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
    """Give what a file is to hold."""
    return msgspec.json.format(msgspec.json.encode(PAGES[page]())).decode() + "\n"


def outdated() -> list[str]:
    """Give the files that are not what the code says."""
    found = []
    for page in PAGES:
        path = ROOT / page
        if not path.exists() or path.read_text(encoding="utf-8") != render(page):
            found.append(page)
    return found


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` only say which are outdated."""
    stale = outdated()
    if "--check" in arguments:
        for page in stale:
            sys.stderr.write(f"{page} is not what the code says: run python -m tools.schemas\n")
        return 1 if stale else 0
    for page in stale:
        path = ROOT / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(page), encoding="utf-8")
        sys.stdout.write(f"{page} written\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
