"""
Why a task is where it is: what is in its way, what would change that, and when it may start. Pure.

Every rule that can keep a task from a worker has a function here that says so; what `sources` and `matching` skip
without a word is named with the values that decided it.
"""

from __future__ import annotations

from collections import Counter
from difflib import get_close_matches
from heapq import nsmallest
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec
from msgspec import json

from coordinator.commands.explain import Blocker, Explanation, Reason, Tier, WorkerFit
from coordinator.deciders.housing import SERVING, said_of
from coordinator.deciders.rules import DecisionContext, present_s
from coordinator.deciders.task import planned
from coordinator.placement.budget_reasons import of_budgets
from coordinator.placement.estimates import Estimates
from coordinator.placement.gangs import key_too_narrow, most_at_once, room_kept_for, workers_of
from coordinator.placement.sources import Patience, ordering_of, prefers_for_s
from events.pool import TASKS
from events.queue import DEFAULT
from events.resources import NONE, Resources
from events.task import TaskStatus
from projections.lanes import GangMembers
from projections.ledger import wait_of
from projections.limit import keys_of, limit_of, opens_at
from projections.pool import OF_TASK
from projections.queue import policy_of
from projections.ready import gang_of
from projections.waits import waited
from projections.worker import WorkerStatus
from projections.worker_filters import FIELDS, condition, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coordinator.commands.task import SubmitTask
    from coordinator.deciders.rules import Rules
    from coordinator.deciders.signs import Signs
    from events.task import Scalar
    from projections.task import Task
    from projections.worker import WorkerState
    from projections.worker_filters import Facts
    from projections.world import World

MOST_BLOCKERS = 10
MOST_WORKERS_SHOWN = 20
LOOKED_EVERY_S, SAMPLED_EVERY_S = 0.5, 2.0
"""So often what has ended is read, and an estimate is made of the task that came last: there are some to score then."""
FACTS_SHOWN = 5
MORE_WORKERS = "start more workers like them"

_TIERS = list(Tier)
FITS = "fits"
WORKERS_LOOKED_AT, OTHERS_LOOKED_AT = 1000, 100
"""So many workers that handle a name are looked at, and so many others, to say what is against them."""
NAMES_COMPARED = 1000
"""So many names that workers handle are compared with one that none handles."""
WORKERS_SAMPLED = 200
"""With more workers, nothing is estimated that nobody asked for."""
_ENDED = (WorkerStatus.LOST, WorkerStatus.LEFT)  # fewer than a set would pay for
_PERMANENT = frozenset({"other_names", "too_small", "labels", "other_version", "rule"})
"""What a worker will never do for this task, as it is registered."""
_STOPPING = frozenset({"draining", "container", "retired"})
_ABSENT = _PERMANENT | _STOPPING | {"silent"}
_OPEN_END = frozenset({
    "waits_for", "request_waits", "budget", "workers_silent", "gang_gathers", "gang_waits", "kept_for_gang",
})  # fmt: skip
"""What clears by itself, but nothing says when."""


def plan(
    world: World,
    signs: Signs,
    command: SubmitTask,
    context: DecisionContext,
    heard_now: float,
    estimates: Estimates | None = None,
) -> Explanation:
    """
    Tell what `explain` would say of a task right after its submit by who asks, without submitting it.

    Raises:
        Refused: its submit would be refused. NotFound: a task that it names does not exist.
    """
    return explain(world, signs, planned(world, command, context), context.rules, heard_now, estimates)


def sample(world: World, signs: Signs, rules: Rules, heard_now: float, estimates: Estimates) -> None:
    """Read what has ended, and estimate now and then when the task that came last may start, so that this is scored."""
    if heard_now < estimates.looked_at + LOOKED_EVERY_S:
        return
    estimates.looked_at = heard_now
    estimates.look(world)
    if heard_now < estimates.sampled_at + SAMPLED_EVERY_S:
        return
    newest = next(reversed(world.indexes.tasks[TaskStatus.PENDING]), None)
    if newest is not None and len(world.workers) <= WORKERS_SAMPLED:
        estimates.sampled_at = heard_now
        _pending(world, signs, world.tasks[newest], rules, heard_now, estimates)


