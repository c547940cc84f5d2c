"""Events about workers, the programs that execute tasks, and their heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from events.base import Event
from events.resources import NONE, Resources
from events.task import Scalar


class WorkerEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one worker."""

    SUBJECT = "worker_id"

    worker_id: str


class WorkerRegistered(WorkerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A worker was registered; `slots` and `resources` of None mean no limit, no `handles` means every task name.

    `registration` is the id that the program gave to its registration; '' means that it gave none. `owned`: see
    `ContainerCreated`. `labels` are what the filters of tasks know of it. `build_id` names the version of its code.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {"registration": 2, "owned": 2, "labels": 3, "named_amounts": 3, "build_id": 3}

    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""
    registration: str = ""
    owned: bool = False
    labels: dict[str, Scalar] = {}
    build_id: str = ""

    @property
    def named_amounts(self) -> dict[str, int]:
        """What it has besides CPU, memory and GPUs."""
        return (self.resources or NONE).named


class WorkerDraining(WorkerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The worker takes no new tasks and finishes those it has."""

    reason: str = ""


class WorkerLeft(WorkerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The worker has stopped: it reported so, or its container ended (see `reason`)."""

    reason: str = ""


class WorkerLost(WorkerEvent, frozen=True, kw_only=True, gc=False):
    """The worker was silent for longer than the limit."""

    silent_for_s: float
    limit_s: float


class WorkerHeartbeat(WorkerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A heartbeat on the heartbeat stream, never in the journal; it renews exactly the leases it lists.

    With a `registration` it is a sign of life of the worker only while that registration is the current one.
    """

    leases: tuple[str, ...] = ()
    load: float = 0.0
    registration: str = ""
