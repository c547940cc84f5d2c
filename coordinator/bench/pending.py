"""
Measure the memory of pending tasks: `python -m coordinator.bench.pending COUNT` folds them and prints bytes per task.

Runs in a separate process: memory freed by another measurement would be reused and falsify the result.
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
    """Fold *tasks* submitted tasks into a world; return the growth of the process in bytes per task."""
    world = World()
    folded = records(list(pending(BATCH)) for _ in range(1 + tasks // BATCH))
    for record in islice(folded, 2):  # the claim, and a batch for the one-time memory of the code
        world.apply_record(record)
    gc.collect()
    before = resident_bytes(os.getpid())
    for record in folded:
        world.apply_record(record)
    gc.collect()
    return (resident_bytes(os.getpid()) - before) / (len(world.tasks) - BATCH)


if __name__ == "__main__":
    sys.stdout.write(f"{bytes_a_task(int(sys.argv[1])):.0f}\n")
