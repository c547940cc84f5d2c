"""
The writer's doors over a real NATS, and hostile input to them.

Each input is answered with what is wrong and what is allowed, nothing of it is recorded, and the next request is
answered normally.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.commands import COMMANDS
from coordinator.commands.budget import DefineBudget
from coordinator.commands.cluster import GetStats
from coordinator.commands.command import Command
from coordinator.commands.node import RegisterNode
from coordinator.commands.pool import DefinePool
from coordinator.commands.service import FindServices, RegisterService
from coordinator.commands.task import ClaimTasks, GetTask, ListTasks, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.rules import Limits
from coordinator.doors.micro import RequestStats
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.leadership.reign import open_doors
from coordinator.nats_server.server import EmbeddedServer
from coordinator.task_groups import task_group
from events.codec import encode, envelope
from events.errors import NotFound, Unavailable
from events.resources import Resources
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.e2e.conftest import Cluster

pytestmark = pytest.mark.e2e

SUBJECTS = Subjects()
SUBMIT = SUBJECTS.rpc("stranger", "task", "submit")
BAD_IDS = ["*", ">", "a.b", "a b", "a\0", "\0", "x" * 65, "ü", "../up", "$SYS", "a\r\nPUB x"]
PATIENCE_S = 5.0
ERROR_CHARS_MOST = 1200


class Stranger:
    """A client that can reach NATS and sends raw bytes."""

    def __init__(self, bus: Bus, journal: NatsJournal) -> None:
        self.bus = bus
        self._journal = journal

    async def ask(self, body: bytes | Any, subject: str = SUBMIT) -> list[dict[str, Any]]:
        """Send a request and return the answers."""
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        answers: list[dict[str, Any]] = json.loads(await self.bus.request(subject, raw, timeout_s=PATIENCE_S))
        return answers

    async def refused(self, body: bytes | Any, subject: str = SUBMIT) -> list[str]:
        """Send a request that must be refused, and return the message; it is short and says what to do."""
        answers = await self.ask(body, subject)
        for answer in answers:
            assert "error" in answer, answer
            assert answer["error"]["code"] in {"refused", "not_found", "stale_lease"}, answer
            assert answer["error"].get("reason") != "internal", answer
            assert len(answer["error"]["message"]) < ERROR_CHARS_MOST
        return [answer["error"]["message"] for answer in answers]

    async def recorded(self) -> int:
        """Return the last sequence of the journal."""
        return (await self._journal.bounds()).last


@asynccontextmanager
async def stranger_at(cluster: Cluster) -> AsyncIterator[Stranger]:
    """
    Be a stranger while the block runs.

    At the end it checks the door, its leader and the next request: the same reign, and no error was raised.
    """
    leader = cluster.coordinator.engine
    async with Bus.open(cluster.url, name="stranger", buffered=False) as bus:
        yield Stranger(bus, NatsJournal(bus, SUBJECTS))
    assert cluster.coordinator.engine is leader
    assert await cluster.client.execute(SubmitTask(task_id="after", task_name="n"), timeout_s=PATIENCE_S) == "after"


def submit(**data: Any) -> dict[str, Any]:
    return {"type": "submit_task", "data": {"task_id": "t", "task_name": "n", **data}}


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="object"),
        pytest.param(b"[" * 200_000, id="deep"),
        pytest.param(b'[{"type":"submit_task","data":' + b'{"a":' * 100_000, id="deep-in-data"),
        pytest.param(b'["' + b"x" * 900_000 + b'"]', id="megabyte-of-text"),
        pytest.param(b"[" + b"9" * 900_000 + b"]", id="megabyte-of-digits"),
        pytest.param(b"[" + b",".join([b"{}"] * 1001) + b"]", id="1001-commands"),
        pytest.param(b'[{"type":"' + b"y" * 900_000 + b'"}]', id="megabyte-of-type"),
    ],
)
async def test_what_is_no_request_is_answered_and_not_recorded(cluster: Cluster, body: bytes) -> None:
    """Not JSON, JSON bombs, too large: one short answer that says what to send."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        messages = await stranger.refused(body)
        assert len(messages) == 1
        assert any(
            hint in messages[0] for hint in ("send [{'id', 'type', 'data'}]", "at most 1000", "use one of", "send {")
        )
        assert await stranger.recorded() == before


