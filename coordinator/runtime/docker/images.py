"""
Pulls images into the Docker of a node: each at most once at a time, and however long it takes.

A start waits for its image only so long. Then it fails and says how far the pull is; the pull goes on, and a later
start finds the image.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from coordinator.runtime.docker.engine import EngineError
from events.errors import CoordinationError, Refused, Unavailable

if TYPE_CHECKING:
    from coordinator.runtime.docker.engine import DockerEngine

AT_ONCE = 3
"""So many images are pulled at the same time, as by Docker's own default of layers."""
STALLED_S = 120.0
"""A pull of which Docker tells nothing for so long has failed."""
_LINE_BYTES_MAX = 64 * 1024
_NOT_FOUND = 404
_MIB = 1024 * 1024


class _Detail(msgspec.Struct, frozen=True):
    current: int = 0
    total: int = 0


class _Progress(msgspec.Struct, frozen=True):
    """One line of what Docker tells during a pull."""

    id: str = ""
    status: str = ""
    error: str = ""
    detail: _Detail = msgspec.field(name="progressDetail", default=_Detail())


class Images:
    """The pulls of one Docker; close it with `close`."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._pulls: dict[str, _Pull] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def pull(self, image: str, *, wait_s: float) -> None:
        """
        Pull *image*, or join the pull of it that is under way.

        Raises:
            Refused: there is no such image, or Docker may not have it.
            Unavailable: it could not be pulled, or not within *wait_s*; then the pull goes on.
        """
        pull = self._pulls.get(image)
        if pull is None:
            pull = self._pulls[image] = _Pull(image, self._engine)
            pull.task = asyncio.create_task(pull.run(self._room))
            pull.task.add_done_callback(lambda _: self._pulls.pop(image, None))
        assert pull.task is not None
        done, _ = await asyncio.wait([pull.task], timeout=wait_s)
        if not done:
            raise Unavailable(f"image {image!r} is still being pulled{pull.shown}: a later start finds it")
        if (error := pull.task.result()) is not None:
            raise error

    async def close(self) -> None:
        """End the pulls that are under way; Docker keeps the layers that it has."""
        tasks = [pull.task for pull in self._pulls.values() if pull.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Pull:
    """One pull, and how many bytes of its layers have come."""

    def __init__(self, image: str, engine: DockerEngine) -> None:
        self.task: asyncio.Task[CoordinationError | None] | None = None
        self._image = image
        self._engine = engine
        self._layers: dict[str, _Detail] = {}

    @property
    def shown(self) -> str:
        """How far it is, for people; "" before anything is known."""
        total = sum(one.total for one in self._layers.values())
        current = sum(one.current for one in self._layers.values())
        return f" ({current / _MIB:.0f} of {total / _MIB:.0f} MiB)" if total else ""

    async def run(self, room: asyncio.Semaphore) -> CoordinationError | None:
        """Pull it when there is *room*, and return what is wrong: nobody might await an error that is raised."""
        try:
            async with room:
                await self._read()
        except EngineError as error:
            why = f"image {self._image!r} cannot be pulled: {error.message}"
            if error.status == _NOT_FOUND:
                return Refused(why, reason="bad_launch")
            return Unavailable(why)
        except TimeoutError:
            return Unavailable(f"image {self._image!r} cannot be pulled: nothing has come for {STALLED_S:g} s")
        except CoordinationError as error:
            return error
        return None

    async def _read(self) -> None:
        name, tag = reference(self._image)
        async with self._engine.stream("POST", "/images/create", query={"fromImage": name, "tag": tag}) as chunks:
            rest = b""
            with suppress(StopAsyncIteration):
                while True:
                    async with asyncio.timeout(STALLED_S):
                        chunk = await anext(chunks)
                    *lines, rest = (rest + chunk).split(b"\n")
                    rest = rest[:_LINE_BYTES_MAX]
                    for line in lines:
                        self._hear(line)
            self._hear(rest)

    def _hear(self, line: bytes) -> None:
        try:
            told = msgspec.json.decode(line, type=_Progress)
        except msgspec.MsgspecError:
            return  # what it is about is of no use here
        if told.error:
            raise EngineError(0, " ".join(told.error.split())[:300])
        if told.status == "Downloading":
            self._layers[told.id] = told.detail


def reference(image: str) -> tuple[str, str]:
    """Return name and tag of an image, or its digest in place of the tag; without either the tag is `latest`."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    head, colon, tag = image.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (image, "latest")
