"""Commands and questions about containers."""

from __future__ import annotations

from coordinator.commands.command import PAGES, Command, Question
from events.container import ContainerStatus, Secret
from events.resources import NONE, Resources
from projections.container import Container


class CreateContainer(Command, frozen=True, kw_only=True, gc=False):
    """Create a container on a node that has room for it."""

    KIND, VERB, Answer = "container", "create", str

    container_id: str
    agent_id: str
    agent_type: str
    resources: Resources = NONE
    environment: dict[str, str | Secret] = {}
    session_id: str = ""


class StartContainer(Command, frozen=True, kw_only=True, gc=False):
    """Start a container; the answer is its current state, in which it may not run yet."""

    KIND, VERB, Answer, REMEMBERED = "container", "start", Container, True

    container_id: str


class StopContainer(Command, frozen=True, kw_only=True, gc=False):
    """Stop a container, at once if `force` is set."""

    KIND, VERB, Answer, REMEMBERED = "container", "stop", Container, True

    container_id: str
    force: bool = False
    reason: str = "requested"


class PauseContainer(Command, frozen=True, kw_only=True, gc=False):
    """Freeze a running container."""

    KIND, VERB, Answer, REMEMBERED = "container", "pause", Container, True

    container_id: str


class ResumeContainer(Command, frozen=True, kw_only=True, gc=False):
    """Resume a frozen container."""

    KIND, VERB, Answer, REMEMBERED = "container", "resume", Container, True

    container_id: str


class DestroyContainer(Command, frozen=True, kw_only=True, gc=False):
    """Stop and remove a container."""

    KIND, VERB, Answer = "container", "destroy", Container

    container_id: str
    force: bool = False


class GetContainer(Question, frozen=True, kw_only=True, gc=False):
    """Get one container; with `wait_s`, wait that long at most until its status is not in `unless`."""

    KIND, VERB, Answer = "container", "get", Container

    container_id: str
    unless: tuple[ContainerStatus, ...] = ()
    wait_s: float = 0.0


class ListContainers(Question, frozen=True, kw_only=True, gc=False):
    """List containers, newest first, without their environments; with `after`, only those after that container."""

    KIND, VERB, Answer = "container", "list", list[Container]
    INSTEAD = PAGES

    limit: int = 100
    after: str = ""
