"""What a simulation can do with the runtime in memory; the rest is in the contract suite of all runtimes."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.fake import DEAF, FakeRuntime, OnStop
from coordinator.runtime.protocol import RuntimeState, Usage
from tests.launches import CLUSTER, launch
from tests.virtual_time import run_virtual


@pytest.fixture
def fake() -> FakeRuntime:
    return FakeRuntime(cluster=CLUSTER, now=lambda: 12.5)


async def test_a_start_can_be_made_to_fail(fake: FakeRuntime) -> None:
    """The next start fails with the given error and leaves nothing; the one after it runs."""
    fake.fail_next_start(Unavailable("no room"))
    async with fake:
        with pytest.raises(Unavailable, match="no room"):
            await fake.start(launch())
        assert await fake.list() == []
        assert (await fake.start(launch())).started_at == 12.5
        assert fake.launches == [launch()]


async def test_an_answer_can_be_lost(fake: FakeRuntime) -> None:
    """A start may run and only its answer fail; the repeated call then finds what runs."""
    fake.fail_next_start(Unavailable("no answer"), begins=True)
    async with fake:
        with pytest.raises(Unavailable, match="no answer"):
            await fake.start(launch())
        (running,) = await fake.list()
        assert await fake.start(launch()) == running


async def test_a_machine_can_lose_everything(fake: FakeRuntime) -> None:
    """After a reboot running containers are lost, and exited ones keep their exit."""
    async with fake:
        await fake.start(launch("a"))
        await fake.start(launch("b"))
        fake.exit("b", "7.0", 3)
    fake.lose_all()
    async with fake:
        a, b = await fake.list()
        assert (a.state, a.exit_code, a.reason) == (RuntimeState.EXITED, None, "lost")
        assert (b.exit_code, b.reason) == (3, "exited")
        assert await fake.wait_change(1)


async def test_an_end_may_have_any_reason(fake: FakeRuntime) -> None:
    """A simulation can let memory run out; an exited container cannot exit again."""
    async with fake:
        await fake.start(launch())
        fake.use("a", "7.0", Usage(cpu_seconds=1.5, memory_bytes=7, pids=3))
        assert (await fake.usage("a", "7.0")).pids == 3
        fake.exit("a", "7.0", 137, reason="oom")
        assert (await fake.list())[0].reason == "oom"
        with pytest.raises(Refused):
            fake.exit("a", "7.0", 0)


@pytest.mark.parametrize(
    ("how", "exit_code", "took_s"),
    [
        (OnStop(), 143, 0.0),
        (OnStop(code=0), 0, 0.0),
        (OnStop(code=0, after_s=3.0), 0, 3.0),
        (OnStop(code=7, after_s=10.0), 7, 10.0),
        (OnStop(code=0, after_s=10.5), 137, 10.0),
        (DEAF, 137, 10.0),
        (OnStop(after_s=math.inf, late_s=4.0), 137, 14.0),
    ],
)
def test_containers_take_a_stop_differently(fake: FakeRuntime, how: OnStop, exit_code: int, took_s: float) -> None:
    """They exit with a code, at once or later, or not at all; even SIGKILL may take a while."""

    async def play() -> None:
        fake.stops["a"] = how
        async with fake:
            await fake.start(launch())
            began = asyncio.get_running_loop().time()
            await fake.stop("a", "7.0", grace_s=10.0)
            assert asyncio.get_running_loop().time() - began == pytest.approx(took_s)
            assert (await fake.list())[0].exit_code == exit_code

    run_virtual(play())


def test_a_switch_outlives_the_process_that_set_it() -> None:
    """It keeps its time although the next process of the machine has another clock."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        fake = FakeRuntime(cluster=CLUSTER, now=loop.time, heard=lambda: 100.0 + loop.time())
        async with fake:
            await fake.start(msgspec.structs.replace(launch(), until=103.0 + loop.time()))
            await asyncio.sleep(2.0)
            fake.heard = lambda: 500.0 + loop.time()
            await fake.grant(504.0 + loop.time())
            await asyncio.sleep(3.9)
            assert (await fake.list())[0].state is RuntimeState.RUNNING
            assert await fake.wait_change(10.0)
            assert loop.time() == pytest.approx(6.0)
            (ended,) = await fake.list()
            assert (ended.exit_code, ended.cause) == (137, "cut_off")

    run_virtual(play())


async def test_without_a_clock_there_is_no_switch(fake: FakeRuntime) -> None:
    """Grants change nothing then."""
    async with fake:
        seen = await fake.start(msgspec.structs.replace(launch(), until=0.0))
        await fake.grant(0.0)
        assert await fake.list() == [seen]


async def test_the_same_orders_give_the_same_pids(fake: FakeRuntime) -> None:
    """Nothing in it is random: two runs see the same."""
    other = FakeRuntime(cluster=CLUSTER, now=lambda: 12.5)
    async with fake, other:
        for container_id in ("a", "b", "c"):
            assert await fake.start(launch(container_id)) == await other.start(launch(container_id))
