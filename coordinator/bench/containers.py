"""
Measure how long containers take to run, one after the other and many at once, on the runtime of the settings.

They are of the agent type `bench` of the settings, or run `sleep` without one. On Docker each start takes turns with a
bare `docker run` of the same image, so that other load on the machine affects both.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from coordinator.bench.measure import facades_at, machine, measured_cluster, spread
from coordinator.client.client import Client
from coordinator.commands.agents import ApplyAgents
from coordinator.container import ContainerConfig, ContainerManager
from coordinator.settings.load import load
from events.agents import AgentType
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from coordinator.settings.model import Settings

TYPE = "bench"
USUAL = AgentType(command=("sleep", "600"), stop_grace_s=0.0)
ROUNDS = 3
"""So often many are started at once."""


async def run(*, starts: int, at_once: int) -> dict[str, Any]:
    """
    Measure *starts* containers one after the other, and three times *at_once* of them together.

    Returns milliseconds from the call that creates a container until it runs (`start_ms`), and seconds until all of
    those that were started together run (`at_once_s`); on Docker also those of a bare `docker run -d`, and the ratios
    of the medians.

    Raises:
        Refused: the runtime needs an image, and the settings have no agent type `bench` with one.
    """
    settings = load()
    agent = _agent(settings)
    bare = _Bare(settings, agent) if settings.node.runtime == "docker" else None
    own: list[float] = []
    theirs: list[float] = []
    own_s: list[float] = []
    theirs_s: list[float] = []
    async with measured_cluster(COORDINATOR_CONTAINER__MAX_CONTAINERS=str(10 * at_once + 10)) as cluster:
        async with Client.open(cluster.url, source="bench") as client:
            await client.execute(ApplyAgents(agents={TYPE: agent}))
        with facades_at(cluster.url):
            async with ContainerManager() as manager:
                await _started(manager)  # what is read for the first time
                for _ in range(starts):
                    own.append(await _started(manager) * 1000)
                    theirs += [await bare.started() * 1000] if bare is not None else []
                for _ in range(ROUNDS):
                    own_s.append(await _together(manager, at_once))
                    theirs_s += [await bare.together(at_once)] if bare is not None else []
    figures: dict[str, Any] = {
        "runtime": settings.node.runtime,
        "start_ms": spread(own),
        "at_once_s": round(median(own_s), 3),
    }
    if bare is not None:
        figures |= {
            "bare_ms": spread(theirs),
            "start_to_bare": round(median(own) / median(theirs), 2),
            "bare_at_once_s": round(median(theirs_s), 3),
            "at_once_to_bare": round(median(own_s) / median(theirs_s), 2),
        }
    return figures | {"machine": await machine()}


def _agent(settings: Settings) -> AgentType:
    known = settings.agents.get(TYPE)
    agent = USUAL if known is None else known.agent_type()
    if settings.node.runtime in ("docker", "oci") and not agent.image:
        msg = (
            f"node.runtime {settings.node.runtime} needs an image: name one in the settings, such as "
            f"agents: {{{TYPE}: {{image: busybox, command: [sleep, '600']}}}}"
        )
        raise Refused(msg, reason="bad_settings")
    return agent


async def _created(manager: ContainerManager) -> str:
    return await manager.create_container(ContainerConfig(agent_id="agent_of_bench", agent_type=TYPE, resources={}))


async def _started(manager: ContainerManager) -> float:
    """Create and start a container, and return the seconds until it runs; it is destroyed then."""
    began = time.perf_counter()
    container_id = await _created(manager)
    await _run(manager, container_id)
    took_s = time.perf_counter() - began
    await manager.destroy_container(container_id, force=True)
    return took_s


async def _together(manager: ContainerManager, count: int) -> float:
    began = time.perf_counter()

    async def one() -> str:
        container_id = await _created(manager)
        await _run(manager, container_id)
        return container_id

    made = await asyncio.gather(*(one() for _ in range(count)))
    took_s = time.perf_counter() - began
    await asyncio.gather(*(manager.destroy_container(container_id, force=True) for container_id in made))
    return took_s


async def _run(manager: ContainerManager, container_id: str) -> None:
    if not await manager.start_container(container_id):
        found = await manager.get_container(container_id)
        raise Unavailable(f"container {container_id} does not run: {found.reason}")


class _Bare:
    """The command line of Docker, without a coordinator."""

    def __init__(self, settings: Settings, agent: AgentType) -> None:
        program = shutil.which("docker")
        if program is None:
            raise Unavailable("there is no docker command line to compare with: install it")
        self._docker = (program, "--host", f"unix://{settings.node.docker.socket}")
        self._run = ("run", "--detach", "--network", "none", agent.image, *agent.command)

    async def started(self) -> float:
        """Run a container, and return the seconds until it runs; it is removed then."""
        began = time.perf_counter()
        docker_id = await self._call(*self._run)
        took_s = time.perf_counter() - began
        await self._call("rm", "--force", docker_id)
        return took_s

    async def together(self, count: int) -> float:
        """Run so many at once, and return the seconds until all of them run; they are removed then."""
        began = time.perf_counter()
        made = await asyncio.gather(*(self._call(*self._run) for _ in range(count)))
        took_s = time.perf_counter() - began
        await self._call("rm", "--force", *made)
        return took_s

    async def _call(self, *words: str) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._docker, *words, stdout=pipe, stderr=pipe)
        out, error = await process.communicate()
        if process.returncode:
            raise Unavailable(f"docker {words[0]} failed: {error.decode(errors='replace').strip()[:300]}")
        return out.decode().strip()
