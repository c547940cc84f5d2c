"""Every face of the coordinator has every operation, and says the same of it as its class; none is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from coordinator.api.asyncapi import asyncapi
from coordinator.cli import cli
from coordinator.cli.call import call, option_name
from coordinator.cli.operations import list_of_all
from coordinator.commands import BY_SUBJECT, COMMANDS, command_type
from coordinator.commands.command import Command, Operation
from coordinator.commands.operations import OPERATIONS, answer_of, fields_of, roles_of, summary_of
from coordinator.commands.reads import VERBS, ReadQuestion, decode_question
from coordinator.commands.wire import WIRE_COMMANDS, Answer, decode_command, value_of
from coordinator.deciders.dispatch import DECIDERS
from coordinator.doors.micro import RequestStats, described
from coordinator.security.permissions import ROLES, grant_of, may_publish, user_of
from events.errors import ERRORS
from events.reasons import REASONS
from events.subjects import Subjects
from tests.refusal_codes import beginnings

ROOT = Path(__file__).resolve().parents[2]
S = Subjects()
DOCUMENT = asyncapi()
PAGE = (ROOT / "docs/operation-reference.md").read_text()

BY_NAME = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def subject_of(operation: type[Operation], source: str) -> str:
    """Return where a source sends an operation."""
    if issubclass(operation, ReadQuestion):
        return S.read(source, operation.VERB)
    return S.rpc(source, operation.KIND, operation.VERB)


def asyncapi_name(operation: type[Operation]) -> str:
    """Return the name that an operation has in the AsyncAPI document."""
    return command_type(operation) if issubclass(operation, Command) else operation.NAME


def test_the_faces_have_the_same_operations() -> None:
    """Not one more, and not one less."""
    names = set(OPERATIONS)
    assert {f"{kind}.{verb}" for kind, verb in BY_SUBJECT} | {f"read.{verb}" for verb in VERBS} == names
    assert {f"{kind}.{verb}" for kind, verb in RequestStats().by_subject} | {f"read.{verb}" for verb in VERBS} == names
    assert {one["title"] for one in DOCUMENT["operations"].values() if "title" in one} == names
    assert set(call.list_commands(click.Context(call))) == names
    assert {line[4:] for line in PAGE.splitlines() if line.startswith("### ") and "." in line} == names
    assert {line.split()[0] for line in list_of_all().splitlines()[3:] if line[0] != " "} == names
    assert set(WIRE_COMMANDS) | set(VERBS.values()) == set(OPERATIONS.values())


@BY_NAME
def test_somebody_answers_it(operation: type[Operation]) -> None:
    """A decider for a command that changes something, a case for a question, and nothing for both."""
    assert list(beginnings(operation.__name__)), "nothing decides or answers it"
    if issubclass(operation, Command):
        assert (operation in DECIDERS) is not operation.IS_QUESTION


@BY_NAME
def test_only_its_roles_may_send_it(operation: type[Operation]) -> None:
    """By the permissions of NATS, as what the class says."""
    users = [user_of(role, "x" if role in {"domain", "worker", "agents", "node"} else "") for role in ROLES]
    able = {one.role for one in users if may_publish(grant_of(one, S), subject_of(operation, one.token))}
    assert able == set(roles_of(operation))
    for one in users:
        assert not may_publish(grant_of(one, S), subject_of(operation, "another")), f"{one.role} as another"


@BY_NAME
def test_the_door_reads_the_request_and_the_client_the_answer(operation: type[Operation]) -> None:
    """The example goes through both, and an answer of another type is none."""
    body = msgspec.json.encode(operation.EXAMPLE.request)
    if issubclass(operation, Command):
        asked: Operation[Any] = decode_command(command_type(operation), body)
    else:
        asked = decode_question(operation.VERB, body)
    assert type(asked) is operation
    told = msgspec.json.encode(operation.EXAMPLE.answer)
    if isinstance(asked, Command):
        value = value_of(Answer(ok=msgspec.Raw(told)), asked)
    else:
        value = msgspec.json.decode(told, type=operation.Answer)
    assert msgspec.json.decode(msgspec.json.encode(value)) == operation.EXAMPLE.answer


@BY_NAME
def test_the_command_line_has_it(operation: type[Operation]) -> None:
    """As a command of its own, with all fields."""
    found = call.get_command(click.Context(call), operation.NAME)
    assert found is not None
    options = {name for one in found.params for name in one.opts}
    assert {option_name(one.name) for one in fields_of(operation)} <= options
    assert cli.get_command(click.Context(cli), "call") is call


@pytest.mark.parametrize("name", COMMANDS)
def test_nats_tools_are_told_the_same(name: str) -> None:
    """`$SRV.INFO` has its name, summary, roles, fields, answer and reasons; all of it is text."""
    command = COMMANDS[name]
    metadata = described(name)["metadata"]
    assert all(isinstance(one, str) for one in metadata.values())
    assert (metadata["operation"], metadata["about"]) == (command.NAME, summary_of(command))
    assert metadata["roles"] == ",".join(roles_of(command))
    assert metadata["answer"] == answer_of(command)
    assert set(metadata["errors"].split(",")) - {""} == command.REFUSALS
    assert [one.rstrip("?") for one in metadata["fields"].split(",") if one] == [one.name for one in fields_of(command)]
    assert metadata["schema"].rpartition("/")[2] in DOCUMENT["components"]["schemas"]


@BY_NAME
def test_the_asyncapi_document_says_the_same(operation: type[Operation]) -> None:
    """Address, summary, roles, reasons, and the example in both directions."""
    name = asyncapi_name(operation)
    said = DOCUMENT["operations"][name]
    channel = DOCUMENT["channels"][said["channel"]["$ref"].rpartition("/")[2]]
    assert channel["address"] == subject_of(operation, "SOURCE").replace("SOURCE", "{source}")
    assert (said["title"], said["summary"]) == (operation.NAME, summary_of(operation))
    assert said["x-roles"] == list(roles_of(operation))
    assert set(said["x-reasons"]) == operation.REFUSALS
    assert set(said["x-reasons"]) <= set(DOCUMENT["x-reasons"]["meaning"])
    (request,) = channel["messages"].values()
    answer = DOCUMENT["channels"]["answers"]["messages"][said["reply"]["messages"][0]["$ref"].rpartition("/")[2]]
    asked, told = request["examples"][0]["payload"], answer["examples"][0]["payload"]
    if issubclass(operation, Command):
        asked, told = asked[0]["data"], told[0]
    assert (asked, told["ok"]) == operation.EXAMPLE


@BY_NAME
def test_the_reference_says_the_same(operation: type[Operation]) -> None:
    """Its section has each field, each reason and its roles."""
    section = PAGE.partition(f"\n### {operation.NAME}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    assert summary_of(operation) in section
    assert f"For {', '.join(roles_of(operation))}." in section
    for field in fields_of(operation):
        assert f"\n| `{field.name}` | " in section
    for code in operation.REFUSALS:
        assert f"`{code}`" in section


def test_reasons_of_every_door_have_a_meaning() -> None:
    """Also those that come from the class of an error alone."""
    for door in (Command, ReadQuestion):
        assert set(REASONS) >= door.ALWAYS
    assert set(ERRORS) <= set(REASONS)
