"""
Run the simulation over seeds: `python -m tests.simulation --seeds 200 [--first 0]`, or one seed: `--seed 17`.

The seed is printed before it runs, so that whatever happens can be played again. One seed in twenty is run twice and
must give the same journal, byte for byte. A kind of fault that never fired over all seeds is a failure too.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import structlog

from tests.simulation.check import check, check_live, kinds, trace
from tests.simulation.cluster import Sim
from tests.simulation.loop import run_seeded

if TYPE_CHECKING:
    from collections.abc import Iterable

TWICE_EVERY = 20
EXPECTED = {
    "commit_lost", "commit_late", "ack_lost", "read_lost", "slow", "deposed", "coordinator_killed", "request_lost",
    "answer_lost", "worker_died", "worker_paused", "stale_refused", "cancelled", "inbox_message_lost",
    "inbox_message_repeated", "inbox_ack_lost", "inbox_resumed_within_a_message",
}  # fmt: skip


def play(seed: int) -> tuple[Sim, int]:
    """Run one seed and check it; give the run and its number of steps."""
    random = Random(seed)
    sim = Sim(random, replicated=seed % 2 == 1)

    async def main() -> None:
        await sim.run()

    _, steps = run_seeded(main(), random)
    check(sim)
    check_live(sim)
    return sim, steps


def play_all(seeds: Iterable[int]) -> tuple[Counter[str], Counter[str], int]:
    """Run many seeds; give the faults that fired, the events there were, and the steps."""
    fired: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    steps = 0
    for seed in seeds:
        try:
            sim, took = play(seed)
            if seed % TWICE_EVERY == 0:
                again, _ = play(seed)
                assert trace(again) == trace(sim), "the same seed gave another run"
        except BaseException:
            print(f"seed {seed} failed; again: python -m tests.simulation --seed {seed}", flush=True)
            raise
        fired += sim.fired
        happened += kinds(sim)
        steps += took
    return fired, happened, steps


def quiet() -> None:
    """Let the coordinators log nothing: a run has thousands of turns."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> int:
    """Run the seeds asked for and say what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    quiet()
    seeds = [given.seed] if given.seed is not None else range(given.first, given.first + given.seeds)
    print(f"seeds {seeds[0]} to {seeds[-1]}", flush=True)
    began = time.monotonic()
    fired, happened, steps = play_all(seeds)
    print(f"{len(seeds)} seeds, {steps:,} steps, {time.monotonic() - began:.1f} s: no violation")
    print("faults:", ", ".join(f"{name} {count:,}" for name, count in sorted(fired.items())))
    print("events:", ", ".join(f"{name} {count:,}" for name, count in sorted(happened.items())))
    silent = EXPECTED - fired.keys()
    if len(seeds) >= TWICE_EVERY and silent:
        print(f"these faults never fired: {', '.join(sorted(silent))}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
