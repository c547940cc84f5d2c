"""The registry of operations: what each class must say, and that the code does what it says."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command, Example, Operation
from coordinator.commands.operations import (
    OPERATIONS,
    answer_of,
    fields_of,
    nearest_names,
    operation_of,
    summary_of,
)
from coordinator.commands.reads import VERBS, ReadQuestion
from coordinator.commands.task import ClaimTasks, GetTask, SubmitTask
from events.errors import NotFound
from events.reasons import REASONS
from projections.task import Task
from tests.refusal_codes import reasons_of, reasons_of_door

BY_NAME = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)

IMPOSSIBLE = {
    ("read.get", "bad_kind"): "the type of `kind` has the same names as the table of the store",
    ("read.list", "bad_kind"): "as above",
    ("read.count", "bad_kind"): "as above",
    ("read.dead", "bad_kind"): "it is of tasks",
    ("read.dead_letter", "bad_kind"): "as above",
    ("read.dead_letter", "bad_number"): "its limits are constants",
    ("task.explain", "bad_filter"): "the filter was accepted with the task",
    **{
        (f"task.{verb}", code): "the filters and the window were accepted with the budget"
        for verb in ("complete", "fail", "progress")
        for code in ("bad_filter", "bad_budget")
    },
    **{
        ("queue.get", code): "it is told why a candidate may not be promoted"
        for code in ("shadow_outdated", "shadow_regret", "shadow_too_few")
    },
    ("budget.correct", "bad_budget"): "its window was accepted with the budget",
    ("schedule.define", "unknown_predecessor"): "its tasks stick to no others",
    ("schedule.define", "bad_priority"): "the priority of a schedule's tasks is a number",
    ("schedule.define", "bad_after"): "its tasks wait for no others",
}
"""What the syntax shows and cannot happen."""


def test_every_command_and_every_question_is_an_operation() -> None:
    """Of the writer and of the followers, under a name of its own."""
    assert set(OPERATIONS.values()) == {*COMMANDS.values(), *VERBS.values()}
    assert len(OPERATIONS) == len(COMMANDS) + len(VERBS)
    assert all(name == f"{one.KIND}.{one.VERB}" for name, one in OPERATIONS.items())


def test_an_operation_that_is_not_declared_in_full_cannot_be_imported() -> None:
    """The message says all that is missing."""
    told = "a docstring.*Command\\[str\\].*an EXAMPLE"
    with pytest.raises(TypeError, match=f"operation Half is not declared in full; add {told}"):

        class Half(Command, frozen=True, kw_only=True, gc=False):
            KIND, VERB = "task", "halve"

    with pytest.raises(TypeError, match="add a KIND"):

        class Nothing(Command[None], frozen=True, kw_only=True, gc=False):
            """Do nothing."""

            VERB = "nothing"
            EXAMPLE = Example({})

    with pytest.raises(TypeError, match="add a VERB of its own"):

        class Again(SubmitTask, Command[str], frozen=True, kw_only=True, gc=False):
            """Submit it again."""

            EXAMPLE = Example({})


@BY_NAME
def test_the_refusals_of_an_operation_are_those_that_its_code_gives(operation: type[Operation]) -> None:
    """No reason comes as a surprise, and nobody waits for one that never comes."""
    impossible = {code for name, code in IMPOSSIBLE if name == operation.NAME}
    assert reasons_of(operation) - impossible == operation.REFUSALS
    assert not operation.REFUSALS & operation.ALWAYS
    assert set(REASONS) >= operation.REFUSALS | operation.ALWAYS


@pytest.mark.parametrize("door", [Command, ReadQuestion])
def test_the_reasons_of_a_door_are_those_that_its_code_gives(door: type[Operation]) -> None:
    """Those that any operation may have are declared once; each is one that the door can give."""
    assert reasons_of_door(door) == door.ALWAYS


def test_what_cannot_happen_is_still_in_the_code() -> None:
    """An exception that is needed no more is deleted."""
    for name, code in IMPOSSIBLE:
        assert code in reasons_of(OPERATIONS[name])


@BY_NAME
def test_an_example_is_a_request_and_an_answer_of_the_types(operation: type[Operation]) -> None:
    """Its request has each field that is required."""
    request = msgspec.convert(operation.EXAMPLE.request, operation)
    answer: Any = operation.Answer
    told = msgspec.convert(operation.EXAMPLE.answer, type(None) if answer is None else answer)
    assert msgspec.json.decode(msgspec.json.encode(told)) == operation.EXAMPLE.answer
    assert all(getattr(request, name) != "" for name in operation.EXAMPLE.request)


@BY_NAME
def test_an_operation_has_a_summary_of_one_sentence(operation: type[Operation]) -> None:
    """It is shown in lists."""
    said = summary_of(operation)
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) <= 120


def test_the_answer_is_the_type_parameter() -> None:
    """One declaration for the type checker, the decoder and the documents."""
    assert (SubmitTask.Answer, GetTask.Answer, ClaimTasks.Answer) == (str, Task, list[Task])
    assert [answer_of(one) for one in (SubmitTask, GetTask, ClaimTasks)] == ["text", "Task", "list of Task"]
    assert answer_of(OPERATIONS["node.cordon"]) == "null"


def test_fields_have_types_defaults_and_choices_in_words() -> None:
    """For people, and for the options of the command line."""
    fields = {one.name: one for one in fields_of(SubmitTask)}
    assert fields["task_id"].is_required
    assert (fields["priority"].type, fields["priority"].default) == ("whole number or text", 0)
    assert fields["payload"].type == "Payload or null"
    assert fields["resources"].default == {}
    status = next(one for one in fields_of(OPERATIONS["task.list"]) if one.name == "status")
    assert "cancelled" in status.choices
    assert "service" in fields_of(OPERATIONS["read.get"])[0].choices


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("submit_task", ["task.submit"]),
        ("SubmitTask", ["task.submit"]),
        ("task:submit", ["task.submit"]),
        ("submit", ["task.submit"]),
        ("Task.Submit", ["task.submit"]),
        ("task.sumbit", ["task.submit"]),
        ("nodes.cordon", ["node.cordon"]),
        ("weather", []),
    ],
)
def test_a_wrong_name_gets_the_nearest(given: str, near: list[str]) -> None:
    """Whatever the spelling."""
    assert nearest_names(given)[:1] == near
    with pytest.raises(
        NotFound, match=f"did you mean {near[0]}" if near else "no name is like it; `coordinator operations` lists all"
    ):
        operation_of(given)
