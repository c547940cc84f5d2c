"""
The writer's gatekeeper: applies the rules of `authorization` to each command, at the cost of looking up a dict.

What it keeps beside the rules are judgements it made before and how fast submits come; a new writer begins with full
buckets. It must never let a command pass that a rule forbids, and never record anything.
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
"""Judgements and buckets; callers choose tenants, so there may be any number of them."""

_PASSES = Verdict()


class Access:
    """Decides by *rules* for one reign over *world*."""

    def __init__(self, rules: AccessRules, world: World) -> None:
        self._rules = rules
        self._world = world
        self._judged: dict[tuple[str, str, type[Command]], Verdict | None] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def check(self, caller: Caller, command: Command) -> Verdict | None:
        """
        Let a command pass; gives what is to be metered of it.

        Raises:
            Forbidden: whoever asks may not do this. Refused: a quota is used up.
        """
        key = caller.actor, caller.tenant, type(command)
        try:
            found = self._judged[key]
        except KeyError:
            found = self._judge(key)
        if found is not None:
            check(self._world, found, command)
        return found

    def meter(self, command: Command, found: Verdict, now: float) -> None:
        """
        Take note of a command that passed, and came in at commit time *now*.

        Raises:
            Unavailable: its source or tenant submits too fast.
        """
        if not isinstance(command, SubmitTask) or command.task_id in self._world.tasks:
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

    def _judge(self, key: tuple[str, str, type[Command]]) -> Verdict | None:
        found = verdict(self._rules, *key)
        if len(self._judged) >= MOST_KEPT:
            self._judged.clear()
        kept = self._judged[key] = None if found == _PASSES else found
        return kept
