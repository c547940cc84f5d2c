"""Versions of workers as they are shown: with their workers and tasks. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.version import VersionView
from coordinator.deciders.rules import present_s

if TYPE_CHECKING:
    from coordinator.deciders.rules import Rules
    from coordinator.deciders.signs import Signs
    from projections.world import World


def version_views(world: World, signs: Signs, rules: Rules, heard_now: float) -> dict[str, VersionView]:
    """Return all versions by build id, sorted."""
    workers: dict[str, int] = {}
    heard: dict[str, int] = {}
    running: dict[str, int] = {}
    for worker in world.workers.values():
        held = len(world.indexes.held.get(worker.worker_id, ()))
        if worker.is_ended and not held:
            continue
        build_id = worker.build_id
        workers[build_id] = workers.get(build_id, 0) + (not worker.is_ended)
        running[build_id] = running.get(build_id, 0) + held
        is_heard = signs.silent_for(signs.workers, worker.worker_id, heard_now) < present_s(rules)
        heard[build_id] = heard.get(build_id, 0) + (is_heard and not worker.is_ended)
    current: dict[str, list[str]] = {}
    ramping: dict[str, dict[str, float]] = {}
    for queue_id, queue in sorted(world.queues.items()):
        if queue.route is not None:
            current.setdefault(queue.route.current, []).append(queue_id)
            if queue.route.ramping:
                ramping.setdefault(queue.route.ramping, {})[queue_id] = queue.route.percent
    pending = world.indexes.builds.pinned
    builds = workers.keys() | pending.keys() | current.keys() | ramping.keys() | world.versions.keys()
    return {
        build_id: VersionView(
            build_id=build_id,
            workers=workers.get(build_id, 0),
            heard=heard.get(build_id, 0),
            running=running.get(build_id, 0),
            pending=pending.get(build_id, 0),
            current_in=current.get(build_id, []),
            ramping_in=ramping.get(build_id, {}),
            retired=world.versions.get(build_id),
        )
        for build_id in sorted(builds)
    }
