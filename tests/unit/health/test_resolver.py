"""
Names are resolved in threads of the resolver's own, so that a slow one keeps none of the others waiting.

The process-wide resolver cannot be pointed at a slow server, so these tests give the resolver a function that really
blocks in its thread.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_network
from time import monotonic, sleep

import pytest

from coordinator.health.probes import Prober
from coordinator.health.resolver import (
    LOOKUPS_OF_ONE,
    OVERDUE_OF_ONE,
    SLOW_LOOKUPS_OF_ONE,
    Resolver,
    look_up_by_system,
)
from events.errors import Unavailable

LOOPBACK = [ip_network("127.0.0.0/8")]


class Names:
    """Resolves `slow…` names when it is let, and others at once; counts what it was asked."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.asked: list[str] = []
        self.under_way = 0
        self.most = 0
        self._lock = threading.Lock()

    def look_up(self, host: str) -> list[str]:
        with self._lock:
            self.asked.append(host)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if host.startswith("slow"):
            self.let.wait(60)
        with self._lock:
            self.under_way -= 1
        return ["127.0.0.1"]


@pytest.fixture
def names() -> Names:
    return Names()


async def _try(resolver: Resolver, host: str, source: str, *, within_s: float = 0.1) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return list(await resolver.resolve(host, source)) == ["127.0.0.1"]
    except TimeoutError:
        return False


async def test_slow_names_keep_no_others_from_being_resolved(names: Names) -> None:
    """Beside 200 slow names of a source, those of another source, and its own, are resolved within their time."""
    resolver = Resolver(names.look_up)
    try:
        for _ in range(3):
            slow = [asyncio.create_task(_try(resolver, f"slow{n}.test", "greedy")) for n in range(200)]
            await asyncio.sleep(0)
            good = [_try(resolver, f"good{n}.test", "modest") for n in range(10)]
            assert all(await asyncio.gather(*good))
            assert not any(await asyncio.gather(*slow))
            assert names.most <= LOOKUPS_OF_ONE + OVERDUE_OF_ONE + SLOW_LOOKUPS_OF_ONE + 10
    finally:
        names.let.set()


async def test_slow_names_give_their_place_to_the_names_of_the_same_source(names: Names) -> None:
    """After the first time-out, names of the same source that are not slow are resolved."""
    resolver = Resolver(names.look_up)
    try:
        slow = [asyncio.create_task(_try(resolver, f"slow{n}.test", "one")) for n in range(20)]
        await asyncio.gather(*slow)
        slow = [asyncio.create_task(_try(resolver, f"slow{n}.test", "one", within_s=5)) for n in range(8)]
        await asyncio.sleep(0)
        assert all(await asyncio.gather(*(_try(resolver, f"good{n}.test", "one") for n in range(10))))
        names.let.set()
        assert all(await asyncio.gather(*slow))
    finally:
        names.let.set()


async def test_names_that_were_in_time_are_not_kept_waiting_by_new_ones(names: Names) -> None:
    """Not even when so many new names hang that they hold all places of their source."""
    resolver = Resolver(names.look_up)
    assert await _try(resolver, "good.test", "one")
    try:
        slow = [asyncio.create_task(_try(resolver, f"slow{n}.test", "one")) for n in range(OVERDUE_OF_ONE * 2)]
        for _ in range(20):
            assert await _try(resolver, "good.test", "one", within_s=0.5)
            await asyncio.sleep(0.02)
        await asyncio.gather(*slow)
        assert names.most <= 2 * LOOKUPS_OF_ONE + OVERDUE_OF_ONE + SLOW_LOOKUPS_OF_ONE
    finally:
        names.let.set()


async def test_a_name_is_looked_up_once_at_a_time(names: Names) -> None:
    """Who asks again for a name that is still being looked up waits for the same lookup."""
    resolver = Resolver(names.look_up)
    assert not any(await asyncio.gather(*(_try(resolver, "slow.test", "one") for _ in range(10))))
    assert not await _try(resolver, "slow.test", "one")
    again = asyncio.create_task(_try(resolver, "slow.test", "one", within_s=10))
    await asyncio.sleep(0.05)
    names.let.set()
    assert await again
    assert names.asked == ["slow.test"]
    assert await _try(resolver, "slow.test", "one")
    assert names.asked == ["slow.test"] * 2


@pytest.mark.alone
async def test_the_executor_of_the_loop_is_not_needed(names: Names) -> None:
    """While all threads of the event loop's executor are taken, names are resolved."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    taken = loop.run_in_executor(None, sleep, 0.5)
    began = monotonic()
    assert await _try(Resolver(), "localhost", "", within_s=0.4) or "127.0.0.1" not in look_up_by_system("localhost")
    assert monotonic() - began < 0.4
    await taken


async def test_numbers_need_no_lookup(names: Names) -> None:
    """An address in any form that the system accepts is taken as it is."""
    resolver = Resolver(names.look_up)
    for host in ("127.0.0.1", "2130706433", "0x7f.1"):
        assert await resolver.resolve(host, "") == ["127.0.0.1"]
    assert await resolver.resolve("::1", "") == ["::1"]
    assert names.asked == []


async def test_an_error_of_a_lookup_reaches_everyone_who_waits() -> None:
    """And one that nobody waits for any more is no defect."""
    let = threading.Event()

    def look_up(host: str) -> list[str]:
        let.wait(10)
        raise OSError(host)

    resolver = Resolver(look_up)
    with suppress(TimeoutError):
        await asyncio.wait_for(resolver.resolve("lost.test", ""), 0.05)
    waiting = [asyncio.create_task(resolver.resolve("bad.test", "")) for _ in range(3)]
    await asyncio.sleep(0.05)
    let.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(one) for one in errors] == ["bad.test"] * 3


async def test_without_a_thread_the_check_cannot_be_made(names: Names) -> None:
    """A machine that cannot start a thread says nothing about the service; with threads again, all is as before."""
    before = threading.stack_size(2**46)  # no address space has room for it
    prober = Prober(LOOPBACK, resolve=Resolver(names.look_up).resolve)
    try:
        for _ in range(LOOKUPS_OF_ONE + 1):
            with pytest.raises(Unavailable, match="can't start new thread") as raised:
                await prober.look("tcp://good.test:9")
            assert raised.value.reason == "could_not_check"
    finally:
        threading.stack_size(before)
    assert not (await prober.look("tcp://good.test:9")).ok
