"""
Create, start, stop and destroy agent containers.

Calls that change a container return when the change has happened on its node, not when it was ordered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.app.facade import Facade, flag, new_id, text, wanted, whole
from coordinator.client.nodes import ask_node
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
from events.container import ContainerStatus, Secret
from events.errors import Refused
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.cluster import ClusterStats
    from projections.container import Container

WAIT_S = 20.0
"""One question waits so long at the coordinator; longer waits are asked again."""

NO_ROOM = "no_room"
"""The reason why a container is refused that no node has room for."""

_S = ContainerStatus


@dataclass(frozen=True, kw_only=True)
class ContainerConfig:
    """
    What a container is to be.

    Args:
        agent_id: the agent that lives in it.
        agent_type: an entry of the settings' catalogue `agents:`; `task_agent` is built in.
        resources: what it holds on its node, such as `{"cpu": "2", "memory": "2Gi"}`.
        environment: its variables; a value `{"secret": "name"}` is resolved on the node and never recorded.
        session_id: the session it serves, if any.
    """

    agent_id: str
    agent_type: str
    resources: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    session_id: str | None = None

    def command(self, container_id: str) -> CreateContainer:
        """
        Make the order that creates this container.

        Raises:
            Refused: a part of it is of the wrong type or no quantity.
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
            made[text("environment name", name)] = Secret(secret=value["secret"])
        else:
            right = 'text or {"secret": name}'
            made[text("environment name", name)] = wanted(f"environment[{name!r}]", value, str, right)
    return made


class ContainerManager(Facade):
    """The containers of the cluster."""

    async def create_container(self, config: ContainerConfig) -> str:
        """
        Place a container on a node with room and give its id.

        Raises:
            Refused: the config is wrong, or no node has room; says which node lacks what.
        """
        wanted("config", config, ContainerConfig, "a ContainerConfig")
        made: str = await self.execute(config.command(new_id("container")))
        return made

    async def start_container(self, container_id: str) -> bool:
        """
        Start a container and wait until it runs; False when it does not fit or does not start.

        Raises:
            NotFound: there is no such container.
            Refused: it is paused, stopping or destroyed.
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
        Stop a container and wait until it has stopped, at once when *force*; False when it did not stop in time.

        Raises:
            NotFound: there is no such container.
        """
        order = StopContainer(container_id=text("container_id", container_id), force=flag("force", force))
        await self.execute(order)
        status = await self._until_not(container_id, (_S.STARTING, _S.STOPPING, _S.RUNNING, _S.PAUSED))
        return status in {_S.STOPPED, _S.CREATED, _S.DESTROYED}

    async def pause_container(self, container_id: str) -> bool:
        """
        Freeze a running container; False when that did not happen in time.

        Raises:
            Refused: it does not run. NotFound: there is none.
        """
        await self.execute(PauseContainer(container_id=text("container_id", container_id)))
        return await self._until_not(container_id, (_S.RUNNING,)) is _S.PAUSED

    async def resume_container(self, container_id: str) -> bool:
        """
        Let a paused container run on; False when that did not happen in time.

        Raises:
            Refused: it is not paused. NotFound: there is none.
        """
        await self.execute(ResumeContainer(container_id=text("container_id", container_id)))
        return await self._until_not(container_id, (_S.PAUSED,)) is _S.RUNNING

    async def destroy_container(self, container_id: str, *, force: bool = False) -> bool:
        """
        Stop and remove a container and wait until it is gone, at once when *force*; False when it was not in time.

        Raises:
            NotFound: there is no such container.
        """
        order = DestroyContainer(container_id=text("container_id", container_id), force=flag("force", force))
        await self.execute(order)
        return await self._until_not(container_id, tuple(set(_S) - {_S.DESTROYED})) is _S.DESTROYED

    async def get_container(self, container_id: str) -> Container:
        """Give all that is known of a container; raises `NotFound`."""
        found: Container = await self.execute(GetContainer(container_id=text("container_id", container_id)))
        return found

    async def get_container_status(self, container_id: str) -> ContainerStatus:
        """Give a container's status; raises `NotFound`."""
        return (await self.get_container(container_id)).status

    async def list_containers(self, limit: int = 100) -> list[Container]:
        """Give containers, newest first."""
        found: list[Container] = await self.execute(ListContainers(limit=whole("limit", limit)))
        return found

    async def get_container_logs(self, container_id: str, lines: int = 100) -> list[str]:
        """
        Give the last lines a container has written, oldest first.

        Raises:
            NotFound: it was never started, or is gone. Unavailable: its node does not answer.
        """
        return list(await self._ask_node(container_id, "logs", lines=whole("lines", lines)))

    async def get_resource_usage(self, container_id: str) -> dict[str, Any]:
        """
        Measure a running container: `cpu_seconds` used so far, `memory_bytes` and `pids` now, network bytes if known.

        Raises:
            NotFound: it does not run. Unavailable: its node does not answer.
        """
        return dict(await self._ask_node(container_id, "usage"))

    async def get_container_stats(self) -> dict[str, Any]:
        """
        Count containers.

        `total_containers` (without the destroyed), `running_containers`, `by_status`, and `success_rate`, the share of
        starts that did not fail, 0 to 1; 1 when nothing was started.
        """
        stats: ClusterStats = await self.execute(GetStats())
        standing = {status: count for status, count in stats.containers.items() if status != _S.DESTROYED.value}
        starts = stats.container_starts
        return {
            "total_containers": sum(standing.values()),
            "running_containers": standing.get(_S.RUNNING.value, 0),
            "by_status": {status.value: stats.containers.get(status.value, 0) for status in ContainerStatus},
            "starts": starts,
            "failures": stats.container_failures,
            "success_rate": max(0.0, 1.0 - stats.container_failures / starts) if starts else 1.0,
        }

    async def _until_not(self, container_id: str, unless: tuple[_S, ...]) -> ContainerStatus:
        """Wait until the container's status is none of *unless*, for `container.default_timeout` at most."""
        left_s = (await self.opened()).settings.container.default_timeout
        while True:
            portion_s = min(left_s, WAIT_S)
            left_s -= portion_s
            found = await self.execute(GetContainer(container_id=container_id, unless=unless, wait_s=portion_s))
            status: ContainerStatus = found.status
            if status not in unless or left_s <= 0:
                return status

    async def _ask_node(self, container_id: str, verb: str, **options: Any) -> Any:
        app = await self.opened()
        found = await self.get_container(container_id)
        question = NodeQuestion(container_id=container_id, **options)
        return await ask_node(app.client, found.node_id, verb, question)
