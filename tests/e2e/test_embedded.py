"""The embedded nats-server: a real one, started, killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import pytest
from nats.aio.client import Client

from coordinator.errors import CoordinationError, Refused, Unavailable
from coordinator.nats_server import server as embedded
from coordinator.nats_server.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]

PARENT = """
import asyncio, pathlib, sys
from coordinator.nats_server.server import EmbeddedServer
async def main():
    async with EmbeddedServer(pathlib.Path(sys.argv[1])) as server:
        print(server.pid, server.url, file=sys.stderr, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "nats"


@pytest.fixture
def use_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a script that runs as the server and prints its version as a nats-server does."""

    def use(script: str, version: str = "2.15.1") -> Path:
        program = tmp_path / "fake-server"
        program.write_text(f'#!/bin/sh\ncase "$1" in --version) echo "nats-server: v{version}";; *) {script};; esac\n')
        program.chmod(0o755)
        monkeypatch.setenv("NATS_SERVER_BIN", str(program))
        return program

    return use


def is_alive(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() != "" and not done.stdout.startswith("Z")


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def ports_files(store: Path) -> list[Path]:
    return list(store.glob("*.ports"))


def leave_behind(ports_file: Path, store: Path) -> None:
    store.mkdir()
    for number in range(8):
        (store / f"nats-server_{number}.ports").write_bytes(ports_file.read_bytes())


async def eventually(condition: Callable[[], bool]) -> bool:
    """Wait up to a second for *condition*."""
    for _ in range(100):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


async def connect(url: str) -> Client:
    async def ignore(_: Exception) -> None:
        """The port stays the same, so that clients can reconnect."""

    return await nats.connect(url, error_cb=ignore, connect_timeout=2, reconnect_time_wait=0.05)


async def ask(port: int, request: bytes) -> bytes:
    """Send *request* and read until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def publish(url: str, text: str) -> None:
    client = await connect(url)
    await client.jetstream().add_stream(name="JOURNAL", subjects=["journal"])
    await client.jetstream().publish("journal", text.encode())
    await client.close()


async def stored(url: str) -> str:
    client = await connect(url)
    message = await client.jetstream().get_last_msg("JOURNAL", "journal")
    await client.close()
    return (message.data or b"").decode()


@asynccontextmanager
async def running_parent(store: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, str]]:
    """Run a server under another process, killed at the end; yield that process, the server's pid and its URL."""
    command, env = [sys.executable, "-c", PARENT, str(store)], {**os.environ, "PYTHONPATH": str(ROOT)}
    to_null, to_us = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, stdout=to_null, stderr=to_us)
    assert process.stderr is not None
    try:
        pid, url = (await process.stderr.readline()).decode().split()
        yield process, int(pid), url
    finally:
        await kill(process)
        await process.communicate()


async def kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def failure(store: Path, **options: Any) -> CoordinationError:
    with pytest.raises(CoordinationError) as caught:
        async with EmbeddedServer(store, **options):
            pass
    return caught.value


@pytest.mark.alone
async def test_it_is_ready_when_the_block_is_entered(store: Path) -> None:
    """JetStream answers at once, in well under a second, and the server is gone after the block."""
    began = time.monotonic()
    async with EmbeddedServer(store) as server:
        took_s = time.monotonic() - began
        await publish(server.url, "hello")
        assert await stored(server.url) == "hello"
    assert not is_alive(server.pid)
    assert took_s < 1


async def test_it_runs_with_the_settings_that_make_acknowledgements_true(store: Path) -> None:
    """The server syncs before it acknowledges, listens on loopback only, and pins limits that the client depends on."""
    async with EmbeddedServer(store) as server:
        answer = await ask(server._known.monitor_port, b"GET /varz HTTP/1.0\r\n\r\n")
    settings = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert settings["jetstream"]["config"]["sync_always"] is True
    names = "host", "http_host", "max_payload"
    assert [settings[name] for name in names] == ["127.0.0.1", "127.0.0.1", 1024 * 1024]
    assert not settings.get("feature_flags", {}).get("js_ack_fc_v2", False)


@pytest.mark.parametrize("options", [b"{}", b'{"auth_token": "another"}'])
async def test_only_who_has_the_token_may_connect(options: bytes, store: Path) -> None:
    """Without the token, or with another one, a client is refused."""
    async with EmbeddedServer(store) as server:
        answer = await ask(server.port, b"CONNECT " + options + b"\r\nPING\r\n")
    assert b"-ERR 'Authorization Violation'" in answer


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
async def test_the_token_is_on_no_command_line_and_in_no_log(store: Path) -> None:
    """Neither the arguments of the server and the watcher nor the log contain the token."""
    async with EmbeddedServer(store) as server:
        for line in (command_line(server.pid), command_line(server._started.pid)):
            assert str(store).encode() in line
            assert server.token.encode() not in line
    assert server.token not in server.log_file.read_text()
    assert server.log_file.stat().st_mode & 0o077 == 0


