"""Accounts of what was used: they go down by half in each half-life, alike in every replay."""

from __future__ import annotations

import math

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from events.errors import Corrupt
from events.queue import DEFAULT, FairShare, Policy, QueueDeleted, QueuePolicySet
from events.spend import Spent
from events.task import TaskUsage
from projections import shares
from projections.shares import Account
from tests.specification import Said, fold, write
from tests.unit.deciders.facts import completed, started, submitted, worker


def fair(**others: object) -> QueuePolicySet:
    return QueuePolicySet(queue_id=DEFAULT, policy=Policy(strategy="fair", fair=FairShare(**others)))  # type: ignore[arg-type]


@for_all(passed_s=st.floats(0, 5e6), used=st.floats(0, 1e12), half_life_s=st.floats(1.0, 1e6))
def test_an_amount_goes_down_by_half_in_each_half_life(passed_s: float, used: float, half_life_s: float) -> None:
    """Up to one of the 64 steps of a half-life."""
    left = Account("a", used, 1000.0).used_at(1000.0 + passed_s, half_life_s)
    right = used * math.pow(0.5, passed_s / half_life_s)
    assert right * 0.999999 <= left <= right * 1.0111 or right < 1e-290


@for_all(charges=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 10)), min_size=1, max_size=60))
def test_often_charged_or_not_an_account_goes_down(charges: list[tuple[float, float]]) -> None:
    """Many small steps of time lead to what one look at the end sees."""
    account, now = Account("a"), 1000.0
    exact = 0.0
    for passed_s, cost in charges:
        now += passed_s
        account = account.charged(cost, now, 100.0)
        exact = exact * math.pow(0.5, passed_s / 100.0) + cost
    assert exact * 0.98 - 1e-9 <= account.used_at(now, 100.0) <= exact * 1.02 + 1e-9


def test_the_mean_follows_the_latest_attempts() -> None:
    """The first one is the mean; later ones count an eighth each."""
    account = Account("a").charged(8.0, 1.0, 60.0)
    assert account.mean == 8.0
    assert account.charged(16.0, 2.0, 60.0).mean == 9.0


def test_so_many_accounts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used the longest time ago goes first."""
    monkeypatch.setattr(shares, "MOST_ACCOUNTS", 3)
    scribe = write(worker(), fair())
    for number, tenant in enumerate("abac"):
        facts = (submitted(f"t{number}"), started(f"t{number}"), completed(f"t{number}"))
        scribe.commit_each([Said(one, None, tenant, "", "") for one in facts], at=scribe.world.time + 1.0)
    assert list(scribe.world.accounts) == [":a", "", ":c"]


def test_accounts_that_count_something_else_are_dropped() -> None:
    """When tasks are shared in another way, or by another cost."""
    facts = (worker(), submitted(), started(), completed())
    assert set(fold(fair(), *facts).accounts) == {"", ":default"}
    assert set(fold(fair(), *facts, fair(weights={"x": 2.0})).accounts) == {"", ":default"}
    assert set(fold(fair(), *facts, fair(by="key")).accounts) == {""}
    assert set(fold(fair(), *facts, fair(cost="tokens")).accounts) == set()
    assert set(fold(fair(), *facts, QueuePolicySet(queue_id=DEFAULT)).accounts) == {""}


def test_the_default_queue_is_never_deleted() -> None:
    """No coordinator writes such an event."""
    with pytest.raises(Corrupt, match="deletes the queue 'default', which always exists"):
        fold(fair(), QueueDeleted(queue_id=DEFAULT))


def test_what_budgets_are_charged_counts_in_tokens_and_money() -> None:
    """With the tokens at their prices; without budgets it is what was reported."""
    usage = TaskUsage(input_tokens=5, money_micros=7)
    for cost, plain, charged in (("tokens", 5.0, 6.0), ("money", 7.0, 70.0)):
        reported = (fair(cost=cost), worker(), submitted(), started(), completed(usage=usage))
        assert fold(*reported).accounts[":default"].used == plain
        spent = Spent(tokens=6, money_micros=70)
        assert fold(*reported[:-1], completed(usage=usage, spent=spent)).accounts[":default"].used == charged
