"""
Every order the coordinator takes, as values: what may change the world and is decided by the writer.

`KIND` and `VERB` name the RPC subject an order comes in on, `Answer` the type of its answer.
"""

from __future__ import annotations

import msgspec

from coordinator.commands.command import Command
from events.container import Secret
from events.coordinator import Watched
from events.resources import NONE, Resources
from events.task import Payload, TaskStatus
from projections.container import Container
from projections.pool import Pool
from projections.task import Task

# --- tasks and workers ------------------------------------------------------------------------------------------------


class SubmitTask(Command, frozen=True, kw_only=True, gc=False):
    """Put a task into the queue; the caller makes the id, so that sending twice makes one task."""

    KIND, VERB, Answer = "task", "submit", str

    task_id: str
    task_name: str
    task_type: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int | None = None
    resources: Resources = NONE
    payload: Payload | None = None
    idempotency_key: str = ""


class ClaimTasks(Command, frozen=True, kw_only=True, gc=False):
    """Ask for up to `slots` tasks for a worker and wait up to `wait_s` for the first."""

    KIND, VERB, Answer = "task", "claim", list[Task]

    claim_id: str
    worker_id: str
    slots: int = 1
    wait_s: float = 0.0
    strategy: str = ""


class WithdrawClaim(Command, frozen=True, kw_only=True, gc=False):
    """Take a claim back whose answer nobody waits for any more; what it was given goes back to the queue."""

    KIND, VERB = "task", "withdraw"

    claim_id: str
    worker_id: str


class CompleteTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` ended well; without a lease only where nobody holds one."""

    KIND, VERB = "task", "complete"

    task_id: str
    lease: str = ""
    worker_id: str = ""
    execution_time_s: float | None = None
    result: Payload | None = None


class FailTask(Command, frozen=True, kw_only=True, gc=False):
    """Report that the attempt under `lease` failed; it is tried again while retries are left, unless not `retry`."""

    KIND, VERB, Answer, REMEMBERED = "task", "fail", TaskStatus, True

    task_id: str
    error: str
    lease: str = ""
    worker_id: str = ""
    retry: bool = True


class ReleaseTask(Command, frozen=True, kw_only=True, gc=False):
    """Give an attempt back unstarted; it does not count as a try."""

    KIND, VERB, REMEMBERED = "task", "release", True

    task_id: str
    lease: str
    reason: str = ""


class ProgressTask(Command, frozen=True, kw_only=True, gc=False):
    """Report how far the attempt under `lease` is, 0 to 1."""

    KIND, VERB = "task", "progress"

    task_id: str
    lease: str
    progress: float
    message: str = ""


class CancelTask(Command, frozen=True, kw_only=True, gc=False):
    """Call a task off, waiting or running."""

    KIND, VERB, Answer = "task", "cancel", TaskStatus

    task_id: str
    reason: str = ""


class WorkerTerms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a worker must keep to: a lease it has not renewed for `lease_s` seconds is given to another."""

    lease_s: float


class RegisterWorker(Command, frozen=True, kw_only=True, gc=False):
    """Offer a worker; again with other limits replaces them."""

    KIND, VERB, Answer = "worker", "register", WorkerTerms

    worker_id: str
    slots: int | None = None
    resources: Resources | None = None
    handles: tuple[str, ...] = ()
    container_id: str = ""


class DrainWorker(Command, frozen=True, kw_only=True, gc=False):
    """Give the worker no new tasks."""

    KIND, VERB = "worker", "drain"

    worker_id: str
    reason: str = ""


class LeaveWorker(Command, frozen=True, kw_only=True, gc=False):
    """Take the worker off; what it still held goes back to the queue."""

    KIND, VERB = "worker", "leave"

    worker_id: str
    reason: str = ""


# --- services ---------------------------------------------------------------------------------------------------------


class RegisterService(Command, frozen=True, kw_only=True, gc=False):
    """Offer a service instance; again with other facts replaces them."""

    KIND, VERB, Answer = "service", "register", str

    service_id: str
    service_name: str
    service_type: str
    host: str
    port: int
    health_check_url: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    weight: int = 1
    container_id: str = ""
    worker_id: str = ""


class DeregisterService(Command, frozen=True, kw_only=True, gc=False):
    """Take a service instance off."""

    KIND, VERB = "service", "deregister"

    service_id: str
    reason: str = "requested"


class HeartbeatService(Command, frozen=True, kw_only=True, gc=False):
    """Tell that a service instance lives; nothing enters the journal unless its health changes by it."""

    KIND, VERB = "service", "heartbeat"

    service_id: str
    load: float = 0.0
    connections: int = 0
    response_time_ms: float | None = None


class ReportCheck(Command, frozen=True, kw_only=True, gc=False):
    """Report the outcome of one health check; the coordinator decides what it means."""

    KIND, VERB = "service", "check"

    service_id: str
    ok: bool
    check: str
    detail: str = ""
    latency_ms: float | None = None


# --- containers, nodes, sessions --------------------------------------------------------------------------------------


class CreateContainer(Command, frozen=True, kw_only=True, gc=False):
    """Place a container on a node with room for it."""

    KIND, VERB, Answer = "container", "create", str

    container_id: str
    agent_id: str
    agent_type: str
    resources: Resources = NONE
    environment: dict[str, str | Secret] = {}
    session_id: str = ""


class StartContainer(Command, frozen=True, kw_only=True, gc=False):
    """Ask that a container runs; the answer says how it stands now, not that it runs."""

    KIND, VERB, Answer, REMEMBERED = "container", "start", Container, True

    container_id: str


class StopContainer(Command, frozen=True, kw_only=True, gc=False):
    """Ask that a container stops, at once when `force`."""

    KIND, VERB, Answer, REMEMBERED = "container", "stop", Container, True

    container_id: str
    force: bool = False
    reason: str = "requested"


class PauseContainer(Command, frozen=True, kw_only=True, gc=False):
    """Ask that a running container is frozen."""

    KIND, VERB, Answer, REMEMBERED = "container", "pause", Container, True

    container_id: str


class ResumeContainer(Command, frozen=True, kw_only=True, gc=False):
    """Ask that a frozen container runs on."""

    KIND, VERB, Answer, REMEMBERED = "container", "resume", Container, True

    container_id: str


class DestroyContainer(Command, frozen=True, kw_only=True, gc=False):
    """Ask that a container is stopped and removed."""

    KIND, VERB, Answer = "container", "destroy", Container

    container_id: str
    force: bool = False


class RegisterNode(Command, frozen=True, kw_only=True, gc=False):
    """Offer a node's capacity; again with other facts replaces them."""

    KIND, VERB = "node", "register"

    node_id: str
    capacity: Resources
    runtime: str
    labels: dict[str, str] = {}


class ObservedContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a node agent saw of one container.

    `state` is running, paused, exited, failed (could not be started), or busy (about to be something else).
    """

    container_id: str
    generation: str
    state: str
    exit_code: int | None = None
    reason: str = ""
    pid: int = 0


class DesiredContainer(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a node agent is to make true of one container; one that is not named is to be removed."""

    container_id: str
    generation: str
    desired: str
    agent_type: str
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str | Secret] = {}
    resources: Resources = NONE
    stop_grace_s: float = 10.0
    when_cut_off: str = "stop"
    force: bool = False


class NodeOrders(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The answer to a sync: everything the node is to run, and for how long it may go on without asking again."""

    containers: tuple[DesiredContainer, ...]
    node_lease_s: float
    epoch: tuple[int, int]
    orders_id: str = ""


class SyncNode(Command, frozen=True, kw_only=True, gc=False):
    """
    Report everything a node runs and learn everything it should; repeated each second and on each notice.

    `orders_id` is that of the orders it had when it looked: what an older report does not name is not gone.
    """

    KIND, VERB, Answer = "node", "sync", NodeOrders

    node_id: str
    observed: tuple[ObservedContainer, ...] = ()
    orders_id: str = ""


class CordonNode(Command, frozen=True, kw_only=True, gc=False):
    """Give the node no new containers."""

    KIND, VERB = "node", "cordon"

    node_id: str
    reason: str = ""


class UncordonNode(Command, frozen=True, kw_only=True, gc=False):
    """Give the node containers again."""

    KIND, VERB = "node", "uncordon"

    node_id: str


class AcceptSilence(Command, frozen=True, kw_only=True, gc=False):
    """Say that those of one kind that fell silent together are gone: they are given up now."""

    KIND, VERB = "coordinator", "accept_silence"

    kind: Watched
    reason: str = ""


class BindSession(Command, frozen=True, kw_only=True, gc=False):
    """Let a session be served by a container."""

    KIND, VERB = "session", "bind"

    session_id: str
    container_id: str


class CloseSession(Command, frozen=True, kw_only=True, gc=False):
    """End a session."""

    KIND, VERB = "session", "close"

    session_id: str
    reason: str = "requested"


# --- pools ------------------------------------------------------------------------------------------------------------


class DefinePool(Command, frozen=True, kw_only=True, gc=False):
    """Give a pool its capacity."""

    KIND, VERB, Answer = "pool", "define", Pool

    pool_id: str
    capacity: Resources


class AllocatePool(Command, frozen=True, kw_only=True, gc=False):
    """Ask for a share of a pool; the answer is False when it does not fit."""

    KIND, VERB, Answer = "pool", "allocate", bool

    pool_id: str
    request_id: str
    resources: Resources
    priority: int = 0


class ReleasePool(Command, frozen=True, kw_only=True, gc=False):
    """Give a share of a pool back; the answer is False when nothing was held."""

    KIND, VERB, Answer, REMEMBERED = "pool", "release", bool, True

    pool_id: str
    request_id: str
