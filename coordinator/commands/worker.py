"""Commands and questions about workers."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Question
from events.resources import Resources
from projections.worker import WorkerState


class WorkerTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The terms for a worker: a lease that it does not renew within `lease_s` seconds expires."""

    lease_s: float


class RegisterWorker(Command, frozen=True, kw_only=True, gc=False):
    """Register a worker; registering again replaces its limits."""

    KIND, VERB, Answer = "worker", "register", WorkerTerms
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""


class DrainWorker(Command, frozen=True, kw_only=True, gc=False):
    """Drain a worker: give it no new tasks."""

    KIND, VERB = "worker", "drain"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""


class LeaveWorker(Command, frozen=True, kw_only=True, gc=False):
    """Report that a worker has stopped; the tasks it still holds return to the queue."""

    KIND, VERB = "worker", "leave"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""


class ListWorkers(Question, frozen=True, kw_only=True, gc=False):
    """List workers, newest first; with `after`, only those after that worker."""

    KIND, VERB, Answer = "worker", "list", list[WorkerState]
    INSTEAD = PAGES

    limit: int = 100
    after: str = ""
