"""Why a task is where it is: each rule that can keep it from a worker is named, with what would change it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.explain import Blocker, Explanation, Tier
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.placement import explain as explaining
from coordinator.placement.budget_reasons import amount
from coordinator.placement.explain import MOST_WORKERS_SHOWN, explain, plan
from coordinator.placement.matching import schedule
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.budget import BudgetDefined, BudgetTerms, Unit
from events.errors import NotFound, Refused
from events.hold import HoldPlaced
from events.limit import LimitDefined, Terms, WhenBusy
from events.prices import Price, PricesSet
from events.queue import DEFAULT, Policy, QueueDefined, QueuePaused, QueuePolicySet
from events.spend import Reservation, Spend, Spent
from events.task import Debounce, Gang, TaskCancelled, TaskStatus
from events.task_pause import TaskPaused
from events.worker import WorkerDraining, WorkerLeft
from projections.world import World
from tests.specification import BEGIN, fold, given, said
from tests.unit.deciders.facts import (
    attempt_failed,
    completed,
    failed,
    resources,
    started,
    submit,
    submitted,
    worker,
)
from tests.unit.placement.test_matching import waiting

if TYPE_CHECKING:
    from coordinator.commands.task import SubmitTask
    from events.base import Event

RULES = Rules(lease_s=30.0)
HEARD = 1000.0


def told(*facts: Any, task_id: str = "t", rules: Rules = RULES, silent: dict[str, float] | None = None) -> Explanation:
    """Explain a task after *facts*; every worker was heard just now, unless it is *silent* for so many seconds."""
    world = facts[0] if isinstance(facts[0], World) else fold(*facts)
    return explain(world, signs_of(world, silent or {}), world.tasks[task_id], rules, HEARD)


def signs_of(world: World, silent: dict[str, float]) -> Signs:
    signs = Signs()
    for worker_id in world.workers:
        signs.workers[worker_id] = HEARD - silent.get(worker_id, 0.0)
    return signs


def planned(world: World, command: SubmitTask, rules: Rules = RULES, actor: str = "ann") -> Explanation:
    return plan(world, signs_of(world, {}), command, DecisionContext(world.indexes.now, rules, actor=actor), HEARD)


def limit(**terms: Any) -> LimitDefined:
    return LimitDefined(limit_id="l", terms=Terms(**terms))


def codes(found: Explanation) -> list[tuple[str, Tier]]:
    return [(reason.code, reason.tier) for reason in found.reasons]


def test_limits_are_named_with_the_tasks_that_run() -> None:
    """As many as may run; or the past: as many starts as may be, or an end a short time ago."""
    full = (limit(running=1), worker(), submitted("a"), submitted(), started("a"))
    found = told(*full)
    assert codes(found)[0] == ("key_full", Tier.ITSELF)
    assert found.reasons[0].text == "1 tasks of 'l:' run, as many as may, by the limit l"
    assert found.reasons[0].blockers == [Blocker(kind="task", id="a", for_s=0.0)]
    rests = (limit(starts=1, per_s=60.0), worker(), submitted("a"), submitted(), started("a"))
    assert told(*rests).reasons[0].text == "'l:' may have no start for 60.0 s, by the limit l"
    assert codes(told(*rests))[0] == ("key_rests", Tier.ITSELF)
    assert ("key_full", Tier.ITSELF) not in codes(told(limit(running=2), worker(), submitted("a"), submitted()))


def spending(task_id: str = "t", tokens: int = 60, **others: Any) -> Event:
    return submitted(task_id, spend=Spend(model="m", input_tokens=tokens), **others)


def budget(**terms: Any) -> BudgetDefined:
    return BudgetDefined(budget_id="b", terms=BudgetTerms(**{"cap": 100, **terms}))


def test_a_budget_with_too_little_is_named_with_what_is_reserved_and_until_when() -> None:
    """By whom, at most ten of them, and the smallest cap that would let it begin."""
    ran: tuple[Any, ...] = (
        budget(by="attributes.a"),
        worker(),
        *(spending(one, attributes={"a": "x"}) for one in "at"),
    )
    ran += (started("a", reserved=Reservation(tokens=60)), said(completed("a", spent=Spent(tokens=50)), at=BEGIN + 9.0))
    found = told(*ran, spending("c", 40, attributes={"a": "x"}), started("c", reserved=Reservation(tokens=40)))
    assert codes(found)[0] == ("budget", Tier.ITSELF)
    assert found.reasons[0].text == (
        "an attempt may spend 60 tokens, and of the budget b of 'x' only 10 tokens are left until "
        "1970-01-02T00:00:00Z: of 100 tokens, 50 tokens are spent and 40 tokens reserved for what runs"
    )
    assert found.reasons[0].blockers == [Blocker(kind="task", id="c", for_s=0.0)]
    assert found.reasons[0].change == "coordinator budget define b, with --cap 150"
    assert "budget" not in dict(codes(told(budget(), worker(), spending())))
    assert "budget" not in dict(codes(told(budget(cap=1), worker(), submitted())))


def test_a_budget_without_end_clears_by_itself_only_if_what_runs_may_spend_less() -> None:
    """Else somebody has to give it more; what its floor keeps is told."""
    running = (worker(), spending("a"), spending(), started("a", reserved=Reservation(tokens=60)))
    assert codes(told(budget(window="none"), *running))[0] == ("budget", Tier.ITSELF)
    spent = completed("a", spent=Spent(tokens=60))
    assert codes(told(budget(window="none"), *running, spent))[0] == ("budget", Tier.OPERATOR)
    floor = budget(window="none", floor=30, floor_for="priority > 5")
    assert ": of 100 tokens, 30 tokens of it for tasks of its floor, 60" in told(floor, *running, spent).reasons[0].text


def test_what_no_cap_of_today_allows_and_what_has_no_price_needs_an_operator() -> None:
    """The cap was lowered, or the price was removed, after the task was submitted."""
    dear = told(worker(), spending(), budget(cap=59))
    assert codes(dear)[0] == ("over_budget", Tier.OPERATOR)
    assert dear.reasons[0].text == "an attempt may spend 60 tokens, and the budget b never has more than 59 tokens"
    assert dear.reasons[0].change == "coordinator budget define b, with --cap 60"
    floor = told(worker(), spending(), budget(cap=60, floor=5, floor_for="priority > 5"))
    assert floor.reasons[0].change == "coordinator budget define b, with --cap 65"
    money = told(worker(), spending(), budget(unit=Unit.MONEY))
    assert codes(money)[0] == ("no_price", Tier.OPERATOR)
    assert "no price table, as none is set, has no price for the model 'm'" in money.reasons[0].text
    prices = PricesSet(version="v1", models={"m": Price(input_micros=2_000_000, output_micros=0)})
    empty = told(worker(), spending(), budget(unit=Unit.MONEY), PricesSet(version="v0"))
    assert "the price table v0 has no price" in empty.reasons[0].text
    priced = told(worker(), spending(), budget(unit=Unit.MONEY), prices)
    assert "may spend 0.00012 of money, and the budget b never has more than 0.0001 of money" in priced.reasons[0].text


@pytest.mark.parametrize(
    ("given_", "unit", "text"),
    [(1200, Unit.TOKENS, "1,200 tokens"), (2_500_000, Unit.MONEY, "2.50 of money"), (0, Unit.MONEY, "0.00 of money")],
)
def test_amounts_are_told_in_words(given_: int, unit: Unit, text: str) -> None:
    """Money as a decimal number."""
    assert amount(given_, unit) == text


def test_a_start_that_lies_ahead_is_told() -> None:
    """Because it was asked for, or because another task may take its place."""
    later = told(worker(), submitted(not_before=BEGIN + 61.0))
    assert codes(later)[0] == ("not_before", Tier.ITSELF)
    assert later.summary == "it was submitted to begin later: it may begin in 60.0 s"
    waits = told(worker(), submitted(debounce=Debounce(since=BEGIN, until=BEGIN + 61.0)))
    assert codes(waits)[0] == ("debounced", Tier.ITSELF)


@pytest.mark.parametrize("content", [
    {},
    {"queue": "q", "priority": "high"},
    {"attributes": {"a": "x"}},
    {"attributes": {"a": "y"}, "delay_s": 60.0},
    {"task_name": "other"},
    {"worker_filter": 'labels.zone == "eu"'},
    {"resources": resources(cpu=9000)},
    {"after": After(tasks=("a",))},
    {"after": After(tasks=("b", "a"), join=AfterJoin.ANY)},
    {"after": After(tasks=("e",))},
    {"after": After(tasks=("e",), otherwise=Otherwise.RUN)},
])  # fmt: skip
def test_a_plan_is_the_explanation_after_the_submit(content: dict[str, Any]) -> None:
    """Whatever the task asks for; nothing is submitted."""
    facts = (
        *(limit(by="attributes.a", running=1), worker(handles=("work",), slots=2, resources=resources(cpu=4000))),
        *(QueueDefined(queue_id="q"), HoldPlaced(hold_id="h", where='attributes.a == "y"')),
        *(
            submitted("a", attributes={"a": "x"}),
            submitted("b"),
            started("a"),
            started("b", lease="d.1.1"),
            completed("b"),
            submitted("e"),
            TaskCancelled(task_id="e"),
        ),
    )
    before = given(*facts)
    world, command = before.world, submit(**content)
    world.indexes.advance(world.time + 1.0)
    digest = world.digest()
    found = planned(world, command)
    assert world.digest() == digest
    after = before.when(command, at=world.time + 1.0, tenant="", actor="")
    after.then(*after.events)
    assert found == explain(world, signs_of(world, {}), world.tasks["t"], RULES, HEARD)


def test_a_plan_without_a_limit_says_who_would_run_it() -> None:
    """A worker that fits now; the task has no place in any queue afterwards."""
    world = fold(worker())
    found = planned(world, submit())
    assert (found.task_id, found.ahead, found.worker_counts) == ("t", 0, {"fits": 1})
    assert world.tasks == {}


def test_a_plan_is_refused_as_its_submit_would_be() -> None:
    """A limit that would return another task explains that one."""
    world = fold(worker(), limit(running=1, when_busy=WhenBusy.RETURN_EXISTING), submitted("a"))
    assert planned(world, submit()).task_id == "a"
    with pytest.raises(Refused, match="does not exist"):
        planned(world, submit(queue="q"))
    assert planned(world, submit("a")).task_id == "a"
    with pytest.raises(Refused, match="another task_name"):
        plan(
            world, signs_of(world, {}), submit("a", task_name="other"), DecisionContext(world.indexes.now, RULES), HEARD
        )
    rests = fold(
        *(limit(cooldown_s=900.0, when_busy=WhenBusy.RETURN_EXISTING), worker(), submitted("a"), started("a")),
        completed("a"),
    )
    del rests.tasks["a"]
    with pytest.raises(NotFound):
        planned(rests, submit())
    rejects = fold(worker(), limit(running=1, when_busy=WhenBusy.REJECT), submitted("a"))
    with pytest.raises(Refused, match="is busy by a"):
        planned(rejects, submit())


def test_without_a_worker_somebody_has_to_start_one() -> None:
    """The smallest change is said."""
    found = told(submitted())
    assert codes(found) == [("no_worker", Tier.OPERATOR)]
    assert found.reasons[0].change == "start a worker that handles 'work'"
    assert (found.ahead, found.starts_in_s, found.queue, found.policy) == (0, None, "default", "fifo")
    assert codes(told(worker(), WorkerLeft(worker_id="w"), submitted())) == [("no_worker", Tier.OPERATOR)]


def test_a_name_that_nobody_handles_can_never_run() -> None:
    """The nearest names are told."""
    found = told(worker(handles=("summarise", "translate")), submitted(task_name="sumarise"))
    assert codes(found) == [("no_handler", Tier.NEVER)]
    assert found.reasons[0].text == "none of 1 workers handles 'sumarise': did you mean summarise?"
    assert found.workers[0].against == {"other_names": "handles summarise, translate"}
    assert "did you mean" not in told(worker(handles=("x",)), submitted()).reasons[0].text


def test_a_task_larger_than_every_worker_can_never_run() -> None:
    """It is told what it needs."""
    small = worker(resources=resources(cpu=1000, memory=2**31, gpus=1))
    found = told(small, submitted(resources=resources(cpu=4000)))
    assert codes(found) == [("too_large", Tier.NEVER)]
    assert found.worker_counts == {"too_small": 1}
    assert found.reasons[0].change == "start a worker with 4 cores, or submit it with less"
    assert found.workers[0].against == {"too_small": "has 1 cores, 2 GiB, 1 GPUs"}
    assert "no room" not in told(small, submitted(resources=resources(gpus=1))).summary


def test_a_held_task_needs_an_operator() -> None:
    """By whom, since when and why, for how long still, and the command that lifts the first of its holds."""
    placed = HoldPlaced(hold_id="h", where="true", reason="why", expires_at=BEGIN + 62)
    found = told(worker(), submitted(), placed)
    assert codes(found) == [("held", Tier.OPERATOR)]
    assert found.summary == "hold h of tester keeps it, for 60 s more: why"
    assert found.reasons[0].change == "coordinator hold lift h"
    assert found.reasons[0].blockers == [Blocker(kind="hold", id="h", for_s=0.0)]
    assert found.starts_in_s is None
    many = (HoldPlaced(hold_id=f"m{number}", where="true") for number in range(20))
    paused = TaskPaused(task_id="t", reason="r")
    found = told(worker(), HoldPlaced(hold_id="no", where="false"), submitted(), *many, paused)
    assert codes(found) == [("task_paused", Tier.OPERATOR), ("held", Tier.OPERATOR)]
    assert found.reasons[1].text == "hold m0 of tester keeps it; it meets 19 more"
    assert [one.id for one in found.reasons[1].blockers] == [f"m{number}" for number in range(10)]
    assert told(worker(), submitted(), HoldPlaced(hold_id="h", where="false")).reasons[0].code == "not_claimed"


def test_a_paused_queue_needs_an_operator() -> None:
    """By whom, since when, and the command that resumes it; what else is in the way comes after it."""
    found = told(worker(), QueueDefined(queue_id="q"), submitted(queue="q"), QueuePaused(queue_id="q", reason="why"))
    assert codes(found) == [("queue_paused", Tier.OPERATOR), ("not_claimed", Tier.ITSELF)]
    assert found.summary == "queue q was paused by tester: why"
    assert found.reasons[0].change == "coordinator queue resume q"
    assert [(one.kind, one.id) for one in found.reasons[0].blockers] == [("queue", "q")]
    assert told(worker(), submitted(), QueuePaused(queue_id=DEFAULT)).summary == "queue default was paused by tester"


def test_a_task_waits_for_those_before_it() -> None:
    """Those of them that have not ended."""
    several = submitted(after=After(tasks=("a", "b", "c")), waits_for=("a", "b", "c"))
    found = told(worker(), submitted("a"), submitted("b"), submitted("c"), several, TaskCancelled(task_id="b"))
    assert codes(found) == [("waits_for", Tier.ITSELF)]
    assert found.summary == "it waits for the success of all of a, c"
    assert [(one.kind, one.id) for one in found.reasons[0].blockers] == [("task", "a"), ("task", "c")]
    alone = submitted(after=After(tasks=("a",), on=AfterOn.END), waits_for=("a",))
    assert told(worker(), submitted("a"), alone).summary == "it waits for the end of a"


def test_a_paused_task_needs_an_operator() -> None:
    """Whatever else there is."""
    found = told(worker(), submitted(), TaskPaused(task_id="t", reason="wait for the fix"))
    assert codes(found) == [("task_paused", Tier.OPERATOR)]
    assert found.summary == "the task was paused: wait for the fix"
    assert (found.reasons[0].change, found.ahead) == ("coordinator task resume t", None)


def test_a_retry_waits_for_its_time() -> None:
    """With the error of the attempt before."""
    found = told(worker(), submitted(), started(), attempt_failed(retry_at=BEGIN + 100.0))
    assert codes(found)[0] == ("back_off", Tier.ITSELF)
    assert "attempt 1 failed (boom); the next one may begin in" in found.summary
    assert found.ahead is None


@pytest.mark.parametrize(
    ("facts", "silent", "code", "tier"),
    [
        ((worker(slots=1), submitted("other"), started("other")), {}, "workers_busy", Tier.ITSELF),
        ((worker(), WorkerDraining(worker_id="w", reason="deploy")), {}, "workers_stopping", Tier.OPERATOR),
        ((worker(),), {"w": 25.0}, "workers_silent", Tier.ITSELF),
        ((worker(),), {}, "not_claimed", Tier.ITSELF),
        ((worker(), submitted("first"), submitted("second")), {}, "behind_others", Tier.ITSELF),
    ],
)
def test_what_keeps_it_from_workers_is_named(
    facts: tuple[Event, ...], silent: dict[str, float], code: str, tier: Tier
) -> None:
    """One reason each, the one that decides."""
    assert codes(told(*facts, submitted(), silent=silent)) == [(code, tier)]


def test_who_is_in_the_way_is_told_with_the_time_since_when() -> None:
    """The tasks that hold the slots or the room, those that run longest first."""
    busy = (worker(slots=2), submitted("a"), submitted("b"), started("b", lease="d.1.1"), started("a", lease="e.1.1"))
    (reason,) = told(*busy, submitted()).reasons
    assert [(one.kind, one.id) for one in reason.blockers] == [("task", "b"), ("task", "a")]
    assert reason.blockers[0].for_s is not None
    assert reason.blockers[0].for_s > (reason.blockers[1].for_s or 0.0)
    room = (worker(resources=resources(cpu=2)), submitted("a", resources=resources(cpu=2)), started("a"))
    found = told(*room, submitted(resources=resources(cpu=1)))
    assert codes(found) == [("workers_busy", Tier.ITSELF)]
    assert "no_room" in found.workers[0].against


def test_a_full_fleet_is_told() -> None:
    """With the setting that limits it."""
    found = told(worker(), submitted("a"), started("a"), submitted(), rules=Rules(max_concurrent_tasks=1))
    assert codes(found)[0] == ("fleet_full", Tier.ITSELF)
    assert found.reasons[0].blockers == [Blocker(kind="task", id="a", for_s=found.reasons[0].blockers[0].for_s)]


def test_the_place_in_the_queue_is_by_the_policy() -> None:
    """Not by age alone."""
    facts = (worker(slots=1), submitted("old"), submitted("t", priority=1), submitted("urgent", priority=5))
    assert told(*facts).ahead == 1
    by_priority = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="priority"))
    found = told(*facts, by_priority)
    assert (found.ahead, found.policy) == (1, "priority")
    assert told(*facts, by_priority, task_id="old").ahead == 2
    assert told(*facts, by_priority, task_id="urgent").ahead == 0


def test_a_start_is_estimated_from_the_last_runs() -> None:
    """Of the same name if there are some; none without any, and at once where slots are not limited."""
    ran = [
        fact
        for number in range(4)
        for fact in (
            submitted(f"r{number}"),
            started(f"r{number}", lease=f"c{number}.1.1"),
            completed(f"r{number}", f"c{number}.1.1"),
        )
    ]
    busy = (worker(slots=1), *ran, submitted("b"), submitted(), submitted("a"), started("a"))
    found = told(*busy)
    assert found.estimated_from == 4
    assert found.starts_in_s == pytest.approx(2.0, rel=0.01)  # two before it, each for a second
    assert told(*busy, submitted("e", task_name="else"), task_id="e").estimated_from == 4
    none = told(worker(slots=1), submitted("a"), started("a"), submitted())
    assert (none.starts_in_s, none.estimated_from) == (None, 0)
    assert told(worker(), submitted()).starts_in_s == 0.0


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        (completed(), TaskStatus.COMPLETED, "completed in attempt 1, told by tester"),
        (failed(), TaskStatus.FAILED, "failed in attempt 1, told by tester: boom"),
    ],
)
def test_an_ended_task_says_who_and_why(end: Event, status: TaskStatus, said: str) -> None:
    """And in which attempt."""
    found = told(worker(), submitted(), started(), end)
    assert (found.status, found.summary) == (status, said)


def test_a_running_task_says_where() -> None:
    """And when its worker was last heard."""
    found = told(worker(), submitted(), started())
    assert found.summary.startswith("runs on worker w, attempt 1, last heard")


def test_few_workers_are_shown_and_all_are_counted() -> None:
    """The ones first that lack least."""
    workers = [worker(f"w{number}", handles=("x",) if number else ()) for number in range(50)]
    found = told(*workers, submitted())
    assert len(found.workers) == MOST_WORKERS_SHOWN
    assert found.workers[0].worker_id == "w0"
    assert found.worker_counts == {"fits": 1, "other_names": 49}


def test_of_very_many_workers_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are counted; nothing is estimated from a part of those that could run it."""
    monkeypatch.setattr(explaining, "WORKERS_LOOKED_AT", 3)
    monkeypatch.setattr(explaining, "OTHERS_LOOKED_AT", 2)
    able = [worker(f"a{number}", slots=1) for number in range(5)]
    others = [worker(f"o{number}", handles=("x",)) for number in range(7)]
    gone = [worker("gone"), WorkerLeft(worker_id="gone")]
    found = told(*gone, *able, *others, submitted())
    assert found.worker_counts == {"fits": 3, "not_looked_at": 2, "other_names": 7}
    assert found.starts_in_s is None
    assert [one.worker_id for one in found.workers] == ["a0", "a1", "a2", "o0", "o1"]
    (reason,) = told(*others, submitted()).reasons
    assert reason.text.startswith("none of 7 workers handles")


