"""
Watch a run from outside: messages sent, messages received, containers on machines. It never reads a world.

It knows the true time, which no process does, and so can check whether something declared silent really was.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.protocol import Launch, RuntimeState
from events import codec
from events.coordinator import CoordinatorStarted
from events.node import NodeLost
from events.service import ServiceHealthChanged
from events.task import TaskAttemptFailed, TaskFailed, TaskStarted
from events.worker import WorkerLost
from tests.simulation.promises import Promise, Violation
from tests.simulation.streams import header_of

if TYPE_CHECKING:
    from tests.simulation.broker import Connection
    from tests.simulation.loop import Process

PATIENCE = 0.97
"""Share of a limit that must have passed: clocks may be a little fast."""
ASKED_ANEW = frozenset({"sync_node", "register_node", "register_worker", "register_service", "heartbeat_service",
                        "withdraw_claim", "define_pool", "progress_task"})  # fmt: skip
"""Commands that are repeated on purpose, as new ones."""


class Watch:
    """Records messages; keeps the first broken promise in `broken`, because a process may catch an exception."""

    def __init__(self, namespace: str) -> None:
        self.broken: Violation | None = None
        self.acked: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        """Definite answers by encoded command: the command, and the answer."""
        self._journal = f"{namespace}.journal"
        self._epoch = f"{namespace}.epoch"
        self._rpc = f"{namespace}.rpc."
        self._heartbeat = f"{namespace}.heartbeat."
        self._asked: dict[str, list[bytes]] = {}
        self._decided: set[str] = set()
        self._reigns: dict[Process, float] = {}
        self._heard: dict[tuple[Process, str, str], float] = {}
        self._syncs: dict[tuple[Process, str], tuple[str, float]] = {}

    def violate(self, promise: Promise, what: str) -> None:
        """Record a broken promise; the run ends with the first."""
        if self.broken is None:
            self.broken = Violation(promise, f"at {_now():.3f} s: {what}")

    # --- messages -----------------------------------------------------------------------------------------------------

    def sent(self, connection: Connection, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        """Check a message that a process sends."""
        if subject == self._journal:
            name = header_of(headers, b"Nats-Msg-Id") or ""
            if name not in self._decided:
                self._decided.add(name)
                self._decided_now(connection.process, data)
        elif subject.startswith(self._rpc) and reply:
            self._asked[reply] = _parts(data)
        elif subject in self._asked:
            self._answered(connection.process, subject, data)

    def arrived(self, connection: Connection, subject: str, reply: str, data: bytes) -> None:
        """Check a message that a process receives."""
        if subject.startswith(self._heartbeat):
            _, kind, entity_id = subject[len(self._heartbeat) - 1 :].split(".")
            said = msgspec.json.decode(data)["data"]
            self._hear(connection.process, kind, entity_id, _now())
            for lease in said.get("leases", ()):
                self._hear(connection.process, "lease", lease, _now())
        elif subject.endswith(".node.sync") and reply:
            (order,) = msgspec.json.decode(data)[:1]
            self._syncs[connection.process, reply] = (order["data"]["node_id"], _now())

    def stored(self, headers: bytes) -> None:
        """Check a journal message: a commit names the claim of its writer, and its slot."""
        message_id = header_of(headers, b"Nats-Msg-Id") or ""
        if message_id.startswith("claim"):
            return
        _, claim, _ = message_id.split(".")
        named = header_of(headers, b"Nats-Expected-Last-Subject-Sequence")
        if named != claim:
            self.violate(Promise.CLAIM, f"commit {message_id} was stored but names {named} as the claim of its writer")

    def _hear(self, process: Process, kind: str, entity_id: str, at: float) -> None:
        self._heard[process, kind, entity_id] = at

    def _answered(self, process: Process, inbox: str, data: bytes) -> None:
        sync = self._syncs.pop((process, inbox), None)
        answers = msgspec.json.decode(data)
        orders = self._asked[inbox]
        if sync is not None and answers and "ok" in answers[0]:
            self._hear(process, "node", *sync)
        for order, answer in zip(orders, answers, strict=False):
            asked = msgspec.json.decode(order)
            if asked["type"] in ASKED_ANEW or asked["type"].startswith(("get_", "list_", "find_")):
                continue
            error = answer.get("error")
            if error is None:
                self._definite(order, asked, "ok", answer["ok"])
            elif error["code"] != "unavailable" and error.get("reason") not in _FOR_NOW:
                self._definite(order, asked, error["code"], None)

    def _definite(self, order: bytes, asked: dict[str, Any], code: str, value: Any) -> None:
        name = asked["type"]
        told = _comparable(name, value)
        if code == "ok" and told is None:
            return  # an empty claim, which no client relies on
        known = self.acked[order.decode()]
        for before_code, before in known:
            if before_code != code or (before != told and name in _COMPARED):
                self.violate(Promise.ONE_ANSWER, f"{asked} was answered {before_code} {before}, and then {code} {told}")
        known.append((code, told))

    # --- what writers decide ------------------------------------------------------------------------------------------

    def _decided_now(self, process: Process, body: bytes) -> None:
        if b"coordinator.started" in body or b"silent_for_s" in body or b"task.started" in body:
            for envelope in codec.decode(body):
                event = envelope.data
                if isinstance(event, CoordinatorStarted):
                    self._reigns[process] = _now()
                elif isinstance(event, TaskStarted):
                    self._hear(process, "lease", event.lease, _now())
                else:
                    self._judge(process, event)

    def _judge(self, process: Process, event: object) -> None:
        match event:
            case WorkerLost():
                self._was_silent(process, "worker", event.worker_id, event.limit_s)
            case NodeLost():
                self._was_silent(process, "node", event.node_id, event.limit_s)
            case ServiceHealthChanged(rule="heartbeat_timeout") if event.limit_s is not None:
                self._was_silent(process, "service", event.service_id, event.limit_s)
            case TaskAttemptFailed(reason="lease_expired") | TaskFailed(reason="lease_expired"):
                self._was_silent(process, "lease", event.lease, event.limit_s or 0.0)
            case _:
                pass

    def _was_silent(self, process: Process, kind: str, entity_id: str, limit_s: float) -> None:
        since = max(self._heard.get((process, kind, entity_id), 0.0), self._reigns[process])
        silent_s = _now() - since
        if silent_s < limit_s * PATIENCE:
            self.violate(
                Promise.GRACE,
                f"{process.name} declared {kind} {entity_id} lost after {silent_s:.2f} s of silence, limit {limit_s} s",
            )


class Machine(FakeRuntime):
    """A machine that reports containers that must not run; its containers outlive the node agent."""

    def __init__(self, watch: Watch, others: list[Machine], memory_bytes: int) -> None:
        super().__init__(cluster="sim", now=lambda: asyncio.get_running_loop().time())
        self.memory_bytes = memory_bytes
        self.was_disturbed = False
        """True after its agent was killed or stopped: then no one stops containers when the lease expires."""
        self._watch = watch
        self._others = others

    def living(self) -> list[Launch]:
        """Return the running containers."""
        return [one.launch for one in self._containers.values() if one.observed.state is not RuntimeState.EXITED]

    def _begin(self, launch: Launch) -> None:
        key = (launch.container_id, launch.generation)
        for machine in self._others:
            for one in machine.launches:
                if (one.container_id, one.generation) == key:
                    self._watch.violate(Promise.ONE_CONTAINER, f"container {key} was launched twice")
            if machine.was_disturbed:
                continue
            if any(one.container_id == launch.container_id for one in machine.living()):
                self._watch.violate(
                    Promise.ONE_CONTAINER, f"container {key} was launched while another of that id runs"
                )
        super()._begin(launch)
        used = sum(one.memory_bytes for one in self.living())
        if used > self.memory_bytes and not self.was_disturbed:
            self._watch.violate(
                Promise.CAPACITY, f"{used} bytes of {self.memory_bytes} are used on the machine of {key}"
            )


_COMPARED = frozenset({"allocate_pool", "release_pool", "submit_task", "create_container"})
"""Final states: a command about such a state has one answer."""


_FOR_NOW = frozenset({"no_room", "not_startable", "not_running", "not_paused"})
"""Reasons of temporary refusals: they are not remembered, and the same request may be accepted later."""


def _comparable(name: str, value: Any) -> Any:
    if name == "claim_tasks":
        return value or None  # the tasks of a claim are checked from the journal
    if name == "allocate_pool":
        return value or None
    return value if name in _COMPARED else "done"


def _parts(data: bytes) -> list[bytes]:
    return [bytes(part) for part in msgspec.json.decode(data, type=list[msgspec.Raw])]


def _now() -> float:
    return asyncio.get_running_loop().time()
