"""Commands and questions about the cluster as a whole."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import INBOX, STATS
from events.coordinator import Watched
from projections.inbox import Inbox


class ListInboxes(Question[list[Inbox]], frozen=True, kw_only=True, gc=False):
    """List the inboxes of other domains, and how far each is read; with `after`, only those after that domain."""

    KIND, VERB = "inbox", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({}, [INBOX])

    limit: int = 1000
    after: str = ""


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Counts by status, totals since the cluster was created, and which instance leads from which position."""

    containers: dict[str, int]
    services: dict[str, int]
    tasks: dict[str, int]
    workers: dict[str, int]
    nodes: dict[str, int]
    totals: dict[str, int]
    container_starts: int
    container_failures: int
    """Of the containers that the coordinator has in memory; `count` of a follower is of all that ever existed."""
    epoch: str
    position: str
    leader: str
    mass_silence: dict[str, int] = {}
    """How many of a kind are silent but not declared lost, because of a mass silence."""
    pending_bytes: int | msgspec.UnsetType = msgspec.UNSET
    """Of the payloads of tasks that have not ended, without those of up to 256 characters; not there if it is 0."""
    paused_tasks: int | msgspec.UnsetType = msgspec.UNSET
    """How many of the pending tasks are paused; not there if it is 0."""


class GetStats(Question[ClusterStats], frozen=True, kw_only=True, gc=False):
    """Get the counts of the cluster."""

    KIND, VERB = "coordinator", "stats"
    FOR = frozenset({"domain", "monitor", "coordinator", "follower", "worker", "agents", "node"})
    EXAMPLE = Example({}, STATS)


class AcceptSilence(Command[None], frozen=True, kw_only=True, gc=False):
    """Accept a mass silence: the silent ones of this kind are declared lost now."""

    KIND, VERB = "coordinator", "accept_silence"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"kind": "worker", "reason": "rack 7 was switched off"})

    kind: Watched
    reason: str = ""