def test_a_name_that_nobody_handles_is_compared_with_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing takes long, and anybody may register workers."""
    facts = worker("a", handles=("x", "y", "reports")), submitted(task_name="report")
    assert "did you mean reports?" in told(*facts).summary
    monkeypatch.setattr(explaining, "NAMES_COMPARED", 2)
    assert "did you mean" not in told(*facts).summary


def test_what_fits_by_the_explanation_is_what_the_scheduler_gives() -> None:
    """A worker gets the task exactly if nothing is said to be against it."""
    facts = (
        worker("small", resources=resources(cpu=1)),
        worker("large", resources=resources(cpu=9)),
        worker("other", handles=("x",)),
        worker("full", slots=1),
        worker("draining"),
        WorkerDraining(worker_id="draining"),
        submitted("a"),
        started("a", worker_id="full"),
        submitted(resources=resources(cpu=5)),
    )
    world = fold(*facts)
    found = told(world)
    for one in found.workers:
        given = list(schedule(world, [waiting(worker_id=one.worker_id)], {}, most=1))
        assert bool(given) is one.fits, one


@pytest.mark.alone
@pytest.mark.parametrize("strategy", ["fifo", "priority"])
def test_an_explanation_among_a_hundred_thousand_takes_five_milliseconds(strategy: str) -> None:
    """Whatever the order; the last one in it is the dearest."""
    policy = QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy=strategy, ageing_s=60.0))
    many = (submitted(f"t{number}", priority=number * 7919 % 100) for number in range(100_000))
    world = fold(worker(slots=1), policy, *many)
    costs = []
    for _ in range(7):
        began = time.process_time()
        assert told(world, task_id="t99999").ahead
        costs.append(time.process_time() - began)
    assert min(costs) < 0.005


# --- gangs ------------------------------------------------------------------------------------------------------------


def of_gang(task_id: str, size: int = 3, **others: Any) -> Event:
    gang = Gang(gang_id="g", size=size, deadline_s=60.0)
    return submitted(task_id, gang=gang, gang_until=BEGIN + 60.0, **others)


def test_a_gang_that_gathers_says_who_is_missing() -> None:
    """How many are here and wait, which are not ready, and when all of them end."""
    found = told(worker(), of_gang("t"), of_gang("u"), TaskPaused(task_id="u", reason="why"))
    (reason,) = found.reasons
    assert (reason.code, reason.tier) == ("gang_gathers", Tier.ITSELF)
    assert reason.text == "2 of 3 tasks of gang g are here, 1 wait; in 57.0 s all of them end, at the deadline"
    assert reason.blockers == [Blocker(kind="task", id="u")]
    assert reason.change == "submit 1 more with gang g"
    assert found.ahead is None
    everyone = worker(), of_gang("t"), of_gang("u"), of_gang("v"), TaskPaused(task_id="u", reason="why")
    assert told(*everyone).reasons[0].change == ""


def test_a_gang_that_is_planned_counts_the_task_itself() -> None:
    """It is not submitted."""
    command = submit("t", gang=Gang(gang_id="g", size=3, deadline_s=60.0))
    world = fold(worker())
    found = plan(world, signs_of(world, {}), command, DecisionContext(world.time + 5.0, RULES), HEARD)
    assert found.reasons[0].text.startswith("1 of 3 tasks of gang g are here, 0 wait; in 65.0 s")


def test_a_gang_needs_room_for_all_at_once() -> None:
    """It can never have it if the workers are too few; else it is said how much there is, and that it is kept."""
    tasks = of_gang("t"), of_gang("u"), of_gang("v")
    (never,) = told(worker(slots=2), *tasks).reasons[:1]
    assert (never.code, never.tier) == ("gang_too_large", Tier.NEVER)
    assert "workers had it for 2" in never.text
    limit = LimitDefined(limit_id="l", terms=Terms(by="task_name", starts=2, per_s=9.0))
    (never,) = told(worker(), limit, *tasks).reasons[:1]
    assert never.code == "gang_too_large"
    assert "the limit l never lets as many of 'l:work' start together" in never.text
    facts = worker(slots=3), submitted("r"), started("r"), *tasks
    reason = next(one for one in told(*facts).reasons if one.code == "gang_waits")
    assert reason.text.startswith("gang g needs room for 3 tasks at once; workers have it for 2; in 5")
    world = fold(*facts, submitted("z"))
    world.indexes.advance(world.time + 30.0)
    reason = next(one for one in told(world).reasons if one.code == "gang_waits")
    assert "workers have it for 2, which is kept for it" in reason.text
    assert not any(one.code == "kept_for_gang" for one in told(world).reasons)
    behind = next(one for one in told(world, task_id="z").reasons if one.code == "kept_for_gang")
    assert behind.text == "free room is kept for the 3 tasks of gang g, for 24.0 s at most"
    assert [one.id for one in behind.blockers] == ["t", "u", "v"]
    apart = fold(*facts, worker("x", handles=("other",)), submitted("z", task_name="other"))
    apart.indexes.advance(apart.time + 30.0)
    assert not any(one.code == "kept_for_gang" for one in told(apart, task_id="z").reasons)


def test_a_task_whose_gang_has_begun_waits_for_itself() -> None:
    """After a failed attempt it is explained as any other task."""
    begun = of_gang("t", 2), of_gang("u", 2), started("t"), started("u", "c.2.1"), attempt_failed("t")
    assert codes(told(worker(), *begun)) == [("not_claimed", Tier.ITSELF)]
