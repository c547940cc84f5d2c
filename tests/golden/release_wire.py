"""
One request and its answer for each command and each question, as bytes: recorded from a release, asked again later.

The requests are those that the release's own client wrote. Values that depend on the moment are masked, see `MASKED`;
everything else must stay the same, byte for byte once both are written with their keys in the same order.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import nats

from tests.golden.release_journal import Process, command, connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.client import Client as Connection
    from nats.aio.msg import Msg

NAMESPACE = "coordination"
SOURCE = "golden"
INBOX_DOMAIN = "execution"
START_S = 30.0
ANSWER_S = 10.0
"""How long an answer may take, and how long a question with `again` may be repeated until its answer is the same."""

MASKED = {
    "epoch": "which reign answered",
    "position": "which commit the answer is as of",
    "next": "likewise: a place in the journal where the next page begins",
    "time": "when the event was committed",
    "id": "of an event: its position",
    "at": "when it was",
    "heard_s_ago": "how long ago it was when it was asked",
    "generation": "the position of the event that started the container",
    "leader": "the name that an instance made for itself",
    "orders_id": "made by the coordinator",
    "stream_created": "when the server made the stream",
    "through": "how far a reader is: a slot of the journal",
    "journal": "which slots the journal has",
    "behind_s": "how long a reader was behind when it was asked",
    "message": "words for people",
    "error": "words for people, where it is no object",
}
"""
Fields that differ from run to run, and why. Names that end in `_at` are times, and an array of two whole numbers is a
position, as is a follower's answer to `position` and `wait`: these are masked too.
"""
GAINED = {
    "registration": "names a registration of a worker",
    "key_holds_until": "until when an idempotency key is remembered",
    "check_ms": "how long the checks of a service take",
    "number": "the number of a check",
    "warning": "what the sender of a command should know",
    "causationid": "which event caused an event",
    "last_exit": "how a container last ended",
    "latest": "of a task: the event that the next one about it names as its cause",
    "owned": "whether what an event creates belongs to its actor",
}
"""Fields that answers have gained since; a client of that release skips them."""
GAINED_BY = {
    ("container_id", "created_at"): ("source",),
    ("session_id", "bound_at"): ("source",),
    ("worker_id", "registered_at"): ("source",),
    ("pool_id", "defined"): ("source", "tenant"),
    ("request_id", "allocated_at"): ("source", "tenant"),
    ("journal", "store"): ("size",),
}
"""Fields that only some things have gained: whose they are, which tasks and services had; how large a store is."""
ECHOED = ("lease", "generation", "orders_id")
"""Values that a later request repeats from an answer: replaced by those that the present coordinator returned."""

_is_position = re.compile(r"\d+\.\d+").fullmatch
_is_code = re.compile(r"[a-z0-9]+(?:[_.:-][a-z0-9]+)*").fullmatch

_PAYLOAD = {
    "encoding": "json",
    "data": "[1,2]",
    "digest": "49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
}
_AGENT = {"agent_id": "agent_1", "agent_type": "task_agent"}
_SMALL = {"cpu_millis": 500, "memory_bytes": 1_048_576}

STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("register_worker", {"worker_id": "w1", "slots": 8, "handles": ["sum", "wait"]}),
    ("submit_task", {"task_id": "t1", "task_name": "sum", "payload": "$payload", "priority": 3}),
    ("submit_task", {"task_id": "t2", "task_name": "sum", "max_retries": 1, "idempotency_key": "key/2"}),
    ("submit_task", {"task_id": "t3", "task_name": "wait", "timeout_s": 60.0, "task_type": "slow"}),
    ("submit_task", {"task_id": "t4", "task_name": "wait", "resources": _SMALL}),
    ("submit_task", {"task_id": "t5", "task_name": "wait"}),
    ("submit_task", {"task_id": "t6", "task_name": ""}),
    ("claim_tasks", {"claim_id": "c1", "worker_id": "w1", "slots": 4, "strategy": "fifo"}),
    ("claim_tasks", {"claim_id": "c2", "worker_id": "w1", "slots": 1, "wait_s": 0.5, "strategy": "priority"}),
    ("progress_task", {"task_id": "t1", "lease": "c1.1.1", "progress": 0.5, "message": "half"}),
    ("complete_task", {"task_id": "t1", "lease": "c1.1.1", "execution_time_s": 0.25, "result": "$payload"}),
    ("complete_task", {"task_id": "t2", "lease": "c0.1.1"}),
    ("fail_task", {"task_id": "t2", "lease": "c1.2.1", "error": "no", "retry": False}),
    ("release_task", {"task_id": "t3", "lease": "c1.3.1", "reason": "drained"}),
    ("cancel_task", {"task_id": "t4", "reason": "done"}),
    ("withdraw_claim", {"claim_id": "c2", "worker_id": "w1"}),
    ("get_task", {"task_id": "t1"}),
    ("get_task", {"task_id": "t9"}),
    ("list_tasks", {"status": "completed", "limit": 5}),
    ("list_tasks", {}),
    ("list_workers", {"limit": 5}),
    ("drain_worker", {"worker_id": "w1", "reason": "done"}),
    ("leave_worker", {"worker_id": "w1", "reason": "done"}),
    ("register_service", {"service_id": "s1", "service_name": "search", "service_type": "http", "host": "127.0.0.1",
                          "port": 8080, "tags": ["eu"], "metadata": {"release": "1"}, "weight": 5}),
    ("register_service", {"service_id": "s2", "service_name": "search", "service_type": "http", "host": "10.0.0.7",
                          "port": 80, "health_check_url": "http://10.0.0.7/health"}),
    ("register_service", {"service_id": "s3", "service_name": "search", "service_type": "http", "host": "a b",
                          "port": 80}),
    ("heartbeat_service", {"service_id": "s1", "load": 0.5, "connections": 3, "response_time_ms": 1.5}),
    ("report_check", {"service_id": "s1", "ok": True, "check": "http", "detail": "200", "latency_ms": 2.5}),
    ("get_service", {"service_id": "s1"}),
    ("find_services", {"service_name": "search", "status": "healthy", "tag": "eu"}),
    ("find_services", {"after": ""}),
    ("get_health_history", {"service_id": "s1", "limit": 5}),
    ("deregister_service", {"service_id": "s1", "reason": "done"}),
    ("register_node", {"node_id": "n1", "capacity": {"cpu_millis": 4000, "memory_bytes": 8_589_934_592},
                       "runtime": "fake", "labels": {"zone": "eu"}}),
    ("sync_node", {"node_id": "n1"}),
    ("cordon_node", {"node_id": "n1", "reason": "repair"}),
    ("create_container", {"container_id": "k0", **_AGENT}),
    ("uncordon_node", {"node_id": "n1"}),
    ("list_nodes", {"limit": 5}),
    ("create_container", {"container_id": "k1", **_AGENT, "resources": _SMALL, "session_id": "u1",
                          "environment": {"MODE": "fast", "TOKEN": {"secret": "token"}}}),
    ("start_container", {"container_id": "k1"}),
    ("sync_node", {"node_id": "n1", "observed": [
        {"container_id": "k1", "generation": "$generation", "state": "running", "pid": 42}]}),
    ("pause_container", {"container_id": "k1"}),
    ("sync_node", {"node_id": "n1", "observed": [
        {"container_id": "k1", "generation": "$generation", "state": "paused", "pid": 42}]}),
    ("get_container", {"container_id": "k1", "unless": ["running"], "wait_s": 1.0}),
    ("resume_container", {"container_id": "k1"}),
    ("sync_node", {"node_id": "n1", "observed": [
        {"container_id": "k1", "generation": "$generation", "state": "running", "pid": 42}]}),
    ("bind_session", {"session_id": "u2", "container_id": "k1"}),
    ("get_session", {"session_id": "u2"}),
    ("close_session", {"session_id": "u2", "reason": "done"}),
    ("stop_container", {"container_id": "k1", "force": True, "reason": "done"}),
    ("sync_node", {"node_id": "n1", "observed": [
        {"container_id": "k1", "generation": "$generation", "state": "exited", "exit_code": 0}]}),
    ("list_containers", {"limit": 5}),
    ("destroy_container", {"container_id": "k1", "force": True}),
    ("define_pool", {"pool_id": "p1", "capacity": {"cpu_millis": 1000}}),
    ("allocate_pool", {"pool_id": "p1", "request_id": "r1", "resources": {"cpu_millis": 600}, "priority": 2}),
    ("allocate_pool", {"pool_id": "p1", "request_id": "r2", "resources": {"cpu_millis": 600}}),
    ("get_pool", {"pool_id": "p1"}),
    ("release_pool", {"pool_id": "p1", "request_id": "r1"}),
    ("accept_silence", {"kind": "worker", "reason": "gone"}),
    ("get_stats", {}),
)  # fmt: skip
"""What the client does, in this order, on a journal of its own; `$…` stands for a value from an earlier answer."""

RAW: tuple[tuple[str, bytes], ...] = (
    ("rpc.golden.task.submit", (b'[{"type":"submit_task","data":{"task_id":"x1","task_name":"sum"},"tenant":"acme",'
     b'"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},'
     b'{"type":"submit_task","data":{"task_id":"x1","task_name":"other"}},{"type":"submit_taks","data":{}}]')),
    ("rpc.golden.task.submit", b'[{"type":"submit_task","data":{"task_id":"x2","task_name":"sum","retries":3}}]'),
    ("rpc.golden.task.submit", b'[{"type":"cancel_task","data":{"task_id":"x1"}}]'),
    ("rpc.golden.task.submit", b'{"no":"array"}'),
    ("rpc.golden.task.submit", b'[{"type":"submit_task","data":{"task_id":"a.b","task_name":"sum"}}]'),
    ("rpc.golden.worker.register", b'[{"type":"register_worker","data":{"worker_id":"w2","slots":0}}]'),
)  # fmt: skip
"""What a client in another language might send: several at once, and requests that are refused."""

READS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("wait", {"position": "12.0", "timeout_s": 5}),
    ("get", {"kind": "task", "id": "t1", "at_least": "12.0"}),
    ("list", {"kind": "service", "limit": 2}),
    ("events", {"subject": "t1", "type": "task.", "limit": 2}),
    ("position", {}),
    ("lag", {}),
    ("get", {"kind": "thing", "id": "t1"}),
)
"""Questions to a follower; a position in them is one that every run has passed."""

INBOX_MESSAGE = (
    b'{"specversion":"1.0","id":"e1","source":"/executor/7","type":"task.submitted","subject":"from_inbox",'
    b'"data":{"task_name":"sum"}}'
)


class Exchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and its answer; bodies that are not UTF-8 do not occur. `again`: repeat until the answers match."""

    subject: str
    request: str
    answer: str
    request_headers: dict[str, str] | None = None
    answer_headers: dict[str, str] | None = None
    again: bool = False


