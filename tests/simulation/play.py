"""
Run one plan and check it; run many on all cores; shrink a failing plan while it fails.

A run depends only on its plan: one seed in twenty runs twice and must send and store the same, byte for byte.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from typing import TYPE_CHECKING

import msgspec
import structlog

from tests.simulation.check import check, trace
from tests.simulation.cluster import Sim
from tests.simulation.faults import LEAST_FAULTS, LEAST_STEPS, Plan, plan_of
from tests.simulation.loop import run_seeded
from tests.simulation.planted import PLANTED
from tests.simulation.promises import Promise, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TWICE_EVERY = 20
TRIES_TO_SHRINK = 80


class Played(msgspec.Struct, kw_only=True):
    """The result of one run, or of many; `failure` has the error, or ''."""

    seed: int = -1
    failure: str = ""
    kind: str = ""
    """The broken promise, or the exception raised instead."""
    runs: int = 1
    short: int = 0
    """Runs with fewer steps or faults than a run should have."""
    steps: int = 0
    fired: dict[str, int] = {}
    events: dict[str, int] = {}

    def add(self, other: Played) -> None:
        """Add the counts of *other*."""
        self.runs += other.runs
        self.short += other.short
        self.steps += other.steps
        self.fired = dict(Counter(self.fired) + Counter(other.fired))
        self.events = dict(Counter(self.events) + Counter(other.events))


def quiet() -> None:
    """Turn logging off, and collect garbage rarely: a run has thousands of turns."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=True
    )
    gc.set_threshold(100_000, 20, 20)


def play(plan: Plan, *, twice: bool = False) -> Played:
    """
    Run a plan once, or *twice* and compare.

    Raises:
        Violation: a promise was broken, or the two runs differ. Other exceptions are failures too.
    """
    sim = Sim(plan)
    with sim.remembering():
        _, steps = run_seeded(sim.run(), sim.random)
        events = check(sim)
    if twice:
        again = Sim(plan)
        with again.remembering():
            run_seeded(again.run(), again.random)
        first, second = trace(sim), trace(again)
        if first != second:
            msg = f"the same plan gave two different runs: {first} and {second}"
            raise Violation(Promise.REPEATABLE, msg)
    fired = sim.dice.fired
    is_short = steps < LEAST_STEPS or fired.total() < LEAST_FAULTS
    return Played(seed=plan.seed, steps=steps, fired=dict(fired), events=dict(events), short=int(is_short))


def play_safely(plan: Plan, planted: str = "", *, twice: bool = False) -> Played:
    """Run a plan, with a planted bug if one is named; an exception becomes `failure`."""
    try:
        with ExitStack() as stack:
            if planted:
                stack.enter_context(PLANTED[planted]())
            return play(plan, twice=twice)
    except Exception as error:  # noqa: BLE001  # any exception is a finding of the seed
        kind = error.promise.name if isinstance(error, Violation) else type(error).__name__
        return Played(seed=plan.seed, kind=kind, failure=f"{type(error).__name__}: {error}"[:2000])


def play_seeds(seeds: Iterable[int], planted: str = "", *, processes: int | None = None) -> Iterator[Played]:
    """Run seeds on all cores, and yield the result of each in order."""
    os.environ["PYTHONHASHSEED"] = "0"  # for the processes started here: it fixes the iteration order of sets of text
    workers = processes or os.cpu_count() or 1
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=quiet)
    try:
        yield from pool.map(_one, [(seed, planted) for seed in seeds], chunksize=2)
    finally:
        pool.shutdown(cancel_futures=True)


def _one(what: tuple[int, str]) -> Played:
    seed, planted = what
    return play_safely(plan_of(seed), planted, twice=seed % TWICE_EVERY == 0 and not planted)


def shrink(plan: Plan, planted: str = "") -> tuple[Plan, str]:
    """Remove faults and users while the plan fails the same way; return the smallest plan and its failure."""
    first = play_safely(plan, planted, twice=True)
    failure = first.failure
    tries = 0
    progress = True
    while progress and tries < TRIES_TO_SHRINK:
        progress = False
        for smaller in _smaller(plan):
            tries += 1
            found = play_safely(smaller, planted, twice=first.kind == Promise.REPEATABLE.name)
            if found.kind == first.kind:
                plan, failure, progress = smaller, found.failure, True
                break
            if tries >= TRIES_TO_SHRINK:
                break
    return plan, failure


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Yield smaller plans, the smallest first."""
    replace = msgspec.structs.replace
    if plan.least_steps or plan.least_faults:
        yield replace(plan, least_steps=0, least_faults=0)
    kinds = list(plan.intensity)
    for part in (kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :], *([kind] for kind in kinds)):
        rest = {kind: amount for kind, amount in plan.intensity.items() if kind not in part}
        if len(rest) < len(kinds):
            yield replace(plan, intensity=rest)
    for name in ("clients", "tasks", "containers", "domains", "workers", "nodes", "coordinators"):
        count = getattr(plan, name)
        for fewer in dict.fromkeys((0, count // 2)):
            if fewer < count and (fewer or name not in ("nodes", "coordinators", "workers")):
                yield replace(plan, **{name: fewer})
    if plan.faulty_s > 5.0:
        yield replace(plan, faulty_s=plan.faulty_s / 2)
