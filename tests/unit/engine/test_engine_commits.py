"""From commands to commits: nothing is answered before its commit, and load makes batches."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.container import StartContainer, StopContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.service import FindServices
from coordinator.commands.task import CancelTask, GetTask, ListTasks, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.dispatch import DECIDERS, decide
from coordinator.deciders.rules import Limits
from coordinator.errors import NotFound, Refused, StaleLease, Unavailable
from coordinator.journal.memory import Lost
from events.codec import seconds_of
from events.task import TaskStatus
from tests.unit.deciders.facts import NAN, claim, complete, create, fail, payload, register_node, submit
from tests.unit.engine.engine_rig import PATIENCE_S, TICK_S, leading


async def test_a_writer_says_first_that_it_leads_and_last_that_it_does_not() -> None:
    """Both are separate commits."""
    async with leading() as rig:
        assert rig.types() == [["coordinator.started", "queue.policy_set"]]
        assert rig.world.leader == "one"
    assert rig.types() == [["coordinator.started", "queue.policy_set"], ["coordinator.stopped"]]
    assert rig.world.leader == ""


async def test_an_order_is_committed_and_then_answered() -> None:
    """The event names the actor of its command."""
    async with leading() as rig:
        assert await rig.order(submit(), actor="communication", tenant="red", traceparent="00-1-2-00") == "t"
        (event,) = rig.commits()[-1]
        assert (event.type, event.actor, event.tenant, event.traceparent) == (
            "task.submitted",
            "communication",
            "red",
            "00-1-2-00",
        )
        assert rig.engine.committed == rig.world.position


async def test_nothing_is_answered_before_its_commit() -> None:
    """Commands, refusals and questions of a turn are answered after its commit is acknowledged."""
    async with leading() as rig:
        first = await rig.hold()
        later = [rig.ask(submit()), rig.ask(GetTask(task_id="t")), rig.ask(complete(task_id="nobody"))]
        await asyncio.sleep(4 * TICK_S)
        assert not first.yet
        assert not any(told.yet for told in later)
        assert len(rig.commits()) == 1
        rig.let_go()
        await first.outcome()
        assert await later[0].outcome() == "t"
        assert (await later[1].outcome()).task_id == "t"
        assert isinstance(await later[2].error(), NotFound)


async def test_what_came_in_meanwhile_is_one_commit() -> None:
    """Load makes batches larger: one message for all commands, in order of arrival."""
    async with leading() as rig:
        await rig.hold()
        told = [rig.ask(submit(f"t{number}")) for number in range(50)]
        rig.let_go()
        assert [await one.outcome() for one in told] == [f"t{number}" for number in range(50)]
        assert [event.subject for event in rig.commits()[-1]] == [f"t{number}" for number in range(50)]
        assert len(rig.commits()) == 3


async def test_orders_of_one_turn_see_each_other() -> None:
    """The second command sees the events of the first, before either is committed."""
    async with leading() as rig:
        await rig.hold()
        told = [rig.ask(submit()), rig.ask(submit(priority=9)), rig.ask(complete("")), rig.ask(complete(""))]
        rig.let_go()
        assert await told[0].outcome() == "t"
        assert (await told[1].error()).reason == "id_taken"
        assert [await one.outcome() for one in told[2:]] == [None, None]
        assert rig.types()[-1] == ["task.submitted", "task.started", "task.completed"]


async def test_a_turn_without_events_is_no_commit() -> None:
    """Repeats, refusals and questions write nothing."""
    async with leading() as rig:
        await rig.order(submit())
        before = len(rig.commits())
        assert await rig.order(submit()) == "t"
        assert len(await rig.order(ListTasks())) == 1
        assert (await rig.ask(submit(priority=9)).error()).reason == "id_taken"
        await rig.settle()
        assert len(rig.commits()) == before


async def test_a_turn_takes_only_so_many_commands() -> None:
    """The rest waits for the next turn."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_commands=10)) as rig:
        await rig.hold()
        told = [rig.ask(submit(f"t{number}")) for number in range(25)]
        rig.let_go()
        for one in told:
            await one.outcome()
        assert [len(commit) for commit in rig.commits()[2:]] == [10, 10, 5]