class Tap:
    """Receives every message on a server; pairs requests of our source with the first answer to each, in order."""

    def __init__(self) -> None:
        self._requests: dict[str, Msg] = {}
        self._answers: dict[str, Msg] = {}

    async def hear(self, message: Msg) -> None:
        """Receive a message."""
        if message.subject.startswith(f"{NAMESPACE}.rpc.{SOURCE}.") and message.reply:
            self._requests.setdefault(message.reply, message)
        else:  # an answer may arrive before its request
            self._answers.setdefault(message.subject, message)

    async def exchanges(self, count: int) -> list[Exchange]:
        """Return so many pairs, once they are there."""
        async with asyncio.timeout(ANSWER_S):
            while len(self._requests.keys() & self._answers.keys()) < count:  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.01)
        return [_exchange(request, self._answers[reply]) for reply, request in self._requests.items()]


@asynccontextmanager
async def recorded_with(home: Path, url: str) -> AsyncIterator[None]:
    """Run a coordinator and its follower, and make an inbox, as for the recording: with the default settings."""
    questions = (("rpc", "coordinator.stats", b'[{"type":"get_stats","data":{}}]'), ("read", "position", b"{}"))
    code, _, error = await command(home, "inbox", "add", INBOX_DOMAIN, url=url)
    assert code == 0, error
    async with Process.running(home, "serve", url=url):
        async with connected(url) as connection, asyncio.timeout(START_S):
            for kind, verb, body in questions:
                subject = f"{NAMESPACE}.{kind}.{SOURCE}.{verb}"
                while True:
                    with suppress(nats.errors.NoRespondersError, nats.errors.TimeoutError):
                        answer = (await connection.request(subject, body, timeout=1.0)).data
                        if b'"error"' not in answer:
                            break
                    await asyncio.sleep(0.1)
        yield


