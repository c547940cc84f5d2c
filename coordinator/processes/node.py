"""
The process of a node agent, built from settings: capacity, runtime, and the environment of containers.

`open_node` is the agent without a process, for a program that runs all parts in one.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from coordinator.client.client import Client
from coordinator.clock import SystemClock
from coordinator.home import Home
from coordinator.node.node_agent import NodeAgent
from coordinator.own_process.memory import NODE, be_expendable
from coordinator.own_process.priority import yield_cpu
from coordinator.processes.credentials import credentials, patience
from coordinator.processes.program import HANDOVER_S
from coordinator.runtime.fake import FakeRuntime
from coordinator.runtime.oci.runtime import OciRuntime
from coordinator.runtime.process.control_groups import Isolation, check_isolation
from coordinator.runtime.process.runtime import ProcessRuntime
from coordinator.runtime.protocol import Observed, Runtime, RuntimeState
from coordinator.stop_signals import stop_signal
from events.errors import Refused
from events.resources import Resources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.settings.model import Settings
    from coordinator.settings.sections import NodeSettings

log = structlog.get_logger(__name__)


def machine_capacity() -> Resources:
    """Return the capacity of this machine: its cores and its memory."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Resources(cpu_millis=1000 * (os.cpu_count() or 1), memory_bytes=pages * page_bytes)


def capacity_of(settings: Settings) -> Resources:
    """Return the capacity of this node: that of its machine, unless `node.capacity` overrides it."""
    has = machine_capacity()
    configured = settings.node.capacity.given()
    return Resources.parse({"cpu": f"{has.cpu_millis}m", "memory": has.memory_bytes, "gpu": has.gpus} | configured)


def open_runtime(
    kind: str, home: Home, *, namespace: str, node: NodeSettings, isolation: Isolation = "none"
) -> Runtime:
    """
    Return the runtime of this *kind*, with the settings *node*; to end containers it needs no *isolation*.

    Raises:
        Refused: the kind is unknown.
    """
    if kind == "process":
        return ProcessRuntime(home.containers, cluster=namespace, isolation=isolation)
    if kind == "docker":
        from coordinator.runtime.docker.runtime import DockerRuntime  # an HTTP client, a tenth of a second

        docker = node.docker
        return DockerRuntime(
            home.docker, cluster=namespace, socket=docker.socket, network=docker.network, pulls=docker.pull
        )
    if kind == "oci":
        return OciRuntime(
            home.oci,
            cluster=namespace,
            images=node.oci.images or home.images,
            program=node.oci.program,
            init=node.oci.init,
            network=node.oci.network,
            user=node.oci.user,
        )
    if kind == "fake":
        return FakeRuntime(cluster=namespace, now=SystemClock().wall, heard=SystemClock().heard)
    msg = f"node.runtime {kind!r} is not available: use process, docker, oci or fake"
    raise Refused(msg, reason="bad_runtime")


def _runtime_of(settings: Settings, home: Home, isolation: Isolation = "none") -> Runtime:
    node = settings.node
    return open_runtime(node.runtime, home, namespace=settings.namespace, node=node, isolation=isolation)


def check_node(settings: Settings, home: Home) -> None:
    """
    Check the settings that a node agent on *home* depends on, before it is started.

    Raises:
        Refused: the runtime or its isolation is not available, or credentials are missing.
    """
    runtime = _runtime_of(settings, home)
    if isinstance(runtime, OciRuntime):
        runtime.check()
    if settings.node.runtime == "process":
        check_isolation(settings.node.isolation)
    capacity_of(settings)
    reach_of_containers(settings, "", credentials(settings, "node", settings.node.node_id))


async def sweep(settings: Settings, home: Home) -> None:
    """
    Stop every container that still runs in *home*, each with its own grace. For a home without a node agent.

    Raises:
        Unavailable: a container is still running, or containers cannot be read.
        Refused: a node agent holds the home.
    """
    with home.lock("node", HANDOVER_S):
        async with _runtime_of(settings, home) as runtime:
            living = [one for one in await runtime.list() if one.state is not RuntimeState.EXITED]
            stopped = await asyncio.gather(*(_stop(runtime, one) for one in living), return_exceptions=True)
    for error in stopped:
        if error is not None:
            raise error


async def _stop(runtime: Runtime, one: Observed) -> None:
    # Its record stays: the next node agent reports that it ended in order.
    await runtime.stop(one.container_id, one.generation, grace_s=one.stop_grace_s)
    log.info("container_swept", container_id=one.container_id, generation=one.generation)


@asynccontextmanager
async def open_node(
    settings: Settings, home: Home, client: Client, reach: dict[str, str], *, node_id: str = ""
) -> AsyncIterator[NodeAgent]:
    """Serve this machine while the block runs, as *node_id* or the name from the settings or *home*."""
    async with (
        _runtime_of(settings, home, settings.node.isolation) as runtime,
        NodeAgent.open(
            client,
            runtime,
            node_id=node_id or settings.node.node_id or client.name_as("node") or home.instance("node"),
            capacity=capacity_of(settings),
            reach=reach,
            secrets=home.path / "secrets",
            labels={**settings.node.labels, "limits": runtime.limits},
            interval_s=settings.node.sync_interval_s,
        ) as agent,
    ):
        yield agent


async def serve_node(settings: Settings, url: str, *, node_id: str = "", stop_containers: bool = False) -> None:
    """
    Run a node agent until a signal stops it.

    Raises:
        CoordinationError: another node agent holds the home, or NATS cannot be reached.
    """
    be_expendable(NODE)
    yield_cpu(settings.node.niceness)
    home = Home(settings.home_path())
    login = credentials(settings, "node", node_id or settings.node.node_id)
    with home.lock("node", HANDOVER_S):
        async with (
            stop_signal() as stop,
            Client.open(url, namespace=settings.namespace, name="node", **login, **patience(settings)) as client,
            open_node(settings, home, client, reach_of_containers(settings, url, login), node_id=node_id) as agent,
        ):
            await stop.wait()
            if stop_containers:
                await agent.stop_all()


def reach_of_containers(settings: Settings, url: str, login: dict[str, Any]) -> dict[str, str]:
    """
    Return the variables with which containers connect to NATS: with their own credentials, never the node's.

    Raises:
        Refused: the credentials directory has none for containers, or several.
    """
    creds = settings.node.container_creds
    if creds is None and settings.nats.auth is not None:
        creds = credentials(settings, "agents")["creds"]
    reach = {"COORDINATOR_URL": url, "COORDINATOR_NATS__CREDS": creds, "COORDINATOR_NATS__TLS_CA": login["tls_ca"]}
    return {name: str(value) for name, value in reach.items() if value is not None}
