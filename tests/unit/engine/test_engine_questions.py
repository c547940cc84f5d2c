"""Questions within a turn: what they may take of it, and what room their answers have."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.command import Command
from coordinator.commands.service import FindServices
from coordinator.commands.task import GetTask, ListTasks
from coordinator.commands.wire import ITEMS_AT_ONCE, AsOf
from coordinator.engine import budget, engine
from coordinator.engine.intake import Asked
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from tests.unit.deciders.facts import register_service, submit
from tests.unit.engine.engine_rig import PATIENCE_S, SMALL, Rig, Told, leading

NO_TIME = 1e-14
"""Seconds: some, and none when they are added to the clock of the tests."""


class Message:
    """A message of *most* bytes of which *left* are left."""

    def __init__(self, left: int, most: int) -> None:
        self._left = left
        self._most = most

    def left(self) -> int:
        return self._left

    def alone(self) -> int:
        return self._most


def ask(rig: Rig, question: Command, *, left: int = 10_000, most: int = 10_000, actor: str = "far") -> Told:
    """Submit a question as a door does that sends its answer away."""
    told = Told(question)
    rig.asked.append(told)
    asked = Asked(question, Caller(actor=actor), told, Message(left, most))
    if isinstance(question, FindServices):
        rig.engine.discover(asked)
    else:
        rig.engine.put(asked)
    return told


async def test_an_answer_that_leaves_is_encoded_as_it_is_made() -> None:
    """It has the same content as one that stays."""
    async with leading() as rig:
        await rig.order(submit())
        await rig.order(register_service())
        for question in (GetTask(task_id="t"), ListTasks(), FindServices()):
            told = await ask(rig, question).outcome()
            assert isinstance(told, msgspec.Raw)
            assert bytes(told) == msgspec.json.encode(await rig.order(question))


async def test_an_answer_has_the_room_that_is_left() -> None:
    """One that would fit alone is to be asked again; one that would not is refused, and told how to page."""
    async with leading() as rig:
        for number in range(10):
            await rig.order(submit(f"t{number}"))
        again = await ask(rig, ListTasks(), left=500).error()
        assert isinstance(again, Unavailable)
        assert again.reason == "ask_again"
        too_large = await ask(rig, ListTasks(), left=500, most=500).error()
        assert isinstance(too_large, Refused)
        assert too_large.reason == "too_large"
        assert "only the first" in too_large.message
        assert (await ask(rig, GetTask(task_id="none"), left=0).error()).reason == "ask_again"
        assert isinstance(await ask(rig, GetTask(task_id="none"), left=1).error(), NotFound)


async def test_commands_go_on_while_questions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn answers what its budget allows, and at least one; all are answered in the end."""
    monkeypatch.setattr(budget, "TURN_BYTES", 1)
    async with leading() as rig:
        await rig.order(submit())
        await rig.hold()
        turns = rig.engine.turns
        questions = [ask(rig, GetTask(task_id="t")) for _ in range(50)]
        command = rig.ask(submit("u"))
        later = ask(rig, GetTask(task_id="u"), actor="other")
        rig.let_go()
        await command.outcome()
        assert sum(one.yet for one in questions) == 1
        assert rig.engine.turns == turns + 1
        await later.outcome()
        assert sum(one.yet for one in questions) < 5
        for one in questions:
            await one.outcome()


async def test_discovery_has_a_share_of_the_time_between_turns() -> None:
    """What exceeds it waits for the next turn, like every question; the share comes back."""
    async with leading() as rig:
        await rig.hold()
        rig.hands.turn(1.0)
        assert ask(rig, FindServices()).yet
        rig.engine._discovery.note_time(2 * budget.DISCOVERY_S)
        waiting = ask(rig, FindServices())
        assert not waiting.yet
        rig.hands.turn(1.0)
        assert ask(rig, FindServices()).yet
        rig.let_go()
        assert bytes(await waiting.outcome()) == b"[]"


