"""
All state of one cluster, folded in memory: frozen values by id, and the indexes over them.

The same class folds everywhere: in the writer as it decides, in followers, in replays and in tests. It never reads a
clock, never does I/O, and the same records always lead to the same world. An ended entity is evicted when it ended too
long ago or too many have ended after it; this, too, depends on the records alone. A repeated command about it still
gets its first answer: the id of a task is remembered (see `projections.memory`), and other entities stay as long.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from events import codec
from events.agents import AgentsChanged
from events.base import START, Position, UnknownEvent, type_of
from events.budget import BudgetCorrected, BudgetEvent
from events.container import ContainerEvent
from events.coordinator import (
    CoordinatorCommandRefused,
    CoordinatorMassSilenceEnded,
    CoordinatorMassSilenceNoticed,
    CoordinatorPlacementRefused,
    CoordinatorStarted,
    CoordinatorStopped,
    CoordinatorTurn,
    EpochClaim,
)
from events.errors import Corrupt
from events.hold import HoldEvent
from events.idempotency import IdempotencyForgotten
from events.inbox import InboxEvent
from events.limit import LimitEvent
from events.node import NodeEvent
from events.pool import PoolDefined, PoolEvent
from events.prices import PricesSet
from events.queue import QueueBlocked, QueueEvent
from events.schedule import ScheduleEvent
from events.service import ServiceEvent
from events.session import SessionEvent
from events.task import TaskAttemptFailed, TaskEvent, TaskFailed, TaskStarted, TaskStatus
from events.task_pause import TaskPaused
from events.version import VersionEvent
from events.worker import WorkerEvent
from projections import (
    blockage,
    budget,
    container,
    hold,
    inbox,
    limit,
    node,
    pool,
    queue,
    schedule,
    service,
    session,
    shares,
    task,
    version,
    worker,
)
from projections.agents import NO_CATALOGUE, catalogue_of
from projections.indexes import Indexes
from projections.latest import KEPT
from projections.memory import COMMAND, HARD_S, KEY, SOFT_S, TASK, Memory
from projections.prices import NO_PRICES, table_of
from projections.snapshot import MassSilence, Snapshot, pieces
from projections.source import GENESIS, Record, chain_after
from projections.stamp import Stamp
from projections.upgrade import FOLD_VERSION, decoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.base import Envelope, Event
    from events.queue import FairShare


class World:
    """
    The state after some record; `position` is that of the last folded event, `time` its commit time.

    `generation` and `epoch` identify the reign, `leader` is the instance that announced it; `unfoldable` names the
    first event that this release does not know (such a world may be read, but nothing may be decided from it).
    `restored_at` is the last commit time before the current generation, 0 in the first. `remembers_since` is not 0
    while the memory lacks what was evicted before that commit time, because the world began with an older release's.
    `latest` has the id of the last event of what lives, by kind and id, as far as that event names its own cause: the
    next event names this one (see `coordinator/deciders/origins.py`). Tasks have it themselves. `awaited` says how
    those tasks ended that others still wait for, as they may be evicted before these can begin.
    """

    def __init__(self) -> None:
        self.containers: dict[str, container.Container] = {}
        self.services: dict[str, service.Service] = {}
        self.tasks: dict[str, task.Task] = {}
        self.workers: dict[str, worker.WorkerState] = {}
        self.nodes: dict[str, node.Node] = {}
        self.pools: dict[str, pool.Pool] = {}
        self.sessions: dict[str, session.Session] = {}
        self.schedules: dict[str, schedule.Schedule] = {}
        self.inboxes: dict[str, inbox.Inbox] = {}
        self.queues: dict[str, queue.Queue] = {}
        self.holds: dict[str, hold.Hold] = {}
        self.accounts: dict[str, shares.Account] = {}
        self.limits: dict[str, limit.Limit] = {}
        self.uses: dict[str, limit.KeyUse] = {}
        self.versions: dict[str, version.Version] = {}
        self.blockages: dict[str, blockage.Blockage] = {}
        self.made_wait: dict[str, blockage.Pair] = {}
        self.past_holds: dict[str, hold.PastHold] = {}
        self.past_pauses: dict[str, queue.PastPause] = {}
        self.budgets: dict[str, budget.TaskBudget] = {}
        self.spent: dict[str, budget.KeySpent] = {}
        self.prices = NO_PRICES
        self.agents = NO_CATALOGUE
        self.memory = Memory()
        self.remembers_since = 0.0
        self.totals: dict[str, int] = {}
        self.silences: dict[str, MassSilence] = {}
        self.latest: dict[str, str] = {}
        self.awaited: dict[str, TaskStatus] = {}
        self.position = START
        self.time = 0.0
        self.chain = GENESIS
        self.generation = 0
        self.epoch = 0
        self.holder = ""
        self.leader = ""
        self.retention_s = 3600.0
        self.ended_kept = 10_000
        self.unfoldable = ""
        self.restored_at = 0.0
        self.indexes = Indexes()
        keyed = self.indexes.keyed
        keyed.limits, keyed.uses = self.limits, self.uses
        keyed.funds.budgets, keyed.funds.spent = self.budgets, self.spent
        self.indexes.builds.retired = self.versions
        self._ended: dict[str, OrderedDict[str, float]] = {kind: OrderedDict() for kind in _TABLES}
        self._folds = _folds(self)

    def apply_record(self, record: Record, look: Callable[[list[Envelope], int], None] | None = None) -> list[Envelope]:
        """
        Fold one journal record and return its events; *look* gets all of them before each is folded, and its index.

        Raises:
            Corrupt: it does not follow the last folded record, or no coordinator can have written it.
        """
        if record.sequence != self.position.sequence + 1:
            msg = (
                f"journal record {record.sequence} came after {self.position.sequence}: records are missing or repeated"
            )
            raise Corrupt(msg)
        if record.kind == "claim":
            self.seal_claim(record.sequence, record.body)
            return []
        if record.chain != self.chain.hex():
            msg = (
                f"commit {record.sequence} carries the chain {record.chain}, but the journal before it hashes to "
                f"{self.chain.hex()}: the journal was changed"
            )
            raise Corrupt(msg)
        envelopes = codec.decode(record.body)
        if not envelopes:
            msg = f"commit {record.sequence} contains no event"
            raise Corrupt(msg)
        time = codec.seconds_of(envelopes[0].time)
        self.indexes.advance(time)
        for index, envelope in enumerate(envelopes):
            if look is not None:
                look(envelopes, index)
            self.apply(envelope, Position(record.sequence, index), time)
        self.seal(record.sequence, len(envelopes), record.body, time)
        return envelopes

    def apply(self, envelope: Envelope, position: Position, time: float) -> None:
        """Fold one event of a commit; call `seal` after the last one."""
        event = envelope.data
        kind = type(event)
        fold = self._folds.get(kind)
        if fold is None:
            self._apply_other(event, position, time)
        else:
            stamp = Stamp(
                position,
                time,
                envelope.tenant,
                envelope.actor,
                envelope.traceparent,
                envelope.causationid,
                envelope.dataversion,
            )
            fold(event, stamp)
        follow = KEPT.get(kind)
        if follow is not None:
            # Older releases wrote no causes: a fold of their events, as of their snapshots, has none of these.
            if follow.is_clear or not envelope.causationid:
                self.latest.pop(follow.prefix + envelope.subject, None)
            else:
                self.latest[follow.prefix + envelope.subject] = envelope.id
        if envelope.commandid:
            self.memory.note(COMMAND, f"{envelope.actor}/{envelope.commandid}", OUTCOMES.get(kind, _NO_OUTCOME), time)

    def seal(self, sequence: int, count: int, body: bytes, time: float) -> None:
        """Close the commit of *count* events: extend the chain and evict what is too old."""
        self.chain = chain_after(self.chain, sequence, body)
        self.position = Position(sequence, count - 1)
        self.time = time
        self._evict()

    def seal_claim(self, sequence: int, body: bytes) -> None:
        """Fold a claim of the right to write."""
        try:
            claim = msgspec.json.decode(body, type=EpochClaim)
        except codec.UNREADABLE as error:
            msg = f"claim {sequence} is unreadable ({error}): {body[:80]!r}"
            raise Corrupt(msg) from error
        self.chain = chain_after(self.chain, sequence, body)
        self.position = Position(sequence, 0)
        if claim.generation > self.generation:
            # A restore from a backup: workers and nodes may know of events that the restored journal does not have.
            self.restored_at = self.time
        self.generation = max(self.generation, claim.generation)
        self.epoch = sequence
        self.holder = claim.holder

    def frozen(self) -> Snapshot:
        """Return the world as a value that does not change when the world does; it copies only references."""
        scalars: dict[str, Any] = {name: getattr(self, name) for name in _SCALARS}
        maps: dict[str, Any] = {name: dict(getattr(self, name)) for name in _MAPS}
        tables: dict[str, Any] = {name: list(getattr(self, name).values()) for name in _TABLES}
        return Snapshot(fold_version=FOLD_VERSION, **scalars, **maps, **tables, memory=self.memory.frozen())

    def snapshot(self) -> bytes:
        """Encode the whole world; equal worlds give equal bytes."""
        return b"".join(pieces(self.frozen()))

    @classmethod
    def restore(cls, data: bytes) -> World:
        """
        Decode a world; one that an older fold made is converted.

        Raises:
            Corrupt: the bytes are not a snapshot, or are one of a fold version that cannot be converted.
        """
        snapshot = decoded(data)
        world = cls()
        for name in _SCALARS:
            setattr(world, name, getattr(snapshot, name))
        for name in _MAPS:
            getattr(world, name).update(getattr(snapshot, name))
        world.memory.restore(snapshot.memory, snapshot.time)
        world.indexes.advance(snapshot.time)
        for name, (key, changed) in _TABLES.items():
            if name == "tasks":
                world.indexes.keyed.look_whether_used()
            table, update_index = getattr(world, name), getattr(world.indexes, changed, None)
            for value in getattr(snapshot, name):
                table[getattr(value, key)] = value
                if update_index is not None:
                    update_index(None, value)
            ended = sorted((v for v in table.values() if getattr(v, "is_ended", False)), key=lambda v: v.ended)
            world._ended[name].update((getattr(value, key), value.ended_at) for value in ended)
        return world

    def ended_task(self, task_id: str) -> task.EndedTask | None:
        """Return what is remembered of a task that ended and was evicted."""
        found = self.memory.find(TASK, task_id)
        return None if found is None else task.EndedTask.unpacked(found)

    def knows_task(self, task_id: str) -> bool:
        """Return whether a task has been submitted under this id, even if it ended and was evicted since."""
        return task_id in self.tasks or self.memory.find(TASK, task_id) is not None

    def keyed_task(self, tenant: str, idempotency_key: str) -> task.KeyedTask | None:
        """Return the task that a tenant's idempotency key created, if the key is remembered."""
        found = self.memory.find(KEY, idempotency_key, tenant)
        return None if found is None else task.KeyedTask.unpacked(found)

    def key_holds_until(self, tenant: str, idempotency_key: str) -> float | None:
        """Return until which commit time a key is remembered at least, unless it must make room; None if it is not."""
        since = self.memory.since(KEY, idempotency_key, tenant)
        return None if since is None else since + SOFT_S

    def outcome_of(self, actor: str, commandid: str) -> bytes | None:
        """Return `OUTCOMES` of a command that was carried out, None if it was not, or is not remembered."""
        return self.memory.find(COMMAND, f"{actor}/{commandid}")

    def digest(self) -> str:
        """Return a hash of the world; every replay of the same records gives the same hash."""
        return sha256(self.snapshot()).hexdigest()

    def digest_of_living(self) -> str:
        """
        Return a hash of what has not ended.

        It is equal for a fold from the start and for one from a converted snapshot of an older fold.
        """
        frozen = self.frozen()
        living: dict[str, Any] = {
            name: [one for one in getattr(frozen, name) if not getattr(one, "is_ended", False)] for name in _TABLES
        }
        only = msgspec.structs.replace(frozen, **living, memory=[], remembers_since=0.0)
        return sha256(b"".join(pieces(only))).hexdigest()

    def _apply_other(self, event: Event, position: Position, time: float) -> None:
        match event:
            case CoordinatorStarted():
                self.leader = event.instance
                self.retention_s = event.retention_s
                self.ended_kept = event.ended_kept
            case CoordinatorStopped():
                self.leader = ""
            case CoordinatorTurn():
                self.count("tasks_placed", event.placed)
                for worker_id, rounds in event.rounds.items():
                    self._take_rounds(worker_id, rounds, position)
            case CoordinatorMassSilenceNoticed():
                self.silences[event.kind] = MassSilence(since=time, silent=event.silent, alive=event.alive)
            case CoordinatorMassSilenceEnded():
                self.silences.pop(event.kind, None)
                if event.accepted:
                    self.silences[event.kind] = MassSilence(since=time, silent=event.silent, accepted=True)
            case IdempotencyForgotten():
                self.memory.forget(event.tenant, event.through)
            case CoordinatorCommandRefused() | CoordinatorPlacementRefused():
                pass  # a refusal changes nothing
            case UnknownEvent():
                self.unfoldable = self.unfoldable or f"{event.type} at {position}"
            case _:
                msg = f"event {position} is {type_of(type(event))}, a type that is never written into the journal"
                raise Corrupt(msg)

    def _take_rounds(self, worker_id: str, rounds: float, position: Position) -> None:
        """Note how far a worker is in the rotation of ROUND_ROBIN and WEIGHTED_ROUND_ROBIN."""
        before = self.workers.get(worker_id)
        if before is None or not rounds > before.rounds:
            had = "is not known" if before is None else f"was in round {before.rounds}"
            msg = f"event {position} puts worker {worker_id!r}, which {had}, into round {rounds}: rounds only grow"
            raise Corrupt(msg)
        after = self.workers[worker_id] = msgspec.structs.replace(before, rounds=rounds)
        self.indexes.worker_changed(before, after)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a total over the lifetime of the cluster."""
        self.totals[name] = self.totals.get(name, 0) + by

    def _evict(self) -> None:
        time = self.time
        for name, ended in self._ended.items():
            if not ended:
                continue
            if name == "tasks":
                self._evict_tasks(ended, time)
            else:
                self._evict_from(name, ended, time)
        self.memory.advance(time)
        if self.remembers_since and time - self.remembers_since > HARD_S:
            self.remembers_since = 0.0

    def _evict_from(self, name: str, ended: OrderedDict[str, float], time: float) -> None:
        table, kept_s = getattr(self, name), self.retention_s
        update_index = getattr(self.indexes, _TABLES[name][1], None)
        while ended:
            entity_id, ended_at = next(iter(ended.items()))
            age_s = time - ended_at
            if (age_s <= kept_s and len(ended) <= self.ended_kept) or age_s <= HARD_S:
                return
            del ended[entity_id]
            value = table.pop(entity_id)
            if update_index is not None:
                update_index(value, None)

    def _evict_tasks(self, ended: OrderedDict[str, float], time: float) -> None:
        """Evict ended tasks; those that ended a short time ago are remembered."""
        pop, pack, oldest = self.tasks.pop, task.EndedTask.packed, time - self.retention_s
        indexed = self.indexes.tasks
        noted: dict[str, bytes] = {}
        while len(ended) > self.ended_kept or (ended and next(iter(ended.values())) < oldest):
            task_id, ended_at = ended.popitem(last=False)
            value = pop(task_id)
            del indexed[value.status][task_id]
            if time - ended_at <= HARD_S:
                noted[task_id] = pack(value)
        if noted:
            self.memory.note_all(TASK, noted, time)

    def note_end(self, table: str, entity_id: str, value: Any) -> None:
        """Keep the order in which entities of one kind ended; one that came back is removed from it."""
        ended = self._ended[table]
        ended.pop(entity_id, None)
        if value.is_ended:
            ended[entity_id] = value.ended_at


_SCALARS = (
    "position", "time", "chain", "generation", "epoch", "holder", "leader", "retention_s", "ended_kept", "unfoldable",
    "restored_at", "remembers_since", "prices", "agents",
)  # fmt: skip
_MAPS = ("totals", "silences", "latest", "awaited")

_NO_OUTCOME = b"-"
OUTCOMES = {TaskAttemptFailed: b"p", TaskPaused: b"p", TaskFailed: b"f"}
"""What is remembered of a command besides that it was carried out: the status of its task, if it failed an attempt."""

_TABLES = {
    "queues": ("queue_id", "queue_changed"),  # before the tasks, which are grouped by what queues say
    "holds": ("hold_id", "hold_changed"),  # before the tasks, which some of them keep from the workers
    "accounts": ("name", ""),
    "limits": ("limit_id", ""),
    "uses": ("key", ""),
    "versions": ("build_id", ""),  # before the tasks, of which some go elsewhere since
    "blockages": ("name", ""),
    "made_wait": ("name", ""),
    "past_holds": ("name", "past_hold_changed"),
    "past_pauses": ("name", ""),
    "budgets": ("budget_id", ""),
    "spent": ("key", ""),
    "containers": ("container_id", "container_changed"),
    "services": ("service_id", "service_changed"),
    "pools": ("pool_id", "pool_changed"),  # before the tasks, of which some wait for a share
    "tasks": ("task_id", "task_changed"),
    "workers": ("worker_id", "worker_changed"),
    "nodes": ("node_id", ""),
    "sessions": ("session_id", "session_changed"),
    "inboxes": ("domain", ""),
    "schedules": ("schedule_id", "schedule_changed"),
}


def _folds(world: World) -> dict[type[Event], Callable[[Any, Stamp], None]]:
    """Return the fold of each event type: it updates the table and the index, using the reducer."""
    by_base: dict[type[Event], Callable[[Any, Stamp], None]] = {
        ContainerEvent: _fold(world, "containers", container.evolve),
        ServiceEvent: _fold(world, "services", service.evolve),
        TaskEvent: _fold_task(world),
        WorkerEvent: _fold(world, "workers", worker.evolve),
        NodeEvent: _fold(world, "nodes", node.evolve),
        PoolEvent: _fold_pool(world),
        QueueEvent: _fold_queue(world),
        QueueBlocked: _fold_blocked(world),  # the last base of an event counts
        HoldEvent: _fold_hold(world),
        LimitEvent: _fold_limit(world),
        VersionEvent: _fold_version(world),
        BudgetEvent: _fold_budget(world),
        PricesSet: _fold_prices(world),
        AgentsChanged: _fold_agents(world),
        SessionEvent: _fold(world, "sessions", session.evolve),
        InboxEvent: _fold(world, "inboxes", inbox.evolve),
        ScheduleEvent: _fold(world, "schedules", schedule.evolve),
    }
    return {
        event: fold
        for event in codec.EVENTS.values()
        if type_of(event) not in codec.HEARTBEATS
        for base, fold in by_base.items()
        if issubclass(event, base)
    }


def _fold(world: World, name: str, evolve: Callable[..., Any]) -> Callable[[Any, Stamp], None]:
    table = getattr(world, name)
    key, changed = _TABLES[name]
    update_index = getattr(world.indexes, changed, None)

    def fold(event: Any, stamp: Stamp) -> None:
        entity_id = getattr(event, key)
        before = table.get(entity_id)
        after = table[entity_id] = evolve(before, event, stamp)
        if update_index is not None:
            update_index(before, after)
        if after.is_ended or (before is not None and before.is_ended):
            world.note_end(name, entity_id, after)

    return fold


def _fold_pool(world: World) -> Callable[[Any, Stamp], None]:
    pools, indexes = world.pools, world.indexes

    def fold(event: Any, stamp: Stamp) -> None:
        before = pools.get(event.pool_id)
        after = pools[event.pool_id] = pool.evolve(before, event, stamp)
        if before is None:
            indexes.pool_changed(None, after)
        elif not isinstance(event, PoolDefined):
            indexes.request_changed(before, after, event.request_id, world.tasks)

    return fold


def _put(table: dict[str, Any], name: str, after: Any) -> None:
    """Keep a thing by its name, or no longer if there is none any more."""
    if after is None:
        del table[name]
    else:
        table[name] = after


def _keep(table: dict[str, Any], name: str, value: Any, *, most: int) -> None:
    """Add a value as the newest of at most *most*; the oldest one goes."""
    table[name] = value
    if len(table) > most:
        del table[next(iter(table))]


def _fold_queue(world: World) -> Callable[[Any, Stamp], None]:
    queues, indexes = world.queues, world.indexes

    def fold(event: Any, stamp: Stamp) -> None:
        before = queues.get(event.queue_id)
        after = queue.evolve(before, event, stamp)
        _put(queues, event.queue_id, after)
        if (
            before is not None
            and before.paused_at is not None
            and (after is None or after.paused_at != before.paused_at)
        ):
            name = f"{event.queue_id}/{stamp.position}"
            over = queue.PastPause(name, event.queue_id, before.paused_at, stamp.time)
            _keep(world.past_pauses, name, over, most=queue.MOST_PAST)
        shared = dict(indexes.shared)
        if indexes.queue_changed(before, after):
            indexes.count_running(world.tasks[task_id] for task_id in indexes.tasks[TaskStatus.RUNNING])
        elif after is not None:
            return  # it has no account to lose
        kept = shares.kept(world.accounts, shared, indexes.shared, {queue.name_of(name) for name in queues})
        world.accounts.clear()
        world.accounts.update(kept)

    return fold


def _fold_blocked(world: World) -> Callable[[Any, Stamp], None]:
    blockages, pairs = world.blockages, world.made_wait

    def fold(event: Any, stamp: Stamp) -> None:
        before = blockages.pop(blockage.name_in(event.queue_id, event.shape), None)
        for holder, waiter, seconds in () if before is None else blockage.made_wait(before, stamp.time):
            name = f"{event.queue_id}/{holder}/{waiter}"
            known = pairs.pop(name, None)
            pair = blockage.Pair(
                name=name,
                queue_id=event.queue_id,
                holder=holder,
                waiter=waiter,
                seconds=seconds + (0.0 if known is None else known.seconds),
            )
            _keep(pairs, name, pair, most=blockage.MOST_PAIRS)
        after = blockage.evolve(before, event, stamp)
        _keep(blockages, after.name, after, most=blockage.MOST_BLOCKAGES)

    return fold


def _fold_hold(world: World) -> Callable[[Any, Stamp], None]:
    holds, indexes = world.holds, world.indexes

    def fold(event: Any, stamp: Stamp) -> None:
        before = holds.get(event.hold_id)
        after = hold.evolve(before, event, stamp)
        _put(holds, event.hold_id, after)
        indexes.hold_changed(before, after)
        if before is not None:
            name = f"{before.hold_id}/{before.placed}"
            ended = hold.PastHold(name, before, stamp.time)
            _keep(world.past_holds, name, ended, most=hold.MOST_PAST)
            indexes.past_hold_changed(None, ended)

    return fold


def _fold_limit(world: World) -> Callable[[Any, Stamp], None]:
    limits, uses = world.limits, world.uses

    def fold(event: Any, stamp: Stamp) -> None:
        before = limits.get(event.limit_id)
        after = limit.evolve(before, event, stamp)
        _put(limits, event.limit_id, after)
        if after is None or before is None or _counts(before) != _counts(after):
            for key in [key for key in uses if limit.limit_of(key) == event.limit_id]:
                del uses[key]
        world.indexes.limits_changed(world.tasks)

    return fold


def _fold_version(world: World) -> Callable[[Any, Stamp], None]:
    versions = world.versions

    def fold(event: Any, stamp: Stamp) -> None:
        after = version.evolve(versions.get(event.build_id), event, stamp)
        _put(versions, event.build_id, after)
        following = after
        while following is not None:
            if following.move_to == event.build_id:
                msg = f"event {stamp.position} moves the tasks of {event.build_id!r} to where they come from"
                raise Corrupt(msg)
            following = versions.get(following.move_to)
        world.indexes.versions_changed()

    return fold


def _fold_budget(world: World) -> Callable[[Any, Stamp], None]:
    budgets, spent = world.budgets, world.spent

    def fold(event: Any, stamp: Stamp) -> None:
        before = budgets.get(event.budget_id)
        after = budget.evolve(before, event, stamp)
        if isinstance(event, BudgetCorrected):
            key = budget.key_named(event.budget_id, event.key, of_floor=event.of_floor)
            _note_spent(world, budget.corrected(spent.get(key), key, event), stamp)
            return
        _put(budgets, event.budget_id, after)
        if after is None or before is None or budget.counts(before.terms) != budget.counts(after.terms):
            for key in [key for key in spent if budget.budget_of(key) == event.budget_id]:
                del spent[key]
        world.indexes.limits_changed(world.tasks)

    return fold


def _fold_agents(world: World) -> Callable[[AgentsChanged, Stamp], None]:
    def fold(event: AgentsChanged, stamp: Stamp) -> None:
        world.agents = catalogue_of(event, stamp)

    return fold


def _fold_prices(world: World) -> Callable[[PricesSet, Stamp], None]:
    def fold(event: PricesSet, stamp: Stamp) -> None:
        world.prices = table_of(event, stamp)

    return fold


def _settle(world: World, keys: tuple[str, ...], ran: task.Task, event: TaskEvent, stamp: Stamp) -> None:
    """Charge what an attempt has spent, which *event* ended, to the budgets of its keys."""
    amounts = getattr(event, "spent", None)
    if amounts is None:
        return
    for key in filter(budget.is_budget, keys):
        terms, began_at = world.budgets[budget.budget_of(key)].terms, ran.started_at or stamp.time
        if not budget.is_kept(terms.window, budget.span_at(terms.window, began_at).start, stamp.time):
            continue
        _note_spent(world, budget.settled(world.spent.get(key), key, terms, began_at, amounts, ran.reserved), stamp)


def _note_spent(world: World, after: budget.KeySpent, stamp: Stamp) -> None:
    """Keep what a key has spent, and of the one that spent longest ago nothing if that is of no interest any more."""
    spent = world.spent
    spent.pop(after.key, None)  # those that spent last are the last
    spent[after.key] = after
    oldest = next(iter(spent))
    if budget.is_past(spent[oldest], world.budgets[budget.budget_of(oldest)].terms, stamp.time):
        del spent[oldest]
    world.indexes.keyed.look(after.key)


def _counts(it: limit.Limit) -> tuple[str, str, bool]:
    """Return what the past of its keys is the past of."""
    return it.terms.by, it.terms.where, it.terms.retries_only


def _note_use(world: World, keys: tuple[str, ...], after: task.Task, event: TaskEvent, stamp: Stamp) -> None:
    """Note when a task of these keys started or ended, where a limit asks for it."""
    uses = world.uses
    for key in keys:
        if budget.is_budget(key):
            continue
        terms = world.limits[limit.limit_of(key)].terms
        known = uses.get(key)
        if type(event) is TaskStarted and terms.starts is not None:
            now_used = limit.used(known, key, terms, started_at=stamp.time)
        elif after.is_ended and terms.cooldown_s and after.attempt:
            now_used = limit.KeyUse(key, () if known is None else known.starts, stamp.time, after.task_id)
        else:
            continue
        uses.pop(key, None)  # those that were used last are the last
        uses[key] = now_used
        oldest = next(iter(uses))
        its = world.limits.get(limit.limit_of(oldest))
        if len(uses) > limit.MOST_USES or limit.is_spent(uses[oldest], None if its is None else its.terms, stamp.time):
            del uses[oldest]
        world.indexes.keyed.look(key)


def _fold_task(world: World) -> Callable[[Any, Stamp], None]:
    table, evolve, indexes, update_index = world.tasks, task.evolve, world.indexes, world.indexes.task_changed
    ended, totals = world._ended["tasks"], world.totals  # noqa: SLF001  # a part of the world, apart for speed
    pending, running = TaskStatus.PENDING, TaskStatus.RUNNING
    names = {status: f"tasks_{status.value}" for status in TaskStatus}
    dependants, awaited, keyed = world.indexes.dependants.of, world.awaited, world.indexes.keyed

    def fold(event: Any, stamp: Stamp) -> None:
        task_id = event.task_id
        before = table.get(task_id)
        after = table[task_id] = evolve(before, event, stamp)
        keys = keyed.of.get(task_id)
        update_index(before, after)
        status = after.status
        if keys is not None:
            if keyed.remembers:
                _note_use(world, keys, after, event, stamp)
            if before is not None and before.status is running and status is not running:
                _settle(world, keys, before, event, stamp)
        if indexes.is_accounted and before is not None and before.status is running and status is not running:
            _charge(world, before, event, stamp)
        if before is None:
            if after.idempotency_key:
                known = task.KeyedTask.of(after).packed()
                world.memory.note(KEY, after.idempotency_key, known, stamp.time, after.tenant)
        elif status is not before.status and status is not pending and status is not running:
            ended[task_id] = stamp.time
            name = names[status]
            totals[name] = totals.get(name, 0) + 1
            if task_id in dependants:
                awaited.setdefault(task_id, status)  # a later task of that id is another one
            if before.waiting_for:
                forget(before.waiting_for)
        elif before.waiting_for and not after.waiting_for:
            forget(before.waiting_for)

    def forget(predecessors: tuple[str, ...]) -> None:
        for one in predecessors:
            if one not in dependants:
                awaited.pop(one, None)

    return fold


def _charge(world: World, ran: task.Task, event: TaskEvent, stamp: Stamp) -> None:
    """Charge the queue of a task, and its key if the queue is shared, for the attempt that *event* ended."""
    usual = world.indexes.shared.get("")
    _charge_one(world, shares.name_in(ran.queue), shares.cost_of(ran, event, stamp, usual), stamp, usual)
    own = world.indexes.shared.get(ran.queue)
    if own is not None:
        name = shares.name_in(ran.queue, shares.key_of(ran, own))
        _charge_one(world, name, shares.cost_of(ran, event, stamp, own), stamp, own)


def _charge_one(world: World, name: str, cost: float, stamp: Stamp, share: FairShare | None) -> None:
    half_life_s = shares.HALF_LIFE_S if share is None else share.half_life_s
    before = world.accounts.pop(name, None) or shares.Account(name)
    if len(world.accounts) >= shares.MOST_ACCOUNTS:
        del world.accounts[next(iter(world.accounts))]
    world.accounts[name] = before.charged(cost, stamp.time, half_life_s)
