"""The lease on a real server: who holds it, how it is renewed, lost, given up and taken back."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.bus.connection import Bus
from coordinator.errors import Refused, Unavailable
from coordinator.leadership.lease import Lease, lease_config
from events.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.real_server import RealServer

SUBJECTS = Subjects()
STREAM = "KV_COORDINATION_LEASE"
KEY = "$KV.COORDINATION_LEASE.writer"


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def lease_of(bus: Bus, holder: str, **options: Any) -> Lease:
    lease = Lease(bus, SUBJECTS, holder, **({"ttl_s": 2, "renew_s": 0.4} | options))
    await lease.prepare()
    return lease


@asynccontextmanager
async def held(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    """Hold the lease while the block runs."""
    async with asyncio.TaskGroup() as tasks:
        holding = tasks.create_task(lease.hold())
        yield holding
        holding.cancel()


async def test_the_first_takes_it_and_the_second_waits(bus: Bus) -> None:
    """One instance holds the lease; another does not get it within its patience."""
    first, second = await lease_of(bus, "a"), await lease_of(bus, "b")
    assert await first.current() is None
    assert await first.acquire(1)
    assert not await second.acquire(0.6)
    holding = await second.current()
    assert holding is not None
    assert holding.holder == "a"
    assert first.granted_at is not None
    assert second.granted_at is None


async def test_a_renewed_lease_outlasts_its_time_to_live(bus: Bus) -> None:
    """While the holder renews it, nobody else gets it, however long that lasts."""
    first, second = await lease_of(bus, "a"), await lease_of(bus, "b")
    assert await first.acquire(1)
    async with held(first) as holding:
        assert not await second.acquire(5)
        assert not holding.done()
        assert first.is_fresh(1.5)


async def test_a_lease_nobody_renews_runs_out(bus: Bus) -> None:
    """The lease of a holder that is gone expires after the time to live, not before."""
    first, second = await lease_of(bus, "a"), await lease_of(bus, "b")
    assert await first.acquire(1)
    started = asyncio.get_running_loop().time()
    assert await second.acquire(10)
    assert 1.5 < asyncio.get_running_loop().time() - started < 6


async def test_a_released_lease_is_free_at_once(bus: Bus) -> None:
    """Giving the lease up saves the others the wait."""
    first, second = await lease_of(bus, "a", ttl_s=60), await lease_of(bus, "b", ttl_s=60)
    assert await first.acquire(1)
    await first.release()
    assert first.must_stop()
    assert await first.current() is None
    assert await second.acquire(1)
    await first.release()  # harmless: another holds it now
    holding = await first.current()
    assert holding is not None
    assert holding.holder == "b"


async def test_a_restarted_instance_takes_back_its_own_lease_at_once(bus: Bus) -> None:
    """A new process of the same instance does not wait for its own old lease. Another instance's lease stays."""
    before, after, other = [await lease_of(bus, name, ttl_s=60) for name in ("a", "a", "b")]
    assert await before.acquire(1)
    assert not await after.acquire(0.2)
    assert not await other.take_back("b")
    assert await after.take_back("a")
    assert await after.current() != before._ours


async def test_the_holder_learns_that_another_has_it(bus: Bus) -> None:
    """`hold` returns when another took the lease, and the holder must stop."""
    before, after = await lease_of(bus, "a"), await lease_of(bus, "a")
    assert await before.acquire(1)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        holding = tasks.create_task(before.hold())
        assert await after.take_back("a")
        await holding
    assert before.must_stop()
    assert not before.is_fresh()
    assert not after.must_stop()


async def test_freshness_counts_from_sending_by_the_given_clock(bus: Bus) -> None:
    """Fresh below 6 s and to be stopped above 9.6 s, counted from when the last granted renewal was sent."""
    clock = Clock()
    lease = await lease_of(bus, "a", ttl_s=12, clock=clock)
    assert lease.must_stop()
    assert not lease.is_fresh()
    assert await lease.acquire(1)
    assert lease.granted_at == 1000.0
    for elapsed, fresh, stop in ((0, True, False), (5.9, True, False), (6, False, False), (9.7, False, True)):
        clock.now = 1000.0 + elapsed
        assert (lease.is_fresh(), lease.must_stop()) == (fresh, stop)


async def test_the_holder_stops_by_itself_when_the_server_is_gone(server: RealServer, bus: Bus) -> None:
    """Without granted renewals `hold` returns before the server can expire the lease."""
    lease = await lease_of(bus, "a")
    assert await lease.acquire(1)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        started = asyncio.get_running_loop().time()
        holding = tasks.create_task(lease.hold())
        await server.kill()
        await holding
    assert asyncio.get_running_loop().time() - started < 2 + 0.3
    assert lease.must_stop()