async def test_a_full_request_of_refusals_is_answered(cluster: Cluster) -> None:
    """A thousand commands that are each refused with a long message still get a thousand answers."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        long = [{"type": "get_task", "data": {"task_id": "t", f"{number}" + "x" * 700: 1}} for number in range(1000)]
        messages = await stranger.refused(long, SUBJECTS.rpc("stranger", "task", "get"))
        assert len(messages) == 1000
        assert await stranger.recorded() == before


async def test_one_bad_command_holds_up_no_other(cluster: Cluster) -> None:
    """In one request each command is answered separately, in order."""
    async with stranger_at(cluster) as stranger:
        parts = [submit(task_id="one"), submit(priority=1.5), {"type": "no"}, 5, submit(task_id="two")]
        answers = await stranger.ask(parts)
        assert [answer.get("ok") for answer in answers] == ["one", None, None, None, "two"]
        assert "priority is 1.5: expected `int | str`, got `float`" in answers[1]["error"]["message"]
        assert {task.task_id for task in await cluster.client.execute(ListTasks())} == {"one", "two"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"priority": 10**40}, "priority"),
        ({"priority": "1"}, "priority '1' is not known"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_retries": 10**30}, "max_retries"),
        ({"timeout_s": -5}, "timeout_s"),
        ({"timeout_s": 1e300}, "timeout_s"),
        ({"resources": {"cpu_millis": -1}}, "cpu"),
        ({"resources": {"memory_bytes": 10**30}}, "memory"),
        ({"resources": {"cpu": "2"}}, "unknown field 'cpu'"),
        ({"task_name": ""}, "task_name"),
        ({"task_name": "n" * 5000}, "task_name"),
        ({"task_type": "\x1b[2J"}, "task_type"),
        ({"unknown": 1}, "unknown field 'unknown'"),
        ({"payload": {"encoding": "json", "digest": "0", "data": "1"}}, "digest"),
        ({"payload": {"encoding": "exe", "digest": "0" * 64, "data": "1"}}, "encoding"),
        ({"idempotency_key": "k" * 5000}, "idempotency_key"),
    ],
)
async def test_a_wrong_value_is_told_and_not_recorded(cluster: Cluster, data: dict[str, Any], said: str) -> None:
    """A number out of range, a text too long, an invalid digest: the error names the field."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        (message,) = await stranger.refused([submit(**data)])
        assert said in message, message
        assert await stranger.recorded() == before


# --- ids --------------------------------------------------------------------------------------------------------------

_VALUES: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}


def id_fields() -> list[tuple[type[Command], str]]:
    """Every field of every command that holds an identifier."""
    return [
        (command, field.name)
        for command in COMMANDS.values()
        for field in msgspec.structs.fields(command)
        if field.type is str and field.name.endswith("_id")
    ]


def filled(command: type[Command], **values: Any) -> dict[str, Any]:
    """Return valid data for a command in all required fields except *values*."""
    required = {field.name: _VALUES.get(field.type, {}) for field in msgspec.structs.fields(command) if field.required}
    others: dict[str, Any] = {"step": "told", "task": {"task_name": "n"}}
    if command is DefineBudget:
        others["terms"] = {"cap": 1}
    return {**{name: others.get(name, value) for name, value in required.items()}, **values}


async def test_no_id_of_any_command_may_be_anything_else(cluster: Cluster) -> None:
    """Wildcards, dots, NUL, 65 characters, protocol lines: refused in every id of every command, and not recorded."""
    fields = id_fields()
    assert len(fields) > 40
    wrong: dict[str, str] = {}
    async with stranger_at(cluster) as stranger:
        for made in (
            RegisterWorker(worker_id="x"),
            SubmitTask(task_id="x", task_name="n"),
            RegisterService(service_id="x", service_name="n", service_type="t", host="localhost", port=80),
            DefinePool(pool_id="x", capacity=Resources(cpu_millis=1)),
        ):
            await cluster.client.execute(made)
        before = await stranger.recorded()
        for command, field in fields:
            subject = SUBJECTS.rpc("stranger", command.KIND, command.VERB)
            name = next(name for name, one in COMMANDS.items() if one is command)
            bodies = [{"type": name, "data": filled(command, **{field: bad})} for bad in BAD_IDS]
            for bad, answer in zip(BAD_IDS, await stranger.ask(bodies, subject), strict=True):
                error = answer.get("error", {"code": "none", "message": "taken"})
                if (
                    error["code"] != "refused"
                    or error.get("reason") == "internal"
                    or "use 1 to 64" not in error["message"]
                ):
                    wrong[f"{name}.{field}"] = f"{bad!r}: {error}"
                assert len(error["message"]) < 300
        assert await stranger.recorded() == before
    assert not wrong, "\n".join(f"{field} = {what}" for field, what in wrong.items())


