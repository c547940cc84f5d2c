"""Whether candidate policies are promoted only below their bounds, derived without the code that is checked."""

from __future__ import annotations

from math import inf, sqrt

from events.queue import (
    DEFAULT,
    Policy,
    QueueDeleted,
    QueueEvent,
    QueuePolicySet,
    QueuePromoted,
    QueueRolledBack,
    QueueShadowReported,
    QueueShadowSet,
)

TURNS_LEAST = 1
"""In how many turns a candidate must have been compared, here."""
ROUNDED = 1e-9


class _Compared:
    """One candidate and what was reported of it."""

    def __init__(self, event: QueueShadowSet, sequence: int) -> None:
        self.event = event
        self.upto = sequence
        self.turns = self.decisions = 0
        self.sums = [0.0, 0.0, 0.0, 0.0]

    def add(self, event: QueueShadowReported) -> None:
        one = event.compared
        self.upto = event.upto
        self.turns += one.turns
        self.decisions += one.decisions
        added = (one.regret_s, one.regret_squares, one.regret_by_decisions, one.decision_squares)
        self.sums = [before + more for before, more in zip(self.sums, added, strict=True)]

    def highest(self) -> float:
        """Return what the regret of a decision is at most, with 95 % certainty."""
        regret, squares, products, decision_squares = self.sums
        mean, turns = regret / self.decisions, self.turns
        if turns == 1:
            return inf
        spread = max(0.0, squares - 2 * mean * products + mean**2 * decision_squares)
        return mean + 1.96 * sqrt(spread * turns / (turns - 1)) / self.decisions


class KeptShadows:
    """The policies and candidates of the queues."""

    def __init__(self) -> None:
        self._live: dict[str, Policy | None] = {}
        self._before: dict[str, Policy | None] = {}
        self._candidates: dict[str, _Compared] = {}
        self.equal = self.promoted = 0

    def take(self, event: QueueEvent, sequence: int) -> str:
        """Take an event; return what is wrong with it, '' for nothing."""
        queue_id = event.queue_id
        wrong = ""
        if isinstance(event, QueueShadowSet):
            self._candidates.pop(queue_id, None)
            if event.policy is not None:
                self._candidates[queue_id] = _Compared(event, sequence)
        elif isinstance(event, QueueShadowReported):
            wrong = self._reported(event)
        elif isinstance(event, QueuePromoted):
            wrong = self._promoted(event)
            self._before[queue_id] = self._live.get(queue_id)
            self._live[queue_id] = event.policy
        elif isinstance(event, QueueRolledBack):
            if event.policy != self._before.pop(queue_id):
                wrong = f"{event} is not what was there before the promotion"
            self._live[queue_id] = event.policy
        elif isinstance(event, QueuePolicySet):
            self._live[queue_id] = event.policy
            self._before.pop(queue_id, None)
        elif isinstance(event, QueueDeleted):
            for known in (self._live, self._before, self._candidates):
                known.pop(queue_id, None)
        return wrong

    def _reported(self, event: QueueShadowReported) -> str:
        known = self._candidates[event.queue_id]
        if event.after != known.upto:
            return f"{event} does not go on where the last report ended, at {known.upto}"
        known.add(event)
        if known.event.policy != known.event.against or known.event.against != self._policy(event.queue_id):
            return ""
        self.equal += 1
        if event.compared.differing or event.compared.regret_s:
            return f"{event} says that a policy decides otherwise than itself: {known.event.policy}"
        return ""

    def _promoted(self, event: QueuePromoted) -> str:
        known = self._candidates.pop(event.queue_id)
        wanted = known.event
        self.promoted += 1
        if event.policy != wanted.policy or self._policy(event.queue_id) != wanted.against:
            return f"{event} is not the candidate that was compared with the live policy: {wanted}"
        if known.decisions < wanted.min_decisions or known.turns < TURNS_LEAST:
            return f"{event} after {known.decisions} decisions in {known.turns} turns: {wanted}"
        if known.highest() > wanted.regret_max + ROUNDED:
            return f"{event}, but its regret may be {known.highest()}: {wanted}"
        return ""

    def _policy(self, queue_id: str) -> Policy:
        return self._live.get(queue_id) or self._live.get(DEFAULT) or Policy()
