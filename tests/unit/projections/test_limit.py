"""Limits: the keys of tasks, what was used of them, and how much room they have."""

from __future__ import annotations

import pytest

from events.errors import Corrupt
from events.limit import LimitDefined, LimitDeleted, Terms
from projections import limit as module
from projections.limit import KeyUse, keys_of, limit_of, room_of
from projections.world import World
from tests.specification import BEGIN, fold, said
from tests.unit.deciders.facts import completed, failed, started, submitted, worker


def limit(limit_id: str, by: str, **others: object) -> LimitDefined:
    return LimitDefined(limit_id=limit_id, terms=Terms(by=by, **others))  # type: ignore[arg-type]


def test_a_task_has_a_key_of_each_limit() -> None:
    """But for those by an attribute that it does not have."""
    limits = [
        limit("all", "all"),
        limit("tenant", "tenant"),
        limit("queue", "queue"),
        limit("name", "task_name"),
        limit("key", "fairness_key"),
        limit("customer", "attributes.customer"),
        limit("other", "attributes.other"),
    ]
    task = submitted("t", fairness_key="k", attributes={"customer": "acme: x"})
    world = fold(*limits, task)
    assert keys_of(world.tasks["t"], world.limits) == (
        *("all:", "tenant:default", "queue:default", "name:work", "key:k"),
        "customer:acme: x",
    )
    assert limit_of("customer:acme: x") == "customer"


@pytest.mark.parametrize(
    ("value", "key"), [(1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "true"), ("1", "1"), (2**53, "9007199254740992")]
)
def test_values_are_keys_as_json_writes_them(value: str | float, key: str) -> None:
    """A text without its quotes."""
    world = fold(limit("l", "attributes.a"), submitted("t", attributes={"a": value}))
    assert keys_of(world.tasks["t"], world.limits) == (f"l:{key}",)


def test_the_past_of_a_key_is_kept_where_it_is_limited() -> None:
    """The last starts, and the end of a task that had started."""
    facts = (
        limit("rate", "all", starts=2, per_s=60.0),
        limit("rest", "tenant", cooldown_s=60.0),
        limit("running", "all", running=1),
        worker(),
        *(submitted(one) for one in "abc"),
    )
    world = fold(*facts)
    assert world.uses == {}
    begun = [said(started(one, lease=f"{one}.1.1"), at=2000.0 + number) for number, one in enumerate("abc")]
    world = fold(*facts, *begun)
    assert world.uses == {"rate:": KeyUse("rate:", (2001.0, 2002.0))}
    world = fold(*facts, *begun, said(completed("a"), at=2010.0), said(failed("b"), at=2011.0))
    assert world.uses["rest:default"] == KeyUse("rest:default", (), 2011.0, "b")
    assert World.restore(world.snapshot()).digest() == world.digest()


def test_the_past_of_a_key_is_forgotten_when_it_limits_nothing_any_more() -> None:
    """With the next use of any key; or with the limit, or when it counts something else."""
    facts = (limit("l", "attributes.a", starts=1, per_s=60.0), worker())
    tasks = [submitted(one, attributes={"a": one}) for one in "xy"]
    world = fold(*facts, *tasks, said(started("x"), at=2000.0), said(started("y", lease="d.1.1"), at=2059.0))
    assert list(world.uses) == ["l:x", "l:y"]
    world = fold(*facts, *tasks, said(started("x"), at=2000.0), said(started("y", lease="d.1.1"), at=2060.0))
    assert list(world.uses) == ["l:y"]
    assert fold(*facts, *tasks, started("x"), LimitDeleted(limit_id="l")).uses == {}
    assert fold(*facts, *tasks, started("x"), limit("l", "tenant", starts=1, per_s=60.0)).uses == {}
    assert fold(*facts, *tasks, started("x"), limit("l", "attributes.a", starts=9, per_s=60.0)).uses != {}


def test_the_past_of_so_many_keys_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used longest ago go first."""
    monkeypatch.setattr(module, "MOST_USES", 2)
    tasks = [submitted(one, attributes={"a": one}) for one in "xyz"]
    starts = [started(one, lease=f"{one}.1.1") for one in "xyz"]
    world = fold(limit("l", "attributes.a", starts=1, per_s=60.0), worker(), *tasks, *starts)
    assert list(world.uses) == ["l:y", "l:z"]


def test_the_room_of_a_key() -> None:
    """What runs, what started in the period, and the time since the last end."""
    assert room_of(Terms(running=3), None, 5, BEGIN) == -2
    terms = Terms(running=3, starts=2, per_s=10.0, cooldown_s=5.0)
    assert room_of(terms, KeyUse("k", (990.0, 991.0)), 0, BEGIN) == 1
    assert room_of(terms, KeyUse("k", (991.0, 992.0)), 0, BEGIN) == 0
    assert room_of(terms, KeyUse("k", (), 996.0, "t"), 0, BEGIN) == 0
    assert room_of(terms, KeyUse("k", (), 995.0, "t"), 0, BEGIN) == 2
    assert room_of(Terms(running=3, cooldown_s=5.0), KeyUse("k", (), 995.0, "t"), 1, BEGIN) == 2


def test_a_limit_is_about_tasks_that_meet_its_filter() -> None:
    """By all that stays as it was submitted; one with another filter begins to count anew."""
    facts = (limit("l", "all", where='attributes.a == "x"', starts=1, per_s=60.0), worker())
    tasks = [submitted(one, attributes={"a": one}) for one in "xy"]
    world = fold(*facts, *tasks)
    assert [keys_of(world.tasks[one], world.limits) for one in "xy"] == [("l:",), ()]
    assert fold(*facts, *tasks, started("x")).uses != {}
    assert fold(*facts, *tasks, started("x"), limit("l", "all", where="true", starts=1, per_s=60.0)).uses == {}


def test_a_filter_of_a_later_release_stops_the_fold() -> None:
    """Such a limit cannot be kept."""
    with pytest.raises(Corrupt, match="a filter that is none"):
        fold(limit("l", "all", where="later(queue)"))


def test_a_limit_that_is_not_there_is_not_deleted() -> None:
    """Such a journal is damaged."""
    with pytest.raises(Corrupt):
        fold(LimitDeleted(limit_id="l"))