def explain(
    world: World, signs: Signs, task: Task, rules: Rules, heard_now: float, estimates: Estimates | None = None
) -> Explanation:
    """Explain one task; without *estimates* of before, its start is estimated from what the world has."""
    if task.is_ended:
        found = _ended(task, world.indexes.now)
    elif task.status is TaskStatus.RUNNING:
        found = _running(world, signs, task, heard_now)
    else:
        estimates = Estimates() if estimates is None else estimates
        estimates.look(world)
        found = _pending(world, signs, task, rules, heard_now, estimates)
    return msgspec.structs.replace(found, waited=waited(world, task))


def _ended(task: Task, now: float) -> Explanation:
    ended_at = task.ended_at or now
    what = "ran out of time" if task.status is TaskStatus.TIMEOUT else task.status.value
    when = f"in attempt {task.attempt}" if task.attempt else "before it began"
    summary = f"{what} {when}, told by {task.ended_by or 'nobody known'}"
    if task.error:
        summary += f": {task.error}"
    return Explanation(
        task_id=task.task_id,
        status=task.status,
        summary=summary,
        for_s=max(0.0, now - ended_at),
        queue=task.queue or DEFAULT,
    )


def _running(world: World, signs: Signs, task: Task, heard_now: float) -> Explanation:
    now = world.indexes.now
    since = task.started_at if task.started_at is not None else now
    silent_s = signs.silent_for(signs.leases, task.lease, heard_now)
    summary = f"runs on worker {task.worker_id}, attempt {task.attempt}, last heard {max(0.0, silent_s):.1f} s ago"
    return Explanation(
        task_id=task.task_id,
        status=task.status,
        summary=summary,
        for_s=max(0.0, now - since),
        queue=task.queue or DEFAULT,
    )


def _pending(
    world: World, signs: Signs, task: Task, rules: Rules, heard_now: float, estimates: Estimates
) -> Explanation:
    indexes, policy = world.indexes, policy_of(world.queues, task.queue)
    waits_s = 0.0 if not task.preference or Patience(world).is_over(task) else prefers_for_s(task, indexes.now)
    fits = _fits(world, task, lambda one: dict(_against(world, signs, task, one, rules, heard_now, waits_s)))
    counts = Counter(code for against in fits.values() for code in against or (FITS,))
    counts.update(dict(filter(itemgetter(1), (("other_names", fits.others), ("not_looked_at", fits.more)))))
    is_planned = task.task_id not in world.tasks and not task.waiting_for and task.retry_at <= indexes.now
    is_ready = is_planned or indexes.lanes.has(task)
    before = list(indexes.lanes.ahead_in(task, ordering_of(policy, "")))
    ahead = sum(count for _, count in before) if is_ready else None
    reasons = sorted(
        (
            *_of_task(world, task),
            *_of_holds(world, task),
            *_of_request(world, task),
            *_of_gangs(world, task, fits),
            *_of_preference(task, waits_s),
            *_of_queue(world, task),
            *_of_limits(world, task),
            *of_budgets(world, task),
            *_of_fleet(world, task, rules),
            *_of_workers(world, task, fits),
            *_of_order(world, task, ahead, counts),
        ),
        key=lambda reason: _TIERS.index(reason.tier),
    )
    expected = None
    if not fits.more and all(reason.tier is Tier.ITSELF and reason.code not in _OPEN_END for reason in reasons):
        able = [world.workers[worker_id] for worker_id, against in fits.items() if not _ABSENT & against.keys()]
        running_most = rules.max_concurrent_tasks
        expected = estimates.expect(world, task, able, before, running_most=running_most, prefers_s=waits_s)
    told, calibration = None, estimates.calibration
    if expected is not None:
        told = calibration.told(expected)
        if task.task_id in world.tasks:
            calibration.note(task, indexes.now, expected)
    shown = nsmallest(MOST_WORKERS_SHOWN, fits, key=lambda worker_id: (len(fits[worker_id]), worker_id))
    return Explanation(
        task_id=task.task_id,
        status=task.status,
        summary=reasons[0].text if reasons else "a worker has room for it and gets it with its next claim",
        for_s=max(0.0, indexes.now - task.submitted_at),
        reasons=reasons,
        queue=task.queue or DEFAULT,
        policy=policy.strategy,
        ahead=ahead,
        starts_in_s=None if told is None else told.likely_s,
        starts_from_s=None if told is None else told.earliest_s,
        starts_until_s=None if told is None else told.latest_s,
        estimated_from=0 if told is None else len(estimates.run_times.of(task.task_name)),
        estimates_right=0 if told is None else calibration.right,
        estimates_scored=0 if told is None else calibration.scored,
        workers=[WorkerFit(worker_id=one, fits=not fits[one], against=fits[one]) for one in shown],
        worker_counts=dict(sorted(counts.items())),
    )


