"""The commands by their names, and the one table that decides them."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.commands import BY_SUBJECT, COMMANDS, command_type
from coordinator.commands.command import Command
from coordinator.commands.container import StartContainer
from coordinator.commands.service import ReportCheck
from coordinator.commands.task import ClaimTasks, FailTask, SubmitTask
from coordinator.deciders.dispatch import DECIDERS, answer
from coordinator.deciders.rules import Context, Rules
from events.errors import NotFound
from events.ids import checked
from tests.specification import fold, given
from tests.unit.deciders.facts import BEGIN, URL, attempt_failed, completed, service, started, submitted

DECIDED = [command for command in COMMANDS.values() if not command.IS_QUESTION]


def test_a_command_is_named_for_the_wire() -> None:
    """As its class is, in lower case."""
    assert command_type(SubmitTask) == "submit_task"
    assert COMMANDS["claim_tasks"] is ClaimTasks


def test_every_command_has_a_subject_of_its_own() -> None:
    """Kind and verb are what permissions are given by."""
    assert len(BY_SUBJECT) == len(COMMANDS)
    for (kind, verb), command in BY_SUBJECT.items():
        assert (checked(kind), checked(verb)) == (command.KIND, command.VERB)
        assert command.__doc__


def test_every_order_has_a_decider_and_no_question_has_one() -> None:
    """Checks have theirs beside the table, for it needs to know how many there were in a row."""
    assert {*DECIDERS, ReportCheck} == set(DECIDED)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: str(command.__name__))
def test_a_command_with_a_field_nobody_knows_is_no_command(command: type[Command]) -> None:
    """A misspelt option must not be passed over in silence."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"nonsense": 1}', type=command)


def test_orders_that_make_nothing_with_an_id_are_remembered() -> None:
    """Whether they have been carried out cannot be told from the world."""
    remembered = {command.__name__ for command in DECIDED if command.REMEMBERED}
    assert remembered == {
        "StartContainer",
        "StopContainer",
        "PauseContainer",
        "ResumeContainer",
        "FailTask",
        "ReleaseTask",
        "ReleasePool",
    }


def test_a_check_is_decided_with_its_streak() -> None:
    """The table passes it on."""
    report = ReportCheck(service_id="s", ok=False, check="http")
    world = given(service(health_check_url=URL))
    world.when(report, streak=1).then_nothing().then_answers(None)
    assert len(world.when(report, streak=2).events) == 1


@pytest.mark.parametrize("command", [FailTask(task_id="gone", error=""), StartContainer(container_id="gone")])
def test_a_repeat_about_what_has_left_the_world_is_told_so(command: Command) -> None:
    """It is remembered that it was carried out, and no longer what came of it."""
    with pytest.raises(NotFound, match="'gone'"):
        answer(fold(), command, Context(BEGIN, Rules()), ())


def test_whoever_fails_a_task_is_told_whether_it_will_be_tried_again() -> None:
    """By its status."""
    context = Context(BEGIN, Rules())
    for facts, status in (((), "pending"), ((started(lease="c.1.2"), completed(lease="c.1.2")), "completed")):
        world = fold(submitted(), started(), attempt_failed(), *facts)
        assert answer(world, FailTask(task_id="t", error=""), context, ()).value == status