async def test_no_question_is_answered_while_answers_wait_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are; the questions are answered once there is room."""
    crowded = True
    async with leading() as rig:
        monkeypatch.setattr(rig.engine, "_is_crowded", lambda: crowded)
        waiting = [ask(rig, GetTask(task_id="t")), ask(rig, FindServices())]
        await rig.order(submit())
        await asyncio.sleep(0.02)
        assert [one.yet for one in waiting] == [False, False]
        crowded = False
        for one in waiting:
            await one.outcome()


async def begin_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Told:
    """Ask for a list that has more items than any turn has time for."""
    for number in range(ITEMS_AT_ONCE * 4):
        await rig.order(submit(f"t{number}"))
    monkeypatch.setattr(budget, "TURN_S", NO_TIME)
    return ask(rig, ListTasks(limit=1000), left=100_000, most=100_000)


async def test_a_long_list_goes_on_in_the_turns_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows what was there when it was asked for, and says so; commands do not wait for it, questions do."""
    async with leading() as rig:
        told = await begin_long(rig, monkeypatch)
        as_of = str(rig.engine.committed)
        turns = rig.engine.turns
        while rig.engine.turns == turns:  # noqa: ASYNC110  # it tells nobody of its turns
            await asyncio.sleep(0)
        later = ask(rig, GetTask(task_id="none")), ask(rig, FindServices())
        await rig.order(submit("u"))
        assert not told.yet
        assert not any(one.yet for one in later)
        answer = await told.outcome()
        assert isinstance(answer, AsOf)
        assert answer.position == as_of
        shown = msgspec.json.decode(answer.value)
        assert [one["task_id"] for one in shown] == [f"t{number}" for number in reversed(range(ITEMS_AT_ONCE * 4))]
        assert isinstance(await later[0].error(), NotFound)
        assert bytes(await later[1].outcome()) == b"[]"
        assert rig.engine.turns >= turns + 4


async def test_a_long_list_of_services_goes_on_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between turns it is only begun."""
    monkeypatch.setattr(engine, "DISCOVERY_S", -1.0)
    async with leading() as rig:
        for number in range(ITEMS_AT_ONCE + 1):
            await rig.order(register_service(f"s{number}"))
        told = ask(rig, FindServices(), left=100_000, most=100_000)
        assert not told.yet
        answer = await told.outcome()
        assert len(msgspec.json.decode(answer.value)) == ITEMS_AT_ONCE + 1


async def test_a_long_list_waits_while_answers_wait_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on by itself once there is room, and holds no command up."""
    crowded = False
    async with leading(limits=msgspec.structs.replace(SMALL, tick_s=PATIENCE_S * 2)) as rig:
        monkeypatch.setattr(rig.engine, "_is_crowded", lambda: crowded)
        told = await begin_long(rig, monkeypatch)
        await rig.hold()
        crowded = True
        rig.let_go()
        await rig.order(submit("u"))
        assert not told.yet
        crowded = False
        await told.outcome()


async def test_a_long_list_that_turns_out_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many turns it took to find out; the next question is answered."""
    async with leading() as rig:
        for number in range(ITEMS_AT_ONCE * 2):
            await rig.order(submit(f"t{number}"))
        monkeypatch.setattr(budget, "TURN_S", NO_TIME)
        size = len(msgspec.json.encode(await rig.order(ListTasks(limit=1000)))) - 10
        assert (await ask(rig, ListTasks(limit=1000), left=size, most=size).error()).reason == "too_large"
        assert isinstance(await ask(rig, GetTask(task_id="none")).error(), NotFound)


async def test_a_long_list_is_refused_when_the_reign_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked asks the next leader; nobody waits for ever."""
    async with leading() as rig:
        told = await begin_long(rig, monkeypatch)
        await rig.hold()
        rig.engine.resign("over")
        rig.let_go()
        await rig.run
        assert (await told.error()).reason == "not_leading"


async def test_what_was_decided_is_never_told_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if the answer to it cannot be made."""

    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("no answer")

    async with leading() as rig:
        with monkeypatch.context() as broken:
            broken.setattr("coordinator.engine.engine.answer", fails)
            error = await rig.ask(submit()).error()
        assert (type(error), error.code, error.reason) == (CoordinationError, "error", "internal")
        assert "SubmitTask was carried out" in error.message
        assert "t" in rig.world.tasks
        assert await rig.order(submit()) == "t"
