"""
Run the simulation.

    python -m tests.simulation --seeds 1000 [--first 0]    run many seeds, on all cores or `--jobs` of them
    python -m tests.simulation --seed 17                   run one seed
    python -m tests.simulation --plan '{…}'                run a plan, such as a shrunk failure
    python -m tests.simulation --planted [NAME …]          check that each planted bug is found
    python -m tests.simulation --digests FILE [--mask]     write a digest per seed, as `<seed> <sha256>`
    python -m tests.simulation --against FILE [--mask]     compare with such a file; exit 1 when a seed differs

A digest covers all messages and stored data of a run, byte for byte. `--mask` excludes texts for people: the fields
message, error, reason and detail if they contain words, and the hash chain, which covers them.

A failing seed is printed with the command that repeats it, and shrunk. A kind of fault that never fires over all seeds
is a failure too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tests.simulation import digests
from tests.simulation.faults import EVENTS, KINDS, OUTCOMES, Plan, plan_of
from tests.simulation.planted import FOUND_FROM, PLANTED
from tests.simulation.play import Played, play_safely, play_seeds, quiet, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS_TO_FIND = 1000
SEEDS_TO_TRY_ALL = 100
"""With at least this many seeds every kind of fault must fire."""
AGAIN = "python -m tests.simulation"


def main() -> int:
    """Run what the arguments request and print the result."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # The iteration order of sets of text differs per process; a seed must give the same run everywhere.
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, help="how many processes run seeds; by default one for each core")
    parser.add_argument("--plan", type=str)
    parser.add_argument("--planted", nargs="*", choices=sorted(PLANTED))
    parser.add_argument(
        "--bug", default="", choices=["", *sorted(PLANTED)], help="plant this bug, with --seed or --plan"
    )
    parser.add_argument("--digests", type=Path, metavar="FILE", help="write a digest for each seed")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare the digests with those of FILE")
    parser.add_argument("--mask", action="store_true", help="exclude texts for people from the digests")
    given = parser.parse_args()
    quiet()
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}: use 1 or more")
    if given.digests is not None or given.against is not None:
        if given.seed is not None or given.plan is not None or given.planted is not None or given.bug:
            parser.error("--digests and --against take --seeds and --first only")
        seeds = range(given.first, given.first + given.seeds)
        try:
            return compare(seeds, given.digests, given.against, masked=given.mask)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    if given.planted is not None:
        return find(given.planted or list(PLANTED), given.first, given.jobs)
    if given.plan is not None:
        return one(msgspec.json.decode(given.plan, type=Plan), given.bug)
    if given.seed is not None:
        return one(plan_of(given.seed), given.bug)
    return many(range(given.first, given.first + given.seeds), given.jobs)


def one(plan: Plan, planted: str) -> int:
    """Run one plan twice."""
    print(f"plan {msgspec.json.encode(plan).decode()}", flush=True)
    played = play_safely(plan, planted, twice=True)
    print(played.failure or f"{played.steps:,} steps, no violation: {played.fired}")
    return 1 if played.failure else 0


def many(seeds: range, jobs: int | None) -> int:
    """Run seeds until one fails."""
    print(f"seeds {seeds[0]} to {seeds[-1]}", flush=True)
    began = time.monotonic()
    total = Played(runs=0)
    for played in play_seeds(seeds, processes=jobs):
        if played.failure:
            return tell(played)
        total.add(played)
    took_s = time.monotonic() - began
    fired, events = total.fired, total.events
    print(f"{len(seeds)} seeds, {total.steps:,} steps, {sum(fired.values()):,} faults, {took_s:.1f} s: no violation")
    print(f"{total.short} of them with fewer than 5,000 steps or 3 faults")
    print("faults:", ", ".join(f"{name} {count:,}" for name, count in sorted(fired.items())))
    print("events:", ", ".join(f"{name} {count:,}" for name, count in sorted(events.items())))
    never = sorted({*KINDS, *OUTCOMES} - fired.keys()) + sorted(set(EVENTS) - events.keys())
    if never and len(seeds) >= SEEDS_TO_TRY_ALL:
        print(f"these never occurred: {', '.join(never)}")
        return 1
    return 0


def tell(played: Played) -> int:
    """Print what failed and how to repeat it, then shrink it."""
    print(f"seed {played.seed} failed; repeat: {AGAIN} --seed {played.seed}\n{played.failure}", flush=True)
    plan, failure = shrink(plan_of(played.seed))
    print(f"shrunk: {AGAIN} --plan '{msgspec.json.encode(plan).decode()}'\n{failure}", flush=True)
    return 1


def find(names: list[str], first: int, jobs: int | None) -> int:
    """Search each planted bug, until it is found or 1,000 seeds have run; first where it was found before."""
    missed = 0
    for name in names:
        began = time.monotonic()
        found = next((played for played in _searched(name, first, jobs) if played.failure), None)
        took_s = time.monotonic() - began
        if found is None:
            missed += 1
            print(f"{name}: NOT found in {SEEDS_TO_FIND} seeds, {took_s:.0f} s", flush=True)
        else:
            print(f"{name}: seed {found.seed}, {took_s:.0f} s: {found.failure[:200]}", flush=True)
    print(f"{len(names) - missed} of {len(names)} planted bugs found")
    return 1 if missed else 0


def _searched(name: str, first: int, jobs: int | None) -> Iterator[Played]:
    """Run the seeds in which a bug is looked for; that of `FOUND_FROM` here, before processes start for the others."""
    begin = first + FOUND_FROM.get(name, 0)
    yield play_safely(plan_of(begin), name)
    yield from play_seeds([*range(begin + 1, first + SEEDS_TO_FIND), *range(first, begin)], name, processes=jobs)


def compare(seeds: range, into: Path | None, against: Path | None, *, masked: bool) -> int:
    """Write the digest of each seed to the file *into*, and print the seeds that differ from *against*."""
    before = {} if against is None else digests.read(against, masked=masked)
    if into is not None:
        into.open("ab").close()  # a path that cannot be written is refused before the work
    found = list(digests.digests_of(seeds, masked=masked))
    failed = [one for one in found if one.failure]
    for one in failed:
        print(f"seed {one.seed} failed; repeat: {AGAIN} --seed {one.seed}\n{one.failure}")
    if into is not None:
        digests.write(into, found, masked=masked)
        print(f"{len(found)} digests{' with texts masked' if masked else ''} written to {into}")
    if against is None:
        return 1 if failed else 0
    missing = [one.seed for one in found if one.seed not in before]
    differ = [one.seed for one in found if before.get(one.seed, one.value) != one.value]
    if missing:
        print(f"{against} has no digest of the seeds {', '.join(map(str, missing))}")
    if differ:
        print(f"{len(differ)} of {len(found)} seeds differ from {against}: {', '.join(map(str, differ))}")
    if not missing and not differ:
        print(f"{len(found)} seeds equal {against}")
    return 1 if failed or missing or differ else 0


if __name__ == "__main__":
    sys.exit(main())
