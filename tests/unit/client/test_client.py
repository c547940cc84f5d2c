"""The client against a real NATS server and a writer whose answers the test chooses."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from coordinator.bus.connection import Bus
from coordinator.bus.subscription import Message
from coordinator.client.client import Client
from coordinator.client.lane import MOST_TOGETHER, MOST_UNDER_WAY, REQUEST_BYTES
from coordinator.client.reads import ask_follower, find_task
from coordinator.commands.cluster import GetStats
from coordinator.commands.payloads import payload_of
from coordinator.commands.reads import HowFarBehind, WhichPosition
from coordinator.commands.task import ClaimTasks, GetTask, SubmitTask
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.subjects import Subjects
from tests.real_server import TOKEN, RealServer, real_server
from tests.tcp_proxy import proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SUBJECTS = Subjects()
SOON_S = 5.0
"""Longer than any step of these tests takes."""


class Writer:
    """Records each request, and answers it at once, or on `release` while the test holds answers back."""

    def __init__(self, bus: Bus) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.bodies: list[bytes] = []
        self.epoch = "1.7"
        self.answer: Callable[[dict[str, Any]], dict[str, Any]] = lambda order: {"ok": order["data"].get("task_id")}
        self.held = False
        self._unanswered: list[Message] = []
        self._bus = bus

    def take(self, message: Message) -> None:
        self.bodies.append(message.data)
        self.requests.append(json.loads(message.data))
        if self.held:
            self._unanswered.append(message)
        else:
            self._reply(message)

    def release(self) -> None:
        """Answer the held requests, and stop holding answers."""
        self.held = False
        for message in self._unanswered:
            self._reply(message)
        self._unanswered.clear()

    def forget(self) -> None:
        """Drop the held requests without answering."""
        self.held = False
        self._unanswered.clear()

    def announce(self, epoch: str) -> None:
        """Announce a new reign."""
        self.epoch = epoch
        self._bus.send(SUBJECTS.leader, json.dumps({"epoch": epoch}).encode())

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(SOON_S):
            while len(self.requests) < times:  # noqa: ASYNC110  # told over NATS
                await asyncio.sleep(0.002)

    def _reply(self, message: Message) -> None:
        answers = [{"epoch": self.epoch, "position": "9.0", **self.answer(order)} for order in json.loads(message.data)]
        self._bus.send(message.reply, json.dumps(answers).encode())


@asynccontextmanager
async def writer_at(url: str) -> AsyncIterator[Writer]:
    async with Bus.open(url, name="writer", buffered=False) as bus:
        writer = Writer(bus)
        await bus.subscribe(SUBJECTS.rpc_all, writer.take)
        await bus.flush()
        yield writer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RealServer]:
    async with real_server(tmp_path) as running:
        yield running


def task(number: int, **more: Any) -> SubmitTask:
    return SubmitTask(task_id=f"task_{number}", task_name="n", **more)


# --- riding together --------------------------------------------------------------------------------------------------


async def test_calls_at_once_share_requests_and_keep_their_order(server: RealServer) -> None:
    """The first call is sent at once; a hundred calls made during it share one request, in order, each answered."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        writer.held = True
        first = calls.create_task(client.execute(task(0)))
        await writer.until_asked(1)
        others = [calls.create_task(client.execute(task(number))) for number in range(1, 101)]
        await asyncio.sleep(0.02)
        writer.release()
        assert [await first, *[await one for one in others]] == [f"task_{number}" for number in range(101)]
    asked = [[order["data"]["task_id"] for order in request] for request in writer.requests]
    assert asked == [["task_0"], [f"task_{number}" for number in range(1, 101)]]


