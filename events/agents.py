"""Events about the catalogue of agents: what a container of each type runs, and how it is looked after."""

from __future__ import annotations

import msgspec

from events.base import Event
from events.container import AS_ALL, RestartPolicy
from events.resources import NONE, Resources


class AgentType(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One entry of the catalogue: what runs when a container of this type starts.

    `limits` are the most that one container may ask for, and what it gets at most where it asks for none; 0 means no
    limit. Only nodes that meet `node_filter` get it, such as `labels.zone == "eu"`; one that does not `moves` starts
    only on the node where it has started before. Times in seconds.
    """

    command: tuple[str, ...] = ()
    image: str = ""
    when_cut_off: str = "stop"
    stop_grace_s: float = 10.0
    limits: Resources = NONE
    restart: RestartPolicy = AS_ALL
    moves: bool = True
    node_filter: str = ""


class AgentsChanged(Event, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    From here on containers are created from this catalogue; those that exist keep what they were created with.

    `digest` names the catalogue, by its content.
    """

    SUBJECT = "digest"

    digest: str
    agents: dict[str, AgentType] = {}
    reason: str = ""
