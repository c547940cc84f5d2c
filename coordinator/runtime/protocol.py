"""
The protocol of a container runtime, and the values it takes and returns.

A runtime executes and reports. It never decides: it holds no desired state, restarts nothing, and never touches
anything that this cluster did not start.
"""

from __future__ import annotations

import enum
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import msgspec

from events.base import START, Position
from events.container import ExitCause
from events.errors import Refused

KILLED = 128
"""A command that signal N ended has the exit code 128 + N, as in Docker and in every shell."""

EXITED = "exited"
OOM = "oom"
LOST = "lost"


Lines: TypeAlias = list[str]
"""What `logs` returns; in a class with a method `list`, the type `list[str]` cannot be written."""


class RuntimeState(enum.StrEnum):
    """The state of a container now, as the operating system sees it."""

    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class Launch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    Everything a runtime needs to start one container.

    `generation` is the position of the start event, `"1042.0"`, and `epoch` that of the writer, `"1.17"`; `name` is
    `<namespace>-<container_id>-<generation>`. `command` is an argument array, never a shell line. 0 for `cpu_millis`
    or `memory_bytes` means no limit; the process runtime ignores `image`, and these two without `limits`. `environment`
    contains resolved secrets, so its values never appear in a record, log, message or `repr`. `until` is when the
    container is killed unless a later `grant` has arrived, in seconds of `Clock.heard`; None: it needs none.
    """

    container_id: str
    generation: str
    name: str
    cluster: str
    epoch: str
    image: str
    command: tuple[str, ...]
    environment: dict[str, str]
    cpu_millis: int
    memory_bytes: int
    stop_grace_s: float
    until: float | None = None

    def __repr__(self) -> str:
        return f"Launch(name={self.name!r}, image={self.image!r})"


class Observed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    What a runtime sees of one container.

    `reason` is empty until it exits; then `exited`, `killed by signal N`, `oom`, or `lost` if how it ended is unknown
    (`exit_code` is then None). `cause` is why it ended; while it has not, it is "", or the cause for which it is being
    stopped: that is final. `stop_grace_s` is that of its launch. `pid`, that of its first process, and `started_at`,
    wall time in seconds, are only for display.
    """

    container_id: str
    generation: str
    name: str
    state: RuntimeState
    exit_code: int | None = None
    reason: str = ""
    stop_grace_s: float = 10.0
    pid: int | None = None
    started_at: float | None = None
    cause: str = ""


def start_of(generation: str) -> Position:
    """Return the place of the event that started a generation; `START` for a record that is damaged."""
    try:
        return Position.parse(generation)
    except Refused:
        return START


def cause_of(exit_code: int | None, reason: str) -> ExitCause:
    """Return why a container ended that nobody here has stopped."""
    if exit_code is None:
        return ExitCause.UNKNOWN
    if reason == OOM:
        return ExitCause.OOM
    return ExitCause.EXITED if reason == EXITED else ExitCause.CRASHED


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The CPU time a container has used and the resources it holds now; None where the runtime cannot measure."""

    cpu_seconds: float
    memory_bytes: int
    pids: int
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None


LOG_START = "0"
"""The position before the first line of a log, for every runtime."""


class LogPart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    The lines of a log after a position, and the position after them.

    `is_cut`: output before these lines, and after that position, is not kept any more. `is_end`: the container has
    exited and there is nothing after these lines.
    """

    lines: tuple[str, ...] = ()
    position: str
    is_cut: bool = False
    is_end: bool = False


class Runtime(Protocol):
    """
    Starts, stops and observes the containers of one cluster on one machine.

    Open it with `async with`; opening adopts the containers that are there, closing leaves them running. A container is
    identified by its id and generation. Every method raises `Refused` for a malformed name and `Unavailable` when the
    machine cannot do it now; those with id and generation raise `NotFound` for an unknown container.
    """

    @property
    def name(self) -> str:
        """The name of this runtime in the settings, such as `process`."""
        ...

    @property
    def limits(self) -> str:
        """Which limits it enforces while it is open, for people: `cpu, memory, pids by cgroup v1`, or `none`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def list(self) -> list[Observed]:
        """Return all containers of this cluster, exited ones until they are removed, ordered by name."""
        ...

    async def start(self, launch: Launch) -> Observed:
        """
        Start a container and return once its command has been launched.

        A generation runs at most once: a repeated call returns the container of the first one, even if it has exited.

        Raises:
            Refused: the launch is invalid; the message names the value and what is allowed.
            Unavailable: it was not started, and nothing of it remains.
        """
        ...

    async def grant(self, until: float) -> None:
        """
        Let the containers that were launched with `until` run until this time, in seconds of `Clock.heard`.

        A dead man's switch: when the time is over they are killed with cause CUT_OFF, whatever has become of this
        process by then, paused ones and ones within the grace of `stop` too. A time before an earlier grant's changes
        nothing. A runtime whose containers are no children of ours needs a keeper of its own for that.

        Raises:
            Unavailable: the grant could not be made known; the last one stands.
        """
        ...

    async def stop(
        self,
        container_id: str,
        generation: str,
        *,
        grace_s: float,
        force: bool = False,
        cause: ExitCause = ExitCause.REQUESTED,
    ) -> None:
        """
        Stop a container and return when all its processes are gone; the record of its exit stays until `remove`.

        It writes down *cause*, durably, unless the container has one already; then it sends SIGTERM, and SIGKILL after
        `grace_s` seconds; with `force` SIGKILL at once. A paused container is resumed first. Stopping an exited
        container does nothing.

        Raises:
            Unavailable: even SIGKILL did not end it in time.
        """
        ...

    async def pause(self, container_id: str, generation: str) -> None:
        """
        Freeze all processes of a container; pausing a paused one does nothing.

        Raises:
            Refused: it has exited.
        """
        ...

    async def resume(self, container_id: str, generation: str) -> None:
        """
        Resume a paused container; resuming a running one does nothing.

        Raises:
            Refused: it has exited.
        """
        ...

    async def remove(self, container_id: str, generation: str) -> None:
        """
        Remove an exited container with its record, logs and files.

        Raises:
            Refused: it has not exited.
        """
        ...

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        """
        Return the last *lines* (1 to 10,000) lines of output, oldest first, without line ends.

        Standard output and error are in the order they were written. Control characters are not escaped; the caller
        must do that before it displays them.
        """
        ...

    async def logs_after(
        self, container_id: str, generation: str, position: str, *, lines: int, bytes_most: int, wait_s: float
    ) -> LogPart:
        """
        Return the lines after a *position*; if there are none yet, wait for the first ones, at most *wait_s* seconds.

        A position is an earlier answer's, `LOG_START`, or "" for the last *lines* lines. The answer has about
        *bytes_most* bytes at most, so there may be more lines at once; a longer line comes in pieces. A line that has
        no end yet is returned when it has, or when the container has exited.

        Raises:
            Refused: this is no position (`bad_cursor`), or the runtime cannot do it (`not_supported`).
        """
        ...

    async def usage(self, container_id: str, generation: str) -> Usage:
        """
        Measure a container that has not exited.

        Raises:
            NotFound: it is unknown, or has exited.
        """
        ...

    async def wait_change(self, timeout_s: float) -> bool:
        """
        Return True once a container has exited since the last call that returned True; False after *timeout_s*.

        For one waiter, which lists again after each return: several exits may wake it only once.
        """
        ...
