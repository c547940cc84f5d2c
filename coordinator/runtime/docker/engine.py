"""
A client of the Docker Engine API on a unix socket: versions, errors, and the few requests that the runtime needs.

An answer is read into a type, bounded, and never logged: a container's configuration contains its environment.
"""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar

import httpx2
import msgspec

from coordinator.runtime.shortage import is_shortage
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path
    from types import TracebackType

OLDEST = (1, 41)
"""Docker 20.10: the first with `one-shot` statistics and with cgroup v2."""
NEWEST = (1, 47)
"""The newest version that this client was written for; a newer Docker still answers in it."""
ANSWER_TIMEOUT_S = 30.0
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
_MESSAGE_CHARS = 300
_read_version = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})").fullmatch

_T = TypeVar("_T")
Query: TypeAlias = "Mapping[str, str | int]"


class EngineError(Exception):
    """Docker answered with an error: `status` is that of HTTP, `message` Docker's own, shortened."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


class EngineVersion(msgspec.Struct, frozen=True, rename="pascal"):
    """The versions of the API that a Docker speaks."""

    api_version: str
    min_api_version: str = msgspec.field(name="MinAPIVersion", default="1.12")


class DockerEngine:
    """Talks to the Docker behind *socket*; open it with `async with`."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.version = ""
        """The version of the API in use, such as `1.41`."""
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """
        Connect and agree on a version.

        Raises:
            Unavailable: no Docker answers.
            Refused: it is too old.
        """
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=4)  # a stop waits on one of its own
        self._http = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(self.socket), limits=limits),
            base_url="http://docker",
            timeout=httpx2.Timeout(ANSWER_TIMEOUT_S),
            trust_env=False,
        )
        try:
            self.version = agreed(await self.get("/version", EngineVersion), self.socket)
        except EngineError as error:
            await self._close()
            raise Unavailable(f"Docker at {self.socket} tells no version: {error}") from error
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def get(self, path: str, answer: type[_T], query: Query | None = None) -> _T:
        """Return the answer to a GET; errors as `call`."""
        content = await self.call("GET", path, query=query)
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.MsgspecError as error:
            raise Unavailable(f"the answer of Docker at {self.socket} to {path} cannot be read: {error}") from None

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Query | None = None,
        timeout_s: float | None = ANSWER_TIMEOUT_S,
    ) -> bytes:
        """
        Send one request and return its answer.

        Raises:
            EngineError: Docker answered with an error.
            Unavailable: it did not answer within *timeout_s* (None: no limit).
        """
        try:
            async with asyncio.timeout(timeout_s), self.stream(method, path, body, query=query) as chunks:
                content = bytearray()
                async for chunk in chunks:
                    content += chunk
                    if len(content) > _ANSWER_BYTES_MAX:
                        raise Unavailable(f"the answer of Docker at {self.socket} to {path} is too large")
                return bytes(content)
        except TimeoutError as error:
            raise Unavailable(f"Docker at {self.socket} did not answer {path} within {timeout_s:g} s") from error

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Query | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send one request; the block reads the parts of its answer, whenever they come. Errors as `call`."""
        if self._http is None:
            raise Unavailable(f"the connection to Docker at {self.socket} is not open")
        prefix = f"/v{self.version}" if self.version else ""
        content = None if body is None else json.dumps(body).encode()
        try:
            async with self._http.stream(
                method,
                prefix + path,
                params=query,
                content=content,
                headers={"Content-Type": "application/json"} if content is not None else {},
                timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, read=None),
            ) as answer:
                if answer.is_error:
                    raise EngineError(answer.status_code, _message(await answer.aread()))
                yield answer.aiter_bytes()
        except (httpx2.HTTPError, OSError) as error:
            raise Unavailable(self._why(error)) from error

    def _why(self, error: Exception) -> str:
        if is_shortage(error):
            return f"this node lacks descriptors, processes, memory or disk: {error}"
        return (
            f"Docker at {self.socket} cannot be reached: {str(error) or type(error).__name__}: "
            "check that it runs, that node.docker.socket is its socket, and that this user may open it"
        )

    async def _close(self) -> None:
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()


def agreed(version: EngineVersion, socket: Path) -> str:
    """
    Return the version of the API that both sides speak.

    Raises:
        Refused: this Docker is too old.
    """
    theirs, oldest = _parsed(version.api_version, socket), _parsed(version.min_api_version, socket)
    if theirs < OLDEST:
        raise Refused(
            f"Docker at {socket} speaks version {version.api_version[:16]} of its API: "
            f"use Docker 20.10 or newer, which speaks {OLDEST[0]}.{OLDEST[1]}",
            reason="bad_runtime",
        )
    # One that has given up our newest version gets its own oldest, which is nearest to it.
    major, minor = max(min(theirs, NEWEST), oldest)
    return f"{major}.{minor}"


def _parsed(text: str, socket: Path) -> tuple[int, int]:
    match = _read_version(text)
    if match is None:
        raise Unavailable(f"what answers at {socket} is no Docker: its version is {text[:16]!r}")
    return int(match[1]), int(match[2])


def _message(content: bytes) -> str:
    try:
        text = msgspec.json.decode(content, type=_Message).message
    except msgspec.MsgspecError:
        text = content[:_MESSAGE_CHARS].decode(errors="replace")
    return " ".join(text.split())[:_MESSAGE_CHARS]
