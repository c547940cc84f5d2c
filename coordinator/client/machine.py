"""What this machine has: what a worker offers to its tasks if nothing else is said."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from events.resources import Resources

CPU_OVERCOMMIT = 4.0
"""How many times each core is offered: tasks wait more than they compute."""
_CGROUPS = Path("/sys/fs/cgroup")


@cache
def machine(cpu_overcommit: float = CPU_OVERCOMMIT) -> Resources:
    """Return the memory that processes here may use, and the cores times *cpu_overcommit*; no GPUs are looked for."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = _limits(Path("/proc/self/cgroup"), _CGROUPS)
    cpu_millis = int(1000 * (os.cpu_count() or 1) * cpu_overcommit)
    return Resources(cpu_millis=cpu_millis, memory_bytes=min([memory, *limits]))


def _limits(own: Path, root: Path) -> list[int]:
    """Return the limits of the control groups that this process is in; none where there are no control groups."""
    texts: list[str] = []
    with suppress(OSError):
        for line in own.read_text().splitlines():
            controllers, path = line.split(":", 2)[1:]
            # Of version 2 there is one hierarchy, without controllers; in a container its path may lead nowhere.
            name = "memory.max" if not controllers else "memory/memory.limit_in_bytes"
            group = (root / path.lstrip("/")) if not controllers else root
            for directory in (group, *group.parents):
                with suppress(OSError):
                    texts.append((directory / name).read_text())
                if directory == root:
                    break
    return [int(text) for text in texts if text.strip().isdigit()]
