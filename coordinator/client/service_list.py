"""List service instances page by page, so that no answer exceeds the size limit of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.commands.service import FindServices
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.client.client import Door
    from coordinator.commands.service import ServiceView
    from events.service import ServiceStatus

PAGE = 500
"""Instances in one answer; the page is halved when they do not fit into a message."""


async def list_services(
    door: Door, *, service_name: str = "", status: ServiceStatus | None = None, page: int = PAGE
) -> list[ServiceView]:
    """
    Return all registered instances that match, ordered by id.

    The pages are read one after the other: an instance registered during the call may be missing.

    Args:
        door: where to ask.
        service_name: the name to match; '' matches all.
        status: the status to match; None matches all.
        page: instances per answer, halved when they do not fit into a message.

    Raises:
        CoordinationError: the coordinator did not answer, or a single instance is too large for an answer.
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
