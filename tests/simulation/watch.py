"""
Watch a run from outside: messages sent, messages received, containers on machines. It never reads a world.

It knows the true time, which no process does, and so can check whether something declared silent really was.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.task import ClaimTasks, WithdrawClaim
from coordinator.commands.wire import value_of
from coordinator.runtime.fake import DEAF, OBEDIENT, FakeRuntime, OnStop
from coordinator.runtime.protocol import EXITED, Launch, RuntimeState
from events import codec
from events.base import START, Position
from events.coordinator import CoordinatorPlacementRefused, CoordinatorStarted
from events.node import NodeLost
from events.service import ServiceHealthChanged
from events.task import TaskAttemptFailed, TaskFailed, TaskStarted
from events.worker import WorkerLost
from tests.simulation.promises import Promise, Violation
from tests.simulation.streams import header_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.commands.command import Command
    from coordinator.commands.wire import Answer
    from coordinator.runtime.fake import _Container
    from events.base import Event
    from tests.simulation.broker import Connection
    from tests.simulation.faults import Dice
    from tests.simulation.loop import Process

PATIENCE = 0.97
"""Share of a limit that must have passed: clocks may be a little fast."""
ASKED_ANEW = frozenset({"sync_node", "register_node", "register_worker", "register_service", "heartbeat_service",
                        "withdraw_claim", "define_pool", "define_schedule", "progress_task", "extend_task",
                        "cordon_node", "uncordon_node", "drain_node", "remove_node", "report_shadow",
                        "report_check", "report_not_checked"})  # fmt: skip
"""Commands that are repeated on purpose, as new ones."""


LONGEST_WAIT_S = 600.0
"""No user waits longer for an answer."""


class Watch:
    """Records messages; keeps the first broken promise in `broken`, because a process may catch an exception."""

    def __init__(self, namespace: str, *, hard_s: float, lease: str, fresh_s: float, fired: Counter[str]) -> None:
        """
        Watch a cluster.

        Args:
            namespace: the first part of all subjects.
            hard_s: how long everything is remembered.
            lease: the subject of the lease.
            fresh_s: how long after a renewal of its lease an instance still knows that it leads.
            fired: the counts of faults and of what users see.
        """
        self.broken: Violation | None = None
        self.acked: dict[tuple[str, bytes], tuple[str, Any, float]] = {}
        """The definite answer by subject, which names the sender, and command: code, what is compared, and when."""
        self.newest = START
        """The newest position of any answer that any user received."""
        self._journal = f"{namespace}.journal"
        self._epoch = f"{namespace}.epoch"
        self._rpc = f"{namespace}.rpc."
        self._heartbeat = f"{namespace}.heartbeat."
        self._claim = f".task.{ClaimTasks.VERB}"
        self._withdraw = f".task.{WithdrawClaim.VERB}"
        self._lease = lease
        self._fresh_s = fresh_s / PATIENCE
        self._hard_s = hard_s
        self._unsure_until = -1.0
        """Until then what is answered may have been recorded hours before."""
        self._fired = fired
        self._asked: dict[str, tuple[str, list[bytes]]] = {}
        self._came: defaultdict[tuple[Process, str], deque[float]] = defaultdict(deque)
        self._puts: dict[tuple[bytes, bytes], tuple[Process, float]] = {}
        self._renewed: dict[Process, float] = {}
        """When a process last sent a renewal of its lease that was stored."""
        self._committed: dict[Process, float] = {}
        """When a commit of a process was last stored."""
        self._writers: dict[str, Process] = {}
        self._reigns_of: dict[object, tuple[Position, float]] = {}
        self._claimed: Counter[tuple[Process, str]] = Counter()
        """How often a process has received a claim."""
        self._withdrawing: dict[tuple[Process, str], tuple[tuple[Process, str], int]] = {}
        self._withdrawn: set[tuple[Process, str]] = set()
        """Withdrawn claims, after the answer."""
        self._decided: set[str] = set()
        self._reigns: dict[Process, float] = {}
        self._opened: dict[Process, float] = {}
        """When a writer opened its last turn: its decisions are of then, although they may be sent later."""
        self._heard: dict[tuple[Process, str, str], tuple[float, float]] = {}
        """When something was last heard, and when it was before that writer's last turn."""
        self._syncs: dict[tuple[Process, str], tuple[str, float]] = {}

    def hours_passed(self) -> None:
        """Note that hours have passed in which nothing ran."""
        self._unsure_until = _now() + LONGEST_WAIT_S

    def violate(self, promise: Promise, what: str) -> None:
        """Record a broken promise; the run ends with the first."""
        if self.broken is None:
            self.broken = Violation(promise, f"at {_now():.3f} s: {what}")

    def crashed(self, context: dict[str, Any]) -> None:
        """Let the run fail if a callback raises: asyncio would only print that."""
        error = context.get("exception")
        if "handle" in context and self.broken is None:
            self.broken = Violation(Promise.NO_CRASH, f"at {_now():.3f} s: {context['message'][:200]}: {error!r}")

    # --- messages -----------------------------------------------------------------------------------------------------

    def sent(self, connection: Connection, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        """Check a message that a process sends."""
        if subject == self._journal:
            name = header_of(headers, b"Nats-Msg-Id") or ""
            if name not in self._decided:
                self._decided.add(name)
                self._writers[name] = connection.process
                self._decided_now(connection.process, data)
        elif subject == self._lease:
            self._puts[headers, data] = connection.process, _now()
        elif subject.startswith(self._rpc) and reply:
            self._asked[reply] = subject, _parts(data)
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
        elif reply and subject.startswith(self._rpc):
            self._came[connection.process, reply].append(_now())
            if subject.endswith(".node.sync"):
                (synced,) = msgspec.json.decode(data)[:1]
                self._syncs[connection.process, reply] = (synced["data"]["node_id"], _now())
            elif subject.endswith((".task.progress", ".task.extend")):
                for order in msgspec.json.decode(data):
                    self._hear(connection.process, "report", order["data"]["lease"], _now())
            elif subject.endswith((self._claim, self._withdraw)):
                self._claims_came(connection.process, reply, data, is_claim=subject.endswith(self._claim))

    def granted(self, headers: bytes, data: bytes) -> None:
        """Note that the lease was renewed."""
        process, sent_at = self._puts[headers, data]
        self._renewed[process] = max(sent_at, self._renewed.get(process, 0.0))

    def stored(self, headers: bytes, _body: bytes) -> None:
        """Check a journal message: a commit names the claim of its writer, and its slot."""
        message_id = header_of(headers, b"Nats-Msg-Id") or ""
        if message_id.startswith("claim"):
            return
        self._committed[self._writers[message_id]] = _now()
        _, claim, _ = message_id.split(".")
        named = header_of(headers, b"Nats-Expected-Last-Subject-Sequence")
        if named != claim:
            self.violate(Promise.CLAIM, f"commit {message_id} was stored but names {named} as the claim of its writer")

    def _hear(self, process: Process, kind: str, entity_id: str, at: float) -> None:
        last, before = self._heard.get((process, kind, entity_id), (0.0, 0.0))
        self._heard[process, kind, entity_id] = at, last if last <= self._opened.get(process, 0.0) else before

    def opened(self, process: Process) -> None:
        """Note that a writer opens a turn."""
        self._opened[process] = _now()

    def looked(self, due: Iterable[Event]) -> None:
        """Check that a look at everything finds nothing that is due, where one at what may be due has found nothing."""
        for event in due:
            if type(event) is not CoordinatorPlacementRefused:
                self.violate(Promise.DUE, f"{event} is due and was not found")

    def _answered(self, process: Process, inbox: str, data: bytes) -> None:
        sync = self._syncs.pop((process, inbox), None)
        # A request that is repeated is answered again: this may be the answer to any that was not answered yet. What is
        # refused at the door is so at once, while the first one still waits.
        came = self._came[process, inbox]
        answers = msgspec.json.decode(data)
        is_refused = bool(answers) and "error" in answers[0]
        came_at = (came.pop() if is_refused else came.popleft()) if came else None
        asked_on, orders = self._asked[inbox]
        if sync is not None and answers and "ok" in answers[0]:
            self._hear(process, "node", *sync)
        for order, answer in zip(orders, answers, strict=False):
            asked = msgspec.json.decode(order)
            self._is_declared(asked["type"], answer.get("error"))
            if asked["type"].startswith(("get_", "list_", "find_")):
                if "ok" in answer and asked["type"] != "find_services":  # discovery may be a little behind
                    self._is_fresh(process, asked, came_at)
                continue
            if asked["type"] in ASKED_ANEW:
                if asked["type"] == "withdraw_claim" and "ok" in answer:
                    self._was_withdrawn(process, inbox)
                continue
            error = answer.get("error")
            if asked["type"] == "cancel_task" and answer.get("ok") == "running":
                continue  # it was asked to end, and the next answer may be how it did
            if error is None:
                self._definite(asked_on, order, asked, "ok", answer["ok"])
            elif error.get("reason") == "memory_full":
                self._fired["memory_full"] += 1
            elif error["code"] != "unavailable" and error.get("reason") not in _FOR_NOW:
                self._definite(asked_on, order, asked, error["code"], None)

    def _is_declared(self, name: str, error: dict[str, Any] | None) -> None:
        reason = "" if error is None else error.get("reason", "")
        if reason and reason not in COMMANDS[name].REFUSALS | COMMANDS[name].ALWAYS:
            self.violate(Promise.DECLARED, f"{name} was refused as {reason}, which it does not declare: {error}")

    def _definite(self, subject: str, order: bytes, asked: dict[str, Any], code: str, value: Any) -> None:
        name = asked["type"]
        told = _comparable(name, value)
        if code == "ok" and told is None:
            return  # an empty claim, which no client relies on
        # Within half the time that the first answer is remembered, for commit times differ from the true ones.
        before_code, before, at = self.acked.setdefault((subject, order), (code, told, _now()))
        if at <= self._unsure_until or _now() - at > self._hard_s / 2:
            return
        if before_code != code or (before != told and name in _COMPARED):
            self.violate(Promise.ONE_ANSWER, f"{asked} was answered {before_code} {before}, and then {code} {told}")

    def _is_fresh(self, process: Process, asked: Any, came_at: float | None) -> None:
        """Check that whoever answers a question knows that it leads: no other instance can have become the leader."""
        since_s = _now() - self._renewed.get(process, 0.0)
        if self._committed.get(process, 0.0) < (came_at or 0.0) and since_s > self._fresh_s:
            self.violate(Promise.FRESH, f"{process.name} knew {since_s:.2f} s ago that it led, and answered {asked}")

    # --- claims -------------------------------------------------------------------------------------------------------

    def _claims_came(self, process: Process, reply: str, data: bytes, *, is_claim: bool) -> None:
        for order in msgspec.json.decode(data):
            key = process, order["data"]["claim_id"]
            if is_claim:
                self._claimed[key] += 1
                self._withdrawn.discard(key)
            else:
                self._withdrawing[process, reply] = key, self._claimed[key]

    def _was_withdrawn(self, process: Process, inbox: str) -> None:
        key, claimed = self._withdrawing.pop((process, inbox), (None, 0))
        if key is not None and self._claimed[key] == claimed:  # the claim did not arrive again since
            self._withdrawn.add(key)

    # --- what users receive -------------------------------------------------------------------------------------------

    def returned(self, client: object, command: Command, answer: Answer, since: Position) -> None:
        """Check an answer that a client returned to its user, who asked when *since* was the newest position."""
        if answer.error is not None and answer.error.code == "unavailable":
            return
        if isinstance(command, ClaimTasks) and value_of(answer, command) == []:
            return  # given up, by an instance that may be deposed since: nobody relies on it
        reign, position = Position.parse(answer.epoch), Position.parse(answer.position)
        newest, at = self._reigns_of.get(client, (START, 0.0))
        if reign < newest and _now() > at:
            self.violate(Promise.NEWEST, f"{command} was answered by reign {reign} after {newest} was seen at {at:.3f}")
        if reign > newest:
            self._reigns_of[client] = reign, _now()
        if position < since:
            self.violate(Promise.NEWEST, f"{command} was answered from {position}, but {since} was known before")
        self.newest = max(self.newest, position)

    # --- what writers decide ------------------------------------------------------------------------------------------

    def _decided_now(self, process: Process, body: bytes) -> None:
        if b"coordinator.started" in body or b"silent_for_s" in body or b"task.started" in body:
            for envelope in codec.decode(body):
                event = envelope.data
                if isinstance(event, CoordinatorStarted):
                    self._reigns[process] = _now()
                elif isinstance(event, TaskStarted):
                    self._hear(process, "lease", event.lease, _now())
                    self._hear(process, "report", event.lease, _now())
                    if (process, event.claim_id) in self._withdrawn:
                        self.violate(Promise.WITHDRAWN, f"{process.name} started {event} for a withdrawn claim")
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
            case TaskAttemptFailed(reason="heartbeat") | TaskFailed(reason="heartbeat"):
                self._was_silent(process, "report", event.lease, event.limit_s or 0.0)
            case _:
                pass

    def _was_silent(self, process: Process, kind: str, entity_id: str, limit_s: float) -> None:
        decided_at = self._opened[process]
        last, before = self._heard.get((process, kind, entity_id), (0.0, 0.0))
        silent_s = decided_at - max(last if last <= decided_at else before, self._reigns[process])
        if silent_s < limit_s * PATIENCE:
            self.violate(
                Promise.GRACE,
                f"{process.name} declared {kind} {entity_id} lost after {silent_s:.2f} s of silence, limit {limit_s} s",
            )


class Machine(FakeRuntime):
    """
    A machine that reports containers that must not run; its containers outlive the node agent.

    Some take SIGTERM slowly, some not at all, and most exit with 0 when told to stop. The dead man's switch is that of
    the runtime, by the clock of the machine.
    """

    def __init__(self, watch: Watch, others: list[Machine], memory_bytes: int, dice: Dice) -> None:
        super().__init__(cluster="sim", now=lambda: asyncio.get_running_loop().time())
        self.memory_bytes = memory_bytes
        self.finished: set[tuple[str, str]] = set()
        """The containers and generations that ended by themselves with 0."""
        self._watch = watch
        self._others = others
        self._dice = dice

    def living(self) -> list[Launch]:
        """Return the running containers."""
        return [one.launch for one in self._containers.values() if one.observed.state is not RuntimeState.EXITED]

    def exit(self, container_id: str, generation: str, code: int, reason: str = EXITED) -> None:
        if code == 0:
            self.finished.add((container_id, generation))
        super().exit(container_id, generation, code, reason)

    def _check(self, container: _Container) -> None:
        was_living = container.observed.state is not RuntimeState.EXITED
        super()._check(container)
        if was_living and container.observed.state is RuntimeState.EXITED:
            self._dice.fired["switched_off"] += 1

    def _begin(self, launch: Launch) -> None:
        key = (launch.container_id, launch.generation)
        twins = [one for machine in self._others for one in machine.living() if one.container_id == launch.container_id]
        before = [
            one for machine in self._others for one in machine.launches if one.container_id == launch.container_id
        ]
        self.stops[launch.container_id] = self._drawn_stop()
        count = len(self.launches)
        super()._begin(launch)
        if len(self.launches) == count:
            return  # the order was too old: it was killed before it began
        if any(one.generation == launch.generation for one in before):
            self._watch.violate(Promise.ONE_CONTAINER, f"container {key} was launched twice")
        if twins:
            self._watch.violate(Promise.ONE_CONTAINER, f"container {key} was launched while {twins} runs")
        began = Position.parse(launch.generation)
        if any(Position.parse(one.generation) > began for one in before):
            self._watch.violate(Promise.ONE_CONTAINER, f"container {key} was launched after a later generation")
        used = sum(one.memory_bytes for one in self.living())
        if used > self.memory_bytes:
            self._watch.violate(
                Promise.CAPACITY, f"{used} bytes of {self.memory_bytes} are used on the machine of {key}"
            )

    def _drawn_stop(self) -> OnStop:
        random = self._dice.random
        match random.randrange(8):
            case 0:
                return OBEDIENT
            case 1 | 2 | 3:
                return DEAF
            case 4:
                return OnStop(code=0, after_s=random.uniform(0.5, 6.0))
            case 5:
                return OnStop(code=0, after_s=random.uniform(0.0, 1.0), late_s=random.uniform(0.0, 2.0))
            case _:
                return OnStop(code=0, after_s=random.uniform(0.0, 0.5))


_COMPARED = frozenset({
    "allocate_pool", "release_pool", "submit_task", "create_container", "fail_task", "cancel_task",
})  # fmt: skip
"""Final states: a command about such a state has one answer."""


_FOR_NOW = frozenset({
    "gang_begun", "gang_differs", "gang_full", "node_in_use", "no_runtime", "no_node",
    "no_price", "no_room", "not_startable", "not_running", "not_paused", "not_pending", "over_budget", "quota",
    "queue_full", "unknown_predecessor", "unknown_queue", "bad_version", "unknown_version", "version_in_use",
    "bad_policy", "no_shadow", "not_promoted", "shadow_outdated", "shadow_regret", "shadow_too_few",
    "request_bound", "unknown_owner", "unknown_request",
})  # fmt: skip
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