async def test_a_turn_closes_when_its_bytes_are_used_and_the_rest_waits() -> None:
    """No commit is larger, none is split, and nothing is lost or overtaken."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=4000)) as rig:
        await rig.hold()
        sizes = [1, 900, 1, 1500, 1, 1, 1, 2500, 1, 1]
        told = [rig.ask(submit(f"t{n}", payload=payload("x" * size))) for n, size in enumerate(sizes)]
        rig.let_go()
        for one in told:
            await one.outcome()
        assert all(len(record.body) <= 4000 for record in rig.records())
        assert [event.subject for commit in rig.commits()[2:] for event in commit] == [f"t{n}" for n in range(10)]
        assert len(rig.commits()) > 4


async def test_one_command_too_big_for_any_turn_is_refused() -> None:
    """The commands before and after it are not refused."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=4000)) as rig:
        await rig.hold()
        told = [rig.ask(submit("a")), rig.ask(submit("big", payload=payload("x" * 5000))), rig.ask(submit("b"))]
        rig.let_go()
        assert await told[0].outcome() == "a"
        error = await told[1].error()
        assert isinstance(error, Refused)
        assert (error.reason, "at most 4000" in error.message) == ("too_large", True)
        assert await told[2].outcome() == "b"
        assert "big" not in rig.world.tasks


async def test_a_late_report_is_on_record_although_it_is_refused() -> None:
    """It is recorded once; in a full turn it waits for the next like any other command."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=600)) as rig:
        await rig.order(submit())
        await rig.hold()
        told = [rig.ask(RegisterWorker(worker_id="filler" * 5))]
        told += [rig.ask(complete("x" * 70)) for _ in range(3)]
        rig.let_go()
        await told[0].outcome()
        assert all([isinstance(await one.error(), StaleLease) for one in told[1:]])
        assert rig.types()[-2:] == [["worker.registered"], ["task.report_refused"]]
        (fact,) = rig.commits()[-1]
        assert (fact.actor, fact.subject) == ("tester", "t")


# --- repeats ----------------------------------------------------------------------------------------------------------


async def a_running_container(rig: Any) -> None:
    await rig.order(register_node())
    await rig.order(create())
    await rig.order(StartContainer(container_id="k"), command_id="start-1")


async def test_an_order_that_is_remembered_is_carried_out_once() -> None:
    """A repeat under its id, after other commands, gets the current state and changes nothing."""
    async with leading() as rig:
        await a_running_container(rig)
        stop = StopContainer(container_id="k")
        assert (await rig.order(stop, command_id="stop-1")).status.value == "stopping"
        await rig.order(StopContainer(container_id="k", force=True), command_id="stop-2")
        before = rig.world.digest()
        assert (await rig.order(stop, command_id="stop-1")).force is True
        again = await rig.order(StartContainer(container_id="k"), command_id="start-1")
        assert (again.status.value, rig.world.digest()) == ("stopping", before)
        refused = await rig.ask(StartContainer(container_id="k"), command_id="start-2").error()
        assert refused.reason == "not_startable"
        commands = [one.commandid for commit in rig.commits() for one in commit if one.subject == "k"]
        assert commands == ["", "start-1", "stop-1", "stop-2"]


async def test_a_failure_without_a_lease_is_counted_once_however_often_it_is_sent() -> None:
    """There is no lease, so the command id identifies the repeat."""
    async with leading() as rig:
        await rig.order(submit(max_retries=5))
        for _ in range(3):
            assert await rig.order(fail(""), command_id="cmd-1") is TaskStatus.PENDING
        assert rig.world.tasks["t"].failures == 1
        await rig.order(fail(""), command_id="cmd-2")
        assert rig.world.tasks["t"].failures == 2


async def test_a_repeat_survives_a_change_of_writer() -> None:
    """The next writer remembers command ids from the journal."""
    async with leading() as rig:
        await a_running_container(rig)
    async with leading(stream=rig.stream, hands=rig.hands) as heir:
        before = heir.world.digest()
        await heir.order(StartContainer(container_id="k"), command_id="start-1")
        assert heir.world.digest() == before


async def test_a_repeat_about_what_has_left_the_world_gets_its_first_answer() -> None:
    """It was executed; its entity has been evicted, and is remembered."""
    limits = Limits(tick_s=TICK_S, ended_kept=0, retention_s=0.0)
    async with leading(limits=limits) as rig:
        await rig.order(submit(max_retries=0))
        await rig.ask(fail(""), command_id="cmd-1").outcome()
        rig.hands.turn(1.0)
        await rig.order(submit("other"))
        assert "t" not in rig.world.tasks
        assert await rig.ask(fail(""), command_id="cmd-1").outcome() is TaskStatus.FAILED
        assert await rig.ask(submit(max_retries=0)).outcome() == "t"
        assert rig.world.totals["tasks_failed"] == 1


# --- trouble ----------------------------------------------------------------------------------------------------------


async def test_a_crash_in_a_decider_refuses_only_that_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of the turn are decided and committed, and the writer goes on."""
    deciders: dict[Any, Any] = DECIDERS
    submit_well = deciders[SubmitTask]

    def decider(world: Any, command: SubmitTask, context: Any) -> Any:
        if command.task_id == "bad":
            raise ZeroDivisionError("a defect")
        return submit_well(world, command, context)

    monkeypatch.setitem(deciders, SubmitTask, decider)
    async with leading() as rig:
        await rig.hold()
        told = [rig.ask(submit("a")), rig.ask(submit("bad")), rig.ask(submit("b"))]
        rig.let_go()
        error = await told[1].error()
        assert isinstance(error, Refused)
        assert (error.reason, "a defect" in error.message) == ("internal", True)
        assert [await told[0].outcome(), await told[2].outcome()] == ["a", "b"]
        assert [event.subject for event in rig.commits()[-1]] == ["a", "b"]


