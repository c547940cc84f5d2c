"""Odd JSON in every field of every command, as the RPC door reads it: carried unchanged, or refused by name."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands import COMMANDS
from coordinator.commands.node import RegisterNode
from coordinator.commands.pool import DefinePool
from coordinator.commands.wire import check_command, decode_request
from coordinator.deciders.rules import Rules
from coordinator.errors import CoordinationError, Refused
from events import codec
from events.resources import Resources
from tests.oddities import VALUES, is_same
from tests.unit.engine.engine_rig import leading

if TYPE_CHECKING:
    from tests.unit.engine.engine_rig import Rig

ROOMY = Rules(max_containers=10_000, claim_wait_max_s=0.01)
AMOUNTS = Resources(cpu_millis=2**52, memory_bytes=2**52, gpus=2**52)
RAW = (
    "1E2",
    "1.0",
    "-0",
    "1e400",
    "123456789012345678901234567890",
    '"\\ud800"',
    '{"a":1,"a":2}',
    "[1,]",
    "0x1",
    "NaN",
    "",
)
ELSEWHERE = {
    "timeout_s": "timeout", "execution_time_s": "execution_time", "service_id": "service", "task_id": "task",
    "worker_id": "worker", "container_id": "container", "node_id": "node", "pool_id": "pool", "kind": "kind",
    "lease": "lease", "session_id": "session", "limit": "limit", "after": "after", "queues": "queue",
    "where": "filter",
}  # fmt: skip
"""What a message calls a field, if not by its name."""


MADE = {
    "submit_task": ("task_id",), "create_container": ("container_id",), "register_service": ("service_id",),
    "register_node": ("node_id",), "register_worker": ("worker_id",), "allocate_pool": ("request_id",),
    "claim_tasks": ("claim_id", "worker_id"), "define_pool": (),
}  # fmt: skip


def valid_of(name: str) -> dict[str, Any]:
    """Return a valid value of each field of a command, by its type."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(COMMANDS[name]):
        kind = str(field.type)
        if field.name in ("resources", "capacity"):
            found[field.name] = {"cpu_millis": 1}
        elif field.required:
            found[field.name] = (
                "service" if field.name == "kind" and name == "accept_silence"
                else True if "bool" in kind
                else 0.5 if "float" in kind
                else 1 if "int" in kind
                else "localhost" if field.name == "host"
                else "task_agent" if field.name == "agent_type"
                else "told" if field.name == "step"
                else {"task_name": "ok"} if field.name == "task"
                else "ok"
            )  # fmt: skip
    return found | ALSO.get(name, {})


ALSO: dict[str, dict[str, Any]] = {
    "apply_agents": {"agents": {}},
    "correct_budget": {"amount": 1},
    "define_budget": {"terms": {"cap": 1}},
    "define_limit": {"terms": {"running": 1}},
    "define_schedule": {"every_s": 60},
    "find_tasks": {"where": "true"},
    "hold_tasks": {"where": "true"},
    "report_shadow": {"compared": {"turns": 1, "decisions": 1, "decision_squares": 1}, "upto": 3},
    "set_prices": {"models": {}},
    "set_shadow": {"policy": {"strategy": "priority"}},
}
"""Fields that a command needs, or that have a form of their own."""


def written() -> dict[str, str]:
    """Return the values as JSON, those that have a form in it."""
    found = {raw: raw for raw in RAW}
    for name, make in VALUES.items():
        try:
            found[name] = json.dumps(make())
        except Exception:  # noqa: BLE001  # it has none
            continue
    return found


WRITTEN = written()


def test_there_are_thousands() -> None:
    """Every field of every command, and every value that JSON can say."""
    assert sum(len(command.__struct_fields__) for command in COMMANDS.values()) * len(WRITTEN) > 10_000


@pytest.mark.parametrize("name", COMMANDS)
async def test_odd_fields(name: str) -> None:
    """The events of a command have what was sent; a refusal says which field is wrong, and nothing is our fault."""
    valid, wrong, numbers = valid_of(name), dict[str, str](), count()
    async with leading(rules=ROOMY) as rig:
        await rig.order(RegisterNode(node_id="n1", capacity=AMOUNTS, runtime="fake"))
        await rig.order(DefinePool(pool_id="ok", capacity=AMOUNTS))
        for field in COMMANDS[name].__struct_fields__:
            for label, value in WRITTEN.items():
                # What it makes is new each time: a repeat would be refused, or recognized, whatever else it says.
                fresh = {key: f"ok{next(numbers)}" for key in MADE.get(name, ())}
                parts = [f"{json.dumps(key)}:{json.dumps(one)}" for key, one in (valid | fresh).items() if key != field]
                body = "{" + ",".join([*parts, f"{json.dumps(field)}:{value}"]) + "}"
                said = await wrong_with(rig, name, field, value, body)
                if said:
                    wrong[f"{field}: {label}"] = said
    assert wrong == {}


async def wrong_with(rig: Rig, name: str, field: str, value: str, body: str) -> str:
    """Return what is wrong with the answer to a command; '' if nothing."""
    request = f'[{{"type":"{name}","data":{body}}}]'.encode("utf-8", "surrogatepass")
    before = len(rig.records())
    try:
        (command,) = decode_request(request)
        if isinstance(command, Refused):
            raise command
        check_command(command, COMMANDS[name].KIND, COMMANDS[name].VERB)
        await rig.order(command.data)
    except CoordinationError as error:
        if error.reason == "internal":
            return error.message[:200]
        names = (field, ELSEWHERE.get(field, field), "not a JSON array", "not an object with a type", "malformed")
        says = any(one in error.message for one in names) or not isinstance(error, Refused) or error.reason in STATES
        return "" if says else f"refused without the name: {error.reason}: {error.message[:200]}"
    except Exception as error:  # noqa: BLE001  # it is what is looked for
        return f"{type(error).__name__}: {error}"[:200]
    recorded = [
        envelope.data
        for record in rig.records()[before:]
        if record.kind == "commit"
        for envelope in codec.decode(record.body)
    ]
    found = [getattr(event, field) for event in recorded if hasattr(event, field) and not field.endswith("_id")]
    given = json.loads(value)
    if (
        not found
        or given in (None, "", {}, [])
        or isinstance(found[-1], Resources | msgspec.Struct)
        or field in OF_OTHERS
    ):
        return ""
    carried = getattr(found[-1], "value", found[-1])
    if field == "error" and isinstance(carried, str) and carried.endswith(" characters)"):
        return ""
    return "" if is_same(given, carried) else f"changed to {carried!r}"[:200]


OF_OTHERS = frozenset({"lease", "slots", "time_limits"})
"""Fields that an event has of something else, such as the attempt, or without what is not known in them."""
STATES = frozenset(
    {
        "too_many_containers",
        "no_room",
        "no_runtime",
        "no_node",
        "id_taken",
        "id_in_use",
        "registry_full",
        "too_many",
        "no_shadow",
        "not_promoted",
    }
)
"""Refusals because of what is there already, such as that of an earlier value."""
