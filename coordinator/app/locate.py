"""Which coordinator a program talks to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from events.errors import Unavailable

if TYPE_CHECKING:
    from coordinator.settings.model import Settings


def where(settings: Settings) -> tuple[str, str]:
    """Say where the coordinator to use is, and who says so; nowhere when this process is to run its own."""
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
    Give the URL of the coordinator to talk to.

    Raises:
        Unavailable: none is named and none runs here.
    """
    url, _ = where(settings)
    if not url:
        here = settings.home_path()
        msg = f"no coordinator runs here ({here}): start one with 'coordinator up', or set COORDINATOR_URL"
        raise Unavailable(msg, reason="not_running")
    return url
