"""The commands that run until they are stopped: up, serve, follow, node run, worker run; and env."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.app.locate import find_lasting, find_url
from coordinator.cli.connection import load_settings
from coordinator.cli.output import RESOURCE, Attribute, amounts_of
from coordinator.stop_signals import unless_stopped
from events.errors import Refused
from events.nats_address import DEFAULT_PORT, servers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coordinator.settings.model import Settings

URL_OPTION = click.option(
    "--nats",
    "url",
    metavar="URL",
    envvar="COORDINATOR_URL",
    help="NATS to connect to: nats://token@host:port.",
    show_envvar=True,
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _needed(url: str | None) -> str:
    if not url:
        msg = "no NATS URL given: use --nats nats://token@host:port or set COORDINATOR_URL"
        raise Refused(msg, reason="no_url")
    return url


def _use(url: str | None) -> None:
    """Make *url* the setting `nats.url`, on which defaults depend, here and in the processes that this one starts."""
    if url:
        servers_of(url)
        os.environ["COORDINATOR_NATS__URL"] = url


@click.command()
@click.option(
    "--port",
    metavar="N",
    type=click.IntRange(0, 65535),
    help=f"Port of nats-server; 0 takes a free one. Default: {DEFAULT_PORT}, or the next free one.",
)
@click.pass_context
def up(ctx: click.Context, port: int | None) -> None:
    """
    Run everything on this machine.

    Starts nats-server, a coordinator, a follower and a node agent, each in its own process.
    """
    settings = load_settings(ctx)
    if port is not None and settings.nats.url:
        raise click.UsageError("--port has no effect: the server of nats.url is used, and none is started here")
    asyncio.run(_up(settings, port))


async def _up(settings: Settings, port: int | None) -> None:
    from coordinator.home import Home
    from coordinator.processes.up import NEXT_PORTS, run_cluster

    home = Home(settings.home_path())
    ports = {"port": port or None} if port is not None else {"port": DEFAULT_PORT, "next_ports": NEXT_PORTS}

    async def run() -> None:
        async with run_cluster(home, settings, **ports) as cluster:
            click.echo(
                "\n".join(_ready(cluster.url, home.path, None if settings.nats.url else ports["port"])), err=True
            )
            await asyncio.Event().wait()

    await unless_stopped(run())


def _ready(url: str, home: Path, port: int | None) -> Iterator[str]:
    """Yield the lines that say where it is up, and what to do next; *port* is the one it should have."""
    where = ",".join(server.rpartition("@")[2].rpartition("//")[2] for server in url.split(","))
    yield f"coordinator is up at {where}; state in {home}"
    if port is not None and where.rpartition(":")[2] != str(port):
        yield f"  port {port} is in use by another program"
    yield '  programs of this user find it; for other clients:  eval "$(coordinator env)"'
    yield "  next:  coordinator worker run my_module.py  |  coordinator events tail"
    yield "  Ctrl-C stops it and its containers"


@click.command()
@click.pass_context
def env(ctx: click.Context) -> None:
    """
    Print the variables that connect a program to this coordinator.

    For a shell: eval "$(coordinator env)". The URL may contain the token: whoever has it may
    do everything.
    """
    settings = load_settings(ctx, log_level="warning")
    for name, value in asyncio.run(_variables(settings)).items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if trouble := asyncio.run(_trouble(settings)):
        click.echo(f"coordinator: nobody leads, nothing is accepted: {trouble}", err=True)


async def _variables(settings: Settings) -> dict[str, str]:
    """Return what a program needs besides its defaults to connect as this user would."""
    from coordinator.processes.credentials import credentials

    login = credentials(settings)
    found = {
        "COORDINATOR_URL": await find_url(settings),
        "COORDINATOR_NAMESPACE": settings.namespace if settings.namespace != "coordination" else None,
        "COORDINATOR_NATS__CREDS": login["creds"],
        "COORDINATOR_NATS__TLS_CA": login["tls_ca"],
    }
    return {name: value for name, value in found.items() if value}


async def _trouble(settings: Settings) -> str:
    """Return why the nats-server of a `coordinator up` here cannot write; '' if it can, or is elsewhere."""
    from coordinator.home import Home
    from coordinator.nats_server.health import write_error

    return await write_error(Home(settings.home_path()).nats_store)


@click.command()
@URL_OPTION
@click.option("--creds", type=_FILE, help="NATS credentials file.")
@click.option("--tls-ca", type=_FILE, help="CA certificate of the NATS server.")
@click.option("--without-follower", is_flag=True, help="Do not start a follower; run it elsewhere.")
@click.pass_context
def serve(ctx: click.Context, url: str | None, creds: Path | None, tls_ca: Path | None, without_follower: bool) -> None:
    """
    Run a coordinator and its follower on your NATS.

    Start several for high availability: one leads, the others are on standby.
    """
    # Set in the environment, so that the follower process uses them too.
    for name, file in (("COORDINATOR_NATS__CREDS", creds), ("COORDINATOR_NATS__TLS_CA", tls_ca)):
        if file is not None:
            os.environ[name] = str(file.absolute())
    _use(url)
    settings = load_settings(ctx)
    from coordinator.processes.coordinator import serve as run

    asyncio.run(run(settings, _needed(settings.nats.url), without_follower=without_follower))


@click.command()
@URL_OPTION
@click.pass_context
def follow(ctx: click.Context, url: str | None) -> None:
    """
    Run a follower.

    It keeps the read model and the feed, and answers questions about the past.
    """
    _use(url)
    settings = load_settings(ctx)
    from coordinator.processes.follower import follow as run

    asyncio.run(run(settings, _needed(settings.nats.url)))


@click.command("run")
@URL_OPTION
@click.option("--id", "node_id", metavar="ID", help="Node id; default: one generated once and kept.")
@click.option("--stop-containers", is_flag=True, help="Stop the containers when the agent stops.")
@click.pass_context
def node_run(ctx: click.Context, url: str | None, node_id: str | None, stop_containers: bool) -> None:
    """
    Run the node agent of this machine.

    It starts and stops containers as the coordinator requests.
    """
    settings = load_settings(ctx)
    from coordinator.processes.node import serve_node

    needed = _needed(url or settings.nats.url)
    asyncio.run(serve_node(settings, needed, node_id=node_id or "", stop_containers=stop_containers))


@click.group()
def worker() -> None:
    """Run a worker."""


@worker.command("run")
@click.argument("module")
@URL_OPTION
@click.option("--id", "worker_id", metavar="ID", help="Worker id; default: a generated one.")
@click.option(
    "--slots", type=click.IntRange(1, 1000), default=8, show_default=True, help="Tasks to run at the same time."
)
@click.option("--cpu", metavar="CORES", help="Cores for its tasks together, such as 4 or 500m.")
@click.option("--memory", metavar="BYTES", help="Memory for its tasks together, such as 8Gi.")
@click.option("--gpu", metavar="COUNT", help="GPUs for its tasks together.")
@RESOURCE
@click.option(
    "--label", "labels", metavar="NAME=VALUE", type=Attribute(), multiple=True,
    help="What the filters of tasks may know of it. Repeatable.",
)  # fmt: skip
@click.option(
    "--build-id", metavar="ID", default="", envvar="COORDINATOR_BUILD_ID", show_envvar=True,
    help="Version of its code: a task goes on where it began.",
)  # fmt: skip
@click.pass_context
def worker_run(
    ctx: click.Context, /, module: str, url: str | None, worker_id: str | None, slots: int, **options: Any
) -> None:
    """Run a worker with the task handlers of MODULE, a dotted name or a file."""
    from coordinator.own_process import end
    from coordinator.own_process.memory import WORKER, be_expendable
    from coordinator.processes.credentials import credentials, patience
    from coordinator.processes.program import collect_seldom
    from coordinator.worker.worker import BEAT_S, run_worker

    settings = load_settings(ctx)
    collect_seldom()
    be_expendable(WORKER)

    resources = amounts_of(options)

    async def run() -> None:
        await run_worker(
            module,
            url=url or await find_lasting(settings),
            namespace=settings.namespace,
            worker_id=worker_id,
            slots=slots,
            resources=resources,
            labels=dict(options["labels"]),
            build_id=options["build_id"],
            cpu_overcommit=settings.node.cpu_overcommit,
            # Two heartbeats may be lost before the coordinator gives the worker's tasks to another one.
            beat_s=min(BEAT_S, settings.scheduler.lease_s / 3),
            **credentials(settings, "worker", worker_id or ""),
            **patience(settings),
        )

    end.run(run())
