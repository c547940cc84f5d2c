"""List service instances page by page, so that no answer exceeds the size limit of a message."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

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
    return await _in_pages(door, FindServices(service_name=service_name, status=status, after=""), page, sys.maxsize)


async def find_services(door: Door, question: FindServices, *, timeout_s: float | None = None) -> list[ServiceView]:
    """
    Return the instances that match *question*, at most its `limit`: in one answer, or else in pages ordered by id.

    Args:
        door: where to ask.
        question: what to match; its `limit` is 1 to 1000.
        timeout_s: seconds to wait for each answer, as for `Door.execute`.

    Raises:
        CoordinationError: the question was refused or not answered, or a single instance is too large for an answer.
    """
    try:
        found: list[ServiceView] = await door.execute(question, timeout_s=timeout_s)
    except Refused as error:
        if not _is_too_large(error, question.limit):
            raise
    else:
        return found
    begin = msgspec.structs.replace(question, after=question.after or "")
    return await _in_pages(door, begin, question.limit // 2, question.limit, timeout_s)


async def _in_pages(
    door: Door, question: FindServices, page: int, most: int, timeout_s: float | None = None
) -> list[ServiceView]:
    found: list[ServiceView] = []
    while True:
        after = found[-1].service.service_id if found else question.after
        limit = min(page, most - len(found))
        asked = msgspec.structs.replace(question, after=after, limit=limit)
        try:
            views: list[ServiceView] = await door.execute(asked, timeout_s=timeout_s)
        except Refused as error:
            if not _is_too_large(error, page):
                raise
            page //= 2
            continue
        found += views
        if len(views) < limit or len(found) >= most:
            return found


def _is_too_large(error: Refused, page: int) -> bool:
    return error.reason == "too_large" and page > 1
