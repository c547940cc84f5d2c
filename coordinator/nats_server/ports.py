"""Where a nats-server on this machine listens: the file that it writes into its store when it is ready."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class ServerPorts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the server reports in its ports file."""

    pid: int
    port: int
    monitor_port: int


class _Written(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The ports file, as the server writes it."""

    nats: list[str]
    monitoring: list[str]


def running_on(store: Path) -> ServerPorts | None:
    """Read `<program>_<pid>.ports` in *store*; return None while it is missing or half written."""
    for path in store.glob("*.ports"):
        with suppress(msgspec.DecodeError, FileNotFoundError):
            ports = msgspec.json.decode(path.read_bytes(), type=_Written)
            port, monitor_port = (int(urls[0].rpartition(":")[2]) for urls in (ports.nats, ports.monitoring))
            return ServerPorts(pid=int(path.stem.rpartition("_")[2]), port=port, monitor_port=monitor_port)
    return None


def remove_left(store: Path) -> None:
    """Remove the file that a killed server left behind, which names its ports."""
    for stale in store.glob("*.ports"):
        stale.unlink(missing_ok=True)
