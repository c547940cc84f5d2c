"""Deciders of the worker and claim commands. Pure: the context carries the time."""

from __future__ import annotations

from itertools import islice
from math import inf
from typing import TYPE_CHECKING

from coordinator.commands.command import Command
from coordinator.commands.task import ClaimTasks, OfferTasks, SchedulingStrategy, WithdrawClaim
from coordinator.commands.validation import check_number, check_resources, check_text
from coordinator.commands.worker import CLAIM_WAIT_MAX_S, DrainWorker, LeaveWorker, RegisterWorker, WorkerTerms
from coordinator.deciders import housing
from coordinator.deciders.deadlines import NEVER
from coordinator.deciders.queue import check_queue
from coordinator.deciders.rules import Decider, Teller, check_churn, check_current, check_generation, present_s
from coordinator.deciders.silence import is_held, patience_s, unless_spared
from coordinator.deciders.submission import check_scalars
from coordinator.deciders.task import released
from events.coordinator import Watched
from events.errors import NotFound, Refused
from events.ids import checked
from events.worker import WorkerDraining, WorkerLeft, WorkerLost, WorkerRegistered
from projections.worker import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from coordinator.deciders.deadlines import Due
    from coordinator.deciders.rules import DecisionContext, Events
    from coordinator.deciders.signs import Signs
    from events.base import Event
    from events.task import Scalar
    from projections.worker import WorkerState
    from projections.world import World

LABELS_MAX = 32
LABELS_BYTES_MAX = 2048
RELEASED_AT_ONCE = 500
MOST_WORKERS = 100_000
MOST_IN_A_FILTER = 32
"""Programs, and names of tasks, in one claim: the commit of a turn records the filters of its claims."""
STRATEGIES = frozenset(strategy.value for strategy in SchedulingStrategy)


def register(world: World, command: RegisterWorker, context: DecisionContext) -> Events:
    """Register a worker; a newcomer waits while the program that is registered under its id is present."""
    checked(command.worker_id, "worker_id")
    if command.registration:
        checked(command.registration, "registration")
    if command.container_id:
        checked(command.container_id, "container_id")
        housing.check_open(world, command.container_id)
    if command.slots is not None:
        check_number("slots", command.slots, 1, 100_000)
    if command.resources is not None:
        check_resources("resources", command.resources, may_name=True)
    if len(command.handles) > 1000:  # noqa: PLR2004  # a sanity bound, not a rule
        msg = f"handles names {len(command.handles)} tasks: use at most 1000"
        raise Refused(msg, reason="too_many")
    for name in command.handles:
        check_text("handles", name, 128, least=1)
    if command.labels:
        _check_labels(command.labels)
    if command.build_id:
        checked(command.build_id, "build_id")
    check_generation(world, command.container_id, command.generation)
    known = world.workers.get(command.worker_id)
    registration = command.registration
    if known is not None:
        _check_free(known, command, context)
        # Who gives no registration shares the worker with the program that did.
        registration = registration or ("" if known.is_ended else known.registration)
    offered = WorkerRegistered(
        worker_id=command.worker_id,
        slots=command.slots,
        resources=command.resources,
        handles=command.handles,
        container_id=command.container_id,
        registration=registration,
        owned=bool(context.actor),
        labels=command.labels,
        build_id=command.build_id,
    )
    if known is not None and known.status is WorkerStatus.ACTIVE and again(known, context) == offered:
        return ()
    if known is None:
        check_room_for_worker(world, context)
    return (offered,)


def _check_labels(labels: Mapping[str, Scalar]) -> None:
    """
    Accept the labels of a worker.

    Raises:
        Refused: they are too many or too long, or a name or a value is none.
    """
    size = check_scalars("labels", labels, LABELS_MAX, LABELS_BYTES_MAX)
    if size > LABELS_BYTES_MAX:
        raise Refused(f"labels has {size} bytes: use at most {LABELS_BYTES_MAX}", reason="too_large")


