"""Ask the coordinator about one container: wait for a change of it, and find one that was destroyed long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.client.reads import READ_TIMEOUT_S, find
from coordinator.commands.container import GetContainer
from projections.container import Container

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.client.client import Client, Door
    from events.container import ContainerStatus

WAIT_S = 20.0
"""How long one question waits at the coordinator; a longer wait repeats the question."""


async def until_not(door: Door, container_id: str, unless: Iterable[ContainerStatus], timeout_s: float) -> Container:
    """
    Wait while the status of a container is one of *unless*, at most *timeout_s* seconds, and return the container.

    Raises:
        NotFound: the container does not exist.
    """
    waited = tuple(unless)
    left_s = timeout_s
    while True:
        portion_s = min(left_s, WAIT_S)
        left_s -= portion_s
        found: Container = await door.execute(GetContainer(container_id=container_id, unless=waited, wait_s=portion_s))
        if found.status not in waited or left_s <= 0:
            return found


async def find_container(client: Client, container_id: str, *, timeout_s: float = READ_TIMEOUT_S) -> Container:
    """Return a container, from the writer or, if it was destroyed long ago, from a follower; errors as `reads.find`."""
    question = GetContainer(container_id=container_id)
    return await find(client, question, "container", container_id, Container, timeout_s)
