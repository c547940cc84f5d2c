"""
`coordinator serve` as processes on one NATS: who leads, who takes over, and when none may.

Deeper faults of leadership have tests of their own; these tests cover what an operator sees.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats
from coordinator.commands.reads import Wait
from coordinator.commands.task import ListTasks, SubmitTask
from coordinator.journal.stream import NatsJournal, stream_config
from coordinator.leadership.lease import Lease
from events import codec
from events.base import Position
from events.subjects import Subjects
from projections.source import chain_after
from projections.world import World
from tests.commands import Running, run, running
from tests.conftest import living_in
from tests.real_server import RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from events.base import Envelope

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
LEASE_TTL_S = 6
TAKE_OVER_S = LEASE_TTL_S + 5.0
"""With the usual lease of 12 s a takeover takes up to 17 s."""
AT_ONCE_S = 10.0
"""Earlier than the usual lease can expire; a process of ours needs about a second to start."""
PATIENCE_S = 30.0


@contextmanager
def serve(server: RealServer, home: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Run `coordinator serve` with its state in *home*; its output is appended to `<home>.out`."""
    with running(
        "serve",
        *arguments,
        written=home.with_suffix(".out"),
        COORDINATOR_HOME=str(home),
        COORDINATOR_URL=server.url,
        **environment,
    ) as started:
        yield started


class Admin:
    """A user who may do anything on this NATS."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.journal = NatsJournal(bus, SUBJECTS)

    async def world(self) -> World:
        """Fold the whole journal, which also verifies the chain."""
        world = World()
        async for records in self.journal.read(0, (await self.journal.bounds()).last):
            for record in records:
                world.apply_record(record)
        return world

    async def events(self) -> list[Envelope]:
        """Return all events."""
        return [
            envelope
            async for records in self.journal.read(0, (await self.journal.bounds()).last)
            for record in records
            if record.kind == "commit"
            for envelope in codec.decode(record.body)
        ]

    async def append(self, *, chain: str | None = None, **changed: Any) -> int:
        """Append a commit of one event, equal to the last one except for *changed*; with the right chain or *chain*."""
        world = await self.world()
        sequence = (await self.journal.bounds()).last + 1
        event = json.loads(codec.encode((await self.events())[-1]))
        body = msgspec.json.encode([{**event, "id": f"{sequence}.0", **changed}])
        headers = {"Chain": chain or world.chain.hex(), "Nats-Msg-Id": f"admin-{sequence}"}
        ack = await self.bus.js_publish(SUBJECTS.journal, body, headers, timeout_s=5.0)
        assert ack.sequence == sequence
        assert chain_after(world.chain, sequence, body) != world.chain
        return sequence


@asynccontextmanager
async def admin_of(server: RealServer) -> AsyncIterator[Admin]:
    async with Bus.open(server.url, name="admin") as bus:
        yield Admin(bus)


async def leads(server: RealServer, started: Running, timeout_s: float = PATIENCE_S) -> float:
    """Wait until commands are answered, and return how long that took."""
    began = time.monotonic()
    async with Client.open(server.url) as client:
        asking = asyncio.ensure_future(client.execute(GetStats(), timeout_s=timeout_s))
        while not asking.done():
            assert started.process.poll() is None, started.written[-3000:]
            await asyncio.wait([asking], timeout=0.02)
        await asking
    return time.monotonic() - began


async def ended(started: Running, timeout_s: float = PATIENCE_S) -> int:
    """Wait for the end of the process without blocking this loop, on which the server's watcher runs."""
    return await asyncio.to_thread(started.ended, timeout_s)


async def written(started: Running, text: str) -> None:
    await asyncio.to_thread(started.until_written, text)


