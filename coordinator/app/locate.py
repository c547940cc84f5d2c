"""Find the coordinator that a program connects to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from events.errors import Unavailable

if TYPE_CHECKING:
    from coordinator.settings.model import Settings


def where(settings: Settings) -> tuple[str, str]:
    """
    Return the URL of the coordinator to use, and where the URL was found.

    Looks at COORDINATOR_URL, then the setting `nats.url`, then a running `coordinator up` of this user. Without any of
    them returns ("", "embedded"): the process runs its own coordinator.
    """
    from coordinator.home import Home

    if url := os.environ.get("COORDINATOR_URL", ""):
        return url, "COORDINATOR_URL"
    if settings.nats.url:
        return settings.nats.url, "nats.url"
    home = settings.home_path()
    running = Home(home).read_running() if home.is_dir() else None
    return (running.url, "coordinator up") if running is not None else ("", "embedded")


def find_url(settings: Settings) -> str:
    """
    Return the URL of the coordinator to connect to.

    Raises:
        Unavailable: no URL is configured and no coordinator runs here.
    """
    url, _ = where(settings)
    if not url:
        here = settings.home_path()
        msg = f"no coordinator runs here ({here}): start one with 'coordinator up', or set COORDINATOR_URL"
        raise Unavailable(msg, reason="not_running")
    return url
