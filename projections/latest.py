"""
Which events are kept as the latest of the thing they are about, so that the next one can name its cause. Pure.

`World.latest` has their ids, by the key of the thing. It lacks things about which nothing happened since they were
created or registered: that position is in their state, as is that of their end. It has no tasks, of which there are
most: `Task.latest` has the position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from events.cancel_ladder import TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerDraining, WorkerLeft, WorkerLost, WorkerRegistered

if TYPE_CHECKING:
    from events.base import Event

TASK, CONTAINER, SERVICE, WORKER, NODE = "task/", "container/", "service/", "worker/", "node/"


class Followed(NamedTuple):
    """The key of a thing is `prefix` and its id; after an event that `is_clear` its state has the position."""

    prefix: str
    is_clear: bool


_CHANGES: dict[str, tuple[type[Event], ...]] = {
    TASK: (
        TaskStarted, TaskAttemptFailed, TaskPaused, TaskResumed, TaskCancelAsked, TaskCancelTold, TaskCancelForced,
        TaskUnblocked,
    ),
    CONTAINER: (
        ContainerStarting, ContainerStarted, ContainerPausing, ContainerPaused, ContainerResuming, ContainerResumed,
        ContainerStopping, ContainerStopped, ContainerFailed,
    ),
    SERVICE: (ServiceHealthChanged,),
    WORKER: (WorkerDraining,),
    NODE: (NodeCordoned, NodeUncordoned, NodeDraining, NodeDrained, NodeRemoving, NodeLost, NodeReturned),
}  # fmt: skip
_CLEAR: dict[str, tuple[type[Event], ...]] = {
    TASK: (TaskCompleted, TaskFailed, TaskCancelled, TaskTimedOut),
    CONTAINER: (ContainerCreated, ContainerDestroyed),
    SERVICE: (ServiceRegistered, ServiceDeregistered),
    WORKER: (WorkerRegistered, WorkerLeft, WorkerLost),
    NODE: (NodeRegistered, NodeRemoved),
}
FOLLOWED: dict[type[Event], Followed] = {
    event: Followed(prefix, table is _CLEAR)
    for table in (_CHANGES, _CLEAR)
    for prefix, events in table.items()
    for event in events
}
"""What happens to a thing, by event; earlier events of the same command are found by it."""
KEPT = {event: followed for event, followed in FOLLOWED.items() if followed.prefix != TASK}
"""The same, for what `World.latest` keeps."""
