"""
The waiting claims that the scheduler considered, and what it knew of their workers, as the journal tells.

A `coordinator.turn` records what changed since the one before: claims that came or went, new loads, new states of
containers. Folding the turns of a reign in order gives the whole that each was decided from. The writer keeps the same
value, so what it records is what a reader will have. Pure.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from events.coordinator import ClaimFilter, CoordinatorTurn, WaitingClaim
    from events.task import TaskStarted

SPARE_WORKERS = 64
"""What is known of workers is dropped when there is twice as much of it as there are claims, and this many more."""
_encode = msgspec.json.Encoder().encode


class Considered:
    """What the turns since the last `fresh` one add up to; `claims` is in the order in which they are served."""

    def __init__(self) -> None:
        self.claims: dict[str, WaitingClaim] = {}
        self.filters: dict[str, ClaimFilter] = {}
        self.loads: dict[str, float] = {}
        self.containers: dict[str, str] = {}

    def clear(self) -> None:
        """Begin with nothing."""
        for table in (self.claims, self.filters, self.loads, self.containers):
            table.clear()

    def take(self, turn: CoordinatorTurn) -> None:
        """
        Fold a turn: afterwards this is what its placements were decided from.

        Turns before version 3, which have no digest, recorded everything.
        """
        if turn.fresh or not turn.claims_digest:
            self.clear()
        self._drop(turn.went)
        for claim in turn.claims:
            self.claims[claim.claim_id] = claim
            self.filters.pop(claim.claim_id, None)
        self.filters.update(turn.filters)
        self.loads.update(turn.loads)
        self.containers.update(turn.containers)

    def serve(self, started: Iterable[TaskStarted]) -> None:
        """Remove the claims that this turn served: they are answered and wait no more."""
        self._drop({event.claim_id for event in started})
        for known in (self.loads, self.containers):
            if len(known) > 2 * len(self.claims) + SPARE_WORKERS:
                known.clear()

    def changes(
        self,
        claims: Mapping[str, WaitingClaim],
        filters: Mapping[str, ClaimFilter],
        loads: Mapping[str, float],
        containers: Mapping[str, str],
        moved: Container[str] = (),
    ) -> dict[str, Any]:
        """
        Return the fields of a turn that lead from here to these values.

        The claims that are here already must come first, in this order, except those that *moved*.
        """
        mine = self.claims
        came = tuple(one for name, one in claims.items() if mine.get(name) is not one or name in moved)
        return {
            "went": tuple(name for name in mine if name not in claims or name in moved),
            "claims": came,
            "filters": {one.claim_id: filters[one.claim_id] for one in came if one.claim_id in filters},
            "loads": {name: load for name, load in loads.items() if load != self.loads.get(name, 0.0)},
            "containers": {name: said for name, said in containers.items() if said != self.containers.get(name)},
        }

    def digest(self) -> str:
        """Return a check sum of everything: 16 hexadecimal digits."""
        loads, containers = sorted(self.loads.items()), sorted(self.containers.items())
        whole = list(self.claims.values()), [self.filters.get(one) for one in self.claims], loads, containers
        return blake2b(_encode(whole), digest_size=8).hexdigest()

    def _drop(self, claim_ids: Iterable[str]) -> None:
        for claim_id in claim_ids:
            self.claims.pop(claim_id, None)
            self.filters.pop(claim_id, None)
