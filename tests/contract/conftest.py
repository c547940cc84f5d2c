"""Real servers for the contract suites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.bus.connection import Bus
from tests.docker_engine import Docker, needed_docker, running
from tests.real_server import RealServer, real_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker for the run; without one its tests are skipped, or fail where it is required."""
    needed_docker()
    with running(tmp_path_factory.mktemp("docker")) as daemon:
        yield daemon


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RealServer]:
    """A nats-server for each test."""
    async with real_server(tmp_path) as running:
        yield running


@pytest.fixture
async def bus(server: RealServer) -> AsyncIterator[Bus]:
    """An unbuffered connection to the server, as the writer uses."""
    async with Bus.open(server.url, name="test", buffered=False) as opened:
        yield opened
