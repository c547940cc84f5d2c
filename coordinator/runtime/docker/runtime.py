"""
The Docker runtime: a container of ours is one of a Docker Engine's, on this machine.

A container sees no files, processes or network but its own: a read-only root, a small `/tmp`, no capabilities, no way
to gain rights, limits of CPU, memory and processes, and no network unless the settings name one. It shares the kernel.
Who may open Docker's socket has all rights of the machine and can read every environment.

Containers outlive this process and are adopted by their labels: those of this cluster and this home. Nothing else of
Docker is ever touched. A keeper kills those whose grant has expired.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias

import msgspec
import structlog

from coordinator.clock import Clock, SystemClock
from coordinator.runtime.docker.container import Stats, creation, hidden
from coordinator.runtime.docker.containers import Containers
from coordinator.runtime.docker.engine import DockerEngine, EngineError
from coordinator.runtime.docker.images import Images
from coordinator.runtime.docker.output import FramePlace, LinesAfter, last_lines, read_lines
from coordinator.runtime.docker.records import Records
from coordinator.runtime.docker.watch import Watch
from coordinator.runtime.launch_checks import (
    bad_position,
    check_grace,
    check_key,
    check_launch,
    check_lines,
    check_part,
    check_timeout,
    check_until,
)
from coordinator.runtime.process.grants import Grants
from coordinator.runtime.process.table import boot_id
from coordinator.runtime.protocol import LOG_START, Launch, Lines, LogPart, Observed, RuntimeState, Usage
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked

Pulls: TypeAlias = Literal["missing", "always", "never"]
SOCKET = Path("/var/run/docker.sock")
_GONE = 404
_CONFLICT = 409
_REFUSALS = {400, 404}
_ONCE: dict[str, str | int] = {"stream": "false", "one-shot": "true"}
_NANOS = 1_000_000_000

log = structlog.get_logger(__name__)


class _Info(msgspec.Struct, frozen=True):
    cpus: int = msgspec.field(name="NCPU", default=1)


class _Created(msgspec.Struct, frozen=True, rename="pascal"):
    id: str


class _NoImageError(Exception):
    """Docker does not have the image of a launch."""


class DockerRuntime:
    """
    Runs containers on the Docker behind *socket*, in *network*; records of them are under *root*.

    Only one runtime at a time may use a root. Several roots may share one Docker. It *pulls* images that are `missing`,
    or `always` before a start, or `never`; a start waits for that at most *pull_wait_s*.
    """

    name = "docker"
    limits = "cpu, memory, pids by docker"

    def __init__(
        self,
        root: Path,
        *,
        cluster: str,
        socket: Path = SOCKET,
        network: str = "none",
        pulls: Pulls = "missing",
        pull_wait_s: float = 20.0,
        kill_timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._root = root.absolute()
        self._cluster = checked(cluster, "cluster")
        self._network = network
        self._pulls = pulls
        self._pull_wait_s = pull_wait_s
        self._kill_timeout_s = kill_timeout_s
        self._clock = clock or SystemClock()
        self._engine = DockerEngine(socket)
        self._records = Records(self._root)
        kind: Literal["proc", "ps"] = "proc" if sys.platform == "linux" else "ps"
        self._grants = Grants(self._root, cluster=self._cluster, kind=kind, clock=self._clock)
        self._boot = boot_id()
        self._cpus = 1
        self._watch: Watch | None = None
        self._starts: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}
        """Starts under way, with how many use the lock."""
        self._changed = asyncio.Event()
        self._containers = Containers(
            self._engine, self._records, cluster=self._cluster, boot=self._boot, on_exit=self._changed.set
        )
        self._images = Images(self._engine)
        self._is_open = False

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise Unavailable(f"the docker runtime of {self._root} is already open: open it only once")
        self._records.open()
        try:
            await self._engine.__aenter__()
            self._cpus = (await self._engine.get("/info", _Info)).cpus
            self._watch = Watch(
                self._root,
                cluster=self._cluster,
                home=self._records.home,
                socket=self._engine.socket,
                version=self._engine.version,
            )
            await self._containers.adopt()
            if self._containers.watches():
                await self._watch.ring()
        except EngineError as error:
            await self._release()
            raise Unavailable(f"the containers of Docker at {self._engine.socket} cannot be read: {error}") from error
        except BaseException:
            await self._release()
            raise
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        await self._release()

    async def list(self) -> list[Observed]:
        self._check_open()
        return sorted(await self._containers.look(), key=lambda one: one.name)

    async def start(self, launch: Launch) -> Observed:
        self._check_open()
        check_launch(launch, cluster=self._cluster, images=True)
        key = (launch.container_id, launch.generation)
        async with self._starting(key):
            return await self._start(launch)

    async def grant(self, until: float) -> None:
        self._check_open()
        try:
            self._grants.write(check_until(until))
        except OSError as error:
            raise Unavailable(f"the grant of {self._root} cannot be written: {error}") from error
        if self._containers.watches():
            await self._ring()  # it may have been killed since

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
        docker_id = await self._begun(container_id, generation)
        await self._containers.stop(
            docker_id, grace_s=grace_s, force=force, kill_timeout_s=self._kill_timeout_s, cause=cause
        )

    async def pause(self, container_id: str, generation: str) -> None:
        docker_id = await self._begun(container_id, generation)
        await self._containers.bring_to(RuntimeState.PAUSED, "pause", docker_id)

    async def resume(self, container_id: str, generation: str) -> None:
        docker_id = await self._begun(container_id, generation)
        await self._containers.bring_to(RuntimeState.RUNNING, "unpause", docker_id)

    async def remove(self, container_id: str, generation: str) -> None:
        docker_id = await self._begun(container_id, generation)
        observed = await self._containers.inspect(docker_id)
        if observed.state is not RuntimeState.EXITED:
            raise Refused(
                f"container {observed.name} has not exited and cannot be removed: stop it first", reason="not_exited"
            )
        await self._containers.delete(docker_id)
        self._containers.forget(docker_id)

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        check_lines(lines)
        docker_id = self._find(container_id, generation)
        try:
            async with self._engine.stream(
                "GET", f"/containers/{docker_id}/logs", query={"stdout": 1, "stderr": 1, "tail": lines}
            ) as chunks:
                return await last_lines(chunks, lines)
        except EngineError as error:
            raise self._containers.failed(docker_id, error) from error

    async def logs_after(
        self, container_id: str, generation: str, position: str, *, lines: int, bytes_most: int, wait_s: float
    ) -> LogPart:
        check_part(lines, bytes_most, wait_s)
        place = FramePlace.parse(position)
        if place is None and position not in {"", LOG_START}:
            raise bad_position(position)
        docker_id = self._find(container_id, generation)
        is_ended = (await self._containers.inspect(docker_id)).state is RuntimeState.EXITED
        query: dict[str, str | int] = {"stdout": 1, "stderr": 1, "timestamps": 1}
        if not position:
            query["tail"] = lines
        elif place is not None:
            query["since"] = place.since
        waits = wait_s > 0 and position != "" and not is_ended
        if waits:
            query["follow"] = 1
        found = LinesAfter(place, bytes_most)
        try:
            async with self._engine.stream("GET", f"/containers/{docker_id}/logs", query=query) as chunks:
                await read_lines(found, chunks, wait_s if waits else None)
        except EngineError as error:
            raise self._containers.failed(docker_id, error) from error
        is_end = is_ended and not found.is_full
        taken, place = found.taken(is_end=is_end)
        position = LOG_START if place is None else str(place)
        return LogPart(lines=tuple(taken), position=position, is_cut=found.is_cut, is_end=is_end)

    async def usage(self, container_id: str, generation: str) -> Usage:
        docker_id = self._find(container_id, generation)
        observed = await self._containers.inspect(docker_id)
        if observed.state is RuntimeState.EXITED:
            raise NotFound(f"container {observed.name} is not running, so it has no usage")
        try:
            stats = await self._engine.get(f"/containers/{docker_id}/stats", Stats, _ONCE)
        except EngineError as error:
            raise self._containers.failed(docker_id, error) from error
        networks = None if stats.networks is None else stats.networks.values()
        return Usage(
            cpu_seconds=stats.cpu_stats.cpu_usage.total_usage / _NANOS,
            memory_bytes=stats.memory_bytes,
            pids=stats.pids_stats.current,
            network_rx_bytes=None if networks is None else sum(one.rx_bytes for one in networks),
            network_tx_bytes=None if networks is None else sum(one.tx_bytes for one in networks),
        )

    async def wait_change(self, timeout_s: float) -> bool:
        self._check_open()
        check_timeout(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._containers.follow(self._changed.is_set)
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, launch: Launch) -> Observed:
        docker_id = self._containers.find((launch.container_id, launch.generation))
        if docker_id is not None:
            return await self._containers.inspect(docker_id)
        if not launch.image:
            raise Refused(
                f"container {launch.name} has no image, without which Docker runs nothing: "
                "set the image of its agent type, or use nodes with node.runtime: process",
                reason="bad_launch",
            )
        if self._pulls == "always":
            await self._images.pull(launch.image, wait_s=self._pull_wait_s)
        docker_id = await self._create(launch)
        if self._containers.find((launch.container_id, launch.generation)) is not None:
            return await self._containers.inspect(docker_id)
        try:
            return await self._run(docker_id, launch)
        except BaseException:
            await asyncio.shield(self._containers.take_back(docker_id, launch))
            raise

    async def _create(self, launch: Launch) -> str:
        try:
            return await self._created(launch)
        except _NoImageError:
            await self._images.pull(launch.image, wait_s=self._pull_wait_s)
            return await self._created(launch)

    async def _created(self, launch: Launch) -> str:
        until = "" if launch.until is None else f"{self._grant_boot()} {self._grants.shown(launch.until)}"
        body = creation(
            launch,
            home=self._records.home,
            boot=self._boot,
            until=until,
            network=self._network,
            cpus=self._cpus,
        )
        try:
            answer = await self._engine.call("POST", "/containers/create", body, query={"name": launch.name})
            return msgspec.json.decode(answer, type=_Created).id
        except EngineError as error:
            if error.status == _CONFLICT and (earlier := await self._containers.recover(launch)) is not None:
                return earlier
            if error.status == _GONE and "image" in error.message.lower() and self._pulls != "never":
                raise _NoImageError from None
            raise self._not_started(launch, error) from None
        except BaseException as error:
            if not isinstance(error, CoordinationError) or isinstance(error, Unavailable):
                await asyncio.shield(self._containers.take_back(launch.name, launch))  # it may have been created
            raise

    async def _run(self, docker_id: str, launch: Launch) -> Observed:
        key = (launch.container_id, launch.generation)
        if launch.until is not None:
            self._containers.watch(docker_id)
            if self._is_late(launch):
                # Never started: what began elsewhere meanwhile must not run twice.
                await asyncio.to_thread(self._records.mark, launch.name, ExitCause.CUT_OFF)
                self._containers.add(key, docker_id)
                return await self._containers.inspect(docker_id)
            await self._ring()
        try:
            await self._engine.call("POST", f"/containers/{docker_id}/start")
        except EngineError as error:
            raise self._not_started(launch, error) from None
        self._containers.add(key, docker_id)
        if launch.until is not None:
            await self._ring()
            if self._is_late(launch):
                await self._containers.stop(
                    docker_id, grace_s=0, force=True, kill_timeout_s=self._kill_timeout_s, cause=ExitCause.CUT_OFF
                )
        return await self._containers.inspect(docker_id)

    def _is_late(self, launch: Launch) -> bool:
        return launch.until is not None and self._clock.heard() >= launch.until

    def _not_started(self, launch: Launch, error: EngineError) -> CoordinationError:
        why = hidden(error.message, launch)
        if error.status == _GONE and "image" in why.lower():
            why = (
                f"its image {launch.image!r} is not on this node: pull it with 'docker pull' first, or do not set "
                "node.docker.pull to never"
            )
        words = f"container {launch.name} cannot be started by Docker: {why}"
        if error.status in _REFUSALS:
            about = "" if launch.command else " (it has no command, so its image must have one)"
            return Refused(words + about, reason="bad_launch")
        return Unavailable(words)

    @asynccontextmanager
    async def _starting(self, key: tuple[str, str]) -> AsyncIterator[None]:
        """Let one start of a container go on at a time, and what is done to it wait for that."""
        lock, waiting = self._starts.get(key) or (asyncio.Lock(), 0)
        self._starts[key] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            _, waiting = self._starts[key]
            if waiting > 1:
                self._starts[key] = lock, waiting - 1
            else:
                del self._starts[key]

    async def _ring(self) -> None:
        assert self._watch is not None
        await self._watch.ring()

    def _grant_boot(self) -> str:
        return self._boot if sys.platform == "linux" else "-"

    def _check_open(self) -> None:
        if not self._is_open:
            raise Unavailable("the docker runtime is not open: use it in 'async with'")

    async def _begun(self, container_id: str, generation: str) -> str:
        """Return Docker's id of a container, once a start of it that is under way has succeeded or failed."""
        self._check_open()
        key = check_key(container_id, generation)
        if key in self._starts:
            async with self._starting(key):
                pass
        return self._find(container_id, generation)

    def _find(self, container_id: str, generation: str) -> str:
        self._check_open()
        docker_id = self._containers.find(check_key(container_id, generation))
        if docker_id is None:
            raise NotFound(f"container {container_id} of generation {generation} not found on this node")
        return docker_id

    async def _release(self) -> None:
        if self._watch is not None:
            if self._containers.watches():
                self._watch.leave()
            else:
                await asyncio.to_thread(self._watch.dismiss)
            self._watch = None
        await self._images.close()
        await self._engine.__aexit__(None, None, None)
        self._containers.drop()
        self._records.close()
