"""
Control groups as other machines have them, in files recorded or written as the kernel's manual tells.

Of version 2 so: what a group is told and what is read from it. What its kernel does without any controller, freezing,
killing and counting time, is tried where version 2 is mounted.
"""

# ruff: noqa: ASYNC220 - files here are small and local, and processes end at once

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from coordinator.errors import Refused
from coordinator.runtime.process.control_group import ControlGroup, GroupPlace, fill_cpuset
from coordinator.runtime.process.control_groups import ControlGroups, check_isolation
from coordinator.runtime.process.hierarchies import LIMITED, find_hierarchies
from coordinator.runtime.protocol import RuntimeState, Usage
from tests.launches import CLUSTER, launch
from tests.process_runtimes import opened

NOTHING = Usage(cpu_seconds=7.0, memory_bytes=8, pids=9)
V1 = """\
32 31 0:29 {root} {at}/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {root} {at}/memory {mode},relatime - cgroup cgroup rw,memory
39 31 0:36 {root} {at}/pids rw,relatime shared:9 - cgroup cgroup rw,pids
41 31 0:38 / {at}/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "30 23 0:26 / {at} {mode},nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def machine(tmp_path: Path, mounts: str, groups: str, **values: str) -> tuple[Path, Path]:
    """Write what `/proc/self` says; return its folder and the one with the control groups."""
    own, at = tmp_path / "self", tmp_path / "cgroup"
    own.mkdir()
    at.mkdir()
    (own / "mountinfo").write_text(mounts.format(at=at, **({"root": "/", "mode": "rw"} | values)))
    (own / "cgroup").write_text(groups)
    return own, at


def test_version_1_below_the_own_group(tmp_path: Path) -> None:
    """Each controller has its folder, two may share one; the freezer may be missing."""
    own, at = machine(tmp_path, V1, "3:cpu,cpuacct:/agents\n2:memory:/agents\n1:pids:/\n0::/\n")
    for name in ("cpu,cpuacct/agents", "memory/agents", "pids"):
        (at / name).mkdir(parents=True)
    found = find_hierarchies(own)
    assert (found.version, found.lacks) == (1, {})
    shared = at / "cpu,cpuacct/agents"
    assert found.folders == {"cpu": shared, "cpuacct": shared, "memory": at / "memory/agents", "pids": at / "pids"}


def test_the_whole_of_version_1(tmp_path: Path) -> None:
    """Every hierarchy in which a group can be made, and that of version 2 beside them."""
    mounts = V1 + "42 31 0:38 / {at}/systemd rw - cgroup cgroup rw,name=systemd\n"
    own, at = machine(tmp_path, mounts, "5:name=systemd:/s\n4:cpu,cpuacct:/\n3:memory:/\n2:pids:/\n1:blkio:/\n0::/u\n")
    for name in ("cpu,cpuacct", "memory", "pids", "systemd/s", "unified/u"):
        (at / name).mkdir(parents=True)
    found = find_hierarchies(own, whole=True)
    assert found.folders.keys() == {"cpu", "cpuacct", "memory", "pids", "name=systemd", "unified"}
    assert (found.folders["name=systemd"], found.folders["unified"]) == (at / "systemd/s", at / "unified/u")
    assert found.lacks == {}


def test_a_group_has_the_processors_of_the_one_above(tmp_path: Path) -> None:
    """In version 1 a new group has none, and no process may enter it."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for name, above in (("cpuset.cpus", "0-3\n"), ("cpuset.mems", "0\n")):
        (tmp_path / name).write_text(above)
        (inner / name).write_text("\n")
    (inner / "cpuset.mems").write_text("1\n")
    fill_cpuset(inner)
    assert ((inner / "cpuset.cpus").read_text(), (inner / "cpuset.mems").read_text()) == ("0-3\n", "1\n")


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """A mount that shows only the own part of the hierarchy, and one of them read-only: that limit is missing."""
    groups = "3:cpu,cpuacct:/docker/1f\n2:memory:/docker/1f\n1:pids:/docker/1f\n"
    own, at = machine(tmp_path, V1, groups, root="/docker/1f", mode="ro")
    for name in ("cpu,cpuacct", "memory", "pids"):
        (at / name).mkdir()
    found = find_hierarchies(own)
    assert found.folders == {"cpu": at / "cpu,cpuacct", "cpuacct": at / "cpu,cpuacct", "pids": at / "pids"}
    assert found.lacks == {"memory": f"{at / 'memory'} is not writable for this process"}


