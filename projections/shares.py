"""
What queues, tenants and keys have used of the fleet lately: the accounts by which shares are kept. Pure.

The amount in an account counts half after each half-life. Powers of two are exact, and the steps between them are made
of square roots, which every machine rounds alike: so every replay has the same amounts, to the last bit.
"""

from __future__ import annotations

from math import ldexp, sqrt
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from events.queue import FairShare
    from events.task import TaskEvent
    from projections.stamp import Stamp
    from projections.task import Task

    Shared = Mapping[str, FairShare]

MOST_ACCOUNTS = 20_000
"""So many accounts are kept; the one that was used the longest time ago goes first."""

HALF_LIFE_S = 300.0
"""After what time half counts of what a queue used, unless the policy of the queue `default` says otherwise."""

_STEPS = 64
"""An amount goes down in so many steps a half-life."""
_UNKNOWN = 1.0
"""What an attempt is taken to cost before the first of its account has ended."""
_NEW = 0.125
"""The weight of the last attempt in the mean of an account."""


def _powers() -> tuple[float, ...]:
    """Return 2 ** -(k / _STEPS) for k from 0, from exactly rounded operations only."""
    root = 0.5
    for _ in range(_STEPS.bit_length() - 1):
        root = sqrt(root)
    powers = [1.0]
    for _ in range(_STEPS - 1):
        powers.append(powers[-1] * root)
    return tuple(powers)


_DOWN = _powers()


class Account(msgspec.Struct, frozen=True, gc=False):
    """What the ended attempts of one account cost: `used`, as it counted at `at`, and the `mean` of the latest."""

    name: str
    used: float = 0.0
    at: float = 0.0
    mean: float = _UNKNOWN

    def used_at(self, now: float, half_life_s: float) -> float:
        """Return what counts at *now*."""
        steps = _steps(now - self.at, half_life_s)
        return ldexp(self.used * _DOWN[steps % _STEPS], -(steps // _STEPS))

    def charged(self, cost: float, now: float, half_life_s: float) -> Account:
        """Return the account after an attempt that cost *cost* has ended."""
        if not self.at:
            return Account(self.name, cost, now, cost)
        steps = _steps(now - self.at, half_life_s)
        # Whole steps only: an account that is charged again and again goes down as well.
        at = self.at + steps * (half_life_s / _STEPS)
        mean = self.mean + (cost - self.mean) * _NEW
        return Account(self.name, ldexp(self.used * _DOWN[steps % _STEPS], -(steps // _STEPS)) + cost, at, mean)


def _steps(passed_s: float, half_life_s: float) -> int:
    return int(max(0.0, passed_s) * _STEPS / half_life_s)


def name_in(queue: str, key: str | None = None) -> str:
    """Return the name of the account of a queue, or of a key in it; queues have no colon in their names."""
    return queue if key is None else f"{queue}:{key}"


def key_of(task: Task, share: FairShare) -> str:
    """Return in whose share a task is."""
    return task.tenant if share.by == "tenant" else task.fairness_key


def counted(share: FairShare | None) -> tuple[str, str] | None:
    """Return what the accounts of a shared queue count: for whom, and what; another one makes them useless."""
    return None if share is None else (share.by, share.cost)


def measure(share: FairShare | None) -> str:
    """Return what attempts cost: seconds where nothing else is said."""
    return "seconds" if share is None else share.cost


def kept(accounts: dict[str, Account], before: Shared, after: Shared, queues: Collection[str]) -> dict[str, Account]:
    """Return the accounts that still count what they did; *queues* are those that there are, as tasks call them."""
    same = {name for name in after if counted(before.get(name)) == counted(after[name])}
    is_measured_alike = measure(before.get("")) == measure(after.get(""))
    found = {}
    for name, account in accounts.items():
        queue, colon, _ = name.partition(":")
        if queue in same if colon else (is_measured_alike and (not queue or queue in queues)):
            found[name] = account
    return found


def cost_of(task: Task, event: TaskEvent, stamp: Stamp, share: FairShare | None) -> float:
    """Return what the attempt that *event* ended cost: seconds, tokens or micro-units of money."""
    cost = measure(share)
    if cost == "seconds":
        return stamp.time - (task.started_at if task.started_at is not None else stamp.time)
    spent = getattr(event, "spent", None)
    if spent is not None:  # what budgets are charged, with the tokens at their prices
        return float(spent.tokens if cost == "tokens" else spent.money_micros)
    usage = getattr(event, "usage", None)
    if usage is None:
        return 0.0
    return float(usage.tokens if cost == "tokens" else usage.money_micros)
