"""Answers questions from the world without changing it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.cluster import ClusterStats, GetStats, ListInboxes
from coordinator.commands.command import Command
from coordinator.commands.container import GetContainer, ListContainers
from coordinator.commands.node import ListNodes
from coordinator.commands.pool import GetPool
from coordinator.commands.service import FindServices, GetHealthHistory, GetService, ServiceView
from coordinator.commands.session import GetSession
from coordinator.commands.task import GetTask, ListTasks
from coordinator.commands.worker import ListWorkers
from coordinator.deciders.rules import standing
from coordinator.deciders.service import living
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.deciders.signs import Signs
    from projections.world import World

MOST_LISTED = 1000
MOST_FOUND = 10_000
"""Services in one answer: they are small, and a caller needs all candidates to choose from."""


def ask(world: World, signs: Signs, question: Command, heard_now: float) -> Any:
    """
    Answer one question.

    Raises:
        NotFound: the entity does not exist.
        Refused: the question is malformed.
    """
    match question:
        case FindServices():
            return find_services(world, signs, question, heard_now)
        case GetTask():
            return one_of(world.tasks, question.task_id, "task")
        case GetContainer():
            return one_of(world.containers, question.container_id, "container")
        case GetService():
            return view(signs, living(world, question.service_id), heard_now)
        case GetHealthHistory():
            living(world, question.service_id)
            checks = signs.checks.get(question.service_id)
            return list(islice(checks.outcomes, _limit(question.limit))) if checks else []
        case ListTasks():
            chosen = (t for t in reversed(world.tasks.values()) if question.status in (None, t.status))
            shown = islice(chosen, _limit(question.limit))
            return [msgspec.structs.replace(task, payload=None, result=None) for task in shown]
        case ListContainers():
            shown_containers = islice(reversed(world.containers.values()), _limit(question.limit))
            return [msgspec.structs.replace(container, environment={}) for container in shown_containers]
        case ListWorkers():
            return list(islice(reversed(world.workers.values()), _limit(question.limit)))
        case ListNodes():
            return list(islice(reversed(world.nodes.values()), _limit(question.limit)))
        case ListInboxes():
            return list(islice(world.inboxes.values(), MOST_LISTED))
        case GetPool():
            return one_of(world.pools, question.pool_id, "pool")
        case GetSession():
            return one_of(world.sessions, question.session_id, "session")
        case GetStats():
            return stats(world)
        case _:
            msg = f"{type(question).__name__} is not a question"
            raise Refused(msg)


def find_services(world: World, signs: Signs, question: FindServices, heard_now: float) -> list[ServiceView]:
    """Return the registered services that match, each with its last reported load."""
    found = (world.services[service_id] for service_id in _service_ids(world, question))
    matching = (
        service
        for service in found
        if question.status in (None, service.status)
        and question.service_type in ("", service.service_type)
        and (not question.tag or question.tag in service.tags)
    )
    shown = islice(matching, _limit(question.limit, MOST_FOUND))
    return [view(signs, service, heard_now) for service in shown]


def _service_ids(world: World, question: FindServices) -> Iterable[str]:
    """Return the ids of candidate services; sorted and after `after` if that is given, else in any order."""
    groups, after = world.indexes.services, question.after
    if not question.service_name and after is not None:
        in_order = world.indexes.service_ids
        return islice(in_order, bisect_right(in_order, after), None)
    named = [groups.get(question.service_name, {})] if question.service_name else list(groups.values())
    ids = (
        service_id
        for by_status in named
        for status, members in by_status.items()
        if question.status in (None, status)
        for service_id in members
    )
    return ids if after is None else sorted(service_id for service_id in ids if service_id > after)


def view(signs: Signs, service: Any, heard_now: float) -> ServiceView:
    """Return a service with its last reported load."""
    reported = signs.loads.get(service.service_id)
    if reported is not None:
        ago = heard_now - signs.services.get(service.service_id, signs.since)
        reported = msgspec.structs.replace(reported, heard_s_ago=round(ago, 3))
    return ServiceView(service=service, reported=reported)


def stats(world: World) -> ClusterStats:
    """Return counts of everything in the world."""
    return ClusterStats(
        containers=_by_status(world.containers.values()),
        services=_by_status(one for one in world.services.values() if not one.is_ended),
        tasks={status.value: count for status, count in world.indexes.task_counts.items()},
        workers=_by_status(world.workers.values()),
        nodes=_by_status(world.nodes.values()),
        totals=dict(world.totals),
        container_starts=sum(one.starts for one in world.containers.values()),
        container_failures=sum(one.failures for one in world.containers.values()),
        epoch=f"{world.generation}.{world.epoch}",
        position=str(world.position),
        leader=world.leader,
        mass_silence={kind: one.silent for kind, one in world.silences.items() if not one.accepted},
    )


def _by_status(things: Iterable[Any]) -> dict[str, int]:
    return dict(Counter(thing.status.value for thing in things))


def one_of(table: dict[str, Any], entity_id: str, kind: str) -> Any:
    """Return the entity of an id; raise `NotFound` if *table* has none, `Refused` if the id is malformed."""
    return standing(table, checked(entity_id, f"{kind}_id"), kind)


def _limit(limit: int, most: int = MOST_LISTED) -> int:
    if not 1 <= limit <= most:
        msg = f"limit {limit!r} is out of range: use 1 to {most}"
        raise Refused(msg, reason="bad_number")
    return limit
