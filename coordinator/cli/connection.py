"""Which coordinator the command line talks to: `--url`, COORDINATOR_URL, else what runs on this machine."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from coordinator.client import Client, credentials
from coordinator.home import Home
from events.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def find_url(settings: Any) -> str:
    """
    Give the URL of the coordinator to talk to.

    Raises:
        Unavailable: none is named and none runs here.
    """
    url = os.environ.get("COORDINATOR_URL", "") or settings.nats.url
    if url:
        return str(url)
    home = settings.home_path()
    running = Home(home).read_running() if home.is_dir() else None
    if running is None:
        msg = f"no coordinator runs here ({home}): start one with 'coordinator up', or set COORDINATOR_URL"
        raise Unavailable(msg, reason="not_running")
    return running.url


@asynccontextmanager
async def connected(settings: Any, url: str | None) -> AsyncIterator[Client]:
    """Connect to the coordinator."""
    async with Client.open(
        url or find_url(settings),
        source="cli",
        namespace=settings.namespace,
        name="cli",
        **credentials(settings),
    ) as client:
        client.call_timeout_s = settings.client.call_timeout_s
        yield client