async def test_a_store_has_one_server(store: Path) -> None:
    """A second server on the store is refused at once, here and from another process; the message names the holder."""
    async with EmbeddedServer(store):
        async with asyncio.timeout(1):
            error = await failure(store)
        assert (type(error), error.reason) == (Refused, "store_in_use")
        assert f"{store} is in use by process {os.getpid()};" in error.message
    async with running_parent(store) as (parent, _, _):
        assert f"in use by process {parent.pid};" in (await failure(store)).message


async def test_two_servers_get_different_ports(store: Path, tmp_path: Path) -> None:
    """Servers started at the same moment do not collide."""
    one, two = EmbeddedServer(store), EmbeddedServer(tmp_path / "other")
    await asyncio.gather(one.__aenter__(), two.__aenter__())
    assert (one.port == two.port, one.token == two.token) == (False, False)
    await asyncio.gather(one.__aexit__(), two.__aexit__())


@pytest.mark.parametrize("name", ["with space", 'quo"te', "back\\slash", "#hash", "dol$lar", "schnee☃", "'single'"])
async def test_the_store_may_have_any_name(name: str, tmp_path: Path) -> None:
    """Characters that are nats.conf syntax stay part of the path, and the data is where it was requested."""
    async with EmbeddedServer(tmp_path / name):
        assert (tmp_path / name / "jetstream").is_dir()


async def test_a_graceful_stop_leaves_a_store_that_opens_again(store: Path) -> None:
    """The server exits with code 0; a later one has the acknowledged data, and the same URL if requested."""
    async with EmbeddedServer(store) as server:
        await publish(server.url, "kept")
        ended = asyncio.ensure_future(server.wait_exit())
    assert await ended == 0
    assert "Server Exiting" in server.log_file.read_text()
    async with EmbeddedServer(store, port=server.port, token=server.token) as later:
        assert later.url == server.url
        assert await stored(later.url) == "kept"


async def test_clients_live_through_a_restart(store: Path) -> None:
    """A killed server comes back, at the latest at the second attempt, with port, token and data; clients reconnect."""
    async with EmbeddedServer(store) as server:
        await publish(server.url, "kept")
        client, url, first = await connect(server.url), server.url, server.pid
        os.kill(server.pid, signal.SIGKILL)
        assert await server.wait_exit() == 128 + signal.SIGKILL
        binary, server._binary = server._binary, "/no/such/server"
        with pytest.raises(Unavailable, match="ended with code 127"):
            await server.restart()
        server._binary = binary
        await server.restart()
        assert (server.url, server.pid == first) == (url, False)
        assert await eventually(lambda: client.is_connected)
        assert (await client.jetstream().get_last_msg("JOURNAL", "journal")).data == b"kept"
        await client.close()


async def test_what_a_killed_server_left_behind_is_not_believed(store: Path, tmp_path: Path) -> None:
    """An old ports file, even one that names a living server, is not mistaken for the new server's."""
    async with EmbeddedServer(tmp_path / "other") as other:
        leave_behind(ports_files(tmp_path / "other")[0], store)
        async with EmbeddedServer(store) as server:
            assert server.port != other.port
            assert len(ports_files(store)) == 1


async def test_nothing_is_left_when_the_parent_is_killed(store: Path) -> None:
    """The server stops cleanly within a second; what it acknowledged is there for the next."""
    async with running_parent(store) as (parent, pid, url):
        await publish(url, "kept")
        await kill(parent)
        assert await eventually(lambda: not is_alive(pid))
    assert "Server Exiting" in store.with_name("nats.log").read_text()
    async with EmbeddedServer(store) as server:
        assert await stored(server.url) == "kept"


async def test_the_successor_of_a_killed_parent_waits_for_its_server(store: Path) -> None:
    """A server started right after the kill never shares the store with one that is still stopping."""
    async with running_parent(store) as (parent, pid, url):
        await publish(url, "kept")
        await kill(parent)
        async with EmbeddedServer(store) as server:
            assert not is_alive(pid)
            assert await stored(server.url) == "kept"


async def test_a_server_that_was_left_behind_keeps_its_store(store: Path) -> None:
    """While the server hangs, the store is refused, even though its parent is dead."""
    async with running_parent(store) as (parent, pid, _):
        os.kill(pid, signal.SIGSTOP)
        await kill(parent)
        error = await failure(store, stop_grace_s=0.2)
        assert f"in use by a server that process {parent.pid} left behind" in error.message
        os.kill(pid, signal.SIGCONT)
        async with EmbeddedServer(store):
            pass


async def test_the_server_goes_when_its_watcher_is_killed(store: Path) -> None:
    """The server stops cleanly, the parent is notified, and can start it again."""
    async with EmbeddedServer(store) as server:
        await publish(server.url, "kept")
        first = server.pid
        os.kill(server._started.pid, signal.SIGKILL)
        assert await server.wait_exit() == -signal.SIGKILL
        assert not is_alive(first)
        assert "Server Exiting" in server.log_file.read_text()
        await server.restart()
        assert await stored(server.url) == "kept"


