"""Settings of the runtimes of a node: Docker, and OCI runtimes without a daemon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from coordinator.settings.fields import AnyCase, Location, Section, number, plain, wrong

_USER_MOST = 2**31 - 1
_is_network = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}").fullmatch
_is_program = re.compile(r"(/[^\x00-\x1f]{1,4095}|[A-Za-z0-9][A-Za-z0-9_.-]{0,127})").fullmatch


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
    pull: Annotated[Literal["missing", "always", "never"], AnyCase] = plain(
        "missing", "which images are pulled before a start: those that Docker does not have, all, or none"
    )


def _program(value: str) -> str:
    if not _is_program(value):
        raise wrong("use the name of a program, or an absolute path")
    return value


def _init(value: str) -> str:
    return value and _program(value)


class OciSettings(Section):
    """An OCI runtime on this machine."""

    program: Annotated[str, AfterValidator(_program)] = plain("runc", "runc, crun, runsc (gVisor), or a path of one")
    images: Location | None = plain(
        None, "folder of images, each an unpacked root file system; empty: images in the home"
    )
    network: Annotated[Literal["none", "host"], AnyCase] = plain(
        "none", "network of containers: none, where they reach nothing, not even NATS; or that of the node"
    )
    user: int = number(65_534, 1, _USER_MOST, "id of the user and group that commands run as, without any rights")
    init: Annotated[str, AfterValidator(_init)] = plain(
        "", "static init that is process 1 of containers, such as tini-static; empty finds one, none leaves it out"
    )
