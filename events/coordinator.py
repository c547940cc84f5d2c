"""What happens to the coordinator itself: who writes since when, and what each placement was decided from."""

from __future__ import annotations

import msgspec

from events.base import Event


class CoordinatorEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one coordinator instance."""

    SUBJECT = "instance"

    instance: str


class CoordinatorStarted(CoordinatorEvent, frozen=True, kw_only=True, gc=False):
    """
    This instance leads from here on, and the fold evicts ended things by these limits.

    An ended thing leaves the world `retention_s` after its end, or when `ended_kept` newer ones of its kind have ended.
    """

    version: str
    retention_s: float
    ended_kept: int


class CoordinatorStopped(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """This instance gave the lead away by itself."""

    reason: str = ""


class WaitingClaim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A claim as the scheduler saw it: who waits for how many tasks, and in which order it wants them."""

    claim_id: str
    worker_id: str
    slots: int
    strategy: str


class CoordinatorTurn(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What the placements of this turn were decided from, beside the state before them.

    Running the policy named here again on that state and these inputs must give the same placements.
    """

    now: float
    claims: tuple[WaitingClaim, ...]
    policy: str
    policy_version: int
    placed: int
    loads: dict[str, float] = {}


class EpochClaim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The body of a claim on `….epoch`: whoever's claim is last may write, and none before it."""

    generation: int
    holder: str
    time: str
