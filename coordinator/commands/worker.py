"""Commands and questions about workers."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Question
from events.resources import Resources
from projections.worker import WorkerState

CLAIM_WAIT_MAX_S = 60.0
"""How long claims may wait where the terms do not say it."""


class WorkerTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The terms for a worker: a lease that it does not renew within `lease_s` seconds expires.

    `registration` names this registration in further commands, until another one replaces it. Its claims may wait for
    `claim_wait_max_s` seconds; None means 60 s.
    """

    lease_s: float
    registration: str = ""
    claim_wait_max_s: float | None = None


class RegisterWorker(Command, frozen=True, kw_only=True, gc=False):
    """
    Register a worker; registering again replaces its limits.

    Of the programs that give their `registration` an id, only one has a worker id: another one is refused as
    `id_in_use` while the first was heard within two heartbeats, and replaces it after that. A program that gives none
    shares the worker. `generation` is that of the container that the program runs in: the current one need not wait,
    and an earlier one is refused.
    """

    KIND, VERB, Answer = "worker", "register", WorkerTerms
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""
    registration: str = ""
    generation: str = ""


class DrainWorker(Command, frozen=True, kw_only=True, gc=False):
    """Drain a worker: give it no new tasks; refused if it names a registration that is not the current one."""

    KIND, VERB = "worker", "drain"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""
    registration: str = ""


class LeaveWorker(Command, frozen=True, kw_only=True, gc=False):
    """
    Report that a worker has stopped; the tasks it still holds return to the queue.

    Refused if it names a registration that is not the current one.
    """

    KIND, VERB = "worker", "leave"
    FOR = frozenset({"domain", "worker", "agents"})

    worker_id: str
    reason: str = ""
    registration: str = ""


class ListWorkers(Question, frozen=True, kw_only=True, gc=False):
    """List workers, newest first; with `after`, only those after that worker."""

    KIND, VERB, Answer = "worker", "list", list[WorkerState]
    INSTEAD = PAGES

    limit: int = 100
    after: str = ""
