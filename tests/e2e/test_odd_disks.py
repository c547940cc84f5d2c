"""
`coordinator up` on a disk that is full, out of inodes or read-only, and is mended while it runs.

What cannot be stored is refused with the reason; once there is room everything goes on without a restart of `up`, and
everything that was acknowledged is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from coordinator.app.in_process import InProcess
from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import CreateContainer, GetContainer, StartContainer
from coordinator.commands.reads import Wait
from coordinator.commands.task import GetTask, SubmitTask
from coordinator.diagnostics.doctor import look_here
from coordinator.diagnostics.findings import State
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.processes.embedded import local_cluster
from coordinator.settings.model import Settings
from coordinator.task_groups import task_group
from events.container import ContainerStatus
from events.errors import Unavailable
from events.task import Payload
from tests.commands import run, up
from tests.conftest import living_in
from tests.disks import MIB, small_disk
from tests.real_server import TOKEN, RealServer, real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.client.client import Door

pytestmark = [pytest.mark.e2e, pytest.mark.untraced]

REFUSED_WITHIN_S = 7.0
RECOVERED_WITHIN_S = 30.0
PATIENCE_S = 25.0
_TEXT = "x" * 60_000
LARGE = Payload(encoding="text", digest=hashlib.sha256(_TEXT.encode()).hexdigest(), data=_TEXT)


async def submit_until_refused(
    client: Door, most: int, payload: Payload | None = None, *, within_s: float = REFUSED_WITHIN_S
) -> tuple[list[str], Unavailable]:
    """Submit one task after the other; return those that were acknowledged, and the error of the one that was not."""
    acknowledged: list[str] = []
    for number in range(most):
        try:
            name = f"t{number}"
            task = SubmitTask(task_id=name, task_name="n" * 60, payload=payload)
            await client.execute(task, timeout_s=within_s)
        except Unavailable as error:
            return acknowledged, error
        acknowledged.append(name)
    raise AssertionError(f"the disk took {most} tasks")


async def goes_on(client: Door, acknowledged: list[str]) -> float:
    """Submit a task, look for all that were acknowledged before, and wait for a read model; return the seconds."""
    began = time.monotonic()
    await client.execute(SubmitTask(task_id="after", task_name="n"), timeout_s=RECOVERED_WITHIN_S)
    took_s = time.monotonic() - began
    for name in acknowledged:
        assert (await client.execute(GetTask(task_id=name))).task_id == name
    return took_s


async def read_model_follows(client: Client) -> None:
    """Wait until the read model has reached the current end of the journal."""
    stats = await client.execute(GetStats())
    await ask_follower(client, Wait(position=stats.position, timeout_s=10.0), timeout_s=20.0)


def failed_here(home: Path) -> dict[str, str]:
    """Return what `coordinator doctor` finds wrong with this machine, by check."""
    return {one.check: one.seen for one in look_here(home, Settings()) if one.state is State.FAIL}


def test_a_full_disk_that_is_emptied(tmp_path: Path) -> None:
    """Submits are refused with the cause; doctor, env and the log name it; 30 s after there is room all is well."""
    home = tmp_path / "home"
    with small_disk(home, 64 * MIB) as disk, up(home) as started:

        async def live() -> None:
            async with Client.open(started.url, source="other") as client:
                before = [f"before{number}" for number in range(20)]
                for name in before:
                    await client.execute(SubmitTask(task_id=name, task_name="n"))
                disk.fill(but_bytes=64 * 1024)
                acknowledged, error = await submit_until_refused(client, 10_000)
                assert acknowledged
                assert error.reason == "nothing_stored"
                assert "no space left on device" in error.message
                assert str(home) in error.message
                await asyncio.to_thread(told)
                disk.empty()
                took_s = await goes_on(client, before + acknowledged)
                await read_model_follows(client)
                print(f"{len(acknowledged)} acknowledged while full; a submit went through {took_s:.1f} s after")

        def told() -> None:
            started.until_written("nats_server_cannot_write")
            findings = run("doctor", "--json", COORDINATOR_HOME=str(home))
            failed = {one["check"]: one["seen"] for one in json.loads(findings.out) if one["state"] == "fail"}
            assert "no space left on device" in failed["writes"]
            assert "0.0 GiB" in failed["disk"]
            assert "no space left on device" in failed["leader"]
            assert findings.code == 1
            env = run("env", COORDINATOR_HOME=str(home))
            assert "no space left on device" in env.err
            assert env.out.startswith("export COORDINATOR_URL=")

        asyncio.run(live())
        assert "nats_server_restarting" in started.written
        started.until_written("nats_stores_again")
        assert started.stop() == 0


async def test_a_full_disk_of_a_program_with_its_own_coordinator(tmp_path: Path) -> None:
    """Its calls, which need no network, say the cause, and go on by themselves; so does its read model."""
    with small_disk(tmp_path / "home", 64 * MIB) as disk:
        async with local_cluster(disk.folder, Settings()) as (coordinator, client):
            door = InProcess(coordinator)
            disk.fill(but_bytes=64 * 1024)
            acknowledged, error = await submit_until_refused(door, 10_000)
            assert error.reason == "nothing_stored"
            assert "no space left on device" in error.message
            disk.empty()
            await goes_on(door, acknowledged)
            await read_model_follows(client)


class LimitedServer(RealServer):
    """A server with a limit of what it may store, for all or for the account of its users."""

    limit = "4GB"
    is_of_account = False

    def conf(self) -> str:
        if not self.is_of_account:
            return super().conf().replace("4GB", self.limit)
        account = f"jetstream {{ max_mem: 10MB, max_file: {self.limit} }}, users [ {{ user: u, password: p }} ]"
        return super().conf().replace(f'authorization {{ token: "{TOKEN}" }}', f"accounts {{ A {{ {account} }} }}")

    @property
    def url(self) -> str:
        return f"nats://u:p@127.0.0.1:{self.port}" if self.is_of_account else super().url


@asynccontextmanager
async def led(server: RealServer) -> AsyncIterator[Client]:
    """Run a coordinator on a server that is not ours while the block runs."""
    async with task_group() as tasks:
        coordinator = Coordinator(Instance(url=server.url, name="tested", version="0"))
        serving = tasks.create_task(coordinator.run())
        async with Client.open(server.url, name="test") as client:
            await asyncio.wait([serving, tasks.create_task(coordinator.leading.wait())], return_when="FIRST_COMPLETED")
            yield client
            assert not serving.done()
        coordinator.stop("the test is over")
        await serving


async def test_a_full_disk_of_a_server_that_is_not_ours(tmp_path: Path) -> None:
    """Calls say to restart it, because it keeps its error; then everything that was acknowledged is there."""
    with small_disk(tmp_path / "nats", 64 * MIB) as disk:
        async with real_server(disk.folder) as server, led(server) as client:
            disk.fill(but_bytes=64 * 1024)
            acknowledged, error = await submit_until_refused(client, 10_000)
            assert error.reason == "nothing_stored"
            assert "restart nats-server" in error.message
            disk.empty()
            await server.stop()
            await server.start()
            await goes_on(client, acknowledged)


@pytest.mark.parametrize("is_of_account", [False, True])
async def test_the_limit_of_a_server_or_an_account(tmp_path: Path, is_of_account: bool) -> None:
    """What to raise is said, the coordinator stays, and it goes on with a higher limit."""
    server = LimitedServer(tmp_path)
    server.limit, server.is_of_account = "4MB", is_of_account
    await server.start()
    try:
        async with led(server) as client:
            acknowledged, error = await submit_until_refused(client, 400, LARGE, within_s=3.0)
            assert error.reason == "nothing_stored"
            assert "raise max_file" in error.message
            server.limit = "40MB"
            await server.stop()
            await server.start()
            await goes_on(client, acknowledged)
    finally:
        await server.kill()


def test_programs_that_are_killed_while_the_disk_is_full(tmp_path: Path) -> None:
    """Each program dies on the full disk: `up` waits, says so, and all of them work once there is room."""
    home = tmp_path / "home"
    with small_disk(home, 64 * MIB) as disk, up(home) as started:

        async def live() -> None:
            async with Client.open(started.url, source="other") as client:
                for number in range(5):
                    await client.execute(SubmitTask(task_id=f"t{number}", task_name="n"))
                disk.fill()
                killed = [process for process in living_in(home) if process.pid != started.pid]
                for process in killed:
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                await asyncio.to_thread(started.until_written, "nats_server_awaits_room")
                await asyncio.sleep(6.0)
                disk.empty()
                took_s = await goes_on(client, [f"t{number}" for number in range(5)])
                await read_model_follows(client)
                print(f"a submit went through {took_s:.1f} s after there was room")

        asyncio.run(live())
        assert started.stop() == 0


def test_a_disk_without_inodes(tmp_path: Path) -> None:
    """No file can be created, so no stream can grow and no container start: both are said, and go on with inodes."""
    home = tmp_path / "home"
    with small_disk(home, 96 * MIB, inodes=256) as disk, up(home) as started:

        async def live() -> None:
            async with Client.open(started.url, source="other") as client:
                disk.fill_inodes()
                await client.execute(CreateContainer(container_id="box", agent_id="a", agent_type="task_agent"))
                await client.execute(StartContainer(container_id="box"))
                question = GetContainer(container_id="box", unless=(ContainerStatus.STARTING,), wait_s=PATIENCE_S)
                assert "No space left on device" in (await client.execute(question)).reason
                acknowledged, error = await submit_until_refused(client, 400, LARGE)
                assert error.reason == "nothing_stored"
                assert "no space left on device" in error.message
                assert " 0 inodes free" in failed_here(home)["disk"]
                disk.empty_inodes()
                took_s = await goes_on(client, acknowledged)
                await read_model_follows(client)
                print(f"{len(acknowledged)} acknowledged without inodes; {took_s:.1f} s after there were some")
                question = GetContainer(
                    container_id="box", unless=(ContainerStatus.STARTING, ContainerStatus.ERROR), wait_s=PATIENCE_S
                )
                assert (await client.execute(question)).status is ContainerStatus.RUNNING

        asyncio.run(live())
        assert started.stop() == 0


def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """Calls say it, `up` stops in order, refuses to start on it, and after a repair has all that was acknowledged."""
    home = tmp_path / "home"

    async def submit(url: str) -> tuple[list[str], Unavailable]:
        async with Client.open(url, source="other") as client:
            await client.execute(SubmitTask(task_id="before", task_name="n"))
            disk.abort()
            return await submit_until_refused(client, 1000)

    async def look(url: str, acknowledged: list[str]) -> None:
        async with Client.open(url, source="other") as client:
            await goes_on(client, acknowledged)
            await read_model_follows(client)

    with small_disk(home, 64 * MIB) as disk:
        with up(home) as started:
            acknowledged, error = asyncio.run(submit(started.url))
            assert error.reason == "nothing_stored"
            assert "read-only file system" in error.message
            assert started.stop() == 0
        disk.unmount()
        disk.repair()
        disk.mount()
        disk.remount("ro")
        said = run("up", "--port", "0", COORDINATOR_HOME=str(home))
        assert said.code == 5
        assert f"{home} is not writable: Read-only file system" in said.err
        assert "is mounted read-only" in failed_here(home)["disk"]
        disk.remount("rw")
        with up(home) as started:
            asyncio.run(look(started.url, ["before", *acknowledged]))
            assert started.stop() == 0