async def test_ids_around_a_command_are_checked_too(cluster: Cluster) -> None:
    """Tenant, command id and traceparent come from the sender too and are checked."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        for bad in BAD_IDS:
            parts = [{**submit(), "tenant": bad}, {**submit(), "id": bad}, {**submit(), "traceparent": "ü" + bad}]
            messages = await stranger.refused(parts)
            for word, message in zip(("tenant", "command id", "traceparent"), messages, strict=True):
                assert message.startswith(word), (bad, message)
        assert await stranger.recorded() == before


# --- subjects ---------------------------------------------------------------------------------------------------------


async def test_an_answer_says_until_when_an_idempotency_key_holds(cluster: Cluster) -> None:
    """For a week from the first time, also in the answer to a repeat under another id; nothing without a key."""
    orders = [
        {"type": "submit_task", "data": {"task_id": f"keyed-{number}", "task_name": "n", "idempotency_key": key}}
        for number, key in enumerate(("k", "k", ""))
    ]
    async with stranger_at(cluster) as stranger:
        first, again, without = await stranger.ask(orders)
    assert (first["ok"], again["ok"], without["ok"]) == ("keyed-0", "keyed-0", "keyed-2")
    assert first["key_holds_until"] == again["key_holds_until"] == pytest.approx(time.time() + 7 * 86_400, abs=3600)
    assert "key_holds_until" not in without


async def test_plain_secrets_are_warned_of(cluster: Cluster) -> None:
    """The answer names the variables and what to use; the value is in neither, and the container is created."""
    data = {"container_id": "c", "agent_id": "a", "agent_type": "task_agent"}
    plain = {"DB_PASSWORD": "hunter2", "ENV": "test", "API_TOKEN": {"secret": "api"}}
    subject = SUBJECTS.rpc("stranger", "container", "create")
    orders = [
        {"type": "create_container", "data": data | {"container_id": name, "environment": environment}}
        for name, environment in (
            ("plain", plain),
            ("fine", {"ENV": "test"}),
            ("refused", plain | {"HUGE": "x" * 40_000}),
        )
    ]
    async with stranger_at(cluster) as stranger:
        with capture_logs() as logs:
            await cluster.client.execute(RegisterNode(node_id="n", capacity=Resources(cpu_millis=1000), runtime="fake"))
            warned, fine, refused = await stranger.ask(orders, subject)
    assert (warned["ok"], fine["ok"]) == ("plain", "fine")
    assert warned["warning"].startswith("DB_PASSWORD in the environment look like secrets with plain values")
    assert "warning" not in fine
    assert (refused["error"]["reason"], "warning" in refused) == ("bad_environment", False)
    told = [one for one in logs if one["event"] == "plain_secrets"]
    assert [(one["container_id"], one["actor"], one["why"]) for one in told] == [
        ("plain", "stranger", warned["warning"])
    ]
    assert "hunter2" not in f"{logs} {warned}"


async def test_permissions_go_by_subject(cluster: Cluster) -> None:
    """A submit on the subject of cancels is refused: a client allowed to cancel may not be allowed to submit."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        (message,) = await stranger.refused([submit()], SUBJECTS.rpc("stranger", "task", "cancel"))
        assert message == "SubmitTask must be sent to ….task.submit, not to ….task.cancel"
        (message,) = await stranger.refused([submit()], SUBJECTS.rpc("stranger", "no", "such"))
        assert "must be sent to ….task.submit" in message
        assert await stranger.recorded() == before