class _Fits(dict[str, dict[str, str]]):
    """
    What is against each of the workers that were looked at.

    `more` of those that handle the name of the task were not, and `others` that do not handle it.
    """

    more = others = 0


def _fits(world: World, task: Task, against: Callable[[WorkerState], dict[str, str]]) -> _Fits:
    """
    Return what is against the workers that have not ended, by what *against* says of one.

    Some are looked at, as a question must not hold up the writer, however many workers somebody registers.
    """
    fits, name = _Fits(), task.task_name
    others = 0
    for worker_id, worker in world.workers.items():
        if worker.status in _ENDED:
            continue
        if not worker.handles or name in worker.handles:
            if len(fits) - others < WORKERS_LOOKED_AT:
                fits[worker_id] = against(worker)
            else:
                fits.more += 1
        elif others < OTHERS_LOOKED_AT:
            others += 1
            fits[worker_id] = against(worker)
        else:
            fits.others += 1
    return fits


def _against(
    world: World, signs: Signs, task: Task, worker: WorkerState, rules: Rules, heard_now: float, waits_s: float
) -> Iterator[tuple[str, str]]:
    """Yield what keeps a task from a worker: the code of each rule, and what the worker has."""
    indexes = world.indexes
    if worker.handles and task.task_name not in worker.handles:
        yield "other_names", f"handles {', '.join(worker.handles[:5])}"
    if task.worker_filter and not condition(task.worker_filter)(facts := facts_of(worker, world.containers)):
        yield "labels", f"has {_facts(facts, task.worker_filter)}; asked is {task.worker_filter}"
    if task.rule_filter and not condition(task.rule_filter)(facts := facts_of(worker, world.containers)):
        yield "rule", f"has {_facts(facts, task.rule_filter)}; security rule {task.rule} asks for {task.rule_filter}"
    if waits_s and not condition(task.preference)(facts_of(worker, world.containers)):
        yield "preferred", f"it waits {waits_s:.1f} s more for another worker"
    goes_to = indexes.builds.of(task)
    if goes_to is not None and worker.build_id != goes_to:
        yield "other_version", f"has {_build(worker.build_id)}; the task goes to {_build(goes_to)}"
    if worker.build_id in world.versions:
        yield "retired", f"its version {worker.build_id} is retired"
    if worker.status is WorkerStatus.DRAINING:
        yield "draining", worker.reason or "it gets no new tasks"
    silent_s = signs.silent_for(signs.workers, worker.worker_id, heard_now)
    if silent_s >= present_s(rules):
        yield "silent", f"not heard for {silent_s:.1f} s"
    if worker.container_id and (said := said_of(world, worker.container_id)) not in SERVING:
        yield "container", f"its container {worker.container_id} is {said}"
    if worker.slots is not None and (busy := len(indexes.held.get(worker.worker_id, ()))) >= worker.slots:
        yield "no_slot", f"{busy} of {worker.slots} slots are taken"
    if worker.resources is not None and task.resources != NONE:
        if not task.resources.fits_in(worker.resources):
            yield "too_small", f"has {amounts(worker.resources)}"
        elif not task.resources.fits_in(free := worker.resources - indexes.held_resources.get(worker.worker_id, NONE)):
            yield "no_room", f"has {amounts(free)} free"


