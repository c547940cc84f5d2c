"""Queues as they are shown: with their policy, their tasks and who shares them. Pure."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.queue import SHARES_SHOWN, MadeWait, QueueView, Sharer, WaitReason
from coordinator.commands.shadow import ShadowView
from coordinator.deciders.queue import tasks_in
from coordinator.deciders.shadow import why_not
from events.queue import DEFAULT
from projections import blockage, waits
from projections.hold import REQUESTS
from projections.queue import default_queue, name_of, policy_of, regret_of
from projections.ready import FIFO
from projections.shares import Account, name_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from events.queue import FairShare
    from projections.queue import Queue, Shadow
    from projections.world import World


HOLDERS_SHOWN = 10
NOT_READY_COUNTED = 10_000
"""Of the tasks that are not ready so many are looked at, of each kind."""


def queues_of(world: World) -> dict[str, Queue]:
    """Return the queues by name, sorted; the default one is there even if nothing was ever said of it."""
    return dict(sorted({DEFAULT: default_queue(), **world.queues}.items()))


def queue_view(world: World, queue: Queue) -> QueueView:
    """Return a queue with what is in it now, and who shares it."""
    name, share = name_of(queue.queue_id), world.indexes.shared.get(name_of(queue.queue_id))
    sharers = [] if share is None else _sharers(world, name, share)
    return msgspec.structs.replace(
        _view(world, queue, _ready(world).get(name, 0)),
        sharers=sharers,
        waits=_waits(world, queue.queue_id),
        made_wait=_made_wait(world, queue.queue_id),
        shadow=None if queue.shadow is None else _shadow(world, queue.queue_id, queue.shadow),
    )


def queue_views(world: World, queues: Iterable[Queue]) -> Iterator[QueueView]:
    """Yield several queues with what is in them now."""
    ready = _ready(world)
    return (_view(world, queue, ready.get(name_of(queue.queue_id), 0)) for queue in queues)


def _ready(world: World) -> Counter[str]:
    """Return how many tasks of each queue are ready."""
    found: Counter[str] = Counter()
    for lane, group in world.indexes.lanes.of.items():
        found[lane.queue] += group.count
    return found


def _view(world: World, queue: Queue, ready: int) -> QueueView:
    pending, running = tasks_in(world, queue.queue_id)
    policy = policy_of(world.queues, name_of(queue.queue_id))
    return QueueView(queue=queue, policy=policy, pending=pending, ready=ready, running=running)


def _waits(world: World, queue_id: str) -> list[WaitReason]:
    """Return why the pending tasks of a queue wait: the ready ones by their shapes, the others by what they are."""
    indexes, queue, now = world.indexes, name_of(queue_id), world.indexes.now
    is_paused = queues_of(world)[queue_id].paused_at is not None
    found: dict[str, WaitReason] = {}

    def note(code: str, tasks: int, since: float, holders: Iterable[str] = ()) -> None:
        known = found.get(code, WaitReason(code=code, tasks=0, oldest_s=0.0))
        found[code] = WaitReason(
            code=code,
            tasks=known.tasks + tasks,
            oldest_s=max(known.oldest_s, now - since),
            holders=list(dict.fromkeys(chain(known.holders, holders)))[:HOLDERS_SHOWN],
        )

    for lane, group in indexes.lanes.of.items():
        for shape in group.shapes.values() if lane.queue == queue else ():
            oldest = next(shape.ordered(FIFO), None)
            if oldest is not None:
                known = world.blockages.get(blockage.name_in(queue_id, blockage.shape_id(shape.key)))
                cause, holders = ("", ()) if known is None else (known.cause, known.holders)
                if is_paused:
                    cause, holders = waits.QUEUE_PAUSED, ()
                note(cause or blockage.UNCLAIMED, len(shape.members), oldest[1].submitted_at, holders)
    kept = indexes.on_hold.of
    held = chain.from_iterable(tasks.values() for hold_id, tasks in kept.items() if hold_id != REQUESTS)
    for code, tasks in (
        (waits.HELD, held),
        (waits.REQUEST_WAITS, kept.get(REQUESTS, {}).values()),
        (waits.GATHERS, indexes.gangs.tasks()),
        (waits.DEPENDENT, indexes.dependants.waiting.values()),
        (waits.PAUSED, map(world.tasks.__getitem__, indexes.paused)),
        ("", indexes.parked_members.values()),
    ):
        for task in islice(tasks, NOT_READY_COUNTED):
            if task.queue == queue:
                later = code or (waits.BACK_OFF if task.attempt else waits.LATER)
                note(later, 1, task.submitted_at)
    return sorted(found.values(), key=lambda one: (-one.tasks, one.code))


def _shadow(world: World, queue_id: str, shadow: Shadow) -> ShadowView:
    """Return how a candidate policy has done, and whether it may be promoted."""
    compared = shadow.compared
    mean, high = regret_of(compared)
    refusal = why_not(world, queue_id, shadow)
    return ShadowView(
        divergence=compared.differing / compared.decisions if compared.decisions else 0.0,
        regret_s=mean,
        regret_high_s=high if isfinite(high) else None,
        refusal="" if refusal is None else refusal.reason,
        why_not="" if refusal is None else refusal.message,
    )


def _made_wait(world: World, queue_id: str) -> list[MadeWait]:
    pairs = [pair for pair in world.made_wait.values() if pair.queue_id == queue_id]
    pairs.sort(key=lambda pair: -pair.seconds)
    return [MadeWait(holder=one.holder, waiter=one.waiter, seconds=one.seconds) for one in pairs[:SHARES_SHOWN]]


def _sharers(world: World, queue: str, share: FairShare) -> list[Sharer]:
    indexes = world.indexes
    ready: Counter[str] = Counter()
    for lane, group in indexes.lanes.of.items():
        if lane.queue == queue and group.count:
            ready[lane.key] += group.count
    prefix = name_in(queue, "")
    running = {
        name.removeprefix(prefix): count for name, count in indexes.running_in.items() if name.startswith(prefix)
    }
    keys = ready.keys() | running.keys()
    total = sum(share.weights.get(key, 1.0) for key in keys)

    def shown(key: str) -> Sharer:
        account = world.accounts.get(name_in(queue, key), Account(""))
        weight = share.weights.get(key, 1.0)
        used = account.used_at(indexes.now, share.half_life_s) + running.get(key, 0) * account.mean
        return Sharer(
            key=key,
            weight=weight,
            share=weight / total,
            ready=ready.get(key, 0),
            running=running.get(key, 0),
            used=used,
        )

    found = sorted(map(shown, keys), key=lambda one: (one.used / one.weight, one.key))
    return found[:SHARES_SHOWN]