async def test_kinds_of_calls_do_not_wait_for_each_other(server: RealServer) -> None:
    """A request without an answer delays only calls of the same command."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        writer.held = True
        stuck = calls.create_task(client.execute(task(1)))
        await writer.until_asked(1)
        writer.held = False
        writer.answer = lambda _: {"error": {"code": "not_found", "message": "none"}}
        with pytest.raises(NotFound):
            await client.execute(GetTask(task_id="x"))
        writer.answer = lambda order: {"ok": order["data"]["task_id"]}
        writer.release()
        assert await stuck == "task_1"


async def test_more_than_fits_is_split_by_count_and_by_bytes(server: RealServer) -> None:
    """No request exceeds the limits of commands and bytes; a single larger command is sent alone."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        writer.held = True
        calls.create_task(client.execute(task(0)))
        await writer.until_asked(1)
        for number in range(4 * MOST_TOGETHER + 5):
            calls.create_task(client.execute(task(number)))
        large = payload_of("x" * 60_000)
        for number in range(10):
            calls.create_task(client.execute(task(number, payload=large)))
        await writer.until_asked(MOST_UNDER_WAY)
        await asyncio.sleep(0.05)
        assert len(writer.requests) == MOST_UNDER_WAY
        writer.release()
    sizes = [len(request) for request in writer.requests]
    assert sizes[:2] == [1, MOST_TOGETHER]
    assert max(sizes) == MOST_TOGETHER
    assert sum(sizes) == 4 * MOST_TOGETHER + 16
    assert max(map(len, writer.bodies)) <= REQUEST_BYTES + 2


async def test_what_had_no_room_is_asked_again_in_smaller_requests(server: RealServer) -> None:
    """The same bytes, under the same ids; each call gets one answer, and requests grow again afterwards."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        room = {"error": {"code": "unavailable", "message": "", "reason": "ask_again"}}

        def answer(order: dict[str, Any]) -> dict[str, Any]:
            place = next(i for i, one in enumerate(writer.requests[-1]) if one == order)
            return {"ok": order["data"]["task_id"]} if place < 10 else room

        writer.answer = answer
        told = await asyncio.gather(*(client.execute(task(number)) for number in range(60)))
        assert told == [f"task_{number}" for number in range(60)]
        sizes = [len(request) for request in writer.requests]
        assert sum(sizes) - 60 < 60
        assert max(sizes[3:]) <= 13
        orders = [json.dumps(order) for request in writer.requests for order in request]
        assert len(set(orders)) == 60
        writer.answer = lambda order: {"ok": order["data"]["task_id"]}
        for _ in range(20):
            await asyncio.gather(*(calls.create_task(client.execute(task(number))) for number in range(200)))
        assert max(len(request) for request in writer.requests[-4:]) > 100


async def test_one_that_has_no_room_even_alone_is_asked_until_its_time_is_over(server: RealServer) -> None:
    """The coordinator has no room for it now."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.answer = lambda _: {"error": {"code": "unavailable", "message": "full", "reason": "ask_again"}}
        with pytest.raises(Unavailable):  # "full", or on a busy machine that no answer came in time
            await client.execute(task(1), timeout_s=1.0)
        assert len(writer.requests) > 1


async def test_a_claim_that_is_given_up_is_withdrawn(server: RealServer) -> None:
    """Whatever ended the call: the tasks must not stay lent to nobody."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        withdrawn = asyncio.Event()
        await client.bus.subscribe(SUBJECTS.rpc("local", "task", "withdraw"), lambda _: withdrawn.set())
        writer.answer = lambda _: {"error": {"code": "unavailable", "message": "full", "reason": "overloaded"}}
        for wait_s in (0.0, 0.05):
            withdrawn.clear()
            with pytest.raises(Unavailable):
                await client.execute(ClaimTasks(claim_id="c", worker_id="w", wait_s=wait_s), timeout_s=0.1)
            await asyncio.wait_for(withdrawn.wait(), SOON_S)
        writer.held = True
        withdrawn.clear()
        with pytest.raises(Unavailable):
            await client.execute(ClaimTasks(claim_id="c", worker_id="w"), timeout_s=0.1)
        await asyncio.wait_for(withdrawn.wait(), SOON_S)
        writer.forget()


async def test_what_cannot_be_written_harms_its_own_caller_alone(server: RealServer) -> None:
    """A command that JSON cannot hold raises Refused in its own call; other calls and the client are unaffected."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        bad: Any = object()
        outcomes = await asyncio.gather(
            client.execute(task(1)),
            client.execute(SubmitTask(task_id="x", task_name="n", priority=bad)),
            client.execute(SubmitTask(task_id="x", task_name="\ud800")),
            client.execute(task(2)),
            return_exceptions=True,
        )
        assert [outcomes[0], outcomes[3]] == ["task_1", "task_2"]
        assert all(isinstance(one, Refused) and "SubmitTask" in one.message for one in outcomes[1:3])
        assert await client.execute(task(3)) == "task_3"
    assert sum(map(len, writer.requests)) == 3


