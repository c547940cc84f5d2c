"""
Mass silence: too many entities of one kind are silent at once, which points to a fault between them and us. Pure.

A cut cable, a paused writer or a failed switch silences everything behind it, although all of it still runs. So when
too large a share of one kind is silent as the first of them exceeds its limit, none of that kind is declared lost until
heartbeats return or somebody accepts the silence. Leases are excluded: a worker gives them up by its own clock.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from coordinator.commands.cluster import AcceptSilence
from coordinator.commands.command import Command
from coordinator.commands.validation import check_text
from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.housing import is_frozen
from coordinator.deciders.rules import Decider, Teller
from events.coordinator import CoordinatorMassSilenceEnded, CoordinatorMassSilenceNoticed, Watched
from events.errors import NotFound
from events.service import ServiceStatus
from projections.node import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coordinator.deciders.deadlines import Silent
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


def due(
    world: World, signs: Signs, context: DecisionContext, heard_now: float, silences: Mapping[Watched, Silent]
) -> Iterator[Event]:
    """Yield the beginning of a mass silence of each kind, or its end when heartbeats return."""
    rules = context.rules
    for kind in Watched:
        limit = patience_s(kind, rules)
        standing = world.silences.get(kind)
        is_accepted = standing is not None and standing.accepted and context.now - standing.since <= limit
        # A writer that has just begun to listen cannot know yet what is silent.
        if is_accepted or heard_now - signs.since <= limit * SILENT_AFTER:
            continue
        _look(kind, silences[kind], world, signs, context.now, heard_now, limit * SILENT_AFTER)
        silent, alive = len(silences[kind].silent), len(silences[kind].alive)
        is_mass = silent >= rules.mass_silence_least and silent > rules.mass_silence_share * alive
        if is_held(world, kind):
            if not is_mass:
                yield CoordinatorMassSilenceEnded(instance=world.leader, kind=kind, silent=silent)
        elif is_mass and _most_silent_s(kind, silences[kind], signs, heard_now) > limit:
            yield CoordinatorMassSilenceNoticed(
                instance=world.leader,
                kind=kind,
                silent=silent,
                alive=alive,
                limit_s=limit,
                most=rules.mass_silence_share,
            )


def is_held(world: World, kind: Watched) -> bool:
    """Return whether a mass silence now keeps every entity of *kind* from being declared lost."""
    standing = world.silences.get(kind)
    return standing is not None and not standing.accepted


def unless_spared(at: float, heard_now: float, *, is_spared: bool) -> float:
    """
    Return when to look again at what may be lost at the time *at*, by the clock of *heard_now*.

    What a mass silence spares is looked at when that ends (`Deadlines`), not again and again until then.
    """
    return inf if is_spared and at <= heard_now else at


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


def _heard(kind: Watched, signs: Signs) -> dict[str, float]:
    return {Watched.SERVICE: signs.services, Watched.WORKER: signs.workers, Watched.NODE: signs.nodes}[kind]


def _most_silent_s(kind: Watched, found: Silent, signs: Signs, heard_now: float) -> float:
    """Return the longest of the silences."""
    heard = _heard(kind, signs)
    return max(signs.silent_for(heard, one, heard_now) for one in found.silent)


def _look(
    kind: Watched, found: Silent, world: World, signs: Signs, now: float, heard_now: float, silent_after_s: float
) -> None:
    """Update who is alive and who of them is silent now."""
    heard, since = _heard(kind, signs), signs.since
    is_alive = _IS_ALIVE[kind]
    # Each tick looks at all that are silent, who may be many: only at who was heard since, then.
    back = [one for one in found.silent if heard_now - max(heard.get(one, since), since) <= silent_after_s]
    for one in (*found.due.now(heard_now, now), *back):
        found.silent.pop(one, None)
        if not is_alive(world, one):
            found.alive.pop(one, None)
            found.due.later(one, NEVER)
            continue
        found.alive[one] = None
        silent_for_s = signs.silent_for(heard, one, heard_now)
        if silent_for_s > silent_after_s:
            found.silent[one] = None
            found.due.later(one, NEVER)
        else:
            found.due.later(one, (heard_now - silent_for_s + silent_after_s, inf))


def _is_service_alive(world: World, service_id: str) -> bool:
    """Whether a service is expected to send heartbeats: one with health checks is not."""
    service = world.services.get(service_id)
    if service is None or service.is_ended or service.status is ServiceStatus.OFFLINE:
        return False
    return not service.health_check_url


def _is_worker_alive(world: World, worker_id: str) -> bool:
    """Whether a worker is expected to send heartbeats: one in a paused container is not."""
    worker = world.workers.get(worker_id)
    if worker is None or worker.is_ended:
        return False
    return not (worker.container_id and is_frozen(world, worker.container_id))


def _is_node_alive(world: World, node_id: str) -> bool:
    node = world.nodes.get(node_id)
    return node is not None and not node.is_ended and node.status is not NodeStatus.LOST


_IS_ALIVE = {
    Watched.SERVICE: _is_service_alive,
    Watched.WORKER: _is_worker_alive,
    Watched.NODE: _is_node_alive,
}


DECIDERS: dict[type[Command], Decider] = {AcceptSilence: accept}
TELLERS: dict[type[Command], Teller] = {}
