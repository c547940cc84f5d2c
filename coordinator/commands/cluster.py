"""
Every question that can be asked of the coordinator, and the values it is answered with.

Questions are answered from the world as it stands; nothing changes by them.
"""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command
from events.container import ContainerStatus
from events.service import ServiceStatus
from events.task import TaskStatus
from projections.container import Container
from projections.inbox import Inbox
from projections.node import Node
from projections.pool import Pool
from projections.service import Service
from projections.session import Session
from projections.task import Task
from projections.worker import Worker


class Question(Command, frozen=True, kw_only=True, gc=False):
    """Something asked; nothing changes by it."""

    IS_QUESTION = True


class GetTask(Question, frozen=True, kw_only=True, gc=False):
    """Ask for one task; with `wait_s` until it has ended."""

    KIND, VERB, Answer = "task", "get", Task

    task_id: str
    wait_s: float = 0.0


class ListTasks(Question, frozen=True, kw_only=True, gc=False):
    """Ask for tasks, newest first, without their payloads and results."""

    KIND, VERB, Answer = "task", "list", list[Task]

    status: TaskStatus | None = None
    limit: int = 100


class GetContainer(Question, frozen=True, kw_only=True, gc=False):
    """Ask for one container; with `wait_s` until its status is none of `unless`."""

    KIND, VERB, Answer = "container", "get", Container

    container_id: str
    unless: tuple[ContainerStatus, ...] = ()
    wait_s: float = 0.0


class ListContainers(Question, frozen=True, kw_only=True, gc=False):
    """Ask for containers, newest first, without their environments."""

    KIND, VERB, Answer = "container", "list", list[Container]

    limit: int = 100


class ServiceLoad(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a service's last heartbeat said, and how long ago, in seconds."""

    heard_s_ago: float
    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None


class ServiceView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A service as discovery sees it: its folded state and its last reported load."""

    service: Service
    reported: ServiceLoad | None = None


class FindServices(Question, frozen=True, kw_only=True, gc=False):
    """
    Ask for service instances by name, type and status; read at any moment, without waiting for the turn.

    With `after` they come in the order of their ids, from the first beyond it: so all are read page by page.
    """

    KIND, VERB, Answer = "service", "find", list[ServiceView]

    service_name: str = ""
    service_type: str = ""
    status: ServiceStatus | None = None
    tag: str = ""
    limit: int = 1000
    after: str | None = None


class GetService(Question, frozen=True, kw_only=True, gc=False):
    """Ask for one service instance."""

    KIND, VERB, Answer = "service", "get", ServiceView

    service_id: str


class CheckOutcome(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One health check as it was reported; `at` is wall-clock seconds."""

    at: float
    ok: bool
    check: str
    status: ServiceStatus
    detail: str = ""
    latency_ms: float | None = None


class GetHealthHistory(Question, frozen=True, kw_only=True, gc=False):
    """Ask for the last outcomes of a service's health checks, newest first."""

    KIND, VERB, Answer = "service", "history", list[CheckOutcome]

    service_id: str
    limit: int = 50


class ListWorkers(Question, frozen=True, kw_only=True, gc=False):
    """Ask for workers."""

    KIND, VERB, Answer = "worker", "list", list[Worker]

    limit: int = 100


class ListNodes(Question, frozen=True, kw_only=True, gc=False):
    """Ask for nodes."""

    KIND, VERB, Answer = "node", "list", list[Node]

    limit: int = 100


class GetPool(Question, frozen=True, kw_only=True, gc=False):
    """Ask for a pool."""

    KIND, VERB, Answer = "pool", "get", Pool

    pool_id: str


class GetSession(Question, frozen=True, kw_only=True, gc=False):
    """Ask which container serves a session."""

    KIND, VERB, Answer = "session", "get", Session

    session_id: str


class ListInboxes(Question, frozen=True, kw_only=True, gc=False):
    """Ask how far the inboxes of other domains are read."""

    KIND, VERB, Answer = "inbox", "list", list[Inbox]


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Counts by status, totals over the cluster's life, and who leads from which position."""

    containers: dict[str, int]
    services: dict[str, int]
    tasks: dict[str, int]
    workers: dict[str, int]
    nodes: dict[str, int]
    totals: dict[str, int]
    container_starts: int
    container_failures: int
    epoch: str
    position: str
    leader: str
    mass_silence: dict[str, int] = {}
    """How many of a kind are silent and, for being so many, not given up."""


class GetStats(Question, frozen=True, kw_only=True, gc=False):
    """Ask for the cluster's counts."""

    KIND, VERB, Answer = "coordinator", "stats", ClusterStats
