"""
Find the coordinator that a program connects to.

Where a program found its coordinator first, it looks again whenever it must reconnect: a `coordinator up` that was
started again may have another port.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from events.errors import Unavailable

if TYPE_CHECKING:
    from coordinator.bus.connection import Url
    from coordinator.settings.model import Settings

POLL_S = 0.05
PATIENCE_S = 1.0
"""After this the wait for a starting coordinator is logged."""
UP = "coordinator up"


def where(settings: Settings) -> tuple[str, str]:
    """
    Return the URL of the coordinator to use, and where the URL was found.

    Looks at COORDINATOR_URL, then the setting `nats.url`, then a running `coordinator up` of this user. Without any of
    them returns ("", "embedded"): the process runs its own coordinator.
    """
    if url := os.environ.get("COORDINATOR_URL", ""):
        return url, "COORDINATOR_URL"
    if settings.nats.url:
        return settings.nats.url, "nats.url"
    url = _running_here(settings)
    return (url, UP) if url else ("", "embedded")


async def located(settings: Settings) -> tuple[str, str]:
    """
    Return what `where` returns, once no `coordinator up` of this user is starting or stopping.

    Raises:
        Unavailable: it was neither ready nor gone within `client.call_timeout_s`.
    """
    loop = asyncio.get_running_loop()
    began, told = loop.time(), False
    while True:
        url, kind = where(settings)
        # Asked after `where`, because a starting `up` may become ready between the two.
        holder = None if url else _holder(settings)
        if holder is None:
            return url, kind
        waited_s = loop.time() - began
        if waited_s >= settings.client.call_timeout_s:
            held = f"{settings.home_path()} is held by process {holder or 'unknown'}"
            msg = f"{held}, which is neither ready nor ended after {waited_s:.0f} s: see what it says, try again later"
            raise Unavailable(msg, reason="starting")
        if waited_s >= PATIENCE_S and not told:
            told = True
            _log_wait(settings, holder)
        await asyncio.sleep(POLL_S)


async def find_url(settings: Settings) -> str:
    """
    Return the URL of the coordinator to connect to; see `located`.

    Raises:
        Unavailable: no URL is configured and no coordinator runs here.
    """
    return (await _found(settings))[0]


async def find_lasting(settings: Settings) -> Url:
    """Return what `find_url` returns, for a connection that outlives a restart of `coordinator up`; see `lasting`."""
    return lasting(settings, *await _found(settings))


def lasting(settings: Settings, url: str, kind: str) -> Url:
    """Return *url*, or, if it is that of a `coordinator up` here, a function that returns its URL as of now, or ''."""
    return (lambda: _running_here(settings)) if kind == UP else url


async def _found(settings: Settings) -> tuple[str, str]:
    url, kind = await located(settings)
    if not url:
        here = settings.home_path()
        msg = f"no coordinator runs here ({here}): start one with 'coordinator up', or set COORDINATOR_URL"
        raise Unavailable(msg, reason="not_running")
    return url, kind


def _running_here(settings: Settings) -> str:
    from coordinator.home import Home

    home = settings.home_path()
    running = Home(home).read_running() if home.is_dir() else None
    return running.url if running is not None else ""


def _holder(settings: Settings) -> str | None:
    from coordinator.home import Home

    home = settings.home_path()
    return Home(home).holder("up") if home.is_dir() else None


def _log_wait(settings: Settings, holder: str) -> None:
    import structlog

    log = structlog.get_logger(__name__)
    log.warning("coordinator_awaited", home=str(settings.home_path()), pid=holder)
