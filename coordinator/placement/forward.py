"""
Runs a queue forward: when is the first slot free after all that come before one task have begun? Pure.

It is run several times, each time with other run times of those that were recorded, so that the answers tell how sure
one can be. The draws are the same for the same queue: nothing here is random.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from itertools import cycle
from math import sqrt
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.placement.run_times import Runs

TIMES, THROWS = 16, 331
"""How often a queue is run forward, and how many numbers it takes before they come again."""
FREE = (0.0,)
_NEARLY_S = 1e-6
_LONGER = (0.25, 0.5, 0.75, 1.0)
"""By which parts of the time that it ran already a task runs on that runs longer than all others did."""
_NORMAL = tuple(NormalDist().inv_cdf((number + 0.5) / TIMES) for number in range(TIMES))


def _dice(seed: int) -> tuple[int, ...]:
    """Return numbers that look like chance, always the same ones (Numerical Recipes, 7.1)."""
    found = [seed]
    while len(found) <= THROWS:
        found.append((found[-1] * 1_664_525 + 1_013_904_223) & 0xFFFF_FFFF)
    return tuple(one >> 8 for one in found[1:])


_DICE = tuple(map(_dice, range(TIMES)))


class Backlog(NamedTuple):
    """
    What is before a task: of each slot the times after which it may be free, in order the run times of those before it.

    Before these, each slot runs `rounds` more tasks with the run times `usual`.
    """

    slots: Sequence[Runs]
    order: Sequence[Runs]
    rounds: int = 0
    usual: Runs = FREE


def run_forward(backlog: Backlog) -> list[float]:
    """Return after how many seconds a task may start behind *backlog*, once for each run, the earliest first."""
    mean, unsure = fmean(backlog.usual), 0.0
    if backlog.rounds:  # what all slots run before is known less well the fewer run times the mean is of
        spread_2 = fmean((one - mean) ** 2 for one in backlog.usual)
        unsure = sqrt(spread_2 * (backlog.rounds / len(backlog.slots) + backlog.rounds**2 / len(backlog.usual)))
    found = []
    for number in range(TIMES):
        dice = cycle(_DICE[number])
        delay = max(0.0, backlog.rounds * mean + unsure * _NORMAL[number])
        free = [delay + left[thrown % len(left)] for left, thrown in zip(backlog.slots, dice, strict=False)]
        heapq.heapify(free)
        for runs, thrown in zip(backlog.order, dice, strict=False):
            heapq.heapreplace(free, free[0] + runs[thrown % len(runs)])
        found.append(free[0])
    return sorted(found)


def left_of(runs: Runs, ran_s: float) -> Runs:
    """Return for how long a task may still run that has run for *ran_s*, if tasks like it run for *runs*."""
    longer = runs[bisect_left(runs, ran_s - _NEARLY_S) :]
    return tuple(max(0.0, one - ran_s) for one in longer) or tuple(ran_s * part for part in _LONGER)
