"""The commands by name, and the one table of their deciders."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.commands import BY_SUBJECT, COMMANDS, command_type
from coordinator.commands.command import Command
from coordinator.commands.container import StartContainer
from coordinator.commands.service import ReportCheck
from coordinator.commands.task import ClaimTasks, FailTask, SubmitTask
from coordinator.deciders.dispatch import DECIDERS, answer
from coordinator.deciders.rules import DecisionContext, Rules
from events.errors import NotFound
from events.ids import checked
from tests.specification import fold, given
from tests.unit.deciders.facts import BEGIN, URL, attempt_failed, completed, service, started, submitted

DECIDED = [command for command in COMMANDS.values() if not command.IS_QUESTION]


def test_a_command_is_named_for_the_wire() -> None:
    """The type of a command is its class name in lower case."""
    assert command_type(SubmitTask) == "submit_task"
    assert COMMANDS["claim_tasks"] is ClaimTasks


def test_every_command_has_a_subject_of_its_own() -> None:
    """Permissions are granted by kind and verb."""
    assert len(BY_SUBJECT) == len(COMMANDS)
    for (kind, verb), command in BY_SUBJECT.items():
        assert (checked(kind), checked(verb)) == (command.KIND, command.VERB)
        assert command.__doc__


def test_every_order_has_a_decider_and_no_question_has_one() -> None:
    """Health checks have a decider outside the table: it needs the number of equal outcomes in a row."""
    assert {*DECIDERS, ReportCheck} == set(DECIDED)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: str(command.__name__))
def test_a_command_with_a_field_nobody_knows_is_no_command(command: type[Command]) -> None:
    """A misspelled option must not be ignored silently."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"nonsense": 1}', type=command)


def test_orders_that_make_nothing_with_an_id_are_remembered() -> None:
    """The world does not show whether these commands were carried out."""
    remembered = {command.__name__ for command in DECIDED if command.REMEMBERED}
    assert remembered == {
        "SetShadow",
        "PromotePolicy",
        "RollBackPolicy",
        "StartContainer",
        "StopContainer",
        "PauseContainer",
        "ResumeContainer",
        "BackfillSchedule",
        "DeleteSchedule",
        "PauseSchedule",
        "ResumeSchedule",
        "RouteQueue",
        "RetireVersion",
        "ReinstateVersion",
        "ExtendTask",
        "FailTask",
        "PauseTask",
        "ResumeTask",
        "ReleaseTask",
        "ReleasePool",
        "HoldTasks",
        "LiftHold",
        "CorrectBudget",
    }


def test_a_check_is_decided_with_its_streak() -> None:
    """The table passes it on."""
    report = ReportCheck(service_id="s", ok=False, check="http")
    world = given(service(health_check_url=URL))
    world.when(report, streak=1).then_nothing().then_answers(None)
    assert len(world.when(report, streak=2).events) == 1


@pytest.mark.parametrize("command", [FailTask(task_id="gone", error=""), StartContainer(container_id="gone")])
def test_a_repeat_about_what_has_left_the_world_is_told_so(command: Command) -> None:
    """Only the fact that it was carried out is remembered, not its result."""
    with pytest.raises(NotFound, match="'gone'"):
        answer(fold(), command, DecisionContext(BEGIN, Rules()), ())


def test_whoever_fails_a_task_is_told_whether_it_will_be_tried_again() -> None:
    """By its status."""
    context = DecisionContext(BEGIN, Rules())
    for facts, status in (((), "pending"), ((started(lease="c.1.2"), completed(lease="c.1.2")), "completed")):
        world = fold(submitted(), started(), attempt_failed(), *facts)
        assert answer(world, FailTask(task_id="t", error=""), context, ()).value == status