async def test_what_cannot_be_written_is_refused() -> None:
    """Neither a name nor a lease that is no text stops the writer, or leaves a trace."""
    async with leading() as rig:
        await rig.order(submit(max_retries=0))
        before = rig.world.digest()
        assert (await rig.ask(fail("", error="\ud800")).error()).reason == "internal"
        assert (await rig.ask(complete("\ud800")).error()).reason == "bad_text"
        assert (await rig.ask(submit("u", task_name="\ud800")).error()).reason == "bad_text"
        assert rig.world.digest() == before
        assert (await rig.ask(complete("nonsense"), traceparent="\ud800").error()).reason == "internal"


async def test_too_much_at_once_is_refused_with_a_time_to_come_back() -> None:
    """A full intake refuses at once, before any commit; queued commands are executed."""
    async with leading(limits=Limits(tick_s=TICK_S, intake_max=3)) as rig:
        await rig.hold()
        told = [rig.ask(submit(f"t{number}")) for number in range(5)]
        assert [one.yet for one in told] == [False, False, True, True, True]
        error = await told[-1].error()
        assert isinstance(error, Unavailable)
        assert error.retry_after_s == 0.5
        rig.let_go()
        assert [await one.outcome() for one in told[:2]] == ["t0", "t1"]


async def test_an_acknowledgement_that_was_lost_does_no_harm() -> None:
    """The same bytes are sent again and found: the event is stored once, and the answer is sent."""
    async with leading() as rig:
        rig.network.losses = [("stored", Lost()), ("stored", Lost())]
        assert await rig.order(submit()) == "t"
        assert [event.subject for event in rig.commits()[-1]] == ["t"]
        assert rig.network.losses == []


async def test_a_commit_that_was_lost_is_sent_again() -> None:
    """Even when the lost one arrives after all."""
    async with leading() as rig:
        rig.network.losses = [("publish", Lost(arrives_after_s=0.02)), ("publish", Lost())]
        assert await rig.order(submit()) == "t"
        assert await rig.order(submit("u")) == "u"
        assert [event.subject for event in rig.events()[2:]] == ["t", "u"]


async def test_commit_time_never_runs_back() -> None:
    """The wall clock may go back; deadlines in the journal use commit time."""
    async with leading() as rig:
        await rig.order(submit("a"))
        rig.hands.wall_s -= 3600.0
        await rig.order(submit("b"))
        rig.hands.turn(10.0)
        await rig.order(submit("c"))
        times = [seconds_of(commit[0].time) for commit in rig.commits()]
        assert times == sorted(times)
        assert times[-1] - times[1] == pytest.approx(10.0)


