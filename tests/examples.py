"""
The examples of the operations, sent one after the other to a running coordinator, in an order in which each succeeds.

An example stands in the class of its operation. What must have happened before it, and is no example itself, stands
here. `agrees` compares the answers with those of the examples.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.client.reads import ask_follower
from coordinator.commands.cluster import GetStats, ListInboxes
from coordinator.commands.command import Command
from coordinator.commands.container import GetContainer
from coordinator.commands.examples import PAYLOAD, SHADOW_REPORT
from coordinator.commands.operations import OPERATIONS
from coordinator.commands.queue import GetQueue
from coordinator.commands.reads import CheckOutcomes, ReadQuestion, Wait, WhichPosition
from coordinator.commands.worker import RegisterWorker
from coordinator.doors.inbox import InboxLimits, ensure_inbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coordinator.client.client import Client
    from coordinator.commands.command import Operation

PATIENCE_S = 30.0
SILENT_WORKERS = 12
REPORTED_CHECKS = 2
DOMAIN = "planning"
"""A domain with an inbox, from which one event was recorded."""

VARYING = frozenset({
    "leader", "stream_created", "source", "ended_by", "actor", "paused_by", "placed_by", "defined_by", "summary",
    "retired_by",
    "set_by", "changed_by",
})  # fmt: skip
"""Fields whose texts differ each time."""


Step = str | tuple[str, dict[str, Any]]
"""An operation's example, by its name; or another request of it."""


def _observed(state: str, **more: Any) -> Step:
    """Return the report of the node about its container."""
    return "node.sync", {"node_id": "node_1", "observed": [{"container_id": "container_1", "state": state, **more}]}


def _submitted(number: int) -> Step:
    return "task.submit", {"task_id": f"task_{number}", "task_name": "add"}


def _asked_to_end(number: int) -> Step:
    return "task.cancel", {"task_id": f"task_{number}", "grace_s": 60.0}


def _completed(number: int) -> Step:
    return "task.complete", {"task_id": f"task_{number}", "lease": f"claim_{number}.1.1"}


def _claimed(claim_id: str) -> Step:
    return "task.claim", {"claim_id": claim_id, "worker_id": "worker_1"}


_FAILING: Step = (
    "task.submit",
    {"task_id": "task_5", "task_name": "add", "max_retries": 0, "payload": PAYLOAD},
)
_FAILED: Step = (
    "task.fail",
    {
        "task_id": "task_5",
        "error": "the page was not found",
        "error_type": "web.NotFound",
        "traceback": "Traceback (most recent call last): ...",
    },
)


STORY: tuple[Step, ...] = (
    *(
        "node.register",
        "node.drain",
        "node.cordon",
        "node.uncordon",
        "node.get",
        "node.list",
    ),
    *("container.create", "session.bind", "session.get", "container.start", "node.sync"),
    _observed("running", pid=4711),
    *("container.get", "container.pause", _observed("paused"), "container.resume", _observed("running", pid=4711)),
    *("container.list", "session.close", "container.stop"),
    *(_observed("exited", exit_code=0, cause="requested"), "container.destroy"),
    *(
        "worker.register",
        "task.submit",
        "task.plan",
        "task.offer",
        "task.claim",
        "task.progress",
        "task.complete",
        "task.get",
    ),
    *(_submitted(9), _claimed("claim_9"), _asked_to_end(9), "task.report_cancel", _completed(9)),
    ("task.submit", {"task_id": "task_2", "task_name": "add", "timeout_s": 600.0}),
    *(_claimed("claim_3"), "task.extend", "task.fail"),
    *(_submitted(3), _claimed("claim_4"), "task.release", _claimed("claim_2"), "task.withdraw"),
    *("task.pause", "task.resume"),
    *(_submitted(4), "task.cancel", "task.explain", "task.list", "worker.list", "worker.drain", "worker.leave"),
    *("service.register", "service.heartbeat", "service.check", "service.not_checked"),
    *("service.find", "service.get", "service.history"),
    *("queue.define", "queue.pause", "queue.resume", "queue.get", "queue.list", "queue.delete"),
    ("queue.resume", {"queue_id": "default"}),
    *("queue.set_policy", "queue.set_shadow"),
    *(("worker.register", {"worker_id": f"worker_{build_id}", "build_id": build_id}) for build_id in ("b1", "b2")),
    *("queue.route", ("queue.route", {"queue_id": "reports"})),
    *("queue.report_shadow", ("queue.report_shadow", SHADOW_REPORT), "queue.promote", "queue.roll_back"),
    *("version.retire", "version.list", "version.reinstate"),
    *(("worker.leave", {"worker_id": f"worker_{build_id}"}) for build_id in ("b1", "b2")),
    *("hold.place", "hold.get", "hold.list", "hold.lift", "task.find"),
    *("agents.apply", "agents.get"),
    *("prices.set", "prices.get", "budget.define", "budget.correct", "budget.get", "budget.list", "budget.remove"),
    *("limit.define", "limit.get", "limit.list", "limit.delete"),
    *("schedule.define", "schedule.next", "schedule.pause", "schedule.resume", "schedule.backfill", "schedule.get"),
    *("schedule.list", "schedule.delete"),
    *("pool.define", "pool.allocate", "pool.get", "pool.release"),
    (
        "pool.define",
        {"pool_id": "pool_2", "capacity": {"gpus": 2}, "parts": {"node_1": {"gpus": 1}, "node_2": {"gpus": 1}}},
    ),
    ("pool.allocate", {"pool_id": "pool_2", "request_id": "request_2", "resources": {"gpus": 1}, "movable": True}),
    *("pool.move", "inbox.list", "coordinator.stats"),
    *(_FAILING, _FAILED),
    *(
        "read.position",
        "read.wait",
        "read.get",
        "read.list",
        "read.dead",
        "read.dead_letter",
        "read.count",
        "read.events",
        "read.checks",
        "read.lag",
    ),
    *("service.deregister", "node.remove", "coordinator.accept_silence"),
)
"""The names of the operations whose examples are sent, and what else is."""


