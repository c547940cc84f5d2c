"""
The one table from orders to their deciders and from commands to their answers. Pure.

`decide` says what an order makes of the world; `answer` says what whoever asked is told, from the world as it then is.
A repeated order finds that it is already so and is told the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coordinator.commands.cluster import AcceptSilence
from coordinator.commands.command import Command
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import CordonNode, RegisterNode, SyncNode, UncordonNode
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.service import DeregisterService, HeartbeatService, RegisterService, ReportCheck
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.task import (
    CancelTask,
    ClaimTasks,
    CompleteTask,
    FailTask,
    ProgressTask,
    ReleaseTask,
    SubmitTask,
    WithdrawClaim,
)
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker, WorkerTerms
from coordinator.deciders import container, node, pool, silence
from coordinator.deciders import service as registry
from coordinator.deciders import task as scheduler
from coordinator.deciders import worker as scheduler_worker
from events.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coordinator.deciders.rules import Context
    from events.base import Event
    from projections.world import World

    Events = tuple[Event, ...]

Thing = TypeVar("Thing")

DECIDERS: dict[type[Command], Callable[[World, Any, Context], Events]] = {
    SubmitTask: scheduler.submit,
    ClaimTasks: scheduler.claim,
    WithdrawClaim: scheduler.withdraw,
    CompleteTask: scheduler.complete,
    FailTask: scheduler.fail,
    ReleaseTask: scheduler.release,
    ProgressTask: scheduler.progress,
    CancelTask: scheduler.cancel,
    RegisterWorker: scheduler_worker.register,
    DrainWorker: scheduler_worker.drain,
    LeaveWorker: scheduler_worker.leave,
    DefinePool: pool.define,
    AllocatePool: pool.allocate,
    ReleasePool: pool.release,
    RegisterService: registry.register,
    DeregisterService: registry.deregister,
    HeartbeatService: registry.heartbeat,
    CreateContainer: container.create,
    StartContainer: container.start,
    StopContainer: container.stop,
    DestroyContainer: container.destroy,
    PauseContainer: container.pause,
    ResumeContainer: container.resume,
    BindSession: container.bind_session,
    CloseSession: container.close_session,
    RegisterNode: node.register_node,
    CordonNode: node.cordon_node,
    UncordonNode: node.uncordon_node,
    SyncNode: node.sync,
    AcceptSilence: silence.accept,
}
"""Every order but `ReportCheck`, whose decider also needs a sign."""


def decide(world: World, command: Command, context: Context, *, streak: int = 1) -> Events:
    """
    Say what *command* makes of the world; an empty tuple means it is already so.

    Raises:
        CoordinationError: it is not allowed; its `facts` are on record all the same.
    """
    if isinstance(command, ReportCheck):
        return registry.check(world, command, context, streak)
    return DECIDERS[type(command)](world, command, context)


def answer(world: World, command: Command, context: Context, events: Events, *, again: bool = False) -> Any:
    """
    Say what whoever gave the order is told, the events it led to being folded.

    *again*: it is a repeat, remembered by its command id; what it led to is in the world since.
    """
    match command:
        case CompleteTask():
            return None
        case SubmitTask():
            return _submitted(world, command, context)
        case FailTask() | CancelTask():
            return _standing(world.tasks, command.task_id, "task").status
        case StartContainer() | StopContainer() | DestroyContainer() | PauseContainer() | ResumeContainer():
            return _standing(world.containers, command.container_id, "container")
        case RegisterService():
            return command.service_id
        case RegisterWorker():
            return WorkerTerms(lease_s=context.rules.lease_s)
        case CreateContainer():
            return command.container_id
        case SyncNode():
            return node.orders(world, command.node_id, context.rules)
        case DefinePool():
            return world.pools[command.pool_id]
        case AllocatePool():
            return command.request_id in world.pools[command.pool_id].allocations
        case ReleasePool():
            return bool(events) or again
        case _:
            return None


def _standing(table: Mapping[str, Thing], entity_id: str, kind: str) -> Thing:
    """Give what an order was about; a repeat that is remembered may be about what has left the world since."""
    found = table.get(entity_id)
    if found is None:
        msg = f"there is no {kind} {entity_id!r} among the living and the recently ended"
        raise NotFound(msg)
    return found


def _submitted(world: World, command: SubmitTask, context: Context) -> str:
    if command.idempotency_key and command.task_id not in world.tasks:
        return world.keyed[f"{context.tenant}/{command.idempotency_key}"].task_id
    return command.task_id
