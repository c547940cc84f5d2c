"""
Why the ready tasks of each shape waited, and since when: state, and the fold of its events. Pure.

The reason of a shape holds until the next event says another one, so what a task waited for is the time of each of
them between when it was ready and when it started: the parts always sum up to the whole.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from events.queue import QueueBlocked
    from projections.ready import ShapeKey
    from projections.stamp import Stamp

SPANS_KEPT = 100
"""Of more changes than this, the older half is kept as one span with the share of each cause."""
MOST_BLOCKAGES = 2000
"""So many shapes are kept, those whose reason changed last: all their spans take some megabytes of a snapshot."""
MOST_PAIRS = 10_000
"""So many pairs of tenants, of which one made the other wait, are kept over all queues."""
UNCLAIMED = "not_claimed"
"""The reason where none was recorded: a worker has room, and has not claimed the tasks yet."""

_encode = msgspec.json.Encoder().encode


class CauseSpan(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A cause, '' for `UNCLAIMED`, from the commit time `since` on; or the seconds of several, `mixed` evenly."""

    since: float
    cause: str = ""
    mixed: dict[str, float] = {}


class Blockage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The causes of one shape in one queue, the last one with what its event says; `noted_at` is when it came."""

    name: str
    queue_id: str
    task_name: str
    spans: tuple[CauseSpan, ...]
    noted_at: float
    key: str = ""
    holders: tuple[str, ...] = ()
    held_by: dict[str, int] = {}
    waiting: dict[str, int] = {}

    @property
    def cause(self) -> str:
        """The cause that holds now, '' for none."""
        return self.spans[-1].cause


class Pair(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """For how many seconds tasks of one tenant were in the way of those of another, in a queue, over all of these."""

    name: str
    queue_id: str
    holder: str = ""
    waiter: str = ""
    seconds: float = 0.0


@lru_cache(maxsize=4096)
def shape_id(key: ShapeKey) -> str:
    """Return the short name of a shape; of one without a gang it is what it was before there were gangs."""
    fields = msgspec.structs.asdict(key)
    if not key.gang:
        del fields["gang"]
    return sha256(_encode(fields)).hexdigest()[:16]


def name_in(queue_id: str, shape: str) -> str:
    """Return what the blockage of a shape in a queue is kept by."""
    return f"{queue_id}/{shape}"


def evolve(before: Blockage | None, event: QueueBlocked, stamp: Stamp) -> Blockage:
    """Fold one event into the causes of the shape it is about."""
    spans = () if before is None else before.spans
    since = min(max(event.since, spans[-1].since if spans else 0.0), stamp.time)
    if not spans or spans[-1].cause != event.cause:
        spans = (*spans, CauseSpan(since, event.cause))
    return Blockage(
        name=name_in(event.queue_id, event.shape),
        queue_id=event.queue_id,
        task_name=event.task_name,
        spans=spans if len(spans) <= SPANS_KEPT else _shortened(spans),
        noted_at=stamp.time,
        key=event.key,
        holders=event.holders,
        held_by=event.held_by,
        waiting=event.waiting,
    )


def _shortened(spans: tuple[CauseSpan, ...]) -> tuple[CauseSpan, ...]:
    half = len(spans) // 2
    return (CauseSpan(spans[0].since, mixed=parts(spans[:half], spans[0].since, spans[half].since)), *spans[half:])


def parts(spans: tuple[CauseSpan, ...], begin: float, end: float) -> dict[str, float]:
    """Return how many seconds of the time from *begin* to *end* each cause held; before the first span none did."""
    found: dict[str, float] = {}
    ends = chain((span.since for span in spans), (inf,))
    for span, until in zip((CauseSpan(-inf), *spans), ends, strict=True):
        seconds = min(end, until) - max(begin, span.since)
        if seconds > 0:
            mixed = span.mixed or {span.cause: 1.0}
            whole = sum(mixed.values())
            for cause, part in mixed.items():
                found[cause] = found.get(cause, 0.0) + seconds * part / whole
    return found


def made_wait(before: Blockage, until: float) -> Iterator[tuple[str, str, float]]:
    """Yield whose tasks made whose wait for how long, since the last event of a blockage."""
    holders = sum(before.held_by.values())
    since = max(before.noted_at, before.spans[-1].since)
    if not before.cause or not holders or until <= since:
        return
    for holder, held in before.held_by.items():
        for waiter, waiting in before.waiting.items():
            yield holder, waiter, (until - since) * waiting * held / holders
