"""What may be asked of containers."""

from __future__ import annotations

from coordinator.commands.command import Command, Question
from events.container import ContainerStatus, Secret
from events.resources import NONE, Resources
from projections.container import Container


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
