"""A registry of images on the loopback, of which a real Docker pulls: one layer for each image, over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves image *name* with a tag `v1`; while `open` is not set it withholds the layer. `asked` are the paths."""

    def __init__(self, name: str, files: bytes) -> None:
        self.name = name
        self.open = asyncio.Event()
        self.open.set()
        self.asked: list[str] = []
        self.address = ""
        layer = gzip.compress(files, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(files)]},
            }
        ).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)}],
        }
        self._manifest = json.dumps(manifest).encode()
        self._layer = _digest(layer)
        self._blobs = {_digest(config): config, self._layer: layer}

    @property
    def image(self) -> str:
        """The image as Docker names it."""
        return f"{self.address}/{self.name}:v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while (line := await reader.readline()).startswith((b"GET ", b"HEAD ")):  # Docker tries TLS first
                method, path, _ = line.decode().split()
                while (await reader.readline()).strip():
                    pass
                self.asked.append(path)
                status, kind, body = await self._answer(path)
                head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                if status == "200 OK" and body:
                    head += f"Docker-Content-Digest: {_digest(body)}\r\n"
                writer.write(f"{head}Docker-Distribution-API-Version: registry/2.0\r\n\r\n".encode())
                writer.write(b"" if method == "HEAD" else body)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, path: str) -> tuple[str, str, bytes]:
        if path == "/v2/":
            return "200 OK", "application/json", b"{}"
        begin = f"/v2/{self.name}/"
        what, _, which = path.removeprefix(begin).partition("/")
        if path.startswith(begin) and what == "manifests" and which in ("v1", _digest(self._manifest)):
            return "200 OK", _MANIFEST, self._manifest
        if path.startswith(begin) and what == "blobs" and which in self._blobs:
            if which == self._layer:
                await self.open.wait()
            return "200 OK", "application/octet-stream", self._blobs[which]
        missing = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return "404 Not Found", "application/json", json.dumps(missing).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@asynccontextmanager
async def serving(name: str, files: bytes) -> AsyncIterator[Registry]:
    """Serve an image of these files, a tar archive, while the block runs."""
    registry = Registry(name, files)
    server = await asyncio.start_server(registry.serve, "127.0.0.1", 0)
    registry.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield registry
    finally:
        registry.open.set()
        server.close()
