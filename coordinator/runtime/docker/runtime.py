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
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import structlog

from coordinator.clock import Clock, SystemClock
from coordinator.runtime.docker.container import (
    UNTIL,
    Inspected,
    Listed,
    Stats,
    creation,
    hidden,
    key_of,
    observed_of,
    ours,
)
from coordinator.runtime.docker.engine import Engine, EngineError
from coordinator.runtime.docker.output import last_lines
from coordinator.runtime.docker.records import Records
from coordinator.runtime.docker.watch import Watch
from coordinator.runtime.launch_checks import (
    check_grace,
    check_key,
    check_launch,
    check_lines,
    check_timeout,
    check_until,
)
from coordinator.runtime.process.grants import Grants
from coordinator.runtime.process.table import boot_id
from coordinator.runtime.protocol import Launch, Lines, Observed, RuntimeState, Usage
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked

SOCKET = Path("/var/run/docker.sock")
_GONE = 404
_CONFLICT = 409
_REFUSALS = {400, 404}
_RECONNECT_S = 0.5
_ONCE = {"stream": "false", "one-shot": "true"}
_NANOS = 1_000_000_000

log = structlog.get_logger(__name__)


class _Info(msgspec.Struct, frozen=True):
    cpus: int = msgspec.field(name="NCPU", default=1)


class _Created(msgspec.Struct, frozen=True, rename="pascal"):
    id: str


class _Event(msgspec.Struct, frozen=True):
    id: str = ""