@pytest.mark.parametrize("given", ["/no/such/server", "no-such-server", str(ROOT)])
async def test_a_wrong_binary_is_named(given: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binary named by NATS_SERVER_BIN is used or refused, never ignored."""
    monkeypatch.setenv("NATS_SERVER_BIN", given)
    error = await failure(store)
    assert (type(error), error.reason) == (Refused, "nats_server_not_found")
    assert f"NATS_SERVER_BIN {given!r} is not a program" in error.message


@pytest.mark.parametrize("version", ["2.10.27", "2.12.8", "1.4.1"])
async def test_too_old_a_server_is_refused(version: str, store: Path, use_server: Callable[..., Path]) -> None:
    """The message names the version found and the version needed."""
    use_server("exit 1", version)
    error = await failure(store)
    assert (type(error), error.reason) == (Refused, "nats_server_too_old")
    assert f"is nats-server {version}; 2.14.0 or newer is needed" in error.message


async def test_another_program_is_no_server(store: Path, use_server: Callable[..., Path]) -> None:
    """A program that does not identify as a nats-server is not started as one; nor is a file that cannot run."""
    use_server("exit 1").write_text("no program")
    assert (await failure(store)).reason == "nats_server_unusable"
    os.environ["NATS_SERVER_BIN"] = "/bin/echo"
    assert "a nats-server prints" in (await failure(store)).message


async def test_a_server_that_ends_at_once_shows_its_last_words(store: Path, use_server: Callable[..., Path]) -> None:
    """The error holds the exit code and the end of the log, and the store is free again."""
    use_server("echo 'no space left' >&2; exit 3")
    error = await failure(store)
    assert (type(error), error.reason) == (Unavailable, "nats_server_not_ready")
    assert "ended with code 3 before it was ready" in error.message
    assert error.message.endswith("no space left")
    del os.environ["NATS_SERVER_BIN"]
    async with EmbeddedServer(store):
        pass


async def test_a_server_that_never_gets_ready_is_given_up(
    store: Path, tmp_path: Path, use_server: Callable[..., Path]
) -> None:
    """A server that does not become ready in time is stopped."""
    use_server(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    error = await failure(store, ready_timeout_s=0.3)
    assert (type(error), error.reason) == (Unavailable, "nats_server_not_ready")
    assert "was not ready after 0.3 s" in error.message
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_taken_port_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed port that stays in use is an error after a while; a port freed in that time is used."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(embedded, "_PORT_PATIENCE_S", 0.1)
        error = await failure(store, port=port)
        assert (type(error), error.reason) == (Unavailable, "port_taken")
        assert f"port {port} is in use" in error.message
        monkeypatch.setattr(embedded, "_PORT_PATIENCE_S", 10.0)
        asyncio.get_running_loop().call_later(0.1, other.close)
        async with EmbeddedServer(store, port=port) as server:
            assert server.port == port


async def test_the_next_free_port_is_used(store: Path) -> None:
    """With more ports to try, the first free one after a taken one is used; when all are taken the range is named."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        first.listen()
        port = first.getsockname()[1]
        second.bind(("127.0.0.1", port + 1))
        second.listen()
        error = await failure(store, port=port, next_ports=1)
        assert (type(error), error.reason) == (Unavailable, "port_taken")
        assert f"ports {port} to {port + 1} are in use" in error.message
        async with EmbeddedServer(store, port=port, next_ports=50) as server:
            assert port + 1 < server.port <= port + 50
            before = server.port
            first.close()
            await server.restart()
            assert server.port == before


@pytest.mark.parametrize("options", [{"port": 0}, {"port": 65536}, {"token": "1starts-with-a-digit"}, {"token": "a b"}])
def test_unusable_arguments_are_refused(options: dict[str, Any], store: Path) -> None:
    """A port or token that nats.conf cannot hold is refused before anything is started."""
    with pytest.raises(Refused, match="must be"):
        EmbeddedServer(store, **options)


async def test_a_cancelled_start_leaves_nothing(store: Path) -> None:
    """A caller that stops waiting for the server, at any moment, leaves no process and no lock."""
    for delay_s in (0.0, 0.005, 0.01, 0.02, 0.03, 0.04):
        starting = asyncio.ensure_future(EmbeddedServer(store).__aenter__())
        await asyncio.sleep(delay_s)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await starting.result().__aexit__()
    async with EmbeddedServer(store):
        pass


async def test_twenty_servers_later_nothing_is_left(store: Path) -> None:
    """Starting and stopping leaks no process and no open file."""
    async with EmbeddedServer(store):
        pass
    before, pids = open_files(), []
    for _ in range(20):
        async with EmbeddedServer(store) as server:
            pids += [server.pid, server._started.pid]
    assert open_files() == before
    assert not [pid for pid in pids if is_alive(pid)]
    assert not ports_files(store)
