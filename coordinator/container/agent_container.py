"""One container as an object: its life, what it uses, what it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from coordinator.app.facade import text, wanted
from coordinator.container.container_manager import NO_ROOM, ContainerConfig, ContainerManager
from events.container import ContainerStatus
from events.errors import NotFound, Refused

if TYPE_CHECKING:
    from coordinator.app.app import App

RUNS = frozenset({ContainerStatus.RUNNING, ContainerStatus.PAUSED})


class AgentContainer:
    """The container *container_id*; `start` creates it by *config* when there is none of that id yet."""

    def __init__(self, container_id: str, config: ContainerConfig, app: App | None = None) -> None:
        self.container_id = text("container_id", container_id)
        self.config: ContainerConfig = wanted("config", config, ContainerConfig, "a ContainerConfig")
        self._manager = ContainerManager(app)

    async def start(self) -> bool:
        """Start it and wait until it runs; False when it does not fit or does not start."""
        try:
            return await self._manager.start_container(self.container_id)
        except NotFound:
            if not await self._create():
                return False
            return await self._manager.start_container(self.container_id)

    async def stop(self, *, force: bool = False) -> bool:
        """Stop it and wait until it has stopped, at once when *force*; False when it was not in time."""
        return await self._manager.stop_container(self.container_id, force=force)

    async def pause(self) -> bool:
        """Freeze it; False when that did not happen in time."""
        return await self._manager.pause_container(self.container_id)

    async def resume(self) -> bool:
        """Let it run on; False when that did not happen in time."""
        return await self._manager.resume_container(self.container_id)

    async def destroy(self, *, force: bool = False) -> bool:
        """Stop and remove it; False when it was not gone in time."""
        return await self._manager.destroy_container(self.container_id, force=force)

    async def get_status(self) -> ContainerStatus:
        """Give its status; raises `NotFound`."""
        return await self._manager.get_container_status(self.container_id)

    async def get_resource_usage(self) -> dict[str, Any]:
        """
        Measure it; see `ContainerManager.get_resource_usage`. What does not run uses nothing.

        Raises:
            NotFound: there is no such container. Unavailable: its node does not answer.
        """
        try:
            return await self._manager.get_resource_usage(self.container_id)
        except NotFound:
            if (await self.get_status()) in RUNS:
                raise
            return {"cpu_seconds": 0.0, "memory_bytes": 0, "pids": 0}

    async def get_logs(self, lines: int = 100) -> list[str]:
        """
        Give the last lines it has written, oldest first; none of what is destroyed, or was never started.

        Raises:
            NotFound: there is no such container. Unavailable: its node does not answer.
        """
        try:
            return await self._manager.get_container_logs(self.container_id, lines=lines)
        except NotFound:
            if (await self.get_status()) in RUNS:
                raise
            return []

    async def close(self) -> None:
        """Let go of the connection; the container goes on."""
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