async def test_an_answer_without_a_commit_needs_a_fresh_lease() -> None:
    """A writer that may not lead any more must not send old answers; a commit proves that it leads."""
    fresh = False
    async with leading(is_fresh=lambda: fresh) as rig:
        assert await rig.order(submit()) == "t"
        for command in (GetTask(task_id="t"), submit(), submit(priority=9), submit("a b")):
            error = await rig.ask(command).error()
            assert isinstance(error, Unavailable)
            assert error.retry_after_s is not None
        fresh = True
        assert (await rig.order(GetTask(task_id="t"))).task_id == "t"


async def test_a_writer_whose_time_is_over_takes_up_nothing() -> None:
    """After a standstill of a minute the requests of a minute wait, and another instance has led since."""
    over = False
    async with leading(is_over=lambda: over) as rig:
        assert await rig.order(submit()) == "t"
        before, over = len(rig.commits()), True
        for command in (submit(task_id="u"), GetTask(task_id="t")):
            error = await rig.ask(command).error()
            assert isinstance(error, Unavailable)
            assert error.reason == "not_leading"
        with pytest.raises(Unavailable):
            rig.engine.ask_now(FindServices())
        over = False
        assert rig.engine.ask_now(FindServices()) == []
        assert len(rig.commits()) == before


async def test_a_writer_whose_time_is_over_decides_nothing_that_it_had_taken_up() -> None:
    """It appends nothing that seems due: it received no heartbeats during the standstill."""
    over = False
    async with leading(is_over=lambda: over) as rig:
        await rig.order(submit())
        await rig.order(RegisterWorker(worker_id="w"))
        held = await rig.hold()
        told = rig.ask(submit(task_id="u"))
        over = True
        rig.hands.turn(3600.0)
        rig.let_go()
        await held.outcome()
        assert isinstance(await told.error(), Unavailable)
        with pytest.raises(Unavailable, match="does not lead"):
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        assert rig.types()[-1] == ["worker.registered"]


async def test_a_caller_in_this_process_is_held_to_the_types_of_the_wire() -> None:
    """A value that readers of the journal could not decode is refused before it is decided."""
    me = Caller(actor="local")
    async with leading() as rig:
        for command in (submit(priority=2.5), create(environment={"A": 5}), submit(task_name=7)):
            with pytest.raises(Refused, match="malformed"):
                await rig.engine.execute(command, me)
        with pytest.raises(Refused, match="timeout_s nan"):
            await rig.engine.execute(submit(timeout_s=NAN), me)
        assert await rig.engine.execute(submit(timeout_s=3600), me) == "t"
        assert isinstance(rig.world.tasks["t"].timeout_s, float)


async def test_a_caller_who_lost_patience_does_no_harm() -> None:
    """Its command is still executed, and no answer is sent."""
    async with leading() as rig:
        await rig.hold()
        impatient = asyncio.ensure_future(rig.engine.execute(submit(), Caller(actor="local")))
        await asyncio.sleep(TICK_S)
        impatient.cancel()
        rig.let_go()
        await rig.settle()
        assert "t" in rig.replayed().tasks


async def test_the_order_of_one_caller_is_kept() -> None:
    """The order holds across kinds, and between commands and questions."""
    async with leading() as rig:
        await rig.hold()
        asked = [
            submit(),
            GetTask(task_id="t"),
            CancelTask(task_id="t"),
            GetTask(task_id="t"),
            claim(),
            RegisterNode(node_id="n", capacity=create().resources, runtime="fake"),
        ]
        told = [rig.ask(command) for command in asked]
        rig.let_go()
        assert (await told[1].outcome()).status is TaskStatus.PENDING
        assert (await told[3].outcome()).status is TaskStatus.CANCELLED
        assert await told[4].outcome() == []


@pytest.mark.parametrize("is_on", [True, False])
async def test_no_garbage_is_collected_within_a_turn(monkeypatch: pytest.MonkeyPatch, is_on: bool) -> None:
    """Between turns it is, if it was before: the collector belongs to the program that the writer is in."""
    seen: list[bool] = []

    def watched(*given: Any) -> Any:
        seen.append(gc.isenabled())
        return decide(*given)

    monkeypatch.setattr("coordinator.engine.engine.decide", watched)
    try:
        if not is_on:
            gc.disable()
        async with leading() as rig:
            await rig.order(submit())
            assert gc.isenabled() is is_on
    finally:
        gc.enable()
    assert seen
    assert not any(seen)