@pytest.mark.parametrize("group", ["/system.slice/node.service", "/system.slice/node.service/agent"])
def test_version_2_delegated_by_systemd(tmp_path: Path, group: str) -> None:
    """The groups are made in the delegated one, beside the agent's, in which processes are."""
    own, at = machine(tmp_path, V2, f"0::{group}\n")
    (at / group[1:]).mkdir(parents=True)
    service = at / "system.slice/node.service"
    (service / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    found = find_hierarchies(own)
    assert (found.version, found.folders, found.lacks) == (2, dict.fromkeys(LIMITED, service), {})


def test_version_2_without_a_controller(tmp_path: Path) -> None:
    """What the own group was not given cannot be limited, and is named."""
    own, at = machine(tmp_path, V2, "0::/\n")
    (at / "cgroup.controllers").write_text("memory pids\n")
    found = find_hierarchies(own)
    assert list(found.folders) == ["memory", "pids"]
    with pytest.raises(Refused, match=r"cannot limit cpu \(cpu: .* does not have this controller\): under systemd"):
        check_isolation("limits", found)
    check_isolation("available", found)


async def test_a_machine_without_control_groups_says_so(tmp_path: Path) -> None:
    """It runs containers without limits if that is allowed, and otherwise opens nothing."""
    own, _ = machine(tmp_path, "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n", "")
    found = find_hierarchies(own)
    assert (found.version, found.folders) == (0, {})
    async with opened(tmp_path / "a", isolation="available", hierarchies=found) as runtime:
        assert runtime.limits == "none"
        assert (await runtime.start(launch())).state is RuntimeState.RUNNING
        await runtime.stop("a", "7.0", grace_s=0, force=True)
    with pytest.raises(Refused, match=r"cannot limit cpu, memory, pids.*no control groups are mounted.*Delegate=yes"):
        async with opened(tmp_path / "b", isolation="limits", hierarchies=found):
            pass
    assert find_hierarchies(tmp_path / "nowhere").version == 0


async def test_what_only_opening_tells(tmp_path: Path) -> None:
    """Groups that look writable and cannot be made are missing like others."""
    own, at = machine(tmp_path, V2, "0::/\n")
    (at / "cgroup.controllers").write_text("cpu memory pids\n")
    (at / "coordinator").write_text("in the way")
    found = find_hierarchies(own)
    groups = ControlGroups(cluster=CLUSTER, root=tmp_path, isolation="available", found=found)
    groups.open()
    assert (groups.limits, groups.place("x")) == ("none", None)
    with pytest.raises(Refused, match=r"coordinator.*: .*(exists|directory)"):
        ControlGroups(cluster=CLUSTER, root=tmp_path, isolation="limits", found=found).open()


def test_version_2_gives_its_controllers_to_groups(tmp_path: Path) -> None:
    """On each level, or the next one could not use them; the groups of a container then have all limits."""
    own, at = machine(tmp_path, V2, "0::/\n")
    (at / "cgroup.controllers").write_text("cpu memory pids\n")
    groups = ControlGroups(cluster=CLUSTER, root=tmp_path, isolation="limits", found=find_hierarchies(own), pids_max=5)
    groups.open()
    assert groups.limits == "cpu, memory, pids by cgroup v2"
    place = groups.place("coordination-a-7.0")
    assert place is not None
    groups.make(place, launch())
    folder = Path(place.folders["cpu"])
    for above in list(folder.parents)[:3]:
        assert (above / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert above == at
    told = {file.name: file.read_text() for file in folder.iterdir()}
    assert told == {
        "cpu.max": "10000 100000",
        "memory.max": str(64 * 1024 * 1024),
        "memory.swap.max": "0",
        "pids.max": "5",
    }


def test_version_2_tells_what_it_knows(tmp_path: Path) -> None:
    """Usage without the file pages that are taken back first, kills for memory, and whether it is frozen."""
    group = ControlGroup(GroupPlace(version=2, folders=dict.fromkeys(LIMITED, str(tmp_path))))
    assert (group.oom_kills(), group.is_frozen(), group.usage(NOTHING)) == (0, False, NOTHING)
    for name, text in {
        "memory.events": "low 0\nhigh 0\nmax 41\noom 2\noom_kill 1\noom_group_kill 0\n",
        "memory.current": "5000000\n",
        "memory.stat": "anon 3000000\nfile 1500000\ninactive_file 1000000\nactive_file 500000\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_throttled 3\n",
        "pids.current": "4\n",
        "cgroup.events": "populated 1\nfrozen 1\n",
        "cgroup.procs": "0\n1\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert group.oom_kills() == 1
    assert group.is_frozen()
    assert group.usage(NOTHING) == Usage(cpu_seconds=2.5, memory_bytes=4_000_000, pids=4)
    assert group.is_empty()  # neither can be a process of a container
    group.freeze(frozen=True)
    assert (tmp_path / "cgroup.freeze").read_text() == "1"
    assert (group.thaw.file, group.thaw.word) == (str(tmp_path / "cgroup.freeze"), "0")
    assert group.joins == (str(tmp_path / "cgroup.procs"),)


_PLACES = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
UNIFIED = next((place for place in _PLACES if (place / "cgroup.procs").exists()), None)


@pytest.mark.skipif(
    UNIFIED is None or not os.access(UNIFIED, os.W_OK), reason="needs cgroup v2, mounted and writable for this process"
)
async def test_version_2_freezes_and_kills(tmp_path: Path) -> None:
    """On the kernel: a group is entered as the shim does, frozen, thawed, killed while frozen, and removed."""
    assert UNIFIED is not None
    group = ControlGroup(GroupPlace(version=2, folders={"cpu": str(UNIFIED / f"coordinator-test-{os.getpid()}")}))
    group.make(memory_bytes=0, cpu_millis=0, pids=0)
    process = subprocess.Popen(("sh", "-c", 'echo 0 >"$1"; while :; do :; done', "sh", *group.joins))
    try:
        async with asyncio.timeout(10):
            while group.usage(NOTHING).cpu_seconds < 0.1:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            assert not group.is_empty()
            assert group.usage(NOTHING).pids == NOTHING.pids  # it has no such controller
            group.freeze(frozen=True)
            while not group.is_frozen():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            before = group.usage(NOTHING).cpu_seconds
            await asyncio.sleep(0.2)
            assert group.usage(NOTHING).cpu_seconds == before
            group.freeze(frozen=False)
            while group.usage(NOTHING).cpu_seconds == before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            group.freeze(frozen=True)
            group.kill()
            assert await asyncio.to_thread(process.wait) == -9
            while not group.remove():  # noqa: ASYNC110 - the kernel still counts it for a moment
                await asyncio.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        group.remove()


def test_less_than_a_hundredth_of_a_core_needs_a_longer_period(tmp_path: Path) -> None:
    """The kernel takes no quota below 1 ms."""
    folder = tmp_path / "a"
    ControlGroup(GroupPlace(version=2, folders={"cpu": str(folder)})).make(memory_bytes=1, cpu_millis=1, pids=1)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {"cpu.max": "1000 1000000"}