def _check_free(known: WorkerState, command: RegisterWorker, context: DecisionContext) -> None:
    """
    Accept a program that registers under the id of a known worker.

    Raises:
        Refused: another program is registered under this id and is present.
    """
    if known.is_ended or not known.registration or command.registration in ("", known.registration):
        return
    if command.generation and command.container_id == known.container_id:
        return  # its container was started again, so the other program has ended or is about to
    left_s = present_s(context.rules) - context.silent_s
    if left_s > 0:
        msg = (
            f"worker_id {known.worker_id!r} is in use: a worker with this id was heard {context.silent_s:.1f} s ago; "
            "use another id, or stop that worker"
        )
        raise Refused(msg, reason="id_in_use", retry_after_s=min(left_s, 1.0))


def drain(world: World, command: DrainWorker, context: DecisionContext) -> Events:
    """Drain a worker: it gets no new tasks."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    worker = _worker(world, command.worker_id)
    check_current("worker", worker.worker_id, worker, command.registration)
    if worker.status is not WorkerStatus.ACTIVE:
        return ()
    return (WorkerDraining(worker_id=worker.worker_id, reason=command.reason),)


def leave(world: World, command: LeaveWorker, context: DecisionContext) -> Events:
    """End a worker and release its attempts; they do not count against the retries of their tasks."""
    check_text("reason", command.reason, context.rules.text_chars_max)
    worker = _worker(world, command.worker_id)
    check_current("worker", worker.worker_id, worker, command.registration)
    if worker.status is WorkerStatus.LEFT:
        return ()
    # A commit is limited in size: `task.due` releases the remaining attempts, as the worker has left.
    held = islice(world.indexes.held.get(worker.worker_id, ()), RELEASED_AT_ONCE)
    back = (released(world.tasks[task_id], "the worker left", context) for task_id in held)
    return (*back, WorkerLeft(worker_id=worker.worker_id, reason=command.reason))


def _worker(world: World, worker_id: str) -> WorkerState:
    worker = world.workers.get(checked(worker_id, "worker_id"))
    if worker is None:
        msg = f"worker {worker_id!r} not found: register it first"
        raise NotFound(msg)
    return worker


def claim(world: World, command: ClaimTasks, context: DecisionContext) -> Events:
    """Admit a claim; it registers a worker that is not known. The scheduler places the tasks."""
    checked(command.claim_id, "claim_id")
    checked(command.worker_id, "worker_id")
    check_number("slots", command.slots, 1, context.rules.claim_slots_max)
    check_number("wait_s", command.wait_s, 0.0, context.rules.claim_wait_max_s)
    check_wanted(world, command)
    for task_id in command.task_ids:
        checked(task_id, "task_ids")
    if command.resources is not None:
        check_resources("resources", command.resources, may_name=True)
    if claimed := world.indexes.claims.get(command.claim_id):
        if world.tasks[next(iter(claimed))].worker_id == command.worker_id:
            return ()
        msg = f"claim_id {command.claim_id!r} is already used by another worker: use a new id"
        raise Refused(msg, reason="id_taken")
    worker = world.workers.get(command.worker_id)
    if worker is None:
        check_room_for_worker(world, context)
        registration = checked(command.registration, "registration") if command.registration else ""
        return (
            WorkerRegistered(
                worker_id=command.worker_id,
                resources=command.resources,
                registration=registration,
                owned=bool(context.actor),
            ),
        )
    check_current("worker", worker.worker_id, worker, command.registration)
    if worker.status is WorkerStatus.DRAINING:
        msg = f"worker {worker.worker_id!r} is draining and gets no new tasks: register it again to end that"
        raise Refused(msg, reason="worker_draining")
    if worker.container_id:
        housing.check_open(world, worker.container_id)
    return () if worker.status is WorkerStatus.ACTIVE else (again(worker, context),)


def check_wanted(world: World, command: ClaimTasks | OfferTasks) -> None:
    """
    Accept what a claim says of the tasks it takes.

    Raises:
        Refused: the strategy is not known, or a filter names too much, or what cannot be.
    """
    if command.strategy and command.strategy not in STRATEGIES:
        msg = (
            f"strategy {command.strategy[:40]!r} is not known: use {', '.join(one.value for one in SchedulingStrategy)}"
        )
        raise Refused(msg, reason="bad_strategy")
    for name in ("programs", "task_names", "queues", "task_ids"):
        several = getattr(command, name, ())
        if len(several) > MOST_IN_A_FILTER:
            msg = f"the claim names {len(several)} {name}: use at most {MOST_IN_A_FILTER}"
            raise Refused(msg, reason="too_many")
    for queue_id in command.queues:
        check_queue(world, checked(queue_id, "queues"))
    for program in command.programs:
        checked(program, "programs")
    for name in command.task_names:
        check_text("task_names", name, 128, least=1)


def again(worker: WorkerState, context: DecisionContext) -> WorkerRegistered:
    """Return the registration of a known worker with its current values, for who asks for it now."""
    return WorkerRegistered(
        worker_id=worker.worker_id,
        slots=worker.slots,
        resources=worker.resources,
        handles=worker.handles,
        container_id=worker.container_id,
        registration=worker.registration,
        owned=bool(context.actor),
        labels=worker.labels,
        build_id=worker.build_id,
    )


def withdraw(world: World, command: WithdrawClaim, context: DecisionContext) -> Events:
    """Release every task of a claim: its caller did not wait for the answer."""
    checked(command.claim_id, "claim_id")
    checked(command.worker_id, "worker_id")
    tasks = (world.tasks[task_id] for task_id in world.indexes.claims.get(command.claim_id, ()))
    mine = (task for task in tasks if task.worker_id == command.worker_id)
    return tuple(released(task, "the claim was withdrawn", context) for task in islice(mine, RELEASED_AT_ONCE))


def check_room_for_worker(world: World, context: DecisionContext) -> None:
    """
    Accept one more worker.

    Raises:
        Refused: there are too many, recently ended ones included. Unavailable: too many of this source have ended.
    """
    if len(world.workers) >= MOST_WORKERS:
        msg = f"there are {len(world.workers)} workers, the maximum: reuse worker ids, or let some leave"
        raise Refused(msg, reason="too_many")
    check_churn(world, world.indexes.owned_workers, "workers", context)


def due(world: World, signs: Signs, context: DecisionContext, heard_now: float, workers: Due) -> Iterator[Event]:
    """Yield what is due for workers: a silent one without tasks is lost, unless its container is paused."""
    limit_s, is_spared = patience_s(Watched.WORKER, context.rules), is_held(world, Watched.WORKER)
    for worker_id in workers.now(heard_now, context.now):
        worker = world.workers.get(worker_id)
        if worker is None or worker.is_ended:
            workers.later(worker_id, NEVER)
            continue
        if worker.container_id:
            event = housing.due_for_worker(world, worker)
            if event is not None:
                yield event
                continue
            if housing.is_frozen(world, worker.container_id):
                workers.later(worker_id, NEVER)
                continue
        silent_for_s = signs.silent_for(signs.workers, worker_id, heard_now)
        if silent_for_s > limit_s and not is_spared and not world.indexes.held.get(worker_id):
            yield WorkerLost(worker_id=worker_id, silent_for_s=silent_for_s, limit_s=limit_s)
        else:
            at = heard_now - silent_for_s + limit_s
            workers.later(worker_id, (unless_spared(at, heard_now, is_spared=is_spared), inf))


DECIDERS: dict[type[Command], Decider] = {
    RegisterWorker: register,
    DrainWorker: drain,
    LeaveWorker: leave,
    ClaimTasks: claim,
    WithdrawClaim: withdraw,
}
TELLERS: dict[type[Command], Teller] = {
    RegisterWorker: lambda world, command, context, done: WorkerTerms(
        lease_s=context.rules.lease_s,
        registration=world.workers[command.worker_id].registered_as,
        claim_wait_max_s=None if context.rules.claim_wait_max_s == CLAIM_WAIT_MAX_S else context.rules.claim_wait_max_s,
    ),
}