async def test_who_asks_is_an_identifier(cluster: Cluster) -> None:
    """NATS allows publishing on a subject with a wildcard in it: such a name never becomes an actor."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        for source in ("*", ">", "ü", "x" * 65, "$SYS", "a/b"):
            (message,) = await stranger.refused([submit()], f"coordination.rpc.{source}.task.submit")
            assert message.startswith("source "), (source, message)
        assert await stranger.recorded() == before


async def test_a_request_that_nobody_waits_for_does_nothing(cluster: Cluster) -> None:
    """A command without a reply subject is not executed: a claim would lease tasks to nobody."""
    async with stranger_at(cluster) as stranger:
        await cluster.client.execute(SubmitTask(task_id="t", task_name="n"))
        await cluster.client.execute(RegisterWorker(worker_id="w"))
        before = await stranger.recorded()
        claim = {"type": "claim_tasks", "data": {"claim_id": "c", "worker_id": "w", "slots": 1}}
        await stranger.bus.publish(SUBJECTS.rpc("stranger", "task", "claim"), msgspec.json.encode([claim]))
        await stranger.bus.publish(SUBMIT, msgspec.json.encode([submit(task_id="unseen")]))
        await stranger.bus.publish(SUBMIT, b"[" * 100_000)
        await stranger.bus.flush()
        assert (await cluster.client.execute(GetTask(task_id="t"))).status.value == "pending"
        assert await stranger.recorded() == before


@pytest.mark.parametrize(
    "reply",
    [
        "coordination.journal",
        "coordination.epoch",
        "coordination.leader",
        "coordination.heartbeat.worker.w",
        "$JS.API.STREAM.PURGE.COORDINATION_JOURNAL",
        "$KV.COORDINATION_LEASE.writer",
        "orders.created",
        "*",
        "_INBOX.>",
    ],
)
async def test_nobody_has_the_writer_write_for_them(cluster: Cluster, reply: str) -> None:
    """A forged reply subject reaches neither the journal nor JetStream; the request is not executed."""
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        await stranger.bus.publish(SUBMIT, msgspec.json.encode([submit(task_id="forged")]), reply=reply)
        await stranger.bus.publish(
            SUBJECTS.rpc("s", "coordinator", "stats"), b'[{"type":"get_stats","data":{}}]', reply=reply
        )
        await stranger.bus.flush()
        with pytest.raises(NotFound):
            await cluster.client.execute(GetTask(task_id="forged"))
        assert await stranger.recorded() == before


async def test_headers_change_nothing(cluster: Cluster) -> None:
    """Headers of JetStream, of a status, or of any length do not affect a request."""
    tricks = {
        "Nats-Expected-Last-Sequence": "0",
        "Nats-Rollup": "all",
        "Status": "503",
        "Nats-TTL": "1s",
        "X": "y" * 4000,
    }
    async with stranger_at(cluster) as stranger:
        body = msgspec.json.encode([submit(task_id="t")])
        answer = await stranger.bus.request(SUBMIT, body, timeout_s=PATIENCE_S, headers=tricks)
        assert json.loads(answer)[0]["ok"] == "t"


async def test_doors_that_are_reached_again_are_announced(cluster: Cluster) -> None:
    """What was on its way when their connection was cut is lost: whoever waits for an answer hears to send it again."""
    engine = cluster.coordinator.engine
    assert engine is not None
    heard: asyncio.Queue[Any] = asyncio.Queue()
    async with (
        Bus.open(cluster.url, name="listener") as listener,
        Bus.open(cluster.url, name="doors", buffered=False) as doors,
    ):
        await listener.subscribe(SUBJECTS.leader, lambda message: heard.put_nowait(json.loads(message.data)))
        await listener.flush()
        async with open_doors(engine, doors, SUBJECTS, RequestStats()), asyncio.timeout(PATIENCE_S):
            assert await heard.get() == {"epoch": str(engine.epoch)}
            for opened in (2, 3):
                doors._client.abort()
                assert await heard.get() == {"epoch": str(engine.epoch), "opened": opened}
        doors._client.abort()
        await asyncio.sleep(0.5)
        assert heard.empty(), "closed doors are announced"


# --- heartbeats -------------------------------------------------------------------------------------------------------


def beat(event: ServiceHeartbeat | WorkerHeartbeat) -> bytes:
    return encode(envelope(event, position="beat", time="2026-01-01T00:00:00.000000Z", source="/stranger"))


async def test_heartbeats_that_are_none_are_dropped(cluster: Cluster) -> None:
    """Garbage, bombs, a heartbeat in another's name or for nobody: none changes anything; a valid one counts."""
    engine = cluster.coordinator.engine
    assert engine is not None
    for service_id in ("s", "victim"):
        await cluster.client.execute(
            RegisterService(service_id=service_id, service_name="n", service_type="t", host="localhost", port=80)
        )
    true = ServiceHeartbeat(service_id="s", load=0.5, connections=3)
    lies = {
        SUBJECTS.heartbeat("service", "s"): [
            b"",
            b"{}",
            b"\xff",
            b"[" * 50_000,
            beat(ServiceHeartbeat(service_id="victim", load=9.0)),
            beat(WorkerHeartbeat(worker_id="s")),
            beat(true).replace(b"0.5", b"-1"),
            beat(true).replace(b"0.5", b"1e999"),
            beat(true).replace(b'"connections":3', b'"connections":-3'),
            beat(true).replace(b'"connections":3', b'"connections":99999999999999999999999'),
        ],
        "coordination.heartbeat.s.s": [beat(true)],
        "coordination.heartbeat.*.s": [beat(true)],
        "coordination.heartbeat.service.*": [beat(ServiceHeartbeat(service_id="*"))],
        f"coordination.heartbeat.service.{'x' * 65}": [beat(ServiceHeartbeat(service_id="x" * 65))],
        SUBJECTS.heartbeat("service", "victim"): [beat(true)],
    }
    async with stranger_at(cluster) as stranger:
        before = await stranger.recorded()
        for subject, bodies in lies.items():
            for body in bodies:
                await stranger.bus.publish(subject, body)
        await stranger.bus.flush()
        views = {view.service.service_id: view for view in await cluster.client.execute(FindServices())}
        assert [views[one].reported for one in ("s", "victim")] == [None, None]
        await stranger.bus.publish(SUBJECTS.heartbeat("service", "s"), beat(true))
        await stranger.bus.flush()
        views = {view.service.service_id: view for view in await cluster.client.execute(FindServices())}
        reported = views["s"].reported
        assert reported is not None
        assert (reported.load, reported.connections) == (0.5, 3)
        assert views["victim"].reported is None
        assert await stranger.recorded() == before
    assert set(engine.signs.loads) == {"s"}


