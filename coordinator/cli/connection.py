"""
What the commands share: settings and the connection to the coordinator.

The coordinator is that of `--url`, else COORDINATOR_URL, else `nats.url`, else the one `coordinator up` runs here. Slow
imports are made when needed, because every `--help` imports this module.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.app.locate import find_lasting
from coordinator.app.sender import sender
from coordinator.commands.acting import acting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from coordinator.settings.model import Settings


URL = click.option(
    "--url",
    metavar="URL",
    envvar="COORDINATOR_URL",
    help="URL of the coordinator's NATS: nats://token@host:port.",
    show_envvar=True,
)


TENANT = click.option(
    "--tenant", metavar="ID", help="Tenant that the command is for; default: `client.tenant` of the settings."
)
TRACEPARENT = click.option(
    "--traceparent",
    metavar="TRACE",
    envvar="TRACEPARENT",
    help="Trace that the command is part of, as in W3C Trace Context.",
    show_envvar=True,
)


REASON = click.option("--reason", default="", help="Reason, kept in the journal.")


def load_settings(ctx: click.Context, *, log_level: str = "") -> Settings:
    """
    Load the settings and configure logging, at *log_level* or above; child processes use the same settings file.

    Raises:
        Refused: the settings are not valid.
    """
    from coordinator.logs import LEVELS, configure
    from coordinator.settings.load import load

    config = ctx.obj["config"]
    if config:
        os.environ["COORDINATOR_CONFIG"] = str(Path(config).absolute())
    settings = load(Path(config) if config else None)
    level: str = settings.log.level
    if log_level and not ctx.obj["debug"]:
        level = max(level, log_level, key=LEVELS.__getitem__)
    configure(level, settings.log.format)
    return settings


def asking(
    ctx: click.Context,
    url: str | None,
    body: Callable[[Client], Awaitable[Any]],
    *,
    tenant: str | None = None,
    traceparent: str | None = None,
) -> Any:
    """Run *body* with a connection to the coordinator, for a tenant and as part of a trace, and return its result."""

    async def run() -> Any:
        with acting(tenant=tenant or "", traceparent=traceparent or ""):
            async with connected(settings, url) as client:
                return await body(client)

    settings = load_settings(ctx, log_level="warning")
    return asyncio.run(run())


def send(ctx: click.Context, url: str | None, command: Command[Any]) -> None:
    """Send one command whose answer is not shown."""
    asking(ctx, url, lambda client: client.execute(command))


@asynccontextmanager
async def connected(settings: Settings, url: str | None) -> AsyncIterator[Client]:
    """Connect to the coordinator."""
    from coordinator.client.client import Client
    from coordinator.processes.credentials import credentials, patience

    async with Client.open(
        url or await find_lasting(settings),
        source=sender("cli"),
        namespace=settings.namespace,
        tenant=settings.client.tenant,
        name="cli",
        **credentials(settings),
        **patience(settings),
    ) as client:
        yield client
