"""
The AsyncAPI document, judged by the official schema of AsyncAPI 3.0 and a validator that is not ours.

The schema comes from npm, pinned by the lock beside this file; where there is no npm it is not at hand.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from coordinator.api.asyncapi import asyncapi
from coordinator.commands import COMMANDS
from events.codec import EVENTS, HEARTBEATS

HERE = Path(__file__).parent
DOCUMENT = asyncapi()
NPM = shutil.which("npm")
INSTALL_TIMEOUT_S = 100


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Draft7Validator:
    """The schema that the AsyncAPI initiative publishes for documents of version 3.0.0."""
    if NPM is None:
        pytest.skip(reason="npm is not installed, by which the official schema of AsyncAPI comes")
    folder = tmp_path_factory.mktemp("asyncapi")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    command = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"npm did not install what package-lock.json names: {done.stderr[-500:]}"
    # The other variant names its parts by addresses; this one is complete in itself.
    schema = json.loads((folder / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json").read_text())
    return Draft7Validator(schema)


def complaints(judge: Draft7Validator, document: dict[str, Any]) -> list[str]:
    return [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in judge.iter_errors(document)
    ]


def test_the_document_is_valid(official: Draft7Validator) -> None:
    """The official schema has no complaint about it."""
    assert complaints(official, DOCUMENT) == []


def test_another_namespace_is_valid_too(official: Draft7Validator) -> None:
    """Only the addresses differ."""
    other = asyncapi("other")
    assert complaints(official, other) == []
    assert {one["address"].partition(".")[0] for one in other["channels"].values() if one["address"]} == {"other"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("asyncapi", "2.6.0"),
        ("channels/journal/address", 7),
        ("channels/journal/messages", []),
        ("operations/append/action", "publish"),
        ("operations/append/channel", None),
        ("components/messages/task.submitted/payload", 3),
        ("components/schemas/Payload/type", "text"),
        ("info", {}),
        ("surplus", 1),
    ],
)
def test_what_is_wrong_is_complained_of(official: Draft7Validator, path: str, value: object) -> None:
    """The judge can say no: one mistake is enough."""
    wrong = json.loads(json.dumps(DOCUMENT))
    *steps, last = path.split("/")
    at = wrong
    for step in steps:
        at = at[step]
    at[last] = value
    assert complaints(official, wrong) != []


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if not isinstance(value, dict):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(references, value.values()))


def test_every_reference_leads_somewhere() -> None:
    """No schema, message or channel is named that is not there."""
    for reference in references(DOCUMENT):
        at: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            assert step in at, reference
            at = at[step]


def test_every_schema_is_one() -> None:
    """Each is a valid schema by itself."""
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


def test_addresses_name_exactly_their_parameters() -> None:
    """What stands in braces is described, and nothing else is."""
    for channel in DOCUMENT["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"] or "")) == set(channel.get("parameters", {}))


def test_nothing_that_travels_is_left_out() -> None:
    """Every event has its message and its channel, every command its subject and its answers."""
    channels = DOCUMENT["channels"]
    told = {name for channel in channels.values() for name in channel["messages"]}
    assert set(EVENTS) - told == {"node.heartbeat"}  # a node's sign of life is its sync
    assert {"service.heartbeat", "worker.heartbeat"} == HEARTBEATS & set(channels["heartbeats"]["messages"])
    for name, command in COMMANDS.items():
        assert channels[f"rpc.{name}"]["address"] == f"coordination.rpc.{{source}}.{command.KIND}.{command.VERB}"
        assert DOCUMENT["operations"][name]["reply"]["messages"] == [{"$ref": f"#/channels/answers/messages/{name}"}]
