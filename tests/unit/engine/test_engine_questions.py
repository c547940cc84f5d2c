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
from coordinator.engine import budget
from coordinator.engine.intake import Asked
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from tests.unit.deciders.facts import register_service, submit
from tests.unit.engine.engine_rig import Rig, Told, leading


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
