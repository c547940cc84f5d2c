"""
Run the simulation.

    python -m tests.simulation --seeds 1000 [--first 0]    many seeds, on all cores
    python -m tests.simulation --seed 17                   one of them again
    python -m tests.simulation --plan '{…}'                what a failure was shrunk to
    python -m tests.simulation --planted [NAME …]          ten bugs that must be found
    python -m tests.simulation --digests FILE [--mask]     write what each seed came to, as `<seed> <sha256>`
    python -m tests.simulation --against FILE [--mask]     compare with such a file; 1 when a seed differs

A digest covers all that a run said and kept, byte for byte. With `--mask` texts for people are left out: the fields
message, error, reason and detail where they hold words, and the hash chain, which covers them.

A seed that fails is printed with the command that repeats it, and made smaller. A kind of fault that never fired over
all seeds is a failure too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec

from tests.simulation import digests
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
    parser.add_argument("--digests", type=Path, metavar="FILE", help="write a digest for each seed")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare the digests with those of FILE")
    parser.add_argument("--mask", action="store_true", help="leave texts for people out of the digests")
    given = parser.parse_args()
    quiet()
    if given.digests is not None or given.against is not None:
        seeds = range(given.first, given.first + given.seeds)
        return compare(seeds, given.digests, given.against, masked=given.mask)
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


def compare(seeds: range, into: Path | None, against: Path | None, *, masked: bool) -> int:
    """Write the digest of each seed *into* a file, and name the seeds that differ from those in *against*."""
    before = {} if against is None else digests.read(against)
    found = list(digests.digests_of(seeds, masked=masked))
    failed = [one for one in found if one.failure]
    for one in failed:
        print(f"seed {one.seed} failed; again: {AGAIN} --seed {one.seed}\n{one.failure}")
    if into is not None:
        into.write_text("".join(f"{one.seed} {one.value}\n" for one in found))
        print(f"{len(found)} digests{' with texts masked' if masked else ''} are in {into}")
    if against is None:
        return 1 if failed else 0
    missing = [one.seed for one in found if one.seed not in before]
    differ = [one.seed for one in found if before.get(one.seed, one.value) != one.value]
    if missing:
        print(f"{against} has no digest of the seeds {', '.join(map(str, missing))}")
    if differ:
        print(f"{len(differ)} of {len(found)} seeds differ from {against}: {', '.join(map(str, differ))}")
    if not missing and not differ:
        print(f"{len(found)} seeds are equal to those in {against}")
    return 1 if failed or missing or differ else 0


if __name__ == "__main__":
    sys.exit(main())
