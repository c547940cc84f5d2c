"""What may be asked of workers."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command, Question
from events.resources import Resources
from projections.worker import Worker


class WorkerTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a worker must keep to: a lease it has not renewed for `lease_s` seconds is given to another."""

    lease_s: float


class RegisterWorker(Command, frozen=True, kw_only=True, gc=False):
    """Offer a worker; again with other limits replaces them."""

    KIND, VERB, Answer = "worker", "register", WorkerTerms
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""


class DrainWorker(Command, frozen=True, kw_only=True, gc=False):
    """Give the worker no new tasks."""

    KIND, VERB = "worker", "drain"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""


class LeaveWorker(Command, frozen=True, kw_only=True, gc=False):
    """Take the worker off; what it still held goes back to the queue."""

    KIND, VERB = "worker", "leave"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""


class ListWorkers(Question, frozen=True, kw_only=True, gc=False):
    """Ask for workers."""

    KIND, VERB, Answer = "worker", "list", list[Worker]

    limit: int = 100
