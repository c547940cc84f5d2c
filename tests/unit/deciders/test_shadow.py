"""Candidate policies: what may be compared, which reports count, and when one is promoted and rolled back."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.commands.queue import GetQueue, SetPolicy
from coordinator.commands.shadow import PromotePolicy, ReportShadow, RollBackPolicy, SetShadow, ShadowView
from coordinator.deciders.shadow import TURNS_LEAST
from coordinator.deciders.signs import Signs
from coordinator.engine.questions import ask
from events.errors import Corrupt
from events.queue import (
    DEFAULT,
    Comparison,
    FairShare,
    OtherDecision,
    Policy,
    QueueDefined,
    QueueDeleted,
    QueuePolicySet,
    QueuePromoted,
    QueueRolledBack,
    QueueShadowReported,
    QueueShadowSet,
)
from projections.queue import regret_of, together
from tests.specification import fold, given
from tests.unit.deciders.facts import INFINITY, NAN, worker

FIFO, PRIORITY = Policy(), Policy(strategy="priority", ageing_s=60.0)
FAIR = Policy(strategy="fair", fair=FairShare())
SET = QueueShadowSet(queue_id=DEFAULT, policy=PRIORITY, against=FIFO, regret_max=0.5, min_decisions=20)


def turns(*regrets: float, decisions: int = 2) -> Comparison:
    """Return what was compared in turns with these regrets."""
    whole = Comparison()
    for one in regrets:
        own = Comparison(
            turns=1,
            decisions=decisions,
            regret_s=one,
            regret_squares=one * one,
            regret_by_decisions=one * decisions,
            decision_squares=decisions * decisions,
        )
        whole = together(whole, own)
    return whole


GOOD = turns(*[0.1] * 9, 0.2)


def reported(compared: Comparison = GOOD, after: int = 1, upto: int = 2, **others: Any) -> QueueShadowReported:
    return QueueShadowReported(queue_id=DEFAULT, after=after, upto=upto, compared=compared, **others)


def report(compared: Comparison = GOOD, after: int = 1, upto: int = 2, **others: Any) -> ReportShadow:
    return ReportShadow(queue_id=DEFAULT, after=after, upto=upto, compared=compared, **others)


# --- to set one -------------------------------------------------------------------------------------------------------


def test_a_candidate_is_set_beside_the_live_policy_and_removed() -> None:
    """The same again changes nothing; other bounds begin again."""
    command = SetShadow(policy=PRIORITY, regret_max=0.5, min_decisions=20)
    decided = given().when(command).then(SET)
    decided.then_answers(decided.world.queues[DEFAULT])
    given(SET).when(command).then_nothing()
    stricter = QueueShadowSet(queue_id=DEFAULT, policy=PRIORITY, against=FIFO, min_decisions=20)
    again = given(SET, worker(), reported()).when(SetShadow(policy=PRIORITY, min_decisions=20)).then(stricter)
    after = again.world.queues[DEFAULT].shadow
    assert after is not None
    assert after.compared == Comparison()
    given(SET).when(SetShadow(reason="enough")).then(QueueShadowSet(queue_id=DEFAULT, reason="enough"))
    given().when(SetShadow()).then_nothing()
    assert fold(SET, QueueShadowSet(queue_id=DEFAULT)).queues[DEFAULT].shadow is None


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        ({"queue_id": "none"}, "not_found"),
        ({"policy": Policy(strategy="lifo")}, "bad_policy"),
        ({"policy": Policy(strategy="custom", custom="m:C")}, "bad_policy"),
        ({"policy": FAIR}, "bad_policy"),
        ({"regret_max": NAN}, "bad_number"),
        ({"regret_max": INFINITY}, "bad_number"),
        ({"min_decisions": 0}, "bad_number"),
        ({"reason": "\n"}, "bad_text"),
    ],
)
def test_what_cannot_be_compared_is_refused(given_: dict[str, Any], reason: str) -> None:
    """With what was given and what would be right."""
    given().when(SetShadow(**{"policy": PRIORITY, **given_})).then_refused(reason)


def test_shares_are_compared_only_where_the_same_is_counted() -> None:
    """What another policy would count is not known, so only the weights may be others."""
    live = QueuePolicySet(queue_id=DEFAULT, policy=FAIR)
    other = Policy(strategy="fair", fair=FairShare(weights={"acme": 3.0}))
    given(live).when(SetShadow(policy=other)).then(QueueShadowSet(queue_id=DEFAULT, policy=other, against=FAIR))
    for fair in (FairShare(by="key"), FairShare(cost="money"), FairShare(half_life_s=9.0)):
        given(live).when(SetShadow(policy=Policy(strategy="fair", fair=fair))).then_refused("bad_policy", "half-life")


# --- to report --------------------------------------------------------------------------------------------------------


def test_a_report_goes_on_where_the_one_before_ended() -> None:
    """The same of another follower, or of an earlier candidate, changes nothing; the examples are the last five."""
    examples = tuple(OtherDecision(sequence=2, task_id=f"t{number}", worker_id="w") for number in range(4))
    facts = (SET, worker())
    given(*facts).when(report(examples=examples)).then(reported(examples=examples))
    given(*facts, reported()).when(report(upto=3)).then_nothing()
    given(*facts, SET).when(report()).then_nothing()
    given(*facts, QueueShadowSet(queue_id=DEFAULT)).when(report()).then_nothing()
    given(worker(), worker("v")).when(report()).then_nothing()
    world = fold(*facts, reported(examples=examples), reported(after=2, upto=3, examples=examples[:2]))
    shadow = world.queues[DEFAULT].shadow
    assert shadow is not None
    assert [one.task_id for one in shadow.examples] == ["t1", "t2", "t3", "t0", "t1"]
    assert (shadow.upto, shadow.compared, shadow.reported_at) == (3, together(GOOD, GOOD), world.time)


@pytest.mark.parametrize(
    "wrong",
    [
        report(upto=1),
        report(upto=99),
        report(Comparison()),
        report(Comparison(turns=2, decisions=1, decision_squares=1)),
        report(Comparison(turns=1, decisions=1, differing=2, decision_squares=1)),
        report(Comparison(turns=1, decisions=2, decision_squares=1)),
        report(Comparison(turns=1, decisions=1, decision_squares=1, skipped=-1)),
        report(Comparison(turns=1, decisions=1, decision_squares=1, regret_s=NAN)),
        report(Comparison(turns=1, decisions=1, decision_squares=1, regret_squares=-1.0)),
        report(examples=(OtherDecision(sequence=9),)),
    ],
)
def test_impossible_reports_are_refused(wrong: ReportShadow) -> None:
    """They would make promotions possible, or none any more."""
    given(SET, worker()).when(wrong).then_refused("bad_number")


def test_the_examples_of_a_report_are_few_and_have_ids() -> None:
    """They are shown as they are."""
    many = tuple(OtherDecision(sequence=2, task_id="t") for _ in range(6))
    given(SET, worker()).when(report(examples=many)).then_refused("too_many")
    given(SET, worker()).when(report(examples=(OtherDecision(sequence=2, task_id="*"),))).then_refused("bad_id")


def test_a_report_without_a_candidate_is_impossible() -> None:
    """No decider wrote it."""
    with pytest.raises(Corrupt, match="shadow_reported"):
        fold(QueueDefined(queue_id=DEFAULT), reported())


# --- to promote and roll back -----------------------------------------------------------------------------------------


def test_a_candidate_below_its_bound_is_promoted_and_rolled_back_by_one_event_each() -> None:
    """The policy before comes back as it was; a repeat, or one after another policy was set, is refused."""
    usual = QueuePolicySet(queue_id=DEFAULT, policy=FIFO, by_settings=True)
    mean, high = regret_of(GOOD)
    promotion = QueuePromoted(
        queue_id=DEFAULT,
        policy=PRIORITY,
        before=FIFO,
        decisions=20,
        regret_s=mean,
        regret_high_s=high,
        regret_max=0.5,
        reason="r",
    )
    facts = (usual, SET, reported())
    decided = given(*facts).when(PromotePolicy(reason="r")).then(promotion)
    queue = decided.world.queues[DEFAULT]
    assert (queue.policy, queue.policy_by_settings, queue.shadow) == (PRIORITY, False, None)
    decided.then_answers(queue)
    back = QueueRolledBack(queue_id=DEFAULT, policy=FIFO, by_settings=True, reason="r")
    after = given(*facts, promotion).when(RollBackPolicy(reason="r")).then(back)
    assert after.world.queues[DEFAULT] == fold(usual).queues[DEFAULT]
    given(*facts, promotion).when(PromotePolicy()).then_refused("no_shadow")
    given(*facts, promotion, back).when(RollBackPolicy()).then_refused("not_promoted")
    given(*facts, promotion, usual).when(RollBackPolicy()).then_refused("not_promoted")


def test_a_queue_that_followed_the_default_one_does_so_again() -> None:
    """It had no policy of its own before."""
    facts = (
        QueueDefined(queue_id="a"),
        QueueShadowSet(queue_id="a", policy=PRIORITY, against=FIFO, min_decisions=1),
        QueueShadowReported(queue_id="a", after=2, upto=3, compared=turns(*[0.0] * 10)),
    )
    promoted = given(*facts).when(PromotePolicy(queue_id="a"))
    assert promoted.events[0].before is None  # type: ignore[attr-defined]
    rolled_back = given(*facts, promoted.events[0]).when(RollBackPolicy(queue_id="a"))
    rolled_back.then(QueueRolledBack(queue_id="a"))
    assert given(*facts, QueueDeleted(queue_id="a")).world.queues == {}


@pytest.mark.parametrize(
    ("compared", "reason", "told"),
    [
        (Comparison(), "shadow_too_few", "0 decisions in 0 turns"),
        (turns(*[0.0] * (TURNS_LEAST - 1), decisions=9), "shadow_too_few", "at least 10 turns"),
        (turns(*[0.0] * TURNS_LEAST, decisions=1), "shadow_too_few", "wait for 20 decisions"),
        (turns(*[1.2] * TURNS_LEAST), "shadow_regret", "0.6 weighted seconds"),
        (turns(*[-50.0, 50.0] * TURNS_LEAST), "shadow_regret", "its bound is 0.5"),
    ],
)
def test_a_candidate_is_not_promoted_without_evidence(compared: Comparison, reason: str, told: str) -> None:
    """Too little was compared, or its regret is, or may be, above the bound."""
    facts = (SET, reported(compared)) if compared.turns else (SET,)
    given(*facts).when(PromotePolicy()).then_refused(reason, told)


def test_a_candidate_of_another_live_policy_is_not_promoted() -> None:
    """Its regret is that beside a policy which is not live any more."""
    facts = (SET, reported(), QueuePolicySet(queue_id=DEFAULT, policy=FAIR))
    given(*facts).when(PromotePolicy()).then_refused("shadow_outdated", "set it again")
    given(QueueDefined(queue_id="a")).when(PromotePolicy(queue_id="a")).then_refused("no_shadow")
    given().when(PromotePolicy(queue_id="b")).then_refused("not_found")
    given().when(RollBackPolicy(reason="\n")).then_refused("bad_text")
    given(SET, reported()).when(SetPolicy(policy=PRIORITY)).then(QueuePolicySet(queue_id=DEFAULT, policy=PRIORITY))


# --- the numbers ------------------------------------------------------------------------------------------------------


@for_all(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(1, 50)), max_size=30),
    st.integers(0, 30),
)
def test_the_regret_follows_from_all_turns_in_whatever_reports(turns_: list[tuple[float, int]], cut: int) -> None:
    """It is between those of the turns, never above what it is at most; unknown with fewer than two of them."""
    parts = [turns(regret, decisions=count) for regret, count in turns_]
    whole = Comparison()
    for some in (parts[:cut], parts[cut:]):
        one = Comparison()
        for part in some:
            one = together(one, part)
        whole = together(whole, one)
    mean, high = regret_of(whole)
    if len(parts) < 2:
        assert high == inf
        return
    each = [regret / count for regret, count in turns_]
    slack = 1e-6 * (1 + max(map(abs, each)))
    assert min(each) - slack <= mean <= max(each) + slack
    assert high >= mean


def test_a_view_says_how_a_candidate_does() -> None:
    """And why it may not be promoted."""
    nothing = ask(fold(SET), Signs(), GetQueue(), 0.0).shadow
    assert nothing == ShadowView(refusal="shadow_too_few", why_not=nothing.why_not)
    one_in_four = Comparison(turns=1, decisions=4, differing=1, regret_s=8.0, regret_squares=64.0, decision_squares=16)
    told = ask(fold(SET, worker(), reported(one_in_four)), Signs(), GetQueue(), 0.0).shadow
    assert (told.divergence, told.regret_s, told.regret_high_s) == (0.25, 2.0, None)
    may = ask(fold(SET, worker(), reported()), Signs(), GetQueue(), 0.0).shadow
    assert (may.refusal, may.why_not, may.regret_high_s) == ("", "", regret_of(GOOD)[1])
    assert ask(fold(), Signs(), GetQueue(), 0.0).shadow is None
