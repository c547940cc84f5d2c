"""Reads all instances of services page by page, so that no answer is larger than a message may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.service import FindServices
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.commands.service import ServiceView
    from events.service import ServiceStatus

PAGE = 500
"""Instances in one answer; fewer are asked for where so many do not fit into a message."""


async def list_services(
    door: Door, *, service_name: str = "", status: ServiceStatus | None = None, page: int = PAGE
) -> list[ServiceView]:
    """
    Give all registered instances that match, in the order of their ids.

    They are as of several moments: one that is registered meanwhile may be missing.

    Raises:
        CoordinationError: the door could not be asked, or a single instance is too large for an answer.
    """
    found: list[ServiceView] = []
    while True:
        after = found[-1].service.service_id if found else ""
        question = FindServices(service_name=service_name, status=status, after=after, limit=page)
        try:
            views: list[ServiceView] = await door.execute(question)
        except Refused:
            if page == 1:
                raise
            page //= 2
            continue
        found += views
        if len(views) < page:
            return found
