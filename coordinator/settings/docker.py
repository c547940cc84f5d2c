"""Settings of a node whose containers run on Docker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from coordinator.settings.fields import Location, Section, plain, wrong

_is_network = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}").fullmatch


def _network(value: str) -> str:
    if not _is_network(value):
        raise wrong("use none, bridge, or the name of a network that 'docker network create' has made")
    return value


class DockerSettings(Section):
    """Docker on this machine."""

    socket: Location = plain(
        Path("/var/run/docker.sock"), "socket of Docker's API; the node agent must be able to open it"
    )
    network: Annotated[str, AfterValidator(_network)] = plain(
        "none", "network of containers; with none they reach nothing, not even NATS"
    )
