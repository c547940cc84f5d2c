"""Thousands of hostile inputs through every door, with permissions and without: none is accepted, none does harm."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.doors.inbox import InboxLimits, inbox_stream
from coordinator.errors import CoordinationError
from coordinator.follower.feed import FeedLimits
from coordinator.follower.follower import Follower
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.nats_server.server import EmbeddedServer
from coordinator.node.node_agent import NodeAgent
from coordinator.runtime.fake import FakeRuntime
from coordinator.security.permissions import grant_of, may_publish, user_of
from coordinator.task_groups import task_group
from events import codec
from events.resources import Resources
from events.subjects import Subjects
from tests.hostile import CANARY, Hostile, corpus
from tests.secured import secured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from coordinator.bus.subscription import Message

pytestmark = pytest.mark.e2e

S = Subjects()
ATTACKER = "execution"
PATIENCE_S = 30.0
USERS = {"node": user_of("admin"), "other": user_of("domain", ATTACKER)}
LARGEST = 1024 * 1024
AT_ONCE = 100
LOG_LINES_MOST = 300
"""The total of inputs: one log line for each would be thousands."""


class System:
    """What is attacked, and by whom: `attackers` are connections by door, `client` is a well-behaved client."""

    may: Callable[[Hostile], bool] = staticmethod(lambda _: True)
    """Whether the server lets an input pass."""

    def __init__(self, attackers: dict[str, Bus], client: Client, journal: NatsJournal, admin: Bus) -> None:
        self.attackers = attackers
        self.client = client
        self.journal = journal
        self.admin = admin
        self.slowest_s = 0.0

    async def ask(self) -> None:
        """Assert that the writer answers within its time."""
        began = time.monotonic()
        await self.client.execute(GetStats(), timeout_s=PATIENCE_S)
        self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def recorded(self, after: int) -> Counter[str]:
        """Count the events of the journal after *after*, by type."""
        found: Counter[str] = Counter()
        async for records in self.journal.read(after, (await self.journal.bounds()).last):
            for record in records:
                assert record.kind in ("commit", "claim")
                if record.kind == "commit":
                    found.update(one.type for one in codec.decode(record.body))
        return found

    async def messages(self, stream: str) -> int:
        """Count the messages of a stream."""
        count: int = (await self.admin.js_request(f"STREAM.INFO.{stream}", timeout_s=PATIENCE_S))["state"]["messages"]
        return count


Login = dict[str, Any]


@asynccontextmanager
async def system(url: str, login_of: Callable[[str, str], Login], folder: Path) -> AsyncIterator[System]:
    """Run a coordinator, a follower and a node over the NATS at *url*, each with its own login."""

    def connect(role: str, name: str = "") -> AbstractAsyncContextManager[Bus]:
        return Bus.open(url, name=f"{role}-{name}", connect_timeout_s=PATIENCE_S, **login_of(role, name))

    coordinator = Coordinator(Instance(url=url, name="attacked", version="1", **login_of("coordinator", "")))
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(connect("admin"))
        await ensure_stream(admin, inbox_stream(S, ATTACKER, InboxLimits()))
        await ensure_stream(admin, inbox_stream(S, "monitoring", InboxLimits()))
        tasks = await stack.enter_async_context(task_group())
        serving = tasks.create_task(coordinator.run())
        async with asyncio.timeout(PATIENCE_S):
            await coordinator.leading.wait()
        await stack.enter_async_context(
            Follower.open(url, folder / "state.db", feed=FeedLimits(), **login_of("follower", ""))
        )
        agent = await stack.enter_async_context(Client.open(url, **login_of("node", "n1")))
        runtime = await stack.enter_async_context(FakeRuntime(cluster="coordination", now=time.time))
        node = await stack.enter_async_context(
            NodeAgent.open(agent, runtime, node_id="n1", capacity=Resources(), reach={}, secrets=folder, interval_s=0.5)
        )
        async with asyncio.timeout(PATIENCE_S):
            await node.ready.wait()
        attacker = await stack.enter_async_context(connect("domain", ATTACKER))
        client = await stack.enter_async_context(Client.open(url, **login_of("monitor", "")))
        attackers = {"rpc": attacker, "read": attacker, "heartbeat": attacker, "inbox": attacker, "node": admin}
        try:
            yield System(attackers, client, NatsJournal(admin, S), admin)
            assert coordinator.leading.is_set()
            assert not serving.done()
        finally:
            coordinator.stop("the test is over")


@asynccontextmanager
async def without_permissions(folder: Path) -> AsyncIterator[System]:
    async with EmbeddedServer(folder / "nats") as server, system(server.url, lambda *_: {}, folder) as running:
        yield running


@asynccontextmanager
async def with_permissions(folder: Path) -> AsyncIterator[System]:
    async with secured(folder / "auth") as server:

        def login_of(role: str, name: str) -> Login:
            return {"creds": str(server.directory.credentials(user_of(role, name))), "tls_ca": None}

        grants = {name: grant_of(user, S, [ATTACKER]) for name, user in USERS.items()}
        async with system(server.url, login_of, folder) as running:
            running.may = lambda one: may_publish(grants["node" if one.door == "node" else "other"], one.subject)
            yield running


class Answers:
    """The answers to each input."""

    def __init__(self) -> None:
        self.by_number: dict[int, bytes] = {}

    async def listen(self, bus: Bus) -> str:
        inbox = bus.new_inbox()
        await bus.subscribe(f"{inbox}.*", self._take)
        return inbox

    def _take(self, message: Message) -> None:
        self.by_number[int(message.subject.rpartition(".")[2])] = message.data


@pytest.mark.timeout(230)
@pytest.mark.parametrize("run", [without_permissions, with_permissions], ids=["without", "with"])
async def test_nothing_hostile_is_taken(
    run: Callable[[Path], AbstractAsyncContextManager[System]],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Every input is refused or dropped; the writer keeps answering, and the journal records refusals at most."""
    inputs = corpus(ATTACKER)
    if run is with_permissions:
        # Only the administrator may ask nodes there, and a user in the account of the streams can do more harm.
        inputs = [one for one in inputs if one.door != "node" or one.reply is None]
        # A wildcard as reply makes nats-server lose the destination of answers in flight, for the whole account of the
        # sender, whose clients ask again.
        inputs = [one for one in inputs if "*" not in (one.reply or "") and ">" not in (one.reply or "")]
    assert len(inputs) > 4000
    with capture_logs() as lines:
        async with run(tmp_path) as running:
            await running.attackers["heartbeat"].publish(S.heartbeat("service", CANARY), b"{}")
            await running.ask()
            before = (await running.journal.bounds()).last
            lines.clear()
            answers = await send_all(running, inputs)
            taken = [(one, answers[n]) for n, one in enumerate(inputs) if n in answers and was_taken(one, answers[n])]
            assert taken == []
            passed = sum(running.may(one) for one in inputs)
            assert passed > 0.9 * len(inputs)
            sent = [(n, one) for n, one in enumerate(inputs) if len(one.body) < LARGEST]
            denied = [one for n, one in sent if n in answers and not running.may(one)]
            assert denied == []
            stored = sum(one.door == "inbox" for one in inputs)
            await until_read(running, stored)
            after = await running.recorded(before)
            assert set(after) <= {"inbox.refused", "inbox.read"}, after
            assert after["inbox.refused"] >= stored
            assert await running.messages(S.stream_heartbeats) > 0
            assert await running.messages(S.stream_inbox("monitoring")) == 0
            canary = {"last_by_subj": S.heartbeat("service", CANARY)}
            await running.admin.js_request(f"STREAM.MSG.GET.{S.stream_heartbeats}", canary, timeout_s=PATIENCE_S)
            # What an attacker's own program logs does not count.
            events = Counter(line["event"] for line in lines if line["event"] != "nats_publish_forbidden")
            assert sum(events.values()) < LOG_LINES_MOST, events
            assert not [event for event in events if "crashed" in event or "failed" in event], events
    record_property("inputs", len(inputs))
    record_property("log_lines", sum(events.values()))
    record_property("slowest_answer_s", round(running.slowest_s, 3))
    assert running.slowest_s < PATIENCE_S


