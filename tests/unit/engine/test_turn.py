"""One turn of the writer."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.caller import Caller
from coordinator.engine.intake import Asked
from coordinator.engine.turn import Turn, TurnFull
from events import codec
from events.errors import Corrupt, Refused, Unavailable
from events.task import TaskCompleted
from projections.source import Record
from projections.world import World
from tests.specification import fold
from tests.unit.deciders.facts import BEGIN, completed, started, submit, submitted, worker

CALLER = Caller(actor="tester", tenant="red", traceparent="00-1-2-00")


def turn(world: World, *, bytes_max: int = 10_000, now: float = BEGIN + 50.0) -> Turn:
    return Turn(world, now=now, bytes_max=bytes_max)


def test_what_is_recorded_is_folded_at_once() -> None:
    """The next command of the turn sees the events."""
    world = World()
    filling = turn(world)
    filling.record([worker(), submitted()], CALLER)
    assert (set(world.workers), set(world.tasks)) == ({"w"}, {"t"})
    assert [event.subject for event in filling.events] == ["w", "t"]


def test_the_commit_holds_what_was_recorded_and_by_whom() -> None:
    """One body holds all events; each has its index in it, and all have the same time."""
    world = fold(worker())
    filling = turn(world)
    filling.record([submitted()], CALLER, commandid="cmd")
    filling.record([submitted("u")], Caller(actor="other"))
    before, body = filling.seal()
    first, second = codec.decode(body)
    assert (first.id, second.id, first.time == second.time) == ("2.0", "2.1", True)
    assert (first.actor, first.tenant, first.commandid, first.traceparent) == ("tester", "red", "cmd", "00-1-2-00")
    assert (second.actor, second.tenant, second.commandid, second.traceparent) == ("other", "default", "", "")
    replayed = fold(worker())
    replayed.apply_record(Record(sequence=2, kind="commit", body=body, chain=before.hex()))
    assert replayed.digest() == world.digest()


def test_time_is_what_a_reader_of_the_journal_will_read() -> None:
    """To the microsecond: no decision may depend on more."""
    filling = turn(World(), now=1_700_000_000.123_456_789)
    assert filling.now == codec.seconds_of(filling.time) == pytest.approx(1_700_000_000.123_456, abs=1e-6)


def test_a_turn_that_is_full_takes_all_or_none() -> None:
    """Events that do not fit do not change the world, and smaller ones are still accepted."""
    world = World()
    filling = turn(world, bytes_max=1000)
    filling.record([submitted()], CALLER)
    digest, room = world.digest(), filling.room
    with pytest.raises(TurnFull):
        filling.record([worker(), *(submitted(f"u{number}") for number in range(5))], CALLER)
    assert (world.digest(), filling.room, len(filling.events)) == (digest, room, 1)
    filling.record([worker()], CALLER)
    assert filling.room < room


def test_what_fits_into_no_turn_is_refused() -> None:
    """The refusal states the size and the limit."""
    filling = turn(World(), bytes_max=100)
    with pytest.raises(Refused, match=r"have \d+ bytes: at most 100 fit into one commit") as refused:
        filling.record([submitted()], CALLER)
    assert refused.value.reason == "too_large"
    assert (filling.events, filling.world.tasks) == ([], {})


def test_the_room_left_is_exact() -> None:
    """The counted size equals the length of the body, to the byte."""
    filling = turn(World())
    for number in range(5):
        filling.record([submitted(f"t{number}")], CALLER)
    _, body = filling.seal()
    assert filling.room == 10_000 - len(body) - 1


def test_what_cannot_be_written_is_not_folded() -> None:
    """An event that cannot be encoded does not change the world, nor do the events recorded with it."""
    world = fold(worker(), submitted(), started())
    digest = world.digest()
    filling = turn(world)
    with pytest.raises(UnicodeEncodeError):
        filling.record([submitted("u"), submitted("v", task_name="\ud800")], CALLER)
    assert (world.digest(), filling.events) == (digest, [])
    filling.record([completed()], CALLER)
    assert len(codec.decode(filling.seal()[1])) == 1


def test_answers_are_given_once_and_together() -> None:
    """After `withhold`, every caller gets the error instead."""
    told: list[Any] = []
    asked = [Asked(submit(), CALLER, lambda *outcome: told.append(outcome)) for _ in range(3)]
    refused, unsure = Refused("no"), Unavailable("unsure")
    filling = turn(World())
    filling.answers = [(asked[0], "a", None), (asked[1], None, refused)]
    filling.answer_all()
    assert told == [("a", None), (None, refused)]
    told.clear()
    filling.withhold(unsure)
    filling.answer_all()
    assert told == [(None, unsure), (None, unsure)]


def test_an_answer_that_nobody_takes_keeps_no_other_waiting() -> None:
    """A caller may be gone, and its reply may raise."""

    def gone(value: Any, error: Any) -> None:
        raise RuntimeError("gone")

    told: list[Any] = []
    filling = turn(World())
    filling.answers = [
        (Asked(submit(), CALLER, gone), "a", None),
        (Asked(submit(), CALLER, lambda *outcome: told.append(outcome)), "b", None),
    ]
    filling.answer_all()
    assert told == [("b", None)]


def test_what_the_fold_does_not_take_stops_the_writer() -> None:
    """The world may be half changed: the error is Corrupt, whatever the fold raised."""
    filling = turn(World())
    with pytest.raises(Corrupt, match=r"task\.completed"):
        filling.record([TaskCompleted(task_id="none", lease="l")], CALLER)
