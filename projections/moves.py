"""
Which shares of a pool to put into other parts of it: what each move gains, and what it costs. Pure.

Only movable shares move. Gain and cost are portions of the pool, of the kind of which most moves: a plan is made only
if it gains more than it costs. For the first request that waits for room, the cheapest moves that make room for it in
one part. Else, to pack, the moves that empty the part with the least in it, which gains a part that nobody uses; to
spread, moves from the fullest part to the emptiest while that levels them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from events.pool import Placing
from events.resources import NONE
from projections.ledger import amounts_text, covers, held_in, order, portion
from projections.pool import Allocation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from projections.pool import Pool, Request

MOST_MOVES = 50


class Move(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    One move: the share of a request, from one part of the pool to another, and why.

    `gain` is what it gains of the pool, 0 to 1, and `cost` how much of the pool it moves. Moves that gain something
    only together share the gain.
    """

    request_id: str
    from_part: str
    to_part: str
    gain: float
    cost: float
    why: str


def planned(pool: Pool) -> list[Move]:
    """Return the moves to make now, in this order; each one fits after those before it."""
    if not pool.parts:
        return []
    board = _Board(pool)
    return board.for_waiting() or (board.packed() if pool.placing is Placing.PACK else board.levelled())


class _Board:
    """The parts of a pool with what is free in each, and the shares that may move."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        held = held_in(pool.allocations.values())
        self._free = {part: whole - held.get(f"part:{part}", NONE) for part, whole in pool.parts.items()}
        self._left = pool.capacity - held.get("", NONE)
        self._movable: dict[str, list[Allocation]] = {part: [] for part in pool.parts}
        for share in pool.allocations.values():
            if share.movable and share.part in self._movable:
                self._movable[share.part].append(share)

    def for_waiting(self) -> list[Move]:
        """Return the cheapest moves that let the first request in that the pool has room for, but no part of it."""
        for request in sorted(self._pool.waiting.values(), key=order):
            asked = request.resources
            if not covers(self._left, asked) or any(covers(free, asked) for free in self._free.values()):
                continue
            plans = [plan for part in self._free if (plan := self._room_in(part, request))]
            why = f"makes room for request {request.request_id}, which waits for {amounts_text(asked)}"
            if plans:
                return self._told(min(plans, key=self._cost), portion(asked, self._pool.capacity), why)
        return []

    def packed(self) -> list[Move]:
        """Return the moves that empty the part with the least in it of which all may move into other parts in use."""
        loads = {part: self._load(part) for part in self._free}
        for part in sorted((one for one, load in loads.items() if load), key=lambda one: (loads[one], one)):
            shares = self._movable[part]
            if sum((one.resources for one in shares), NONE) != self._pool.parts[part] - self._free[part]:
                continue
            others = [one for one in self._free if one != part and loads[one]]
            plan = self._moved_to(shares, others)
            if plan:
                return self._told(plan, portion(self._pool.parts[part], self._pool.capacity), f"empties part {part}")
        return []

    def levelled(self) -> list[Move]:
        """Return the moves from the fullest part to the emptiest, while the fullest of the two gets less full."""
        moves: list[Move] = []
        while len(moves) < MOST_MOVES:
            parts = sorted(self._free, key=lambda one: (self._load(one), one))
            low, high = parts[0], parts[-1]
            before = self._load(high)
            best: tuple[float, Allocation] | None = None
            for share in self._movable[high]:
                if not covers(self._free[low], share.resources):
                    continue
                after = max(
                    portion(self._pool.parts[low] - self._free[low] + share.resources, self._pool.parts[low]),
                    portion(self._pool.parts[high] - self._free[high] - share.resources, self._pool.parts[high]),
                )
                if after < before and (best is None or after < best[0]):
                    best = after, share
            if best is None or before - best[0] <= (cost := self._size(best[1])[0]):
                break
            after, share = best
            self._move(share, high, low)
            gain, why = before - after, f"the fullest part was {before:.0%} full"
            moves.append(_told(share, high, low, gain, cost, why))
        return moves

    def _load(self, part: str) -> float:
        return portion(self._pool.parts[part] - self._free[part], self._pool.parts[part])

    def _move(self, share: Allocation, old: str, new: str) -> None:
        self._free[old] += share.resources
        self._free[new] -= share.resources
        self._movable[old] = [one for one in self._movable[old] if one.request_id != share.request_id]
        # What has moved stays: it would be moved to and fro.

    def _room_in(self, part: str, request: Request) -> list[tuple[Allocation, str]]:
        """Return moves out of a part after which a request fits into it, the smallest first; none if there are none."""
        if not covers(self._pool.parts[part], request.resources):
            return []
        others = [one for one in self._free if one != part]
        free, chosen = self._free[part], list[Allocation]()
        for share in sorted(self._movable[part], key=self._size):
            if covers(free, request.resources) or len(chosen) == MOST_MOVES:
                break
            if self._moved_to([*chosen, share], others):
                chosen.append(share)
                free += share.resources
        if not covers(free, request.resources):
            return []
        for share in reversed(chosen):  # without those that larger ones made needless
            if covers(free - share.resources, request.resources):
                free -= share.resources
                chosen = [one for one in chosen if one is not share]
        return self._moved_to(chosen, others)

    def _moved_to(self, shares: Sequence[Allocation], parts: Iterable[str]) -> list[tuple[Allocation, str]]:
        """Return where each share goes, the largest first, each where least is left; nothing if they do not all fit."""
        free = {part: self._free[part] for part in parts}
        plan: list[tuple[Allocation, str]] = []
        for share in sorted(shares, key=self._size, reverse=True):
            fitting = [part for part in free if covers(free[part], share.resources)]
            if not fitting:
                return []
            to = min(fitting, key=lambda part: portion(free[part], self._pool.capacity))
            free[to] -= share.resources
            plan.append((share, to))
        return plan

    def _size(self, share: Allocation) -> tuple[float, str]:
        return portion(share.resources, self._pool.capacity), share.request_id

    def _cost(self, plan: Sequence[tuple[Allocation, str]]) -> float:
        return sum(self._size(share)[0] for share, _ in plan)

    def _told(self, plan: Sequence[tuple[Allocation, str]], gain: float, why: str) -> list[Move]:
        if not plan or gain <= self._cost(plan) or len(plan) > MOST_MOVES:
            return []
        each = gain / len(plan)
        return [_told(share, share.part, to, each, self._size(share)[0], why) for share, to in plan]


def _told(share: Allocation, old: str, new: str, gain: float, cost: float, why: str) -> Move:
    return Move(request_id=share.request_id, from_part=old, to_part=new, gain=gain, cost=cost, why=why)
