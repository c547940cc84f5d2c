"""
What a container runtime is, whatever runs the containers: the values it takes and gives, and the one protocol.

A runtime does what it is told and reports what it sees. It never decides: it holds no desired state, restarts nothing,
and never touches what this cluster did not start.
"""

from __future__ import annotations

import enum
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import msgspec

KILLED = 128
"""A command ended by signal N has the exit code 128 + N, as with Docker and in every shell."""

EXITED = "exited"
OOM = "oom"
LOST = "lost"


Lines: TypeAlias = list[str]
"""What `logs` gives; beside a method `list`, the type cannot be spelled."""


class RuntimeState(enum.StrEnum):
    """What a container does at this moment, as the operating system sees it."""

    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


class Launch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    All a runtime must know to start one container.

    `generation` is the position of the start event, `"1042.0"`, and `epoch` that of the writer, `"1.17"`; `name` is
    `<namespace>-<container_id>-<generation>`. `command` is an argument array and never a shell line. 0 for `cpu_millis`
    or `memory_bytes` means no limit. `environment` holds resolved secrets, so its values appear in no record, log,
    message or `repr`.
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

    def __repr__(self) -> str:
        return f"Launch(name={self.name!r}, image={self.image!r})"


class Observed(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    What a runtime sees of one container.

    `reason` is empty while it lives; then `exited`, `killed by signal N`, `oom`, or `lost` when it is gone and nobody
    saw how (`exit_code` is then None). For display alone: `pid`, that of its first process, and `started_at`, wall time
    in seconds.
    """

    container_id: str
    generation: str
    name: str
    state: RuntimeState
    exit_code: int | None = None
    reason: str = ""
    pid: int | None = None
    started_at: float | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a container has used of the processor so far, and holds now; None where the runtime cannot tell."""

    cpu_seconds: float
    memory_bytes: int
    pids: int
    network_rx_bytes: int | None = None
    network_tx_bytes: int | None = None


class Runtime(Protocol):
    """
    Starts, stops and observes the containers of one cluster on one machine.

    Opened with `async with`; opening adopts what earlier openings started, closing leaves every container running.
    A container is named by its id and generation. Every method raises `Refused` for a malformed name and `Unavailable`
    when the machine cannot do it now; those that take id and generation raise `NotFound` for an unknown container.
    """

    @property
    def name(self) -> str:
        """The word the settings use for this runtime, such as `process`."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def list(self) -> list[Observed]:
        """List all containers of this cluster, the exited ones until they are removed, ordered by name."""
        ...

    async def start(self, launch: Launch) -> Observed:
        """
        Start a container and return once its command has been launched.

        A generation runs at most once: a repeated call returns what was started then, even if it has ended since.

        Raises:
            Refused: the launch cannot be right; the message names the value and what would be.
            Unavailable: it was not started, and nothing of it is left.
        """
        ...

    async def stop(self, container_id: str, generation: str, *, grace_s: float, force: bool = False) -> None:
        """
        End a container and return when all its processes are gone; the record of its exit stays until `remove`.

        SIGTERM first and SIGKILL after `grace_s` seconds; with `force` SIGKILL at once. A paused one is resumed for it.
        Stopping what has ended is already so.

        Raises:
            Unavailable: even SIGKILL did not end it in time.
        """
        ...

    async def pause(self, container_id: str, generation: str) -> None:
        """
        Freeze all processes of a container; pausing a paused one is already so.

        Raises:
            Refused: it has exited.
        """
        ...

    async def resume(self, container_id: str, generation: str) -> None:
        """
        Let a paused container go on; resuming a running one is already so.

        Raises:
            Refused: it has exited.
        """
        ...

    async def remove(self, container_id: str, generation: str) -> None:
        """
        Forget an exited container and delete its record, logs and files.

        Raises:
            Refused: it has not exited.
        """
        ...

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        """
        Return the last *lines* (1 to 10,000) lines of output, oldest first, without line ends.

        Standard output and error in the order they were written; control characters are as the container wrote them,
        so whoever shows them must escape them.
        """
        ...

    async def usage(self, container_id: str, generation: str) -> Usage:
        """
        Measure a container that has not exited.

        Raises:
            NotFound: also when it has exited.
        """
        ...

    async def wait_change(self, timeout_s: float) -> bool:
        """
        Wait until some container has exited since the last call that returned True; False when time ran out.

        For one waiter, who lists again after each return: exits that come together wake it once.
        """
        ...
