"""`coordinator schema` prints the documents or writes them to a file, without a coordinator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coordinator.api.asyncapi import asyncapi
from events.schema import json_schema
from tests.commands import call, run

if TYPE_CHECKING:
    from pathlib import Path


def test_the_json_schema_is_printed() -> None:
    """The output is the schema and nothing else."""
    done = call("schema", "json")
    assert done.code == 0
    assert json.loads(done.out) == json_schema()


def test_the_asyncapi_document_is_written(tmp_path: Path) -> None:
    """The document is written to the file, with the namespace of the settings."""
    target = tmp_path / "asyncapi.json"
    done = run("schema", "asyncapi", "-o", str(target), COORDINATOR_NAMESPACE="other")
    assert (done.code, done.out) == (0, "")
    assert json.loads(target.read_text()) == asyncapi("other")


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """The error is one line that names the file."""
    done = call("schema", "json", "-o", str(tmp_path / "nowhere/schema.json"))
    assert done.code == 1
    assert "nowhere/schema.json" in done.err