async def send_all(running: System, inputs: list[Hostile]) -> dict[int, bytes]:
    """Send everything, some of it concurrently, and return the answers; the writer must answer throughout."""
    answers = Answers()
    inboxes = {bus: await answers.listen(bus) for bus in set(running.attackers.values())}
    for start in range(0, len(inputs), AT_ONCE):
        some = list(enumerate(inputs))[start : start + AT_ONCE]
        expected: set[int] = set()
        for number, one in some:
            bus = running.attackers[one.door.partition("-")[0]]
            reply = f"{inboxes[bus]}.{number}" if one.reply is None else one.reply
            try:
                await bus.publish(one.subject, one.body, reply=reply, headers=one.headers)
            except CoordinationError as error:  # inputs that cannot be sent
                answers.by_number[number] = msgspec.json.encode([{"error": error.message}])
            else:
                expected.update({number} if one.reply is None and running.may(one) else ())
        await running.ask()
        give_up_at = time.monotonic() + PATIENCE_S
        while (missing := expected - set(answers.by_number)) and time.monotonic() < give_up_at:
            await running.ask()
        assert not missing, [(inputs[one].subject, inputs[one].body[:200], inputs[one].headers) for one in missing]
    return answers.by_number


def was_taken(one: Hostile, answer: bytes) -> bool:
    """Return whether an answer is anything other than an error."""
    told: Any = msgspec.json.decode(answer) if answer else {}
    if one.door == "inbox":
        return False  # an acknowledged store proves nothing: the record in the journal counts
    if one.door == "rpc" and isinstance(told, list):
        # A search that finds nothing is a valid answer too.
        return not all("error" in each or each["ok"] == [] for each in told)
    return "error" not in (told[0] if isinstance(told, list) else told)


async def until_read(running: System, count: int) -> None:
    """Wait until the inbox is read, whatever the outcome."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await running.client.execute(GetStats())
            last = (await running.journal.bounds()).last
            refused = (await running.recorded(0))["inbox.refused"]
            if refused >= count or last < 0:
                return
            await asyncio.sleep(0.1)
