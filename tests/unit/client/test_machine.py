"""What a worker offers if nothing is said: the cores and the memory of its machine, or of its control group."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coordinator.client.machine import _limits, machine

if TYPE_CHECKING:
    from pathlib import Path


def test_a_machine_has_its_cores_several_times_and_its_memory_once() -> None:
    """Tasks wait more than they compute; memory cannot be used twice."""
    has = machine()
    assert has.cpu_millis == 4000 * (os.cpu_count() or 1)
    assert 0 < has.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert (has.gpus, has.named) == (0, {})
    assert machine(1.0).cpu_millis == 1000 * (os.cpu_count() or 1)


def test_the_limits_of_all_groups_around_a_process_count(tmp_path: Path) -> None:
    """Of version 2 from its own up to the root; `max` is none."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "a" / "b").mkdir(parents=True)
    own.write_text("0::/a/b\n")
    (root / "a" / "memory.max").write_text("4096\n")
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "memory.max").write_text("8192\n")
    assert _limits(own, root) == [4096, 8192]


def test_the_limit_of_the_first_version_counts(tmp_path: Path) -> None:
    """Where its hierarchy is mounted; a container sees its own group as the root."""
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    (root / "memory").mkdir(parents=True)
    own.write_text("3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n")
    (root / "memory" / "memory.limit_in_bytes").write_text("1024\n")
    assert set(_limits(own, root)) == {1024}


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    """As on other systems."""
    assert _limits(tmp_path / "none", tmp_path) == []
