"""
Bugs that are patched into the production code during a run; the simulation must find each.

The production code has no switch for any of them.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from coordinator.client.client import Client
from coordinator.commands.shadow import ReportShadow
from coordinator.commands.task import ListTasks, SubmitTask
from coordinator.commands.wire import AsOf
from coordinator.deciders import (
    agents,
    cancel_ladder,
    dependencies,
    dispatch,
    drain,
    pool_owners,
    shadow,
    submit_rules,
    supervision,
)
from coordinator.deciders import hold as holds
from coordinator.deciders import node as nodes
from coordinator.deciders import schedule as schedules
from coordinator.deciders import task as decide
from coordinator.deciders.deadlines import Deadlines
from coordinator.deciders.retries import backoff_s
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.engine import questions
from coordinator.engine.engine import Engine
from coordinator.engine.inboxes import InboxTurns
from coordinator.engine.long_answer import LongAnswer
from coordinator.engine.turn import Turn
from coordinator.engine.waiting_claims import SchedulingWorker
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.lease import Lease
from coordinator.node.node_agent import NodeAgent
from coordinator.placement import matching, sources
from coordinator.placement.gangs import GangsOfTurn
from coordinator.placement.sources import Sources
from events.after import AfterOn
from events.container import ContainerStatus, ContainerStopped
from events.resources import Resources
from events.schedule import Catchup
from events.task import TaskAttemptFailed, TaskStatus
from projections import blockage, container, indexes, queue, version, waits, worker_filters, world
from projections import task as projected
from projections.budget import span_at, window_s
from projections.considered import Considered
from projections.funds import Funds
from projections.hold import OnHold
from projections.indexes import Indexes
from projections.keyed import Keyed
from projections.ledger import Ledger
from projections.node import Node
from projections.store.memory import MemoryStore
from projections.store.port import state_rows
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from coordinator.journal.slots import Draft
    from events.after import After
    from events.base import Envelope, Position
    from events.queue import Comparison, Route
    from events.task import TaskSubmitted
    from projections.budget import Period
    from projections.pool import Allocation, Request
    from projections.stamp import Stamp
    from projections.store.port import Batch
    from projections.task import Task
    from projections.worker_filters import Facts


@contextmanager
def answer_before_commit() -> Iterator[None]:
    """Commands are answered when the turn is sealed, before it is in the journal."""
    original = Turn.seal

    def seal(self: Turn) -> tuple[bytes, bytes]:
        self.answer_all()
        self.answers = []
        return original(self)

    with mock.patch.object(Turn, "seal", seal):
        yield


@contextmanager
def lease_unchecked() -> Iterator[None]:
    """A report on a running task is accepted with any lease."""
    original = decide._check_holds

    def check_holds(task: Task, lease: str, worker_id: str, outcome: str) -> None:
        if task.status is not TaskStatus.RUNNING:
            original(task, lease, worker_id, outcome)

    with mock.patch.object(decide, "_check_holds", check_holds):
        yield


@contextmanager
def epoch_header_missing() -> Iterator[None]:
    """A commit does not name the claim of its writer."""
    original = NatsJournal._headers

    def headers(self: NatsJournal, draft: Draft) -> dict[str, str]:
        given = original(self, draft)
        if draft.kind == "commit":
            del given["Nats-Expected-Last-Subject-Sequence"]
            del given["Nats-Expected-Last-Subject-Sequence-Subject"]
        return given

    with mock.patch.object(NatsJournal, "_headers", headers):
        yield


@contextmanager
def position_outside_transaction() -> Iterator[None]:
    """A store writes its position first, and the rows a moment later."""

    async def write(self: MemoryStore, batch: Batch) -> None:
        if self._mark.position != batch.before:
            return
        self.move(batch.after)
        await asyncio.sleep(0.005)
        self._events += batch.events
        for kind, states in batch.states.items():
            self._rows[kind].update((row.id, row) for row in state_rows(kind, states.values()))

    with mock.patch.object(MemoryStore, "write", write):
        yield


@contextmanager
def command_forgotten() -> Iterator[None]:
    """The fold does not remember executed commands."""
    original = World.apply

    def apply(self: World, envelope: Envelope, position: Position, time: float) -> None:
        original(self, msgspec.structs.replace(envelope, commandid=""), position, time)

    with mock.patch.object(World, "apply", apply):
        yield


@contextmanager
def capacity_freed_twice() -> Iterator[None]:
    """The resources of a container are freed when it is told to stop, and again when it has stopped."""
    with mock.patch.object(container, "HOLDING", container.HOLDING - {ContainerStatus.STOPPING}):
        yield


@contextmanager
def inbox_position_lost() -> Iterator[None]:
    """A turn reads from inboxes without recording the position."""

    def close(self: InboxTurns, turn: Turn) -> None:
        turn.release()
        if any(queue.waiting for queue in self._queues.values()):
            self._wake()

    with mock.patch.object(InboxTurns, "close", close):
        yield


class _WallClock:
    """Returns the wall clock time for both clocks."""

    def __init__(self, clock: Any) -> None:
        self.wall = self.heard = clock.wall


@contextmanager
def eviction_by_wall_clock() -> Iterator[None]:
    """Silence is measured with the wall clock, which may be set."""
    original = Engine.__init__

    def init(self: Engine, **given: Any) -> None:
        # A clock jump looks like a standstill, after which nothing is declared silent: that would hide the bug.
        limits = msgspec.structs.replace(given["limits"], blind_after_s=math.inf)
        original(self, **(given | {"clock": _WallClock(given["clock"]), "limits": limits}))

    with mock.patch.object(Engine, "__init__", init):
        yield


@contextmanager
def repeat_re_decided() -> Iterator[None]:
    """A repeated claim is placed again."""

    def claim(self: Engine, turn: Turn, asked: Any, command: Any) -> None:
        self._scheduling.add(asked)

    with mock.patch.object(Engine, "_claim", claim):
        yield


@contextmanager
def grace_forgotten() -> Iterator[None]:
    """A new writer treats everything without a heartbeat so far as silent."""

    def begin(self: Signs, now: float) -> None:
        self.since = now - 3600.0

    with mock.patch.object(Signs, "begin", begin):
        yield


@contextmanager
def lease_never_minded() -> Iterator[None]:
    """A node agent that is cut off does not stop its containers, and lets them run on for as long as they like."""

    async def mind_lease(self: NodeAgent) -> None:
        await asyncio.get_running_loop().create_future()

    with (
        mock.patch.object(NodeAgent, "_mind_lease", mind_lease),
        mock.patch.object(NodeAgent, "_dead_at", lambda self: self._granted_until + 1e6),
    ):
        yield


@contextmanager
def older_epoch_obeyed() -> Iterator[None]:
    """A node agent carries out the orders of a deposed leader."""
    original = NodeAgent._sync

    async def sync(self: NodeAgent) -> None:
        self._epoch = (0, 0)
        await original(self)

    with mock.patch.object(NodeAgent, "_sync", sync):
        yield


@contextmanager
def old_reign_believed() -> Iterator[None]:
    """A client takes an answer of a deposed leader, although it has seen one of the next."""
    with mock.patch.object(Client, "_is_current", return_value=True):
        yield


@contextmanager
def nothing_withheld() -> Iterator[None]:
    """The answers of a turn are sent although its commit failed."""
    with mock.patch.object(Turn, "withhold"):
        yield


@contextmanager
def freshness_unchecked() -> Iterator[None]:
    """An instance that does not know whether it leads answers questions."""
    with mock.patch.object(Lease, "is_fresh", return_value=True):
        yield


@contextmanager
def withdrawal_ignored() -> Iterator[None]:
    """A claim that was withdrawn still gets tasks."""
    with mock.patch.object(SchedulingWorker, "withdraw"):
        yield


@contextmanager
def reason_forgotten() -> Iterator[None]:
    """A container that was told to stop and exited with 0 is taken for one that has finished."""
    with mock.patch.object(supervision, "_has_finished", lambda seen: seen.exit_code == 0):
        yield


@contextmanager
def starts_where_it_drains() -> Iterator[None]:
    """A container of a node that drains starts there again, as on one that is only cordoned."""
    with mock.patch.object(Node, "is_leaving", new=property(lambda _: False)):
        yield


@contextmanager
def moved_before_its_end() -> Iterator[None]:
    """A container that moves is taken for stopped with the next report of its node, although it still runs."""
    original = supervision.observed

    def observed(world: World, one: Any, seen: Any, context: DecisionContext) -> Any:
        if one.status is ContainerStatus.STOPPING and one.is_moving and seen is not None:
            return (ContainerStopped(container_id=one.container_id),)
        return original(world, one, seen, context)

    with mock.patch.object(nodes, "observed", observed):
        yield


@contextmanager
def drained_before_its_end() -> Iterator[None]:
    """A container that stops counts as gone from its node."""
    with mock.patch.object(drain, "ON_NODE", drain.ON_NODE - {ContainerStatus.STOPPING}):
        yield


@contextmanager
def tombstones_forgotten() -> Iterator[None]:
    """Nothing is remembered of a task that ended and was evicted."""
    with mock.patch.object(World, "ended_task", return_value=None):
        yield


@contextmanager
def twin_by_grace() -> Iterator[None]:
    """A container that must not run any more has its own grace to stop."""
    original = NodeAgent._dead_at

    def dead_at(self: NodeAgent) -> float:
        return original(self) + max((one.stop_grace_s for one in self._desired()), default=0.0)

    with mock.patch.object(NodeAgent, "_dead_at", dead_at):
        yield


@contextmanager
def load_unrecorded() -> Iterator[None]:
    """A turn does not record the loads that its placements were decided by."""
    original = Considered.changes

    def changes(self: Considered, *seen: Any) -> dict[str, Any]:
        return original(self, *seen) | {"loads": {}}

    with mock.patch.object(Considered, "changes", changes):
        yield


@contextmanager
def change_not_looked_at() -> Iterator[None]:
    """What changes is not looked at again to find what is due."""
    with mock.patch.object(Deadlines, "note"):
        yield


@contextmanager
def spared_forgotten() -> Iterator[None]:
    """What a mass silence spared is not looked at again when that ends."""
    with mock.patch.object(Deadlines, "_no_longer_spared"):
        yield


@contextmanager
def settings_of_the_leader() -> Iterator[None]:
    """New containers run what the settings of the leader say, whatever the journal says."""
    with mock.patch.object(agents, "agents_of", lambda _, rules: rules.agents):
        yield


@contextmanager
def failures_not_counted() -> Iterator[None]:
    """Every failure is the first of its interval."""
    with mock.patch.object(supervision, "_counted", lambda _, now: (1, now)):
        yield


@contextmanager
def unread_removed() -> Iterator[None]:
    """Inbox messages are removed before the commit that accounts for them."""
    original = InboxTurns.settled

    def settled(self: InboxTurns, domain: str) -> tuple[str, int]:
        created, sequence = original(self, domain)
        return created, sequence + 2

    with mock.patch.object(InboxTurns, "settled", settled):
        yield


@contextmanager
def reason_undeclared() -> Iterator[None]:
    """Tasks are refused for a reason that their command does not declare."""
    with mock.patch.object(SubmitTask, "REFUSALS", SubmitTask.REFUSALS - {"quota"}):
        yield


@contextmanager
def filter_of_the_first() -> Iterator[None]:
    """Which filters a worker meets is kept, and used for every other worker."""
    kept: dict[tuple[str, ...], frozenset[str]] = {}

    def met(facts: Facts, filters: tuple[str, ...]) -> frozenset[str]:
        return kept.setdefault(filters, worker_filters.met(facts, filters))

    with mock.patch.object(sources, "met", met):
        yield


@contextmanager
def named_amounts_free() -> Iterator[None]:
    """What a task needs by name is not counted."""
    original = Resources.fits_in

    def fits_in(self: Resources, free: Resources) -> bool:
        return original(msgspec.structs.replace(self, named={}), msgspec.structs.replace(free, named={}))

    with mock.patch.object(Resources, "fits_in", fits_in):
        yield


@contextmanager
def preference_ignored() -> Iterator[None]:
    """A task goes to whoever claims first, whatever worker it prefers."""
    with mock.patch.object(sources.Patience, "is_over", return_value=True):
        yield


@contextmanager
def pin_forgotten() -> Iterator[None]:
    """A task that has begun goes on at any version of workers, as if it had not."""
    with mock.patch.object(version.Builds, "pinned_to", return_value=""):
        yield


@contextmanager
def share_of_the_others() -> Iterator[None]:
    """The ramping version gets as many tasks as it should, and not those that it should."""

    def begins_on(route: Route, task_id: str) -> str:
        return route.ramping if version.place_of(task_id) >= 100.0 - route.percent else route.current

    with mock.patch.object(version, "begins_on", begins_on):
        yield


@contextmanager
def retired_is_served() -> Iterator[None]:
    """Workers of a retired version get tasks as before."""
    original = matching._capacity

    def capacity(world: World, *given: Any) -> Any:
        versions, world.versions = world.versions, {}
        try:
            return original(world, *given)
        finally:
            world.versions = versions

    with mock.patch.object(matching, "_capacity", capacity):
        yield


@contextmanager
def rules_of_schedules_unread() -> Iterator[None]:
    """What a schedule submits is not checked against the rules of now."""
    original = schedules._submitted

    def submitted(world: World, schedule: Any, slot: int, context: DecisionContext) -> TaskSubmitted | None:
        event = original(world, schedule, slot, DecisionContext(context.now, Rules()))
        return None if event is None else msgspec.structs.replace(event, rule="none")

    with mock.patch.object(schedules, "_submitted", submitted):
        yield


@contextmanager
def any_rule_permits_all() -> Iterator[None]:
    """A submit is permitted if a rule names its user, whatever task the rule is for."""

    def permitted(event: TaskSubmitted, user: str, tenant: str, rules: Any) -> TaskSubmitted:
        others = tuple(msgspec.structs.replace(one, task_names=("*",)) for one in rules)
        return original(event, user, tenant, others)

    original = submit_rules.permitted
    with mock.patch.object(decide, "permitted", permitted):
        yield


@contextmanager
def delay_forgotten() -> Iterator[None]:
    """The fold makes a delayed task ready at once."""
    original = projected.submitted_as

    def submitted(event: TaskSubmitted, stamp: Stamp) -> Task:
        return msgspec.structs.replace(original(event, stamp), retry_at=0.0)

    with mock.patch.object(projected, "submitted_as", submitted):
        yield


@contextmanager
def missed_slots_lost() -> Iterator[None]:
    """Of several slots that are due, only the last is looked at, and nothing says so of the others."""
    original = schedules._slots_due

    def slots_due(*given: Any) -> tuple[list[int], int | None, int | None]:
        slots, _, following = original(*given)
        return slots[-1:], None, following

    with mock.patch.object(schedules, "_slots_due", slots_due):
        yield


@contextmanager
def missed_slots_given_up() -> Iterator[None]:
    """Nothing that was missed is caught up, whatever a schedule says of it."""
    original = schedules._slots_due

    def slots_due(schedule: Any, *given: Any) -> tuple[list[int], int | None, int | None]:
        return original(msgspec.structs.replace(schedule, catchup=Catchup.NONE), *given)

    with mock.patch.object(schedules, "_slots_due", slots_due):
        yield


@contextmanager
def missed_slots_all_fired() -> Iterator[None]:
    """All that was missed is fired, as many as there are."""
    original = schedules._slots_due

    def slots_due(schedule: Any, *given: Any) -> tuple[list[int], int | None, int | None]:
        every = msgspec.structs.replace(schedule, catchup=Catchup.ALL, catchup_most=1000)
        return original(every, *given)

    with mock.patch.object(schedules, "_slots_due", slots_due):
        yield


@contextmanager
def pause_ignored() -> Iterator[None]:
    """Claims that name no queue get tasks of paused ones, too."""
    original = Sources._grouped

    def grouped(self: Sources, lanes: Any, wanted: tuple[str, ...], allowed: Any, *, is_live: bool) -> Any:
        queues = original(self, lanes, wanted, allowed, is_live=is_live)
        if not wanted:
            for lane, group in ((lane, group) for one in lanes for lane, group in one.of.items()):
                queues.setdefault(lane.queue, {}).setdefault(lane, [group])
        return queues

    with mock.patch.object(Sources, "_grouped", grouped):
        yield


@contextmanager
def limit_of_the_turn_before() -> Iterator[None]:
    """What a turn gives to claims is not counted before the next one."""
    with mock.patch.object(sources._Limits, "note"):
        yield


@contextmanager
def half_a_gang() -> Iterator[None]:
    """Of a gang that there is room for, only half begins."""
    original = GangsOfTurn.fitted

    def fitted(self: Any, task: Task, left: int) -> Any:
        found, begins = original(self, task, left)
        return (found[: len(found) // 2] if begins else found), begins

    with mock.patch.object(GangsOfTurn, "fitted", fitted):
        yield


@contextmanager
def list_read_later() -> Iterator[None]:
    """A list is read from the world while it is made, though events are folded meanwhile."""

    def page(table: Any, ids: Iterator[str], question: Any) -> Iterator[Any]:
        return map(table.__getitem__, islice(ids, question.limit))

    def listed(now: World, question: ListTasks) -> Iterator[Task]:
        return page(now.tasks, reversed(now.tasks), question)

    with mock.patch.object(questions, "_page", page), mock.patch.object(questions, "_listed_tasks", listed):
        yield


@contextmanager
def list_dated_late() -> Iterator[None]:
    """The answer to a question for a list says the position of when it was made."""
    original = LongAnswer.go_on

    def go_on(self: LongAnswer, *given: Any) -> Any:
        made = original(self, *given)
        return made.value if isinstance(made, AsOf) else made

    with mock.patch.object(LongAnswer, "go_on", go_on):
        yield


@contextmanager
def only_the_last_cause() -> Iterator[None]:
    """What a shape waited for before is forgotten with each new cause."""
    original = blockage.evolve
    with mock.patch.object(blockage, "evolve", lambda _, event, stamp: original(None, event, stamp)):
        yield


@contextmanager
def share_kept_after_its_owner() -> Iterator[None]:
    """The end of an owner frees nothing that it held."""
    with mock.patch.object(pool_owners, "ended", return_value=[]):
        yield


@contextmanager
def past_pauses_forgotten() -> Iterator[None]:
    """That a queue was paused is known while it is."""
    original = waits._kept_back

    def kept_back(world: World, task: Task) -> Iterator[tuple[float, float, str]]:
        return (one for one in original(world, task) if one[1] == world.indexes.now)

    with mock.patch.object(waits, "_kept_back", kept_back):
        yield


@contextmanager
def nothing_set_aside() -> Iterator[None]:
    """Small requests pass a large one that waits, again and again."""
    with mock.patch.object(Ledger, "_set_aside"):
        yield


@contextmanager
def victims_too_many() -> Iterator[None]:
    """A request that takes shares of lower priorities takes all of them."""
    original = Ledger._taken

    def taken(self: Ledger, request: Request, part: str, lower: Mapping[str, Sequence[Allocation]]) -> Any:
        return original(self, request, part, lower) and tuple(one for shares in lower.values() for one in shares)

    with mock.patch.object(Ledger, "_taken", taken):
        yield


@contextmanager
def share_not_awaited() -> Iterator[None]:
    """A task runs although its request waits."""
    with mock.patch.object(indexes, "task_waiting", return_value=""):
        yield


@contextmanager
def quota_of_pool_ignored() -> Iterator[None]:
    """A source holds more of a pool than its quota."""
    with mock.patch.object(Ledger, "_over_quota", return_value=""):
        yield


@contextmanager
def starts_forgotten() -> Iterator[None]:
    """Nobody notes when tasks of a key started and ended."""
    with mock.patch.object(world, "_note_use"):
        yield


@contextmanager
def paused_is_ready() -> Iterator[None]:
    """A paused task waits like any other, and a worker gets it."""
    original = Indexes._wait

    def wait(self: Indexes, task: Task) -> None:
        original(self, msgspec.structs.replace(task, paused_at=None))

    def no_longer_wait(self: Indexes, task: Task) -> None:
        no_longer(self, msgspec.structs.replace(task, paused_at=None))

    no_longer = Indexes._no_longer_wait
    with (
        mock.patch.object(Indexes, "_wait", wait),
        mock.patch.object(Indexes, "_no_longer_wait", no_longer_wait),
        mock.patch.object(projected, "_wrongly"),
    ):
        yield


@contextmanager
def later_not_held() -> Iterator[None]:
    """A hold keeps only the tasks that were ready when it was placed."""
    with mock.patch.object(OnHold, "keeps", return_value=False):
        yield


@contextmanager
def hold_without_end() -> Iterator[None]:
    """A hold whose time is over stays in force."""
    with mock.patch.object(holds, "due", return_value=iter(())):
        yield


@contextmanager
def grace_without_end() -> Iterator[None]:
    """A task whose worker does not report its end after it was asked to is never ended."""
    with mock.patch.object(cancel_ladder, "due", return_value=iter(())):
        yield


@contextmanager
def shares_forgotten() -> Iterator[None]:
    """An instance that begins with a snapshot does not know what was used before."""
    original = World.restore

    def restore(data: bytes) -> World:
        world = original(data)
        world.accounts.clear()
        return world

    with mock.patch("tests.simulation.cluster._restore", restore):
        yield


@contextmanager
def retry_not_awaited() -> Iterator[None]:
    """What a handler says about when to retry is recorded, and not done."""

    def failed_attempt(task: Task, *given: Any, **more: Any) -> Any:
        event = decided(task, *given, **more)
        if not isinstance(event, TaskAttemptFailed):
            return event
        now, rules = given[3], given[4]
        return msgspec.structs.replace(event, retry_at=now + backoff_s(task, rules))

    decided = decide.failed_attempt
    with mock.patch.object(decide, "failed_attempt", failed_attempt):
        yield


@contextmanager
def failure_taken_for_success() -> Iterator[None]:
    """A task begins after others although they failed."""
    original = dependencies.settled

    def settled(after: After, ids: Any, status_of: Any) -> Any:
        return original(msgspec.structs.replace(after, on=AfterOn.END), ids, status_of)

    with mock.patch.object(dependencies, "settled", settled):
        yield


@contextmanager
def dependants_forgotten() -> Iterator[None]:
    """What waits for a task is not looked at when it ends."""
    with mock.patch.object(dependencies.ToLook, "note"):
        yield


@contextmanager
def refund_forgotten() -> Iterator[None]:
    """What was reserved for an attempt is kept for ever if it fails."""
    original = Keyed.leave

    def leave(self: Keyed, before: Task, after: Task) -> None:
        if after.status is not TaskStatus.PENDING:
            original(self, before, after)
            return
        with mock.patch.object(Funds, "release"):
            original(self, before, after)

    with mock.patch.object(Keyed, "leave", leave):
        yield


@contextmanager
def reserved_twice() -> Iterator[None]:
    """What a retry may spend is reserved twice."""
    original = Funds.hold

    def hold(self: Funds, key: str, task: Task) -> None:
        original(self, key, task)
        if task.attempt > 1:
            original(self, key, task)

    with mock.patch.object(Funds, "hold", hold):
        yield


@contextmanager
def cap_of_last_window() -> Iterator[None]:
    """What is left is what was left of the window before."""

    def span(self: Funds, window: str) -> Period:
        return span_at(window, max(0.0, self.now - window_s(window)))

    with mock.patch.object(Funds, "span", span):
        yield


@contextmanager
def reservation_of_the_turn_before() -> Iterator[None]:
    """What a turn reserves for claims is not counted before the next one."""
    with mock.patch.object(sources._Limits, "_note_spend"):
        yield


@contextmanager
def regret_ignored() -> Iterator[None]:
    """A candidate is promoted whatever its regret is."""

    def regret_of(compared: Comparison) -> tuple[float, float]:
        mean, _ = queue.regret_of(compared)
        return mean, -1e9

    with mock.patch.object(shadow, "regret_of", regret_of):
        yield


@contextmanager
def report_counted_twice() -> Iterator[None]:
    """A report is counted wherever the last one ended."""
    original = shadow.report

    def report(world: World, command: Any, context: Any) -> Any:
        known = world.queues.get(command.queue_id)
        if known is None or known.shadow is None:
            return original(world, command, context)
        with mock.patch.dict(world.queues):
            kept = msgspec.structs.replace(known.shadow, upto=command.after)
            world.queues[command.queue_id] = msgspec.structs.replace(known, shadow=kept)
            return original(world, command, context)

    with mock.patch.dict(dispatch.DECIDERS, {ReportShadow: report}):
        yield


PLANTED: dict[str, Callable[[], AbstractContextManager[None]]] = {
    bug.__name__: bug
    for bug in (
        answer_before_commit,
        lease_unchecked,
        epoch_header_missing,
        position_outside_transaction,
        command_forgotten,
        capacity_freed_twice,
        inbox_position_lost,
        eviction_by_wall_clock,
        repeat_re_decided,
        grace_forgotten,
        lease_never_minded,
        older_epoch_obeyed,
        old_reign_believed,
        nothing_withheld,
        freshness_unchecked,
        withdrawal_ignored,
        reason_forgotten,
        tombstones_forgotten,
        twin_by_grace,
        load_unrecorded,
        change_not_looked_at,
        spared_forgotten,
        settings_of_the_leader,
        failures_not_counted,
        unread_removed,
        reason_undeclared,
        delay_forgotten,
        missed_slots_all_fired,
        missed_slots_given_up,
        missed_slots_lost,
        pause_ignored,
        shares_forgotten,
        limit_of_the_turn_before,
        half_a_gang,
        list_dated_late,
        list_read_later,
        only_the_last_cause,
        past_pauses_forgotten,
        starts_forgotten,
        share_kept_after_its_owner,
        nothing_set_aside,
        victims_too_many,
        share_not_awaited,
        quota_of_pool_ignored,
        paused_is_ready,
        later_not_held,
        hold_without_end,
        retry_not_awaited,
        grace_without_end,
        failure_taken_for_success,
        dependants_forgotten,
        filter_of_the_first,
        named_amounts_free,
        preference_ignored,
        pin_forgotten,
        share_of_the_others,
        retired_is_served,
        rules_of_schedules_unread,
        any_rule_permits_all,
        refund_forgotten,
        reserved_twice,
        cap_of_last_window,
        reservation_of_the_turn_before,
        regret_ignored,
        report_counted_twice,
        starts_where_it_drains,
        moved_before_its_end,
        drained_before_its_end,
    )
}
"""Every bug by its name."""

FOUND_FROM = {
    "answer_before_commit": 10,
    "cap_of_last_window": 8,
    "capacity_freed_twice": 138,
    "delay_forgotten": 4,
    "drained_before_its_end": 12,
    "eviction_by_wall_clock": 89,
    "failures_not_counted": 32,
    "filter_of_the_first": 20,
    "freshness_unchecked": 50,
    "grace_without_end": 3,
    "half_a_gang": 6,
    "hold_without_end": 48,
    "later_not_held": 20,
    "lease_never_minded": 179,
    "lease_unchecked": 50,
    "limit_of_the_turn_before": 29,
    "list_dated_late": 18,
    "list_read_later": 18,
    "load_unrecorded": 14,
    "missed_slots_all_fired": 22,
    "missed_slots_given_up": 22,
    "moved_before_its_end": 37,
    "named_amounts_free": 6,
    "nothing_set_aside": 67,
    "nothing_withheld": 33,
    "old_reign_believed": 988,
    "older_epoch_obeyed": 392,
    "only_the_last_cause": 3,
    "past_pauses_forgotten": 10,
    "pause_ignored": 10,
    "pin_forgotten": 4,
    "position_outside_transaction": 16,
    "preference_ignored": 6,
    "quota_of_pool_ignored": 46,
    "reason_forgotten": 97,
    "refund_forgotten": 19,
    "regret_ignored": 166,
    "repeat_re_decided": 25,
    "report_counted_twice": 19,
    "reservation_of_the_turn_before": 143,
    "reserved_twice": 30,
    "retired_is_served": 9,
    "retry_not_awaited": 2,
    "rules_of_schedules_unread": 1,
    "settings_of_the_leader": 2,
    "share_kept_after_its_owner": 4,
    "share_not_awaited": 46,
    "share_of_the_others": 9,
    "shares_forgotten": 34,
    "spared_forgotten": 75,
    "starts_forgotten": 35,
    "starts_where_it_drains": 12,
    "tombstones_forgotten": 3,
    "twin_by_grace": 251,
    "unread_removed": 36,
    "victims_too_many": 25,
    "withdrawal_ignored": 36,
}
"""Where to begin the search for a bug, if not at seed 0: the seed that showed it last."""
