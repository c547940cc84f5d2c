"""What may be asked of the cluster as a whole."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command, Question
from events.coordinator import Watched
from projections.inbox import Inbox


class ListInboxes(Question, frozen=True, kw_only=True, gc=False):
    """Ask how far the inboxes of other domains are read."""

    KIND, VERB, Answer = "inbox", "list", list[Inbox]


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Counts by status, totals over the cluster's life, and who leads from which position."""

    containers: dict[str, int]
    services: dict[str, int]
    tasks: dict[str, int]
    workers: dict[str, int]
    nodes: dict[str, int]
    totals: dict[str, int]
    container_starts: int
    container_failures: int
    epoch: str
    position: str
    leader: str
    mass_silence: dict[str, int] = {}
    """How many of a kind are silent and, for being so many, not given up."""


class GetStats(Question, frozen=True, kw_only=True, gc=False):
    """Ask for the cluster's counts."""

    KIND, VERB, Answer = "coordinator", "stats", ClusterStats
    FOR = frozenset({"domain", "monitor", "coordinator", "follower", "worker", "agents", "node"})


class AcceptSilence(Command, frozen=True, kw_only=True, gc=False):
    """Say that those of one kind that fell silent together are gone: they are given up now."""

    KIND, VERB = "coordinator", "accept_silence"
    FOR = frozenset()

    kind: Watched
    reason: str = ""