def _of_task(world: World, task: Task) -> Iterator[Reason]:
    now = world.indexes.now
    if task.paused_at is not None:
        why = f": {task.pause_reason}" if task.pause_reason else ""
        yield Reason(
            code="task_paused",
            tier=Tier.OPERATOR,
            text=f"the task was paused{why}",
            blockers=[Blocker(kind="task", id=task.task_id, for_s=now - task.paused_at)],
            change=f"coordinator task resume {task.task_id}",
        )
    if task.after is not None and task.waiting_for:
        left = [one for one in task.waiting_for if one not in world.awaited]
        several = f"{task.after.join.value} of " if len(left) > 1 else ""
        yield Reason(
            code="waits_for",
            tier=Tier.ITSELF,
            text=f"it waits for the {task.after.on.value} of {several}{', '.join(left)}",
            blockers=[Blocker(kind="task", id=one) for one in left[:MOST_BLOCKERS]],
        )
    if task.retry_at > now and not task.waiting_for and task.paused_at is None:
        in_s = f"in {task.retry_at - now:.1f} s"
        if task.attempt:
            why = f"attempt {task.attempt} failed ({task.error or 'without a message'}); the next one may begin {in_s}"
            yield Reason(code="back_off", tier=Tier.ITSELF, text=why)
        elif task.debounce is not None and task.debounce.until >= (task.not_before or 0.0):
            why = f"a limit lets it wait for another task to take its place; else it may begin {in_s}"
            yield Reason(code="debounced", tier=Tier.ITSELF, text=why)
        else:
            why = f"it was submitted to begin later: it may begin {in_s}"
            yield Reason(code="not_before", tier=Tier.ITSELF, text=why)


def _of_limits(world: World, task: Task) -> Iterator[Reason]:
    """Yield which limits let no task of its keys start now."""
    keyed, now = world.indexes.keyed, world.indexes.now
    for key in keys_of(task, world.limits):
        if keyed.room(key) > 0:
            continue
        limit = world.limits[limit_of(key)]
        running = keyed.running.get(key, ())
        opens = opens_at(limit.terms, world.uses.get(key))
        if opens > now:
            code, text = "key_rests", f"{key!r} may have no start for {opens - now:.1f} s"
        else:
            code, text = "key_full", f"{len(running)} tasks of {key!r} run, as many as may"
        yield Reason(
            code=code,
            tier=Tier.ITSELF,
            text=f"{text}, by the limit {limit.limit_id}",
            blockers=_oldest(world, running),
            change=f"coordinator limit define {limit.limit_id}, with more",
        )


def _of_holds(world: World, task: Task) -> Iterator[Reason]:
    holds = [world.holds[hold_id] for hold_id in world.indexes.on_hold.met_by(task)]
    if not holds:
        return
    first, now = holds[0], world.indexes.now
    why = f": {first.reason}" if first.reason else ""
    more = f"; it meets {len(holds) - 1} more" if len(holds) > 1 else ""
    end = "" if first.expires_at is None else f", for {max(0.0, first.expires_at - now):.0f} s more"
    yield Reason(
        code="held",
        tier=Tier.OPERATOR,
        text=f"hold {first.hold_id} of {first.placed_by or 'nobody known'} keeps it{end}{why}{more}",
        blockers=[Blocker(kind="hold", id=one.hold_id, for_s=now - one.placed_at) for one in holds[:MOST_BLOCKERS]],
        change=f"coordinator hold lift {first.hold_id}",
    )


def _of_request(world: World, task: Task) -> Iterator[Reason]:
    """Yield why the request that a task named has no share of the pool yet."""
    pool = world.pools.get(TASKS)
    if not task.request or pool is None or task.request not in pool.waiting:
        return
    wait = wait_of(pool, world.indexes.in_pools.held.get(TASKS, {}), task.request)
    now, left = world.indexes.now, ""
    if wait.until is not None:
        left = f"; it times out in {max(0.0, wait.until - now):.1f} s"
    holders = [pool.allocations[one] for one in wait.held_by if one in pool.allocations]
    change = "coordinator pool define tasks, with more"
    if wait.code == "room" and holders:
        owner = holders[0].owner
        of_task = owner.startswith(OF_TASK)
        change = f"coordinator pool release tasks {holders[0].request_id}"
        change = f"coordinator task cancel {owner.removeprefix(OF_TASK)}" if of_task else change
    yield Reason(
        code="request_waits",
        tier=Tier.ITSELF,
        text=f"its request {task.request} is number {wait.place} for a share of pool {TASKS}: {wait.text}{left}",
        blockers=[Blocker(kind="request", id=one.request_id, for_s=now - one.allocated_at) for one in holders]
        or [Blocker(kind="request", id=one) for one in wait.held_by],
        change=change,
    )


