"""The commands that run something until they are stopped: up, serve, follow, node run, worker run."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.connection import find_url, load_settings, stop_signal, unless_stopped
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.settings import Settings

URL_OPTION = click.option(
    "--nats", "url", envvar="COORDINATOR_URL", help="NATS to connect to: nats://token@host:port.", show_envvar=True
)
HANDOVER_S = 3.0
"""Whoever bears our name and is just ending is waited for."""
GOODBYE_S = 3.0
"""How long a coordinator that is stopped may take for its last commit."""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _collect_seldom() -> None:
    """
    Let the collector of cycles look less often: what is made here in numbers has none.

    By Python's thresholds it takes a tenth of the writer's time (docs/performance.md).
    """
    gc.set_threshold(50_000, 20, 100)


def _stand_back(niceness: int) -> None:
    """Let whoever is waited for come first: what follows may lag, and catches up."""
    os.nice(niceness)
    # Linux weighs sessions against each other before it looks at what is nice within one.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(f"{niceness}\n")


def _needed(url: str | None) -> str:
    if not url:
        msg = "no NATS is given: use --nats nats://token@host:port, or set COORDINATOR_URL"
        raise Refused(msg, reason="no_url")
    return url


@click.command()
@click.pass_context
def up(ctx: click.Context) -> None:
    """Run everything on this machine: nats-server, coordinator, follower, node agent; each its own process."""
    settings = load_settings(ctx)
    asyncio.run(_up(settings))


async def _up(settings: Settings) -> None:
    from coordinator.home import Home
    from coordinator.up import run_cluster

    home = Home(settings.home_path())

    async def run() -> None:
        async with run_cluster(home, settings) as cluster:
            where = cluster.url.rpartition("@")[2]
            click.echo(f"coordinator is up on nats://…@{where}; state in {home.path}; Ctrl-C stops it", err=True)
            await asyncio.Event().wait()

    await unless_stopped(run())


@click.command()
@URL_OPTION
@click.option("--creds", type=_FILE, help="NATS credentials file.")
@click.option("--tls-ca", type=_FILE, help="CA of the NATS server.")
@click.option("--without-follower", is_flag=True, help="Run the follower elsewhere.")
@click.pass_context
def serve(ctx: click.Context, url: str | None, creds: Path | None, tls_ca: Path | None, without_follower: bool) -> None:
    """Run a coordinator and its follower against your NATS; start several: one writes, the others stand by."""
    # By the environment, so that the follower beside it goes by them as well.
    for name, file in (("COORDINATOR_NATS__CREDS", creds), ("COORDINATOR_NATS__TLS_CA", tls_ca)):
        if file is not None:
            os.environ[name] = str(file.absolute())
    settings = load_settings(ctx)
    asyncio.run(_serve(settings, _needed(url or settings.nats.url), without_follower))


async def _serve(settings: Settings, url: str, without_follower: bool) -> None:
    from coordinator.groups import task_group
    from coordinator.home import Home
    from coordinator.serve import Coordinator, instance_of
    from coordinator.supervise import Program

    _collect_seldom()
    home = Home(settings.home_path())
    with home.lock("coordinator", HANDOVER_S):
        coordinator = Coordinator(instance_of(settings, url=url, name=home.instance("coordinator"), home=home))
        async with stop_signal() as stop, task_group() as tasks:
            serving = tasks.create_task(coordinator.run())
            env = {**os.environ, "COORDINATOR_URL": url}
            follower = Program("follower", [sys.executable, "-P", "-m", "coordinator.cli", "follow"], env, None)
            following = None if without_follower else tasks.create_task(follower.keep_running())
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            coordinator.stop("stopped")
            # Where NATS is away there is nobody to say goodbye to; the next one takes the lease back by our name.
            if not (await asyncio.wait([serving], timeout=GOODBYE_S))[0]:
                serving.cancel()
            stopping.cancel()
            if following is not None:
                await follower.stop()


@click.command()
@URL_OPTION
@click.pass_context
def follow(ctx: click.Context, url: str | None) -> None:
    """Run a follower: it keeps the read model and the feed, and answers questions about the past."""
    settings = load_settings(ctx)
    asyncio.run(_follow(settings, _needed(url or settings.nats.url)))


async def _follow(settings: Settings, url: str) -> None:
    from coordinator.client import Client, credentials
    from coordinator.feed import feed_limits
    from coordinator.follower import Follower
    from coordinator.groups import task_group
    from coordinator.home import Home
    from coordinator.registry.health_check_worker import run_health_checks
    from coordinator.snapshotter import snapshot_limits

    home = Home(settings.home_path())
    namespace, login = settings.namespace, credentials(settings, "follower")
    _collect_seldom()
    _stand_back(settings.follower.niceness)
    with home.lock("follower", HANDOVER_S):
        async with (
            stop_signal() as stop,
            Client.open(url, namespace=namespace, name="follower", **login) as client,
            Follower.open(
                url,
                home.state_db,
                namespace=namespace,
                feed=feed_limits(settings),
                snapshots=snapshot_limits(settings),
                archive=settings.follower.archive,
                replicas=settings.nats.replicas,
                **login,
            ) as follower,
            task_group() as tasks,
        ):
            checking = tasks.create_task(run_health_checks(client, settings))
            failing: asyncio.Task[Any] = tasks.create_task(follower.wait_failed())
            stopping: asyncio.Task[Any] = tasks.create_task(stop.wait())
            await asyncio.wait([failing, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (checking, failing, stopping):
                task.cancel()


@click.group()
def node() -> None:
    """Run a node agent."""


@node.command("run")
@URL_OPTION
@click.option("--id", "node_id", help="Name of this node; by default a lasting one is made.")
@click.option("--stop-containers", is_flag=True, help="Stop its containers when the agent is stopped.")
@click.pass_context
def node_run(ctx: click.Context, url: str | None, node_id: str | None, stop_containers: bool) -> None:
    """Serve this machine: start and stop containers as the coordinator orders."""
    settings = load_settings(ctx)
    asyncio.run(_node(settings, _needed(url or settings.nats.url), node_id, stop_containers))


async def _node(settings: Settings, url: str, node_id: str | None, stop_containers: bool) -> None:
    from coordinator.client import Client, credentials
    from coordinator.home import Home
    from coordinator.node import NodeAgent, capacity_of, open_runtime

    home = Home(settings.home_path())
    namespace = settings.namespace
    login = credentials(settings, "node", node_id or settings.node.node_id)
    with home.lock("node", HANDOVER_S):
        async with (
            stop_signal() as stop,
            Client.open(url, namespace=namespace, name="node", **login) as client,
            open_runtime(settings.node.runtime, home, namespace=namespace) as runtime,
            NodeAgent.open(
                client,
                runtime,
                node_id=node_id or settings.node.node_id or client.name_as("node") or home.instance("node"),
                capacity=capacity_of(settings),
                reach=reach_of_containers(settings, url, login),
                secrets=home.path / "secrets",
                interval_s=settings.node.sync_interval_s,
            ) as agent,
        ):
            await stop.wait()
            if stop_containers:
                await agent.stop_all()


def reach_of_containers(settings: Settings, url: str, login: dict[str, Any]) -> dict[str, str]:
    """
    Give the variables by which what runs in containers reaches NATS: with credentials of its own, never the node's.

    Raises:
        Refused: the directory of credentials has none for containers, or several.
    """
    from coordinator.client import credentials

    creds = settings.node.container_creds
    if creds is None and settings.nats.auth is not None:
        creds = credentials(settings, "agents")["creds"]
    reach = {"COORDINATOR_URL": url, "COORDINATOR_NATS__CREDS": creds, "COORDINATOR_NATS__TLS_CA": login["tls_ca"]}
    return {name: str(value) for name, value in reach.items() if value is not None}


@click.group()
def worker() -> None:
    """Run a worker."""


@worker.command("run")
@click.argument("module")
@URL_OPTION
@click.option("--id", "worker_id", help="Name of this worker; by default one is made.")
@click.option("--slots", type=click.IntRange(1, 1000), default=8, show_default=True, help="Tasks at once.")
@click.pass_context
def worker_run(ctx: click.Context, module: str, url: str | None, worker_id: str | None, slots: int) -> None:
    """Execute tasks with the handlers of MODULE (a dotted name, or a file)."""
    from coordinator.client import credentials
    from coordinator.worker import BEAT_S, run_worker

    settings = load_settings(ctx)
    _collect_seldom()
    asyncio.run(
        run_worker(
            module,
            url=url or find_url(settings),
            namespace=settings.namespace,
            worker_id=worker_id,
            slots=slots,
            # Two beats may be lost before the coordinator gives its tasks to another.
            beat_s=min(BEAT_S, settings.scheduler.lease_s / 3),
            **credentials(settings, "worker", worker_id or ""),
        )
    )


__all__ = ["follow", "node", "serve", "up", "worker"]
