"""What `coordinator container show` says to do: for every state, with what each step would lose."""

from __future__ import annotations

import click
import pytest
from msgspec.structs import replace

from coordinator.cli.container import container as group
from coordinator.cli.container_steps import RESTART, Step, next_steps
from events.base import Position
from events.container import ContainerStatus, ExitCause
from projections.container import Container, Desired

S = ContainerStatus
BOX = Container(
    container_id="box",
    agent_id="a",
    agent_type="task_agent",
    node_id="n",
    status=S.CREATED,
    created=Position(1, 0),
    created_at=1.0,
)


def steps(status: ContainerStatus, **fields: object) -> list[Step]:
    return next_steps(replace(BOX, status=status, **fields))


@pytest.mark.parametrize("status", ContainerStatus)
def test_every_state_but_running_has_a_step(status: ContainerStatus) -> None:
    """What is said to be run exists, with the options that are said."""
    said = steps(status)
    assert bool(said) is (status is not S.RUNNING)
    for step in said:
        _, verb, *words = step.run.split()[0:2] + step.run.split()[2:]
        command = group.get_command(click.Context(group), words[0])
        assert verb == "container", step
        assert command is not None, step
        command.make_parser(click.Context(command)).parse_args(words[1:])


def test_what_failed_may_be_started_given_up_or_destroyed() -> None:
    """Each says what is lost; a start counts restarts from 0, and comes before the one that is planned."""
    said = steps(S.ERROR, restart_at=1_000_000_000.0, cause="crashed")
    assert [one.run.split()[2] for one in said] == ["logs", "start", "stop", "destroy"]
    assert "instead of 2001-09-09T01:46:40.000Z" in said[1].does
    assert [bool(one.loses) for one in said] == [False, True, False, True]
    assert "instead of" not in steps(S.ERROR)[1].does


def test_what_ran_out_of_memory_needs_more() -> None:
    """A start of the same container would fail the same way."""
    assert steps(S.ERROR, cause=ExitCause.OOM.value)[0].run.endswith("create task_agent --memory AMOUNT")


def test_a_restart_that_was_interrupted_is_finished() -> None:
    """The reason of the stop tells it from one that was meant."""
    assert "finishes its restart" in steps(S.STOPPED, reason=RESTART)[0].does
    assert "finishes" not in steps(S.STOPPED, reason="requested")[0].does


@pytest.mark.parametrize(("desired", "verb"), [(Desired.STOPPED, "stop"), (Desired.DESTROYED, "destroy")])
def test_what_stops_may_be_killed(desired: Desired, verb: str) -> None:
    """By the same command, so that a destroy stays one."""
    assert steps(S.STOPPING, desired=desired)[0].run == f"coordinator container {verb} box --force"
