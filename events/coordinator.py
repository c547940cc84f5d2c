"""Events about the coordinator itself: which instance leads since when, and the inputs of each placement."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from events.base import Event
from events.resources import Resources


class CoordinatorEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one coordinator instance."""

    SUBJECT = "instance"

    instance: str


class CoordinatorStarted(CoordinatorEvent, frozen=True, kw_only=True, gc=False):
    """
    This instance leads from here on, and the fold evicts ended entities by these limits.

    An ended entity is evicted `retention_s` after its end, or when `ended_kept` newer ones of its kind have ended.
    """

    version: str
    retention_s: float
    ended_kept: int


class CoordinatorStopped(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """This instance resigned as the leader."""

    reason: str = ""


class WaitingClaim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A claim as the scheduler saw it: which worker waits for how many tasks, and in which order it wants them."""

    claim_id: str
    worker_id: str
    slots: int
    strategy: str


class ClaimFilter(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Which tasks a claim takes: of these programs, with these names, in these queues, these; empty means any."""

    programs: tuple[str, ...] = ()
    task_names: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()


ANY = ClaimFilter()
"""Every task."""


class CoordinatorTurn(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The inputs of this turn's placements, in addition to the state before them; `filters` is by claim id.

    Running the policy named here again on that state and these inputs must return the same placements. `rounds` is what
    follows for the next turn: how many rounds of the rotation the workers have taken that got tasks by it. `containers`
    is what was said of the containers that workers of these claims run in: a status, `pausing` or `unknown`.

    A turn with a `claims_digest` records what changed since the turn before it, or since nothing if it is `fresh`:
    `claims` came, in this order; `went` did so without being served; `loads` and `containers` are new or other ones.
    The claims that a turn serves are gone after it. The digest is that of the whole: see `projections/considered.py`.

    While a custom policy is live, `chosen_by` is the SHA-256 of its source, and `chosen` the tasks that it chose for
    each claim that names no strategy; `later`, if those claims wait until it has chosen; '', if it failed.

    So many places as `kept` were kept free for a gang that waits for more of them.
    """

    VERSION = 4
    SINCE = {"rounds": 2, "claims_digest": 3, "chosen": 4, "chosen_by": 4, "kept": 4}

    now: float
    claims: tuple[WaitingClaim, ...]
    policy: str
    policy_version: int
    placed: int
    loads: dict[str, float] = {}
    filters: dict[str, ClaimFilter] = {}
    rounds: dict[str, float] = {}
    containers: dict[str, str] = {}
    fresh: bool = False
    went: tuple[str, ...] = ()
    claims_digest: str = ""
    chosen: dict[str, tuple[str, ...]] = {}
    chosen_by: str = ""
    kept: int = 0


class CoordinatorCommandRefused(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A command was refused for a reason that matters later: access, a quota or another limit, or a claim without tasks.

    `command` is its kind and verb, `reason` a code of `events.reasons`, `about` the id of the thing or worker it named,
    `message` the beginning of what its caller was told. Such events are limited to one in 10 s for each source (the
    `actor`) and reason: `count` is how many commands were refused since the one before, this one included.
    """

    command: str
    reason: str
    message: str
    about: str = ""
    count: int = 1


class CoordinatorPlacementRefused(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    No node had room for a container: it was not created or started, or its restart has to wait.

    `nodes` says for each node, at most five, why not; `others` is the number of further nodes. Limited and counted like
    refused commands. A restart that waits is told once for each failure of the container.
    """

    SUBJECT = "container_id"

    container_id: str
    resources: Resources
    reason: str
    nodes: dict[str, str] = {}
    others: int = 0
    count: int = 1


class Watched(StrEnum):
    """The kinds that are declared offline or lost when they are silent for too long."""

    SERVICE = "service"
    WORKER = "worker"
    NODE = "node"


class CoordinatorMassSilenceNoticed(CoordinatorEvent, frozen=True, kw_only=True, gc=False):
    """
    Mass silence: too many of one kind became silent at once; from here on none of them is declared offline or lost.

    Of the *alive* ones, *silent* were not heard for three quarters of *limit_s* seconds, one of them for longer than
    that limit. A share above *most* is first treated as a fault of the coordinator or of the network.
    """

    kind: Watched
    silent: int
    alive: int
    limit_s: float
    most: float


class CoordinatorMassSilenceEnded(CoordinatorEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The mass silence is over: from here on silent ones of this kind are declared offline or lost again.

    Either an operator accepted that they are gone (`accepted`), or heartbeats came again.
    """

    kind: Watched
    silent: int
    accepted: bool = False
    reason: str = ""


class EpochClaim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The body of a claim on `….epoch`: only the holder of the last claim may write."""

    generation: int
    holder: str
    time: str
