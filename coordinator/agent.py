"""
The built-in agent, `python -m coordinator.agent`: the program in a container of type `task_agent`.

It registers itself as a service without a port, since nobody connects to it, sends heartbeats, and executes tasks if
`COORDINATOR_HANDLERS` names a module of handlers. The node agent passes everything it needs in the environment. On
SIGTERM it drains, deregisters and exits 0; it survives a lost connection. Its registrations are its own: on its way out
it does not touch those of a later generation of its container.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.client.client import Client
from coordinator.commands.acting import acting
from coordinator.commands.service import NO_PORT, DeregisterService, RegisterService
from coordinator.ids import TimeOrderedIds
from coordinator.logs import configure
from coordinator.own_process import end, first, streams
from coordinator.stop_signals import stop_on_signals
from coordinator.task_groups import task_group
from coordinator.worker import Worker, load_handlers
from events.errors import CoordinationError, Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = structlog.get_logger(__name__)

BEAT_S = 2.0
DRAIN_S = 8.0
"""Shorter than the node's grace for a container, so that tasks that do not end in time are released and not lost."""
REGISTER_EVERY_S = 30.0
"""Registering again changes nothing, unless the registry has given up the agent or has never seen it."""
RETRY_S = 0.5
DEREGISTER_TIMEOUT_S = 2.0

_ids = TimeOrderedIds()


class AgentPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where and as what this agent runs."""

    url: str
    container_id: str
    agent_type: str
    node_id: str
    namespace: str = "coordination"
    handlers: str = ""
    slots: int = 8
    generation: str = ""
    build_id: str = ""
    tenant: str = ""
    creds: str | None = None
    tls_ca: str | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> AgentPlace:
        """
        Read it from the environment that the node agent sets.

        Raises:
            Refused: a variable is missing, or the slots are not a number.
        """
        missing = [name for name in _NEEDED if not environment.get(name)]
        if missing:
            msg = f"{', '.join(missing)} must be set: a node agent starts this program in a container and sets them"
            raise Refused(msg, reason="no_place")
        slots = environment.get("COORDINATOR_WORKER_SLOTS", "8")
        if not slots.isdecimal() or not slots.isascii():
            msg = f"COORDINATOR_WORKER_SLOTS {slots!r} is not a number: use 1 to 1000"
            raise Refused(msg, reason="no_place")
        return cls(
            url=environment["COORDINATOR_URL"],
            container_id=environment["COORDINATOR_CONTAINER_ID"],
            agent_type=environment["COORDINATOR_AGENT_TYPE"],
            node_id=environment["COORDINATOR_NODE_ID"],
            namespace=environment.get("COORDINATOR_NAMESPACE", "coordination"),
            handlers=environment.get("COORDINATOR_HANDLERS", ""),
            slots=int(slots),
            generation=environment.get("COORDINATOR_GENERATION", ""),
            build_id=environment.get("COORDINATOR_BUILD_ID", ""),
            tenant=environment.get("COORDINATOR_CLIENT__TENANT", ""),
            creds=environment.get("COORDINATOR_NATS__CREDS") or None,
            tls_ca=environment.get("COORDINATOR_NATS__TLS_CA") or None,
        )


_NEEDED = ("COORDINATOR_URL", "COORDINATOR_CONTAINER_ID", "COORDINATOR_AGENT_TYPE", "COORDINATOR_NODE_ID")


async def run_agent(place: AgentPlace) -> None:
    """
    Run as an agent until stopped by a signal.

    Raises:
        Refused: its handlers cannot be imported, or the coordinator refuses the agent, as when a later generation of
            its container runs (`replaced`).
        Unavailable: no server answered at the start.
    """
    service = _ids.new("registration")
    worker = _worker(place, service)
    stop = asyncio.Event()
    refused: list[Refused] = []

    def stop_all(reason: str) -> None:
        stop.set()
        if worker is not None:
            worker.stop(reason)

    def force() -> None:
        stop_all("forced")
        if worker is not None:
            worker.force()

    def refuse(error: Refused) -> None:
        refused.append(error)
        stop_all(f"refused: {error.reason}")

    async with (
        stop_on_signals(stop_all, force),
        Client.open(
            place.url,
            source="agent",
            namespace=place.namespace,
            name=place.container_id,
            creds=place.creds,
            tls_ca=place.tls_ca,
        ) as client,
        task_group() as tasks,
    ):
        registering = tasks.create_task(_keep_registered(client, place, service, worker, refuse))
        if worker is not None:
            try:
                await worker.run(client)
            except Refused as error:
                refuse(error)
        # A worker that the coordinator drained has ended; the agent stays until the container is stopped.
        await stop.wait()
        registering.cancel()
        await _deregister(client, place, service)
    if refused:
        raise refused[0]


def _worker(place: AgentPlace, service: str) -> Worker | None:
    if not place.handlers:
        return None
    worker = Worker(
        "agent",
        url=place.url,
        namespace=place.namespace,
        creds=place.creds,
        tls_ca=place.tls_ca,
        worker_id=place.container_id,
        container_id=place.container_id,
        generation=place.generation,
        owns_process=True,
        slots=place.slots,
        handlers=load_handlers(place.handlers),
        build_id=place.build_id,
        beat_s=BEAT_S,
        drain_s=DRAIN_S,
        beat_beside=lambda client: _beat(client, place, service, worker),
    )
    return worker


def _beat(client: Client, place: AgentPlace, service: str, worker: Worker | None) -> None:
    load, running = (worker.load, len(worker.running)) if worker is not None else (0.0, 0)
    client.beat_service(place.container_id, load=load, connections=running, registration=service)


async def _keep_registered(
    client: Client, place: AgentPlace, service: str, worker: Worker | None, refuse: Callable[[Refused], None]
) -> None:
    """Register, send heartbeats, and register again periodically, until the agent is refused."""
    command = RegisterService(
        service_id=place.container_id,
        service_name=place.agent_type,
        service_type="agent",
        host="127.0.0.1",
        port=NO_PORT,
        metadata={"node_id": place.node_id},
        container_id=place.container_id,
        worker_id=place.container_id if worker is not None else "",
        registration=service,
        generation=place.generation,
    )
    while True:
        try:
            with acting(tenant=place.tenant):
                await client.execute(command)
        except Unavailable as error:
            log.warning("registration_failed", container_id=place.container_id, why=error.message)
            await asyncio.sleep(RETRY_S)
            continue
        except Refused as error:  # running tasks are finished or released first
            log.warning("registration_refused", container_id=place.container_id, why=error.message)
            if error.reason == "container_not_running":
                # The node agent stops this process, or starts the container again: neither is decided here.
                await asyncio.sleep(REGISTER_EVERY_S)
                continue
            refuse(error)
            return
        for _ in range(int(REGISTER_EVERY_S / BEAT_S)):
            _beat(
                client, place, service, worker
            )  # the worker's thread sends heartbeats too: a handler may block this loop
            await asyncio.sleep(BEAT_S)


async def _deregister(client: Client, place: AgentPlace, service: str) -> None:
    command = DeregisterService(service_id=place.container_id, reason="its container stopped", registration=service)
    try:
        await client.execute(command, timeout_s=DEREGISTER_TIMEOUT_S)
    except CoordinationError as error:
        log.warning("deregistration_failed", container_id=place.container_id, why=error.message)


def main() -> None:
    """Run the agent described by the environment of this process; exit 1 if it cannot run."""
    streams.prepare_streams()
    first.fork_if_first()
    configure("info", "json")
    try:
        end.run(run_agent(AgentPlace.read(os.environ)))
    except CoordinationError as error:
        sys.stderr.write(f"coordinator.agent: {error.message}\n")
        end.leave(1)
    end.leave(0)


if __name__ == "__main__":
    main()
