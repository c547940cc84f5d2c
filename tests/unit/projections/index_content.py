"""
What the indexes of a world contain, and what its tables say they should: two ways to the same value.

`content_of` reads the indexes; `content_from` derives the same from the tables alone, the slow and obvious way.
"""

from __future__ import annotations

import math
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from events.budget import Unit
from events.container import ContainerStatus
from events.queue import DEFAULT
from events.resources import NONE, Resources
from events.schedule import ScheduleStatus
from events.spend import Spent
from events.task import TaskStatus
from projections import budget
from projections.hold import REQUESTS, test_of
from projections.lanes import LaneName, name_of_gang
from projections.ledger import held_in
from projections.limit import keys_of, limit_of
from projections.pool import Allocation, Request
from projections.queue import name_of, policy_of
from projections.ready import FIFO, ORDERINGS, aged, gang_of, key_in
from projections.ready import shape_of as shape_with
from projections.schedule import Schedule, fires_at
from projections.shares import key_of, name_in
from projections.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from projections.indexes import Indexes
    from projections.ready import ReadyTasks, ShapeKey
    from projections.world import World

WANTED = (*ORDERINGS, aged(60.0))
SPARE = 64
"""Stale entries that a heap may hold in addition to as many as it has live ones."""


def content_of(indexes: Indexes) -> dict[str, Any]:
    """Read everything that policies and views could read, sorted where no order is promised."""
    lanes = {lane: group for lane, group in indexes.lanes.of.items() if group.count}
    services, now = indexes.services.items(), indexes.now
    return {
        "ready": {
            (lane, ordering, key): [task for _, task in shape.ordered(ordering)]
            for ordering in WANTED
            for lane, group in lanes.items()
            for key, shape in group.shapes.items()
            if shape.members
        },
        "ready of": {
            (program, lane, ordering, key): [task for _, task in shape.ordered(ordering)]
            for program, own in indexes.lanes_of.items()
            for ordering in WANTED
            for lane, group in own.of.items()
            for key, shape in group.shapes.items()
        },
        "ready first": {lane: {one: found_in_order(group, one) for one in WANTED} for lane, group in lanes.items()},
        "ready first of": {
            (program, lane): {one: found_in_order(group, one) for one in WANTED}
            for program, own in indexes.lanes_of.items()
            for lane, group in own.of.items()
            if group.count
        },
        "keys": indexes.keyed.of,
        "keyed": [
            {key: set(some) for key, some in kept.items()} for kept in (indexes.keyed.pending, indexes.keyed.running)
        ],
        "spending": set(indexes.spending),
        "funds": indexes.keyed.funds.held,
        "shared": indexes.shared,
        "shadowed": indexes.shadowed,
        "pending in": {queue: indexes.pending_in(queue) for queue in (*indexes._pending_in, "")},
        "running in": indexes.running_in,
        "is accounted": indexes.is_accounted,
        "ready count": indexes.ready,
        "parked": indexes.parked_members,
        "paused": set(indexes.paused),
        "gangs": {
            name: (members.pending, members.in_order(), members.begun) for name, members in indexes.gangs.of.items()
        },
        "gangs gathered": (indexes.gangs.gathered, set(indexes.gangs.gathering), indexes.gangs.apart),
        "on hold": {hold_id: kept for hold_id, kept in indexes.on_hold.of.items() if kept},
        "on hold count": indexes.on_hold.count,
        "dependants": (
            indexes.dependants.waiting,
            {one: list(its) for one, its in indexes.dependants.of.items()},
        ),
        "tasks": {status: set(ids) for status, ids in indexes.tasks.items()},
        "pending by": (indexes.pending_by_tenant, indexes.pending_by_source),
        "worker filters": indexes.worker_filters | indexes.stuck_to,
        "pinned": indexes.builds.pinned,
        "payload bytes": (
            indexes.payload_bytes,
            indexes.owned_payload_bytes.by_tenant,
            indexes.owned_payload_bytes.by_source,
        ),
        "owned": {
            kind: (owned.by_tenant, owned.by_source, owned.ended, owned.ended_by_source)
            for kind, owned in (
                ("services", indexes.owned_services),
                ("containers", indexes.owned_containers),
                ("sessions", indexes.owned_sessions),
                ("workers", indexes.owned_workers),
                ("pools", indexes.owned_pools),
                ("schedules", indexes.owned_schedules),
                ("allocations", indexes.owned_allocations),
            )
        },
        "held": {worker_id: set(held) for worker_id, held in indexes.held.items()},
        "claims": {claim_id: sorted(claimed) for claim_id, claimed in indexes.claims.items()},
        "overdue": list(indexes.overdue(float("inf"))),
        "schedules": (
            sorted(indexes.due_schedules(now)),
            sorted(indexes.due_schedules(math.inf)),
            {schedule_id: task_id for task_id, schedule_id in indexes.awaited.items()},
        ),
        "services": {
            name: {status: set(members) for status, members in groups.items() if members} for name, groups in services
        },
        "service ids": (
            indexes.service_ids,
            {status: ids for status, ids in indexes.service_ids_by_status.items() if ids},
        ),
        "services in": {container_id: set(inside) for container_id, inside in indexes.services_in.items()},
        "workers in": {container_id: set(inside) for container_id, inside in indexes.workers_in.items()},
        "containers on": {node_id: set(there) for node_id, there in indexes.containers_on.items()},
        "container counts": {status: count for status, count in indexes.container_counts.items() if count},
        "container sums": (indexes.container_starts, indexes.container_failures),
        "sessions of": {container_id: set(open_) for container_id, open_ in indexes.sessions_of.items()},
        "worker counts": indexes.worker_counts,
        "held by": (indexes.node_held, indexes.held_resources),
        "in pools": vars(indexes.in_pools),
        "rounds": (indexes.rounds, indexes.round),
        "cancels": (list(indexes.cancels.due(math.inf)), indexes.cancels.untold, len(indexes.cancels)),
    }


