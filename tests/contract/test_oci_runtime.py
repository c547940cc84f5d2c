"""What only a real OCI runtime shows: limits that bite, isolation, and what holds when the node agent is killed."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.clock import SystemClock
from coordinator.errors import Refused, Unavailable
from coordinator.runtime.oci.bundle import PIDS_MAX
from coordinator.runtime.oci.runtime import OciRuntime
from coordinator.runtime.process.control_groups import groups_of
from coordinator.runtime.process.hierarchies import find_hierarchies
from coordinator.runtime.protocol import Launch, Observed, RuntimeState
from tests.launches import CLUSTER, launch, start_and_die
from tests.oci_images import IMAGE, PROGRAMS, make_images, needed
from tests.process_runtimes import lives

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.oci
MIB = 1024 * 1024
KEY = ("a", "7.0")
NAME = "coordination-a-7.0"
COUNT = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.02; done"
AGENT = """
import asyncio, sys
from pathlib import Path
import msgspec
from coordinator.clock import SystemClock
from coordinator.runtime.oci.runtime import OciRuntime
from tests.launches import CLUSTER, launch
from tests.oci_images import IMAGE

async def main():
    root, program, for_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    async with OciRuntime(root / "containers", cluster=CLUSTER, images=root / "images", program=program) as runtime:
        made = msgspec.structs.replace(launch("a"), image=IMAGE, memory_bytes=2**28, cpu_millis=0)
        await runtime.start(msgspec.structs.replace(made, until=SystemClock().heard() + for_s))
        print("started", file=sys.stderr, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
runc_only = pytest.mark.parametrize("program", ["oci"], indirect=True)


@pytest.fixture(params=["oci", "gvisor"])
def program(request: pytest.FixtureRequest) -> str:
    needed(request.param)
    return PROGRAMS[request.param]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    make_images(tmp_path / "images")
    yield tmp_path
    assert groups_left(tmp_path / "containers") == []


@pytest.fixture
async def runtime(home: Path, program: str) -> AsyncIterator[OciRuntime]:
    async with opened(home, program) as runtime:
        yield runtime
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)


def opened(home: Path, program: str, **settings: object) -> OciRuntime:
    settings = {"cluster": CLUSTER, "images": home / "images", "program": program, **settings}
    return OciRuntime(home / "containers", **settings)  # type: ignore[arg-type]


