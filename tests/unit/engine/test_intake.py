"""The queue of commands that wait for a turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.clock import SystemClock
from coordinator.commands.caller import Caller
from coordinator.commands.command import Command
from coordinator.commands.container import CreateContainer
from coordinator.commands.service import RegisterService
from coordinator.commands.task import ListTasks
from coordinator.engine.intake import (
    AT_ONCE_BYTES,
    COMMAND_BYTES_MOST,
    COMMANDS_IN_A_ROW,
    GIANT_BYTES,
    OTHERS_ASK_S,
    QUESTION_BYTES_MOST,
    QUESTION_WAITS_S,
    REFUSED_AT_ONCE,
    RESTS,
    TURN_READ_BYTES,
    Asked,
    Intake,
    Unread,
    typed,
)
from events.container import Secret
from events.errors import CoordinationError, Refused, Unavailable
from tests.unit.deciders.facts import NAN, claim, create, payload, register_service, resources, submit

if TYPE_CHECKING:
    from collections.abc import Callable


def asked(
    command: Command | None = None, told: list[Any] | None = None, *, source: str = "tester", size: int = 0
) -> Asked:
    def reply(value: Any, error: CoordinationError | None) -> None:
        assert told is not None, "nobody was to be told anything"
        told.append(error if error is not None else value)

    return Asked(command if command is not None else submit(), Caller(actor=source), reply, size=size)


async def test_commands_are_taken_in_the_order_they_came() -> None:
    """A command that did not fit into a turn is first in the next."""
    intake = Intake(10)
    first, second = asked(), asked()
    intake.put(first)
    intake.put(second)
    assert (intake.take(), len(intake)) == (first, 1)
    intake.put_back(first)
    assert [intake.take(), intake.take(), intake.take()] == [first, second, None]


async def test_large_commands_count_as_several() -> None:
    """One source's commands of 60 KB, of which a commit has room for few, do not stand before another's small ones."""
    intake = Intake(10_000)
    giants = [asked(source="giant", size=60_000) for _ in range(100)]
    small = [asked(source="small", size=200) for _ in range(50)]
    for one in (*giants, *small):
        intake.put(one)
    taken = [intake.take() for _ in range(52)]
    assert taken == [giants[0], *small[:COMMANDS_IN_A_ROW], giants[1], *small[COMMANDS_IN_A_ROW:]]
    assert [intake.take() for _ in range(99)] == [*giants[2:], None]


async def test_sources_order_in_turn() -> None:
    """Those of one in the order they came; a flood of one neither refuses nor holds up the other."""
    told: list[Any] = []
    intake = Intake(10_000)
    flood = [asked(told=told, source="flood") for _ in range(9000)]
    for one in flood:
        intake.put(one)
    assert len(told) == 4000
    assert all("one source may have half of what the others leave" in error.message for error in told)
    honest = [asked(source="honest") for _ in range(3)]
    for one in honest:
        intake.put(one)
    first, rest = flood[:COMMANDS_IN_A_ROW], flood[COMMANDS_IN_A_ROW : 2 * COMMANDS_IN_A_ROW]
    assert [intake.take() for _ in range(2 * COMMANDS_IN_A_ROW + 3)] == [*first, *honest, *rest]


class Hands(SystemClock):
    """A clock that is set by hand."""

    at = 100.0

    def heard(self) -> float:
        return self.at


async def test_a_question_that_waited_for_too_long_is_refused() -> None:
    """A flood that its sender left behind costs no answers; what has ended its own wait has just come."""
    told: list[Any] = []
    clock = Hands()
    intake = Intake(10_000, clock)
    left = [asked(ListTasks(), told) for _ in range(2 * REFUSED_AT_ONCE)]
    for one in left:
        intake.put(one)
    clock.at += QUESTION_WAITS_S
    assert intake.take_question() is left[0]
    clock.at += 0.1
    fresh, ended = asked(ListTasks()), asked(ListTasks())
    intake.put(fresh)
    intake.put_back(ended)
    assert intake.take_question() is ended
    assert intake.take_question() is None
    assert len(told) == REFUSED_AT_ONCE
    assert intake.has_questions
    assert intake.take_question() is fresh
    assert (len(told), len(intake)) == (2 * REFUSED_AT_ONCE - 1, 0)
    assert all("wait for longer than 5 s" in error.message for error in told)


async def test_commands_are_bounded_in_bytes() -> None:
    """Few large ones are as much to keep as many small ones; one of another source still has room."""
    told: list[Any] = []
    intake = Intake(10_000)
    for _ in range(COMMAND_BYTES_MOST // 1024 // 1024):
        intake.put(asked(told=told, size=1024 * 1024))
    assert len(intake) == len(told) == COMMAND_BYTES_MOST // 1024 // 1024 // 2
    intake.put(asked(source="another", size=1024 * 1024))
    assert len(intake) == len(told) + 1


async def test_a_full_intake_refuses_at_once() -> None:
    """The refusal has a time to retry; queued commands stay."""
    told: list[Any] = []
    intake = Intake(1)
    intake.put(asked())
    intake.put(asked(told=told))
    assert (len(told), len(intake)) == (1, 1)
    assert isinstance(told[0], Unavailable)
    assert (told[0].reason, told[0].retry_after_s) == ("overloaded", 0.5)
    assert "engine.intake_max" in told[0].message


@pytest.mark.parametrize("wake", [lambda intake: intake.put(asked()), lambda intake: intake.wake()])
async def test_waiting_ends_when_something_is_put_or_the_intake_is_woken(wake: Callable[[Intake], None]) -> None:
    """It does not matter whether the wake came before or after the wait began."""
    intake = Intake(10)
    wake(intake)
    await asyncio.wait_for(intake.wait(), 1)
    while intake.take():
        pass
    waiting = asyncio.ensure_future(intake.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    wake(intake)
    await asyncio.wait_for(waiting, 1)


async def test_everything_that_waits_can_be_refused() -> None:
    """Each caller gets one answer."""
    told: list[Any] = []
    intake = Intake(10)
    for _ in range(3):
        intake.put(asked(told=told))
    error = Unavailable("gone")
    intake.refuse_all(error)
    intake.refuse_all(error)
    assert (told, len(intake)) == ([error] * 3, 0)


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        submit(payload=payload(), resources=resources(cpu=1), timeout_s=1.5),
        claim(slots=3),
        create(environment={"A": "b", "C": Secret(secret="c")}),
        register_service(tags=("eu",), metadata={"a": "b"}),
        ListTasks(limit=3),
    ],
)
def test_a_well_formed_command_stays_what_it_is(command: Command) -> None:
    """Every field."""
    assert typed(command) == command


def test_fields_get_the_type_that_a_reader_of_the_journal_will_see() -> None:
    """A whole number where a fraction may stand is one; a list where a tuple stands is one."""
    assert isinstance(typed(submit(timeout_s=3600)).timeout_s, float)  # type: ignore[attr-defined]  # it is a submit
    loose = register_service(tags=["eu"])
    assert typed(loose) == register_service(tags=("eu",))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (submit(priority=2.5), "$.priority"),
        (submit(priority=["high"]), "$.priority"),
        (submit(priority=NAN), "$.priority"),
        (submit(timeout_s="1h"), "$.timeout_s"),
        (submit(task_name=7), "$.task_name"),
        (submit(resources=3), "$.resources"),
        (create(environment={"A": 5}), "$.environment"),
        (register_service(port=True), "$.port"),
        (register_service(metadata={"a": object()}), "object"),
    ],
)
def test_a_field_of_another_type_is_refused(command: Command, named: str) -> None:
    """A caller in this process could write it into the journal, where it could never be decoded."""
    with pytest.raises(Refused, match="is malformed") as refused:
        typed(command)
    assert named in refused.value.message
    assert type(command).__name__ in refused.value.message
    assert refused.value.reason == "bad_request"


def test_not_a_number_is_left_to_the_decider() -> None:
    """It must not become no number at all on the way."""
    assert str(typed(submit(timeout_s=NAN)).timeout_s) == "nan"  # type: ignore[attr-defined]  # it is a submit


def test_types_are_kept() -> None:
    """A command stays of its class."""
    assert type(typed(create())) is CreateContainer
    assert type(typed(register_service())) is RegisterService


# --- questions --------------------------------------------------------------------------------------------------------


def question(source: str = "tester", *, size: int = 0, told: list[Any] | None = None) -> Asked:
    def reply(value: Any, error: CoordinationError | None) -> None:
        assert told is not None, "nobody was to be told anything"
        told.append(error if error is not None else value)

    return Asked(ListTasks(), Caller(actor=source), reply, size=size)


async def test_questions_take_no_room_from_commands() -> None:
    """However many wait, a command is queued, and taken as if there were none."""
    told: list[Any] = []
    intake = Intake(2)
    for _ in range(5):
        intake.put(question(told=told))
    first = asked()
    intake.put(first)
    assert [error.reason for error in told] == ["overloaded"] * 4
    assert intake.take() is first
    assert intake.take() is None


async def test_sources_are_asked_in_turn() -> None:
    """One that asks much leaves room for others, and is not answered before them."""
    told: list[Any] = []
    intake = Intake(100)
    for _ in range(80):
        intake.put(question("much", told=told))
    assert len(told) == 30
    assert {error.reason for error in told} == {"overloaded"}
    others = [question(name) for name in ("one", "two")]
    for other in others:
        intake.put(other)
    taken = [intake.take_question() for _ in range(4)]
    assert [one.caller.actor for one in taken if one is not None] == ["much", "one", "two", "much"]


async def test_questions_are_bounded_in_bytes() -> None:
    """One that is as large as a message is no small thing to keep."""
    told: list[Any] = []
    intake = Intake(1000)
    for _ in range(20):
        intake.put(question(size=1024 * 1024, told=told))
    assert len(intake) == QUESTION_BYTES_MOST // 1024 // 1024 // 2
    intake.put(question("another", size=4 * 1024 * 1024))
    while intake.take_question() is not None:
        pass
    intake.put(question(size=1024 * 1024))
    assert len(intake) == 1


async def test_the_order_of_questions_and_commands_is_known() -> None:
    """In order, a question is given only after what its source, or the coordinator itself, ordered before it."""
    intake = Intake(10)
    before, command, after = question(), asked(), question()
    others = question("another"), asked(source="coordinator"), question("another")
    for one in others:
        intake.put(one)
    assert intake.take_question(is_ordered=True) is others[0]
    assert intake.take_question(is_ordered=True) is None
    assert intake.take() is others[1]
    intake.put(asked())
    assert intake.take_question(is_ordered=True) is others[2]
    assert intake.take() is not None
    for one in (before, command, after):
        intake.put(one)
    assert intake.take_question(is_ordered=True) is before
    assert intake.take_question(is_ordered=True) is None
    assert intake.take() is command
    assert intake.take_question(is_ordered=True) is None
    assert intake.take_question() is after
    intake.put_back(after)
    assert (intake.has_questions, intake.take_question()) == (True, after)


async def test_questions_that_wait_are_refused_with_the_rest() -> None:
    """When the reign ends."""
    told: list[Any] = []
    intake = Intake(10)
    intake.put(question(told=told))
    intake.put(asked(told=told))
    over = Unavailable("over")
    intake.refuse_all(over)
    assert told == [over, over]


# --- large requests ---------------------------------------------------------------------------------------------------


class Large:
    """A large request of which it is known whether it was decoded, and what it was told."""

    def __init__(self, *inside: Asked, source: str = "tester", size: int = AT_ONCE_BYTES, of: bool = False) -> None:
        self.inside = list(inside)
        self.is_read = False
        self.told: list[Any] = []
        self.unread = Unread(Caller(actor=source), self._reply, size, is_question=of, read=self._read)

    def _read(self) -> list[Asked]:
        assert not self.is_read, "decoded twice"
        self.is_read = True
        return self.inside

    def _reply(self, value: Any, error: CoordinationError | None) -> None:
        assert not self.is_read, "answered as a whole, and its commands too"
        self.told.append(error if error is not None else value)


async def test_a_large_request_is_decoded_at_once_while_little_of_its_source_waits() -> None:
    """Whoever put it decodes it, and puts its commands."""
    intake = Intake(100)
    intake.put(asked(size=AT_ONCE_BYTES - GIANT_BYTES + 1))
    assert not intake.put_off(Large(size=GIANT_BYTES - 1).unread)
    assert intake.put_off(Large(size=GIANT_BYTES).unread)
    assert not intake.put_off(Large(source="another", size=GIANT_BYTES).unread)
    assert not intake.put_off(Large(of=True, size=GIANT_BYTES).unread)
    assert len(intake) == 2


async def test_a_giant_request_is_never_decoded_at_once() -> None:
    """What others sent waits behind it."""
    intake = Intake(100)
    assert not intake.put_off(Large(size=GIANT_BYTES).unread)
    assert intake.put_off(Large(size=GIANT_BYTES + 1).unread)
    assert intake.put_off(Large(size=GIANT_BYTES + 1, of=True).unread)


async def test_a_large_request_is_decoded_when_its_turn_comes() -> None:
    """In the order of its source, and others are taken in turn."""
    intake = Intake(100)
    first, last, inside = asked(size=AT_ONCE_BYTES), asked(), [asked(), asked()]
    large = Large(*inside)
    intake.put(first)
    assert intake.put_off(large.unread)
    intake.put(last)
    others = asked(source="another")
    intake.put(others)
    assert [intake.take(), intake.take()] == [first, others]
    assert (large.is_read, len(intake)) == (False, 2)
    assert [intake.take() for _ in range(4)] == [*inside, last, None]
    assert (large.told, len(intake)) == ([], 0)


async def test_a_turn_decodes_some_large_requests() -> None:
    """One more when it has decoded enough; those of other sources wait for the next turn too."""
    intake = Intake(100)
    ones = [Large(asked(), size=TURN_READ_BYTES // 2 + 1) for _ in range(3)]
    intake.put(asked(size=AT_ONCE_BYTES))
    for one in ones:
        assert intake.put_off(one.unread)
    assert intake.take() is not None
    assert [intake.take() for _ in range(3)] == [*ones[0].inside, *ones[1].inside, None]
    assert [one.is_read for one in ones] == [True, True, False]
    assert intake.has_commands
    assert intake.take() is None
    intake.refill()
    assert [intake.take(), intake.take()] == [*ones[2].inside, None]
    assert not intake.has_commands


@pytest.mark.parametrize("of", [False, True], ids=["commands", "questions"])
async def test_large_commands_have_a_part_of_the_time_while_others_ask(of: bool) -> None:
    """The others are served until the rest after such a turn is over; `wait` ends with it, or with one of these."""
    clock = Hands()
    intake = Intake(100, clock)
    make, take = (question, intake.take_question) if of else (asked, intake.take)
    first, second = (Large(make(), size=GIANT_BYTES + 1, of=of) for _ in range(2))
    assert intake.put_off(first.unread)
    assert intake.put_off(second.unread)
    assert [take(), take()] == [*first.inside, None]
    intake.put(others := make(source="another"))
    intake.note_turn(0.01)
    intake.refill()
    intake.wake()
    await intake.wait()
    assert [take(), take()] == [others, None]
    waiting = asyncio.ensure_future(intake.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.wait_for(waiting, 1.0)
    clock.at += RESTS * 0.01
    await intake.wait()
    assert [take(), take()] == [*second.inside, None]


@pytest.mark.parametrize("why", ["alone", "asked long ago", "small commands"])
async def test_large_requests_do_not_rest(why: str) -> None:
    """Without others, and those of many small commands."""
    clock = Hands()
    intake = Intake(1000, clock)
    count = 100 if why == "small commands" else 1
    for _ in range(2):
        assert intake.put_off(Large(*(asked() for _ in range(count)), size=GIANT_BYTES + 1).unread)
    assert [intake.take() is not None for _ in range(count + 1)] == [*[True] * count, False]
    if why != "alone":
        intake.put(asked(source="another"))
        assert intake.take() is not None
    clock.at += OTHERS_ASK_S * (why == "asked long ago")
    intake.note_turn(0.01)
    intake.refill()
    assert intake.take() is not None


async def test_a_large_request_without_room_is_refused_undecoded() -> None:
    """For want of bytes or of places; of its source, and of all."""
    intake = Intake(1000)
    for _ in range(COMMAND_BYTES_MOST // AT_ONCE_BYTES // 2):
        intake.put(asked(size=AT_ONCE_BYTES))
    mine = Large()
    assert intake.put_off(mine.unread)
    anothers = Large(source="another", size=COMMAND_BYTES_MOST)
    assert intake.put_off(anothers.unread)
    few = Intake(2)
    few.put(asked())
    third = Large(size=1)
    assert few.put_off(third.unread)
    few.put(asked(source="another"))
    fourth = Large(size=1, source="fourth")
    assert few.put_off(fourth.unread)
    for one in (mine, anothers, third, fourth):
        assert [(error.reason, error.retry_after_s) for error in one.told] == [("overloaded", 0.5)]
        assert not one.is_read
    assert f"{COMMAND_BYTES_MOST} bytes" in mine.told[0].message


async def test_large_questions_are_decoded_in_their_turn() -> None:
    """Not before what their source ordered before them; not when they waited for too long."""
    clock = Hands()
    intake = Intake(100, clock)
    intake.put(question(size=AT_ONCE_BYTES))
    before, inside = asked(), [question(), question()]
    intake.put(before)
    large, late = Large(*inside, of=True), Large(of=True)
    assert intake.put_off(large.unread)
    assert intake.take_question(is_ordered=True) is not None
    intake.put(asked())
    assert intake.take_question(is_ordered=True) is None
    assert intake.take() is before
    assert [intake.take_question(is_ordered=True) for _ in range(3)] == [*inside, None]
    intake.put(question(size=AT_ONCE_BYTES))
    assert intake.put_off(late.unread)
    assert intake.take_question() is not None
    assert intake.take_question() is None
    assert not late.is_read
    intake.refill()
    clock.at += QUESTION_WAITS_S + 0.1
    assert intake.take_question() is None
    assert [error.reason for error in late.told] == ["overloaded"]
    assert not late.is_read


async def test_large_requests_that_wait_are_refused_with_the_rest() -> None:
    """Undecoded."""
    intake = Intake(10)
    intake.put(asked(told=[], size=AT_ONCE_BYTES))
    large = Large()
    assert intake.put_off(large.unread)
    over = Unavailable("over")
    intake.refuse_all(over)
    assert large.told == [over]
