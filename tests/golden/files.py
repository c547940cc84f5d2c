"""
Where the golden files are, how they are named, and how new ones are made; see `examples`.

Next to them `required.json` lists which fields each version of a type needed when it was first published.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from events import codec
from events.base import Event, version_of
from tests.golden.examples import EXAMPLES, enveloped

FOLDER = Path(__file__).parent / "events"
REQUIRED = Path(__file__).parent / "required.json"

_NAME = re.compile(r"([a-z]+\.[a-z_]+)\.v([1-9][0-9]*)(?:\.[1-9][0-9]*)?")


class Named(NamedTuple):
    """What the name of a golden file contains."""

    type: str
    version: int

    @classmethod
    def parse(cls, stem: str) -> Named:
        """Parse `task.submitted.v1` or `task.submitted.v1.2`."""
        match = _NAME.fullmatch(stem)
        assert match, f"{stem} is no name of a golden file: use <type>.v<version> or <type>.v<version>.<n>"
        return cls(match[1], int(match[2]))


def golden(stem: str) -> bytes:
    """Read the event that a golden file holds; the final line feed belongs to the file."""
    return (FOLDER / f"{stem}.json").read_bytes().removesuffix(b"\n")


def write_missing(folder: Path, examples: dict[str, Event] = EXAMPLES) -> list[Path]:
    """Write the files that are missing in *folder*, and return them; existing files are not changed."""
    written = []
    for stem, example in examples.items():
        path = folder / f"{stem}.json"
        if not path.exists():
            assert Named.parse(stem).version == version_of(example), f"{stem} is of an earlier release"
            path.write_bytes(codec.encode(enveloped(example)) + b"\n")
            written.append(path)
    return written


def required_of(event: type[Event]) -> list[str]:
    """Return the fields that are required in an event of this class."""
    return sorted(field.encode_name for field in msgspec.structs.fields(event) if field.required)


def write_missing_required(path: Path = REQUIRED) -> list[str]:
    """Record the required fields of types that are missing in *path*, and return their names; keep other entries."""
    kept: dict[str, list[str]] = json.loads(path.read_text()) if path.exists() else {}
    found = {f"{name}.v{event.VERSION}": required_of(event) for name, event in codec.EVENTS.items()}
    missing = [stem for stem in found if stem not in kept]
    if missing:
        path.write_text(json.dumps({**found, **kept}, indent=2, sort_keys=True) + "\n")
    return missing