async def record(url: str) -> list[Exchange]:
    """Make the client of this release execute `STEPS`, then send `RAW` and `READS`, and return the NATS traffic."""
    # The only places where a witness needs the release's own modules: what they write is what it records.
    from coordinator.client.client import Client
    from coordinator.commands import COMMANDS

    assert {name for name, _ in STEPS} | {"list_inboxes"} == set(COMMANDS), "a command has no step"
    async with connected(url) as connection:
        found = await _recorded_steps(url, Client, COMMANDS)
        for subject, body in RAW:
            found.append(await _asked(connection, f"{NAMESPACE}.{subject}", body))
        await publish_into_inbox(connection)
        subject, body = f"{NAMESPACE}.rpc.{SOURCE}.inbox.list", b'[{"type":"list_inboxes","data":{}}]'
        async with asyncio.timeout(ANSWER_S):
            while b'"sequence":1' not in (await _ask(connection, subject, body)).data:  # noqa: ASYNC110  # over NATS
                await asyncio.sleep(0.1)
        found.append(await _asked(connection, subject, body, again=True))
        for verb, question in READS:
            subject = f"{NAMESPACE}.read.{SOURCE}.{verb}"
            found.append(await _asked(connection, subject, msgspec.json.encode(question), again=True))
    return found


async def _recorded_steps(url: str, client_class: Any, commands: dict[str, Any]) -> list[Exchange]:
    """Make a client execute `STEPS`, and return what a third connection received of it."""
    tap = Tap()
    given: dict[str, str] = {}
    async with connected(url) as connection:
        await connection.subscribe(f"{NAMESPACE}.>", cb=tap.hear)
        await connection.subscribe("_INBOX.>", cb=tap.hear)
        await connection.flush()
        async with client_class.open(url, source=SOURCE) as client:
            for name, data in STEPS:
                command = msgspec.convert(_filled(data, given), commands[name])
                answer = msgspec.json.decode(msgspec.json.encode(await client.answer(command)))
                given |= {f"${key}": value for key, value in _named(answer, ("generation",))}
        return await tap.exchanges(len(STEPS))


