"""
Hostile inputs: thousands for every door, generated from a seed; none may be accepted.

Each is wrong in its own way: an id that is a pattern or a path, a quantity that overflows, a JSON bomb, text with
terminal control characters, headers that make JetStream do something else, reply subjects that would make us publish
with our own permissions.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from coordinator.commands import COMMANDS
from coordinator.commands.reads import VERBS
from events.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Iterator

S = Subjects()
CANARY = "untouched"

HOSTILE_IDS = (
    *("", " ", "*", ">", "a.b", "a b", "a\tb", "a\r\nb", "a\x00b", "../../etc/passwd", "/etc/passwd", "..", "."),
    *("$JS.API.STREAM.DELETE.X", "_INBOX.x", "x" * 65, "x" * 100_000, "é", "аdmin", "a\u200bb", "\u202eabc"),
    *(
        "'; DROP TABLE tasks; --",
        "${jndi:ldap://x}",
        "{{7*7}}",
        "%s%n",
        "<script>",
        "\ud800",
        "𝕏",
        "\uff0e",
        "a\u2028b",
    ),
    *("-" * 65, "a/b", "a\\b", "a:b", "a@b", "a,b", "a;b", "~", "`id`", "$(id)", "COM1:", "\x7f"),
)
HOSTILE_TEXTS = (
    "\x1b[2J",
    "a\nb",
    "a\x00b",
    "\u202eevil",
    "\u2028",
    "\x9b31m",
    "x" * 70_000,
    "\ud800",
    "\x07",
    "\u2066a",
)
NOT_TEXT = ("1", "true", "{}", "[]", '[["a"]]', '{"a":{"b":1}}', "NaN", "1e5", "-0")
NOT_NUMBERS = ('"1"', "true", "{}", "[]", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, '"NaN"', "0x10")
FAR_NUMBERS = ("1e300", "-1e300", "9" * 30, "-" + "9" * 30, "1.7976931348623157e308")
NOT_OBJECTS = ("1", "true", '"x"', "[]", "[[]]", "NaN", '{"a":' * 3 + "1" + "}" * 2)
AMOUNTS = ('{"cpu_millis":-1}', '{"memory_bytes":-1}', '{"gpus":1e300}', '{"cpu_millis":1.5}', '{"cpu":"2"}')

VALID: dict[str, dict[str, Any]] = {
    "submit_task": {
        "task_id": "ok", "task_name": "n", "task_type": "t", "priority": 1, "timeout_s": 5.0, "max_retries": 1,
        "resources": {"cpu_millis": 1}, "idempotency_key": "k",
        "payload": {"encoding": "json", "data": "1", "digest": "0" * 64},
    },
    "claim_tasks": {"claim_id": "ok", "worker_id": "w", "slots": 1, "wait_s": 0.0, "strategy": "fifo"},
    "register_worker": {"worker_id": "ok", "slots": 1, "resources": {}, "handles": ["n"], "container_id": "c"},
    "register_service": {
        "service_id": "ok", "service_name": "n", "service_type": "t", "host": "h", "port": 80, "weight": 1,
        "health_check_url": "http://127.0.0.1/x", "tags": ["a"], "metadata": {"a": "b"}, "container_id": "c",
    },
    "create_container": {
        "container_id": "ok", "agent_id": "a", "agent_type": "task_agent", "resources": {}, "environment": {"A": "b"},
        "session_id": "s",
    },
    "register_node": {"node_id": "ok", "capacity": {"cpu_millis": 1}, "runtime": "fake", "labels": {"a": "b"}},
    "define_pool": {"pool_id": "ok", "capacity": {"cpu_millis": 1}},
    "allocate_pool": {"pool_id": "p", "request_id": "ok", "resources": {}, "priority": 1},
    "complete_task": {"task_id": "ok", "lease": "l", "worker_id": "w", "execution_time_s": 1.0},
    "fail_task": {"task_id": "ok", "error": "e", "lease": "l", "worker_id": "w", "retry": True},
    "progress_task": {"task_id": "ok", "lease": "l", "progress": 0.5, "message": "m"},
    "release_task": {"task_id": "ok", "lease": "l", "reason": "r"},
    "cancel_task": {"task_id": "ok", "reason": "r"},
    "heartbeat_service": {"service_id": "ok", "load": 0.1, "connections": 1, "response_time_ms": 1.0},
    "report_check": {"service_id": "ok", "ok": True, "check": "c", "detail": "d", "latency_ms": 1.0},
    "bind_session": {"session_id": "ok", "container_id": "c"},
    "sync_node": {"node_id": "ok", "observed": []},
    "get_task": {"task_id": "ok", "wait_s": 0.0},
    "find_services": {"service_name": "n", "limit": 1, "after": "a"},
    "list_tasks": {"limit": 1},
}  # fmt: skip
"""A valid command of each kind with many fields, to be made invalid."""

_FREE_TEXT = {"data", "ok", "retry"}

HEADERS: tuple[dict[str, str], ...] = (
    {"Nats-Rollup": "all"},
    {"Nats-Rollup": "sub"},
    {"Nats-TTL": "1s"},
    {"Nats-TTL": "never"},
    {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": S.journal},
    {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": S.inbox("monitoring", "task.done")},
    {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": S.heartbeat("worker", "w")},
    {"Nats-Expected-Last-Sequence": "999999999"},
    {"Nats-Expected-Last-Subject-Sequence": "999999999"},
    {"Nats-Expected-Last-Msg-Id": "nobody's"},
    {"Nats-Expected-Stream": S.stream_journal},
    {"Nats-Incr": "1"},
    {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
)
"""Each of these headers makes JetStream do something other than append a message; they must be refused."""

FORGED_REPLIES = (
    *(S.journal, S.epoch, S.leader, S.services, S.event("task.submitted"), S.heartbeat("worker", "w")),
    *(S.rpc("admin", "task", "cancel"), S.read("admin", "get"), S.node("n1", "logs"), S.notice("node", "n1")),
    *(S.inbox("monitoring", "task.done"), f"$JS.API.STREAM.DELETE.{S.stream_journal}", "$JS.API.INFO"),
    *(f"$JS.API.STREAM.PURGE.{S.stream_journal}", f"$KV.{S.bucket_lease}.writer", "$SYS.REQ.SERVER.PING"),
    *("_INBOX", "_INBOX.", "_INBOX.*", "_INBOX.>", "_INBOXES..a", "INBOX.a", "_INBOX.a b", f"_INBOX.{'a.' * 20}b"),
)


class Hostile(NamedTuple):
    """One input: its subject and body; `reply` is the reply subject, None for an inbox of the sender."""

    door: str
    subject: str
    body: bytes
    headers: dict[str, str] | None = None
    reply: str | None = None


def corpus(source: str, *, seed: int = 1) -> list[Hostile]:
    """Return every input, sent by *source*, in an order that depends on *seed*."""
    made = [*_rpc(source), *_heartbeats(), *_reads(source), *_nodes(), *_inboxes(source), *_rubbish(source, seed)]
    random.Random(seed).shuffle(made)
    return made


# --- the RPC door -----------------------------------------------------------------------------------------------------


def _rpc(source: str) -> Iterator[Hostile]:
    for name, data in VALID.items():
        subject = S.rpc(source, COMMANDS[name].KIND, COMMANDS[name].VERB)
        for body in _commands(name, data):
            yield Hostile("rpc", subject, body)
    submit = S.rpc(source, "task", "submit")
    for body in (*_bombs(), *_envelopes()):
        yield Hostile("rpc", submit, body)
    good = _request("submit_task", json.dumps(VALID["submit_task"] | {"task_id": "forged"}))
    question = b'[{"type":"get_stats","data":{}}]'
    for reply in FORGED_REPLIES:
        yield Hostile("rpc", S.rpc(source, "coordinator", "stats"), question, reply=reply)
    for subject in (S.rpc(source, "task", "cancel"), S.rpc(source, "worker", "register"), S.rpc(source, "x", "y")):
        yield Hostile("rpc", subject, good)
    for headers in HEADERS:
        yield Hostile("rpc", submit, b"[{}]", headers)


def _commands(name: str, data: dict[str, Any]) -> Iterator[bytes]:
    for field, value in data.items():
        for wrong in _wrong(field, value):
            yield _request(name, _with(data, field, wrong))
    yield _request(name, _with(data, "more", "1"))
    for first in list(data)[:1]:
        # The last one counts; a parser that takes the first would read something else.
        yield _request(name, f'{{"{first}":{json.dumps(data[first])},{_with(data, first, _text("a.b"))[1:]}')
        yield _request(name, json.dumps({key: value for key, value in data.items() if key != first}))


def _wrong(field: str, value: Any) -> Iterator[str]:
    """Yield JSON of values that *field*, with valid values like *value*, must not accept."""
    if field.endswith("_id") or field == "after":
        # An empty optional id means no id, which is valid.
        yield from (_text(one) for one in HOSTILE_IDS if one)
        yield from NOT_TEXT
    elif isinstance(value, bool):
        yield from ("1", '"true"', "{}", "[]", "NaN")
    elif isinstance(value, str):
        yield from NOT_TEXT
        yield from (_text(one) for one in HOSTILE_TEXTS if field not in _FREE_TEXT)
    elif isinstance(value, int | float):
        yield from (*NOT_NUMBERS, *FAR_NUMBERS)
    elif isinstance(value, dict) and field in ("resources", "capacity"):
        yield from (*NOT_OBJECTS, *AMOUNTS)
    elif isinstance(value, dict):
        yield from NOT_OBJECTS
    elif isinstance(value, list):
        yield from ("1", '"x"', "{}", "[1]", '[{"a":1}]', "[[]]", "NaN", f"[{'1,' * 5000}1]")


def _with(data: dict[str, Any], field: str, value: str) -> str:
    parts = [f"{json.dumps(key)}:{json.dumps(one)}" for key, one in data.items() if key != field]
    return "{" + ",".join([*parts, f"{json.dumps(field)}:{value}"]) + "}"


def _request(name: str, data: str) -> bytes:
    # A lone surrogate is sent as an escape.
    return f'[{{"id":"c1","type":"{name}","data":{data}}}]'.encode("utf-8", "surrogatepass")


def _text(value: str) -> str:
    return json.dumps(value)


def _bombs() -> Iterator[bytes]:
    """Yield JSON bombs, and invalid JSON."""
    for depth in (100, 1_000, 10_000, 100_000):
        yield b"[" * depth
        yield b"[" * depth + b"]" * depth
        yield b'{"a":' * depth + b"1" + b"}" * depth
        yield b'[{"type":"submit_task","data":' + b'{"payload":' * depth + b"1" + b"}" * depth + b"}]"
    yield b"[" + b"{}," * 2_000 + b"{}]"
    yield b"[" + b'{"type":"get_stats","data":{}},' * 1_500 + b'{"type":"get_stats","data":{}}]'
    yield b'[{"type":"submit_task","data":{"task_id":"' + b"x" * 900_000 + b'"}}]'
    yield b'[{"type":"' + b"y" * 500_000 + b'","data":{}}]'
    yield b'[{"type":"submit_task","data":{' + b",".join(b'"k%d":1' % n for n in range(20_000)) + b"}}]"
    for body in (b"", b" ", b"null", b"0", b'""', b"{}", b"true", b"\x00", b"\xff\xfe[\x00]\x00", b"\xef\xbb\xbf[{}]"):
        yield body
    for body in (b"[", b"[{]", b"[{}", b"[,]", b"[{},]", b"[null]", b"[1]", b'["a"]', b"[[]]", b"[{}]", b"//\n[{}]"):
        yield body


def _envelopes() -> Iterator[bytes]:
    """Yield invalid envelopes of a command."""
    data = json.dumps(VALID["submit_task"] | {"task_id": "around"})
    for field in ("id", "tenant"):
        for one in HOSTILE_IDS:
            if one:
                yield f'[{{"{field}":{_text(one)},"type":"submit_task","data":{data}}}]'.encode()
        for other in NOT_TEXT:
            yield f'[{{"{field}":{other},"type":"submit_task","data":{data}}}]'.encode()
    for kind in ("", "SubmitTask", "submit_task ", "__class__", "drop_all", "CoordinatorStarted", "task.submitted"):
        yield f'[{{"type":{_text(kind)},"data":{data}}}]'.encode()
    for more in ("actor", "source", "epoch", "__proto__", "commandid", "position"):
        yield f'[{{"type":"submit_task","data":{data},"{more}":"admin"}}]'.encode()
    yield f'[{{"traceparent":"{"0" * 200}","type":"submit_task","data":{data}}}]'.encode()


# --- the other doors --------------------------------------------------------------------------------------------------


def _heartbeats() -> Iterator[Hostile]:
    head = {"specversion": "1.0", "id": "1", "source": "/x", "time": "2026-01-01T00:00:00Z", "dataversion": 1}
    beats = {
        "service": ("service.heartbeat", {"service_id": "s", "load": 1.0, "connections": 1}),
        "worker": ("worker.heartbeat", {"worker_id": "s", "leases": ["l"], "load": 1.0}),
    }
    for kind, (name, data) in beats.items():
        subject = S.heartbeat(kind, "s")
        for field, value in data.items():
            for wrong in _wrong(field, value):
                rest = json.dumps(head | {"type": name, "subject": "s"})[:-1]
                yield Hostile("heartbeat", subject, f'{rest},"data":{_with(data, field, wrong)}}}'.encode(), reply="")
        for body in _bombs():
            yield Hostile("heartbeat", subject, body, reply="")
        for other in ("other", "w1"):
            body = json.dumps(head | {"type": name, "subject": other, "data": data | {f"{kind}_id": other}}).encode()
            yield Hostile("heartbeat", subject, body, reply="")
        for headers in HEADERS:
            yield Hostile("heartbeat", subject, b"{}", headers, reply="")


def _reads(source: str) -> Iterator[Hostile]:
    valid: dict[str, dict[str, Any]] = {
        "get": {"kind": "task", "id": "x_id", "at_least": "1.0"},
        "list": {"kind": "task", "limit": 1, "before": "1.0"},
        "events": {"limit": 1, "after": "1.0"},
        "wait": {"position": "1.0", "timeout_s": 0.1},
    }
    assert set(valid) <= set(VERBS)
    for verb, question in valid.items():
        subject = S.read(source, verb)
        for field, value in question.items():
            values = [*_wrong(field, value), *(_text(one) for one in HOSTILE_IDS if one and isinstance(value, str))]
            for wrong in values:
                yield Hostile("read", subject, _with(question, field, wrong).encode())
        yield Hostile("read", subject, _with(question, "more", "1").encode())
        for body in _bombs():
            if body not in (b"", b"{}"):
                yield Hostile("read", subject, body)
    for reply in FORGED_REPLIES:
        yield Hostile("read", S.read(source, "position"), b"{}", reply=reply)
    for verb in ("drop", "delete", "GET", "position-", "x" * 64):
        yield Hostile("read", S.read(source, verb), b"{}")


def _nodes() -> Iterator[Hostile]:
    question = {"container_id": "c_1", "generation": "1.0", "lines": 10}
    following = {"container_id": "c_1", "generation": "1.0", "position": "0", "lines": 10, "wait_s": 0.0}
    for verb in ("logs", "usage", "follow"):
        asked: dict[str, Any] = following if verb == "follow" else question
        subject = S.node("n1", verb)
        for field, value in asked.items():
            for wrong in _wrong(field, value):
                yield Hostile("node", subject, _with(asked, field, wrong).encode())
        for body in _bombs():
            yield Hostile("node", subject, body)
        for reply in FORGED_REPLIES:
            yield Hostile("node", subject, json.dumps(asked).encode(), reply=reply)


def _inboxes(domain: str) -> Iterator[Hostile]:
    """Yield inputs that the server stores and the coordinator must refuse, and those the server must not store."""
    subject = S.inbox(domain, "task.submitted")
    head = {"specversion": "1.0", "id": "1", "source": "/x", "type": "task.submitted"}
    data = {key: value for key, value in VALID["submit_task"].items() if key != "task_id"}
    for field, value in data.items():
        for wrong in _wrong(field, value):
            yield Hostile("inbox", subject, f'{json.dumps(head)[:-1]},"data":{_with(data, field, wrong)}}}'.encode())
    for field in ("subject", "tenant"):
        for one in HOSTILE_IDS:
            if one and len(one) < 1000:
                body = f'{json.dumps(head)[:-1]},"data":{json.dumps(data)},"{field}":{_text(one)}}}'.encode()
                yield Hostile("inbox", subject, body)
    for body in _bombs():
        if 0 < len(body) < 500_000:
            yield Hostile("inbox", subject, body)
    for kind in ("task.started", "node.registered", "coordinator.started", "worker.lost", "inbox.read"):
        body = json.dumps(head | {"type": kind, "data": {}}).encode()
        yield Hostile("inbox", S.inbox(domain, kind), body)
    for headers in HEADERS:
        body = json.dumps(head | {"type": "task.submitted", "data": data}).encode()
        yield Hostile("inbox-header", subject, body, headers)


def _rubbish(source: str, seed: int) -> Iterator[Hostile]:
    """Yield valid requests with bytes changed until they are not valid JSON or not a command, and random bytes."""
    chance = random.Random(seed)
    submit = S.rpc(source, "task", "submit")
    for _ in range(200):
        yield Hostile("rpc", submit, b"[" + chance.randbytes(chance.randrange(1, 400)))
        good = bytearray(_request("submit_task", json.dumps(VALID["submit_task"] | {"task_id": "a.b"})))
        for _ in range(chance.randrange(1, 6)):
            good[chance.randrange(len(good))] = chance.randrange(128, 256)
        yield Hostile("rpc", submit, bytes(good))