# --- what gets lost ---------------------------------------------------------------------------------------------------


async def test_a_lost_answer_has_the_same_bytes_sent_again(server: RealServer) -> None:
    """When an answer is lost, the same request is sent again with the same ids."""
    async with (
        writer_at(server.url) as writer,
        proxy(server.port) as between,
        Client.open(f"nats://{TOKEN}@127.0.0.1:{between.port}") as client,
        asyncio.TaskGroup() as calls,
    ):
        client.attempt_timeout_s = 0.2
        call = calls.create_task(client.execute(task(1)))
        between.mute()
        await writer.until_asked(1)
        between.cut()
        async with asyncio.timeout(SOON_S):
            assert await call == "task_1"
    assert len(writer.bodies) > 1
    assert len(set(writer.bodies)) == 1


async def test_no_answer_has_the_same_bytes_sent_again(server: RealServer) -> None:
    """When a writer does not answer, the request is sent again after the attempt time-out, with the same bytes."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        client.attempt_timeout_s = 0.05
        writer.held = True
        call = calls.create_task(client.execute(task(1)))
        await writer.until_asked(3)
        writer.forget()
        assert await call == "task_1"
    assert len(set(writer.bodies)) == 1


async def test_a_warning_is_logged_where_the_command_was_sent(server: RealServer) -> None:
    """A command that was carried out may come with a warning for whoever sent it; its value is as ever."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.answer = lambda order: {"ok": order["data"]["task_id"], "warning": "mind this"}
        with capture_logs() as logs:
            assert await client.execute(task(1)) == "task_1"
    assert logs == [{"event": "command_warning", "command": "SubmitTask", "why": "mind this", "log_level": "warning"}]


async def test_a_new_leader_is_asked_at_once(server: RealServer) -> None:
    """Outstanding requests are sent again as soon as a new reign is announced, not when the attempt times out."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        client.attempt_timeout_s = 60.0
        writer.held = True
        call = calls.create_task(client.execute(task(1)))
        waiting = calls.create_task(client.execute(ClaimTasks(claim_id="c", worker_id="w", wait_s=30.0)))
        await writer.until_asked(2)
        writer.forget()
        writer.answer = lambda order: {"ok": [] if order["type"] == "claim_tasks" else order["data"]["task_id"]}
        writer.announce("1.20")
        async with asyncio.timeout(SOON_S):
            assert await call == "task_1"
            assert await waiting == []


async def test_a_leader_that_is_reached_again_is_asked_at_once(server: RealServer) -> None:
    """A writer whose connection was cut announces its reign again: what was on its way is lost, and is sent again."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        client.attempt_timeout_s = 60.0
        await client.execute(task(0))
        for opened in (2, 3):
            writer.held = True
            waiting = calls.create_task(client.execute(ClaimTasks(claim_id=f"c{opened}", worker_id="w", wait_s=30.0)))
            await writer.until_asked(len(writer.requests) + 1)
            writer.forget()
            writer.answer = lambda _: {"ok": []}
            writer._bus.send(SUBJECTS.leader, b'{"epoch": "%b", "opened": %d}' % (writer.epoch.encode(), opened))
            async with asyncio.timeout(SOON_S):
                assert await waiting == []