def groups_left(root: Path) -> list[str]:
    """Return what is left of the groups of a runtime, in whatever hierarchy, waiting a moment for the kernel."""
    folders = {folder / groups_of(CLUSTER, root) for folder in find_hierarchies(whole=True).folders.values()}
    deadline = time.monotonic() + 4
    while (left := sorted(str(path) for path in folders if path.is_dir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def shell(script: str, container_id: str = "a", **fields: object) -> Launch:
    made = launch(container_id, "sh", "-c", script)
    return msgspec.structs.replace(made, **{"image": IMAGE, "memory_bytes": 256 * MIB, "cpu_millis": 0, **fields})


async def ended(runtime: OciRuntime) -> Observed:
    async with asyncio.timeout(30):
        while (seen := (await runtime.list())[0]).state is not RuntimeState.EXITED:
            await runtime.wait_change(1)
    return seen


async def said(runtime: OciRuntime) -> list[str]:
    async with asyncio.timeout(20):
        while not (found := await runtime.logs(*KEY, 10_000)):  # noqa: ASYNC110 - no runtime tells of new lines
            await asyncio.sleep(0.02)
    return found


async def output(runtime: OciRuntime, script: str, *, image: str = IMAGE) -> list[str]:
    await runtime.start(shell(script, image=image))
    await ended(runtime)
    return await runtime.logs(*KEY, 10_000)


# --- limits -----------------------------------------------------------------------------------------------------------


@runc_only
async def test_too_much_memory_is_reported_as_oom(runtime: OciRuntime) -> None:
    """The kernel ends what exceeds its memory; the machine has more than that."""
    await runtime.start(shell("dd if=/dev/zero of=/dev/null bs=256M count=1", memory_bytes=32 * MIB))
    seen = await ended(runtime)
    assert (seen.reason, seen.cause, seen.exit_code) == ("oom", "oom", 137)


async def test_a_limit_of_cpu_bites(runtime: OciRuntime) -> None:
    """A fifth of a core gives a busy loop a fifth of the time."""
    await runtime.start(shell("echo ready; while :; do :; done", cpu_millis=200))
    await said(runtime)
    began, before = time.monotonic(), await runtime.usage(*KEY)
    await asyncio.sleep(3)
    usage = await runtime.usage(*KEY)
    elapsed = time.monotonic() - began
    assert 0 < usage.cpu_seconds - before.cpu_seconds < 0.2 * elapsed + 0.3
    assert 0 < usage.memory_bytes < 256 * MIB
    assert (usage.network_rx_bytes, usage.network_tx_bytes) == (None, None)


async def test_a_container_has_a_limited_number_of_processes(runtime: OciRuntime, home: Path) -> None:
    """The kernel enforces it in the container's group."""
    await runtime.start(shell("sleep 300"))
    group = find_hierarchies().folders["pids"] / groups_of(CLUSTER, home / "containers") / NAME
    assert int((group / "pids.max").read_text()) == PIDS_MAX
    assert int((group / "pids.current").read_text()) >= 2


async def test_a_pause_freezes(runtime: OciRuntime) -> None:
    """Nothing runs in a paused container, and it goes on where it was."""
    await runtime.start(shell(COUNT))
    await said(runtime)
    await runtime.pause(*KEY)
    await asyncio.sleep(0.3)
    before = await runtime.logs(*KEY, 1)
    await asyncio.sleep(0.7)
    assert await runtime.logs(*KEY, 1) == before
    await runtime.resume(*KEY)
    async with asyncio.timeout(20):
        while await runtime.logs(*KEY, 1) == before:  # noqa: ASYNC110 - no runtime tells of new lines
            await asyncio.sleep(0.05)
    lines = await runtime.logs(*KEY, 10_000)
    assert lines == [str(n + 1) for n in range(len(lines))]


# --- isolation --------------------------------------------------------------------------------------------------------


@runc_only
async def test_a_container_has_no_rights(runtime: OciRuntime) -> None:
    """It runs as nobody, has no capability and cannot gain any; calls that are dangerous are filtered."""
    wanted = "Uid:|CapInh:|CapPrm:|CapEff:|CapBnd:|CapAmb:|NoNewPrivs:|Seccomp:"
    found = await output(
        runtime,
        f"while read -r name value; do case $name in {wanted}) echo $name$value;; esac; done </proc/self/status",
    )
    nothing = "0" * 16
    sets = [f"Cap{kind}:{nothing}" for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    assert [line.replace("\t", " ") for line in found] == [
        "Uid:65534 65534 65534 65534",
        *sets,
        "NoNewPrivs:1",
        "Seccomp:2",
    ]


OF_OWN_KERNEL = {"a namespace of users"}
"""What gVisor allows, because it is made in a kernel that is the container's own."""


def probes(secret: Path, victim: int, port: int) -> dict[str, str]:
    """Return what a container tries, each a shell command that succeeds only if it gets out."""
    return {
        "a file of the node": f"cat {secret}",
        "the node's root of a process": f"cat /proc/1/root{secret} || cat /proc/self/root{secret}",
        "the folder of a process": f"cat /proc/1/cwd{secret}",
        "above the root": f"cat /../../../../..{secret}",
        "the image": "touch /bin/new",
        "the root": "touch /new",
        "the init": "echo >/dev/init",
        "the init replaced": "rm /dev/init",
        "processes of the node": f"[ -d /proc/{victim} ] && grep -q sleep /proc/{victim}/cmdline",
        "a signal": f"kill -KILL {victim}",
        "a raw socket": "ping -c 1 -W 1 127.0.0.1",
        "the node's loopback": f"echo x | nc -w 1 127.0.0.1 {port}",
        "an interface": "grep -v -e lo: -e '|' /proc/net/dev",
        "a mount": "mount -t tmpfs none /tmp",
        "a bind mount": "mount -o bind / /tmp",
        "the root remounted": "mount -o remount,rw /",
        "proc unmounted": "umount /proc",
        "a proc of the node": "mkdir /tmp/p && mount -t proc none /tmp/p",
        "control groups mounted": "mkdir /tmp/c && mount -t cgroup -o memory none /tmp/c",
        "a control group": "mkdir /sys/fs/cgroup/memory/new",
        "the limit of memory": "echo -1 >/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "another control group": "echo $$ >/sys/fs/cgroup/cpu/cgroup.procs",
        "Docker's socket": "[ -e /var/run/docker.sock ] || [ -e /run/docker.sock ]",
        "containerd's socket": "[ -e /run/containerd/containerd.sock ]",
        "a socket of the node": "grep -q @ /proc/net/unix",
        "a disk": "mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/dev/null bs=1 count=1",
        "the memory of the machine": "mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null bs=1 count=1",
        "the memory of the kernel": "head -c 1 /proc/kcore | grep -q .",
        "the kernel's keys": "head -c 1 /proc/keys | grep -q .",
        "a setting of the kernel": "echo x >/proc/sys/kernel/core_pattern",
        "the system request": "echo h >/proc/sysrq-trigger",
        "another root": "mkdir /tmp/r && chroot / true",
        "a namespace of users": "unshare -U true",
        "a namespace of mounts": "unshare -m true",
        "root": "[ $(id -u) = 0 ] || [ $(id -g) = 0 ]",
    }


async def test_no_way_leads_out(runtime: OciRuntime, tmp_path: Path, program: str) -> None:
    """None of the ways that have led out of containers does; what a container may do works."""
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    secret.chmod(0o644)
    victim = subprocess.Popen(("sleep", "300"))  # noqa: ASYNC220 - a moment, before anything else
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            tries = probes(secret, victim.pid, server.getsockname()[1])
            script = [
                f"if ({how}) >/dev/null 2>&1; then echo out {n}; else echo in {n}; fi"
                for n, how in enumerate(tries.values())
            ]
            found = await output(runtime, "\n".join([*script, "touch /tmp/new && sleep 0 && echo works"]))
            out = {what for n, what in enumerate(tries) if f"in {n}" not in found}
            assert out <= (OF_OWN_KERNEL if program == "runsc" else set())
            assert found[-1] == "works"
            with pytest.raises(BlockingIOError):
                server.accept()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    assert sorted(path.name for path in (tmp_path / "images" / IMAGE).iterdir()) == ["bin", "dev", "etc", "proc", "tmp"]


async def test_a_container_may_share_the_network_of_the_node(home: Path, program: str) -> None:
    """Only if the settings say so; then it reaches what listens on the node's loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        async with opened(home, program, network="host") as runtime:
            await runtime.start(shell(f"echo hello | nc -w 5 127.0.0.1 {server.getsockname()[1]}; sleep 300"))
            connection, _ = await asyncio.to_thread(server.accept)
            with connection:
                connection.settimeout(20)
                assert await asyncio.to_thread(connection.recv, 64) == b"hello\n"
            await runtime.stop(*KEY, grace_s=0, force=True)


async def test_values_of_the_environment_stay_hidden(runtime: OciRuntime, home: Path, program: str) -> None:
    """The command has them; with runc no file of the node has them once it runs, and errors never."""
    secret = {"TOKEN": "hush-hush"}
    await runtime.start(shell("echo ${#TOKEN}; sleep 300", environment=secret))
    assert await said(runtime) == ["9"]
    if program == "runc":
        files = [path for path in (home / "containers").rglob("*") if path.is_file()]
        assert [path for path in files if b"hush" in path.read_bytes()] == []
    for wrong in ({"image": "nobody"}, {"image": ""}, {"image": IMAGE, "command": ()}):
        with pytest.raises(Refused) as refused:
            await runtime.start(shell("true", "b", environment=secret, **wrong))
        assert "hush" not in refused.value.message
    assert [one.container_id for one in await runtime.list()] == ["a"]


@runc_only
async def test_an_image_is_a_folder_of_the_node(runtime: OciRuntime, home: Path) -> None:
    """A name that leads elsewhere, to nothing, or to what cannot be a root is refused, and says what would be right."""
    images = home / "images"
    (home / "elsewhere").mkdir()
    (images / "out").symlink_to("../elsewhere")
    (images / "round").symlink_to("round")
    (images / "empty").mkdir()
    (images / "alias").symlink_to(IMAGE)
    wrong = {
        "..": "name of a folder",
        "a/b": "name of a folder",
        "/etc": "name of a folder",
        ".hidden": "name of a folder",
    }
    wrong |= {"out": "is not in", "round": "not on this node", "nobody": "not on this node", "empty": "no folder /proc"}
    for image, why in wrong.items():
        with pytest.raises(Refused, match=why):
            await runtime.start(shell("true", image=image))
    with pytest.raises(Refused, match="give the agent type a command"):
        await runtime.start(shell("", command=()))
    assert await runtime.list() == []
    assert await output(runtime, "echo here", image="alias") == ["here"]


# --- starts and ends --------------------------------------------------------------------------------------------------


async def test_a_command_that_is_not_there_fails(runtime: OciRuntime) -> None:
    """As in a shell; its output tells why."""
    await runtime.start(shell("", command=("nowhere",)))
    assert (await ended(runtime)).exit_code == 127
    assert "nowhere" in (await runtime.logs(*KEY, 1))[0]


@runc_only
async def test_a_start_that_fails_leaves_nothing(runtime: OciRuntime, home: Path) -> None:
    """The error has what the OCI runtime says; the same generation may be started again."""
    with pytest.raises(Unavailable, match=f"{NAME} cannot be started: .*memory"):
        await runtime.start(shell("true", memory_bytes=4096))
    assert await runtime.list() == []
    assert await output(runtime, "echo here") == ["here"]


async def test_an_exit_is_seen_within_a_second(runtime: OciRuntime) -> None:
    """The system reports it; nobody has to ask."""
    await runtime.start(shell("sleep 2; exit 4"))
    assert await runtime.wait_change(30)
    seen = (await runtime.list())[0]
    assert seen.exit_code == 4
    assert seen.started_at
    assert time.time() - seen.started_at < 2 + 2 + 1  # starting, and one for a busy machine


async def test_a_container_ends_with_what_waits_for_it(runtime: OciRuntime, home: Path, program: str) -> None:
    """Who kills runc from outside leaves nothing running that nobody looks after."""
    await runtime.start(shell("sleep 300"))
    inside = int((home / "containers" / NAME / "init").read_text())
    group = (await runtime.list())[0].pid
    await asyncio.to_thread(subprocess.run, ("pkill", "-KILL", "-g", str(group), program), check=True)
    seen = await ended(runtime)
    assert (seen.exit_code, seen.cause) == (137, "crashed")
    await until_dead(inside)


async def test_others_containers_are_not_touched(runtime: OciRuntime, home: Path, program: str) -> None:
    """Neither those of another cluster or node, nor those that nobody here has started."""
    await runtime.start(shell("sleep 300"))
    other = OciRuntime(home / "other", cluster="cluster-2", images=home / "images", program=program)
    neighbour = OciRuntime(home / "neighbour", cluster=CLUSTER, images=home / "images", program=program)
    async with other, neighbour:
        await other.start(shell("sleep 300", "b", cluster="cluster-2"))
        await neighbour.start(shell("sleep 300"))
        assert [one.container_id for one in await other.list()] == ["b"]
        await runtime.stop(*KEY, grace_s=0, force=True)
        await runtime.remove(*KEY)
        assert [one.state for one in await neighbour.list()] == [RuntimeState.RUNNING]
        await other.stop("b", "7.0", grace_s=0, force=True)
        await neighbour.stop(*KEY, grace_s=0, force=True)


async def test_a_killed_agent_leaves_nothing_beyond_its_grant(home: Path, program: str) -> None:
    """The watcher in the shim kills it and records why; the next agent reports it."""
    await asyncio.to_thread(start_and_die, AGENT, str(home), program, "5.0")
    killed = SystemClock().heard()
    inside = int((home / "containers" / NAME / "init").read_text())
    assert lives(inside)
    await until_dead(inside)
    assert SystemClock().heard() - killed < 5 + 3
    async with opened(home, program) as runtime:
        (seen,) = await runtime.list()
        assert (seen.state, seen.exit_code, seen.cause) == (RuntimeState.EXITED, 137, "cut_off")
        await runtime.remove(*KEY)


async def test_the_next_agent_adopts(home: Path, program: str) -> None:
    """It sees what runs, and stops it; how it ended is known even if that was while there was no agent."""
    await asyncio.to_thread(start_and_die, AGENT, str(home), program, "60.0")
    async with opened(home, program) as runtime:
        assert [one.state for one in await runtime.list()] == [RuntimeState.RUNNING]
        await runtime.grant(SystemClock().heard() + 60)
        await runtime.stop(*KEY, grace_s=20)
        assert (await runtime.list())[0].exit_code == 143
        await runtime.remove(*KEY)
        await runtime.start(shell("sleep 2; exit 9"))
    await asyncio.sleep(3.5)
    async with opened(home, program) as runtime:
        assert (await ended(runtime)).exit_code == 9


@runc_only
async def test_a_node_that_cannot_run_containers_says_why(home: Path, program: str) -> None:
    """Before it runs any: the program, and the init that is to be in each container."""
    wrong = [("nowhere", "", "node.oci.program 'nowhere' not found"), ("sh", "", "'/.*/sh' is none of runc")]
    for given, init, why in [*wrong, (program, "nowhere", "node.oci.init: nowhere not found")]:
        with pytest.raises(Refused, match=why):
            async with opened(home, given, init=init):
                pass
    async with opened(home, program, init="none") as runtime:
        assert await output(runtime, "echo $$") == ["1"]


async def until_dead(pid: int) -> None:
    async with asyncio.timeout(20):
        while lives(pid):  # noqa: ASYNC110 - a process of its own
            await asyncio.sleep(0.02)
