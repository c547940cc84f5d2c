"""
A runtime in memory for simulations and tests: the same contract without processes, threads, clock or randomness.

Containers exist only in this object, so they survive closing and opening it again. What happens by itself on a real
machine is triggered by the test: `exit`, `lose_all`, `fail_next_start`, `print`, `use`. How a container takes SIGTERM
is told by `stops`. With a clock it has the dead man's switch: timers of the loop, in no process's context, kill what
the last grant does not cover.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections import deque
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Self

import msgspec

from coordinator.runtime.launch_checks import (
    LOG_LINES_MAX,
    check_grace,
    check_key,
    check_launch,
    check_lines,
    check_part,
    check_timeout,
    check_until,
    count_before,
)
from coordinator.runtime.protocol import (
    EXITED,
    KILLED,
    LOST,
    Launch,
    Lines,
    LogPart,
    Observed,
    RuntimeState,
    Usage,
    cause_of,
)
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked

_FIRST_PID = 1_000
_RESOLUTION_S = 1e-6
_OUTPUT_POLL_S = 0.02
_NOTHING = Usage(cpu_seconds=0.0, memory_bytes=0, pids=1)


class OnStop(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a container takes SIGTERM: it exits with `code` after `after_s`, or with None like one that does not handle it.

    One whose `after_s` is infinite is deaf. `late_s` is how long SIGKILL takes to end it, as on a machine under load.
    """

    code: int | None = None
    after_s: float = 0.0
    late_s: float = 0.0


DEAF = OnStop(after_s=math.inf)
OBEDIENT = OnStop()


class _Container:
    __slots__ = ("launch", "lines", "observed", "on_stop", "until", "usage", "watched", "written")

    def __init__(self, launch: Launch, observed: Observed, on_stop: OnStop) -> None:
        self.launch = launch
        self.observed = observed
        self.on_stop = on_stop
        self.until = -math.inf
        """Loop time at which it is killed, if it is watched."""
        self.watched = False
        self.lines: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self.written = 0
        """How many lines it has written, those that are not kept included."""
        self.usage = _NOTHING


class FakeRuntime:
    """
    Simulates a machine of one cluster; *now* returns the wall time in seconds, used as start time.

    `launches` lists every launch that began, in order. `stops` says how the containers of an id take SIGTERM, from
    their next start; a container whose id is in `deaf` ignores it. `heard`, the monotonic clock of whoever calls
    `grant`, switches the dead man's switch on; the next process of this machine may set its own.
    """

    name = "fake"
    limits = "none"

    def __init__(self, *, cluster: str, now: Callable[[], float], heard: Callable[[], float] | None = None) -> None:
        self.launches: list[Launch] = []
        self.stops: dict[str, OnStop] = {}
        self.deaf: set[str] = set()
        self.heard = heard
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

    async def grant(self, until: float) -> None:
        self._check_open()
        check_until(until)
        for container in self._containers.values():
            if container.watched:
                self._extend(container, until)

    async def stop(
        self,
        container_id: str,
        generation: str,
        *,
        grace_s: float,
        force: bool = False,
        cause: ExitCause = ExitCause.REQUESTED,
    ) -> None:
        check_grace(grace_s, "grace_s")
        container = self._find(container_id, generation)
        if container.observed.state is RuntimeState.EXITED:
            return
        self._mark(container, cause)
        how = container.on_stop
        if not force:
            self._show(container, RuntimeState.RUNNING)
            if (pause_s := min(how.after_s, grace_s)) > 0:
                await asyncio.sleep(pause_s)
            if how.after_s <= grace_s:
                self._signal(container, signal.SIGTERM, how.code)
                return
        if how.late_s > 0:
            await asyncio.sleep(how.late_s)
        self._signal(container, signal.SIGKILL)

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

    async def logs_after(
        self, container_id: str, generation: str, position: str, *, lines: int, bytes_most: int, wait_s: float
    ) -> LogPart:
        check_part(lines, bytes_most, wait_s)
        at = count_before(position)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            container = self._find(container_id, generation)
            first = container.written - len(container.lines)
            if at is None:
                at = max(first, container.written - lines)
            begin = min(max(at, first), container.written)
            is_ended = container.observed.state is RuntimeState.EXITED
            if begin < container.written or begin != at or is_ended or loop.time() >= until:
                return _part(container, at, begin, bytes_most, is_ended=is_ended)
            await asyncio.sleep(min(_OUTPUT_POLL_S, until - loop.time()))

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
        container = self._find(container_id, generation, closed=True)
        container.lines.extend(lines)
        container.written += len(lines)

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
        on_stop = DEAF if launch.container_id in self.deaf else self.stops.get(launch.container_id, OBEDIENT)
        container = _Container(launch, observed, on_stop)
        self._containers[launch.container_id, launch.generation] = container
        if launch.until is not None and self.heard is not None:
            # As in the shim: what has waited for longer than its grant is killed before it begins.
            self._extend(container, launch.until)
            self._check(container)
            container.watched = True
        if container.observed.state is not RuntimeState.EXITED:
            self.launches.append(launch)

    def _extend(self, container: _Container, until: float) -> None:
        """Let a container run until this time of the clock."""
        if self.heard is not None:
            loop = asyncio.get_running_loop()
            container.until = max(container.until, loop.time() + until - self.heard())

    def _check(self, container: _Container) -> None:
        """Kill a container whose time is over; otherwise check again then."""
        if container.observed.state is RuntimeState.EXITED:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= container.until - _RESOLUTION_S:
            self._mark(container, ExitCause.CUT_OFF)
            self._signal(container, signal.SIGKILL)
        else:
            # In a context of its own: a process that is stopped or killed must not stop or kill the switch.
            loop.call_at(container.until, self._check, container, context=Context())

    def _mark(self, container: _Container, cause: ExitCause) -> None:
        if not container.observed.cause:
            container.observed = msgspec.structs.replace(container.observed, cause=cause.value)

    def _signal(self, container: _Container, number: signal.Signals, code: int | None = None) -> None:
        """End a container by a signal that it does not handle, or answers with exit *code*."""
        if container.observed.state is RuntimeState.EXITED:
            return
        if code is None:
            self._end(container, KILLED + number, f"killed by signal {number.value}")
        else:
            self._end(container, code, EXITED)

    def _end(self, container: _Container, code: int | None, reason: str) -> None:
        container.observed = msgspec.structs.replace(
            container.observed,
            state=RuntimeState.EXITED,
            exit_code=code,
            reason=reason,
            pid=None,
            cause=container.observed.cause or cause_of(code, reason),
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


def _part(container: _Container, at: int, begin: int, bytes_most: int, *, is_ended: bool) -> LogPart:
    """Return the lines from *begin* on, whole ones unless the first one is longer than the part may be."""
    rest = list(container.lines)[begin - container.written :] if begin < container.written else []
    taken: list[str] = []
    for line in rest:
        bytes_most -= len(line.encode()) + 1
        if bytes_most < 0 and taken:
            break
        taken.append(line)
    return LogPart(
        lines=tuple(taken),
        position=str(begin + len(taken)),
        is_cut=begin != at,
        is_end=is_ended and len(taken) == len(rest),
    )
