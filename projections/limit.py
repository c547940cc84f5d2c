"""
Limits: state, the keys that a task has by them, and how much room a key has. Pure.

A key is named `<limit_id>:<value>`: of the limit `per_customer` by `attributes.customer`, a task of the customer acme
has the key `per_customer:acme`.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf
from typing import TYPE_CHECKING

import msgspec

from events.base import Position
from events.errors import Corrupt, Refused
from events.limit import LimitDefined, LimitDeleted, Terms
from events.queue import DEFAULT
from projections.stamp import Stamp, missing
from projections.task_fields import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from events.task import Scalar
    from projections.task import Task

    AnyLimitEvent = LimitDefined | LimitDeleted

ATTRIBUTES = "attributes."
MOST_USES = 100_000
"""Of so many keys it is remembered when tasks of them started and ended; those that were used longest ago go first."""

FIELDS: dict[str, Callable[[Task], str]] = {
    "all": lambda _: "",
    "tenant": lambda task: task.tenant,
    "queue": lambda task: task.queue or DEFAULT,
    "task_name": lambda task: task.task_name,
    "fairness_key": lambda task: task.fairness_key,
}
"""What a limit may be by, besides attributes."""


class Limit(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One limit; `defined_at` is the commit time in seconds at which it got its terms."""

    limit_id: str
    defined: Position
    defined_at: float
    terms: Terms
    defined_by: str = ""
    reason: str = ""


class KeyUse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """When the last tasks of a key started, in order, and when the last one ended; commit times in seconds."""

    key: str
    starts: tuple[float, ...] = ()
    ended_at: float = 0.0
    ended_task: str = ""

    @property
    def at(self) -> float:
        """When it was used last."""
        return max(self.starts[-1] if self.starts else 0.0, self.ended_at)


def evolve(limit: Limit | None, event: AnyLimitEvent, stamp: Stamp) -> Limit | None:
    """
    Fold one event into the limit it is about; None means that it exists no more.

    Raises:
        Corrupt: its filter is none, or of a later release; or there is no such limit.
    """
    if isinstance(event, LimitDefined):
        try:
            lasting(event.terms.where or "true")
        except Refused as error:
            msg = f"event {stamp.position} defines the limit {event.limit_id!r} with a filter that is none: {error}"
            raise Corrupt(msg) from error
        return Limit(
            limit_id=event.limit_id,
            defined=stamp.position,
            defined_at=stamp.time,
            terms=event.terms,
            defined_by=stamp.actor,
            reason=event.reason,
        )
    if limit is None:
        missing(event, stamp)
    return None


def keys_of(task: Task, limits: Mapping[str, Limit]) -> tuple[str, ...]:
    """Return the keys of a task, in the order of the limits."""
    keys = []
    for limit_id, limit in limits.items():
        terms = limit.terms
        if (terms.retries_only and not task.failures) or (terms.where and not lasting(terms.where)(task)):
            continue
        value = value_in(task, terms.by, FIELDS)
        if value is not None:
            keys.append(f"{limit_id}:{value}")
    return tuple(keys)


def value_in(task: Task, by: str, fields: Mapping[str, Callable[[Task], str]]) -> str | None:
    """Return what a task has in common with others by a field or an attribute; None without that attribute."""
    if by.startswith(ATTRIBUTES):
        value = task.attributes.get(by[len(ATTRIBUTES) :])
        return None if value is None else _written(value)
    return fields[by](task)


def _written(value: Scalar) -> str:
    """Return the value of an attribute as JSON writes it, a text without quotes; 1 and 1.0 are one key."""
    if isinstance(value, str):
        return value
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return msgspec.json.encode(whole).decode()


def limit_of(key: str) -> str:
    """Return the id of the limit that a key is of; ids have no colon."""
    return key.partition(":")[0]


def opens_at(terms: Terms, use: KeyUse | None) -> float:
    """Return from when on the past allows a start of this key, a commit time in seconds; 0 if it never forbade one."""
    if use is None:
        return 0.0
    at = use.ended_at + terms.cooldown_s if use.ended_at and terms.cooldown_s else 0.0
    if terms.starts is not None and len(use.starts) >= terms.starts:
        at = max(at, use.starts[-terms.starts] + terms.per_s)
    return at


def room_of(terms: Terms, use: KeyUse | None, running: int, now: float) -> float:
    """Return how many tasks of a key may start now; it may be below 0 after a limit was lowered."""
    room = inf if terms.running is None else terms.running - running
    if use is not None and use.ended_at and terms.cooldown_s and now < use.ended_at + terms.cooldown_s:
        room = min(room, 0)
    if terms.starts is not None:
        starts = () if use is None else use.starts
        # The same sum as in `opens_at`, so that both agree to the last bit.
        room = min(room, terms.starts - len(starts) + bisect_right(starts, now, key=lambda at: at + terms.per_s))
    return room


def used(use: KeyUse | None, key: str, terms: Terms, *, started_at: float) -> KeyUse:
    """Return the use of a key after one more start."""
    most = terms.starts or 0
    starts = (*(() if use is None else use.starts), started_at)[-most:]
    if use is None:
        return KeyUse(key, starts)
    return KeyUse(key, starts, use.ended_at, use.ended_task)


def is_spent(use: KeyUse, terms: Terms | None, now: float) -> bool:
    """Return whether the past of a key does not limit anything any more."""
    return terms is None or use.at + max(terms.per_s, terms.cooldown_s) <= now
