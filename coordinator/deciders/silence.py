"""
When many fall silent at once: whether that is taken for their end, or for a fault between them and us. Pure.

A cut cable, a blind writer or a lost switch silences everything behind it, and all of it is still there. So when too
large a share of one kind is silent as the first of them is overdue, none of that kind is given up, until signs return
or somebody says that they are gone. Leases of tasks are not among it: a worker gives those up by its own clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.cluster import AcceptSilence
from coordinator.commands.command import Command
from coordinator.commands.validation import check_text
from coordinator.deciders.rules import Decider, Teller
from events.coordinator import CoordinatorMassSilenceEnded, CoordinatorMassSilenceNoticed, Watched
from events.errors import NotFound
from events.service import ServiceStatus
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.deciders.rules import Context, Rules
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from projections.world import World

NODE_LOST_AFTER = 1.5
"""A node is given up this many times its lease after it was last heard; by then it has stopped what it must."""
SILENT_AFTER = 0.75
"""What was not heard for this part of its limit counts as silent: those of one fault are overdue one by one."""


def patience_s(kind: Watched, rules: Rules) -> float:
    """Say for how many seconds one of *kind* may be silent."""
    if kind is Watched.SERVICE:
        return rules.heartbeat_timeout_s
    return rules.worker_timeout_s if kind is Watched.WORKER else rules.node_lease_s * NODE_LOST_AFTER


def due(world: World, signs: Signs, context: Context, heard_now: float) -> Iterator[Event]:
    """Give what is to be recorded of each kind: that a mass silence began, or ended by itself."""
    rules = context.rules
    for kind in Watched:
        limit = patience_s(kind, rules)
        standing = world.silences.get(kind)
        is_accepted = standing is not None and standing.accepted and context.now - standing.since <= limit
        # A writer that has just begun to listen cannot tell who is silent.
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
    """Say whether none of *kind* is given up for its silence now."""
    standing = world.silences.get(kind)
    return standing is not None and not standing.accepted


def accept(world: World, command: AcceptSilence, context: Context) -> tuple[Event, ...]:
    """Let what is silent be given up."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    standing = world.silences.get(command.kind)
    if standing is None:
        msg = f"no mass silence of {command.kind}s is noticed: what is silent is given up when its time comes"
        raise NotFound(msg)
    if standing.accepted:
        return ()
    return (
        CoordinatorMassSilenceEnded(
            instance=world.leader, kind=command.kind, silent=standing.silent, accepted=True, reason=command.reason
        ),
    )


def _silences(kind: Watched, world: World, signs: Signs, heard_now: float) -> list[float]:
    """Give for how long each that is alive was not heard; services that are checked do not speak by themselves."""
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
        heard, alive = signs.workers, [one.worker_id for one in world.workers.values() if not one.is_ended]
    else:
        heard, alive = (
            signs.nodes,
            [one.node_id for one in world.nodes.values() if not one.is_ended and one.status is not NodeStatus.LOST],
        )
    return [signs.silent_for(heard, entity_id, heard_now) for entity_id in alive]


DECIDERS: dict[type[Command], Decider] = {AcceptSilence: accept}
TELLERS: dict[type[Command], Teller] = {}
