"""What may be asked of pools of resources."""

from __future__ import annotations

from coordinator.commands.command import Command, Question
from events.resources import Resources
from projections.pool import Pool


class DefinePool(Command, frozen=True, kw_only=True, gc=False):
    """Give a pool its capacity."""

    KIND, VERB, Answer = "pool", "define", Pool
    FOR = frozenset()

    pool_id: str
    capacity: Resources


class AllocatePool(Command, frozen=True, kw_only=True, gc=False):
    """Ask for a share of a pool; the answer is False when it does not fit."""

    KIND, VERB, Answer = "pool", "allocate", bool

    pool_id: str
    request_id: str
    resources: Resources
    priority: int = 0


class ReleasePool(Command, frozen=True, kw_only=True, gc=False):
    """Give a share of a pool back; the answer is False when nothing was held."""

    KIND, VERB, Answer, REMEMBERED = "pool", "release", bool, True

    pool_id: str
    request_id: str


class GetPool(Question, frozen=True, kw_only=True, gc=False):
    """Ask for a pool."""

    KIND, VERB, Answer = "pool", "get", Pool

    pool_id: str