def in_pools_from(world: World) -> dict[str, Any]:
    """Return what is held of the pools by account, and what each owner has of them."""
    owners: dict[str, dict[tuple[str, str], None]] = {}
    for pool in world.pools.values():
        of_pool: list[Allocation | Request] = [*pool.allocations.values(), *pool.waiting.values()]
        for one in of_pool:
            if one.owner:
                owners.setdefault(one.owner, {})[pool.pool_id, one.request_id] = None
    held = {
        pool.pool_id: {account: some for account, some in held_in(pool.allocations.values()).items() if some != NONE}
        for pool in world.pools.values()
    }
    return {
        "held": {pool_id: some for pool_id, some in held.items() if some},
        "owners": owners,
        "waited_for": {pool.pool_id: None for pool in world.pools.values() if pool.waiting},
        "waiting": sum(len(pool.waiting) for pool in world.pools.values()),
    }


def gangs_in(tasks: list[Task], ready: list[Task]) -> tuple[dict[str, Any], dict[str, float], set[str]]:
    """Return the tasks of each gang that have not begun, are ready, and have; those that are gathered, or gather."""
    living = [task for task in tasks if task.gang is not None and not task.is_ended]
    gangs: dict[str, Any] = {}
    gathered: dict[str, float] = {}
    gathering: set[str] = set()
    for name, members in grouped(living, name_of_gang):
        pending = {task.task_id: task for task in members if not task.attempt}
        there = sorted((task for task in ready if gang_of(task) == name), key=key_in(FIFO))
        gangs[name] = (pending, there, len(members) - len(pending))
        if there and there[0].gang is not None and len(there) == there[0].gang.size:
            gathered[name] = max(max(task.submitted_at, task.retry_at) for task in there)
        elif there:
            gathering.add(name)
    return gangs, gathered, gathering


