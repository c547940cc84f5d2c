"""Deciders of the limit commands, and what limits mean for a task that is submitted."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.limit import DefineLimit, DeleteLimit
from coordinator.deciders.limit import MOST_LIMITS, REPLACED_MOST
from coordinator.deciders.rules import Rules
from events.after import After
from events.cancel_ladder import TaskCancelAsked
from events.limit import LimitDefined, LimitDeleted, Terms, WhenBusy
from events.task import Debounce, TaskCancelled, TaskStatus
from tests.specification import BEGIN, fold, given, said
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    INFINITY,
    NAN,
    completed,
    started,
    submit,
    submitted,
    worker,
)


def terms(**given_: Any) -> Terms:
    return Terms(**{"running": 1, **given_})


def limit(limit_id: str = "l", **given_: Any) -> LimitDefined:
    return LimitDefined(limit_id=limit_id, terms=terms(**given_))


def define(limit_id: str = "l", reason: str = "", **given_: Any) -> DefineLimit:
    return DefineLimit(limit_id=limit_id, terms=terms(**given_), reason=reason)


REJECTS = limit(by="attributes.a", when_busy=WhenBusy.REJECT)
OF_X = {"attributes": {"a": "x"}}


# --- definition -------------------------------------------------------------------------------------------------------


def test_a_limit_is_defined_changed_and_deleted() -> None:
    """The answer is the limit; the same again changes nothing, and what does not exist is deleted already."""
    decided = given().when(define(reason="why")).then(LimitDefined(limit_id="l", terms=terms(), reason="why"))
    decided.then_answers(decided.world.limits["l"])
    given(limit()).when(define()).then_nothing()
    given(limit()).when(define(running=2)).then(limit(running=2))
    assert (
        given(limit())
        .when(DeleteLimit(limit_id="l", reason="r"))
        .then(LimitDeleted(limit_id="l", reason="r"))
        .world.limits
        == {}
    )
    given().when(DeleteLimit(limit_id="l")).then_nothing()


@pytest.mark.parametrize(
    ("given_", "reason", "named"),
    [
        ({"by": "color"}, "bad_limit", "'color'"),
        ({"where": "queue = 'q'"}, "bad_filter", "use == to compare"),
        ({"where": "attempt > 1"}, "bad_filter", "'attempt' is not a field"),
        ({"by": "attributes."}, "bad_limit", "'attributes.'"),
        ({"by": "attributes.a b"}, "bad_limit", "'attributes.a b'"),
        ({"running": 0}, "bad_number", "running 0"),
        ({"running": 200_000}, "bad_number", "running 200000"),
        ({"pending": 2_000_000}, "bad_number", "pending"),
        ({"starts": 5}, "bad_limit", "give both"),
        ({"per_s": 5.0}, "bad_limit", "give both"),
        ({"starts": 1001, "per_s": 1.0}, "bad_number", "starts 1001"),
        ({"starts": 1, "per_s": 90_000.0}, "bad_number", "per_s"),
        ({"starts": 1, "per_s": NAN}, "bad_number", "per_s"),
        ({"cooldown_s": -1.0}, "bad_number", "cooldown_s"),
        ({"debounce_s": INFINITY}, "bad_number", "debounce_s"),
        ({"debounce_most_s": NAN}, "bad_number", "debounce_most_s"),
        ({"debounce_s": 9.0, "debounce_most_s": 5.0}, "bad_limit", "below debounce_s 9"),
        ({"running": None}, "bad_limit", "limit nothing"),
        ({"running": None, "pending": 3, "when_busy": WhenBusy.REJECT}, "bad_limit", "when_busy reject"),
        ({"retries_only": True, "pending": 1}, "bad_limit", "retries_only"),
        ({"retries_only": True, "debounce_s": 1.0}, "bad_limit", "retries_only"),
        ({"retries_only": True, "when_busy": WhenBusy.REJECT}, "bad_limit", "retries_only"),
        ({"parent": "none"}, "bad_limit", "'none' does not exist"),
        ({"parent": "l"}, "bad_limit", "this limit itself"),
        ({"parent": "a b"}, "bad_id", "a b"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(given_: dict[str, Any], reason: str, named: str) -> None:
    """With the value, and what would be right."""
    given().when(define(**given_)).then_refused(reason, named)
    given(limit()).when(define(**given_)).then_refused(reason, named)


@pytest.mark.parametrize(
    "given_", [{"starts": 3, "per_s": 60.0}, {"cooldown_s": 1.0}, {"debounce_s": 1.0}, {"pending": 1}]
)
def test_one_of_them_is_enough(given_: dict[str, Any]) -> None:
    """A limit need not limit what runs."""
    given().when(define(running=None, **given_)).then(limit(running=None, **given_))


def test_hostile_names_and_reasons_are_refused() -> None:
    """Each command checks them."""
    for hostile in HOSTILE_IDS:
        given().when(define(hostile)).then_refused("bad_id")
        given().when(DeleteLimit(limit_id=hostile)).then_refused("bad_id")
    for hostile in HOSTILE_TEXTS:
        given().when(define(reason=hostile)).then_refused("bad_text")
        given().when(DeleteLimit(limit_id="l", reason=hostile)).then_refused("bad_text")


def test_there_may_be_so_many_limits() -> None:
    """Those that exist can still be changed."""
    full = given(*(limit(f"l{number}") for number in range(MOST_LIMITS)))
    full.when(define("one-more")).then_refused("too_many", "100 limits")
    full.when(define("l1", running=2)).then(limit("l1", running=2))


def test_no_limit_is_above_its_parent() -> None:
    """Neither when it is defined nor when the parent is lowered; a parent stays as long as it is one."""
    parent = limit("all", running=4, pending=10, starts=10, per_s=10.0)
    given(parent).when(define(running=5, parent="all")).then_refused(
        "bad_limit", "5 running, but its parent 'all' only 4"
    )
    given(parent).when(define(pending=11, parent="all")).then_refused("bad_limit", "11 pending")
    given(parent).when(define(starts=2, per_s=1.0, parent="all")).then_refused("bad_limit", "2 starts per second")
    given(parent).when(define(parent="all")).then(limit(parent="all"))
    child = limit(running=3, parent="all")
    given(parent, child).when(define("all", running=2)).then_refused("bad_limit", "'l' allows 3 running")
    given(parent, child).when(define("all", running=3)).then(limit("all", running=3))
    given(parent, child).when(DeleteLimit(limit_id="all")).then_refused("limit_in_use", "parent of l")
    given(parent, child).when(define("all", running=4, parent="l")).then_refused("bad_limit")
    given(limit("a"), limit("b", parent="a"), limit("c", parent="b")).when(define("a", parent="c")).then_refused(
        "bad_limit", "has 'a' above it"
    )
    assert given(limit("a"), limit("b", parent="a")).when(define("c", parent="b")).error is None


def test_no_limit_is_above_those_of_the_settings() -> None:
    """They are the parents of all."""
    rules = Rules(max_concurrent_tasks=5, max_pending_tasks=7)
    given().when(define(running=6), rules=rules).then_refused("bad_number", "running 6")
    given().when(define(pending=8), rules=rules).then_refused("bad_number", "pending 8")


# --- a busy key -------------------------------------------------------------------------------------------------------


def test_by_default_a_task_waits_for_its_key() -> None:
    """However many do."""
    given(limit(), worker(), submitted("a"), started("a")).when(submit("b")).then(submitted("b"))


def test_a_key_that_is_busy_rejects() -> None:
    """It is busy while so many run or wait; the error names them. Others, and those without the attribute, are not."""
    waiting = given(REJECTS, submitted("a", **OF_X))
    waiting.when(submit("b", **OF_X)).then_refused("busy", "'l:x' is busy by a")
    waiting.when(submit("b", attributes={"a": "y"})).then(submitted("b", attributes={"a": "y"}))
    waiting.when(submit("c")).then(submitted("c"))
    running = given(REJECTS, worker(), submitted("a", **OF_X), started("a"))
    running.when(submit("b", **OF_X)).then_refused("busy", "submit when they have ended")
    running.when(submit("a", **OF_X)).then_nothing()
    given(REJECTS, worker(), submitted("a", **OF_X), started("a"), completed("a")).when(submit("b", **OF_X)).then(
        submitted("b", **OF_X)
    )
    two = given(limit(running=5, when_busy=WhenBusy.REJECT), *(submitted(f"t{number}") for number in range(5)))
    two.when(submit("b")).then_refused("busy", "t0, t1, t2 and 2 more")


def test_a_key_that_is_busy_returns_the_existing_task() -> None:
    """The oldest that runs, else the oldest that waits; nothing is recorded."""
    returns = limit(by="attributes.a", when_busy=WhenBusy.RETURN_EXISTING)
    given(returns, submitted("a", **OF_X)).when(submit("b", **OF_X)).then_nothing().then_answers("a")
    ran = given(returns, worker(), submitted("a", **OF_X), submitted("b", **OF_X), started("b"))
    ran.when(submit("c", **OF_X)).then_nothing().then_answers("b")
    given(returns).when(submit("c", **OF_X)).then(submitted("c", **OF_X)).then_answers("c")


def test_a_key_that_cools_down_returns_the_task_that_ended() -> None:
    """For as long as it does; then a new one is submitted."""
    returns = limit(cooldown_s=60.0, when_busy=WhenBusy.RETURN_EXISTING)
    ended = given(returns, worker(), submitted("a"), started("a"), completed("a"))
    at = ended.world.time
    ended.when(submit("b"), at=at + 59.0).then_nothing().then_answers("a")
    ended.when(submit("b"), at=at + 60.0).then(submitted("b"))


def test_after_as_many_starts_as_are_allowed_a_key_is_busy_for_a_time() -> None:
    """The error says for how long; without a task to return, it is an error as well."""
    for when in (WhenBusy.REJECT, WhenBusy.RETURN_EXISTING):
        rate = limit(running=None, starts=1, per_s=60.0, when_busy=when)
        ended = given(rate, worker(), submitted("a"), said(started("a"), at=2000.0), completed("a"))
        ended.when(submit("b"), at=2010.0).then_refused("busy", "submit again in 50 s")
        ended.when(submit("b"), at=2060.0).then(submitted("b"))


def test_a_task_takes_the_place_of_those_that_wait() -> None:
    """With `replace_waiting` what runs goes on."""
    replaces = limit(when_busy=WhenBusy.REPLACE_WAITING)
    facts = (replaces, worker(), submitted("a"), started("a"))
    given(*facts).when(submit("b")).then(submitted("b"))
    given(*facts, submitted("b")).when(submit("c")).then(
        TaskCancelled(task_id="b", reason="task c takes its place", how="replaced"), submitted("c")
    )


def test_a_task_calls_off_what_runs() -> None:
    """With `cancel_running` the oldest end until there is room, and it takes the place of those that wait."""
    cancels = limit(running=2, when_busy=WhenBusy.CANCEL_RUNNING)
    facts = (cancels, worker(), *(submitted(one) for one in "abc"), started("a"), started("b", lease="d.1.1"))
    decided = given(*facts).when(submit("d"))
    decided.then(
        TaskCancelAsked(task_id="a", grace_s=10.0, reason="task d takes its place"),
        TaskCancelled(task_id="c", reason="task d takes its place", how="replaced"),
        submitted("d"),
    )
    given(*facts, TaskCancelAsked(task_id="a", grace_s=10.0)).when(submit("d")).then(
        TaskCancelled(task_id="c", reason="task d takes its place", how="replaced"), submitted("d")
    )
    immediate = given(*facts).when(submit("d"), rules=Rules(cancel_grace_s=0.0))
    immediate.then(
        TaskCancelled(task_id="a", reason="task d takes its place"),
        TaskCancelled(task_id="c", reason="task d takes its place", how="replaced"),
        submitted("d"),
    )
    assert immediate.world.tasks["a"].status is TaskStatus.CANCELLED


def test_one_takes_the_place_of_at_most_a_hundred() -> None:
    """A limit that was defined when thousands waited makes no turn too large."""
    facts = [submitted(f"t{number}") for number in range(REPLACED_MOST + 5)]
    decided = given(*facts, limit(when_busy=WhenBusy.REPLACE_WAITING)).when(submit("last"))
    assert len(decided.events) == REPLACED_MOST + 1


def test_so_many_may_be_pending() -> None:
    """More are refused; those in whose place a task comes do not count."""
    quota = limit(running=None, pending=2, by="tenant")
    full = given(quota, submitted("a"), submitted("b"))
    full.when(submit("c")).then_refused("quota", "2 tasks of 'l:default' are pending")
    full.when(submit("c"), tenant="other").then(submitted("c"))
    replaces = limit(pending=1, when_busy=WhenBusy.REPLACE_WAITING)
    given(replaces, submitted("a")).when(submit("b")).then(
        TaskCancelled(task_id="a", reason="task b takes its place", how="replaced"), submitted("b")
    )


# --- debounce ---------------------------------------------------------------------------------------------------------


def test_a_task_waits_for_another_one_to_take_its_place() -> None:
    """The last one starts, so long after it was submitted; the same again is no other task."""
    debounces = limit(running=None, debounce_s=5.0)
    first = submitted("a", debounce=Debounce(since=2000.0, until=2005.0))
    given(debounces).when(submit("a"), at=2000.0).then(first)
    waiting = given(debounces, said(first, at=2000.0))
    waiting.when(submit("b"), at=2004.0).then(
        TaskCancelled(task_id="a", reason="task b takes its place", how="replaced"),
        submitted("b", debounce=Debounce(since=2000.0, until=2009.0)),
    )
    waiting.when(submit("a"), at=2004.0).then_nothing()
    assert waiting.world.tasks["a"].retry_at == 2005.0


def test_that_may_go_on_for_so_long() -> None:
    """Tasks that keep coming do not put the start off for ever."""
    debounces = limit(running=None, debounce_s=5.0, debounce_most_s=12.0)
    waiting = submitted("a", debounce=Debounce(since=2000.0, until=2011.0))
    decided = given(debounces, said(waiting, at=2006.0)).when(submit("b"), at=2010.0)
    decided.then(
        TaskCancelled(task_id="a", reason="task b takes its place", how="replaced"),
        submitted("b", debounce=Debounce(since=2000.0, until=2012.0)),
    )


def test_the_longest_wait_of_all_limits_counts() -> None:
    """And a start that was asked for later still."""
    both = (limit("l", running=None, debounce_s=5.0), limit("m", running=None, debounce_s=9.0))
    given(*both).when(submit("a"), at=2000.0).then(submitted("a", debounce=Debounce(since=2000.0, until=2009.0)))
    later = submitted("a", not_before=2100.0, debounce=Debounce(since=2000.0, until=2009.0))
    given(*both).when(submit("a", not_before=2100.0), at=2000.0).then(later)
    assert fold(said(later, at=BEGIN)).tasks["a"].retry_at == 2100.0


def test_a_task_takes_no_place_of_what_it_waits_for() -> None:
    """It would wait for ever, or be cancelled as well."""
    replaces = limit(running=2, when_busy=WhenBusy.CANCEL_RUNNING)
    facts = (replaces, worker(), *(submitted(one) for one in "abc"), started("a"))
    after = After(tasks=("a", "b"))
    given(*facts).when(submit("d", after=after)).then(
        TaskCancelled(task_id="c", reason="task d takes its place", how="replaced"),
        submitted("d", after=after, waits_for=("a", "b")),
    )
