"""The end of a reign and the answers of waiting callers; and questions that wait."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.container import GetContainer, StartContainer
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.commands.service import FindServices
from coordinator.commands.task import CancelTask, GetTask
from coordinator.deciders.rules import Limits
from coordinator.errors import Corrupt, NotFound, Refused, Unavailable
from coordinator.journal.memory import Lost, MemoryJournal
from coordinator.journal.slots import Deposed
from events.container import ContainerStatus
from events.coordinator import EpochClaim
from events.task import TaskCompleted, TaskStatus
from tests.unit.deciders.facts import (
    claim,
    complete,
    create,
    fail,
    payload,
    register_node,
    register_service,
    submit,
)
from tests.unit.engine.engine_rig import PATIENCE_S, TICK_S, Rig, Told, leading

if TYPE_CHECKING:
    from collections.abc import Sequence

WAIT_S = 30.0
BUSY_S = 0.5
"""Longer than the delays of a busy machine."""


async def another_claims(rig: Rig) -> None:
    """Let another instance claim the right to write."""
    body = msgspec.json.encode(EpochClaim(generation=1, holder="two", time="2026-01-01T00:00:00Z"))
    await MemoryJournal(rig.stream).claim(body)


async def everything_outstanding(rig: Rig) -> list[Told]:
    """Let one of everything wait: in the turn, in the intake, as a claim, as a question."""
    await rig.order(submit("wanted", payload=payload()))
    told = [rig.ask(GetTask(task_id="wanted", wait_s=WAIT_S)), rig.ask(claim("c", "choosy", wait_s=WAIT_S))]
    await rig.settle()
    assert (await told[1].outcome())[0].task_id == "wanted"
    told[1] = rig.ask(claim("d", "idle", wait_s=WAIT_S))
    await rig.settle()
    told.append(await rig.hold())
    told += [rig.ask(complete("x", "nobody")), rig.ask(GetTask(task_id="wanted")), rig.ask(complete("d.1.1", "nobody"))]
    assert not any(one.yet for one in told)
    return told


async def expect_unavailable(told: Sequence[Told]) -> None:
    for one in told:
        error = await one.error()
        assert isinstance(error, Unavailable), f"{error!r}"


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_before_it_leads_a_writer_takes_nothing() -> None:
    """The caller is asked to retry, with a time."""
    async with leading() as rig:
        rig.engine.resign("enough")
        await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        error = await rig.ask(submit()).error()
        assert isinstance(error, Unavailable)
        assert (error.reason, error.retry_after_s) == ("not_leading", 0.2)


async def test_resigning_commits_what_was_asked_and_says_so() -> None:
    """Queued commands are decided in the last commit; waiting callers are asked to retry."""
    async with leading() as rig:
        claimed = rig.ask(claim(wait_s=WAIT_S))
        await rig.hold()
        told = rig.ask(submit("last"))
        question = rig.ask(GetTask(task_id="last", wait_s=WAIT_S))
        rig.engine.resign("upgrade")
        rig.let_go()
        await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        assert await told.outcome() == "last"
        assert (await claimed.outcome())[0].task_id == "last"
        await expect_unavailable([question])
        assert rig.types()[-1] == ["coordinator.stopped", "task.submitted", "task.started", "coordinator.turn"]
        assert rig.replayed().digest() == rig.world.digest()


async def test_a_deposed_writer_tells_everyone_that_it_does_not_know() -> None:
    """In the turn, in the intake, as a claim or as a question: each caller gets one answer, and nothing is kept."""
    async with leading() as rig:
        told = await everything_outstanding(rig)
        await another_claims(rig)
        rig.let_go()
        with pytest.raises(Deposed):
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        await expect_unavailable(told)
        assert "held-up" not in rig.replayed().workers
        await expect_unavailable([rig.ask(submit())])


async def test_a_writer_that_is_cancelled_tells_everyone_that_it_does_not_know() -> None:
    """A commit in progress may still be stored: the same command, sent to the next writer, gets the right answer."""
    async with leading() as rig:
        told = await everything_outstanding(rig)
        rig.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rig.run
        await expect_unavailable(told)


async def test_a_defect_in_what_time_owes_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stops, and every caller gets an answer, those of its last turn too."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    async with leading() as rig:
        waiting = rig.ask(claim(wait_s=WAIT_S))
        await rig.hold()
        told = rig.ask(submit("other"))
        monkeypatch.setattr("coordinator.engine.engine.due", broken)
        rig.hands.turn(10.0)
        rig.let_go()
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        await expect_unavailable([told, waiting])


async def test_an_order_whose_answer_was_lost_with_its_writer_is_found_by_the_next() -> None:
    """The commit arrives after its writer has stopped; the same command, sent to the next writer, changes nothing."""
    async with leading() as rig:
        rig.network.losses = [("stored", Lost())] * 50
        told = rig.ask(submit())
        await asyncio.sleep(4 * TICK_S)
        assert rig.types()[-1] == ["task.submitted"]
        rig.run.cancel()
        with suppress(asyncio.CancelledError):
            await rig.run
        await expect_unavailable([told])
    async with leading(stream=rig.stream, hands=rig.hands) as heir:
        assert await heir.order(submit()) == "t"
        assert [event.subject for event in heir.events()].count("t") == 1


async def test_a_writer_after_a_restore_gives_back_what_was_held() -> None:
    """Its worker may know events that the journal does not have: its lease is stale, the attempt does not count."""
    async with leading() as rig:
        await rig.order(submit("a"))
        (task,) = await rig.order(claim())
    async with leading(stream=rig.stream, hands=rig.hands, generation=2) as heir:
        (again,) = await heir.order(claim(claim_id="d"))
        assert (again.task_id, again.attempt, again.failures) == ("a", 2, 0)
        assert again.lease != task.lease


async def test_the_next_writer_goes_on_where_the_last_was_cut_off() -> None:
    """The next writer has the same queue, leases and ids; held tasks stay held."""
    async with leading() as rig:
        for name in ("a", "b"):
            await rig.order(submit(name))
        (task,) = await rig.order(claim())
    async with leading(stream=rig.stream, hands=rig.hands) as heir:
        assert (heir.engine.epoch.generation, heir.world.leader) == (1, "one")
        assert await heir.order(claim()) == [task]
        heir.hands.turn(29.0)
        heir.engine.listening.hear_worker("w", (task.lease,), 0.0)
        heir.hands.turn(29.0)
        await heir.settle()
        await heir.order(complete(task.lease, "a"))
        assert [one.task_id for one in await heir.order(claim("c2"))] == ["b"]
        assert heir.notices == []


async def test_two_writers_never_both_commit() -> None:
    """The writer with the older claim is deposed by its next commit, whatever it has decided since."""
    async with leading() as old:
        await old.order(submit("a"))
        async with leading(stream=old.stream, hands=old.hands) as new:
            await new.order(submit("b"))
            await expect_unavailable([old.ask(submit("c"))])
            with pytest.raises(Deposed):
                await old.run
            await new.order(submit("d"))
            assert set(new.replayed().tasks) == {"a", "b", "d"}


# --- questions that wait ----------------------------------------------------------------------------------------------


async def test_whoever_waits_for_a_task_is_told_when_its_end_is_committed() -> None:
    """Not when it is decided."""
    async with leading() as rig:
        await rig.order(submit())
        told = rig.ask(GetTask(task_id="t", wait_s=WAIT_S))
        await rig.settle()
        rig.network.gate.clear()
        rig.ask(complete(""))
        await asyncio.sleep(4 * TICK_S)
        assert rig.world.tasks["t"].is_ended
        assert not told.yet
        rig.let_go()
        assert (await told.outcome()).status is TaskStatus.COMPLETED


async def test_a_wait_that_ends_during_a_commit_is_answered_after_it() -> None:
    """The world contains events that are not committed yet."""
    async with leading() as rig:
        await rig.order(submit())
        told = rig.ask(GetTask(task_id="t", wait_s=BUSY_S))
        await rig.settle()
        rig.network.gate.clear()
        rig.ask(complete(""))
        await asyncio.sleep(BUSY_S + 4 * TICK_S)
        assert not told.yet
        rig.let_go()
        assert (await told.outcome()).status is TaskStatus.COMPLETED


async def test_a_wait_that_ends_during_a_lost_commit_tells_nothing_that_was_not_kept() -> None:
    """The writer was deposed, so it does not know the state of the task."""
    async with leading() as rig:
        await rig.order(submit())
        told = rig.ask(GetTask(task_id="t", wait_s=BUSY_S))
        await rig.settle()
        rig.network.gate.clear()
        rig.ask(CancelTask(task_id="t"))
        await asyncio.sleep(BUSY_S + 4 * TICK_S)
        await another_claims(rig)
        rig.let_go()
        await expect_unavailable([told])


async def test_a_question_waits_as_long_as_it_may_and_is_told_how_things_stand() -> None:
    """That is no error; the writer's limit counts where it is shorter."""
    async with leading(limits=Limits(tick_s=TICK_S, wait_max_s=2 * TICK_S)) as rig:
        await rig.order(submit())
        assert (await rig.order(GetTask(task_id="t", wait_s=WAIT_S))).status is TaskStatus.PENDING
        assert isinstance(await rig.ask(GetTask(task_id="u", wait_s=WAIT_S)).error(), NotFound)