def _of_gangs(world: World, task: Task, fits: _Fits) -> Iterator[Reason]:
    """Yield what the gang of a task waits for, and whether room is kept for another one."""
    yield from _of_gang(world, task)
    yield from _of_room_kept(world, task, fits)


def _of_gang(world: World, task: Task) -> Iterator[Reason]:
    """Yield what the gang of a task waits for."""
    name, gang = gang_of(task), task.gang
    if gang is None or not name:
        return
    members = world.indexes.gangs.of.get(name, GangMembers())
    left = f"in {max(0.0, task.gang_until - world.indexes.now):.1f} s all of them end, at the deadline"
    if name not in world.indexes.gangs.gathered:
        here = {**members.pending, task.task_id: task}
        missing = gang.size - len(here)
        others = [one for one in members.pending if one not in members.ready and one != task.task_id]
        yield Reason(
            code="gang_gathers",
            tier=Tier.ITSELF,
            text=f"{len(here)} of {gang.size} tasks of gang {gang.gang_id} are here, {len(members.ready)} wait; {left}",
            blockers=[Blocker(kind="task", id=one) for one in others[:MOST_BLOCKERS]],
            change=f"submit {missing} more with gang {gang.gang_id}" if missing else "",
        )
        return
    tasks = members.in_order()
    most, needs = most_at_once(world, tasks), f"gang {gang.gang_id} needs room for {gang.size} tasks at once"
    if key := key_too_narrow(world, tasks):
        change = f"coordinator limit define {limit_of(key)}, with more"
        text = f"{needs}; the limit {limit_of(key)} never lets as many of {key!r} start together; {left}"
        yield Reason(code="gang_too_large", tier=Tier.NEVER, text=text, change=change)
        return
    if most < gang.size:
        text = f"{needs}; if they had nothing else to do, workers had it for {most}; {left}"
        yield Reason(code="gang_too_large", tier=Tier.NEVER, text=text, change=MORE_WORKERS)
        return
    kept = ", which is kept for it" if room_kept_for(world) == name else ""
    text = f"{needs}; workers have it for {most_at_once(world, tasks, now=True)}{kept}; {left}"
    yield Reason(code="gang_waits", tier=Tier.ITSELF, text=text, change=MORE_WORKERS)


def _of_room_kept(world: World, task: Task, fits: _Fits) -> Iterator[Reason]:
    """Yield that the room that workers have for a task is kept for a gang."""
    name = room_kept_for(world) if world.indexes.gangs.gathered else ""
    if not name or name == gang_of(task):
        return
    members = world.indexes.gangs.of[name]
    tasks = members.in_order()
    able = workers_of(world, tasks)
    with_room = {worker_id for worker_id, against in fits.items() if not against}
    if with_room and with_room <= able:
        left_s = max(0.0, members.until - world.indexes.now)
        gang_id = name.removeprefix(f"{tasks[0].tenant}/")
        yield Reason(
            code="kept_for_gang",
            tier=Tier.ITSELF,
            text=f"free room is kept for the {len(tasks)} tasks of gang {gang_id}, for {left_s:.1f} s at most",
            blockers=[Blocker(kind="task", id=one.task_id) for one in tasks[:MOST_BLOCKERS]],
            change=f"coordinator task cancel {tasks[0].task_id}",
        )


def _of_preference(task: Task, waits_s: float) -> Iterator[Reason]:
    if waits_s:
        yield Reason(
            code="prefers",
            tier=Tier.ITSELF,
            text=f"it waits {waits_s:.1f} s more for a worker that meets {task.preference}",
        )


