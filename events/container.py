"""Events about containers: each runs one agent on one node, and each start of it is a new generation."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum
from typing import ClassVar

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


class ExitCause(StrEnum):
    """
    Why a container ended, as its node reports it.

    Whatever ends a container on purpose writes the cause down before it sends the first signal; only without such a
    record does the exit itself decide between EXITED, CRASHED, OOM and UNKNOWN. A field that holds a cause is a string:
    "" is a report of a release without causes, and later releases may have more.
    """

    REQUESTED = "requested"
    """It was ended in order: by a command, or by the end of its node agent."""
    CUT_OFF = "cut_off"
    """Its node had no contact with the coordinator."""
    SUPERSEDED = "superseded"
    """Its node was not to have this generation any more."""
    PROBE = "probe"
    """A check of the container failed too often."""
    OOM = "oom"
    """Its memory ran out."""
    CRASHED = "crashed"
    """A signal ended it, and nobody here sent it."""
    EXITED = "exited"
    """It ended by itself, with an exit code."""
    UNKNOWN = "unknown"
    """Nothing is known of its end, as after a power failure."""


NO_FAULT = frozenset({ExitCause.REQUESTED, ExitCause.CUT_OFF, ExitCause.SUPERSEDED})
"""An end of these causes is no failure of the container: it is not counted, and the restart does not wait."""


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What happens after a container has failed; times in seconds, None as all containers have it.

    With `attempts`, so many failures within `interval_s`, counted from the first, are followed by a restart; after one
    more, the coordinator gives up (`mode` "fail") or waits for the end of the interval ("delay"). The pause before a
    restart is `delay_s`, doubles up to `delay_max_s`, and is short again after a run of `reset_s`. A container that
    ends by itself with one of `finished_codes`, or 0, has finished.
    """

    attempts: int | None = None
    interval_s: float = 600.0
    mode: str = "fail"
    delay_s: float | None = None
    delay_max_s: float | None = None
    reset_s: float | None = None
    finished_codes: tuple[int, ...] = ()


AS_ALL = RestartPolicy()
"""Restarted without end, at the pauses of all containers."""


class Secret(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A reference to a secret, resolved on the node; the secret itself never enters the journal."""

    secret: str


class ContainerEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one container."""

    SUBJECT = "container_id"

    container_id: str


class ContainerCreated(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A container was placed on a node and its resources are reserved there; nothing runs yet.

    `limits` is what it gets at most, where that is not what it asks for as `resources`. Once started, it stays on
    its node unless it `moves`. Only nodes that meet `node_filter` get it. `owned` says that it belongs to
    the `actor` of this event, whose quota it counts against. `traced`: see `TaskSubmitted`.
    """

    VERSION = 3
    SINCE: ClassVar[Mapping[str, int]] = {
        "traced": 2,
        "owned": 2,
        "limits": 3,
        "restart": 3,
        "moves": 3,
        "node_filter": 3,
    }

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
    traced: bool = False
    owned: bool = False
    limits: Resources = NONE
    restart: RestartPolicy = AS_ALL
    moves: bool = True
    node_filter: str = ""


RESTART = "restart"
"""The reason of a start that follows a failure."""
MOVED = "moved"
"""The reason of a start on another node, after a stop with `move`."""


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
    """
    The container is to stop: at once when `force`, and to be removed afterwards when `destroy`.

    With `move` it remains desired, and starts on another node when it has stopped.
    """

    SINCE: ClassVar[Mapping[str, int]] = {"move": 2}
    VERSION: ClassVar[int] = 2

    force: bool = False
    destroy: bool = False
    reason: str = "requested"
    move: bool = False


class ContainerStopped(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The container no longer runs, as requested; its resources are free."""

    exit_code: int | None = None


class ContainerFailed(ContainerEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The container ended or did not start although it should run; its next start is due at `restart_at`.

    `cause` is why it ended, an `ExitCause`; it is "" when it did not start, and in events of releases without causes.
    Without `restart_at` it is not restarted. Where its policy counts failures, this is the one with the number
    `failures` within the interval that began at `counted_from`.
    """

    SINCE: ClassVar[Mapping[str, int]] = {"cause": 2, "failures": 3, "counted_from": 3}
    VERSION: ClassVar[int] = 3

    generation: str
    reason: str
    exit_code: int | None = None
    restart_at: float | None = None
    cause: str = ""
    failures: int = 0
    counted_from: float | None = None


class ContainerDestroyed(ContainerEvent, frozen=True, kw_only=True, gc=False):
    """The container was removed; it cannot be started again."""