async def replay(url: str, recorded: list[Exchange]) -> list[str]:
    """Send recorded requests again, in order, to a fresh journal; return how each changed answer differs."""
    differences = []
    instead: dict[str, str] = {}
    inbox_is_told = False
    async with connected(url) as connection:
        for exchange in recorded:
            if exchange.again and not inbox_is_told:
                await publish_into_inbox(connection)
                inbox_is_told = True
            body = exchange.request
            for before, now in instead.items():
                body = body.replace(f'"{before}"', f'"{now}"')
            if difference := await _difference(connection, exchange, body.encode(), instead):
                differences.append(f"{exchange.subject} {exchange.request[:300]}\n{difference}")
    return differences


async def publish_into_inbox(connection: Connection) -> None:
    """Publish a fact into the inbox of another domain, which creates a task."""
    subject = f"{NAMESPACE}.inbox.{INBOX_DOMAIN}.task.submitted"
    await connection.request(subject, INBOX_MESSAGE, timeout=ANSWER_S, headers={"Nats-Msg-Id": "e1"})


def masked(answer: bytes) -> str:
    """Return an answer as JSON with sorted keys, volatile values masked by their kind."""
    return msgspec.json.encode(_mask(msgspec.json.decode(answer)), order="sorted").decode()


async def _difference(connection: Connection, exchange: Exchange, body: bytes, instead: dict[str, str]) -> str:
    wanted = masked(exchange.answer.encode())
    give_up = asyncio.get_running_loop().time() + ANSWER_S
    while True:
        answer = (await _ask(connection, exchange.subject, body, exchange.request_headers)).data
        found = masked(answer)
        if found == wanted or not exchange.again or asyncio.get_running_loop().time() > give_up:
            break
        await asyncio.sleep(0.1)
    before, now = (list(_named(msgspec.json.decode(one), ECHOED)) for one in (exchange.answer, answer))
    if len(before) == len(now):
        instead.update({old: new for (_, old), (_, new) in zip(before, now, strict=True) if old != new})
    return "" if found == wanted else f"  then {wanted}\n  now  {found}"


async def _ask(connection: Connection, subject: str, body: bytes, headers: dict[str, str] | None = None) -> Msg:
    return await connection.request(subject, body, timeout=ANSWER_S, headers=headers)


async def _asked(connection: Connection, subject: str, body: bytes, *, again: bool = False) -> Exchange:
    answer = await _ask(connection, subject, body)
    return Exchange(
        subject=subject, request=body.decode(), answer=answer.data.decode(), answer_headers=answer.headers, again=again
    )


def _exchange(request: Msg, answer: Msg) -> Exchange:
    return Exchange(
        subject=request.subject,
        request=request.data.decode(),
        answer=answer.data.decode(),
        request_headers=request.headers,
        answer_headers=answer.headers,
    )


def _filled(value: Any, given: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, given) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, given) for inner in value]
    return _PAYLOAD if value == "$payload" else given.get(value, value) if isinstance(value, str) else value


def _named(value: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Return the texts under these names anywhere in a value, in order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in names and isinstance(inner, str):
                yield key, inner
            else:
                yield from _named(inner, names)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, names)


def _gained_by(value: dict[str, Any]) -> tuple[str, ...]:
    """Return the fields that the thing *value* has gained, told by two that it always had."""
    if "service_id" in value:
        return ()
    return next((gained for has, gained in GAINED_BY.items() if has[0] in value and has[1] in value), ())


def _mask(value: Any, name: str = "") -> Any:
    if (name in MASKED or name.endswith("_at")) and not (name == "error" and isinstance(value, dict)):
        if name == "id" and not _is_position(str(value)):
            return value
        if name in ("message", "error") and _is_code(str(value)):
            return value
        return "null" if value is None else f"<{name}>"
    if isinstance(value, dict):
        gained = {*GAINED, *_gained_by(value)}
        return {key: _mask(inner, key) for key, inner in value.items() if key not in gained}
    if isinstance(value, list):
        is_position = len(value) == 2 and all(type(inner) is int for inner in value)
        return "<position>" if is_position else [_mask(inner) for inner in value]
    if name == "ok" and isinstance(value, str) and _is_position(value):
        return "<position>"
    if name in ("reason", "detail") and isinstance(value, str) and value and not _is_code(value):
        return "<words>"
    return value