async def test_one_leads_and_another_takes_over(server: RealServer, tmp_path: Path) -> None:
    """
    Of two, one is on standby. A leader that is stopped hands over at once; a killed one when its lease expires.

    Clients continue. Every task acknowledged during this time is there, once.
    """
    acknowledged: list[str] = []
    over = asyncio.Event()

    async def submit_all_along(client: Client) -> None:
        while not over.is_set():
            acknowledged.append(
                await client.execute(SubmitTask(task_id=f"t{len(acknowledged)}", task_name="n"), timeout_s=60)
            )
            await asyncio.sleep(0.02)

    async def took_over(who: str) -> float:
        began = time.monotonic()
        while (await client.execute(GetStats(), timeout_s=60)).leader == who:  # noqa: ASYNC110  # told over NATS
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    one, two = tmp_path / "one", tmp_path / "two"
    seconds = {"TTL_S": LEASE_TTL_S, "RENEW_S": 1.5, "FRESH_S": 3, "STOP_AFTER_S": 5}
    lease = {f"COORDINATOR_LEADERSHIP__{name}": str(value) for name, value in seconds.items()}
    async with Client.open(server.url) as client, asyncio.TaskGroup() as tasks:
        with serve(server, one, "--without-follower", **lease) as first:
            await leads(server, first)
            submitting = tasks.create_task(submit_all_along(client))
            leader = (await client.execute(GetStats())).leader
            with serve(server, two, "--without-follower", **lease) as second:
                await written(second, "standby_started")
                first.process.send_signal(signal.SIGTERM)
                handed_over_s = await took_over(leader)
                assert await ended(first) == 0
                with serve(server, one, "--without-follower", **lease) as third:
                    await written(third, "standby_started")
                    leader = (await client.execute(GetStats())).leader
                    second.process.kill()
                    taken_over_s = await took_over(leader)
                    over.set()
                    await submitting  # a client still asking would wait for a coordinator that does not come
                    listed = await client.execute(ListTasks(limit=1000))
                    third.process.send_signal(signal.SIGTERM)
                    assert await ended(third) == 0
    print(f"handed over in {handed_over_s:.2f} s, taken over {taken_over_s:.2f} s after kill -9")
    assert taken_over_s < TAKE_OVER_S
    assert sorted(task.task_id for task in listed) == sorted(acknowledged[-1000:])


async def test_the_same_home_leads_again_at_once_and_stops_in_good_order(server: RealServer, tmp_path: Path) -> None:
    """
    After `kill -9` a coordinator on the same home takes its own lease back, and its follower continues too.

    SIGTERM ends both with 0: the journal records it, the lease is given up, and no process is left.
    """
    home = tmp_path / "one"
    async with admin_of(server) as admin:
        with serve(server, home) as first:
            await leads(server, first)
            first.process.kill()
            await ended(first)
        lease = Lease(admin.bus, SUBJECTS, "looker")
        held = await lease.current()
        assert held is not None
        with serve(server, home) as again:
            took_s = await leads(server, again)
            print(f"leads again {took_s:.2f} s after its start")
            assert took_s < AT_ONCE_S
            async with Client.open(server.url) as client:
                await client.execute(SubmitTask(task_id="t", task_name="n"))
                position = (await client.execute(GetStats())).position
                question = Wait(position=position, timeout_s=PATIENCE_S)
                reached = await ask_follower(client, question, timeout_s=PATIENCE_S)
                assert Position.parse(reached) >= Position.parse(position)
            second = await asyncio.to_thread(run, "serve", COORDINATOR_HOME=str(home), COORDINATOR_URL=server.url)
            assert second.code == 5
            assert f"in use by the coordinator of process {again.pid}: stop it, or set COORDINATOR_HOME" in second.err
            began = time.monotonic()
            again.process.send_signal(signal.SIGTERM)
            assert await ended(again) == 0
            print(f"stopped in {time.monotonic() - began:.2f} s")
            assert "Traceback" not in again.written
            assert living_in(home) == []
        assert await lease.current() is None
        last = (await admin.events())[-1]
        assert (last.type, last.subject) == ("coordinator.stopped", held.holder)


