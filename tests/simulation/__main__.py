"""
Run the simulation.

    python -m tests.simulation --seeds 1000 [--first 0]    many seeds, on all cores
    python -m tests.simulation --seed 17                   one of them again
    python -m tests.simulation --plan '{…}'                what a failure was shrunk to
    python -m tests.simulation --planted [NAME …]          ten bugs that must be found

A seed that fails is printed with the command that repeats it, and made smaller. A kind of fault that never fired over
all seeds is a failure too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import msgspec

from tests.simulation.faults import EVENTS, KINDS, OUTCOMES, Plan, plan_of
from tests.simulation.planted import PLANTED
from tests.simulation.play import Played, play_safely, play_seeds, quiet, shrink

SEEDS_TO_FIND = 1000
SEEDS_TO_TRY_ALL = 100
"""From so many seeds on every kind of fault must have fired."""
AGAIN = "python -m tests.simulation"


def main() -> int:
    """Run what was asked for and say what came of it."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of text are walked in an order of their own in each process; a seed must give one run everywhere.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--plan", type=str)
    parser.add_argument("--planted", nargs="*", choices=sorted(PLANTED))
    parser.add_argument("--bug", default="", choices=["", *sorted(PLANTED)], help="plant it, with --seed or --plan")
    given = parser.parse_args()
    quiet()
    if given.planted is not None:
        return find(given.planted or list(PLANTED), given.first)
    if given.plan is not None:
        return one(msgspec.json.decode(given.plan, type=Plan), given.bug)
    if given.seed is not None:
        return one(plan_of(given.seed), given.bug)
    return many(range(given.first, given.first + given.seeds))


def one(plan: Plan, planted: str) -> int:
    """Run one plan twice."""
    print(f"plan {msgspec.json.encode(plan).decode()}", flush=True)
    played = play_safely(plan, planted, twice=True)
    print(played.failure or f"{played.steps:,} steps, no violation: {played.fired}")
    return 1 if played.failure else 0


def many(seeds: range) -> int:
    """Run seeds until one fails."""
    print(f"seeds {seeds[0]} to {seeds[-1]}", flush=True)
    began = time.monotonic()
    all_of_them = Played(runs=0)
    for played in play_seeds(seeds):
        if played.failure:
            return tell(played)
        all_of_them.add(played)
    took_s = time.monotonic() - began
    fired, events = all_of_them.fired, all_of_them.events
    print(
        f"{len(seeds)} seeds, {all_of_them.steps:,} steps, {sum(fired.values()):,} faults, {took_s:.1f} s: no violation"
    )
    print(f"{all_of_them.short} of them had fewer than 5,000 steps or 3 faults")
    print("faults:", ", ".join(f"{name} {count:,}" for name, count in sorted(fired.items())))
    print("events:", ", ".join(f"{name} {count:,}" for name, count in sorted(events.items())))
    never = sorted({*KINDS, *OUTCOMES} - fired.keys()) + sorted(set(EVENTS) - events.keys())
    if never and len(seeds) >= SEEDS_TO_TRY_ALL:
        print(f"these never came about: {', '.join(never)}")
        return 1
    return 0


def tell(played: Played) -> int:
    """Say what failed and how to see it again, then make it smaller."""
    print(f"seed {played.seed} failed; again: {AGAIN} --seed {played.seed}\n{played.failure}", flush=True)
    plan, failure = shrink(plan_of(played.seed))
    print(f"smaller: {AGAIN} --plan '{msgspec.json.encode(plan).decode()}'\n{failure}", flush=True)
    return 1


def find(names: list[str], first: int) -> int:
    """Look for each planted bug, until it is found or 1,000 seeds are through."""
    missed = 0
    for name in names:
        began = time.monotonic()
        seeds = range(first, first + SEEDS_TO_FIND)
        found = next((played for played in play_seeds(seeds, name) if played.failure), None)
        took_s = time.monotonic() - began
        if found is None:
            missed += 1
            print(f"{name}: NOT found in {SEEDS_TO_FIND} seeds, {took_s:.0f} s", flush=True)
        else:
            print(f"{name}: seed {found.seed}, {took_s:.0f} s: {found.failure[:200]}", flush=True)
    print(f"{len(names) - missed} of {len(names)} planted bugs found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
