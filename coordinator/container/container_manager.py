"""
Create, start, stop and destroy agent containers.

Calls that change a container return when the change has happened on its node, not when the command was accepted.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.app.facade import Facade, new_id
from coordinator.client.containers import until_not
from coordinator.client.follow_logs import follow_logs
from coordinator.client.nodes import ask_node
from coordinator.client.paging import listed
from coordinator.client.reads import ask_follower
from coordinator.commands.arguments import flag, text, wanted, whole
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    ListContainers,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import NodeQuestion
from coordinator.commands.reads import CountAll
from events.container import ContainerStatus, Secret
from events.errors import Refused, Unavailable, shown
from events.resources import Resources
from projections.store.port import Counts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from coordinator.client.follow_logs import LogLine
    from coordinator.commands.cluster import ClusterStats
    from projections.container import Container

COUNT_TIMEOUT_S = 3.0
"""How long statistics wait for a follower."""

log = structlog.get_logger(__name__)

NO_ROOM = "no_room"
"""The reason code when no node has room for a container."""

_S = ContainerStatus


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """
    The specification of a container.

    Args:
        agent_id: the agent that runs in it.
        agent_type: an entry of the catalogue `agents:` in the settings; `task_agent` is built in.
        resources: what it holds on its node: `cpu` in cores, `memory` in bytes, `gpu` as a count, or quantities such
            as `{"cpu": "500m", "memory": "2Gi"}`.
        environment: its environment variables. A value `{"secret": "name"}` is resolved on the node and never recorded.
        session_id: the session it serves, if any.
    """

    agent_id: str
    agent_type: str
    resources: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None

    def command(self, container_id: str) -> CreateContainer:
        """
        Return the command that creates this container.

        Raises:
            Refused: a field has the wrong type, or an amount is not a quantity.
        """
        return CreateContainer(
            container_id=container_id,
            agent_id=text("agent_id", self.agent_id),
            agent_type=text("agent_type", self.agent_type),
            resources=Resources.parse(self.resources),
            environment=_environment(self.environment),
            session_id="" if self.session_id is None else text("session_id", self.session_id),
        )


def _environment(given: Any) -> dict[str, str | Secret]:
    made: dict[str, str | Secret] = {}
    for name, value in wanted("environment", given, dict, "a dict of names to text").items():
        if isinstance(value, dict) and set(value) == {"secret"} and isinstance(value["secret"], str):
            made[text("environment name", name)] = Secret(secret=text(f"environment[{shown(name)}]", value["secret"]))
        else:
            right = 'text or {"secret": name}'
            said = f"environment[{shown(name)}]"
            made[text("environment name", name)] = text(said, wanted(said, value, str, right))
    return made


class ContainerManager(Facade):
    """The containers of the cluster."""

    async def create_container(self, config: ContainerConfig) -> str:
        """
        Place a container on a node that has room for it, and return its id. It is not started yet.

        Raises:
            Refused: the config is invalid, or no node has room; the message says what each node lacks.
        """
        wanted("config", config, ContainerConfig, "a ContainerConfig")
        made: str = await self.execute(config.command(new_id("container")))
        return made

    async def start_container(self, container_id: str) -> bool:
        """
        Start a container and wait until it runs.

        Returns False when no node has room or it does not start within `container.default_timeout` seconds.

        Raises:
            NotFound: the container does not exist.
            Refused: the container is paused, stopping or destroyed.
        """
        try:
            await self.execute(StartContainer(container_id=text("container_id", container_id)))
        except Refused as error:
            if error.reason == NO_ROOM:
                return False
            raise
        return await self._until_not(container_id, (_S.STARTING,)) is _S.RUNNING

    async def stop_container(self, container_id: str, *, force: bool = False) -> bool:
        """
        Stop a container and wait until it has stopped; with *force*, kill it at once.

        Returns False when it has not stopped within `container.default_timeout` seconds.

        Raises:
            NotFound: the container does not exist.
        """
        command = StopContainer(container_id=text("container_id", container_id), force=flag("force", force))
        await self.execute(command)
        status = await self._until_not(container_id, (_S.STARTING, _S.STOPPING, _S.RUNNING, _S.PAUSED))
        return status in {_S.STOPPED, _S.CREATED, _S.DESTROYED}

    async def pause_container(self, container_id: str) -> bool:
        """
        Freeze a running container; return False when it is not paused within `container.default_timeout` seconds.

        Raises:
            Refused: the container is not running.
            NotFound: the container does not exist.
        """
        await self.execute(PauseContainer(container_id=text("container_id", container_id)))
        return await self._until_not(container_id, (_S.RUNNING,)) is _S.PAUSED

    async def resume_container(self, container_id: str) -> bool:
        """
        Resume a paused container; return False when it does not run within `container.default_timeout` seconds.

        Raises:
            Refused: the container is not paused.
            NotFound: the container does not exist.
        """
        await self.execute(ResumeContainer(container_id=text("container_id", container_id)))
        return await self._until_not(container_id, (_S.PAUSED,)) is _S.RUNNING

    async def destroy_container(self, container_id: str, *, force: bool = False) -> bool:
        """
        Stop and remove a container and wait until it is removed; with *force*, kill it at once.

        Returns False when it is not removed within `container.default_timeout` seconds.

        Raises:
            NotFound: the container does not exist.
        """
        command = DestroyContainer(container_id=text("container_id", container_id), force=flag("force", force))
        await self.execute(command)
        return await self._until_not(container_id, tuple(set(_S) - {_S.DESTROYED})) is _S.DESTROYED

    async def get_container(self, container_id: str) -> Container:
        """Return a container with all its fields; raise `NotFound` if it does not exist."""
        found: Container = await self.execute(GetContainer(container_id=text("container_id", container_id)))
        return found

    async def get_container_status(self, container_id: str) -> ContainerStatus:
        """Return a container's status; raise `NotFound` if it does not exist."""
        return (await self.get_container(container_id)).status

    async def list_containers(self, limit: int = 100) -> list[Container]:
        """Return at most *limit* containers, newest first."""
        found: list[Container] = await listed(self, ListContainers(limit=whole("limit", limit)))
        return found

    async def get_container_logs(self, container_id: str, lines: int = 100, *, previous: bool = False) -> list[str]:
        """
        Return the last *lines* lines that a container wrote since its last start, oldest first.

        With *previous* what it wrote before that start, such as before it crashed; only the last end is kept.

        Raises:
            NotFound: the container was never started, or is destroyed; or it was not started again on this node.
            Unavailable: its node does not answer.
        """
        flag("previous", previous)
        return list(await self._ask_node(container_id, "logs", lines=whole("lines", lines), previous=previous))

    async def follow_logs(self, container_id: str, lines: int = 100) -> AsyncGenerator[LogLine]:
        """
        Yield the last *lines* lines of a container, then each further one, until it is destroyed.

        That is over its restarts, on whichever node it runs. Each item has the `text` of a line, its `generation` and
        `node_id`; one with `is_note` tells what is missing, or why no line comes. Nothing comes twice.

        Raises:
            NotFound: the container does not exist.
            Unavailable: its node does not answer the first question; later ones are repeated until it does.
            Refused: its node cannot do it: its runtime, or the release of its agent.
        """
        container_id, lines = text("container_id", container_id), whole("lines", lines)
        app = await self.opened()
        async with aclosing(follow_logs(app.client, container_id, lines, door=self)) as found:
            async for line in found:
                yield line

    async def get_resource_usage(self, container_id: str) -> dict[str, Any]:
        """
        Measure a running container on its node.

        Returns `cpu_seconds` used since the start, `memory_bytes` and `pids` (number of processes) now, and
        `network_rx_bytes` and `network_tx_bytes`, None if the runtime does not know them.

        Raises:
            NotFound: the container is not running.
            Unavailable: its node does not answer.
        """
        return dict(await self._ask_node(container_id, "usage"))

    async def get_container_stats(self) -> dict[str, Any]:
        """
        Return the numbers of containers and starts.

        The keys are `total_containers` (without destroyed ones), `running_containers`, `by_status`, and, since the
        cluster was created, `starts`, `failures` and `success_rate`: the share of starts that did not fail, 0 to 1, or
        1 before the first start. The numbers over the lifetime are those of a follower, since the coordinator forgets
        what was destroyed long ago. `is_complete` is False if no follower answered: then they are of what it still has.
        """
        stats: ClusterStats = await self.execute(GetStats())
        present = {status: count for status, count in stats.containers.items() if status != _S.DESTROYED.value}
        ever = await self._counted(stats.position)
        destroyed = ever.by_status if ever is not None else stats.containers
        starts = ever.sums["starts"] if ever is not None else stats.container_starts
        failures = ever.sums["failures"] if ever is not None else stats.container_failures
        by_status = present | {_S.DESTROYED.value: destroyed.get(_S.DESTROYED.value, 0)}
        return {
            "total_containers": sum(present.values()),
            "running_containers": present.get(_S.RUNNING.value, 0),
            "by_status": {status.value: by_status.get(status.value, 0) for status in ContainerStatus},
            "starts": starts,
            "failures": failures,
            "success_rate": max(0.0, 1.0 - failures / starts) if starts else 1.0,
            "is_complete": ever is not None,
        }

    async def _counted(self, position: str) -> Counts | None:
        """Return the counts of a follower at or after *position*; None if none answers."""
        client = (await self.opened()).client
        question = CountAll(kind="container", at_least=position)
        try:
            return await ask_follower(client, question, timeout_s=COUNT_TIMEOUT_S)
        except (Unavailable, Refused) as error:  # an older follower does not know the question
            log.warning("followers_not_asked", why=error.message)
            return None

    async def _until_not(self, container_id: str, unless: tuple[_S, ...]) -> ContainerStatus:
        """Wait while the status is one of *unless*, at most `container.default_timeout` seconds; return the status."""
        timeout_s = (await self.opened()).settings.container.default_timeout
        return (await until_not(self, container_id, unless, timeout_s)).status

    async def _ask_node(self, container_id: str, verb: str, *, previous: bool = False, **options: Any) -> Any:
        app = await self.opened()
        found = await self.get_container(container_id)
        generation = found.generation if previous else ""
        question = NodeQuestion(container_id=container_id, generation=generation, previous=previous, **options)
        return await ask_node(app.client, found.node_id, verb, question)
