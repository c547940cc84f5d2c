"""
The containers of one node as Docker has them: found, followed until they end, and acted on.

All of it can be read again from Docker and the records, so the object may be dropped at any time. It touches only
containers with the labels of its cluster and home.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.runtime.docker.container import (
    CLUSTER,
    HOME,
    UNTIL,
    Inspected,
    ListedContainer,
    key_of,
    observed_of,
    ours,
)
from coordinator.runtime.docker.engine import EngineError
from coordinator.runtime.protocol import Observed, RuntimeState
from events.container import ExitCause
from events.errors import CoordinationError, NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.runtime.docker.engine import DockerEngine
    from coordinator.runtime.docker.records import Records
    from coordinator.runtime.protocol import Launch

_GONE = 404
_CONFLICT = 409
_RECONNECT_S = 0.5

log = structlog.get_logger(__name__)


_ENDING_SIGNALS = {str(int(one)) for one in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)}


class _Actor(msgspec.Struct, frozen=True, rename="pascal"):
    attributes: dict[str, str] = {}


class _Event(msgspec.Struct, frozen=True):
    id: str = ""
    action: str = msgspec.field(name="Action", default="")
    actor: _Actor = msgspec.field(name="Actor", default=_Actor())


class Containers:
    """Knows the containers of *cluster* and of the home of *records*; `on_exit` is called for each that has ended."""

    def __init__(
        self, engine: DockerEngine, records: Records, *, cluster: str, boot: str, on_exit: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._records = records
        self._cluster = cluster
        self._boot = boot
        self._on_exit = on_exit
        self._ids: dict[tuple[str, str], str] = {}
        self._known: dict[str, Observed] = {}
        """The last state of each container, by Docker's id; that of an exited one is final."""
        self._watched: set[str] = set()
        self._unwritten: dict[str, str] = {}
        """Causes that are not on the disk yet, or that a full one did not take, by name."""

    def drop(self) -> None:
        """Forget all of them; they stay as they are."""
        self._ids.clear()
        self._known.clear()
        self._watched.clear()

    def find(self, key: tuple[str, str]) -> str | None:
        """Return Docker's id of a container; None if it is unknown."""
        return self._ids.get(key)

    def add(self, key: tuple[str, str], docker_id: str) -> None:
        """Follow a container that is being started now."""
        self._ids[key] = docker_id

    def watch(self, docker_id: str) -> None:
        """Note that a container runs only while it has a grant."""
        self._watched.add(docker_id)

    async def take_back(self, docker_id: str, launch: Launch) -> None:
        """Remove what a start has left that failed; *docker_id* may be a name."""
        self._ids.pop((launch.container_id, launch.generation), None)
        self._known.pop(docker_id, None)
        self._watched.discard(docker_id)
        try:
            found = await self._engine.get(f"/containers/{docker_id}/json", Inspected)
            if self.is_ours(found):
                await self._engine.call("DELETE", f"/containers/{found.id}", query={"v": 1, "force": 1})
                self._records.forget(launch.name)
        except (EngineError, CoordinationError, OSError) as error:
            if not (isinstance(error, EngineError) and error.status == _GONE):
                log.warning("container_start_not_undone", name=launch.name, error=str(error))

    async def recover(self, launch: Launch) -> str | None:
        """
        Return Docker's id of a launch whose name is taken by an earlier start of it, of which no answer came.

        One that never began is removed. None: the name is free now, or another's.
        """
        try:
            found = await self._engine.get(f"/containers/{launch.name}/json", Inspected)
        except EngineError:
            return None
        if not self.is_ours(found):
            return None
        observed = self._understood(found)
        if observed is None:
            await self.delete(found.id)
            return None
        self._ids[key_of(found.labels)] = found.id
        if UNTIL in found.labels:
            self._watched.add(found.id)
        return found.id

    def is_ours(self, seen: Inspected) -> bool:
        """Return whether a container is of this cluster and home."""
        return (seen.labels.get(CLUSTER), seen.labels.get(HOME)) == (self._cluster, self._records.home)

    async def adopt(self) -> None:
        """Adopt what earlier runtimes of this root have started; what they did not get to start is removed."""
        found = await self._containers()
        names = set()
        for one in found:
            seen = await self._engine.get(f"/containers/{one.id}/json", Inspected)
            observed = self._understood(seen)
            if observed is None:
                await self.delete(one.id)
                log.info("container_start_discarded", name=seen.name.removeprefix("/"))
                continue
            names.add(observed.name)
            self._ids[key_of(seen.labels)] = one.id
            self._known[one.id] = observed
            if UNTIL in seen.labels:
                self._watched.add(one.id)
            log.info("container_adopted", name=observed.name, running=observed.state is not RuntimeState.EXITED)
        self._records.forget_all_but(names)

    async def _containers(self) -> list[ListedContainer]:
        filters = ours(cluster=self._cluster, home=self._records.home)
        return await self._engine.get("/containers/json", list[ListedContainer], {"all": "true", "filters": filters})

    async def look(self) -> list[Observed]:
        """Ask Docker for all containers; only those whose state is new are inspected."""
        ids = set(self._ids.values())  # before the question: one that is started meanwhile is not in the answer
        try:
            found = await self._containers()
        except EngineError as error:
            raise Unavailable(f"the containers of Docker at {self._engine.socket} cannot be read: {error}") from error
        seen = []
        for one in found:
            if one.id not in ids:
                continue  # it is being started, or removed
            known = self._known.get(one.id)
            if known is not None and (known.state is RuntimeState.EXITED or known.state == one.state):
                seen.append(self._with_cause(known))
                continue
            with suppress(NotFound):
                seen.append(await self.inspect(one.id))
        listed = {one.id for one in found}
        for docker_id in ids - listed:
            self.forget(docker_id)  # somebody else has removed it
        return seen

    async def inspect(self, docker_id: str) -> Observed:
        """Return the state of a container now, and wake the waiter if it has exited."""
        known = self._known.get(docker_id)
        if known is not None and known.state is RuntimeState.EXITED:
            return known
        try:
            seen = await self._engine.get(f"/containers/{docker_id}/json", Inspected)
        except EngineError as error:
            raise self.failed(docker_id, error) from error
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
            self._on_exit()
        return observed

    def _understood(self, seen: Inspected) -> Observed | None:
        return observed_of(seen, cause=self._cause(seen.name.removeprefix("/")), boot=self._boot)

    def _cause(self, name: str) -> str:
        return self._records.cause(name) or self._unwritten.get(name, "")

    def _with_cause(self, known: Observed) -> Observed:
        if known.cause or known.state is RuntimeState.EXITED:
            return known
        return msgspec.structs.replace(known, cause=self._cause(known.name))

    async def follow(self, until: Callable[[], bool]) -> None:
        """
        Follow the exits that Docker reports, *until* it is true.

        What has ended before is found by a look at all of them once the connection stands, so nothing is missed.
        """
        filters = msgspec.json.decode(ours(cluster=self._cluster, home=self._records.home), type=dict[str, list[str]])
        wanted = msgspec.json.encode({**filters, "type": ["container"], "event": ["die", "kill"]}).decode()
        while not until():
            try:
                async with self._engine.stream("GET", "/events", query={"filters": wanted}) as chunks:
                    await self.look()
                    rest = b""
                    while not until():
                        *lines, rest = (rest + await anext(chunks)).split(b"\n")
                        for line in lines:
                            await self._heard(line)
            except (EngineError, CoordinationError, msgspec.MsgspecError, StopAsyncIteration) as error:
                log.warning("docker_events_interrupted", error=str(error))
                await asyncio.sleep(_RECONNECT_S)

    async def _heard(self, line: bytes) -> None:
        event = msgspec.json.decode(line, type=_Event) if line.strip() else _Event()
        known = self._known.get(event.id)
        if known is None or known.state is RuntimeState.EXITED:
            return
        if event.action == "kill":
            # Such an end is not the command's own, even with exit code 0, unless it is ours; then it has a cause.
            if event.actor.attributes.get("signal") in _ENDING_SIGNALS and not self._cause(known.name):
                self._unwritten[known.name] = ExitCause.CRASHED.value
                await self._mark(event.id, known, ExitCause.CRASHED)
            return
        with suppress(NotFound):
            await self.inspect(event.id)

    # --- acting -------------------------------------------------------------------------------------------------------

    async def stop(
        self, docker_id: str, *, grace_s: float, force: bool, kill_timeout_s: float, cause: ExitCause
    ) -> None:
        """Record the *cause*, send SIGTERM, wait *grace_s*, send SIGKILL; return when all its processes are gone."""
        observed = await self.inspect(docker_id)
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
        if not await self._ended(docker_id, kill_timeout_s):
            raise Unavailable(f"container {observed.name} still runs {kill_timeout_s:g} s after SIGKILL")

    async def bring_to(self, wanted: RuntimeState, verb: str, docker_id: str) -> None:
        """Send *verb* unless it is in the state *wanted*; raises `Refused` when it has exited."""
        observed = await self.inspect(docker_id)
        if observed.state is not wanted and observed.state is not RuntimeState.EXITED:
            await self._command(docker_id, verb)
            observed = await self.inspect(docker_id)
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
            await self._engine.call("POST", f"/containers/{docker_id}/{verb}", query=parameters)
        except EngineError as error:
            if error.status != _CONFLICT and "not paused" not in error.message:
                raise self.failed(docker_id, error) from error

    async def _ended(self, docker_id: str, timeout_s: float) -> bool:
        """Wait until all processes of a container are gone; return False after *timeout_s*."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._engine.call(
                    "POST", f"/containers/{docker_id}/wait", query={"condition": "not-running"}, timeout_s=None
                )
        except TimeoutError:
            pass
        except EngineError as error:
            raise self.failed(docker_id, error) from error
        return (await self.inspect(docker_id)).state is RuntimeState.EXITED

    async def _mark(self, docker_id: str, observed: Observed, cause: ExitCause) -> None:
        try:
            marked = await asyncio.to_thread(self._records.mark, observed.name, cause)
        except (OSError, RuntimeError) as error:  # RuntimeError: no further thread
            # A full disk must not keep a container alive. Only a successor of this process could not know the cause.
            self._unwritten.setdefault(observed.name, cause.value)
            log.warning("container_cause_not_recorded", name=observed.name, cause=cause.value, error=str(error))
            marked = self._cause(observed.name)
        known = self._known.get(docker_id)
        if known is not None and known.state is not RuntimeState.EXITED:
            self._known[docker_id] = msgspec.structs.replace(known, cause=marked)

    async def delete(self, docker_id: str) -> None:
        """Remove an exited container; one that is gone already is fine."""
        try:
            await self._engine.call("DELETE", f"/containers/{docker_id}", query={"v": 1})
        except EngineError as error:
            if error.status != _GONE:
                raise self.failed(docker_id, error) from error

    def failed(self, docker_id: str, error: EngineError) -> CoordinationError:
        """Return what an error of Docker means; forget a container that it has no longer."""
        known = self._known.get(docker_id)
        name = known.name if known else docker_id[:12]
        if error.status == _GONE:
            self.forget(docker_id)
            return NotFound(f"container {name} not found on this node: Docker has it no longer")
        return Unavailable(f"Docker cannot do this with container {name}: {error}")

    def forget(self, docker_id: str) -> None:
        """Forget a container that is gone, and its records."""
        known = self._known.pop(docker_id, None)
        self._watched.discard(docker_id)
        self._ids = {key: one for key, one in self._ids.items() if one != docker_id}
        if known is not None:
            self._unwritten.pop(known.name, None)
            with suppress(OSError):
                self._records.forget(known.name)

    def watches(self) -> bool:
        """Return whether a container runs that needs a grant."""
        living = (self._known.get(one) for one in self._watched)
        return any(one is None or one.state is not RuntimeState.EXITED for one in living)
