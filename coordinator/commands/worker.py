"""Commands and questions about workers."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import WORKER
from events.resources import Resources
from events.task import Scalar
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


class RegisterWorker(Command[WorkerTerms], frozen=True, kw_only=True, gc=False):
    """
    Register a worker; registering again replaces its limits.

    Of the programs that give their `registration` an id, only one has a worker id: another one is refused as
    `id_in_use` while the first was heard within two heartbeats, and replaces it after that. A program that gives none
    shares the worker. `generation` is that of the container that the program runs in: the current one need not wait,
    and an earlier one is refused. `labels` are what the filters of tasks know of it: at most 32 texts, numbers and
    truth values, 2 KiB together. `build_id` names the version of its code: a task stays on the one that it began on.
    """

    KIND, VERB = "worker", "register"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({
        "bad_number", "bad_resources", "bad_text", "container_not_running", "id_in_use", "memory_full", "quota",
        "replaced", "too_many",
    })  # fmt: skip
    EXAMPLE = Example(
        {"worker_id": "worker_1", "slots": 4, "handles": ["add"], "registration": "start_1"},
        {"lease_s": 5.0, "registration": "start_1"},
    )

    worker_id: str
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""
    registration: str = ""
    generation: str = ""
    labels: dict[str, Scalar] = {}
    build_id: str = ""


class DrainWorker(Command[None], frozen=True, kw_only=True, gc=False):
    """Drain a worker: give it no new tasks; refused if it names a registration that is not the current one."""

    KIND, VERB = "worker", "drain"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_text", "not_found", "replaced"})
    EXAMPLE = Example({"worker_id": "worker_1", "reason": "maintenance", "registration": "start_1"})

    worker_id: str
    reason: str = ""
    registration: str = ""


class LeaveWorker(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Report that a worker has stopped; the tasks it still holds return to the queue.

    Refused if it names a registration that is not the current one.
    """

    KIND, VERB = "worker", "leave"
    FOR = frozenset({"domain", "worker", "agents"})
    REFUSALS = frozenset({"bad_text", "not_found", "replaced"})
    EXAMPLE = Example({"worker_id": "worker_1", "registration": "start_1"})

    worker_id: str
    reason: str = ""
    registration: str = ""


class ListWorkers(Question[list[WorkerState]], frozen=True, kw_only=True, gc=False):
    """List workers, newest first; with `after`, only those after that worker."""

    KIND, VERB = "worker", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [WORKER])

    limit: int = 100
    after: str = ""
