"""Images that Docker does not have are pulled from a registry, once, and a start waits only so long for them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest

from coordinator.errors import Refused, Unavailable
from coordinator.runtime.docker.runtime import DockerRuntime
from coordinator.runtime.protocol import Launch, RuntimeState
from tests import registry
from tests.docker_engine import Docker, busybox
from tests.launches import CLUSTER, launch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.registry import Registry

pytestmark = pytest.mark.docker
TRIES = 100


@pytest.fixture
async def shelf(docker: Docker) -> AsyncIterator[Registry]:
    """A registry with one image, which Docker does not have."""
    async with registry.serving("team/agent", busybox(uuid4().hex)) as served:
        yield served
        docker.remove_all()
        docker.run("rmi", "-f", served.image, check=False)


@asynccontextmanager
async def opened(docker: Docker, root: Path, **options: Any) -> AsyncIterator[DockerRuntime]:
    async with DockerRuntime(root / "records", cluster=CLUSTER, socket=docker.socket, **options) as runtime:
        yield runtime


def sleeper(image: str, container_id: str = "a") -> Launch:
    return msgspec.structs.replace(launch(container_id, "sleep", "600"), image=image)


async def test_a_missing_image_is_pulled_once(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """For all starts that want it at the same time; later ones find it."""
    async with opened(docker, tmp_path) as runtime:
        names = ("a", "b", "c")
        seen = await asyncio.gather(*(runtime.start(sleeper(shelf.image, name)) for name in names))
        assert {one.state for one in seen} == {RuntimeState.RUNNING}
        assert sum("/blobs/" in path for path in shelf.asked) == 2  # its configuration, and its one layer
        asked = len(shelf.asked)
        await runtime.start(sleeper(shelf.image, "d"))
        assert len(shelf.asked) == asked


async def test_a_start_waits_only_so_long(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """It fails and says why; the pull goes on, and a later start finds the image."""
    shelf.open.clear()
    async with opened(docker, tmp_path, pull_wait_s=0.5) as runtime:
        for _ in range(2):
            with pytest.raises(Unavailable, match="is still being pulled"):
                await runtime.start(sleeper(shelf.image))
        assert await runtime.list() == []
        shelf.open.set()
        for _ in range(TRIES):
            if docker.run("images", "-q", shelf.image):
                break
            await asyncio.sleep(0.1)
        assert (await runtime.start(sleeper(shelf.image))).state is RuntimeState.RUNNING
        assert sum("/manifests/v1" in path for path in shelf.asked) <= 2  # one pull: a HEAD and a GET, if at all


async def test_what_cannot_be_pulled_is_named(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """An image that is not there, a registry that is not there; nothing is left, and others start."""
    async with opened(docker, tmp_path) as runtime:
        nowhere = f"{shelf.address}/team/other:v1"
        with pytest.raises((Refused, Unavailable), match=f"image '{nowhere}' cannot be pulled: .*manifest unknown"):
            await runtime.start(sleeper(nowhere))
        with pytest.raises(Unavailable, match=r"image '127\.0\.0\.1:9/agent' cannot be pulled: "):
            await runtime.start(sleeper("127.0.0.1:9/agent"))
        assert await runtime.list() == []
        assert (await runtime.start(sleeper(shelf.image))).state is RuntimeState.RUNNING


async def test_never_means_never(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """The registry is not asked, and the refusal says what to do."""
    async with opened(docker, tmp_path, pulls="never") as runtime:
        with pytest.raises(Refused, match="is not on this node: pull it with 'docker pull' first"):
            await runtime.start(sleeper(shelf.image))
    assert shelf.asked == []


async def test_always_asks_before_each_start(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """Also for an image that Docker has: its tag may be another image by now."""
    async with opened(docker, tmp_path, pulls="always") as runtime:
        await runtime.start(sleeper(shelf.image, "a"))
        asked = len(shelf.asked)
        await runtime.start(sleeper(shelf.image, "b"))
        assert len(shelf.asked) > asked


async def test_a_pull_ends_with_its_runtime(docker: Docker, shelf: Registry, tmp_path: Path) -> None:
    """It leaves no task behind, and the next runtime pulls again."""
    shelf.open.clear()
    async with opened(docker, tmp_path, pull_wait_s=0.2) as runtime:
        with pytest.raises(Unavailable, match="is still being pulled"):
            await runtime.start(sleeper(shelf.image))
    shelf.open.set()
    async with opened(docker, tmp_path) as runtime:
        assert (await runtime.start(sleeper(shelf.image))).state is RuntimeState.RUNNING
