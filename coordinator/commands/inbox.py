"""The command that each event type in an inbox stands for, and one item of an inbox on its way to the writer."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from coordinator.commands.command import Command
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.service import DeregisterService, HeartbeatService, RegisterService, ReportCheck
from coordinator.commands.session import BindSession, CloseSession
from coordinator.commands.task import CancelTask, CompleteTask, FailTask, ProgressTask, ReleaseTask, SubmitTask
from coordinator.commands.wire import cut
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
from events.errors import CoordinationError
from events.inbox import InboxGap, InboxRecorded, InboxRefused

BEGINS_BYTES = 80


KINDS = frozenset(
    {
        *("container", "service", "task", "queue", "schedule", "worker", "node", "pool", "session", "coordinator"),
        *("hold", "inbox", "idempotency", "limit", "version", "budget", "prices", "agents"),
    }
)
"""The kinds of the coordinator itself: an event type of one of these is refused if it is not in `COMMAND_OF_EVENT`."""


class Asks(NamedTuple):
    """The command that an event type stands for, and the field of it that is set from the event's `subject`."""

    command: type[Command]
    field: str
    makes: bool = False
    """Whether a missing id is derived from the id of the event."""


COMMAND_OF_EVENT: dict[str, Asks] = {
    "task.submitted": Asks(SubmitTask, "task_id", makes=True),
    "task.progressed": Asks(ProgressTask, "task_id"),
    "task.completed": Asks(CompleteTask, "task_id"),
    "task.failed": Asks(FailTask, "task_id"),
    "task.released": Asks(ReleaseTask, "task_id"),
    "task.cancelled": Asks(CancelTask, "task_id"),
    "worker.registered": Asks(RegisterWorker, "worker_id"),
    "worker.draining": Asks(DrainWorker, "worker_id"),
    "worker.left": Asks(LeaveWorker, "worker_id"),
    "service.registered": Asks(RegisterService, "service_id", makes=True),
    "service.deregistered": Asks(DeregisterService, "service_id"),
    "service.heartbeat": Asks(HeartbeatService, "service_id"),
    "service.checked": Asks(ReportCheck, "service_id"),
    "session.bound": Asks(BindSession, "session_id"),
    "session.closed": Asks(CloseSession, "session_id"),
    "container.requested": Asks(CreateContainer, "container_id", makes=True),
    "container.start_requested": Asks(StartContainer, "container_id"),
    "container.stop_requested": Asks(StopContainer, "container_id"),
    "container.pause_requested": Asks(PauseContainer, "container_id"),
    "container.resume_requested": Asks(ResumeContainer, "container_id"),
    "container.destroy_requested": Asks(DestroyContainer, "container_id"),
}
"""Every event type that another domain may send as a command, with that command."""


class Item(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One event of a message: a `command` to decide or an `event` to record; neither if there is nothing to do.

    `is_last` marks the last item of a message. `body` holds the received bytes (of a batch, this event only), for the
    event that records a refusal.
    """

    sequence: int
    index: int = 0
    is_last: bool = True
    command: Command | None = None
    event: InboxRecorded | InboxRefused | InboxGap | None = None
    type: str = ""
    event_id: str = ""
    command_id: str = ""
    tenant: str = "default"
    traceparent: str = ""
    body: bytes = b""


def refusal(domain: str, item: Item, error: CoordinationError) -> InboxRefused:
    """Return the event that records why the command in *item* was refused."""
    return InboxRefused(
        domain=domain,
        sequence=item.sequence,
        index=item.index,
        reason=error.reason,
        message=cut(error.message),
        type=item.type,
        event_id=item.event_id,
        digest=sha256(item.body).hexdigest(),
        begins=ascii(item.body[:BEGINS_BYTES])[2:-1],
    )
