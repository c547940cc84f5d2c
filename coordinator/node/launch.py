"""What a container is started with: its environment, and the secrets that it names, which stay on this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordinator.runtime.protocol import Launch
from events.container import Secret
from events.errors import Refused
from events.ids import checked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from coordinator.commands.node import DesiredContainer

SECRET_BYTES_MAX = 64 * 1024


def launch_of(
    order: DesiredContainer,
    *,
    node_id: str,
    namespace: str,
    epoch: tuple[int, int],
    reach: Mapping[str, str],
    secrets: Path,
) -> Launch:
    """
    Say how to start the container of *order*; *reach* holds the variables by which it reaches NATS.

    Raises:
        Refused: a secret that it names is not in the folder *secrets*.
    """
    environment = {
        **reach,
        "COORDINATOR_NAMESPACE": namespace,
        "COORDINATOR_CONTAINER_ID": order.container_id,
        "COORDINATOR_AGENT_TYPE": order.agent_type,
        "COORDINATOR_NODE_ID": node_id,
    }
    for name, value in order.environment.items():
        environment[name] = _secret(value, node_id, secrets) if isinstance(value, Secret) else value
    return Launch(
        container_id=order.container_id,
        generation=order.generation,
        name=f"{namespace}-{order.container_id}-{order.generation}",
        cluster=namespace,
        epoch=f"{epoch[0]}.{epoch[1]}",
        image=order.image,
        command=order.command,
        environment=environment,
        cpu_millis=order.resources.cpu_millis,
        memory_bytes=order.resources.memory_bytes,
        stop_grace_s=order.stop_grace_s,
    )


def _secret(reference: Secret, node_id: str, secrets: Path) -> str:
    """Read a secret of this node; its name has passed `ids`, so it cannot leave the folder."""
    file = secrets / checked(reference.secret, "secret")
    try:
        content = file.read_bytes()
    except OSError as error:
        msg = f"secret {reference.secret!r} cannot be read on node {node_id}: put it into its secrets folder"
        raise Refused(msg, reason="no_secret") from error
    if len(content) > SECRET_BYTES_MAX:
        msg = f"secret {reference.secret!r} has {len(content)} bytes: at most {SECRET_BYTES_MAX}"
        raise Refused(msg, reason="no_secret")
    return content.decode().removesuffix("\n")