def _of_queue(world: World, task: Task) -> Iterator[Reason]:
    queue = world.queues.get(task.queue or DEFAULT)
    if queue is not None and queue.paused_at is not None:
        why = f": {queue.reason}" if queue.reason else ""
        yield Reason(
            code="queue_paused",
            tier=Tier.OPERATOR,
            text=f"queue {queue.queue_id} was paused by {queue.paused_by or 'nobody known'}{why}",
            blockers=[Blocker(kind="queue", id=queue.queue_id, for_s=world.indexes.now - queue.paused_at)],
            change=f"coordinator queue resume {queue.queue_id}",
        )


def _of_fleet(world: World, task: Task, rules: Rules) -> Iterator[Reason]:
    running = world.indexes.tasks[TaskStatus.RUNNING]
    if len(running) >= rules.max_concurrent_tasks:
        yield Reason(
            code="fleet_full",
            tier=Tier.ITSELF,
            text=f"{len(running)} tasks run, the limit of scheduler.max_concurrent_tasks",
            blockers=_oldest(world, (one for one in running if one != task.task_id)),
            change=f"raise scheduler.max_concurrent_tasks above {rules.max_concurrent_tasks}",
        )


def _of_workers(world: World, task: Task, fits: _Fits) -> Iterator[Reason]:
    """Yield why no worker can take the task, if none can."""
    goes_to = world.indexes.builds.of(task)
    if goes_to is not None and all({"other_version", "other_names", "silent"} & one.keys() for one in fits.values()):
        yield _without_workers(world, task, goes_to)
        return
    if not fits:
        yield Reason(
            code="no_worker",
            tier=Tier.OPERATOR,
            text="no worker is registered",
            change=f"start a worker that handles {task.task_name!r}",
        )
        return
    if not all(fits.values()):
        return
    able = {worker_id: against for worker_id, against in fits.items() if not _PERMANENT & against.keys()}
    if not able:
        yield _never(world, task, fits)
        return
    if all(_STOPPING & against.keys() for against in able.values()):
        blockers = [Blocker(kind="worker", id=worker_id) for worker_id in islice(able, MOST_BLOCKERS)]
        yield Reason(
            code="workers_stopping",
            tier=Tier.OPERATOR,
            text=f"all {len(able)} workers that could run it are draining, retired, or their containers do not run",
            blockers=blockers,
            change=f"start another worker that handles {task.task_name!r}",
        )
        return
    heard = {worker_id for worker_id, against in able.items() if "silent" not in against}
    if not heard:
        yield Reason(
            code="workers_silent",
            tier=Tier.ITSELF,
            text=f"all {len(able)} workers that could run it are silent",
            blockers=[Blocker(kind="worker", id=worker_id) for worker_id in islice(able, MOST_BLOCKERS)],
        )
        return
    heard = {worker_id for worker_id in heard if "preferred" not in able[worker_id]} or heard
    holds = (task_id for worker_id in sorted(heard) for task_id in world.indexes.held.get(worker_id, ()))
    yield Reason(
        code="workers_busy",
        tier=Tier.ITSELF,
        text=f"all {len(heard)} workers that could run it are busy",
        blockers=_oldest(world, holds),
        change="start another worker like them",
    )


def _without_workers(world: World, task: Task, goes_to: str) -> Reason:
    """Say that no worker is heard of the version that the task goes to, and how to get it away from there."""
    lanes = world.indexes.lanes.of.items()
    waiting = sum(group.count for lane, group in lanes if lane.goes_to == goes_to)
    queue = task.queue or DEFAULT
    if task.build_id and world.indexes.builds.pinned_to(task.build_id):
        moved = "where it began" if task.build_id == goes_to else f"where tasks of version {task.build_id} were moved"
        why = f"it goes on at workers with {_build(goes_to)}, {moved}"
        instead = f"retire {task.build_id} --move-to BUILD"
    else:
        why = f"queue {queue} begins it on workers with {_build(goes_to)}"
        instead = f"route {queue} --current BUILD"
    return Reason(
        code="version_without_workers",
        tier=Tier.OPERATOR,
        text=f"{why}; none that handles {task.task_name!r} is heard, and {waiting} ready tasks wait for one",
        blockers=[Blocker(kind="version", id=goes_to)],
        change=f"start a worker with {_build(goes_to)}, or coordinator version {instead}",
    )


