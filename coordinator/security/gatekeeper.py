"""
The writer's gatekeeper: applies the rules of `authorization` to each command, at the cost of one dict lookup.

Besides the rules it keeps cached verdicts and the rate of submits; a new writer begins with full buckets. It must never
allow a command that a rule forbids; the engine records what is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.task import SubmitTask
from coordinator.security.authorization import Verdict, check, poured, too_fast, verdict

if TYPE_CHECKING:
    from coordinator.commands.caller import Caller
    from coordinator.commands.command import Command
    from coordinator.security.authorization import AccessRules, Bucket
    from projections.world import World

MOST_KEPT = 10_000
"""Limit of cached verdicts and of buckets: callers choose tenant names, so their number is unbounded."""

_PASSES = Verdict()


class Access:
    """Applies *rules* to commands during one reign over *world*."""

    def __init__(self, rules: AccessRules, world: World) -> None:
        self._rules = rules
        self._world = world
        self._verdicts: dict[tuple[str, str, type[Command]], Verdict | None] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def check(self, caller: Caller, command: Command) -> Verdict | None:
        """
        Check that a command is allowed; return the quotas to meter it by, if any.

        Raises:
            Forbidden: the sender may not do this. Refused: a quota is used up.
        """
        key = caller.actor, caller.tenant, type(command)
        try:
            found = self._verdicts[key]
        except KeyError:
            found = self._cache_verdict(key)
        if found is not None:
            check(self._world, found, command)
        return found

    def meter(self, command: Command, found: Verdict, now: float) -> None:
        """
        Count a command that was allowed and arrived at commit time *now*.

        Raises:
            Unavailable: its source or tenant submits too fast.
        """
        if not isinstance(command, SubmitTask) or self._world.knows_task(command.task_id):
            return
        taken = []
        for whose, name, quota in found.quotas:
            if quota.submits_per_s is not None:
                bucket = poured(self._buckets.get((whose, name)), quota, now)
                if bucket.left < 1.0:
                    raise too_fast(whose, name, quota, bucket)
                taken.append(((whose, name), type(bucket)(bucket.left - 1.0, bucket.at)))
        if taken and len(self._buckets) >= MOST_KEPT:
            self._buckets.clear()
        self._buckets.update(taken)

    def give_back(self, command: Command, found: Verdict) -> None:
        """Count a command that was metered as if it had not come."""
        if isinstance(command, SubmitTask):
            for whose, name, _ in found.quotas:
                bucket = self._buckets.get((whose, name))
                if bucket is not None:
                    self._buckets[whose, name] = type(bucket)(bucket.left + 1.0, bucket.at)

    def _cache_verdict(self, key: tuple[str, str, type[Command]]) -> Verdict | None:
        found = verdict(self._rules, *key)
        if len(self._verdicts) >= MOST_KEPT:
            self._verdicts.clear()
        kept = self._verdicts[key] = None if found == _PASSES else found
        return kept
