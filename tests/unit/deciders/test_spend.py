"""What budgets mean for the attempts at a task: submits, reports, ends, and the stop of one that spends too much."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from coordinator.commands.cancel_ladder import CancelStep, ReportCancel
from coordinator.commands.task import CancelTask, ProgressTask, ReleaseTask
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.budget import BudgetCorrected, BudgetDefined, BudgetTerms, Stop, Unit
from events.cancel_ladder import TaskCancelAsked, TaskCancelTold
from events.prices import Price, PricesSet
from events.retry import RetryPolicy
from events.spend import Reservation, Spend, Spent
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskTimedOut,
    TaskUsage,
)
from events.task_pause import TaskPaused
from projections.budget import KeySpent, WindowUse
from tests.specification import given
from tests.unit.deciders.facts import complete, fail, started, submit, submitted, worker

SPEND = Spend(model="m", input_tokens=60, output_tokens=40, money_micros=7)
PRICE = Price(input_micros=1_000_000, output_micros=4_000_000, cached_micros=100_000, reasoning_micros=5_000_000)
PRICES = PricesSet(version="v1", models={"m": PRICE})
RESERVED = Reservation(tokens=100, money_micros=267, prices="v1", price=PRICE)
USAGE = TaskUsage(input_tokens=30, cached_tokens=15, output_tokens=10, reasoning_tokens=2, money_micros=3)
SPENT = Spent(tokens=57, money_micros=30 + 2 + 40 + 10 + 3)
"""1.5 micro-units for the tokens of the cache are rounded up."""


def budget(**given_: Any) -> BudgetDefined:
    return BudgetDefined(budget_id="b", terms=BudgetTerms(**{"cap": 1000, **given_}))


def running(**others: Any) -> list[Any]:
    return [PRICES, worker(), submitted(spend=SPEND, **others), started(reserved=RESERVED)]


# --- submits ----------------------------------------------------------------------------------------------------------


def test_a_task_may_say_what_it_may_spend() -> None:
    """A repeat must say the same."""
    given().when(submit(spend=SPEND, max_retries=3)).then(submitted(spend=SPEND))
    given(submitted(spend=SPEND)).when(submit(spend=SPEND)).then_nothing()
    given(submitted(spend=SPEND)).when(submit()).then_refused("id_taken", "spend")


@pytest.mark.parametrize(
    ("spend", "reason", "named"),
    [
        (Spend(input_tokens=-1), "bad_number", "spend.input_tokens -1"),
        (Spend(output_tokens=2**60), "bad_number", "spend.output_tokens"),
        (Spend(money_micros=-1), "bad_number", "spend.money_micros -1"),
        (Spend(model="a\n"), "bad_text", "spend.model"),
        (Spend(model="x" * 129), "bad_text", "129"),
    ],
)
def test_odd_amounts_are_refused(spend: Spend, reason: str, named: str) -> None:
    """The message names the field."""
    given().when(submit(spend=spend)).then_refused(reason, named)


def test_what_a_budget_could_never_pay_is_refused() -> None:
    """Its floor is for others, unless the task is one of those."""
    given(budget(cap=99)).when(submit(spend=SPEND)).then_refused("over_budget", "100 tokens", "'b'", "only 99")
    given(budget(cap=100)).when(submit(spend=SPEND, max_retries=3)).then(submitted(spend=SPEND))
    floor = {"floor": 1, "floor_for": "priority >= 8"}
    given(budget(cap=100, **floor)).when(submit(spend=SPEND)).then_refused("over_budget", "only 99")
    given(budget(cap=100, **floor)).when(submit(spend=SPEND, priority=8, max_retries=3)).then(
        submitted(spend=SPEND, priority=8)
    )
    of_others = budget(cap=1, where='task_name == "other"')
    given(of_others).when(submit(spend=SPEND, max_retries=3)).then(submitted(spend=SPEND))
    given(budget(cap=1)).when(submit(max_retries=3)).then(submitted())


def test_a_budget_of_money_needs_a_price() -> None:
    """The message says what is known; a budget of tokens needs none, nor does a task that only costs money."""
    money = budget(unit=Unit.MONEY)
    given(money).when(submit(spend=SPEND)).then_refused("no_price", "model 'm'", "no prices are set")
    near = PricesSet(version="v1", models={"gpt-5-mini": PRICE, "x": PRICE})
    given(money, near).when(submit(spend=Spend(model="gpt-5-min"))).then_refused("no_price", "did you mean gpt-5-mini?")
    given(money, near).when(submit(spend=SPEND)).then_refused("no_price", "version v1", "known are gpt-5-mini, x")
    given(budget()).when(submit(spend=SPEND, max_retries=3)).then(submitted(spend=SPEND))
    only = Spend(money_micros=5)
    given(money).when(submit(spend=only, max_retries=3)).then(submitted(spend=only))
    given(money, PRICES).when(submit(spend=SPEND, max_retries=3)).then(submitted(spend=SPEND))


# --- ends -------------------------------------------------------------------------------------------------------------


def test_what_was_reported_is_charged_at_the_prices_of_the_begin() -> None:
    """Whatever the table says by then; each kind of tokens at its own price."""
    dearer = PricesSet(version="v2", models={"m": Price(input_micros=9_000_000, output_micros=9_000_000)})
    for facts in (running(), [*running(), dearer]):
        given(*facts).when(complete(usage=USAGE)).then(
            TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE, spent=SPENT)
        )


def test_without_prices_for_them_tokens_cost_nothing() -> None:
    """What was reported besides does; tokens are read and written, from a cache or not, as reasoning or not."""
    simple = Price(input_micros=1_000_000, output_micros=4_000_000)
    facts = [worker(), submitted(spend=SPEND), started(reserved=Reservation(tokens=100, price=simple))]
    given(*facts).when(complete(usage=USAGE)).then(
        TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE, spent=Spent(tokens=57, money_micros=45 + 48 + 3))
    )
    facts = [worker(), submitted(spend=SPEND), started(reserved=Reservation(tokens=100))]
    given(*facts).when(complete(usage=USAGE)).then(
        TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE, spent=Spent(tokens=57, money_micros=3))
    )


def test_who_completes_and_reports_nothing_is_charged_what_was_reserved() -> None:
    """To report nothing makes no task cheaper; one that was not reserved for is charged nothing."""
    given(*running()).when(complete()).then(
        TaskCompleted(task_id="t", lease="c.1.1", spent=Spent(tokens=100, money_micros=267))
    )
    given(worker(), submitted(spend=SPEND), started()).when(complete()).then(
        TaskCompleted(task_id="t", lease="c.1.1", spent=Spent())
    )
    given(*running()).when(complete(usage=TaskUsage())).then(
        TaskCompleted(task_id="t", lease="c.1.1", usage=TaskUsage(), spent=Spent())
    )


def test_a_failed_attempt_is_charged_what_it_reported() -> None:
    """The rest of what was reserved is free again, also when nothing was reported, or nobody is there to report."""
    failed: dict[str, Any] = {"task_id": "t", "lease": "c.1.1", "error": "boom", "attempt": 1}
    event = given(*running()).when(fail(usage=USAGE)).events[0]
    assert isinstance(event, TaskAttemptFailed)
    assert (event.usage, event.spent) == (USAGE, SPENT)
    event = given(*running()).when(fail()).events[0]
    assert isinstance(event, TaskAttemptFailed)
    assert (event.usage, event.spent) == (None, Spent())
    given(*running(max_retries=0)).when(fail()).then(TaskFailed(**failed, reason="failed", spent=Spent()))
    event = given(*running(max_retries=0, retry=RetryPolicy(when_exhausted="pause"))).when(fail(usage=USAGE)).events[0]
    assert isinstance(event, TaskPaused)
    assert event.spent == SPENT
    event = given(*running()).when(ReleaseTask(task_id="t", lease="c.1.1")).events[0]
    assert isinstance(event, TaskAttemptFailed)
    assert event.spent == Spent()


def test_a_task_that_says_nothing_of_what_it_may_spend_is_not_charged() -> None:
    """Its usage is recorded, as that of any."""
    facts = [PRICES, worker(), submitted(), started()]
    given(*facts).when(complete(usage=USAGE)).then(TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE))
    both = [*facts, submitted("other", spend=SPEND)]
    given(*both).when(complete(usage=USAGE)).then(TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE))
    given(*facts).when(ProgressTask(task_id="t", lease="c.1.1", usage=USAGE)).then_nothing()


def test_an_attempt_that_begins_and_ends_at_once_is_charged_at_the_prices_of_now() -> None:
    """Nothing was reserved for it, and that it spent something is true all the same: it is an overrun."""
    made = "direct.1"
    begun = TaskStarted(task_id="t", worker_id="direct", claim_id="direct", attempt=1, lease=made)
    facts = (budget(), PRICES, submitted(spend=SPEND))
    decided = given(*facts).when(complete("", usage=USAGE))
    decided.then(begun, TaskCompleted(task_id="t", lease=made, usage=USAGE, spent=SPENT))
    assert decided.world.spent == {"$b:": KeySpent("$b:", (WindowUse(0, 57, 57),))}
    given(*facts).when(complete("")).then(
        begun, TaskCompleted(task_id="t", lease=made, spent=Spent(tokens=100, money_micros=267))
    )


def test_a_task_that_waits_ends_without_having_spent() -> None:
    """It was not charged, and is not."""
    given(submitted(spend=SPEND)).when(CancelTask(task_id="t")).then(TaskCancelled(task_id="t"))


def test_what_was_reported_until_a_worker_is_lost_is_charged() -> None:
    """Each report is of all so far: the last one counts, and none takes anything back."""
    first = ProgressTask(task_id="t", lease="c.1.1", usage=USAGE)
    decided = given(budget(), *running()).when(first)
    decided.then(TaskProgressed(task_id="t", lease="c.1.1", progress=0.0, usage=USAGE, spent=SPENT))
    assert (decided.world.tasks["t"].usage, decided.world.tasks["t"].spent) == (USAGE, SPENT)
    reported = TaskProgressed(task_id="t", lease="c.1.1", progress=0.0, usage=USAGE, spent=SPENT)
    facts = (budget(), *running(timeout_s=5.0), reported)
    given(*facts).when(first).then_nothing()
    given(*facts).when(ProgressTask(task_id="t", lease="c.1.1", usage=TaskUsage(input_tokens=31))).then(
        TaskProgressed(
            task_id="t",
            lease="c.1.1",
            progress=0.0,
            usage=TaskUsage(input_tokens=31, cached_tokens=15, output_tokens=10, reasoning_tokens=2, money_micros=3),
            spent=Spent(tokens=58, money_micros=SPENT.money_micros + 1),
        )
    )
    world = given(*facts).world
    context = DecisionContext(world.time + 100.0, Rules())
    world.indexes.advance(context.now)
    (ended,) = due(world, Signs(), context, 0.0)
    assert isinstance(ended, TaskTimedOut)
    assert (ended.usage, ended.spent) == (USAGE, SPENT)
    given(*facts).when(complete()).then(TaskCompleted(task_id="t", lease="c.1.1", usage=USAGE, spent=SPENT))
    odd = ProgressTask(task_id="t", lease="c.1.1", usage=TaskUsage(input_tokens=-1))
    given(*facts).when(odd).then_refused("bad_number", "usage.input_tokens")


def test_who_was_cancelled_may_still_say_what_it_used() -> None:
    """With the step that ends it."""
    facts = (*running(), TaskCancelAsked(task_id="t", grace_s=9.0, reason="r"))
    step = ReportCancel(task_id="t", lease="c.1.1", step=CancelStep.ENDED, usage=USAGE)
    given(*facts).when(step).then(
        TaskCancelTold(task_id="t", lease="c.1.1"),
        TaskCancelled(task_id="t", reason="r", how="ended", lease="c.1.1", usage=USAGE, spent=SPENT),
    )
    odd = ReportCancel(task_id="t", lease="c.1.1", step=CancelStep.ENDED, usage=TaskUsage(input_tokens=-1))
    given(*facts).when(odd).then_refused("bad_number")


# --- reports that come too late ---------------------------------------------------------------------------------------

LOST = TaskAttemptFailed(
    task_id="t", lease="c.1.1", error="lost", reason="lease_expired", retry_at=0.0, attempt=1, spent=Spent()
)
TIMED_OUT = TaskTimedOut(task_id="t", lease="c.1.1", ran_for_s=5.0, limit_s=5.0, attempt=1, spent=Spent())


def bill(**given_: Any) -> BudgetCorrected:
    why = "a late report of the attempt c.1.1 at t"
    return BudgetCorrected(**{"budget_id": "b", "key": "", "window": 0, "amount": 57, "reason": why, **given_})


def late(outcome: str, worker_id: str = "", **given_: Any) -> TaskReportRefused:
    usual = {"usage": USAGE, "spent": SPENT}
    return TaskReportRefused(task_id="t", lease="c.1.1", outcome=outcome, worker_id=worker_id, **{**usual, **given_})


@pytest.mark.parametrize("end", [LOST, TIMED_OUT, TaskCancelled(task_id="t", how="grace_over", lease="c.1.1")])
@pytest.mark.parametrize(
    ("report", "outcome"),
    [
        (complete(usage=USAGE), "completed"),
        (fail(usage=USAGE), "failed"),
        (ProgressTask(task_id="t", lease="c.1.1", usage=USAGE), "progress"),
    ],
)
def test_what_a_late_report_says_is_a_late_bill(end: Any, report: Any, outcome: str) -> None:
    """It is refused, as its attempt has ended, and what it used is charged to the window in which that began."""
    terms = BudgetTerms(cap=1000, unit=Unit.MONEY, floor=5, floor_for="true")
    facts = (budget(), BudgetDefined(budget_id="m", terms=terms), *running(), end)
    decided = given(*facts).when(report, at=2 * 86_400.0)
    reason = "already_ended" if end is not LOST and outcome != "progress" else "stale_lease"
    corrected = (bill(), bill(budget_id="m", amount=SPENT.money_micros, of_floor=True))
    decided.then_refused(reason, facts=(late(outcome), *corrected))
    told = given(*facts, late(outcome), *corrected)
    assert told.world.tasks["t"].total_spent == SPENT
    again = told.when(report)
    assert again.error is not None
    assert not [one for one in again.error.facts if isinstance(one, BudgetCorrected)]


def test_only_what_nobody_knew_of_is_billed() -> None:
    """What was reported before was charged; a later report may say more, and another lease says nothing of this one."""
    known = TaskProgressed(task_id="t", lease="c.1.1", progress=0.0, usage=USAGE, spent=SPENT)
    facts = (budget(), *running(), known, replace(LOST, usage=USAGE, spent=SPENT))
    less = given(*facts).when(complete(usage=TaskUsage(input_tokens=5))).error
    assert less is not None
    assert less.facts == (TaskReportRefused(task_id="t", lease="c.1.1", outcome="completed", worker_id=""),)
    more = TaskUsage(input_tokens=31)
    both = replace(USAGE, input_tokens=31)
    given(*facts).when(complete(usage=more)).then_refused(
        "stale_lease", facts=(late("completed", usage=both, spent=Spent(tokens=1, money_micros=1)), bill(amount=1))
    )
    other = given(*facts).when(complete("c.9.9", usage=more)).error
    assert other is not None
    assert not [one for one in other.facts if isinstance(one, BudgetCorrected)]


def test_what_is_told_of_a_window_that_is_not_kept_is_no_bill() -> None:
    """Nor is money where only tokens were used; that the report came is recorded all the same."""
    facts = (budget(window="1d"), budget(), *running(), LOST)
    given(*facts).when(complete(usage=USAGE), at=8 * 86_400.0).then_refused("stale_lease", facts=(late("completed"),))
    cheap = (budget(unit=Unit.MONEY), worker(), submitted(spend=SPEND), started(), LOST)
    tokens = TaskUsage(input_tokens=5)
    given(*cheap).when(complete(usage=tokens)).then_refused(
        "stale_lease", facts=(late("completed", usage=tokens, spent=Spent(tokens=5)),)
    )


@pytest.mark.parametrize("reason", ["failed", "released"])
def test_who_ended_its_attempt_itself_has_said_what_it_used(reason: str) -> None:
    """Nothing that comes later is believed."""
    ended = replace(LOST, reason=reason, attempt=0 if reason == "released" else 1)
    error = given(budget(), *running(), ended).when(complete(usage=USAGE)).error
    assert error is not None
    assert error.facts == (TaskReportRefused(task_id="t", lease="c.1.1", outcome="completed", worker_id=""),)


# --- attempts that spend too much -------------------------------------------------------------------------------------

TOO_MUCH = ProgressTask(task_id="t", lease="c.1.1", usage=TaskUsage(input_tokens=101))
REPORTED = TaskProgressed(
    task_id="t",
    lease="c.1.1",
    progress=0.0,
    usage=TaskUsage(input_tokens=101),
    spent=Spent(tokens=101, money_micros=101),
)


@pytest.mark.parametrize(("stop", "grace_s"), [(Stop.NO_FURTHER, 10.0), (Stop.KILL, 0.0)])
def test_an_attempt_that_uses_more_than_it_said_is_told_to_stop(stop: Stop, grace_s: float) -> None:
    """With the time for it that the stop mode gives; one that is to end already keeps its time, unless it is killed."""
    why = "it has used 101 tokens, and 100 were reserved for it by budget b"
    asked = TaskCancelAsked(task_id="t", grace_s=grace_s, reason=why)
    given(budget(stop=stop), *running()).when(TOO_MUCH).then(REPORTED, asked)
    twice = (budget(stop=stop), *running(), TaskCancelAsked(task_id="t", grace_s=500.0))
    decided = given(*twice).when(TOO_MUCH)
    decided.then(*((REPORTED,) if stop is Stop.NO_FURTHER else (REPORTED, asked)))


def test_nobody_is_stopped_who_keeps_to_what_was_reserved() -> None:
    """Or whose budgets do not ask for it, or who was not reserved for."""
    for facts in (
        [budget(), *running()],
        [budget(stop=Stop.KILL, unit=Unit.MONEY), *running()],
        [budget(stop=Stop.KILL, where='queue == "q"'), *running()],
    ):
        given(*facts).when(TOO_MUCH).then(REPORTED)
    without = [budget(stop=Stop.KILL), worker(), submitted(spend=SPEND), started()]
    given(*without).when(TOO_MUCH).then(
        TaskProgressed(
            task_id="t", lease="c.1.1", progress=0.0, usage=TaskUsage(input_tokens=101), spent=Spent(tokens=101)
        )
    )