async def play(client: Client, face: Callable[[Operation[Any]], Awaitable[Any]]) -> dict[str, Any]:
    """Send every example by *face*, which returns JSON, all else by *client*; return the answers by operation."""
    await ask_follower(client, WhichPosition(), timeout_s=PATIENCE_S)  # it has to hear of the checks
    await ensure_inbox(client.bus, client.subjects, DOMAIN, InboxLimits())
    await client.bus.request(client.subjects.inbox(DOMAIN, "plan.made"), b'{"steps":3}', timeout_s=PATIENCE_S)
    told: dict[str, Any] = {}
    for step in STORY:
        name, request = (step, OPERATIONS[step].EXAMPLE.request) if isinstance(step, str) else step
        await _prepare(client, name)
        operation = msgspec.convert(await _filled(client, request), OPERATIONS[name])
        if isinstance(step, str):
            told[name] = await face(operation)
        else:
            await ask(client, operation)
    return told


async def ask(client: Client, operation: Operation[Any]) -> Any:
    """Ask whom the operation is for, and return its answer."""
    if isinstance(operation, Command):
        return await client.execute(operation)
    assert isinstance(operation, ReadQuestion)
    return await ask_follower(client, operation)


async def _filled(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    """Return the request with the generation of the container that a node reports, or where a report goes on."""
    if "compared" in request:
        shadow = (await client.execute(GetQueue())).queue.shadow
        assert shadow is not None
        example = request["examples"][0] | {"sequence": shadow.upto + 1}
        return request | {"after": shadow.upto, "upto": shadow.upto + 1, "examples": [example]}
    if "observed" not in request:
        return request
    generation = (await client.execute(GetContainer(container_id="container_1"))).generation
    return request | {"observed": [one | {"generation": generation} for one in request["observed"]]}


async def _prepare(client: Client, name: str) -> None:
    """Wait for what the example needs and no command brings about."""
    async with asyncio.timeout(PATIENCE_S):
        if name == "inbox.list":
            while not any(one.recorded for one in await client.execute(ListInboxes())):  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.1)
        elif name.startswith("read."):
            await ask_follower(client, Wait(position=str(client.position)), timeout_s=PATIENCE_S)
            asked = CheckOutcomes(id="service_1")
            while len(await ask_follower(client, asked)) < REPORTED_CHECKS:  # noqa: ASYNC110  # polled
                await asyncio.sleep(0.1)
        elif name == "coordinator.accept_silence":
            for number in range(SILENT_WORKERS):
                await client.execute(RegisterWorker(worker_id=f"silent_{number}"))
            while not (await client.execute(GetStats())).mass_silence:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.1)


def differences(example: Any, answer: Any, place: str = "the answer") -> list[str]:
    """Return where an answer is of another shape than that of the example; numbers and times may be others."""
    if isinstance(example, bool) or isinstance(answer, bool) or example is None or answer is None:
        return [] if example is answer else [f"{place} is {answer}, not {example}"]
    if isinstance(example, int | float) and isinstance(answer, int | float):
        return []
    if type(example) is not type(answer):
        return [f"{place} is {answer!r}, not {example!r}"]
    if isinstance(example, dict):
        if set(example) != set(answer):
            return [f"{place} has {sorted(answer)}, not {sorted(example)}"]
        return [
            found
            for name in example
            if name not in VARYING
            for found in differences(example[name], answer[name], f"{place}.{name}")
        ]
    if isinstance(example, list):
        if len(example) != len(answer):
            return [f"{place} has {len(answer)} items, not {len(example)}"]
        pairs = zip(example, answer, strict=True)
        return [found for index, pair in enumerate(pairs) for found in differences(*pair, f"{place}[{index}]")]
    same = re.sub(r"\d+", "0", example) == re.sub(r"\d+", "0", answer)
    return [] if same else [f"{place} is {answer!r}, not {example!r}"]