async def test_announcements_that_are_no_news_are_ignored(server: RealServer) -> None:
    """Announcements of an old or the same reign, and garbage, cause no retries: they cannot trigger a flood."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        await client.execute(task(0))
        writer.held = True
        call = calls.create_task(client.execute(task(1)))
        await writer.until_asked(2)
        for announced in (
            b'{"epoch": "1.7"}',
            b'{"epoch": "1.3", "opened": 9}',
            b"\xff",
            b'{"epoch": "*"}',
            b"[" * 100_000,
            b"{}",
        ):
            writer._bus.send(SUBJECTS.leader, announced)
        await writer._bus.flush()
        await asyncio.sleep(0.05)
        assert len(writer.requests) == 2
        writer.release()
        assert await call == "task_1"


async def test_answers_of_an_older_reign_are_dropped(server: RealServer) -> None:
    """Once a client has an answer from a newer reign, it ignores answers from a deposed writer."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.epoch = "2.5"
        assert await client.execute(task(0)) == "task_0"
        writer.epoch = "1.99"
        with pytest.raises(Unavailable):
            await client.execute(task(1), timeout_s=0.3)
        assert 2 <= len(writer.requests) < 12, "it must ask again, and not without a pause"
        writer.epoch = "2.6"
        assert await client.execute(task(2)) == "task_2"


async def test_overload_is_waited_out_with_the_same_ids(server: RealServer) -> None:
    """A command answered with `Unavailable` is retried after the pause that the error names, until it is accepted."""
    turned_away: list[str] = []

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        if len(turned_away) < 2:
            turned_away.append(order["data"]["task_id"])
            return {"error": {"code": "unavailable", "message": "full", "retry_after_s": 0.05}}
        return {"ok": order["data"]["task_id"]}

    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.answer = answer
        began = asyncio.get_running_loop().time()
        assert await client.execute(task(1)) == "task_1"
        assert asyncio.get_running_loop().time() - began >= 0.1
    assert turned_away == ["task_1", "task_1"]
    assert {request[0]["data"]["task_id"] for request in writer.requests} == {"task_1"}


async def test_overload_that_lasts_is_told_in_time(server: RealServer) -> None:
    """When the pause would pass the call's deadline, the error is raised at once instead of a time-out later."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.answer = lambda _: {"error": {"code": "unavailable", "message": "full", "retry_after_s": 30}}
        async with asyncio.timeout(SOON_S):
            with pytest.raises(Unavailable, match="full"):
                await client.execute(task(1), timeout_s=10)


# --- time, cancellation, closing --------------------------------------------------------------------------------------


async def test_each_call_has_its_own_time(server: RealServer) -> None:
    """A call fails at its own deadline, whatever shares its request; the other calls continue."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client, asyncio.TaskGroup() as calls:
        writer.held = True
        calls.create_task(client.execute(task(0)))
        await writer.until_asked(1)
        patient = calls.create_task(client.execute(task(1)))
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="same ids"):
            await client.execute(task(2), timeout_s=0.1)
        assert asyncio.get_running_loop().time() - began < 1.0
        writer.release()
        assert await patient == "task_1"
    sent = [order["data"]["task_id"] for request in writer.requests for order in request]
    assert "task_2" not in sent, "what nobody waits for any more is not sent"


async def test_nobody_who_leads_is_told_as_such(server: RealServer) -> None:
    """Without a writer a call fails at its deadline, and the error says that nobody listens."""
    async with Client.open(server.url) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable, match="nobody listens"):
            await client.execute(GetStats(), timeout_s=0.3)
        assert asyncio.get_running_loop().time() - began < 1.0


