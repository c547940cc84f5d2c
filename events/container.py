"""Events about containers: each runs one agent on one node, and each start of it is a new generation."""

from __future__ import annotations

from enum import Enum

import msgspec

from events.base import Event
from events.resources import NONE, Resources


class ContainerStatus(Enum):
    """The status of a container."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    DESTROYED = "destroyed"


class Secret(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A reference to a secret, resolved on the node; the secret itself never enters the journal."""

    secret: str


class ContainerEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one container."""

    SUBJECT = "container_id"

    container_id: str


class ContainerCreated(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A container was placed on a node and its resources are reserved there; nothing runs yet."""

    agent_id: str
    agent_type: str
    node_id: str
    resources: Resources = NONE
    image: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str | Secret] = {}
    session_id: str = ""
    when_cut_off: str = "stop"
    stop_grace_s: float = 10.0


class ContainerStarting(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The container is to run; the position of this event is the generation of this start."""

    node_id: str
    reason: str = "requested"
    restarts: int = 0


class ContainerStarted(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The node reported that the container runs in this generation."""

    generation: str
    pid: int = 0


class ContainerPausing(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The container is to be frozen."""


class ContainerPaused(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The node froze the container."""


class ContainerResuming(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The frozen container is to continue."""


class ContainerResumed(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The node resumed the frozen container."""


class ContainerStopping(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The container is to stop: at once when `force`, and to be removed afterwards when `destroy`."""

    force: bool = False
    destroy: bool = False
    reason: str = "requested"


class ContainerStopped(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The container no longer runs, as requested; its resources are free."""

    exit_code: int | None = None


class ContainerFailed(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The container ended or did not start although it should run; its next start is due at `restart_at`."""

    generation: str
    reason: str
    exit_code: int | None = None
    restart_at: float | None = None


class ContainerDestroyed(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The container was removed; it cannot be started again."""
