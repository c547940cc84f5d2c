"""
The process runtime: a container is a process group of this machine.

It does not isolate. A container has the rights of the node agent's user and sees its files and network. It gets what is
cheap and safe: a clean environment, no inherited files, a directory of its own, no core dumps; when the kernel runs out
of memory, it is killed first. Use it for trusted commands, tests and laptops.

Where asked for and possible, a control group limits its memory, CPU and processes, tells `oom`, and holds what leaves
the process group (`setsid`). Otherwise limits are recorded but not enforced, `oom` is never reported, and such a
process leaves the container. The limits of `setrlimit` are no substitute and not used: RLIMIT_AS and RLIMIT_DATA count
reserved memory, such as thread stacks, for each process alone, and end programs that use little; RLIMIT_NPROC counts
all processes of a user, and does not bind root.

Containers outlive this process and are adopted from their directories; those that need a grant are killed when it has
expired, by a watcher of their own. Nothing else on the machine is ever touched.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from coordinator.atomic_files import private_folder
from coordinator.clock import Clock, SystemClock
from coordinator.runtime.launch_checks import (
    check_grace,
    check_key,
    check_launch,
    check_lines,
    check_part,
    check_timeout,
    check_until,
    count_before,
)
from coordinator.runtime.process import directory as on_disk
from coordinator.runtime.process.container import ProcessContainer
from coordinator.runtime.process.control_group import ControlGroup
from coordinator.runtime.process.control_groups import PIDS_MAX, ControlGroups, Demand, Isolation
from coordinator.runtime.process.directory import LaunchRecord
from coordinator.runtime.process.grants import Grants
from coordinator.runtime.process.group import ProcessGroup
from coordinator.runtime.process.hierarchies import Hierarchies
from coordinator.runtime.process.log import after, create_log, last_words, rotate, size, tail
from coordinator.runtime.process.program import Commands, Invocation, Programs
from coordinator.runtime.process.removal import Removal
from coordinator.runtime.process.shim import spawn
from coordinator.runtime.process.table import ProcessTable, process_table
from coordinator.runtime.protocol import Launch, Lines, LogPart, Observed, RuntimeState, Usage
from coordinator.runtime.shortage import is_shortage
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked

_LOCK = ".lock"
_LINE_BYTES = 128
_OUTPUT_POLL_S = 0.1
"""How often is looked for output that somebody waits for: no system reports it cheaply."""

log = structlog.get_logger(__name__)


class ProcessRuntime:
    """
    Runs containers as process groups, recorded under *root*; only one runtime at a time may use a root.

    Commands run in *working_directory*, or each in an empty directory of its own. The logs of a container have at most
    two and a half times *max_log_bytes*, checked every *log_check_s*. Exits are seen at once where the system has
    pidfds, otherwise within *poll_s*. The *clock*'s wall time is reported as start. With *isolation* `limits` it opens
    only where limits can be enforced; *pids_max* is how many processes and threads a limited container may have.
    """

    name = "process"
    demand = Demand()

    def __init__(
        self,
        root: Path,
        *,
        cluster: str,
        working_directory: Path | None = None,
        max_log_bytes: int = 16 * 1024 * 1024,
        log_check_s: float = 1.0,
        poll_s: float = 0.2,
        start_timeout_s: float = 5.0,
        kill_timeout_s: float = 10.0,
        table: ProcessTable | None = None,
        clock: Clock | None = None,
        isolation: Isolation = "none",
        pids_max: int = PIDS_MAX,
        hierarchies: Hierarchies | None = None,
        programs: Programs | None = None,
    ) -> None:
        self._root = root.absolute()
        self._cluster = checked(cluster, "cluster")
        self._working_directory = working_directory.absolute() if working_directory else None
        self._max_log_bytes = max_log_bytes
        self._log_check_s = log_check_s
        self._poll_s = poll_s
        self._start_timeout_s = start_timeout_s
        self._kill_timeout_s = kill_timeout_s
        self._table = table or process_table()
        self._clock = clock or SystemClock()
        self._grants = Grants(self._root, cluster=self._cluster, kind=self._table.kind, clock=self._clock)
        self._control = ControlGroups(
            cluster=self._cluster,
            root=self._root,
            isolation=isolation,
            pids_max=pids_max,
            found=hierarchies,
            demand=self.demand,
        )
        self._programs = programs or Commands()
        self._containers: dict[str, ProcessContainer] = {}
        self._changed = asyncio.Event()
        self._lock: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._logs_due = 0.0
        self._removal = Removal()
        self._rotating: asyncio.Future[None] | None = None

    @property
    def limits(self) -> str:
        return self._control.limits

    async def __aenter__(self) -> Self:
        if self._lock is not None:
            raise Unavailable(f"the {self.name} runtime of {self._root} is already open: open it only once")
        self._programs.open()
        try:
            self._lock = _locked(self._root)
            self._control.open()
            for directory in on_disk.leftovers(self._root):
                self._removal.add(directory)
            for directory in on_disk.directories(self._root):
                self._adopt(directory)
            self._control.sweep(self._containers)
        except OSError as error:
            self._release()
            raise Unavailable(f"the containers under {self._root} cannot be read: {error}") from error
        except BaseException:
            self._release()
            raise
        self._check_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with suppress(TimeoutError):
                await self._removal.settle(self._control.retry)
        finally:
            self._release()

    async def list(self) -> list[Observed]:
        self._check_open()
        try:
            seen = [container.look() for _, container in sorted(self._containers.items())]
        except OSError as error:
            raise Unavailable(f"the containers under {self._root} cannot be read: {error.strerror}") from error
        return [one for one in seen if one is not None]

    async def start(self, launch: Launch) -> Observed:
        self._check_open()
        check_launch(launch, cluster=self._cluster)
        container = self._containers.get(launch.name)
        if container is None:
            container = self._launch(launch)
        await self._begun(container)
        container.settle()
        observed = container.observed()
        if observed.cause == ExitCause.EXITED and self._programs.never_ran(container.directory):
            words = await asyncio.to_thread(last_words, container.directory)
            self._forget(container)
            raise Unavailable(f"container {launch.name} cannot be started: {words}")
        return observed

    async def grant(self, until: float) -> None:
        self._check_open()
        try:
            self._grants.write(check_until(until))
        except OSError as error:
            raise Unavailable(f"the grant of {self._root} cannot be written: {error}") from error

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
        container = await self._begun(self._find(container_id, generation))
        await container.stop(grace_s=grace_s, force=force, kill_timeout_s=self._kill_timeout_s, cause=cause)

    async def pause(self, container_id: str, generation: str) -> None:
        container = await self._begun(self._find(container_id, generation))
        await container.bring_to(RuntimeState.PAUSED)

    async def resume(self, container_id: str, generation: str) -> None:
        container = await self._begun(self._find(container_id, generation))
        await container.bring_to(RuntimeState.RUNNING)

    async def remove(self, container_id: str, generation: str) -> None:
        container = self._find(container_id, generation)
        container.settle()
        if container.outcome is None:
            raise Refused(
                f"container {container.record.name} has not exited and cannot be removed: stop it first",
                reason="not_exited",
            )
        self._forget(container)

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        check_lines(lines)
        return await asyncio.to_thread(tail, self._find(container_id, generation).directory, lines)

    async def logs_after(
        self, container_id: str, generation: str, position: str, *, lines: int, bytes_most: int, wait_s: float
    ) -> LogPart:
        check_part(lines, bytes_most, wait_s)
        at = count_before(position)
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            container = self._find(container_id, generation)
            container.settle()
            seen = size(container.directory), container.outcome is not None
            part = await asyncio.to_thread(
                after, container.directory, at, lines=lines, bytes_most=bytes_most, is_ended=seen[1]
            )
            if part.lines or part.is_cut or part.is_end or asyncio.get_running_loop().time() >= until:
                return part
            at = int(part.position)
            while (size(container.directory), container.outcome is not None) == seen:
                left_s = until - asyncio.get_running_loop().time()
                if left_s <= 0:
                    return part
                await asyncio.sleep(min(_OUTPUT_POLL_S, left_s))
                self._find(container_id, generation)

    async def usage(self, container_id: str, generation: str) -> Usage:
        return self._find(container_id, generation).usage()

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

    def _check_open(self) -> None:
        if self._timer is None:
            raise Unavailable(f"the {self.name} runtime is not open: use it in 'async with'")

    def _find(self, container_id: str, generation: str) -> ProcessContainer:
        self._check_open()
        key = check_key(container_id, generation)
        for container in self._containers.values():
            if (container.record.container_id, container.record.generation) == key:
                return container
        raise NotFound(f"container {container_id} of generation {generation} not found on this node")

    async def _begun(self, container: ProcessContainer) -> ProcessContainer:
        if not container.begun:
            try:
                await container.begin(self._start_timeout_s)
            finally:
                if container.void:
                    self._forget(container)
        return container

    def _launch(self, launch: Launch) -> ProcessContainer:
        """Create directory, record and process without awaiting, so that no second start can come in between."""
        invocation = self._programs.invocation(launch)
        try:
            place = self._control.place(launch.name)
            directory, record = on_disk.create(self._root, launch, self._clock.wall(), place)
        except OSError as error:
            raise Unavailable(
                f"the directory of container {launch.name} cannot be created under {self._root}: {_why(error)}"
            ) from error
        try:
            until = "" if launch.until is None else self._grants.shown(launch.until)
            group = self._control.make(place, launch) if place is not None else None
            self._programs.furnish(directory, launch, place)
            shim = self._spawn(directory, invocation, until, group)
        except OSError as error:
            if place is not None:
                self._control.end(ControlGroup(place))
            self._discard(directory)
            raise Unavailable(f"container {launch.name} cannot be started: {_why(error)}") from error
        self._containers[launch.name] = container = self._container(directory, record, shim)
        return container

    def _container(self, directory: Path, record: LaunchRecord, shim: int | None = None) -> ProcessContainer:
        return ProcessContainer(
            directory,
            record,
            table=self._table,
            on_exit=self._changed.set,
            on_group_end=self._control.end,
            programs=self._programs,
            shim=shim,
        )

    def _spawn(
        self,
        directory: Path,
        invocation: Invocation,
        until: str,
        group: ControlGroup | None,
    ) -> int:
        descriptor = create_log(directory)
        try:
            return spawn(
                directory,
                command=invocation.command,
                environment=invocation.environment,
                working_directory=self._working_directory or directory / invocation.folder,
                log=descriptor,
                kind=self._table.kind,
                until=until,
                grant=self._grants.name,
                group=group,
                enters=invocation.enters,
            )
        finally:
            os.close(descriptor)

    def _adopt(self, directory: Path) -> None:
        """Adopt a container of an earlier runtime; one that had not begun is prevented from beginning and deleted."""
        record = on_disk.read_record(directory)
        if record is not None and record.cluster != self._cluster:
            return
        identity = on_disk.read_identity(directory)
        if identity is None:
            if on_disk.declare_void(directory):
                if record is not None and record.group is not None:
                    self._control.end(ControlGroup(record.group))
                self._discard(directory)
                log.info("container_start_discarded", name=directory.name)
                return
            identity = on_disk.read_identity(directory)
        if record is None:
            # Without a record it cannot be identified, and would run next to its own successor.
            log.warning("container_record_unreadable", name=directory.name)
            if identity is not None:
                group = ProcessGroup(self._table, identity, directory.name)
                group.signal(signal.SIGKILL)
                group.end_stragglers()
            self._discard(directory)
            return
        self._containers[record.name] = container = self._container(directory, record)
        container.follow(identity)
        log.info("container_adopted", name=record.name, running=container.outcome is None)

    def _forget(self, container: ProcessContainer) -> None:
        container.unfollow()
        # Another waiter may have removed it already, and a new start may have taken its name since.
        if self._containers.get(container.record.name) is container:
            del self._containers[container.record.name]
            container.end_group()
            self._discard(container.directory)

    def _discard(self, directory: Path) -> None:
        self._removal.add(on_disk.put_away(directory))

    def _release(self) -> None:
        self._removal.close()
        self._control.close()
        for container in self._containers.values():
            container.unfollow()
        self._containers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_all(self) -> None:
        """Check what the system does not report: exits without a pidfd, and the size of logs."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(self._poll_s, self._log_check_s), self._check_all)
        self._control.retry()
        for container in list(self._containers.values()):
            if not container.watched:
                try:
                    container.settle()
                except (CoordinationError, OSError) as error:
                    log.warning("container_check_failed", name=container.record.name, error=str(error))
        if loop.time() >= self._logs_due and (self._rotating is None or self._rotating.done()):
            self._logs_due = loop.time() + self._log_check_s
            directories = [container.directory for container in self._containers.values()]
            with suppress(RuntimeError):  # no further thread: with the next check
                self._rotating = loop.run_in_executor(None, _rotate_all, directories, self._max_log_bytes)


def _rotate_all(directories: Iterable[Path], max_bytes: int) -> None:
    """Rotate the logs that are full; a log may be copied, which takes long."""
    for directory in directories:
        try:
            rotate(directory, max_bytes)
        except OSError as error:
            if directory.exists():  # it may have been removed meanwhile
                log.warning("container_check_failed", name=directory.name, error=str(error))


def _why(error: OSError) -> str:
    """Return the reason of a start that failed; one that is no fault of the container says so."""
    return f"this node lacks descriptors, processes, memory or disk: {error}" if is_shortage(error) else str(error)


def _locked(root: Path) -> int:
    """Lock a root until this process ends; raises `Unavailable` when another process holds the lock."""
    private_folder(root)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, _LINE_BYTES, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise Unavailable(
            f"process {holder or 'unknown'} already runs the containers under {root}: use one runtime per directory"
        ) from error
    with suppress(OSError):  # a full disk must not keep an agent from what it has to stop; the pid is for messages
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