def _build(build_id: str) -> str:
    return f"the build id {build_id}" if build_id else "no build id"


def _never(world: World, task: Task, fits: _Fits) -> Reason:
    """Say why no worker could run the task even if it had nothing else to do."""
    named = [worker_id for worker_id, against in fits.items() if "other_names" not in against]
    if not named:
        handles = chain.from_iterable(world.workers[worker_id].handles for worker_id in fits)
        near = get_close_matches(task.task_name, dict.fromkeys(islice(handles, NAMES_COMPARED)), n=3)
        meant = f": did you mean {' or '.join(near)}?" if near else ""
        return Reason(
            code="no_handler",
            tier=Tier.NEVER,
            text=f"none of {len(fits) + fits.others} workers handles {task.task_name!r}{meant}",
            change=f"start a worker that handles {task.task_name!r}",
        )
    named = [worker_id for worker_id in named if "other_version" not in fits[worker_id]]
    alike = [worker_id for worker_id in named if "labels" not in fits[worker_id]]
    if not alike:
        return Reason(
            code="no_match",
            tier=Tier.NEVER,
            text=f"none of {len(named)} workers that handle {task.task_name!r} meets its filter {task.worker_filter}",
            change="start a worker with such labels, or submit it with another worker_filter",
        )
    alike = [worker_id for worker_id in alike if "rule" not in fits[worker_id]]
    if not alike:
        return Reason(
            code="not_permitted",
            tier=Tier.NEVER,
            text=f"security rule {task.rule} lets it run only where {task.rule_filter}, and no worker that may run "
            f"{task.task_name!r} is there",
            blockers=[Blocker(kind="rule", id=task.rule)],
            change="start a worker in such an agent, or change security.tasks and submit it again",
        )
    needs = amounts(task.resources)
    return Reason(
        code="too_large",
        tier=Tier.NEVER,
        text=f"it needs {needs}, more than any of {len(alike)} workers that may run {task.task_name!r} has",
        change=f"start a worker with {needs}, or submit it with less",
    )


def _of_order(world: World, task: Task, ahead: int | None, counts: Counter[str]) -> Iterator[Reason]:
    """Yield whether others are before it, if a worker has room."""
    if ahead and counts[FITS]:
        policy = policy_of(world.queues, task.queue)
        yield Reason(
            code="behind_others",
            tier=Tier.ITSELF,
            text=f"{ahead} tasks of queue {task.queue or DEFAULT} are before it by the policy {policy.strategy}",
        )
    elif ahead is not None and counts[FITS]:
        yield Reason(
            code="not_claimed",
            tier=Tier.ITSELF,
            text=f"{counts[FITS]} workers have room for it, and none has claimed it yet",
        )


def amounts(resources: Resources) -> str:
    """Return amounts in words: `2 cores, 4 GiB, 1 GPU`."""
    parts = [
        (resources.cpu_millis, f"{resources.cpu_millis / 1000:g} cores"),
        (resources.memory_bytes, f"{resources.memory_bytes / 2**30:.3g} GiB"),
        (resources.gpus, f"{resources.gpus} GPUs"),
        *((amount, f"{amount} {name}") for name, amount in sorted(resources.named.items())),
    ]
    return ", ".join(text for amount, text in parts if amount) or "nothing"


def _facts(facts: Facts, worker_filter: str) -> str:
    """Return what a worker has of what a filter names: what decided, and as much as a line holds."""
    named: dict[str, Scalar] = {name: getattr(facts, name) for name in FIELDS.plain}
    named |= {f"labels.{name}": value for name, value in sorted(facts.labels.items())}
    shown = [f"{name} = {json.encode(value).decode()}" for name, value in named.items() if name in worker_filter]
    return ", ".join(shown[:FACTS_SHOWN]) or "none of these labels"


def _oldest(world: World, task_ids: Iterable[str]) -> list[Blocker]:
    now = world.indexes.now
    tasks = (world.tasks[task_id] for task_id in islice(task_ids, 1000))
    begun = sorted((task.started_at if task.started_at is not None else now, task.task_id) for task in tasks)
    return [Blocker(kind="task", id=task_id, for_s=now - since) for since, task_id in begun[:MOST_BLOCKERS]]