def content_from(world: World) -> dict[str, Any]:
    """Derive the same from the tables, as of the time the indexes have."""
    tasks, now = list(world.tasks.values()), world.indexes.now
    pending = [task for task in tasks if task.status is TaskStatus.PENDING]
    running = [task for task in tasks if task.status is TaskStatus.RUNNING]
    ready = [task for task in pending if task.retry_at <= now and not task.is_paused and not task.waiting_for]
    on_hold: dict[str, dict[str, Task]] = {}
    requesting = {one.owner for pool in world.pools.values() for one in pool.waiting.values()}
    for task in ready:
        if f"task:{task.task_id}" in requesting:
            on_hold.setdefault(REQUESTS, {})[task.task_id] = task
        elif (hold := next((one for one in world.holds.values() if test_of(one)(task)), None)) is not None:
            on_hold.setdefault(hold.hold_id, {})[task.task_id] = task
    ready = [task for task in ready if not any(task.task_id in kept for kept in on_hold.values())]
    gangs, gathered, gathering = gangs_in(tasks, ready)
    apart = [task for task in ready if gang_of(task) in gathering]
    ready = [task for task in ready if gang_of(task) not in gathering]
    to_cancel = [(task, task.cancelling) for task in running if task.cancelling is not None]
    services = [service for service in world.services.values() if not service.is_ended]
    active = [one for one in world.schedules.values() if one.status is ScheduleStatus.ACTIVE]
    waiting = {one.schedule_id: one.last_task_id for one in active if one.queued}
    living = {task.task_id for task in (*pending, *running)}
    holders: list[Task | Schedule] = [*tasks, *world.schedules.values()]
    rounds = {one.worker_id: one.rounds for one in world.workers.values() if one.rounds}
    standing = [container for container in world.containers.values() if not container.is_ended]
    names = {"", *(name_of(queue_id) for queue_id in world.queues)}
    policies = {name: policy_of(world.queues, name) for name in names}
    shared = {name: policy.fair for name, policy in policies.items() if policy.fair is not None}
    is_accounted = bool(shared) or names != {""}

    def lane_of(task: Task) -> LaneName:
        share = shared.get(task.queue)
        return LaneName(task.queue, "" if share is None else key_of(task, share), goes_to(world, task))

    def accounts_of(task: Task) -> list[str]:
        key = [name_in(task.queue, key_of(task, shared[task.queue]))] if task.queue in shared else []
        return [name_in(task.queue), *key]

    def shape_of(task: Task) -> ShapeKey:
        return shape_with(task, keys_in(world, task), goes_to(world, task))

    def is_open(shape: ShapeKey) -> bool:
        return all(room(world, key) > 0 for key in shape.keys)

    lanes = grouped(ready, lane_of)
    own_lanes = [
        (program, lane, there)
        for program, own in grouped([task for task in ready if task.program], lambda t: t.program)
        for lane, there in grouped(own, lane_of)
    ]
    return {
        "ready": {
            (lane, ordering, key): sorted((task for task in there if shape_of(task) == key), key=key_in(ordering))
            for lane, there in lanes
            for ordering in WANTED
            for key in {shape_of(task) for task in there}
        },
        "ready of": {
            (program, lane, ordering, key): sorted(
                (task for task in there if shape_of(task) == key), key=key_in(ordering)
            )
            for program, lane, there in own_lanes
            for ordering in WANTED
            for key in {shape_of(task) for task in there}
        },
        "ready first": {
            lane: {one: set(filter(is_open, map(shape_of, there))) for one in WANTED} for lane, there in lanes
        },
        "ready first of": {
            (program, lane): {one: set(filter(is_open, map(shape_of, there))) for one in WANTED}
            for program, lane, there in own_lanes
        },
        "keys": {task.task_id: keys for task in (*pending, *running) if (keys := keys_in(world, task))},
        "spending": {task.task_id for task in (*pending, *running) if task.spend is not None},
        "funds": funds(world, running),
        "keyed": [keyed(world, pending), keyed(world, running)],
        "shared": shared,
        "shadowed": {one.queue_id: one.shadow.set for one in world.queues.values() if one.shadow is not None},
        "pending in": {"": 0} | dict(Counter(task.queue for task in pending)),
        "running in": dict(Counter(one for task in running for one in accounts_of(task))) if is_accounted else {},
        "is accounted": is_accounted,
        "ready count": len(ready),
        "parked": {
            task.task_id: task
            for task in pending
            if task.retry_at > now and not task.is_paused and not task.waiting_for
        },
        "paused": {task.task_id for task in pending if task.is_paused},
        "gangs": gangs,
        "gangs gathered": (gathered, gathering, len(apart)),
        "on hold": on_hold,
        "on hold count": sum(map(len, on_hold.values())),
        "dependants": (
            {task.task_id: task for task in pending if task.waiting_for},
            {
                one: [task.task_id for task in pending if one in task.waiting_for]
                for task in pending
                for one in task.waiting_for
            },
        ),
        "tasks": {status: {task.task_id for task in tasks if task.status is status} for status in TaskStatus},
        "pending by": (dict(Counter(t.tenant for t in pending)), dict(Counter(t.source for t in pending))),
        "worker filters": dict(
            Counter(one for task in pending for one in (task.worker_filter, task.rule_filter, task.preference) if one)
        ),
        "pinned": dict(Counter(task.build_id for task in pending if task.build_id)),
        "payload bytes": (
            sum(map(large_bytes, holders)),
            summed((one.tenant, large_bytes(one)) for one in holders),
            summed((one.source, large_bytes(one)) for one in holders),
        ),
        "owned": {
            "services": counted(world.services.values()),
            "containers": counted(world.containers.values()),
            "sessions": counted(world.sessions.values()),
            "workers": counted(world.workers.values()),
            "pools": counted(world.pools.values()),
            "schedules": counted(world.schedules.values()),
            "allocations": counted(
                one for pool in world.pools.values() for one in (*pool.allocations.values(), *pool.waiting.values())
            ),
        },
        "held": {who: {task.task_id for task in theirs} for who, theirs in grouped(running, lambda t: t.worker_id)},
        "claims": {
            claim: sorted(task.task_id for task in its) for claim, its in grouped(running, lambda t: t.claim_id)
        },
        "overdue": [one[-1] for one in sorted(map(deadline, (*pending, *running))) if one[0] < math.inf],
        "schedules": (
            sorted(
                {one for one, task_id in waiting.items() if task_id not in living}
                | {one.schedule_id for one in active if one.next_slot is not None and due_at(one) <= now}
            ),
            sorted(
                {one for one, task_id in waiting.items() if task_id not in living}
                | {one.schedule_id for one in active if one.next_slot is not None}
            ),
            {one: task_id for one, task_id in waiting.items() if task_id in living},
        ),
        "services": {
            name: {status: {one.service_id for one in same} for status, same in grouped(named, lambda s: s.status)}
            for name, named in grouped(services, lambda s: s.service_name)
        },
        "service ids": (
            sorted(service.service_id for service in services),
            {status: sorted(one.service_id for one in same) for status, same in grouped(services, lambda s: s.status)},
        ),
        "services in": {
            container_id: {service.service_id for service in inside}
            for container_id, inside in grouped((s for s in services if s.container_id), lambda s: s.container_id)
        },
        "workers in": {
            container_id: {worker.worker_id for worker in inside}
            for container_id, inside in grouped(
                (w for w in world.workers.values() if w.container_id and not w.is_ended), lambda w: w.container_id
            )
        },
        "containers on": {
            node_id: {container.container_id for container in there}
            for node_id, there in grouped(standing, lambda c: c.node_id)
        },
        "container counts": {
            status: count
            for status in ContainerStatus
            if (count := sum(container.status is status for container in world.containers.values()))
        },
        "container sums": (
            sum(one.starts for one in world.containers.values()),
            sum(one.failures for one in world.containers.values()),
        ),
        "sessions of": {
            container_id: {one.session_id for one in open_}
            for container_id, open_ in grouped(
                (one for one in world.sessions.values() if not one.is_ended), lambda one: one.container_id
            )
        },
        "worker counts": dict(Counter(one.status for one in world.workers.values())),
        "held by": (
            sums((one.node_id, one.resources) for one in world.containers.values() if one.holds),
            sums((task.worker_id, task.resources) for task in running),
        ),
        "in pools": in_pools_from(world),
        "rounds": (rounds, max(rounds.values(), default=0.0)),
        "cancels": (
            [task_id for _, task_id in sorted((one.next_step_at, task.task_id) for task, one in to_cancel)],
            {
                who: {task.task_id: None for task in theirs}
                for who, theirs in grouped((t for t, one in to_cancel if one.told_at is None), lambda t: t.worker_id)
            },
            len(to_cancel),
        ),
    }


