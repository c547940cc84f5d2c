"""Queues as they are shown: with their policy, their tasks and who shares them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.queue import SHARES_SHOWN, QueueView, Sharer
from coordinator.deciders.queue import tasks_in
from events.queue import DEFAULT
from projections.queue import default_queue, name_of, policy_of
from projections.shares import Account, name_in

if TYPE_CHECKING:
    from events.queue import FairShare
    from projections.queue import Queue
    from projections.world import World


def queues_of(world: World) -> dict[str, Queue]:
    """Return the queues by name, sorted; the default one is there even if nothing was ever said of it."""
    return dict(sorted({DEFAULT: default_queue(), **world.queues}.items()))


def queue_view(world: World, queue: Queue, *, with_sharers: bool = True) -> QueueView:
    """Return a queue with what is in it now."""
    name, indexes = name_of(queue.queue_id), world.indexes
    pending, running = tasks_in(world, queue.queue_id)
    share = indexes.shared.get(name)
    return QueueView(
        queue=queue,
        policy=policy_of(world.queues, name),
        pending=pending,
        ready=sum(group.count for lane, group in indexes.lanes.of.items() if lane.queue == name),
        running=running,
        sharers=_sharers(world, name, share) if share is not None and with_sharers else [],
    )


def _sharers(world: World, queue: str, share: FairShare) -> list[Sharer]:
    indexes = world.indexes
    ready = {lane.key: group.count for lane, group in indexes.lanes.of.items() if lane.queue == queue and group.count}
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
