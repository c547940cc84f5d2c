"""Builds the launch of a container: its environment, with secrets read on this node, which never leave it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.runtime.protocol import Launch
from coordinator.runtime.shortage import is_shortage
from events.container import Secret
from events.errors import Refused, Unavailable
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordinator.commands.node import DesiredContainer

SECRET_BYTES_MAX = 64 * 1024


def launch_of(
    desired: DesiredContainer,
    *,
    node_id: str,
    namespace: str,
    epoch: tuple[int, int],
    reach: Mapping[str, str],
    secrets: Path,
    until: float | None = None,
) -> Launch:
    """
    Return the launch of the container *desired*; *reach* holds the variables with which it connects to NATS.

    *until* is when the grant ends under which it was ordered, in seconds of `Clock.heard`.

    Raises:
        Refused: it names a secret that the folder *secrets* does not have.
        Unavailable: this process has no descriptor to read it with.
    """
    environment = {
        **reach,
        "COORDINATOR_NAMESPACE": namespace,
        "COORDINATOR_CONTAINER_ID": desired.container_id,
        "COORDINATOR_GENERATION": desired.generation,
        "COORDINATOR_AGENT_TYPE": desired.agent_type,
        "COORDINATOR_NODE_ID": node_id,
    }
    if desired.tenant:
        environment["COORDINATOR_CLIENT__TENANT"] = desired.tenant
    if desired.traceparent:
        environment["TRACEPARENT"] = desired.traceparent
    for name, value in desired.environment.items():
        environment[name] = _secret(value, node_id, secrets) if isinstance(value, Secret) else value
    return Launch(
        container_id=desired.container_id,
        generation=desired.generation,
        name=f"{namespace}-{desired.container_id}-{desired.generation}",
        cluster=namespace,
        epoch=f"{epoch[0]}.{epoch[1]}",
        image=desired.image,
        command=desired.command,
        environment=environment,
        cpu_millis=desired.resources.cpu_millis,
        memory_bytes=desired.resources.memory_bytes,
        stop_grace_s=desired.stop_grace_s,
        until=until,
    )


def _secret(reference: Secret, node_id: str, secrets: Path) -> str:
    """Read a secret of this node; `checked` rejects names that would leave the folder."""
    file = secrets / checked(reference.secret, "secret")
    try:
        content = file.read_bytes()
    except OSError as error:
        if is_shortage(error):
            raise Unavailable(f"secret {reference.secret!r} cannot be read on node {node_id} now: {error}") from error
        msg = f"secret {reference.secret!r} cannot be read on node {node_id}: put it into the node's secrets folder"
        raise Refused(msg, reason="no_secret") from error
    if len(content) > SECRET_BYTES_MAX:
        msg = f"secret {reference.secret!r} has {len(content)} bytes: use at most {SECRET_BYTES_MAX}"
        raise Refused(msg, reason="no_secret")
    return content.decode().removesuffix("\n")