def counted(things: Iterable[Any]) -> tuple[dict[str, int], dict[str, int], int, dict[str, int]]:
    """Return how many each tenant has, and each source, without what has none; and how many ended, and whose."""
    some = list(things)
    ended = [one for one in some if getattr(one, "is_ended", False)]
    living = [one for one in some if not getattr(one, "is_ended", False)]
    return (
        dict(Counter(one.tenant for one in living if one.tenant)),
        dict(Counter(one.source for one in living if one.source)),
        len(ended),
        dict(Counter(one.source for one in ended if one.source)),
    )


def keyed(world: World, tasks: Iterable[Task]) -> dict[str, set[str]]:
    """Return the ids of tasks by each of their keys."""
    found: dict[str, set[str]] = {}
    for task in tasks:
        for key in keys_in(world, task):
            found.setdefault(key, set()).add(task.task_id)
    return found


def goes_to(world: World, task: Task) -> str | None:
    """Return the build that a task goes to, by what is retired and the route of its queue."""
    build_id = task.build_id
    while build_id in world.versions:
        build_id = world.versions[build_id].move_to
    queue = world.queues.get(task.queue or DEFAULT)
    if build_id or queue is None or queue.route is None:
        return build_id or None
    place = int(blake2b(task.task_id.encode(), digest_size=8).hexdigest(), 16)
    return queue.route.ramping if place * 100 < queue.route.percent * 2**64 else queue.route.current


