"""Deciders of the queue commands, and what a task's queue and priority mean when it is submitted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from coordinator.commands.queue import DefineQueue, DeleteQueue, PauseQueue, ResumeQueue, SetPolicy
from coordinator.deciders.queue import MOST_QUEUES, MOST_WEIGHTS, policy_by_settings
from coordinator.deciders.rules import Rules
from events.queue import (
    DEFAULT,
    FairShare,
    Policy,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicySet,
    QueueResumed,
)
from events.schedule import ScheduleDefined, ScheduleDeleted, TaskContent, Timing
from events.task import TaskUsage
from projections.queue import default_queue
from tests.specification import fold, given
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    INFINITY,
    NAN,
    claim,
    complete,
    completed,
    fail,
    started,
    submit,
    submitted,
    worker,
)

A = QueueDefined(queue_id="a")
FAIR = Policy(strategy="fair", fair=FairShare())


# --- queues -----------------------------------------------------------------------------------------------------------


def test_a_queue_is_defined_and_its_weight_changed() -> None:
    """The answer is the queue; the same again changes nothing."""
    decided = given().when(DefineQueue(queue_id="a", weight=2.0)).then(QueueDefined(queue_id="a", weight=2.0))
    decided.then_answers(decided.world.queues["a"])
    given(A).when(DefineQueue(queue_id="a")).then_nothing()
    given(A).when(DefineQueue(queue_id="a", weight=0.5)).then(QueueDefined(queue_id="a", weight=0.5))
    given().when(DefineQueue(queue_id=DEFAULT, weight=3.0)).then(QueueDefined(queue_id=DEFAULT, weight=3.0))


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e7, NAN, INFINITY])
def test_a_weight_is_a_finite_number_above_zero(weight: float) -> None:
    """It is told with its value."""
    given().when(DefineQueue(queue_id="a", weight=weight)).then_refused("bad_number", "weight")


def test_there_may_be_so_many_queues() -> None:
    """Those that exist can still be changed."""
    full = given(*(QueueDefined(queue_id=f"q{number}") for number in range(MOST_QUEUES)))
    full.when(DefineQueue(queue_id="one-more")).then_refused("too_many", "1000 queues")
    full.when(DefineQueue(queue_id="q1", weight=2.0)).then(QueueDefined(queue_id="q1", weight=2.0))


def test_a_queue_is_paused_and_resumed() -> None:
    """With its reason; another reason is another event. The default queue pauses like any other."""
    paused = QueuePaused(queue_id="a", reason="why")
    given(A).when(PauseQueue(queue_id="a", reason="why")).then(paused)
    given(A, paused).when(PauseQueue(queue_id="a", reason="why")).then_nothing()
    given(A, paused).when(PauseQueue(queue_id="a")).then(QueuePaused(queue_id="a"))
    decided = given(A, paused).when(ResumeQueue(queue_id="a")).then(QueueResumed(queue_id="a"))
    decided.then_answers(fold(A).queues["a"])
    given(A).when(ResumeQueue(queue_id="a")).then_nothing()
    given().when(PauseQueue(queue_id=DEFAULT)).then(QueuePaused(queue_id=DEFAULT))
    given().when(ResumeQueue(queue_id=DEFAULT)).then_nothing().then_answers(default_queue())


@pytest.mark.parametrize("command", [PauseQueue, ResumeQueue, SetPolicy])
def test_what_is_not_there_cannot_be_changed(command: type[Any]) -> None:
    """The nearest names are told."""
    given(A).when(command(queue_id="zzz")).then_refused("not_found", "define it first")
    near = given(QueueDefined(queue_id="reports"))
    near.when(command(queue_id="reprots")).then_refused("not_found", "did you mean reports")


@pytest.mark.parametrize("queue_id", HOSTILE_IDS)
@pytest.mark.parametrize("command", [DefineQueue, PauseQueue, ResumeQueue, SetPolicy, DeleteQueue])
def test_an_id_that_is_none_is_refused(command: type[Any], queue_id: str) -> None:
    """Whatever the command."""
    given().when(command(queue_id=queue_id)).then_refused("bad_id", "identifier")


def test_a_queue_without_tasks_is_deleted() -> None:
    """One that does not exist is already so; ended tasks do not keep it."""
    given(A).when(DeleteQueue(queue_id="a", reason="r")).then(QueueDeleted(queue_id="a", reason="r"))
    given().when(DeleteQueue(queue_id="a")).then_nothing()
    ended = (worker(), submitted(queue="a"), started(), completed())
    assert given(A, *ended).when(DeleteQueue(queue_id="a")).then(QueueDeleted(queue_id="a")).world.queues == {}


def test_a_queue_with_tasks_and_the_default_one_stay() -> None:
    """It is told what is in it."""
    stays = given(A, submitted(queue="a"))
    stays.when(DeleteQueue(queue_id="a")).then_refused("queue_in_use", "1 pending and 0 running")
    runs = given(A, worker(), submitted(queue="a"), started())
    runs.when(DeleteQueue(queue_id="a")).then_refused("queue_in_use", "0 pending and 1 running")
    given().when(DeleteQueue(queue_id=DEFAULT)).then_refused("queue_in_use", "cannot be deleted")


# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_policy_is_set_and_taken_away() -> None:
    """With all that follows from it; the same again changes nothing."""
    told = QueuePolicySet(queue_id=DEFAULT, policy=FAIR, reason="r")
    given().when(SetPolicy(policy=Policy(strategy="fair"), reason="r")).then(told)
    given(told).when(SetPolicy(policy=FAIR)).then_nothing()
    given(told).when(SetPolicy()).then(QueuePolicySet(queue_id=DEFAULT))
    by_settings = QueuePolicySet(queue_id=DEFAULT, policy=FAIR, by_settings=True)
    given(by_settings).when(SetPolicy(policy=FAIR)).then(QueuePolicySet(queue_id=DEFAULT, policy=FAIR))


def test_a_custom_policy_is_that_of_the_settings() -> None:
    """Nobody can have another class run; it chooses for all queues that follow the default one."""
    rules = Rules(custom_policy="policies:Mine")
    mine = Policy(strategy="custom", custom="policies:Mine")
    for command in (SetPolicy(policy=Policy(strategy="custom")), SetPolicy(policy=mine)):
        given().when(command, rules=rules).then(QueuePolicySet(queue_id=DEFAULT, policy=mine))
    other = SetPolicy(policy=Policy(strategy="custom", custom="os:abort"))
    given().when(other, rules=rules).then_refused("bad_policy", "'os:abort'", "only 'policies:Mine' is")
    given().when(other).then_refused("bad_policy", "none is named by scheduler.custom_policy")
    alone = SetPolicy(queue_id="a", policy=mine)
    given(A).when(alone, rules=rules).then_refused("bad_policy", "not for 'a' alone")
    began = policy_by_settings(fold(), Rules(custom_policy="policies:Mine", default_strategy="custom"))
    assert began == (
        QueuePolicySet(
            queue_id=DEFAULT, policy=Policy(strategy="custom", custom="policies:Mine", ageing_s=60.0), by_settings=True
        ),
    )


WEIGHTS = {f"w{number}": 1 for number in range(MOST_WEIGHTS + 1)}
WRONG = {
    "use fifo, priority": Policy(strategy="lifo"),
    "ageing_s -1": Policy(ageing_s=-1.0),
    "ageing_s nan": Policy(ageing_s=NAN),
    "priority_weights names 1001": Policy(priority_weights=WEIGHTS),
    "a name has 0 characters": Policy(priority_weights={"": 1}),
    "priority_weights['high']": Policy(priority_weights={"high": 2_000_000}),
    "belongs to the strategy 'fair'": Policy(strategy="fifo", fair=FairShare()),
    "belongs to the strategy 'custom'": Policy(strategy="fifo", custom="policies:Mine"),
    "fair.by 'team' is not known: use tenant or key": Policy(strategy="fair", fair=FairShare(by="team")),
    "fair.cost 'joules'": Policy(strategy="fair", fair=FairShare(cost="joules")),
    "fair.half_life_s": Policy(strategy="fair", fair=FairShare(half_life_s=0.5)),
    "fair.weights names 1001": Policy(strategy="fair", fair=FairShare(weights=dict.fromkeys(WEIGHTS, 1.0))),
    "fair.weights['a']": Policy(strategy="fair", fair=FairShare(weights={"a": 0.0})),
    "fair.weights: a name": Policy(strategy="fair", fair=FairShare(weights={"x" * 200: 1.0})),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_policy_that_is_none_is_refused(said: str) -> None:
    """Each part of it is named with its value."""
    refused = given().when(SetPolicy(policy=WRONG[said]))
    assert refused.error is not None
    assert said in refused.error.message


def test_the_policy_of_the_settings_holds_until_a_command_sets_one() -> None:
    """Other settings replace it; what a command set stays."""
    first = policy_by_settings(fold(), Rules())
    assert first == (
        QueuePolicySet(queue_id=DEFAULT, policy=Policy(ageing_s=Rules().priority_ageing_s), by_settings=True),
    )
    assert policy_by_settings(fold(*first), Rules()) == ()
    other = Rules(default_strategy="fair", priority_ageing_s=0.0)
    assert policy_by_settings(fold(*first), other) == (QueuePolicySet(queue_id=DEFAULT, policy=FAIR, by_settings=True),)
    assert policy_by_settings(fold(*first, QueuePolicySet(queue_id=DEFAULT, policy=Policy())), other) == ()
    assert policy_by_settings(fold(*first, QueuePaused(queue_id=DEFAULT)), Rules()) == ()
    assert policy_by_settings(fold(), Rules(priority_ageing_s=0.0)) == ()


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_names_its_queue_and_its_key() -> None:
    """The default queue by its name or by none."""
    given(A).when(submit(queue="a", fairness_key="k")).then(submitted(queue="a", fairness_key="k"))
    given().when(submit(queue=DEFAULT)).then(submitted())
    given(A).when(submit(fairness_key="x" * 200)).then_refused("bad_text", "fairness_key")


def test_a_queue_that_does_not_exist_is_told_with_the_nearest_names() -> None:
    """When a task is submitted, and when a worker claims."""
    world = given(QueueDefined(queue_id="reports"), worker())
    world.when(submit(queue="report")).then_refused("unknown_queue", "did you mean reports")
    world.when(claim(queues=("report",))).then_refused("unknown_queue", "did you mean reports")
    world.when(submit(queue="a.b")).then_refused("bad_id", "identifier")
    world.when(claim(queues=("reports", DEFAULT))).then_nothing()
    world.when(claim(queues=("reports",) * 40)).then_refused("too_many", "40 queues")


def test_a_priority_may_be_a_name() -> None:
    """What it stands for is said by the policy of the queue."""
    given().when(submit(priority="high")).then(submitted(priority=3))
    given().when(submit(priority="low")).then(submitted(priority=1))
    own = QueuePolicySet(queue_id="a", policy=Policy(priority_weights={"urgent": 9, "usual": -1}))
    given(A, own).when(submit(priority="urgent", queue="a")).then(submitted(priority=9, queue="a"))
    given(A, own).when(submit(priority="high", queue="a")).then_refused("bad_priority", "one of urgent, usual")
    given(A, own).when(submit(priority="high")).then(submitted(priority=3))


def test_the_repeat_of_a_submit_gets_its_answer_whatever_has_changed_since() -> None:
    """Names may stand for something else now, and its queue may be gone."""
    known = given(submitted(priority=3), QueuePolicySet(queue_id=DEFAULT, policy=Policy(priority_weights={"high": 7})))
    known.when(submit(priority="high")).then_nothing().then_answers("t")
    ended = (A, worker(), submitted(queue="a"), started(), completed(), QueueDeleted(queue_id="a"))
    given(*ended).when(submit(queue="a")).then_nothing().then_answers("t")
    given(A, submitted(queue="a")).when(submit()).then_refused("id_taken", "queue")
    given(submitted()).when(submit(fairness_key="k")).then_refused("id_taken", "fairness_key")


@pytest.mark.parametrize("report", [complete, fail])
@pytest.mark.parametrize(
    "field", ["input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "money_micros"]
)
def test_what_an_attempt_used_is_recorded_or_refused_with_its_name(report: Any, field: str) -> None:
    """Amounts are whole numbers of at least 0."""
    running = given(worker(), submitted(), started())
    used = msgspec.structs.replace(TaskUsage(), **{field: 7})
    (event,) = running.when(report(usage=used)).events
    assert event.usage == used  # type: ignore[attr-defined]  # both ends have it
    assert used.tokens == (0 if field == "money_micros" else 7)
    for amount in (-1, 2**60):
        wrong = msgspec.structs.replace(used, **{field: amount})
        running.when(report(usage=wrong)).then_refused("bad_number", f"usage.{field}")


def test_the_queue_of_a_schedule_stays() -> None:
    """Its tasks would wait in no queue; a deleted schedule needs none."""
    schedule = ScheduleDefined(schedule_id="s", timing=Timing(every_s=60), task=TaskContent(task_name="n", queue="a"))
    given(A, schedule).when(DeleteQueue(queue_id="a")).then_refused("queue_in_use", "1 schedules such as 's'")
    given(A, schedule, ScheduleDeleted(schedule_id="s")).when(DeleteQueue(queue_id="a")).then(
        QueueDeleted(queue_id="a")
    )
