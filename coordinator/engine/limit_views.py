"""Limits as they are shown: with the keys that they limit now. Pure."""

from __future__ import annotations

from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING

from coordinator.commands.limit import KEYS_SHOWN, KeyView, LimitView
from projections.limit import limit_of, opens_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from projections.limit import Limit
    from projections.world import World


def limit_view(world: World, limit: Limit) -> LimitView:
    """Return a limit with the keys of it that have most tasks."""
    keyed = world.indexes.keyed
    prefix = f"{limit.limit_id}:"
    keys = {key for key in (*keyed.running, *keyed.pending, *world.uses) if key.startswith(prefix)}

    def rank(key: str) -> tuple[int, str]:
        return -len(keyed.running.get(key, ())) - len(keyed.pending.get(key, ())), key

    shown = [_key(world, limit, key) for key in nsmallest(KEYS_SHOWN, keys, key=rank)]
    view = next(limit_views(world, (limit,)))
    return LimitView(limit=limit, running=view.running, pending=view.pending, keys=shown)


def limit_views(world: World, limits: Iterable[Limit]) -> Iterator[LimitView]:
    """Yield several limits with how many tasks they limit now."""
    keyed = world.indexes.keyed
    counts: dict[str, list[int]] = {}
    for number, groups in enumerate((keyed.running, keyed.pending)):
        for key, tasks in groups.items():
            counts.setdefault(limit_of(key), [0, 0])[number] += len(tasks)
    for limit in limits:
        running, pending = counts.get(limit.limit_id, (0, 0))
        yield LimitView(limit=limit, running=running, pending=pending)


def _key(world: World, limit: Limit, key: str) -> KeyView:
    keyed, now = world.indexes.keyed, world.indexes.now
    room, opens = keyed.room(key), opens_at(limit.terms, world.uses.get(key))
    return KeyView(
        value=key.removeprefix(f"{limit.limit_id}:"),
        running=len(keyed.running.get(key, ())),
        pending=len(keyed.pending.get(key, ())),
        may_start=None if room == inf else max(0, int(room)),
        opens_in_s=opens - now if opens > now else None,
    )
