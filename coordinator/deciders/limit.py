"""Deciders of the limit commands, and what limits mean for a task that is submitted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.limit import DefineLimit, DeleteLimit
from coordinator.commands.task import CancelTask
from coordinator.commands.validation import check_number, check_text
from coordinator.deciders import cancel_ladder
from coordinator.deciders.rules import Decider, Teller
from events.base import START
from events.errors import Refused, shown
from events.ids import checked
from events.limit import LimitDefined, LimitDeleted, Terms, WhenBusy
from events.task import Debounce, TaskCancelled
from projections.limit import ATTRIBUTES, FIELDS, Limit, keys_of, limit_of, opens_at
from projections.stamp import Stamp
from projections.task import submitted_as
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from coordinator.deciders.rules import DecisionContext, Events, Rules
    from events.base import Event
    from events.task import TaskSubmitted
    from projections.task import Task
    from projections.world import World

MOST_LIMITS = 100
STARTS_MOST = 1000
PERIOD_MOST_S = 86_400.0
WAIT_MOST_S = 366 * 86_400.0
REPLACED_MOST = 100
"""A task takes the place of at most so many that wait, and cancels at most so many that run."""
_HOLDERS_NAMED = 3
_NONE: Mapping[str, None] = {}
_REJECTING = frozenset({WhenBusy.REJECT, WhenBusy.RETURN_EXISTING})


def define(world: World, command: DefineLimit, context: DecisionContext) -> Events:
    """Create a limit or replace its terms."""
    limit_id = checked(command.limit_id, "limit_id")
    check_text("reason", command.reason, context.rules.text_chars_max)
    terms = command.terms
    _check_terms(terms, context.rules)
    known = world.limits.get(limit_id)
    if known is not None and known.terms == terms:
        return ()
    if known is None and len(world.limits) >= MOST_LIMITS:
        msg = f"there are {len(world.limits)} limits, the maximum: change an existing one, or delete one"
        raise Refused(msg, reason="too_many")
    _check_parents(world, limit_id, terms)
    for child in _children(world, limit_id):
        _check_below(child.limit_id, child.terms, limit_id, terms)
    return (LimitDefined(limit_id=limit_id, terms=terms, reason=command.reason),)


def delete(world: World, command: DeleteLimit, context: DecisionContext) -> Events:
    """Delete a limit that is the parent of none."""
    limit_id = checked(command.limit_id, "limit_id")
    check_text("reason", command.reason, context.rules.text_chars_max)
    if limit_id not in world.limits:
        return ()
    children = [child.limit_id for child in _children(world, limit_id)]
    if children:
        msg = f"limit {limit_id!r} is the parent of {', '.join(children[:5])}: change or delete these first"
        raise Refused(msg, reason="limit_in_use")
    return (LimitDeleted(limit_id=limit_id, reason=command.reason),)


def _children(world: World, limit_id: str) -> list[Limit]:
    return [limit for limit in world.limits.values() if limit.terms.parent == limit_id]


def _check_terms(terms: Terms, rules: Rules) -> None:
    """
    Accept terms that can be kept.

    Raises:
        Refused: one is out of range, above that of the settings, or does not fit the others.
    """
    attribute = terms.by.removeprefix(ATTRIBUTES)
    if terms.by not in FIELDS and not (
        terms.by.startswith(ATTRIBUTES) and attribute.isidentifier() and attribute.isascii()
    ):
        msg = f"by {shown(terms.by)} is not known: use {', '.join(FIELDS)} or {ATTRIBUTES}NAME"
        raise Refused(msg, reason="bad_limit")
    if terms.where:
        lasting(terms.where)
    most = {"running": rules.max_concurrent_tasks, "pending": rules.max_pending_tasks, "starts": STARTS_MOST}
    for name, highest in most.items():
        amount = getattr(terms, name)
        if amount is not None:
            check_number(name, amount, 1, highest)
    if (terms.starts is None) is not (terms.per_s == 0):
        msg = f"starts {terms.starts} and per_s {terms.per_s:g}: give both, such as 10 starts per 60 s, or none"
        raise Refused(msg, reason="bad_limit")
    if terms.per_s:
        check_number("per_s", terms.per_s, 0.001, PERIOD_MOST_S)
    check_number("cooldown_s", terms.cooldown_s, 0, PERIOD_MOST_S)
    check_number("debounce_s", terms.debounce_s, 0, WAIT_MOST_S)
    check_number("debounce_most_s", terms.debounce_most_s, 0, WAIT_MOST_S)
    if terms.debounce_most_s and terms.debounce_most_s < terms.debounce_s:
        msg = f"debounce_most_s {terms.debounce_most_s:g} is below debounce_s {terms.debounce_s:g}: use at least that"
        raise Refused(msg, reason="bad_limit")
    never_busy = terms.running is None and terms.starts is None and not terms.cooldown_s
    if never_busy and terms.pending is None and not terms.debounce_s:
        msg = "the terms limit nothing: give running, starts, pending, cooldown_s or debounce_s"
        raise Refused(msg, reason="bad_limit")
    if terms.retries_only and (terms.pending is not None or terms.debounce_s or terms.when_busy is not WhenBusy.QUEUE):
        msg = "retries_only limits no submits: pending, debounce_s and when_busy have no meaning with it"
        raise Refused(msg, reason="bad_limit")
    if never_busy and terms.when_busy is not WhenBusy.QUEUE:
        msg = f"when_busy {terms.when_busy.value} needs what makes a key busy: give running, starts or cooldown_s"
        raise Refused(msg, reason="bad_limit")


def _check_parents(world: World, limit_id: str, terms: Terms) -> None:
    """
    Accept terms whose parent exists, allows as much, and is not below this limit itself.

    Raises:
        Refused: they are not so.
    """
    if not terms.parent:
        return
    parent = world.limits.get(checked(terms.parent, "parent"))
    if parent is None or terms.parent == limit_id:
        what = "is this limit itself" if terms.parent == limit_id else "does not exist"
        raise Refused(f"parent {terms.parent!r} {what}: define it first, or name none", reason="bad_limit")
    _check_below(limit_id, terms, terms.parent, parent.terms)
    above = parent
    while above.terms.parent:
        if above.terms.parent == limit_id:
            msg = f"parent {terms.parent!r} has {limit_id!r} above it: a limit cannot be above itself"
            raise Refused(msg, reason="bad_limit")
        above = world.limits[above.terms.parent]


def _check_below(child_id: str, child: Terms, parent_id: str, parent: Terms) -> None:
    for name, amount, most in (
        ("running", child.running, parent.running),
        ("pending", child.pending, parent.pending),
        ("starts per second", _rate(child), _rate(parent)),
    ):
        if amount is not None and most is not None and amount > most:
            msg = f"limit {child_id!r} allows {amount:g} {name}, but its parent {parent_id!r} only {most:g}"
            raise Refused(msg, reason="bad_limit")


def _rate(terms: Terms) -> float | None:
    return None if terms.starts is None else terms.starts / terms.per_s


# --- what a limit means for a task that is submitted ------------------------------------------------------------------


class Admitted(NamedTuple):
    """The task as it is submitted, and what happens to others before; with `existing`, that one is meant instead."""

    event: TaskSubmitted
    first: tuple[Event, ...] = ()
    existing: str = ""


def admitted(world: World, event: TaskSubmitted, tenant: str, context: DecisionContext) -> Admitted:
    """
    Return what the limits make of a task that is submitted.

    Raises:
        Refused: a key of it is busy and rejects it, or has as many pending tasks as it may have.
    """
    limits = {limit_id: limit for limit_id, limit in world.limits.items() if _decides(limit.terms)}
    if not limits:
        return Admitted(event)
    ends: dict[str, tuple[Event, ...]] = {}
    debounce, awaited = event.debounce, () if event.after is None else event.after.tasks
    made = submitted_as(event, Stamp(START, context.now, tenant, context.actor, "", ""))
    for key in keys_of(made, limits):
        terms, pending = world.limits[limit_of(key)].terms, world.indexes.keyed.pending.get(key, _NONE)
        is_replaced = bool(terms.debounce_s)
        if is_replaced:
            debounce = _debounced(world, pending, terms, context.now, debounce)
        holders = None
        if terms.when_busy is not WhenBusy.QUEUE:
            holders = _holders(world, key, terms, _NONE if is_replaced else pending, context.now)
        if holders is not None:
            if terms.when_busy is WhenBusy.RETURN_EXISTING and holders.named:
                return Admitted(event, (), holders.named[0])
            if terms.when_busy in _REJECTING:
                raise _busy_error(world, key, holders, context.now)
            is_replaced = True
            if terms.when_busy is WhenBusy.CANCEL_RUNNING:
                ends |= _called_off(world, key, terms, event.task_id, context)
        replaced = [one for one in islice(pending, REPLACED_MOST) if one not in awaited] if is_replaced else []
        ends |= {task_id: (_replaced(task_id, event.task_id),) for task_id in replaced}
        if terms.pending is not None and len(pending) - len(replaced) >= terms.pending:
            msg = f"{len(pending)} tasks of {key!r} are pending, as many as the limit allows: submit later"
            raise Refused(msg, reason="quota", retry_after_s=5.0)
    for task_id in awaited:  # it takes no place of what it waits for
        ends.pop(task_id, None)
    if debounce is not event.debounce:
        event = msgspec.structs.replace(event, debounce=debounce)
    return Admitted(event, tuple(one for events in ends.values() for one in events))


def _decides(terms: Terms) -> bool:
    """Return whether a limit may change or refuse a submit; most only decide what starts."""
    return terms.pending is not None or terms.debounce_s > 0 or terms.when_busy is not WhenBusy.QUEUE


def _debounced(world: World, pending: Iterable[str], terms: Terms, now: float, known: Debounce | None) -> Debounce:
    """Return from when to when a task waits that takes the place of *pending* ones, the longest wait of all limits."""
    since = now
    for task_id in islice(pending, REPLACED_MOST):
        task = world.tasks[task_id]
        since = min(since, task.submitted_at if task.debounce is None else task.debounce.since)
    until = now + terms.debounce_s
    if terms.debounce_most_s:
        until = min(until, since + terms.debounce_most_s)
    return Debounce(since=since, until=until if known is None else max(until, known.until))


def _replaced(task_id: str, by: str) -> TaskCancelled:
    return TaskCancelled(task_id=task_id, reason=f"task {by} takes its place", how="replaced")


def _called_off(
    world: World, key: str, terms: Terms, by: str, context: DecisionContext
) -> dict[str, tuple[Event, ...]]:
    """Cancel the oldest that run, until one more may."""
    running = [world.tasks[task_id] for task_id in world.indexes.keyed.running.get(key, _NONE)]
    running = sorted((task for task in running if task.cancelling is None), key=_began)
    spare = min(len(running) - (terms.running or 1) + 1, REPLACED_MOST)
    reason = f"task {by} takes its place"
    return {
        task.task_id: cancel_ladder.asked(task, CancelTask(task_id=task.task_id, reason=reason, grace_s=None), context)
        for task in running[: max(0, spare)]
    }


def _began(task: Task) -> tuple[float, str]:
    """Return the order in which tasks started, the same after a restart of the writer."""
    return task.started_at or 0.0, task.task_id


class _Holders(NamedTuple):
    """How many tasks make a key busy, and the first of them; none if only time does."""

    all: int
    named: tuple[str, ...]


def _holders(world: World, key: str, terms: Terms, pending: Collection[str], now: float) -> _Holders | None:
    """Return what makes a key busy, the oldest that run first; None if it is free."""
    running, use = world.indexes.keyed.running.get(key, _NONE), world.uses.get(key)
    count, named = len(running) + len(pending), tuple(islice(chain(running, pending), _HOLDERS_NAMED))
    if terms.running is not None and count >= terms.running:
        return _Holders(count, named)
    if opens_at(terms, use) <= now:
        return None
    if not named and use is not None and use.ended_task:
        return _Holders(1, (use.ended_task,))
    return _Holders(count, named)


def _busy_error(world: World, key: str, holders: _Holders, now: float) -> Refused:
    opens = opens_at(world.limits[limit_of(key)].terms, world.uses.get(key))
    later_s = opens - now if opens > now else None
    who = f" by {', '.join(holders.named)}" if holders.named else ""
    more = f" and {holders.all - len(holders.named)} more" if holders.all > len(holders.named) else ""
    when = "submit when they have ended" if later_s is None else f"submit again in {later_s:.3g} s"
    return Refused(f"{key!r} is busy{who}{more}: {when}", reason="busy", retry_after_s=later_s)


def existing(world: World, event: TaskSubmitted, context: DecisionContext) -> str:
    """Return the id of the task that a submit without effect meant."""
    return admitted(world, event, context.tenant, context).existing


def _told(world: World, command: DefineLimit, *_: object) -> Limit:
    return world.limits[command.limit_id]


DECIDERS: dict[type[Command], Decider] = {DefineLimit: define, DeleteLimit: delete}
TELLERS: dict[type[Command], Teller] = {DefineLimit: _told}