async def test_what_a_newer_version_wrote_is_followed_and_not_led(server: RealServer, tmp_path: Path) -> None:
    """On an event of an unknown type it reports it once, claims nothing, keeps folding, and stops when told."""
    home = tmp_path / "one"
    async with admin_of(server) as admin:
        with serve(server, home, "--without-follower") as first:
            await leads(server, first)
            assert await asyncio.to_thread(first.stop) == 0
        await admin.append(type="task.teleported", subject="t", data={"task_id": "t"})
        with serve(server, home, "--without-follower") as again:
            await written(again, "leadership_declined")
            assert "task.teleported" in again.written
            assert "until it is upgraded" in again.written
            await written(again, "standby_started")
            sequence = await admin.append(type="task.teleported", subject="u", data={"task_id": "u"})
            mark = home / "journal.seen"
            async with asyncio.timeout(PATIENCE_S):
                while f'"sequence":{sequence},'.encode() not in mark.read_bytes():  # noqa: ASYNC110  # told by a file
                    await asyncio.sleep(0.1)
            assert again.process.poll() is None
            assert await asyncio.to_thread(again.stop) == 0
            assert again.written.count("leadership_declined") == 1
        assert (await admin.journal.bounds()).last == sequence


async def test_a_journal_whose_chain_is_broken_stops_everyone(server: RealServer, tmp_path: Path) -> None:
    """
    A commit with a wrong chain, appended while a coordinator leads, stops it and its follower with a message.

    When started again it stops at once: it does not hang, skip the commit or write anything.
    """
    home = tmp_path / "one"
    async with admin_of(server) as admin:
        with serve(server, home) as first:
            await leads(server, first)
            sequence = await admin.append(chain="0" * 64)
            async with Client.open(server.url) as client:
                lost = asyncio.ensure_future(client.execute(SubmitTask(task_id="t", task_name="n"), timeout_s=20))
                assert await ended(first) == 1
                lost.cancel()
            said = [line for line in first.written.splitlines() if line.startswith("coordinator: ")]
            assert f"commit {sequence}" in said[-1] or f"slot {sequence}" in said[-1], said
            assert "chain" in said[-1]
            await asyncio.sleep(0.1)
            assert living_in(home) == []
        for command in ("serve", "follow"):
            again = await asyncio.to_thread(run, command, COORDINATOR_HOME=str(home), COORDINATOR_URL=server.url)
            assert again.code == 1, again
            assert "chain" in again.err.splitlines()[-1]
        assert (await admin.journal.bounds()).last == sequence


async def test_a_stream_that_is_configured_otherwise_is_refused(server: RealServer, tmp_path: Path) -> None:
    """Each drifted field is named with its value and the expected one; the stream is not changed."""
    async with admin_of(server) as admin:
        config = {**stream_config(SUBJECTS), "max_age": 3_600_000_000_000, "deny_delete": False, "max_msgs": 5}
        await admin.bus.js_request(f"STREAM.CREATE.{SUBJECTS.stream_journal}", config, timeout_s=5)
        refused = await asyncio.to_thread(
            run, "serve", COORDINATOR_HOME=str(tmp_path / "one"), COORDINATOR_URL=server.url
        )
        assert refused.code == 5
        for drifted in ("max_age is 3600 s and should be 0", "deny_delete is False", "max_msgs is 5 and should be -1"):
            assert drifted in refused.err
        assert "Change it, or use another namespace" in refused.err
        left = await admin.bus.js_request(f"STREAM.INFO.{SUBJECTS.stream_journal}", timeout_s=5)
        assert left["config"]["max_msgs"] == 5


async def test_a_wrong_token_is_not_permitted(server: RealServer, tmp_path: Path) -> None:
    """Exit code 7, and the message does not contain the token."""
    url = f"nats://s3cret@127.0.0.1:{server.port}"
    wrong = await asyncio.to_thread(run, "serve", COORDINATOR_HOME=str(tmp_path / "one"), COORDINATOR_URL=url)
    assert wrong.code == 7
    assert "does not accept the credentials" in wrong.err
    assert "s3cret" not in wrong.err
