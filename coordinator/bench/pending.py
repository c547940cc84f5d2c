"""
How much memory pending tasks take: `python -m coordinator.bench.pending COUNT` folds them and prints bytes for each.

A process of its own, for the memory that another measurement has let go of would hide what these take.
"""

from __future__ import annotations

import gc
import os
import sys
from itertools import islice

from coordinator.bench.histories import pending, records
from coordinator.bench.measure import resident_bytes
from projections.world import World

BATCH = 500


def bytes_a_task(tasks: int) -> float:
    """Fold *tasks* submitted tasks into a world; give how much it grew for each."""
    world = World()
    folded = records(list(pending(BATCH)) for _ in range(1 + tasks // BATCH))
    for record in islice(folded, 2):  # the claim, and a batch that brings what the code itself takes, once
        world.apply_record(record)
    gc.collect()
    before = resident_bytes(os.getpid())
    for record in folded:
        world.apply_record(record)
    gc.collect()
    return (resident_bytes(os.getpid()) - before) / (len(world.tasks) - BATCH)


if __name__ == "__main__":
    sys.stdout.write(f"{bytes_a_task(int(sys.argv[1])):.0f}\n")
