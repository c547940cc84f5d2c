"""The client of Docker: which versions it accepts, and what it says of what is no Docker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.docker.engine import DockerEngine, EngineError, EngineVersion, agreed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOCKET = Path("/run/docker.sock")


@asynccontextmanager
async def server(socket: Path, *answers: bytes) -> AsyncIterator[None]:
    """Answer one request after the other on a socket, each with a whole response."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_unix_server(answer, socket)
    async with listening:
        yield


def response(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status.encode(), len(body), body)


@pytest.mark.parametrize(
    ("newest", "oldest", "used"),
    [("1.41", "1.12", "1.41"), ("1.45", "1.24", "1.45"), ("1.99", "1.24", "1.47"), ("1.99", "1.50", "1.50")],
)
def test_the_newest_version_that_both_know_is_used(newest: str, oldest: str, used: str) -> None:
    """A Docker newer than this client answers in the client's version, or in its own oldest."""
    assert agreed(EngineVersion(api_version=newest, min_api_version=oldest), SOCKET) == used


@pytest.mark.parametrize("version", ["1.40", "1.24", "0.99"])
def test_an_old_docker_is_refused(version: str) -> None:
    """The message names the version, and what is new enough."""
    with pytest.raises(Refused, match=rf"version {version} of its API: use Docker 20\.10 or newer"):
        agreed(EngineVersion(api_version=version), SOCKET)


@pytest.mark.parametrize("version", ["", "new", "1", "1.x", "1.41.1"])
def test_what_has_no_version_is_no_docker(version: str) -> None:
    with pytest.raises(Unavailable, match="is no Docker"):
        agreed(EngineVersion(api_version=version), SOCKET)


async def test_without_docker_the_socket_is_named(tmp_path: Path) -> None:
    """The message says which socket, and which setting."""
    with pytest.raises(Unavailable, match=r"none\.sock cannot be reached: .*node\.docker\.socket"):
        async with DockerEngine(tmp_path / "none.sock"):
            pass


async def test_answers_of_anything_else_are_errors(tmp_path: Path) -> None:
    """What is no answer of Docker raises; nothing is taken for an empty answer."""
    socket = tmp_path / "docker.sock"
    version = response("200 OK", msgspec.json.encode({"ApiVersion": "1.41"}))
    answers = (version, response("200 OK", b"<html>"), response("500 Oops", b"<html>"), b"\0\0\r\n\r\n")
    async with server(socket, *answers), DockerEngine(socket) as engine:
        assert engine.version == "1.41"
        with pytest.raises(Unavailable, match="cannot be read"):
            await engine.get("/info", dict[str, str])
        with pytest.raises(EngineError, match="500: <html>"):
            await engine.get("/info", dict[str, str])
        with pytest.raises(Unavailable, match="cannot be reached"):
            await engine.get("/info", dict[str, str])
