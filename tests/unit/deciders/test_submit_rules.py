"""Who may submit which task by the rules of the settings, for what queue and tenant, and who runs it then."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from coordinator.commands.schedule import BackfillSchedule, DefineSchedule
from coordinator.commands.task import CompleteTask, FailTask
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules, TaskRule
from coordinator.deciders.signs import Signs
from coordinator.deciders.submit_rules import permitted, worker_filter_of
from events.base import version_of
from events.errors import Forbidden
from events.limit import LimitDefined, Terms, WhenBusy
from events.queue import QueueDefined
from events.schedule import (
    Overlap,
    ScheduleDefined,
    ScheduleFired,
    ScheduleQueued,
    ScheduleSkipped,
    TaskContent,
    Timing,
)
from events.task import Occurrence, TaskSubmitted
from projections.task import content_of
from projections.worker_filters import condition
from tests.specification import BEGIN, fold, given, said
from tests.unit.deciders.facts import completed, started, submit, submitted, worker

PAY = TaskRule(
    name="pay",
    users=("billing", "cli-*"),
    tenants=("acme",),
    task_names=("pay.*", "refund"),
    queues=("payments",),
    agent_types=("secure",),
    nodes=("n1", "n2"),
)
WORK = TaskRule(name="work", task_names=("work",))
OTHER = TaskRule(name="other", users=("ann",), task_names=("other",), queues=("q",))
FILTER = 'agent_type in ["secure"] && node_id in ["n1", "n2"]'


def rules(*some: TaskRule) -> Rules:
    return Rules(task_rules=some)


# --- one submit -------------------------------------------------------------------------------------------------------


def test_without_rules_everybody_submits_everything() -> None:
    """And the event says nothing of rules."""
    given().when(submit(), actor="anyone").then(submitted())
    assert version_of(submitted()) == 1


def test_the_first_rule_that_is_met_decides() -> None:
    """It is named in the event, with the workers that may run the task; the later ones are not asked."""
    pay = submit(task_name="pay.card", queue="payments")
    both = given(QueueDefined(queue_id="payments")).when(
        pay, actor="billing", tenant="acme", rules=rules(PAY, TaskRule(name="all"))
    )
    event = submitted(task_name="pay.card", queue="payments", rule="pay", rule_filter=FILTER)
    task = both.then(event).world.tasks["t"]
    assert (task.rule, task.rule_filter, task.worker_filter) == ("pay", FILTER, "")
    assert version_of(event) == 3
    others = given(QueueDefined(queue_id="payments")).when(
        pay, actor="billing", tenant="acme", rules=rules(TaskRule(name="all"), PAY)
    )
    others.then(submitted(task_name="pay.card", queue="payments", rule="all"))


def test_no_name_holds_the_writer_up_however_many_patterns_it_nearly_meets() -> None:
    """A plain pattern would try each place for each star: this one for years."""
    stars = TaskRule(name="stars", task_names=("*a" * 20 + "*b",))
    given().when(submit(task_name="a" * 128), rules=rules(stars)).then_refused("forbidden", code="forbidden")
    found = given().when(submit(task_name="a" * 127 + "b"), rules=rules(stars)).events[0]
    assert isinstance(found, TaskSubmitted)
    assert found.rule == "stars"


@pytest.mark.parametrize(("user", "tenant", "name", "queue"), [
    ("billing", "acme", "refund", "payments"),
    ("cli-ann", "acme", "pay.", "payments"),
    ("cli-", "acme", "pay.card.again", "payments"),
])  # fmt: skip
def test_patterns_stand_for_any_text(user: str, tenant: str, name: str, queue: str) -> None:
    """Also for none."""
    assert permitted(submitted(task_name=name, queue=queue), user, tenant, (PAY,)).rule == "pay"


@pytest.mark.parametrize(("user", "tenant", "name", "queue", "wrong"), [
    ("mallory", "acme", "refund", "payments", "users billing, cli-*"),
    ("xcli-ann", "acme", "refund", "payments", "users billing, cli-*"),
    ("billing", "acme2", "refund", "payments", "tenants acme"),
    ("billing", "acme", "pay", "payments", "task_names pay.*, refund"),
    ("billing", "acme", "payXcard", "payments", "task_names pay.*, refund"),
    ("billing", "acme", "refund\n", "payments", "task_names pay.*, refund"),
    ("billing", "acme", "refund", "", "queues payments"),
    ("mallory", "other", "refund", "payments", "users billing, cli-* and tenants acme"),
])  # fmt: skip
def test_what_no_rule_permits_is_forbidden(user: str, tenant: str, name: str, queue: str, wrong: str) -> None:
    """The message names the rule that is nearest, and what it is for."""
    with pytest.raises(Forbidden) as refused:
        permitted(submitted(task_name=name, queue=queue), user, tenant, (OTHER, PAY, WORK))
    assert refused.value.message == (
        f"{user!r} may not submit task {name!r} to queue {queue or 'default'!r} for tenant {tenant!r}: no rule of "
        f"security.tasks permits it; the nearest, pay, is for {wrong}"
    )


def test_a_refusal_changes_nothing_and_says_so() -> None:
    """Before anything is looked at, such as whether the queue exists."""
    asked = submit(task_name="refund", queue="payments")
    given().when(asked, actor="mallory", rules=rules(PAY)).then_refused(
        "forbidden", "the nearest, pay", code="forbidden"
    )


def test_a_repeat_is_the_same_whatever_the_rules_are_now() -> None:
    """The rule is not a part of what was asked for: what was accepted stays so, also after it was evicted."""
    facts = (submitted(rule="old", rule_filter='node_id in ["n1"]'), started(), completed())
    given(facts[0]).when(submit(), actor="mallory", rules=rules(PAY)).then_nothing()
    given(*facts).when(submit(), actor="mallory", rules=rules(PAY)).then_nothing().then_answers("t")
    assert content_of(submitted(), "") == content_of(facts[0], "")
    given(facts[0]).when(submit(worker_filter="labels.a"), rules=rules(PAY)).then_refused("id_taken", "worker_filter")


def test_limits_see_the_task_that_is_permitted() -> None:
    """A task that takes the place of another is that of its rule, too."""
    limit = LimitDefined(limit_id="l", terms=Terms(running=1, when_busy=WhenBusy.REPLACE_WAITING))
    decided = given(limit, submitted("a"), started("a")).when(submit(), rules=rules(WORK))
    decided.then(submitted(rule="work"))


@pytest.mark.parametrize("report", [CompleteTask(task_id="t"), FailTask(task_id="t", error="e")])
def test_who_may_run_it_is_not_passed_over(report: Any) -> None:
    """The outcome of a task without a lease is an attempt that nobody was given: it is not taken then."""
    facts = (worker(), submitted(rule="pay", rule_filter=FILTER))
    given(*facts).when(report).then_refused("forbidden", "rule pay lets task 't' run only where", code="forbidden")
    unbound = given(worker(), submitted(rule="work")).when(CompleteTask(task_id="t"))
    assert len(unbound.events) == 2


_PATTERNS = st.lists(st.text("ab*", min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)
_RULES = st.lists(
    st.builds(TaskRule, name=st.just("r"), users=_PATTERNS, tenants=_PATTERNS, task_names=_PATTERNS, queues=_PATTERNS),
    min_size=1,
    max_size=4,
)
_TEXT = st.text("ab", min_size=1, max_size=3)


@for_all(_RULES, _TEXT, _TEXT, _TEXT, _TEXT)
def test_any_submit_is_judged_by_the_first_rule_that_shells_would_match(
    some: list[TaskRule], user: str, tenant: str, name: str, queue: str
) -> None:
    """The patterns mean what they mean to a shell."""
    named = tuple(replace(rule, name=f"rule{number}") for number, rule in enumerate(some))
    asked = {"users": user, "tenants": tenant, "task_names": name, "queues": queue}

    def is_met(rule: TaskRule) -> bool:
        return all(any(fnmatchcase(value, one) for one in getattr(rule, field)) for field, value in asked.items())

    first = next((rule.name for rule in named if is_met(rule)), None)
    try:
        found = permitted(submitted(task_name=name, queue=queue), user, tenant, named).rule
    except Forbidden:
        found = None
    assert found == first


# --- which workers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "text"), [
    ({}, ""),
    ({"agent_types": ("a", "b")}, 'agent_type in ["a", "b"]'),
    ({"nodes": ("n1",)}, 'node_id in ["n1"]'),
    ({"agent_types": ("secure",), "nodes": ("n1", "n2")}, FILTER),
])  # fmt: skip
def test_the_workers_of_a_rule_are_a_filter(asked: dict[str, Any], text: str) -> None:
    """One that can be read."""
    assert worker_filter_of(TaskRule(name="r", **asked)) == text
    if text:
        condition(text)


# --- schedules --------------------------------------------------------------------------------------------------------

EVERY = Timing(every_s=10, start=BEGIN)
DEFINED = ScheduleDefined(
    schedule_id="s", timing=EVERY, task=TaskContent(task_name="work", max_retries=3), next_slot=1010
)
QUEUED = ScheduleDefined(
    schedule_id="s", timing=EVERY, task=TaskContent(task_name="work"), next_slot=1010, overlap=Overlap.QUEUE
)
SLOT = "s-19700101T001650Z"


def fired(*facts: Any, task_rules: tuple[TaskRule, ...], at: float) -> list[Any]:
    """Return what is due for schedules, folding each event as the writer does."""
    scribe = given(*facts).scribe
    world = scribe.world
    world.indexes.advance(at)
    found = []
    for event in due(world, Signs(), DecisionContext(at, rules(*task_rules)), at):
        found.append(event)
        scribe.commit(said(event, at=at))
    return found


def test_a_schedule_is_defined_by_who_may_submit_its_tasks() -> None:
    """Others are refused when they define it, not when it fires."""
    command = DefineSchedule(schedule_id="s", task=TaskContent(task_name="work"), every_s=10)
    given().when(command, actor="mallory", rules=rules(PAY)).then_refused("forbidden", "no rule of security.tasks")
    assert given().when(command, actor="ann", rules=rules(WORK)).events


def test_a_schedule_submits_under_the_rights_of_who_made_it() -> None:
    """By the rules of the time: what these forbid since is skipped, with that reason; the next slot is tried again."""
    mine = TaskRule(name="mine", users=("ann",), tenants=("acme",), nodes=("n1",))
    facts = (said(DEFINED, actor="ann", tenant="acme"),)
    task = submitted(
        SLOT,
        occurrence=Occurrence(schedule_id="s", slot=1010, source="ann"),
        rule="mine",
        rule_filter='node_id in ["n1"]',
    )
    went = ScheduleFired(schedule_id="s", slot=1010, task_id=SLOT, next_slot=1020)
    assert fired(*facts, task_rules=(mine,), at=1011.0) == [task, went]
    skipped = ScheduleSkipped(schedule_id="s", slot=1010, through=1010, reason="forbidden", next_slot=1020)
    assert fired(*facts, task_rules=(PAY,), at=1011.0) == [skipped]
    assert fired(*facts, task, task_rules=(PAY,), at=1011.0) == [went]
    others = (said(DEFINED, actor="bob", tenant="acme"),)
    assert fired(*others, task_rules=(mine,), at=1011.0) == [skipped]


def test_a_slot_that_waits_is_left_out_when_it_is_forbidden_since() -> None:
    """It waits no longer, and those after it are looked at."""
    first = TaskSubmitted(task_id=SLOT, task_name="work", occurrence=Occurrence(schedule_id="s", slot=1010))
    facts = (
        *(QUEUED, first, ScheduleFired(schedule_id="s", slot=1010, task_id=SLOT, next_slot=1020)),
        *(started(SLOT), ScheduleQueued(schedule_id="s", slot=1020, next_slot=1030)),
        ScheduleQueued(schedule_id="s", slot=1030, next_slot=1040),
    )
    ended = (*facts, completed(SLOT))
    skipped = ScheduleSkipped(schedule_id="s", slot=1020, through=1020, reason="forbidden", next_slot=1040)
    assert fired(*ended, task_rules=(PAY,), at=1035.0)[0] == skipped
    assert fold(*ended, skipped).schedules["s"].queued == (1030,)
    (task, went) = fired(*ended, task_rules=(WORK,), at=1035.0)[:2]
    assert (task.rule, went.slot) == ("work", 1020)


def test_a_backfill_is_under_the_rights_of_who_made_the_schedule() -> None:
    """Whoever asks for it."""
    mine = TaskRule(name="mine", users=("ann",))
    facts = (said(DEFINED, actor="ann"),)
    command = BackfillSchedule(schedule_id="s", since=1010.0, until=1010.0)
    made = given(*facts).when(command, actor="bob", at=1100.0, rules=rules(mine))
    assert [getattr(event, "rule", None) for event in made.events] == ["mine", None]
    given(*facts).when(command, actor="ann", at=1100.0, rules=rules(PAY)).then_refused("forbidden", "'ann' may not")