async def test_a_short_outage_costs_nothing(server: RealServer, bus: Bus) -> None:
    """A server that comes back within the time to live finds the same holder."""
    lease = await lease_of(bus, "a", ttl_s=10)
    assert await lease.acquire(1)
    async with held(lease) as holding:
        await asyncio.sleep(0.2)
        await server.kill()
        await asyncio.sleep(0.3)
        await server.start()
        async with asyncio.timeout(10):
            while not lease.is_fresh(0.5) or not bus.connected:  # noqa: ASYNC110 - as the engine sees it
                await asyncio.sleep(0.02)
        assert not holding.done()


async def test_a_renewal_whose_answer_was_lost_counts_from_its_first_sending(bus: Bus) -> None:
    """The renewal was granted, the answer lost: the next one finds it, and dates it by when it was sent."""
    clock = Clock()
    lease = await lease_of(bus, "a", clock=clock)
    assert await lease.acquire(1)
    # What a lost answer leaves: a newer revision of ours on the server, and an attempt without an answer here.
    clock.now = 1001.0
    lease._unanswered_at = 1001.0
    await bus.js_publish(KEY, await _value(bus), {"Nats-TTL": "2s"}, timeout_s=2)
    clock.now = 1003.0
    assert await lease._put(lease._revision)
    assert lease.granted_at == 1001.0
    assert await lease._put(lease._revision)
    assert lease.granted_at == 1003.0


@pytest.mark.parametrize(
    "headers", [{"KV-Operation": "DEL"}, {"KV-Operation": "PURGE"}, {"Nats-Marker-Reason": "MaxAge"}]
)
async def test_marks_of_what_is_gone_do_not_hold_the_lease(bus: Bus, headers: dict[str, str]) -> None:
    """Deleted by hand or expired with a marker: the lease is free, after the marker's revision."""
    lease = await lease_of(bus, "a")
    await bus.js_publish(KEY, b"", headers, timeout_s=2)
    assert await lease.current() is None
    assert await lease.acquire(1)


async def test_something_unreadable_in_the_lease_is_somebody_elses(bus: Bus) -> None:
    """An unreadable value is waited for, not overwritten."""
    lease = await lease_of(bus, "a")
    await bus.js_publish(KEY, b"\xff not ours", {"Nats-TTL": "2s"}, timeout_s=2)
    assert not await lease.acquire(0.2)
    assert await lease.acquire(6)


async def test_a_bucket_without_time_to_live_is_refused(bus: Bus) -> None:
    """In a bucket without expiry a lease would stay for ever."""
    await bus.js_request(f"STREAM.CREATE.{STREAM}", lease_config(SUBJECTS) | {"allow_msg_ttl": False}, timeout_s=5)
    with pytest.raises(Refused, match="allow_msg_ttl is False and should be True"):
        await lease_of(bus, "a")


@pytest.mark.parametrize(("ttl_s", "renew_s"), [(15, 10), (0, 0), (15, 0)])
def test_a_lease_that_would_end_by_itself_is_refused(ttl_s: int, renew_s: float) -> None:
    """The lease must be renewed at least twice in its time to live."""
    with pytest.raises(Refused, match="at least twice"):
        Lease(None, SUBJECTS, "a", ttl_s=ttl_s, renew_s=renew_s)  # type: ignore[arg-type]


async def _value(bus: Bus) -> bytes:
    """Return the content of the lease."""
    stored = await bus.js_request(f"STREAM.MSG.GET.{STREAM}", {"last_by_subj": KEY}, timeout_s=2)
    return base64.b64decode(stored["message"]["data"])


async def test_an_older_state_of_the_lease_grants_nothing(bus: Bus) -> None:
    """A replica that lags may still name us as the holder: a renewal that it refuses does not count as granted."""
    lease = await lease_of(bus, "a", ttl_s=60)
    assert await lease.acquire(1)
    granted_at, ours = lease.granted_at, await bus.js_request(f"STREAM.MSG.GET.{STREAM}", {"seq": 1}, timeout_s=2)
    for _ in range(3):
        assert await lease._put(lease._revision)
    await bus.js_request(f"STREAM.DELETE.{STREAM}", timeout_s=2)
    await lease.prepare()
    await bus.js_publish(KEY, base64.b64decode(ours["message"]["data"]), timeout_s=2)
    before = lease.granted_at
    assert before is not None
    assert granted_at is not None
    assert before > granted_at
    with pytest.raises(Unavailable, match="has revision 1, but 4 was granted"):
        await lease._put(lease._revision)
    assert lease.granted_at == before
