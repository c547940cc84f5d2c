"""Answers questions from the world without changing it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coordinator.commands.agents import GetAgents
from coordinator.commands.budget import GetBudget, ListBudgets
from coordinator.commands.caller import Caller
from coordinator.commands.cluster import ClusterStats, GetStats, ListInboxes
from coordinator.commands.command import Command
from coordinator.commands.container import GetContainer, ListContainers
from coordinator.commands.explain import ExplainTask, PlanTask
from coordinator.commands.hold import GetHold, HoldView, ListHolds
from coordinator.commands.limit import GetLimit, ListLimits
from coordinator.commands.node import GetNode, ListNodes, NodeView
from coordinator.commands.pool import GetPool
from coordinator.commands.prices import GetPrices
from coordinator.commands.queue import GetQueue, ListQueues
from coordinator.commands.schedule import GetSchedule, ListSchedules, NextRuns, Run
from coordinator.commands.service import CheckOutcome, FindServices, GetHealthHistory, GetService, ServiceView
from coordinator.commands.session import GetSession
from coordinator.commands.task import FindTasks, GetTask, ListTasks, OfferTasks, TasksFound
from coordinator.commands.validation import check_number
from coordinator.commands.version import ListVersions
from coordinator.commands.worker import ListWorkers
from coordinator.deciders.drain import staying
from coordinator.deciders.housing import said_of
from coordinator.deciders.placement import free_on
from coordinator.deciders.rules import DecisionContext, Rules, not_found, standing
from coordinator.deciders.service import living
from coordinator.deciders.slots import local_time, next_after
from coordinator.deciders.worker import check_wanted
from coordinator.engine.budget_views import budget_view, budget_views
from coordinator.engine.limit_views import limit_view, limit_views
from coordinator.engine.queue_views import queue_view, queue_views, queues_of
from coordinator.engine.version_views import version_views
from coordinator.placement.explain import explain, plan
from coordinator.placement.matching import offered
from events.coordinator import ClaimFilter
from events.errors import Refused
from events.ids import checked
from events.resources import NONE
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.agents import Catalogue
from projections.filters import parsed
from projections.node import NodeStatus
from projections.schedule import fires_at
from projections.task_fields import ALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from coordinator.deciders.signs import Signs
    from coordinator.placement.estimates import Estimates
    from projections.container import Container
    from projections.hold import Hold
    from projections.node import Node
    from projections.pool import Pool
    from projections.schedule import Schedule
    from projections.service import Service
    from projections.task import Task
    from projections.world import World

Thing = TypeVar("Thing")

USUAL_RULES = Rules()
NOBODY = Caller(actor="", tenant="")
MOST_LISTED = 1000
MOST_FOUND = 10_000
"""Services in one answer: they are small, and a caller needs all candidates to choose from."""
MOST_RUNS = 100
MOST_LOOKED_AT = 2000
"""How many tasks one question for those that meet a filter looks at, if that is shorter than `FILTER_CHARS`."""
FILTER_CHARS = 100
MOST_SEARCHED = 1_000_000
"""How many of the newest tasks can be searched with several of them."""
MOST_PASSED = 100_000
"""How far from its beginning a list is read here; followers read on from anywhere."""


def ask(
    world: World,
    signs: Signs,
    question: Command,
    heard_now: float,
    rules: Rules = USUAL_RULES,
    caller: Caller = NOBODY,
    estimates: Estimates | None = None,
) -> Any:
    """
    Answer one question of *caller*; a list comes as an iterator, so that no more of it is made than is wanted.

    Raises:
        NotFound, Refused: the entity does not exist; the question is malformed.
    """
    match question:
        case FindServices():
            return find_services(world, signs, question, heard_now)
        case GetTask():
            return _waiting(world, one_of(world.tasks, question.task_id, "task"))
        case GetContainer():
            return one_of(world.containers, question.container_id, "container")
        case GetService():
            return view(signs, living(world, question.service_id), heard_now)
        case GetHealthHistory():
            return islice(health_history(signs, living(world, question.service_id)), _limit(question.limit))
        case ListTasks():
            return _listed_tasks(world, question)
        case FindTasks():
            return find_tasks(world, question)
        case ListContainers():
            return map(_without_environment, _page(world.containers, reversed(world.containers), question))
        case ListWorkers():
            return _page(world.workers, reversed(world.workers), question)
        case GetNode():
            return _node(world, one_of(world.nodes, question.node_id, "node"), rules)
        case ListNodes():
            return _page(world.nodes, reversed(world.nodes), question)
        case ListInboxes():
            return _page(world.inboxes, iter(world.inboxes), question)
        case GetPool():
            return _pool(one_of(world.pools, question.pool_id, "pool"), question)
        case ExplainTask():
            return explain(world, signs, one_of(world.tasks, question.task_id, "task"), rules, heard_now, estimates)
        case PlanTask():
            context = DecisionContext(world.indexes.now, rules, caller.tenant, caller.actor)
            return plan(world, signs, question.task, context, heard_now, estimates)
        case OfferTasks():
            return _offered(world, question)
        case GetQueue():
            return queue_view(world, one_of(queues_of(world), question.queue_id, "queue"))
        case ListQueues():
            return queue_views(world, _sorted(queues_of(world), question))
        case GetLimit():
            return limit_view(world, one_of(world.limits, question.limit_id, "limit"))
        case ListLimits():
            return limit_views(world, _sorted(world.limits, question))
        case ListVersions():
            views = version_views(world, signs, rules, heard_now)
            return _page(views, iter(views), question)
        case GetBudget():
            return budget_view(world, one_of(world.budgets, question.budget_id, "budget"))
        case ListBudgets():
            return budget_views(world, _sorted(world.budgets, question))
        case GetPrices():
            return world.prices
        case GetAgents():
            return _catalogue(world, rules)
        case GetHold():
            return _hold(world, one_of(world.holds, question.hold_id, "hold"))
        case ListHolds():
            return (_hold(world, one) for one in _page(world.holds, iter(world.holds), question))
        case GetSession():
            return one_of(world.sessions, question.session_id, "session")
        case GetSchedule():
            return _living_schedule(world, question.schedule_id)
        case ListSchedules():
            return map(_without_payload, _page(world.schedules, reversed(world.schedules), question))
        case NextRuns():
            return _next_runs(_living_schedule(world, question.schedule_id), question.count)
        case GetStats():
            return stats(world)
        case _:
            raise Refused(f"{type(question).__name__} is not a question")


def _sorted(things: Mapping[str, Thing], question: ListQueues | ListLimits | ListBudgets) -> Iterator[Thing]:
    return _page(things, iter(sorted(things)), question)


def _catalogue(world: World, rules: Rules) -> Catalogue:
    return world.agents if world.agents.digest else Catalogue(agents=rules.agents)


def _without_environment(container: Container) -> Container:
    return msgspec.structs.replace(container, environment={})


def _without_large(task: Task) -> Task:
    return msgspec.structs.replace(task, payload=None, result=None, checkpoint=None, attempts=())


def _waiting(world: World, task: Task) -> Task:
    """Return a task that says which of the tasks that it waits for have not ended."""
    if not task.waiting_for:
        return task
    left = tuple(one for one in task.waiting_for if one not in world.awaited)
    return msgspec.structs.replace(task, waiting_for=left)


def _listed_tasks(world: World, question: ListTasks) -> Iterator[Task]:
    tasks = _page(world.tasks, _newest_tasks(world, question), question)
    return map(_without_large, [_waiting(world, task) for task in tasks])


def _newest_tasks(world: World, question: ListTasks) -> Iterator[str]:
    if question.paused:
        return iter(()) if question.status not in (None, TaskStatus.PENDING) else reversed(world.indexes.paused)
    return reversed(world.tasks if question.status is None else world.indexes.tasks[question.status])


def find_tasks(world: World, question: FindTasks) -> TasksFound:
    """Return the next tasks that meet a filter, of so many that are looked at."""
    meets, limit, status = parsed(question.where, ALL), _limit(question.limit), question.status
    ids = _from(world.tasks, reversed(world.tasks), question.after, MOST_SEARCHED)
    found: list[Task] = []
    last = ""
    for last in islice(ids, MOST_LOOKED_AT // (1 + len(question.where) // FILTER_CHARS)):
        task = world.tasks[last]
        if (status is None or task.status is status) and (not question.paused or task.is_paused) and meets(task):
            found.append(_without_large(_waiting(world, task)))
            if len(found) == limit:
                break
    return TasksFound(tasks=found, next="" if next(ids, None) is None else last)


def _page(table: Mapping[str, Thing], ids: Iterator[str], question: Any) -> Iterator[Thing]:
    """Return the things of one page as they are now: from the one behind `after`, at most `limit` of them."""
    limit = _limit(question.limit)
    return iter([table[one] for one in islice(_from(table, ids, question.after, MOST_PASSED), limit)])


def _from(table: Mapping[str, Thing], ids: Iterator[str], after: str, most: int) -> Iterator[str]:
    """Return the ids behind *after*, which is among the first *most*; all if it is ''."""
    if after:
        passed = islice(ids, most)
        if checked(after, "after") not in table or after not in passed:
            msg = (
                f"after {after!r} is not among the first {most} of this list: begin again without after, or ask "
                "a follower"
            )
            raise Refused(msg, reason="bad_cursor")
    return ids


def _hold(world: World, hold: Hold) -> HoldView:
    """Return a hold with how many tasks it keeps."""
    return HoldView(hold=hold, tasks=len(world.indexes.on_hold.of[hold.hold_id]))


def _node(world: World, node: Node, rules: Rules) -> NodeView:
    """Return a node with what is held and free on it; nothing is free on one that is lost or removed."""
    there = Counter(world.containers[one].status.value for one in world.indexes.containers_on.get(node.node_id, ()))
    is_away = node.status in (NodeStatus.LOST, NodeStatus.REMOVED)
    return NodeView(
        node=node,
        held=world.indexes.node_held.get(node.node_id, NONE),
        free=NONE if is_away else free_on(world, node, rules),
        containers=dict(sorted(there.items())),
        staying=staying(world, node, rules),
    )


def _living_schedule(world: World, schedule_id: str) -> Schedule:
    schedule: Schedule = one_of(world.schedules, schedule_id, "schedule")
    if schedule.is_ended:
        raise not_found(schedule_id, "schedule")
    return schedule


def _without_payload(schedule: Schedule) -> Schedule:
    if schedule.task is None or schedule.task.payload is None:
        return schedule
    return msgspec.structs.replace(schedule, task=msgspec.structs.replace(schedule.task, payload=None))


def _next_runs(schedule: Schedule, count: int) -> Iterator[Run]:
    """Yield the next slots of a schedule: of a paused one, those that it would have."""
    check_number("count", count, 1, MOST_RUNS)
    slot = schedule.next_slot
    for _ in range(count):
        if slot is None:
            return
        local = local_time(schedule.timing, slot)
        yield Run(
            slot=slot,
            fires_at=fires_at(schedule, slot),
            local=local.isoformat(),
            zone=local.tzname() or "",
            is_dst=bool(local.dst()),
        )
        slot = next_after(schedule.timing, slot)


def _offered(world: World, question: OfferTasks) -> Iterator[Task]:
    """Return the tasks that a claim would get, as far as nobody else is faster."""
    check_wanted(world, question)
    most = _limit(question.slots, name="slots")
    worker = world.workers.get(checked(question.worker_id, "worker_id"))
    container_id = "" if worker is None else worker.container_id
    containers = {container_id: said_of(world, container_id)} if container_id else {}
    wanted = ClaimFilter(question.programs, question.task_names, question.queues)
    found = offered(world, question.worker_id, wanted, question.strategy, most=most, containers=containers)
    return (msgspec.structs.replace(task, payload=None) for task in found)


def _pool(pool: Pool, question: GetPool) -> Pool:
    if question.limit is None and not question.after:
        return pool
    limit = MOST_LISTED if question.limit is None else question.limit
    paged = msgspec.structs.replace(question, limit=limit)
    shown = _page(pool.allocations, iter(pool.allocations), paged)
    waiting = {} if question.after else pool.waiting
    return msgspec.structs.replace(pool, allocations={one.request_id: one for one in shown}, waiting=waiting)


def find_services(world: World, signs: Signs, question: FindServices, heard_now: float) -> Iterator[ServiceView]:
    """Return the registered services that match, each with its last reported load."""
    limit = _limit(question.limit, MOST_FOUND)
    found = (world.services[service_id] for service_id in _service_ids(world, question))
    matching = (
        service
        for service in found
        if question.service_type in ("", service.service_type) and (not question.tag or question.tag in service.tags)
    )
    return (view(signs, service, heard_now) for service in list(islice(matching, limit)))


def _service_ids(world: World, question: FindServices) -> Iterable[str]:
    """Return the ids of services of that name and status; sorted and after `after` if given, else in any order."""
    indexes, after = world.indexes, question.after
    if not question.service_name:
        by_status = indexes.service_ids_by_status
        in_order = indexes.service_ids if question.status is None else by_status.get(question.status, [])
        return in_order if after is None else islice(in_order, bisect_right(in_order, after), None)
    groups = indexes.services.get(question.service_name, {})
    named = groups.values() if question.status is None else (groups.get(question.status, {}),)
    ids = chain.from_iterable(named)
    return ids if after is None else sorted(service_id for service_id in ids if service_id > after)


def health_history(signs: Signs, service: Service) -> Iterator[CheckOutcome]:
    """Yield the last check of a service, if this writer heard of one, and the last change of its health."""
    if service.service_id in signs.not_checked:
        yield signs.not_checked[service.service_id]
    checks = signs.checks.get(service.service_id)
    if checks is not None:
        yield checks.last
    if service.health_rule == "registered" or (checks is not None and checks.last.at <= service.changed_at):
        return  # nothing has changed yet, or by that check
    yield CheckOutcome(
        at=service.changed_at,
        ok=service.status is ServiceStatus.HEALTHY,
        check=service.health_rule,
        status=service.status,
        detail=service.health_detail,
        is_change=True,
    )


def view(signs: Signs, service: Service, heard_now: float) -> ServiceView:
    """Return a service with its last reported load and how long its checks take."""
    reported = signs.loads.get(service.service_id)
    if reported is not None:
        ago = heard_now - signs.services.get(service.service_id, signs.since)
        reported = msgspec.structs.replace(reported, heard_s_ago=round(ago, 3))
    checks = signs.checks.get(service.service_id)
    check_ms = checks.latency_ms if checks is not None else None
    could_not = signs.not_checked.get(service.service_id)
    # One from before it registered otherwise says nothing of it now.
    not_checked = could_not.detail if could_not is not None and could_not.at >= service.registered_at else ""
    return ServiceView(service=service, reported=reported, check_ms=check_ms, not_checked=not_checked)


def stats(world: World) -> ClusterStats:
    """Return counts of everything in the world."""
    indexes = world.indexes
    return ClusterStats(
        containers=_by_name(indexes.container_counts),
        services={status.value: len(ids) for status, ids in indexes.service_ids_by_status.items() if ids},
        tasks={status.value: len(ids) for status, ids in indexes.tasks.items()},
        workers=_by_name(indexes.worker_counts),
        nodes=dict(Counter(node.status.value for node in world.nodes.values())),
        totals=dict(world.totals),
        container_starts=indexes.container_starts,
        container_failures=indexes.container_failures,
        epoch=f"{world.generation}.{world.epoch}",
        position=str(world.position),
        leader=world.leader,
        mass_silence={kind: one.silent for kind, one in world.silences.items() if not one.accepted},
        pending_bytes=indexes.payload_bytes or msgspec.UNSET,
        paused_tasks=len(indexes.paused) or msgspec.UNSET,
    )


def _by_name(counts: Mapping[Any, int]) -> dict[str, int]:
    return {status.value: count for status, count in counts.items() if count}


def one_of(table: dict[str, Any], entity_id: str, kind: str) -> Any:
    """Return the entity of an id; raise `NotFound` if *table* has none, `Refused` if the id is malformed."""
    return standing(table, checked(entity_id, f"{kind}_id"), kind)


def _limit(limit: int, most: int = MOST_LISTED, *, name: str = "limit") -> int:
    if not 1 <= limit <= most:
        msg = f"{name} {limit!r} is out of range: use 1 to {most}"
        raise Refused(msg, reason="bad_number")
    return limit
