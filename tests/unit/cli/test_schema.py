"""`coordinator schema`: the documents, printed or written to a file, with no coordinator there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coordinator.api.asyncapi import asyncapi
from events.schema import json_schema
from tests.commands import call, run

if TYPE_CHECKING:
    from pathlib import Path


def test_the_json_schema_is_printed() -> None:
    """What is printed is the schema, and nothing else."""
    done = call("schema", "json")
    assert done.code == 0
    assert json.loads(done.out) == json_schema()


def test_the_asyncapi_document_is_written(tmp_path: Path) -> None:
    """It goes to the file, under the namespace of the settings."""
    target = tmp_path / "asyncapi.json"
    done = run("schema", "asyncapi", "-o", str(target), COORDINATOR_NAMESPACE="other")
    assert (done.code, done.out) == (0, "")
    assert json.loads(target.read_text()) == asyncapi("other")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """In one line, with the file."""
    done = call("schema", "json", "-o", str(tmp_path / "nowhere/schema.json"))
    assert done.code == 1
    assert "nowhere/schema.json" in done.err
