"""Builds the launch of a container: its environment, with secrets read on this node, which never leave it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from coordinator.runtime.protocol import Launch
from coordinator.runtime.shortage import is_shortage
from events.container import Secret
from events.errors import Refused, Unavailable
from events.ids import checked
from events.resources import NONE

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
        Refused: it names a secret that the folder *secrets* does not have as text.
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
    limits = desired.limits if desired.limits != NONE else desired.resources
    return Launch(
        container_id=desired.container_id,
        generation=desired.generation,
        name=f"{namespace}-{desired.container_id}-{desired.generation}",
        cluster=namespace,
        epoch=f"{epoch[0]}.{epoch[1]}",
        image=desired.image,
        command=desired.command,
        environment=environment,
        cpu_millis=limits.cpu_millis,
        memory_bytes=limits.memory_bytes,
        stop_grace_s=desired.stop_grace_s,
        until=until,
    )


def _secret(reference: Secret, node_id: str, secrets: Path) -> str:
    """Read a secret of this node; `checked` rejects names that would leave the folder. Errors never quote it."""
    file = secrets / checked(reference.secret, "secret")
    try:
        content = _read(file)
    except OSError as error:
        if is_shortage(error):
            raise Unavailable(f"secret {reference.secret!r} cannot be read on node {node_id} now: {error}") from error
        why = "put it into the node's secrets folder" if isinstance(error, FileNotFoundError) else error.strerror
        raise _unusable(reference, node_id, f"cannot be read: {why}") from error
    if content is None:
        raise _unusable(reference, node_id, "is not a file: use a regular file")
    if len(content) > SECRET_BYTES_MAX:
        raise _unusable(reference, node_id, f"has more than {SECRET_BYTES_MAX} bytes, the most of a secret")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text from byte {error.start} on: store binary values as base64"
        raise _unusable(reference, node_id, why) from None
    if "\0" in text:
        raise _unusable(reference, node_id, "contains NUL, which no variable can: store binary values as base64")
    return text.removesuffix("\n")


def _read(file: Path) -> bytes | None:
    """Return the bytes of a file, one more than allowed at most; None if it is a directory, a pipe or a device."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.pread(descriptor, SECRET_BYTES_MAX + 1, 0)
    finally:
        os.close(descriptor)


def _unusable(reference: Secret, node_id: str, why: str) -> Refused:
    return Refused(f"secret {reference.secret!r} on node {node_id} {why}", reason="no_secret")
