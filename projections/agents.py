"""The catalogue of agents in force. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from events.agents import AgentsChanged, AgentType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from projections.stamp import Stamp


class Catalogue(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What each type of agents runs; `changed_at` is a commit time in seconds. Without a digest none was ever set."""

    digest: str = ""
    agents: dict[str, AgentType] = {}
    changed_at: float = 0.0
    changed_by: str = ""
    reason: str = ""


NO_CATALOGUE = Catalogue()
_encode = msgspec.json.Encoder(order="deterministic").encode


def catalogue_of(event: AgentsChanged, stamp: Stamp) -> Catalogue:
    """Return the catalogue that is in force from *event* on."""
    return Catalogue(
        digest=event.digest,
        agents=event.agents,
        changed_at=stamp.time,
        changed_by=stamp.actor,
        reason=event.reason,
    )


def digest_of(agents: Mapping[str, AgentType]) -> str:
    """Return the name of a catalogue by its content, its SHA-256: equal ones have the same."""
    return sha256(_encode(agents)).hexdigest()


def changes(before: Mapping[str, AgentType], after: Mapping[str, AgentType]) -> dict[str, str]:
    """Return the types that differ, in the order of their names, each `added`, `removed` or `changed`."""
    found = {}
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            found[name] = "added" if name not in before else "removed" if name not in after else "changed"
    return found
