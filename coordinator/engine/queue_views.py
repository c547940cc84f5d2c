"""Queues as they are shown: with their policy, their tasks and who shares them. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.queue import SHARES_SHOWN, QueueView, Sharer
from coordinator.deciders.queue import tasks_in
from events.queue import DEFAULT
from projections.queue import default_queue, name_of, policy_of
from projections.shares import Account, name_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from events.queue import FairShare
    from projections.queue import Queue
    from projections.world import World


def queues_of(world: World) -> dict[str, Queue]:
    """Return the queues by name, sorted; the default one is there even if nothing was ever said of it."""
    return dict(sorted({DEFAULT: default_queue(), **world.queues}.items()))


def queue_view(world: World, queue: Queue) -> QueueView:
    """Return a queue with what is in it now, and who shares it."""
    name, share = name_of(queue.queue_id), world.indexes.shared.get(name_of(queue.queue_id))
    view = _view(world, queue, _ready(world).get(name, 0))
    return view if share is None else msgspec.structs.replace(view, sharers=_sharers(world, name, share))


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
