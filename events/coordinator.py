"""What happens to the coordinator itself: who writes since when, and what each placement was decided from."""

from __future__ import annotations

from enum import StrEnum

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


class Watched(StrEnum):
    """What is given up when it is silent for too long."""

    SERVICE = "service"
    WORKER = "worker"
    NODE = "node"


class CoordinatorMassSilenceNoticed(CoordinatorEvent, frozen=True, kw_only=True, gc=False):
    """
    Too many of one kind fell silent at once for all of them to be gone: from here on none of that kind is given up.

    Of *alive* that were, *silent* were not heard for three quarters of *limit_s* seconds, one of them for longer than
    that limit; more than the share *most* is taken for our own fault, or the network's, first.
    """

    kind: Watched
    silent: int
    alive: int
    limit_s: float
    most: float


class CoordinatorMassSilenceEnded(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """From here on what is silent is given up again; `accepted` by whoever says that they are gone, or signs came."""

    kind: Watched
    silent: int
    accepted: bool = False
    reason: str = ""


class EpochClaim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The body of a claim on `….epoch`: whoever's claim is last may write, and none before it."""

    generation: int
    holder: str
    time: str
