"""What a simulation can do with the runtime in memory; the rest is in the contract suite of all runtimes."""

from __future__ import annotations

import pytest

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.protocol import RuntimeState, Usage
from tests.launches import CLUSTER, launch


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


async def test_the_same_orders_give_the_same_pids(fake: FakeRuntime) -> None:
    """Nothing in it is random: two runs see the same."""
    other = FakeRuntime(cluster=CLUSTER, now=lambda: 12.5)
    async with fake, other:
        for container_id in ("a", "b", "c"):
            assert await fake.start(launch(container_id)) == await other.start(launch(container_id))
