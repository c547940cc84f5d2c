"""`coordinator call` and `coordinator operations`, as far as they need no coordinator."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from coordinator.cli.call import call as call_group
from coordinator.cli.call import command_of, option_name
from coordinator.cli.operations import list_of_all, page_of
from coordinator.commands.command import Operation
from coordinator.commands.operations import OPERATIONS, fields_of
from coordinator.commands.reads import List
from coordinator.commands.task import SubmitTask
from tests.commands import call

BY_NAME = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def test_the_list_names_every_operation_in_80_columns() -> None:
    """With its roles and its summary."""
    said = call("operations")
    assert said == (0, list_of_all(), "")
    assert max(map(len, said.out.splitlines())) <= 80
    firsts = [line.split()[0] for line in said.out.splitlines()[3:] if not line.startswith(" ")]
    assert firsts == list(OPERATIONS)
    assert "task.submit                 Submit a task to the queue. [domain]" in said.out
    assert "[admin]" in said.out.partition("node.cordon ")[2].partition("node.uncordon")[0]


@BY_NAME
def test_a_page_says_all_of_an_operation(operation: type[Operation]) -> None:
    """Fields, answer, reasons and example; only JSON that cannot be wrapped is longer than 80 columns."""
    said = call("operations", operation.NAME)
    assert said == (0, page_of(operation), "")
    prose, _, example = said.out.partition("Example:")
    assert max(map(len, prose.splitlines())) <= 80
    assert f"$ coordinator call {operation.NAME}" in example
    for field in fields_of(operation):
        assert f"\n  {field.name} " in prose
    for code in operation.REFUSALS:
        assert f"\n  {code} " in prose


def test_the_list_for_programs_has_everything() -> None:
    """As JSON, of all operations or of one."""
    listed = json.loads(call("operations", "-o", "json").out)
    assert [one["name"] for one in listed] == list(OPERATIONS)
    submit = json.loads(call("operations", "task.submit", "--json").out)
    assert submit == listed[0]
    assert submit["fields"][0] == {
        "name": "task_id",
        "type": "text",
        "choices": [],
        "required": True,
        "default": None,
    }
    assert submit["refusals"]["queue_full"] == "too many tasks are pending, or their payloads have too many bytes"
    assert (submit["type"], submit["answer"], submit["roles"]) == ("submit_task", "text", ["admin", "domain"])


@BY_NAME
def test_every_field_is_an_option(operation: type[Operation]) -> None:
    """No two options of one operation have the same name."""
    command = command_of(operation)
    given = [name for one in command.params for name in (*one.opts, *one.secondary_opts)]
    assert len(set(given)) == len(given)
    assert {option_name(one.name) for one in fields_of(operation)} <= set(given)
    assert call("call", operation.NAME, "--help").code == 0


def test_options_have_the_types_and_the_choices_of_their_fields() -> None:
    """So that a wrong one is refused before anything is sent."""
    options = {one.opts[0]: one for one in command_of(SubmitTask).params}
    kinds = {name: one.type.name for name, one in options.items()}
    assert (kinds["--task-id"], kinds["--priority"], kinds["--timeout-s"]) == ("text", "number or name", "float")
    assert (kinds["--resources"], kinds["--payload"]) == ("json", "json")
    kind = next(one for one in command_of(List).params if one.opts == ["--kind"])
    assert isinstance(kind.type, click.Choice)
    assert "container" in kind.type.choices


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("task.sumbit",), "operation 'task.sumbit' does not exist: did you mean task.submit"),
        (("submit_task",), "did you mean task.submit?"),
        (("task.submit", "--task-id", "t"), "--task-name is missing; see 'coordinator call task.submit --help'"),
        (("task.submit",), "--task-id, --task-name are missing"),
        (("task.submit", "{"), "'{' is not valid JSON"),
        (("task.submit", '{"task_id": "a", "task_id": "b"}'), "an object has a key twice"),
        (("task.submit", "[]"), "the request is []: give one JSON object"),
        (("task.submit", '{"task_id": 4, "task_name": "n"}'), "task_id is 4: expected `str`, got `int`"),
        (("task.submit", '{"task_id": "t", "task_name": "n", "prio": 4}'), "unknown field 'prio': did you mean 'prio"),
        (("task.submit", "--task-idd", "t"), "no such option '--task-idd'"),
        (("task.claim", "--slots", "many"), "invalid value for '--slots': 'many' is not a valid integer"),
        (
            ("container.create", "--resources", "{'cpu'}"),
            "invalid value for '--resources': \"{'cpu'}\" is not valid JSON",
        ),
        (("task.submit", '{"task_id": "t", "task_name": "n", "timeout_s": NaN}'), "is not valid JSON"),
        (("task.submit", "--timeout-s", "nan"), "'nan' is not a finite number"),
        (("container.create", '{"resources": ' + "[" * 2000 + "]" * 2000 + "}"), "is not valid JSON"),
        (("pool.define", "--pool-id", "p", "--capacity", "null"), "capacity is None: expected `object`, got `null`"),
        (("task.list", "--status", "done"), "'done' is not one of 'pending', 'running'"),
        (("read.get", "--kind", "task"), "--id is missing"),
        (("read.get", '{"kind": "cat", "id": "x"}'), "the body is not valid for get"),
        (("service.check", "--service-id", "s", "--check", "http"), "--ok is missing"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(words: tuple[str, ...], told: str) -> None:
    """In one line, with what would be right; there is no coordinator here that could have said it."""
    said = call("call", *words)
    assert (said.code, said.out) == (2, "")
    assert told in said.err
    assert said.err.count("\n") == 1


def test_operations_says_what_was_meant() -> None:
    """As `call` does."""
    said = call("operations", "nodes.cordon")
    assert (said.code, said.out) == (2, "")
    assert "operation 'nodes.cordon' does not exist: did you mean node.cordon" in said.err


def test_the_group_completes_the_names() -> None:
    """For the shell, and for `coordinator call --help`."""
    context = click.Context(call_group)
    assert call_group.list_commands(context) == list(OPERATIONS)
    assert all(name in call("call", "--help").out for name in OPERATIONS)


def test_other_commands_do_not_load_the_operations() -> None:
    """`coordinator --help` is as fast as before."""
    code = (
        "import sys; from coordinator.cli import run_line; run_line(['--help']);"
        "print([one for one in sys.modules if one.startswith(('coordinator.commands', 'coordinator.cli.'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