async def test_strangers_heartbeats_take_no_memory(cluster: Cluster) -> None:
    """Signs of something never registered are dropped at the next check."""
    engine = cluster.coordinator.engine
    assert engine is not None
    async with stranger_at(cluster) as stranger:
        for number in range(2000):
            await stranger.bus.publish(
                SUBJECTS.heartbeat("worker", f"w{number}"), beat(WorkerHeartbeat(worker_id=f"w{number}"))
            )
        await stranger.bus.flush()
        async with asyncio.timeout(PATIENCE_S):
            while engine.signs.workers or engine.signs.worker_loads:  # noqa: ASYNC110  # forgotten by the writer's clock
                await asyncio.sleep(0.02)


# --- overload ---------------------------------------------------------------------------------------------------------


async def test_overload_is_told_and_waited_out(tmp_path: Path) -> None:
    """A full intake refuses with a retry hint; clients follow it and complete every command, none twice."""
    limits = Limits(intake_max=20, turn_commands=5)
    async with EmbeddedServer(tmp_path / "nats") as server, task_group() as tasks:
        coordinator = Coordinator(Instance(url=server.url, name="small", version="0", limits=limits))
        running = tasks.create_task(coordinator.run())
        async with asyncio.timeout(30):
            await coordinator.leading.wait()
        async with Client.open(server.url) as client, Bus.open(server.url, name="flood") as bus:
            body = msgspec.json.encode([submit(task_id=f"f{number}") for number in range(200)])
            answers = json.loads(await bus.request(SUBMIT, body, timeout_s=PATIENCE_S))
            refused = [answer["error"] for answer in answers if "error" in answer]
            assert {(error["code"], error["reason"]) for error in refused} == {("unavailable", "overloaded")}
            assert all(error["retry_after_s"] > 0 and "engine.intake_max" in error["message"] for error in refused)
            assert len(refused) == 190
            submits = [client.execute(SubmitTask(task_id=f"t{number}", task_name="n")) for number in range(100)]
            assert len(await asyncio.gather(*submits)) == 100
            assert (await client.execute(GetStats())).tasks["pending"] == 110
        coordinator.stop("over")
        await running


async def test_who_claims_is_told_of_the_whole_way(cluster: Cluster) -> None:
    """A claim of the strangers' tasks works as usual after all that."""
    async with stranger_at(cluster) as stranger:
        await stranger.ask([submit(task_id="t"), submit(task_id="*"), submit(task_id="u")])
        await cluster.client.execute(RegisterWorker(worker_id="w"))
        given = await cluster.client.execute(ClaimTasks(claim_id="c", worker_id="w", slots=5))
        assert [task.task_id for task in given] == ["t", "u"]
        with pytest.raises(Unavailable, match="nobody listens"):
            await stranger.bus.request(SUBJECTS.node("nowhere", "logs"), b"{}", timeout_s=1)