def keys_in(world: World, task: Task) -> tuple[str, ...]:
    """Return the keys of a task by the limits and the budgets."""
    return (*keys_of(task, world.limits), *budget.keys_of(task, world.budgets))


def funds(world: World, running: Iterable[Task]) -> dict[str, dict[int, int]]:
    """Return what is kept for attempts, by key and window, added up one by one."""
    found: dict[str, dict[int, int]] = {}
    for task in running:
        for key in budget.keys_of(task, world.budgets):
            terms = world.budgets[budget.budget_of(key)].terms
            name = "tokens" if terms.unit is Unit.TOKENS else "money_micros"
            kept = max(getattr(one, name) for one in (task.reserved, task.spent, Spent()) if one is not None)
            if kept:
                start = budget.span_at(terms.window, task.started_at or 0.0).start
                of_key = found.setdefault(key, {})
                of_key[start] = of_key.get(start, 0) + kept
    return found


def left_of(world: World, key: str) -> float:
    """Return what is left of a budget for a key, added up one by one."""
    budget_id, value = budget.budget_of(key), budget.value_of(key)
    terms = world.budgets[budget_id].terms
    start = budget.span_at(terms.window, world.indexes.now).start
    kept = funds(world, (task for task in world.tasks.values() if task.status is TaskStatus.RUNNING))
    used = {True: 0, False: 0}
    for of_floor in used:
        name = budget.key_named(budget_id, value, of_floor=of_floor)
        windows = world.spent[name].windows if name in world.spent else ()
        used[of_floor] = sum(one.spent for one in windows if one.start == start) + kept.get(name, {}).get(start, 0)
    spare = 0 if key == budget.key_named(budget_id, value, of_floor=True) else max(0, terms.floor - used[True])
    return terms.cap - used[True] - used[False] - spare


def room(world: World, key: str) -> float:
    """Return how many tasks of a key may start by its limit, counted one by one, or what is left for them."""
    if budget.is_budget(key):
        return left_of(world, key)
    terms, use, now = world.limits[limit_of(key)].terms, world.uses.get(key), world.indexes.now
    running = [task for task in world.tasks.values() if task.status is TaskStatus.RUNNING]
    left = math.inf if terms.running is None else terms.running - len(keyed(world, running).get(key, ()))
    if use is not None and terms.starts is not None:
        left = min(left, terms.starts - len([at for at in use.starts if at + terms.per_s > now]))
    if use is not None and use.ended_at and terms.cooldown_s and now < use.ended_at + terms.cooldown_s:
        left = min(left, 0)
    return left


