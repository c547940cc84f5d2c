"""
A runtime in memory for simulations and tests: the same contract without processes, threads, clock or randomness.

Containers exist only in this object, so they survive closing and opening it again. What happens by itself on a real
machine is triggered by the test: `exit`, `lose_all`, `fail_next_start`, `print`, `use`.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from coordinator.runtime.launch_checks import (
    LOG_LINES_MAX,
    check_grace,
    check_key,
    check_launch,
    check_lines,
    check_timeout,
)
from coordinator.runtime.protocol import EXITED, KILLED, LOST, Launch, Lines, Observed, RuntimeState, Usage
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked

_FIRST_PID = 1_000
_NOTHING = Usage(cpu_seconds=0.0, memory_bytes=0, pids=1)


class _Container:
    __slots__ = ("deaf", "launch", "lines", "observed", "usage")

    def __init__(self, launch: Launch, observed: Observed, *, deaf: bool) -> None:
        self.launch = launch
        self.observed = observed
        self.deaf = deaf
        self.lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self.usage = _NOTHING


class FakeRuntime:
    """
    Simulates a machine of one cluster; *now* returns the wall time in seconds, used as start time.

    `launches` lists every launch that began, in order. A container whose id is in `deaf` ignores SIGTERM.
    """

    name = "fake"

    def __init__(self, *, cluster: str, now: Callable[[], float]) -> None:
        self.launches: list[Launch] = []
        self.deaf: set[str] = set()
        self._cluster = checked(cluster, "cluster")
        self._now = now
        self._containers: dict[tuple[str, str], _Container] = {}
        self._failures: deque[tuple[CoordinationError, bool]] = deque()
        self._changed = asyncio.Event()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    async def list(self) -> list[Observed]:
        self._check_open()
        return sorted((container.observed for container in self._containers.values()), key=lambda seen: seen.name)

    async def start(self, launch: Launch) -> Observed:
        self._check_open()
        check_launch(launch, cluster=self._cluster)
        known = self._containers.get((launch.container_id, launch.generation))
        if known is not None:
            return known.observed
        error, begins = self._failures.popleft() if self._failures else (None, True)
        if begins:
            self._begin(launch)
        if error is not None:
            raise error
        return self._containers[launch.container_id, launch.generation].observed

    async def stop(self, container_id: str, generation: str, *, grace_s: float, force: bool = False) -> None:
        check_grace(grace_s, "grace_s")
        container = self._find(container_id, generation)
        number = signal.SIGKILL if force else signal.SIGTERM
        if not force and container.deaf and container.observed.state is not RuntimeState.EXITED:
            self._show(container, RuntimeState.RUNNING)
            await asyncio.sleep(grace_s)
            number = signal.SIGKILL
        if container.observed.state is not RuntimeState.EXITED:
            self._end(container, KILLED + number, f"killed by signal {number.value}")

    async def pause(self, container_id: str, generation: str) -> None:
        self._show(self._living(container_id, generation), RuntimeState.PAUSED)

    async def resume(self, container_id: str, generation: str) -> None:
        self._show(self._living(container_id, generation), RuntimeState.RUNNING)

    async def remove(self, container_id: str, generation: str) -> None:
        container = self._find(container_id, generation)
        if container.observed.state is not RuntimeState.EXITED:
            raise Refused(
                f"container {container.observed.name} has not exited and cannot be removed: stop it first",
                reason="not_exited",
            )
        del self._containers[container_id, generation]

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        check_lines(lines)
        return list(self._find(container_id, generation).lines)[-lines:]

    async def usage(self, container_id: str, generation: str) -> Usage:
        container = self._find(container_id, generation)
        if container.observed.state is RuntimeState.EXITED:
            raise NotFound(f"container {container.observed.name} is not running, so it has no usage")
        return container.usage

    async def wait_change(self, timeout_s: float) -> bool:
        self._check_open()
        check_timeout(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def exit(self, container_id: str, generation: str, code: int, reason: str = EXITED) -> None:
        """Let a container exit by itself."""
        self._end(self._living(container_id, generation, closed=True), code, reason)

    def lose_all(self) -> None:
        """Let the machine restart: all containers that had not exited end as `lost`."""
        for container in self._containers.values():
            if container.observed.state is not RuntimeState.EXITED:
                self._end(container, None, LOST)

    def fail_next_start(self, error: CoordinationError, *, begins: bool = False) -> None:
        """Raise *error* from the next start; with *begins* the container still starts, only the answer is lost."""
        self._failures.append((error, begins))

    def print(self, container_id: str, generation: str, *lines: str) -> None:
        """Let a container write lines to its log."""
        self._find(container_id, generation, closed=True).lines.extend(lines)

    def use(self, container_id: str, generation: str, usage: Usage) -> None:
        """Set the usage that is measured for a container from now on."""
        self._find(container_id, generation, closed=True).usage = usage

    def _begin(self, launch: Launch) -> None:
        observed = Observed(
            container_id=launch.container_id,
            generation=launch.generation,
            name=launch.name,
            state=RuntimeState.RUNNING,
            stop_grace_s=launch.stop_grace_s,
            pid=_FIRST_PID + len(self.launches),
            started_at=self._now(),
        )
        self.launches.append(launch)
        container = _Container(launch, observed, deaf=launch.container_id in self.deaf)
        self._containers[launch.container_id, launch.generation] = container

    def _end(self, container: _Container, code: int | None, reason: str) -> None:
        container.observed = msgspec.structs.replace(
            container.observed, state=RuntimeState.EXITED, exit_code=code, reason=reason, pid=None
        )
        self._changed.set()

    def _show(self, container: _Container, state: RuntimeState) -> None:
        container.observed = msgspec.structs.replace(container.observed, state=state)

    def _check_open(self) -> None:
        if not self._open:
            raise Unavailable("the fake runtime is not open: use it in 'async with'")

    def _find(self, container_id: str, generation: str, *, closed: bool = False) -> _Container:
        if not closed:
            self._check_open()
        container = self._containers.get(check_key(container_id, generation))
        if container is None:
            raise NotFound(f"container {container_id} of generation {generation} not found on this node")
        return container

    def _living(self, container_id: str, generation: str, *, closed: bool = False) -> _Container:
        container = self._find(container_id, generation, closed=closed)
        if container.observed.state is RuntimeState.EXITED:
            raise Refused(
                f"container {container.observed.name} has exited: only running containers can be paused or resumed",
                reason="has_exited",
            )
        return container