async def test_a_cancelled_call_disturbs_no_other(server: RealServer) -> None:
    """Cancelling calls that wait or are in flight does not affect the answers of the others."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.held = True
        calls = [asyncio.ensure_future(client.execute(task(number))) for number in range(10)]
        await writer.until_asked(1)
        for cancelled in (0, 3, 7):
            calls[cancelled].cancel()
        await asyncio.sleep(0)
        writer.release()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in outcomes] == [n in (0, 3, 7) for n in range(10)]
        assert await client.execute(task(11)) == "task_11"


async def test_closing_wakes_whoever_waits(server: RealServer) -> None:
    """Closing the client fails calls in flight, waiting and long ones with `Unavailable`, and later calls at once."""
    calls: list[asyncio.Future[Any]] = []
    async with writer_at(server.url) as writer:
        async with Client.open(server.url) as client:
            writer.held = True
            calls.append(asyncio.ensure_future(client.execute(task(0))))
            calls.append(asyncio.ensure_future(client.execute(ClaimTasks(claim_id="c", worker_id="w", wait_s=30))))
            await writer.until_asked(2)
            calls.append(asyncio.ensure_future(client.execute(task(1))))
            calls.append(asyncio.ensure_future(client.execute(GetTask(task_id="unsent"))))
            await asyncio.sleep(0)
        async with asyncio.timeout(SOON_S):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in outcomes] == [Unavailable] * 4
        with pytest.raises(Unavailable, match="closed"):
            await client.execute(task(2))


async def test_what_the_block_raises_comes_out_bare(server: RealServer) -> None:
    """An exception raised in the caller's block is not wrapped, even with calls in flight."""
    calls: list[asyncio.Future[Any]] = []

    async def fail() -> None:
        async with Client.open(server.url) as client:
            calls.append(asyncio.ensure_future(client.execute(GetStats())))
            await asyncio.sleep(0)
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()
    with pytest.raises(Unavailable):
        await calls[0]


async def test_a_refused_request_refuses_all_its_calls(server: RealServer) -> None:
    """An error for a whole request, such as for one that is not an array, is raised in each of its calls."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer._reply = lambda message: writer._bus.send(  # type: ignore[method-assign,assignment]
            message.reply, b'[{"error": {"code": "refused", "message": "no"}}]'
        )
        writer.held = True
        calls = [asyncio.ensure_future(client.execute(task(number))) for number in range(4)]
        await writer.until_asked(1)
        writer.release()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in outcomes] == [Refused] * 4


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xff", b"[1]", b"[]", b'[{"epoch": "x", "ok": 1}]', b"[" * 9999])
async def test_garbage_for_an_answer_is_an_error_of_that_call(server: RealServer, garbage: bytes) -> None:
    """An unreadable answer fails the call with a CoordinationError, and the next call works."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        usual = writer._reply
        writer._reply = lambda message: writer._bus.send(message.reply, garbage)  # type: ignore[method-assign,assignment]
        with pytest.raises(CoordinationError):
            await client.execute(task(1))
        writer._reply = usual  # type: ignore[method-assign]
        assert await client.execute(task(2)) == "task_2"


# --- the past ---------------------------------------------------------------------------------------------------------


async def test_a_follower_that_is_not_ready_is_asked_again(server: RealServer) -> None:
    """A question to the read model waits for a follower to start, and returns its answer."""
    asked: list[bytes] = []

    async with Bus.open(server.url, name="follower") as bus, Client.open(server.url) as client:

        def answer(message: Message) -> None:
            asked.append(message.data)
            behind = b'{"error": {"code": "unavailable", "message": "opening", "retry_after_s": 0.01}}'
            bus.send(message.reply, behind if len(asked) < 3 else b'{"ok": "17.0", "position": "17.0"}')

        await bus.subscribe(SUBJECTS.read_all, answer)
        await bus.flush()
        assert await ask_follower(client, WhichPosition()) == "17.0"
        assert asked == [b"{}"] * 3
        with pytest.raises(CoordinationError, match="unreadable"):
            await ask_follower(client, HowFarBehind())


async def test_a_task_nobody_knows_is_not_found_even_without_followers(server: RealServer) -> None:
    """A task that the writer has evicted is found in the read model; without a follower the error says so."""
    async with writer_at(server.url) as writer, Client.open(server.url) as client:
        writer.answer = lambda _: {"error": {"code": "not_found", "message": "there is no task 'x'"}}
        with pytest.raises(NotFound, match=r"'x'.*; no follower answers for older tasks"):
            await find_task(client, "x", timeout_s=0.2)
