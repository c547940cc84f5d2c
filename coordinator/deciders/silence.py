"""
Mass silence: too many entities of one kind are silent at once, which points to a fault between them and us. Pure.

A cut cable, a paused writer or a failed switch silences everything behind it, although all of it still runs. So when
too large a share of one kind is silent as the first of them exceeds its limit, none of that kind is declared lost until
heartbeats return or somebody accepts the silence. Leases are excluded: a worker gives them up by its own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.cluster import AcceptSilence
from coordinator.commands.command import Command
from coordinator.commands.validation import check_text
from coordinator.deciders.housing import is_frozen
from coordinator.deciders.rules import Decider, Teller
from events.coordinator import CoordinatorMassSilenceEnded, CoordinatorMassSilenceNoticed, Watched
from events.errors import NotFound
from events.service import ServiceStatus
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import DecisionContext, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.world import World

NODE_LOST_AFTER = 1.5
"""A node is lost after a silence of this many times its lease; by then what it must not run is dead: `DEAD_AFTER`."""
SILENT_AFTER = 0.75
"""An entity counts as silent after this part of its limit: entities behind one fault exceed the limit one by one."""


def patience_s(kind: Watched, rules: Rules) -> float:
    """Return for how many seconds an entity of *kind* may be silent."""
    if kind is Watched.SERVICE:
        return rules.heartbeat_timeout_s
    return rules.worker_timeout_s if kind is Watched.WORKER else rules.node_lease_s * NODE_LOST_AFTER


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float) -> Iterator[Event]:
    """Yield the beginning of a mass silence of each kind, or its end when heartbeats return."""
    rules = context.rules
    for kind in Watched:
        limit = patience_s(kind, rules)
        standing = world.silences.get(kind)
        is_accepted = standing is not None and standing.accepted and context.now - standing.since <= limit
        # A writer that has just begun to listen cannot know yet what is silent.
        if is_accepted or heard_now - signs.since <= limit * SILENT_AFTER:
            continue
        silences = _silences(kind, world, signs, heard_now)
        silent = sum(silence > limit * SILENT_AFTER for silence in silences)
        is_mass = silent >= rules.mass_silence_least and silent > rules.mass_silence_share * len(silences)
        if is_held(world, kind):
            if not is_mass:
                yield CoordinatorMassSilenceEnded(instance=world.leader, kind=kind, silent=silent)
        elif is_mass and max(silences) > limit:
            yield CoordinatorMassSilenceNoticed(
                instance=world.leader,
                kind=kind,
                silent=silent,
                alive=len(silences),
                limit_s=limit,
                most=rules.mass_silence_share,
            )


def is_held(world: World, kind: Watched) -> bool:
    """Return whether a mass silence now keeps every entity of *kind* from being declared lost."""
    standing = world.silences.get(kind)
    return standing is not None and not standing.accepted


def accept(world: World, command: AcceptSilence, context: DecisionContext) -> tuple[Event, ...]:
    """Accept a mass silence: the silent entities are declared lost."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    standing = world.silences.get(command.kind)
    if standing is None:
        msg = (
            f"there is no mass silence of {command.kind}s to accept: "
            f"a silent {command.kind} is declared lost or offline when its limit is exceeded"
        )
        raise NotFound(msg)
    if standing.accepted:
        return ()
    return (
        CoordinatorMassSilenceEnded(
            instance=world.leader, kind=command.kind, silent=standing.silent, accepted=True, reason=command.reason
        ),
    )


def _silences(kind: Watched, world: World, signs: Signs, heard_now: float) -> list[float]:
    """
    Return for how long each live entity of *kind* was silent.

    Services with health checks and workers in paused containers are excluded.
    """
    if kind is Watched.SERVICE:
        heard, alive = (
            signs.services,
            [
                one.service_id
                for one in world.services.values()
                if not one.is_ended and one.status is not ServiceStatus.OFFLINE and not one.health_check_url
            ],
        )
    elif kind is Watched.WORKER:
        heard, alive = (
            signs.workers,
            [
                one.worker_id
                for one in world.workers.values()
                if not one.is_ended and not (one.container_id and is_frozen(world, one.container_id))
            ],
        )
    else:
        heard, alive = (
            signs.nodes,
            [one.node_id for one in world.nodes.values() if not one.is_ended and one.status is not NodeStatus.LOST],
        )
    return [signs.silent_for(heard, entity_id, heard_now) for entity_id in alive]


DECIDERS: dict[type[Command], Decider] = {AcceptSilence: accept}
TELLERS: dict[type[Command], Teller] = {}
