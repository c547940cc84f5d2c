"""What only real Docker shows: limits that bite, isolation, and what holds when the node agent is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.clock import SystemClock
from coordinator.errors import Refused, Unavailable
from coordinator.runtime.docker.container import PIDS_MAX
from coordinator.runtime.docker.runtime import DockerRuntime
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.protocol import LOG_START, Launch, Observed, RuntimeState
from tests.docker_engine import IMAGE, Docker
from tests.launches import CLUSTER, launch, start_and_die

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.docker
MIB = 1024 * 1024
KEY = ("a", "7.0")
COUNT = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.02; done"
AGENT = """
import asyncio, sys
from pathlib import Path
import msgspec
from coordinator.clock import SystemClock
from coordinator.runtime.docker.runtime import DockerRuntime
from tests.docker_engine import IMAGE
from tests.launches import CLUSTER, launch

async def main():
    async with DockerRuntime(Path(sys.argv[1]), cluster=CLUSTER, socket=Path(sys.argv[2])) as runtime:
        made = msgspec.structs.replace(launch("a"), image=IMAGE, until=SystemClock().heard() + float(sys.argv[3]))
        await runtime.start(made)
        print("started", file=sys.stderr, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture
def root(docker: Docker, tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "records"
    docker.remove_all()


@pytest.fixture
async def runtime(docker: Docker, root: Path) -> AsyncIterator[DockerRuntime]:
    async with opened(docker, root) as runtime:
        yield runtime
        for seen in await runtime.list():
            await runtime.stop(seen.container_id, seen.generation, grace_s=0, force=True)


def opened(docker: Docker, root: Path, *, cluster: str = CLUSTER) -> DockerRuntime:
    return DockerRuntime(root, cluster=cluster, socket=docker.socket, pulls="never")


def shell(script: str, container_id: str = "a", **fields: object) -> Launch:
    return msgspec.structs.replace(launch(container_id, "sh", "-c", script), **{"image": IMAGE, **fields})


async def ended(runtime: DockerRuntime) -> Observed:
    async with asyncio.timeout(30):
        while (seen := (await runtime.list())[0]).state is not RuntimeState.EXITED:
            await runtime.wait_change(1)
    return seen


async def output(runtime: DockerRuntime, script: str, environment: dict[str, str] | None = None) -> list[str]:
    await runtime.start(shell(script, environment=environment or {}))
    await ended(runtime)
    return await runtime.logs(*KEY, 100)


async def read_to_end(runtime: DockerRuntime, position: str) -> tuple[list[str], int]:
    """Return all lines after a position until the container has ended, and how often some were missing."""
    lines: list[str] = []
    cuts = 0
    async with asyncio.timeout(90):
        while True:
            part = await runtime.logs_after(*KEY, position, lines=10, bytes_most=MIB, wait_s=20.0)
            lines += part.lines
            cuts += part.is_cut
            position = part.position
            if part.is_end:
                return lines, cuts


async def test_both_streams_are_followed_line_by_line(runtime: DockerRuntime) -> None:
    """However they overtake each other, and however long a line is, each line comes once."""
    loop = "n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); echo out $n; echo err $n >&2; done"
    long = "head -c 40000 /dev/zero | busybox tr '\\0' x; echo; echo end"
    await runtime.start(shell(f"sleep 1; {loop}; {long}"))
    lines, cuts = await read_to_end(runtime, LOG_START)
    assert cuts == 0
    for stream in ("out", "err"):
        assert [line for line in lines if line.startswith(stream)] == [f"{stream} {n}" for n in range(1, 3001)]
    assert [line for line in lines if line[0] not in "oe"] == ["x" * 40_000]
    assert lines[-1] == "end"


async def test_what_docker_has_dropped_is_told_once(docker: Docker, runtime: DockerRuntime) -> None:
    """A reader that was away finds the oldest lines that Docker still has, and every one after them."""
    await runtime.start(shell("echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 700000"))
    position = LOG_START
    async with asyncio.timeout(30):
        while not (part := await runtime.logs_after(*KEY, position, lines=10, bytes_most=1024, wait_s=5.0)).lines:
            position = part.position
    await asyncio.to_thread(docker.run, "exec", launch("a").name, "touch", "/tmp/go")
    await ended(runtime)
    lines, cuts = await read_to_end(runtime, part.position)
    assert cuts == 1
    numbers = [int(line) for line in lines]
    assert numbers == list(range(numbers[0], 700_001))
    assert len(numbers) > 10_000


async def test_too_much_memory_is_reported_as_oom(runtime: DockerRuntime) -> None:
    """The kernel ends what exceeds its memory; the machine has more than that."""
    await runtime.start(shell("dd if=/dev/zero of=/dev/null bs=256M count=1", memory_bytes=32 * MIB, cpu_millis=0))
    seen = await ended(runtime)
    assert (seen.reason, seen.cause, seen.exit_code) == ("oom", "oom", 137)


async def test_a_limit_of_cpu_bites(runtime: DockerRuntime) -> None:
    """A tenth of a core gives a busy loop a tenth of the time."""
    began = time.monotonic()
    await runtime.start(shell("while :; do :; done", cpu_millis=100))
    await asyncio.sleep(3)
    usage = await runtime.usage(*KEY)
    elapsed = time.monotonic() - began
    assert 0 < usage.cpu_seconds < 0.1 * elapsed + 0.3
    assert 0 < usage.memory_bytes < 64 * MIB
    assert (usage.network_rx_bytes, usage.network_tx_bytes) == (None, None)


async def test_a_container_has_no_rights_and_no_network(runtime: DockerRuntime) -> None:
    """It can write to its /tmp only, has no capability, cannot gain any, and sees no interface but loopback."""
    wanted = "CapEff:|CapBnd:|NoNewPrivs:|Seccomp:"
    status = f"while read -r name value; do case $name in {wanted}) echo $name$value;; esac; done </proc/self/status"
    pids = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max"
    tries = "touch /new 2>/dev/null && echo written; touch /tmp/new && echo tmp; ls /sys/class/net"
    found = await output(runtime, f"{status}; {pids}; {tries}; echo pid $$")
    nothing = "0" * 16
    assert found[:4] == [f"CapEff:{nothing}", f"CapBnd:{nothing}", "NoNewPrivs:1", "Seccomp:2"]
    assert found[4] == str(PIDS_MAX)
    assert "written" not in found
    assert "tmp" in found
    assert "lo" in found
    assert "eth0" not in found


async def test_a_network_is_named(docker: Docker, root: Path) -> None:
    """A container is in the network of the settings, and only there; one that is not there is named."""
    docker.run("network", "create", "agents")
    try:
        async with DockerRuntime(root, cluster=CLUSTER, socket=docker.socket, network="agents") as runtime:
            await runtime.start(shell("ls /sys/class/net; sleep 300"))
            async with asyncio.timeout(20):
                while "eth0" not in await runtime.logs(*KEY, 9):  # noqa: ASYNC110 - no runtime tells of new lines
                    await asyncio.sleep(0.05)
            usage = await runtime.usage(*KEY)
            assert usage.network_rx_bytes is not None
            assert usage.network_tx_bytes is not None
            await runtime.stop(*KEY, grace_s=0, force=True)
            await runtime.remove(*KEY)
    finally:
        docker.run("network", "rm", "agents")
    async with DockerRuntime(root, cluster=CLUSTER, socket=docker.socket, network="agents") as runtime:
        with pytest.raises(Refused, match="network agents not found"):
            await runtime.start(shell("sleep 300"))
        assert await runtime.list() == []
    assert not docker.run("ps", "-aq")


async def test_a_pause_freezes(runtime: DockerRuntime) -> None:
    """Nothing runs in a paused container, and it goes on where it was."""
    await runtime.start(shell(COUNT, cpu_millis=0))
    async with asyncio.timeout(20):
        while not await runtime.logs(*KEY, 1):  # noqa: ASYNC110 - no runtime tells of new lines
            await asyncio.sleep(0.05)
    await runtime.pause(*KEY)
    await asyncio.sleep(0.3)
    before = await runtime.logs(*KEY, 1)
    await asyncio.sleep(0.7)
    assert await runtime.logs(*KEY, 1) == before
    await runtime.resume(*KEY)
    async with asyncio.timeout(20):
        while await runtime.logs(*KEY, 1) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    lines = await runtime.logs(*KEY, 10_000)
    assert lines == [str(n + 1) for n in range(len(lines))]


async def test_an_exit_is_seen_within_a_second(runtime: DockerRuntime) -> None:
    """The waiter learns of it from Docker; nobody has to ask."""
    await runtime.start(shell("sleep 2; exit 4", cpu_millis=0))
    assert await runtime.wait_change(30)
    seen = (await runtime.list())[0]
    assert seen.exit_code == 4
    assert seen.started_at
    assert time.time() - seen.started_at < 2 + 1 + 1  # one for a busy machine


async def test_an_end_that_somebody_else_asked_for_is_not_the_commands_own(
    docker: Docker, runtime: DockerRuntime
) -> None:
    """What `docker stop` or a Docker that shuts down has ended did not finish, even with exit code 0."""
    await runtime.start(shell("trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done", cpu_millis=0))
    async with asyncio.timeout(20):
        while not await runtime.logs(*KEY, 1):  # noqa: ASYNC110 - no runtime tells of new lines
            await asyncio.sleep(0.05)
    waiting = asyncio.create_task(runtime.wait_change(30))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(docker.run, "stop", "coordination-a-7.0")
    assert await waiting
    (seen,) = await runtime.list()
    assert (seen.exit_code, seen.reason, seen.cause) == (0, "exited", "crashed")


async def test_others_containers_are_not_touched(docker: Docker, root: Path, runtime: DockerRuntime) -> None:
    """Neither those of another cluster or node, nor those that nobody here has started."""
    docker.run("run", "-d", "--name", "theirs", "--network", "none", IMAGE, "sleep", "300")
    await runtime.start(shell("sleep 300"))
    async with opened(docker, root.with_name("other"), cluster="cluster-2") as other:
        await other.start(shell("sleep 300", "b", cluster="cluster-2"))
        assert [one.container_id for one in await other.list()] == ["b"]
    async with opened(docker, root.with_name("neighbour")) as neighbour:
        assert await neighbour.list() == []
        with pytest.raises(Unavailable, match="already in use"):
            await neighbour.start(shell("sleep 300"))
    assert [one.container_id for one in await runtime.list()] == ["a"]
    assert len(docker.run("ps", "-q").split()) == 3


async def test_values_of_the_environment_stay_hidden(docker: Docker, runtime: DockerRuntime) -> None:
    """The command has them; labels, logs, errors and records have not."""
    secret = {"TOKEN": "hush-hush"}
    assert await output(runtime, "echo ${#TOKEN}", environment=secret) == ["9"]
    assert "hush" not in docker.run("inspect", "-f", "{{json .Config.Labels}}", "coordination-a-7.0")
    for wrong in ({"image": "hush-hush"}, {"memory_bytes": 1}, {"image": ""}):
        with pytest.raises(Refused) as refused:
            await runtime.start(shell("true", "b", environment=secret, **wrong))
        assert "hush-hush" not in refused.value.message.replace("'hush-hush'", "")
    assert [one.container_id for one in await runtime.list()] == ["a"]


async def test_an_image_may_have_its_own_command(docker: Docker, runtime: DockerRuntime, tmp_path: Path) -> None:
    """Docker runs it; a node of processes refuses it, and says what can run it."""
    docker.run("create", "--name", "own", "--network", "none", IMAGE, "true")
    docker.run("commit", "--change", 'CMD ["sh", "-c", "echo mine; exit 6"]', "own", "own:test")
    whole = shell("", image="own:test", command=())
    await runtime.start(whole)
    assert (await ended(runtime)).exit_code == 6
    assert await runtime.logs(*KEY, 5) == ["mine"]
    async with ProcessRuntime(tmp_path / "processes", cluster=CLUSTER) as processes:
        with pytest.raises(Refused, match=r"own:test.* node\.runtime: docker"):
            await processes.start(whole)
    with pytest.raises(Refused, match=r"nobody:1.* is not on this node"):
        await runtime.start(shell("", "b", image="nobody:1"))


async def test_a_killed_agent_leaves_nothing_beyond_its_grant(docker: Docker, root: Path) -> None:
    """The keeper kills it, records why, and ends; the next agent reports it."""
    await asyncio.to_thread(start_and_die, AGENT, str(root), str(docker.socket), "12")
    killed = SystemClock().heard()
    assert docker.run("ps", "-q")
    async with asyncio.timeout(40):
        while docker.run("ps", "-q"):  # noqa: ASYNC110 - Docker is asked as an operator would
            await asyncio.sleep(0.1)
    assert SystemClock().heard() - killed < 12 + 3
    async with opened(docker, root) as runtime:
        (seen,) = await runtime.list()
        assert (seen.state, seen.exit_code, seen.cause) == (RuntimeState.EXITED, 137, "cut_off")
        await runtime.remove(*KEY)
    await until_gone(root)


async def test_a_killed_keeper_is_replaced(runtime: DockerRuntime, root: Path) -> None:
    """The next grant starts another one, and that one kills what is not granted any more."""
    until = SystemClock().heard() + 30
    await runtime.start(shell("sleep 300", until=until))
    (first,) = keepers(root)
    os.kill(first, signal.SIGKILL)
    await until_gone(root)
    await runtime.grant(until + 1)
    (second,) = keepers(root)
    assert second != first
    assert (await runtime.list())[0].state is RuntimeState.RUNNING
    await runtime.stop(*KEY, grace_s=0, force=True)


def keepers(root: Path) -> list[int]:
    """Return the pids of the keepers of a folder."""
    done = subprocess.run(("pgrep", "-f", f"keeper.py .* {root} "), capture_output=True, text=True, check=False)
    return [int(pid) for pid in done.stdout.split() if not is_dead(int(pid))]


def is_dead(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


async def until_gone(root: Path) -> None:
    async with asyncio.timeout(20):
        while keepers(root):  # noqa: ASYNC110 - a process of its own
            await asyncio.sleep(0.05)
