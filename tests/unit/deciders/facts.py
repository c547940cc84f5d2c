"""Events and commands that many tests use, with defaults for every field that does not matter."""

from __future__ import annotations

from typing import Any

from coordinator.commands.container import CreateContainer
from coordinator.commands.node import RegisterNode
from coordinator.commands.service import RegisterService
from coordinator.commands.task import ClaimTasks, CompleteTask, FailTask, SubmitTask
from events.container import (
    ContainerCreated,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerStarted,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.coordinator import CoordinatorPlacementRefused
from events.node import NodeLost, NodeRegistered
from events.resources import Resources
from events.service import ServiceHealthChanged, ServiceRegistered, ServiceStatus
from events.task import Payload, TaskAttemptFailed, TaskCompleted, TaskFailed, TaskStarted, TaskSubmitted
from events.worker import WorkerRegistered
from tests.specification import Said, said

BEGIN = 1_000.0
NAN, INFINITY = float("nan"), float("inf")
DIGEST = "0f" * 32

HOSTILE_IDS = ["", " ", "a b", "a.b", "*", ">", "a>", "ä", "a\n", "a\0", "../etc", "'; drop table", "x" * 65]
HOSTILE_TEXTS = ["\n", "a\0b", "\x1b[2J", "\ud800", "\u202e"]


def resources(cpu: int = 0, memory: int = 0, gpus: int = 0) -> Resources:
    return Resources(cpu_millis=cpu, memory_bytes=memory, gpus=gpus)


NEGATIVE = [resources(cpu=-1), resources(memory=-1), resources(gpus=-1)]
ABSURD = [*NEGATIVE, resources(cpu=2**53 + 1), resources(memory=2**60), resources(gpus=2**70)]


def payload(data: str = "{}", **others: Any) -> Payload:
    return Payload(**{"encoding": "json", "digest": DIGEST, "data": data, **others})


# --- tasks ------------------------------------------------------------------------------------------------------------


def submit(task_id: str = "t", **others: Any) -> SubmitTask:
    return SubmitTask(**{"task_id": task_id, "task_name": "work", **others})


def submitted(task_id: str = "t", **others: Any) -> TaskSubmitted:
    return TaskSubmitted(**{"task_id": task_id, "task_name": "work", "max_retries": 3, **others})


def started(task_id: str = "t", lease: str = "c.1.1", **others: Any) -> TaskStarted:
    attempt = int(lease.rpartition(".")[2])
    return TaskStarted(
        **{"task_id": task_id, "worker_id": "w", "claim_id": "c", "attempt": attempt, "lease": lease, **others}
    )


def attempt_failed(task_id: str = "t", lease: str = "c.1.1", **others: Any) -> TaskAttemptFailed:
    attempt = 0 if others.get("reason") == "released" else int(lease.rpartition(".")[2])
    usual = {"error": "boom", "reason": "failed", "retry_at": BEGIN, "attempt": attempt}
    return TaskAttemptFailed(**{"task_id": task_id, "lease": lease, **usual, **others})


def failed(task_id: str = "t", lease: str = "c.1.1", **others: Any) -> TaskFailed:
    attempt = int(lease.rpartition(".")[2])
    usual = {"error": "boom", "reason": "failed", "attempt": attempt}
    return TaskFailed(**{"task_id": task_id, "lease": lease, **usual, **others})


def completed(task_id: str = "t", lease: str = "c.1.1", **others: Any) -> TaskCompleted:
    return TaskCompleted(task_id=task_id, lease=lease, **others)


def claim(claim_id: str = "c", worker_id: str = "w", **others: Any) -> ClaimTasks:
    return ClaimTasks(claim_id=claim_id, worker_id=worker_id, **others)


def complete(lease: str = "c.1.1", task_id: str = "t", **others: Any) -> CompleteTask:
    return CompleteTask(task_id=task_id, lease=lease, **others)


def fail(lease: str = "c.1.1", task_id: str = "t", **others: Any) -> FailTask:
    return FailTask(**{"task_id": task_id, "lease": lease, "error": "boom", **others})


def worker(worker_id: str = "w", **others: Any) -> WorkerRegistered:
    return WorkerRegistered(**{"worker_id": worker_id, "owned": True, **others})


# --- services ---------------------------------------------------------------------------------------------------------

URL = "http://127.0.0.1:8080/health"


def register_service(service_id: str = "s", **others: Any) -> RegisterService:
    usual = {"service_name": "agents", "service_type": "agent", "host": "localhost", "port": 8080}
    return RegisterService(**{"service_id": service_id, **usual, **others})


def service(service_id: str = "s", **others: Any) -> ServiceRegistered:
    usual = {"service_name": "agents", "service_type": "agent", "host": "localhost", "port": 8080}
    return ServiceRegistered(**{"service_id": service_id, "status": ServiceStatus.HEALTHY, **usual, **others})


def health(status: ServiceStatus, previous: ServiceStatus, service_id: str = "s") -> ServiceHealthChanged:
    return ServiceHealthChanged(service_id=service_id, status=status, previous=previous, rule="told")


# --- containers and nodes ---------------------------------------------------------------------------------------------

CAPACITY = resources(cpu=1000, memory=4096, gpus=1)
TASK_AGENT = ("python", "-m", "coordinator.agent")


def register_node(node_id: str = "n", **others: Any) -> RegisterNode:
    return RegisterNode(**{"node_id": node_id, "capacity": CAPACITY, "runtime": "fake", **others})


def node(node_id: str = "n", **others: Any) -> NodeRegistered:
    return NodeRegistered(**{"node_id": node_id, "capacity": CAPACITY, "runtime": "fake", **others})


def lost(node_id: str = "n") -> NodeLost:
    return NodeLost(node_id=node_id, silent_for_s=30.0, limit_s=22.5)


def no_room(
    container_id: str, asked: Resources, others: int = 0, **nodes: str
) -> tuple[CoordinatorPlacementRefused, ...]:
    """Return what is recorded when no node has room; *nodes* says of each why not."""
    return (
        CoordinatorPlacementRefused(
            container_id=container_id, resources=asked, reason="no_room", nodes=nodes, others=others
        ),
    )


def create(container_id: str = "k", **others: Any) -> CreateContainer:
    return CreateContainer(**{"container_id": container_id, "agent_id": "a", "agent_type": "task_agent", **others})


def created(container_id: str = "k", **others: Any) -> ContainerCreated:
    usual = {"agent_id": "a", "agent_type": "task_agent", "node_id": "n", "command": TASK_AGENT, "owned": True}
    return ContainerCreated(**{"container_id": container_id, **usual, **others})


def starting(container_id: str = "k", node_id: str = "n", **others: Any) -> ContainerStarting:
    return ContainerStarting(container_id=container_id, node_id=node_id, **others)


def running(container_id: str = "k", generation: str = "3.0") -> ContainerStarted:
    return ContainerStarted(container_id=container_id, generation=generation, pid=7)


def crashed(container_id: str = "k", **others: Any) -> ContainerFailed:
    usual: dict[str, Any] = {"generation": "3.0", "reason": "crashed", "restart_at": BEGIN}
    return ContainerFailed(container_id=container_id, **{**usual, **others})


def stopping(container_id: str = "k", **others: Any) -> ContainerStopping:
    return ContainerStopping(container_id=container_id, **others)


def stopped(container_id: str = "k", **others: Any) -> ContainerStopped:
    return ContainerStopped(container_id=container_id, **others)


def lived(*until: Any) -> tuple[Any, ...]:
    """Return the events of container `k` on node `n`: its start is at 3.0, which is its generation."""
    return (node(), created(), *until)


def a_container(status: str) -> tuple[Any, ...]:
    """Return the events that lead container `k` to *status*."""
    run = (starting(), running())
    ways: dict[str, tuple[Any, ...]] = {
        "created": (),
        "starting": (starting(),),
        "running": run,
        "paused": (*run, ContainerPausing(container_id="k"), ContainerPaused(container_id="k")),
        "stopping": (*run, stopping()),
        "destroying": (*run, stopping(destroy=True)),
        "stopped": (*run, stopping(), stopped(exit_code=0)),
        "error": (*run, crashed()),
    }
    return lived(*ways[status])


def at(seconds: float, event: Any) -> Said:
    """Return an event at *seconds* after the beginning."""
    return said(event, at=BEGIN + seconds)
