"""One container as an object: its life cycle, resource usage and logs."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self

from coordinator.commands.arguments import text, wanted
from coordinator.container.container_manager import NO_ROOM, ContainerConfig, ContainerManager
from events.container import ContainerStatus
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from coordinator.app.app import App
    from coordinator.client.follow_logs import LogLine

RUNS = frozenset({ContainerStatus.RUNNING, ContainerStatus.PAUSED})


class AgentContainer:
    """
    The container with the id *container_id*. `start` creates it from *config* if it does not exist yet.

    Args:
        container_id: the id of the container.
        config: what to create.
        app: the app to use; by default, the app of the event loop.

    Raises:
        Refused: an argument has the wrong type.
    """

    def __init__(self, container_id: str, config: ContainerConfig, app: App | None = None) -> None:
        self.container_id = text("container_id", container_id)
        self.config: ContainerConfig = wanted("config", config, ContainerConfig, "a ContainerConfig")
        self._manager = ContainerManager(app)

    async def start(self) -> bool:
        """
        Start the container, creating it if needed, and wait until it runs.

        Returns False when no node has room or it does not start within `container.default_timeout` seconds.

        Raises:
            Refused: the config is invalid, or the container is paused, stopping or destroyed.
        """
        try:
            return await self._manager.start_container(self.container_id)
        except NotFound:
            if not await self._create():
                return False
            return await self._manager.start_container(self.container_id)

    async def stop(self, *, force: bool = False) -> bool:
        """
        Stop the container and wait until it has stopped; with *force*, kill it at once.

        Returns False when it has not stopped within `container.default_timeout` seconds.

        Raises:
            NotFound: the container does not exist.
        """
        return await self._manager.stop_container(self.container_id, force=force)

    async def pause(self) -> bool:
        """
        Freeze the running container; return False when it is not paused within `container.default_timeout` seconds.

        Raises:
            Refused: the container is not running.
            NotFound: the container does not exist.
        """
        return await self._manager.pause_container(self.container_id)

    async def resume(self) -> bool:
        """
        Resume the paused container; return False when it does not run within `container.default_timeout` seconds.

        Raises:
            Refused: the container is not paused.
            NotFound: the container does not exist.
        """
        return await self._manager.resume_container(self.container_id)

    async def destroy(self, *, force: bool = False) -> bool:
        """
        Stop and remove the container; with *force*, kill it at once.

        Returns False when it is not removed within `container.default_timeout` seconds.

        Raises:
            NotFound: the container does not exist.
        """
        return await self._manager.destroy_container(self.container_id, force=force)

    async def get_status(self) -> ContainerStatus:
        """Return the container's status; raise `NotFound` if it does not exist."""
        return await self._manager.get_container_status(self.container_id)

    async def get_resource_usage(self) -> dict[str, Any]:
        """
        Return the container's resource usage, zeros if it is not running; see `ContainerManager.get_resource_usage`.

        Raises:
            NotFound: the container does not exist.
            Unavailable: its node does not answer.
        """
        try:
            return await self._manager.get_resource_usage(self.container_id)
        except NotFound:
            if (await self.get_status()) in RUNS:
                raise
            return {"cpu_seconds": 0.0, "memory_bytes": 0, "pids": 0}

    async def get_logs(self, lines: int = 100, *, previous: bool = False) -> list[str]:
        """
        Return the last *lines* lines that the container wrote since its last start, oldest first.

        With *previous* what it wrote before that start, such as before it crashed. Returns [] if the container was
        never started, is destroyed, or has not been started again.

        Raises:
            NotFound: the container does not exist.
            Unavailable: its node does not answer.
        """
        try:
            return await self._manager.get_container_logs(self.container_id, lines=lines, previous=previous)
        except NotFound:
            if (await self.get_status()) in RUNS and not previous:
                raise
            return []

    async def follow_logs(self, lines: int = 100) -> AsyncGenerator[LogLine]:
        """
        Yield the last *lines* lines of the container, then each further one; see `ContainerManager.follow_logs`.

        Raises:
            NotFound: the container does not exist.
            Unavailable: its node does not answer the first question.
            Refused: its node cannot do it.
        """
        async with aclosing(self._manager.follow_logs(self.container_id, lines)) as found:
            async for line in found:
                yield line

    async def close(self) -> None:
        """Release the connection. The container keeps running."""
        await self._manager.close()

    async def __aenter__(self) -> Self:
        await self._manager.initialize()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _create(self) -> bool:
        try:
            await self._manager.execute(self.config.command(self.container_id))
        except Refused as error:
            if error.reason == NO_ROOM:
                return False
            raise
        return True