def large_bytes(holder: Task | Schedule) -> int:
    """Return the bytes of the payload and the checkpoint that a task holds; 256 characters are not counted."""
    held_by = (holder.payload, holder.checkpoint) if isinstance(holder, Task) else ()
    content = None if isinstance(holder, Task) else holder.task
    held = [one.data for one in (*held_by, content and content.payload) if one is not None]
    return sum(len(data.encode()) for data in held if len(data) > 256)


def due_at(schedule: Schedule) -> float:
    assert schedule.next_slot is not None
    return fires_at(schedule, schedule.next_slot)


def summed(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, size in sizes:
        found[name] += size
    return {name: size for name, size in found.items() if name and size}


def deadline(task: Task) -> tuple[float, int, str]:
    """Return when a task that has not ended reaches its first limit; infinity for never."""
    limits, ends = task.time_limits, [math.inf]
    if task.status is TaskStatus.RUNNING and task.timeout_s is not None:
        assert task.started_at is not None
        ends.append(task.started_at + task.timeout_s + task.extended_s)
    if task.gang is not None and not task.attempt:
        ends.append(task.gang_until)
    if limits is not None and limits.finish_within_s is not None:
        ends.append(max(task.submitted_at, task.not_before or 0.0) + limits.finish_within_s)
    if (
        limits is not None
        and limits.start_within_s is not None
        and task.status is TaskStatus.PENDING
        and not task.is_paused
        and not task.waiting_for
    ):
        ends.append(max(task.submitted_at, task.retry_at) + limits.start_within_s)
    return (min(ends), task.attempt, task.task_id)


def sums(held: Iterable[tuple[str, Resources]]) -> dict[str, Resources]:
    found: dict[str, Resources] = {}
    for holder, resources in held:
        found[holder] = found.get(holder, NONE) + resources
    return {holder: resources for holder, resources in found.items() if resources != NONE}


def grouped(things: Iterable[Any], by: Callable[[Any], Any]) -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = {}
    for thing in things:
        groups.setdefault(by(thing), []).append(thing)
    return list(groups.items())


def found_in_order(ready: ReadyTasks, ordering: str) -> set[ShapeKey]:
    """Return the shapes with tasks that are found by the order of their first tasks, each once and not too late."""
    found = [(key, shape) for key, shape in ready.in_order(ordering) if shape.members]
    assert [key for key, _ in found] == sorted(key for key, _ in found)
    for key, shape in found:
        first = shape.first(ordering)
        assert first is not None
        assert key <= first
        assert shape in ready.of_name(shape.key.task_name)
    shapes = {shape.key for _, shape in found}
    assert len(shapes) == len(found)
    return shapes


def assert_bounded(indexes: Indexes) -> None:
    """Assert that no heap holds more than its bound of stale entries, and no empty group is kept."""
    for group in indexes.lanes.of.values():
        for shape in group.shapes.values():
            for order in shape.orders.values():
                assert len(order) <= 2 * len(shape.members) + SPARE
                assert len(order._run) <= 2 * (2 * len(shape.members) + SPARE)
        for firsts in group._firsts.values():
            assert len(firsts._entries) <= 2 * len(group.shapes) + SPARE
            assert len(firsts._entry_of) <= len(group.shapes)
    assert len(indexes.parked) <= 2 * len(indexes.parked_members) + SPARE
    assert len(indexes.deadlines) <= 2 * len(indexes.deadline_members) + SPARE
    assert all(indexes.held.values())
    assert all(indexes.claims.values())
    assert all(indexes.containers_on.values())
    assert all(indexes.services_in.values())
    assert all(indexes.workers_in.values())
    assert all(indexes.sessions_of.values())
    assert all(any(groups.values()) for groups in indexes.services.values())
    assert all(sum(not shape.members for shape in group.shapes.values()) <= 256 for group in indexes.lanes.of.values())
    assert sum(not group.count for group in indexes.lanes.of.values()) <= 256