class DockerRuntime:
    """
    Runs containers on the Docker behind *socket*, in *network*; records of them are under *root*.

    Only one runtime at a time may use a root. Several roots may share one Docker. Images are not pulled.
    """

    name = "docker"

    def __init__(
        self,
        root: Path,
        *,
        cluster: str,
        socket: Path = SOCKET,
        network: str = "none",
        kill_timeout_s: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._root = root.absolute()
        self._cluster = checked(cluster, "cluster")
        self._network = network
        self._kill_timeout_s = kill_timeout_s
        self._clock = clock or SystemClock()
        self._engine = Engine(socket)
        self._records = Records(self._root)
        kind = "proc" if sys.platform == "linux" else "ps"
        self._grants = Grants(self._root, cluster=self._cluster, kind=kind, clock=self._clock)
        self._boot = boot_id()
        self._cpus = 1
        self._watch: Watch | None = None
        self._ids: dict[tuple[str, str], str] = {}
        self._known: dict[str, Observed] = {}
        """The last state of each container, by Docker's id; that of an exited one is final."""
        self._watched: set[str] = set()
        self._starts: dict[tuple[str, str], asyncio.Task[Observed]] = {}
        self._changed = asyncio.Event()
        self._events: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._events is not None:
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
            await self._adopt()
        except EngineError as error:
            await self._release()
            raise Unavailable(f"the containers of Docker at {self._engine.socket} cannot be read: {error}") from error
        except BaseException:
            await self._release()
            raise
        self._events = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starts:
            await asyncio.wait(self._starts.values())
        if self._events is not None:
            self._events.cancel()
            with suppress(asyncio.CancelledError):
                await self._events
            self._events = None
        await self._release()

    async def list(self) -> list[Observed]:
        self._check_open()
        return sorted(await self._look(), key=lambda one: one.name)

    async def start(self, launch: Launch) -> Observed:
        self._check_open()
        check_launch(launch, cluster=self._cluster, images=True)
        key = (launch.container_id, launch.generation)
        task = self._starts.get(key)
        if task is None:
            # A task of its own: a caller who gives up leaves nothing half created.
            task = self._starts[key] = asyncio.create_task(self._start(launch))
            task.add_done_callback(lambda _: self._starts.pop(key, None))
        return await asyncio.shield(task)

    async def grant(self, until: float) -> None:
        self._check_open()
        try:
            self._grants.write(check_until(until))
        except OSError as error:
            raise Unavailable(f"the grant of {self._root} cannot be written: {error}") from error
        if self._watches():
            await self._keep()  # it may have been killed since

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
        await self._stop(await self._begun(container_id, generation), grace_s=grace_s, force=force, cause=cause)

    async def pause(self, container_id: str, generation: str) -> None:
        await self._bring_to(RuntimeState.PAUSED, "pause", container_id, generation)

    async def resume(self, container_id: str, generation: str) -> None:
        await self._bring_to(RuntimeState.RUNNING, "unpause", container_id, generation)

    async def remove(self, container_id: str, generation: str) -> None:
        docker_id = await self._begun(container_id, generation)
        observed = await self._inspect(docker_id)
        if observed.state is not RuntimeState.EXITED:
            raise Refused(
                f"container {observed.name} has not exited and cannot be removed: stop it first", reason="not_exited"
            )
        await self._delete(docker_id)
        self._forget(docker_id)

    async def logs(self, container_id: str, generation: str, lines: int) -> Lines:
        check_lines(lines)
        docker_id = self._find(container_id, generation)
        try:
            async with self._engine.stream(
                "GET", f"/containers/{docker_id}/logs", stdout=1, stderr=1, tail=lines
            ) as chunks:
                return await last_lines(chunks, lines)
        except EngineError as error:
            raise self._failed(docker_id, error) from error

    async def usage(self, container_id: str, generation: str) -> Usage:
        docker_id = self._find(container_id, generation)
        observed = await self._inspect(docker_id)
        if observed.state is RuntimeState.EXITED:
            raise NotFound(f"container {observed.name} is not running, so it has no usage")
        try:
            stats = await self._engine.get(
                f"/containers/{docker_id}/stats", Stats, **{"stream": "false", "one-shot": "true"}
            )
        except EngineError as error:
            raise self._failed(docker_id, error) from error
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
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, launch: Launch) -> Observed:
        docker_id = self._ids.get((launch.container_id, launch.generation))
        if docker_id is not None:
            return await self._inspect(docker_id)
        if not launch.image:
            raise Refused(
                f"container {launch.name} has no image, without which Docker runs nothing: "
                "set the image of its agent type, or use nodes with node.runtime: process",
                reason="bad_launch",
            )
        docker_id = await self._create(launch)
        try:
            return await self._run(docker_id, launch)
        except BaseException:
            await asyncio.shield(self._undo(docker_id, launch))
            raise

    async def _create(self, launch: Launch) -> str:
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
            answer = await self._engine.call("POST", "/containers/create", body, name=launch.name)
            return msgspec.json.decode(answer, type=_Created).id
        except EngineError as error:
            raise self._not_started(launch, error) from None
        except Unavailable:
            await self._undo(launch.name, launch)  # it may have been created all the same
            raise

    async def _run(self, docker_id: str, launch: Launch) -> Observed:
        key = (launch.container_id, launch.generation)
        if launch.until is not None:
            self._watched.add(docker_id)
            if self._is_late(launch):
                # Never started: what began elsewhere meanwhile must not run twice.
                await asyncio.to_thread(self._records.mark, launch.name, ExitCause.CUT_OFF)
                self._ids[key] = docker_id
                return await self._inspect(docker_id)
            await self._keep()
        try:
            await self._engine.call("POST", f"/containers/{docker_id}/start")
        except EngineError as error:
            raise self._not_started(launch, error) from None
        self._ids[key] = docker_id
        if launch.until is not None:
            await self._keep()
            if self._is_late(launch):
                await self._stop(docker_id, grace_s=0, force=True, cause=ExitCause.CUT_OFF)
        return await self._inspect(docker_id)

    def _is_late(self, launch: Launch) -> bool:
        return launch.until is not None and self._clock.heard() >= launch.until

    async def _undo(self, docker_id: str, launch: Launch) -> None:
        """Remove what a start has left that failed."""
        self._ids.pop((launch.container_id, launch.generation), None)
        self._known.pop(docker_id, None)
        self._watched.discard(docker_id)
        try:
            found = await self._engine.get(f"/containers/{docker_id}/json", Inspected)
            if found.labels.get("coordinator.home") == self._records.home:
                await self._engine.call("DELETE", f"/containers/{found.id}", v=1, force=1)
        except (EngineError, CoordinationError) as error:
            if not (isinstance(error, EngineError) and error.status == _GONE):
                log.warning("container_start_not_undone", name=launch.name, error=str(error))

    def _not_started(self, launch: Launch, error: EngineError) -> CoordinationError:
        why = hidden(error.message, launch)
        if error.status == _GONE and "image" in why.lower():
            why = f"its image {launch.image!r} is not on this node: pull it with 'docker pull' first"
        words = f"container {launch.name} cannot be started by Docker: {why}"
        if error.status in _REFUSALS:
            about = "" if launch.command else " (it has no command, so its image must have one)"
            return Refused(words + about, reason="bad_launch")
        return Unavailable(words)

    # --- what there is ------------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        """Adopt what earlier runtimes of this root have started; what they did not get to start is removed."""
        found = await self._containers()
        names = set()
        for one in found:
            seen = await self._engine.get(f"/containers/{one.id}/json", Inspected)
            observed = self._understood(seen)
            if observed is None:
                await self._delete(one.id)
                log.info("container_start_discarded", name=seen.name.removeprefix("/"))
                continue
            names.add(observed.name)
            self._ids[key_of(seen.labels)] = one.id
            self._known[one.id] = observed
            if UNTIL in seen.labels:
                self._watched.add(one.id)
            log.info("container_adopted", name=observed.name, running=observed.state is not RuntimeState.EXITED)
        self._records.forget_all_but(names)
        if self._watches():
            await self._keep()

    async def _containers(self) -> list[Listed]:
        filters = ours(cluster=self._cluster, home=self._records.home)
        return await self._engine.get("/containers/json", list[Listed], all="true", filters=filters)

    async def _look(self) -> list[Observed]:
        """Ask Docker for all containers; only those whose state is new are inspected."""
        try:
            found = await self._containers()
        except EngineError as error:
            raise Unavailable(f"the containers of Docker at {self._engine.socket} cannot be read: {error}") from error
        ids = set(self._ids.values())
        seen = []
        for one in found:
            if one.id not in ids:
                continue  # it is being started, or removed
            known = self._known.get(one.id)
            if known is not None and (known.state is RuntimeState.EXITED or known.state == one.state):
                seen.append(self._with_cause(known))
                continue
            with suppress(NotFound):
                seen.append(await self._inspect(one.id))
        listed = {one.id for one in found}
        for docker_id in ids - listed:
            self._forget(docker_id)  # somebody else has removed it
        return seen

    async def _inspect(self, docker_id: str) -> Observed:
        """Return the state of a container now, and wake the waiter if it has exited."""
        known = self._known.get(docker_id)
        if known is not None and known.state is RuntimeState.EXITED:
            return known
        try:
            seen = await self._engine.get(f"/containers/{docker_id}/json", Inspected)
        except EngineError as error:
            raise self._failed(docker_id, error) from error
        observed = self._understood(seen)
        if observed is None:
            raise NotFound(f"container {seen.name.removeprefix('/')} has not been started")
        before = self._known.get(docker_id)
        if before is not None and before.state is RuntimeState.EXITED:
            return before  # seen meanwhile
        self._known[docker_id] = observed
        if observed.state is RuntimeState.EXITED:
            log.info(
                "container_exited",
                name=observed.name,
                exit_code=observed.exit_code,
                reason=observed.reason,
                cause=observed.cause,
            )
            self._changed.set()
        return observed

    def _understood(self, seen: Inspected) -> Observed | None:
        return observed_of(seen, cause=self._records.cause(seen.name.removeprefix("/")), boot=self._boot)

    def _with_cause(self, known: Observed) -> Observed:
        if known.cause or known.state is RuntimeState.EXITED:
            return known
        return msgspec.structs.replace(known, cause=self._records.cause(known.name))

    async def _follow(self) -> None:
        """Follow the exits that Docker reports; after each new connection look at everything."""
        filters = msgspec.json.decode(ours(cluster=self._cluster, home=self._records.home), type=dict[str, list[str]])
        wanted = msgspec.json.encode({**filters, "type": ["container"], "event": ["die"]}).decode()
        while True:
            try:
                async with self._engine.stream("GET", "/events", filters=wanted) as chunks:
                    await self._look()
                    rest = b""
                    async for chunk in chunks:
                        *lines, rest = (rest + chunk).split(b"\n")
                        for line in lines:
                            await self._heard(line)
            except (EngineError, CoordinationError, msgspec.MsgspecError) as error:
                log.warning("docker_events_interrupted", error=str(error))
            await asyncio.sleep(_RECONNECT_S)

    async def _heard(self, line: bytes) -> None:
        if line.strip():
            docker_id = msgspec.json.decode(line, type=_Event).id
            if docker_id in self._known:
                with suppress(NotFound):
                    await self._inspect(docker_id)

    # --- acting -------------------------------------------------------------------------------------------------------

    async def _stop(self, docker_id: str, *, grace_s: float, force: bool, cause: ExitCause) -> None:
        observed = await self._inspect(docker_id)
        if observed.state is RuntimeState.EXITED:
            return
        await self._mark(docker_id, observed, cause)
        if not force:
            if observed.state is RuntimeState.PAUSED:
                await self._command(docker_id, "unpause")
            await self._command(docker_id, "kill", signal="SIGTERM")
            if await self._ended(docker_id, grace_s):
                return
        await self._command(docker_id, "kill", signal="SIGKILL")
        if not await self._ended(docker_id, self._kill_timeout_s):
            raise Unavailable(f"container {observed.name} still runs {self._kill_timeout_s:g} s after SIGKILL")

    async def _bring_to(self, wanted: RuntimeState, verb: str, container_id: str, generation: str) -> None:
        docker_id = await self._begun(container_id, generation)
        observed = await self._inspect(docker_id)
        if observed.state is not wanted and observed.state is not RuntimeState.EXITED:
            await self._command(docker_id, verb)
            observed = await self._inspect(docker_id)
        if observed.state is RuntimeState.EXITED:
            raise Refused(
                f"container {observed.name} has exited: only running containers can be paused or resumed",
                reason="has_exited",
            )
        if observed.state is not wanted:
            raise Unavailable(f"container {observed.name} is still {observed.state} after {verb!r}")

    async def _command(self, docker_id: str, verb: str, **parameters: str) -> None:
        """Send a command that does nothing if the container is no longer in the state for it."""
        try:
            await self._engine.call("POST", f"/containers/{docker_id}/{verb}", **parameters)
        except EngineError as error:
            if error.status != _CONFLICT and "not paused" not in error.message:
                raise self._failed(docker_id, error) from error

    async def _ended(self, docker_id: str, timeout_s: float) -> bool:
        """Wait until all processes of a container are gone; return False after *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._engine.call(
                    "POST", f"/containers/{docker_id}/wait", timeout_s=None, condition="not-running"
                )
        except TimeoutError:
            pass
        except EngineError as error:
            raise self._failed(docker_id, error) from error
        return (await self._inspect(docker_id)).state is RuntimeState.EXITED

    async def _mark(self, docker_id: str, observed: Observed, cause: ExitCause) -> None:
        try:
            marked = await asyncio.to_thread(self._records.mark, observed.name, cause)
        except (OSError, RuntimeError) as error:  # RuntimeError: no further thread
            # A full disk must not keep a container alive; it is then reported as if nobody had ended it.
            log.warning("container_cause_not_recorded", name=observed.name, cause=cause.value, error=str(error))
            return
        known = self._known.get(docker_id)
        if known is not None and known.state is not RuntimeState.EXITED:
            self._known[docker_id] = msgspec.structs.replace(known, cause=marked)

    async def _delete(self, docker_id: str) -> None:
        try:
            await self._engine.call("DELETE", f"/containers/{docker_id}", v=1)
        except EngineError as error:
            if error.status != _GONE:
                raise self._failed(docker_id, error) from error

    async def _keep(self) -> None:
        assert self._watch is not None
        await self._watch.ring()

    def _watches(self) -> bool:
        """Return whether a container runs that needs a grant."""
        living = (self._known.get(one) for one in self._watched)
        return any(one is None or one.state is not RuntimeState.EXITED for one in living)

    # --- small parts --------------------------------------------------------------------------------------------------

    def _grant_boot(self) -> str:
        return self._boot if sys.platform == "linux" else "-"

    def _check_open(self) -> None:
        if self._events is None:
            raise Unavailable("the docker runtime is not open: use it in 'async with'")

    async def _begun(self, container_id: str, generation: str) -> str:
        """Return Docker's id of a container, once a start of it that is under way has succeeded or failed."""
        self._check_open()
        starting = self._starts.get(check_key(container_id, generation))
        if starting is not None:
            await asyncio.wait([starting])
        return self._find(container_id, generation)

    def _find(self, container_id: str, generation: str) -> str:
        self._check_open()
        docker_id = self._ids.get(check_key(container_id, generation))
        if docker_id is None:
            raise NotFound(f"container {container_id} of generation {generation} not found on this node")
        return docker_id

    def _failed(self, docker_id: str, error: EngineError) -> CoordinationError:
        known = self._known.get(docker_id)
        name = known.name if known else docker_id[:12]
        if error.status == _GONE:
            self._forget(docker_id)
            return NotFound(f"container {name} not found on this node: Docker has it no longer")
        return Unavailable(f"Docker cannot do this with container {name}: {error}")

    def _forget(self, docker_id: str) -> None:
        known = self._known.pop(docker_id, None)
        self._watched.discard(docker_id)
        self._ids = {key: one for key, one in self._ids.items() if one != docker_id}
        if known is not None:
            with suppress(OSError):
                self._records.forget(known.name)

    async def _release(self) -> None:
        if self._watch is not None:
            if self._watches():
                self._watch.leave()
            else:
                await asyncio.to_thread(self._watch.dismiss)
            self._watch = None
        await self._engine.__aexit__(None, None, None)
        self._ids.clear()
        self._known.clear()
        self._watched.clear()
        self._records.close()
