"""Deciders of the commands about versions of workers, and which builds a route or a move may name. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.validation import check_number, check_text
from coordinator.commands.version import ReinstateVersion, RetireVersion
from coordinator.deciders.rules import Decider
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.queue import Route
from events.version import VersionReinstated, VersionRetired

if TYPE_CHECKING:
    from collections.abc import Collection

    from coordinator.deciders.rules import DecisionContext, Events
    from projections.world import World

MOST_RETIRED = 10_000


def retire(world: World, command: RetireVersion, context: DecisionContext) -> Events:
    """Retire a version, and say where the tasks go on that began on it."""
    build_id = checked(command.build_id, "build_id")
    check_text("reason", command.reason, context.rules.text_chars_max)
    known = world.versions.get(build_id)
    if known is not None and known.move_to == command.move_to:
        return ()
    if known is None:
        _check_known(world, build_id)
        if len(world.versions) >= MOST_RETIRED:
            msg = f"{len(world.versions)} versions are retired, the maximum: reinstate some that have no workers"
            raise Refused(msg, reason="too_many")
    routed = [
        queue.queue_id
        for queue in world.queues.values()
        if queue.route is not None and build_id in (queue.route.current, queue.route.ramping)
    ]
    if routed:
        msg = f"the tasks of queue {routed[0]!r} begin on version {build_id!r}: route it to another one first"
        raise Refused(msg, reason="version_in_use")
    if command.move_to:
        if checked(command.move_to, "move_to") == build_id:
            msg = f"move_to {build_id!r} is the version that is retired: name another one, or none"
            raise Refused(msg, reason="bad_version")
        check_target(world, "move_to", command.move_to, may_wait=command.without_workers)
    return (VersionRetired(build_id=build_id, move_to=command.move_to, reason=command.reason),)


def reinstate(world: World, command: ReinstateVersion, context: DecisionContext) -> Events:
    """Reinstate a retired version."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    if checked(command.build_id, "build_id") not in world.versions:
        return ()
    return (VersionReinstated(build_id=command.build_id, reason=command.reason),)


def check_route(world: World, route: Route, *, may_wait: bool) -> None:
    """
    Accept a route; with *may_wait* no worker needs to have the builds that it names.

    Raises:
        Refused: it says no share for a build, or no build for a share, or a build is retired or has no workers.
    """
    check_number("route.percent", route.percent, 0, 100)
    if route.percent and not route.ramping:
        msg = f"route.percent {route.percent:g} needs the build id that gets this share: give route.ramping"
        raise Refused(msg, reason="bad_version")
    if route.ramping and route.ramping == route.current:
        msg = f"route.ramping {route.ramping!r} is the current version: name another one, or none"
        raise Refused(msg, reason="bad_version")
    if route.current:
        checked(route.current, "route.current")
    check_target(world, "route.current", route.current, may_wait=may_wait)
    if route.ramping:
        check_target(world, "route.ramping", checked(route.ramping, "route.ramping"), may_wait=may_wait)


def check_target(world: World, name: str, build_id: str, *, may_wait: bool | None = None) -> None:
    """
    Accept a version that gets tasks: it is not retired, and has a worker unless it *may_wait* for one.

    That is None where nobody can say so.

    Raises:
        Refused: it is not so.
    """
    if build_id in world.versions:
        msg = f"{name} {build_id!r} is retired: reinstate it first, or name another version"
        raise Refused(msg, reason="bad_version")
    builds = {worker.build_id for worker in world.workers.values() if not worker.is_ended}
    if build_id in builds or may_wait:
        return
    who = f"with the build id {build_id!r}" if build_id else "without a build id"
    wait = "" if may_wait is None else ", or say `without_workers`"
    msg = f"{name}: no worker {who} is registered{_meant(build_id, builds)}: start one first{wait}"
    raise Refused(msg, reason="unknown_version")


def _check_known(world: World, build_id: str) -> None:
    """
    Accept a version that some worker has or had, or tasks began on.

    Raises:
        NotFound: nothing is known of it; the message has the nearest ones.
    """
    builds = {worker.build_id for worker in world.workers.values()} | world.indexes.builds.pinned.keys()
    if build_id not in builds:
        msg = f"version {build_id!r} not found, no worker has this build id{_meant(build_id, builds)}"
        raise NotFound(msg, reason="unknown_version")


def _meant(build_id: str, builds: Collection[str]) -> str:
    near = get_close_matches(build_id, filter(None, builds), n=3)
    return f"; did you mean {' or '.join(map(shown, near))}?" if near else ""


DECIDERS: dict[type[Command], Decider] = {RetireVersion: retire, ReinstateVersion: reinstate}