async def test_a_wait_for_what_has_ended_is_no_wait() -> None:
    """A question in the turn that ends the task does not wait either."""
    async with leading() as rig:
        await rig.order(submit(max_retries=0))
        await rig.hold()
        told = [rig.ask(GetTask(task_id="t", wait_s=WAIT_S)), rig.ask(fail("")), rig.ask(GetTask(task_id="t"))]
        rig.let_go()
        assert (await told[0].outcome()).status is TaskStatus.FAILED
        assert (await told[2].outcome()).status is TaskStatus.FAILED


async def test_whoever_waits_for_a_container_is_told_when_it_has_left_a_status() -> None:
    """`start_container` does this: it returns when the container runs or has failed."""
    unless = (ContainerStatus.CREATED, ContainerStatus.STARTING)
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        told = rig.ask(GetContainer(container_id="k", unless=unless, wait_s=WAIT_S))
        started = await rig.order(StartContainer(container_id="k"))
        assert not told.yet
        seen = ObservedContainer(container_id="k", generation=started.generation, state="running", pid=7)
        orders = await rig.order(SyncNode(node_id="n", observed=(seen,)))
        assert [one.desired for one in orders.containers] == ["running"]
        assert (await told.outcome()).status is ContainerStatus.RUNNING


async def test_discovery_does_not_wait_for_the_turn() -> None:
    """It reads the world at any time, even during a commit."""
    async with leading() as rig:
        await rig.order(register_service())
        await rig.hold()
        (view,) = rig.engine.ask_now(FindServices(service_name="agents"))
        assert view.service.service_id == "s"
        rig.let_go()


async def test_a_call_from_this_process_is_told_like_any_other() -> None:
    """Values and errors alike."""
    me = Caller(actor="local")
    async with leading() as rig:
        assert await rig.engine.execute(submit(), me) == "t"
        with pytest.raises(NotFound):
            await rig.engine.execute(GetTask(task_id="nobody"), me)


async def test_a_decision_that_cannot_be_folded_stops_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is refused for good, because the next writer would fail on it too; other callers retry."""

    def wrong(*_: Any, **__: Any) -> tuple[TaskCompleted, ...]:
        return (TaskCompleted(task_id="none", lease="l"),)

    async with leading() as rig:
        other = await rig.hold()
        told = rig.ask(submit("asked"))
        monkeypatch.setattr("coordinator.engine.engine.decide", wrong)
        rig.let_go()
        with pytest.raises(Corrupt):
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        assert isinstance(await told.error(), Refused)
        del other
