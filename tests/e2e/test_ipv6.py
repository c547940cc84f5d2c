"""A cluster whose NATS has an IPv6 address only: every program connects, and shows such addresses in brackets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from coordinator.registry import HealthChecker, ServiceDiscovery, ServiceRegistry, ServiceStatus
from tests.commands import call, run, running
from tests.real_server import Server6

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()


async def test_everything_at_ipv6_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinator, follower, programs and the command line; a service at [::1] is checked, found and listed."""
    server = Server6(tmp_path)
    await server.start()
    monkeypatch.setenv("COORDINATOR_URL", server.url)
    written = tmp_path / "log"
    try:
        with running("serve", "--nats", server.url, written=written) as serving:
            await asyncio.to_thread(serving.until_written, "leadership_started")
            async with await asyncio.start_server(_answer, "::1", 0) as web, ServiceRegistry() as registry:
                port = web.sockets[0].getsockname()[1]
                await registry.register_service("web", "http", "::1", port, f"http://[::1]:{port}/", service_id="web6")
                async with HealthChecker(registry) as checker:
                    assert (await checker.check_service("web6")).ok
                assert (await registry.get_service("web6")).status is ServiceStatus.HEALTHY
                found = await ServiceDiscovery(registry).discover_service("web")
                assert found is not None
                assert (found.host, found.port) == ("::1", port)
                listed = await asyncio.to_thread(run, "service", "list")
                assert f"[::1]:{port}" in listed.out
                doctor = await asyncio.to_thread(run, "doctor", "--monitor", server.monitor)
                assert "sync_interval: always" in doctor.out
    finally:
        await server.stop()


def test_the_configuration_of_a_server_with_an_ipv6_address(tmp_path: Path) -> None:
    """`auth init` takes `[::1]:4222`, and refuses an address that no server could listen on."""
    made = run("auth", "init", str(tmp_path / "auth"), "--listen", "[::1]:4222", "--host", "::1", "--tls")
    assert made.code == 0
    assert "tls://[::1]:4222" in made.err
    assert 'listen: "[::1]:4222"' in (tmp_path / "auth/nats.conf").read_text()
    for listen in ("::1:4222", "[::1", "host:99999", "a@b:1"):
        refused = run("auth", "init", str(tmp_path / "other"), "--listen", listen)
        assert refused.code != 0
        assert listen in refused.err
        assert "[address]:port" in refused.err
    refused = run("auth", "init", str(tmp_path / "other"), "--host", "[::1]")
    assert refused.code != 0
    assert "[::1]" in refused.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "command", [("service", "list"), ("doctor",), ("serve",), ("follow",), ("node", "run"), ("inbox", "list")]
)
def test_a_bad_url_is_refused_by_name(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """No URL fails by a defect of the program."""
    monkeypatch.setenv("COORDINATOR_FOLLOWER__NICENESS", "0")  # that of this process
    for url in ("nats://[::1", "nats://::1:4222", "nats://host:99999"):
        monkeypatch.setenv("COORDINATOR_URL", url)
        said = call(*command)
        assert said.code != 0
        assert "defect" not in said.err
        assert f"'{url}' is not a NATS URL" in said.err + said.out
