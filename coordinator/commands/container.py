"""Commands and questions about containers."""

from __future__ import annotations

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import (
    CONTAINER_DESTROYED,
    CONTAINER_PAUSING,
    CONTAINER_RESUMING,
    CONTAINER_RUNNING,
    CONTAINER_STARTING,
    CONTAINER_STOPPING,
)
from events.container import ContainerStatus, Secret
from events.resources import NONE, Resources
from projections.container import Container


class CreateContainer(Command[str], frozen=True, kw_only=True, gc=False):
    """Create a container on a node that can run it and has room for it."""

    KIND, VERB = "container", "create"
    REFUSALS = frozenset({
        "bad_environment", "bad_filter", "bad_number", "bad_resources", "id_taken", "memory_full", "no_node",
        "no_room", "no_runtime", "over_limit", "quota",
        "too_many", "too_many_containers", "unknown_agent_type",
    })  # fmt: skip
    EXAMPLE = Example(
        {
            "container_id": "container_1",
            "agent_id": "agent_1",
            "agent_type": "task_agent",
            "resources": {"cpu_millis": 500, "memory_bytes": 268435456},
        },
        "container_1",
    )

    container_id: str
    agent_id: str
    agent_type: str
    resources: Resources = NONE
    environment: dict[str, str | Secret] = {}
    session_id: str = ""


class StartContainer(Command[Container], frozen=True, kw_only=True, gc=False):
    """Start a container; the answer is its current state, in which it may not run yet."""

    KIND, VERB, REMEMBERED = "container", "start", True
    REFUSALS = frozenset({"bad_filter", "no_node", "no_room", "no_runtime", "not_found", "not_startable"})
    EXAMPLE = Example({"container_id": "container_1"}, CONTAINER_STARTING)

    container_id: str


class StopContainer(Command[Container], frozen=True, kw_only=True, gc=False):
    """Stop a container, at once if `force` is set."""

    KIND, VERB, REMEMBERED = "container", "stop", True
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"container_id": "container_1", "reason": "maintenance"}, CONTAINER_STOPPING)

    container_id: str
    force: bool = False
    reason: str = "requested"


class PauseContainer(Command[Container], frozen=True, kw_only=True, gc=False):
    """Freeze a running container."""

    KIND, VERB, REMEMBERED = "container", "pause", True
    REFUSALS = frozenset({"not_found", "not_running"})
    EXAMPLE = Example({"container_id": "container_1"}, CONTAINER_PAUSING)

    container_id: str


class ResumeContainer(Command[Container], frozen=True, kw_only=True, gc=False):
    """Resume a frozen container."""

    KIND, VERB, REMEMBERED = "container", "resume", True
    REFUSALS = frozenset({"not_found", "not_paused"})
    EXAMPLE = Example({"container_id": "container_1"}, CONTAINER_RESUMING)

    container_id: str


class DestroyContainer(Command[Container], frozen=True, kw_only=True, gc=False):
    """Stop and remove a container."""

    KIND, VERB = "container", "destroy"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"container_id": "container_1"}, CONTAINER_DESTROYED)

    container_id: str
    force: bool = False


class GetContainer(Question[Container], frozen=True, kw_only=True, gc=False):
    """Get one container; with `wait_s`, wait that long at most until its status is not in `unless`."""

    KIND, VERB = "container", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"container_id": "container_1", "unless": ["starting"], "wait_s": 5.0}, CONTAINER_RUNNING)

    container_id: str
    unless: tuple[ContainerStatus, ...] = ()
    wait_s: float = 0.0


class ListContainers(Question[list[Container]], frozen=True, kw_only=True, gc=False):
    """List containers, newest first, without their environments; with `after`, only those after that container."""

    KIND, VERB = "container", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [CONTAINER_RUNNING])

    limit: int = 100
    after: str = ""
