"""What is refused and matters later is recorded, and nobody can fill the journal with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.container import StartContainer
from coordinator.commands.node import RegisterNode, SyncNode
from coordinator.commands.task import CancelTask
from coordinator.commands.worker import DrainWorker, RegisterWorker
from coordinator.deciders.rules import Limits, Rules
from coordinator.engine.refusals import MESSAGE_CHARS, PAUSE_S, SOURCES_MOST, Refusals
from coordinator.errors import CoordinationError, Refused, Unavailable
from coordinator.security.authorization import AccessRules, Quota, Rule
from events.coordinator import CoordinatorCommandRefused, CoordinatorPlacementRefused
from events.errors import Forbidden, NotFound
from events.resources import Resources
from tests.unit.deciders.facts import claim, create, submit
from tests.unit.engine.engine_rig import TICK_S, Rig, leading

if TYPE_CHECKING:
    from events.base import Event

REFUSALS = (CoordinatorCommandRefused, CoordinatorPlacementRefused)
CAPACITY = Resources(cpu_millis=1000, memory_bytes=4096)
BIG = Resources(memory_bytes=5000)


def refusals(rig: Rig) -> list[Any]:
    return [event for event in rig.events() if isinstance(event, REFUSALS)]


def sources(rig: Rig) -> list[tuple[str, int]]:
    """Return who was refused, and how often."""
    envelopes = [one for commit in rig.commits() for one in commit]
    return [(one.actor, one.data.count) for one in envelopes if isinstance(one.data, REFUSALS)]


async def pause(rig: Rig) -> None:
    rig.hands.turn(PAUSE_S)
    await rig.settle()


async def refused(rig: Rig, command: Any, actor: str = "tester") -> CoordinationError:
    return await rig.ask(command, actor=actor).error()


async def test_a_container_that_found_no_room_is_a_fact_with_the_reason_of_each_node() -> None:
    """In the commit that is written before the caller is told."""
    async with leading() as rig:
        await rig.order(RegisterNode(node_id="n", capacity=CAPACITY, runtime="fake"))
        assert (await refused(rig, create(resources=BIG), "alice")).reason == "no_room"
        why = {"n": "has too few free resources (memory: asked 5000 bytes, free 4096 bytes)"}
        fact = CoordinatorPlacementRefused(container_id="k", resources=BIG, reason="no_room", nodes=why)
        assert rig.events()[-1] == fact
        assert sources(rig) == [("alice", 1)]


async def test_a_restart_that_finds_no_room_is_told_once() -> None:
    """It is due in every tick: a state that lasts writes nothing more; its next failure is told again."""
    async with leading(rules=Rules(restart_backoff_s=0.0, container_start_timeout_s=5.0, node_lease_s=1e6)) as rig:
        await rig.order(RegisterNode(node_id="n", capacity=CAPACITY, runtime="fake"))
        await rig.order(create(resources=CAPACITY))
        await rig.order(StartContainer(container_id="k"))
        await rig.order(RegisterNode(node_id="n", capacity=Resources(cpu_millis=1), runtime="fake"))
        rig.hands.turn(6.0)
        await rig.settle()
        for _ in range(5):
            await pause(rig)
        (fact,) = refusals(rig)
        assert (fact.container_id, fact.reason, list(fact.nodes)) == ("k", "no_room", ["n"])
        assert sources(rig) == [("coordinator", 1)]
        await rig.order(RegisterNode(node_id="n", capacity=CAPACITY, runtime="fake"))
        await pause(rig)
        assert rig.world.containers["k"].restarts > 0
        await rig.order(RegisterNode(node_id="n", capacity=Resources(cpu_millis=1), runtime="fake"))
        await pause(rig)
        await pause(rig)
        assert len(refusals(rig)) == 2


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (claim("d", "w"), "worker_draining"),
        (claim("c", "v"), "id_taken"),
        (claim("d", "x"), "overloaded"),
    ],
)
async def test_a_refused_claim_is_a_fact(command: Any, reason: str) -> None:
    """Why a worker got no work is looked for in the journal."""
    async with leading(limits=Limits(tick_s=TICK_S, waiting_max=1)) as rig:
        for name in ("u", "v", "w"):
            await rig.order(RegisterWorker(worker_id=name))
        await rig.order(DrainWorker(worker_id="w"))
        waits = rig.ask(claim("c", "u", wait_s=30.0))
        await rig.settle()
        assert (await refused(rig, command)).reason == reason
        (fact,) = refusals(rig)
        assert (fact.command, fact.reason, fact.about) == ("task.claim", reason, command.worker_id)
        assert not waits.yet


async def test_limits_and_quotas_are_facts() -> None:
    """Who was refused is the actor of the event."""
    rules = AccessRules(
        sources={
            "fast": Rule(quota=Quota(submits_per_s=0.001, submit_burst=1)),
            "many": Rule(quota=Quota(max_pending_tasks=1)),
            "none": Rule(may=frozenset()),
        }
    )
    async with leading(access=rules, rules=Rules(max_pending_tasks=2)) as rig:
        await rig.ask(submit("a"), actor="fast").outcome()
        await rig.ask(submit("b"), actor="many").outcome()
        for actor in ("fast", "many", "none", "tester"):
            await refused(rig, submit("c"), actor)
        told = [(fact.reason, who) for fact, (who, _) in zip(refusals(rig), sources(rig), strict=True)]
        assert told == [("rate_limited", "fast"), ("quota", "many"), ("forbidden", "none"), ("queue_full", "tester")]


async def test_what_does_not_matter_later_is_not_recorded() -> None:
    """A wrong id or a malformed text is between the caller and its answer."""
    async with leading() as rig:
        before = len(rig.commits())
        for command in (CancelTask(task_id="none"), submit("not an id"), claim("not an id"), claim(strategy="best")):
            await refused(rig, command)
        assert len(rig.commits()) == before


async def test_a_source_that_goes_on_has_one_event_in_ten_seconds() -> None:
    """The first at once, then one with the number of those since; a source of its own for each reason and actor."""
    async with leading(rules=Rules(max_pending_tasks=0)) as rig:
        for number in range(50):
            await refused(rig, submit(f"t{number}"), "hostile")
        await refused(rig, submit("z"), "other")
        assert sources(rig) == [("hostile", 1), ("other", 1)]
        await pause(rig)
        assert sources(rig)[2:] == [("hostile", 49)]
        assert refusals(rig)[2].about == "t49"
        await pause(rig)
        await pause(rig)
        assert len(refusals(rig)) == 3
        await refused(rig, submit("z"), "hostile")
        assert sources(rig)[3:] == [("hostile", 1)]


async def test_many_sources_share_their_events() -> None:
    """Where anybody may call himself what he likes, new names do not buy new events."""
    async with leading(rules=Rules(max_pending_tasks=0)) as rig:
        for number in range(SOURCES_MOST + 50):
            await refused(rig, submit("t"), f"s{number}")
        assert len(refusals(rig)) == SOURCES_MOST + 1
        assert sources(rig)[-1] == ("coordinator", 1)
        await pause(rig)
        assert sources(rig)[SOURCES_MOST + 1 :] == [("coordinator", 49)]
        await pause(rig)
        await refused(rig, submit("t"), "s0")
        assert sources(rig)[-1] == ("s0", 1)


async def test_what_was_counted_is_recorded_when_a_reign_ends_in_order() -> None:
    """Before its last event."""
    async with leading(rules=Rules(max_pending_tasks=0)) as rig:
        for _ in range(3):
            await refused(rig, submit())
        rig.engine.resign("asked to")
        await rig.run
        assert [one for commit in rig.types() for one in commit][-2:] == [
            "coordinator.command_refused",
            "coordinator.stopped",
        ]
        assert sources(rig) == [("tester", 1), ("tester", 2)]


async def test_refusals_that_do_not_fit_are_recorded_in_the_next_turn() -> None:
    """Their answers do not wait for it."""
    async with leading(rules=Rules(max_pending_tasks=0), limits=Limits(tick_s=TICK_S, turn_bytes=16_384)) as rig:
        await rig.hold()
        told = [rig.ask(submit(f"t{number}"), actor=f"s{number}") for number in range(60)]
        rig.let_go()
        for one in told:
            assert (await one.error()).reason == "queue_full"
        await rig.settle()
        assert len([commit for commit in rig.types() if "coordinator.command_refused" in commit]) > 1
        assert sources(rig) == [(f"s{number}", 1) for number in range(60)]


def one_event(command: Any, error: CoordinationError, actor: str = "a") -> Event:
    kept = Refusals("i")
    kept.note(Caller(actor=actor), command, error)
    ((event, caller),) = kept.due(0.0)
    assert caller.command_id == ""  # else the refused command would be remembered as done
    return event


@pytest.mark.parametrize("text", ["x" * 10_000, "\ud800" * 300, "\0\x1b" * 5000])
def test_hostile_text_is_bounded(text: str) -> None:
    """What a caller wrote is cut, can be encoded, and is no id unless it is valid as one."""
    event = one_event(submit(text), Forbidden(text))
    assert isinstance(event, CoordinatorCommandRefused)
    assert len(event.message.encode()) <= MESSAGE_CHARS
    assert event.about == ""


def test_a_command_that_names_nothing_is_about_nothing() -> None:
    """The id is empty then."""
    event = one_event(SyncNode(node_id=""), Forbidden("no"))
    assert isinstance(event, CoordinatorCommandRefused)
    assert (event.command, event.about) == ("node.sync", "")


def test_reasons_that_are_not_recorded_cost_nothing() -> None:
    """Nothing is kept of them."""
    kept = Refusals("i")
    for error in (NotFound("no"), Refused("no", reason="bad_id"), Unavailable("no")):
        kept.note(Caller(actor="a"), submit(), error)
    assert list(kept.due(1e9)) == []
