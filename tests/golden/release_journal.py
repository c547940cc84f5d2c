"""
Serve the store of a release, read its journal by the wire protocol alone, and fold it.

The result of a fold is written as JSON, so that it can be compared after modules were renamed and states have got new
fields.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import nats

from projections.source import Record
from projections.world import World
from tests.real_server import TOKEN, RealServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.aio.client import Client as Connection

TABLES = ("containers", "services", "tasks", "workers", "nodes", "pools", "sessions", "inboxes")
MAPS = ("totals", "silences")
SCALARS = ("time", "generation", "epoch", "holder", "leader", "retention_s", "ended_kept", "unfoldable", "restored_at")
KEYS = {
    "containers": "container_id", "services": "service_id", "tasks": "task_id", "workers": "worker_id",
    "nodes": "node_id", "pools": "pool_id", "sessions": "session_id", "inboxes": "domain",
}  # fmt: skip
STREAM = "COORDINATION_JOURNAL"
SNAPSHOTS = "COORDINATION_SNAPSHOTS"
STOP_S = 20.0

_CONF = """
listen: "127.0.0.1:{port}"
server_name: "coordinator"
ports_file_dir: "{folder}"
authorization {{ token: "{token}" }}
jetstream {{ store_dir: "{store}", max_mem: 256MB, max_file: 4GB, sync_interval: always }}
feature_flags {{ js_ack_fc_v2: false }}
"""


class StoreServer(RealServer):
    """A real nats-server over the store of a home, `<home>/nats`; its own files are in *folder*."""

    def __init__(self, folder: Path, store: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._store = store

    def conf(self) -> str:
        """Write its configuration."""
        return _CONF.format(port=self.port, folder=self.folder, store=self._store, token=TOKEN)


@asynccontextmanager
async def serving(folder: Path, store: Path) -> AsyncIterator[StoreServer]:
    """Run a server over *store* while the block runs, and stop it cleanly."""
    server = StoreServer(folder, store)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Connect while the block runs."""
    connection = await nats.connect(url, allow_reconnect=False)
    try:
        yield connection
    finally:
        await connection.close()


class Process:
    """One `coordinator …` process with a home of its own; its output is kept in a file."""

    def __init__(self, home: Path, *arguments: str, url: str = "", **variables: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.log = home.with_name(f"{home.name}-{arguments[0]}.log")
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-m", "coordinator.cli", *arguments],
                env=environment(home, url, **variables),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._running.poll()

    async def end(self, *, kill: bool = False) -> None:
        """Stop it by SIGTERM, or kill it, and wait until it is gone."""
        if kill:
            self._running.kill()
        else:
            self._running.terminate()
        await asyncio.to_thread(self._running.wait, STOP_S)

    @classmethod
    @asynccontextmanager
    async def running(cls, home: Path, *arguments: str, url: str = "", **variables: str) -> AsyncIterator[Process]:
        """Run one while the block runs."""
        process = cls(home, *arguments, url=url, **variables)
        try:
            yield process
        finally:
            if process.code is None:
                await process.end()


def environment(home: Path, url: str = "", **variables: str) -> dict[str, str]:
    """Return the environment of a process of *home*: none of our variables from outside except what coverage needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COORDINATOR_")}
    return kept | {"COORDINATOR_HOME": str(home)} | ({"COORDINATOR_URL": url} if url else {}) | variables


async def command(home: Path, *arguments: str, url: str = "") -> tuple[int, str, str]:
    """Run a `coordinator …` command to its end; return exit code, output and error output."""
    ended = await asyncio.to_thread(_run, home, arguments, url)
    return ended.returncode, ended.stdout, ended.stderr


def _run(home: Path, arguments: tuple[str, ...], url: str) -> subprocess.CompletedProcess[str]:
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "coordinator.cli", *arguments],
        env=environment(home, url),
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )


async def read_journal(url: str) -> list[Record]:
    """Read every slot of a journal, by the documented protocol."""
    records = []
    async with connected(url) as connection:
        jetstream = connection.jetstream()
        state = (await jetstream.stream_info(STREAM)).state
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await jetstream.get_msg(STREAM, sequence)
            headers = message.headers or {}
            records.append(
                Record(
                    sequence=sequence,
                    kind="claim" if str(message.subject).endswith(".epoch") else "commit",
                    body=message.data or b"",
                    chain=headers.get("Chain"),
                    message_id=headers.get("Nats-Msg-Id"),
                )
            )
    return records


async def read_snapshots(url: str) -> list[tuple[bytes, list[bytes]]]:
    """Read every snapshot that a server holds, as stored: the manifest and its chunks, the oldest first."""
    found = []
    after = 0
    subject = "coordination.snapshot.manifest"
    async with connected(url) as connection:
        jetstream = connection.jetstream()
        with suppress(nats.js.errors.NotFoundError):
            while True:
                message = await jetstream.get_msg(SNAPSHOTS, after + 1, subject=subject, next=True)
                after, manifest = message.seq or 0, message.data or b""
                chunks = [
                    (await jetstream.get_msg(SNAPSHOTS, sequence)).data or b""
                    for sequence in msgspec.json.decode(manifest)["chunks"]
                ]
                found.append((manifest, chunks))
    return found


def folded(records: list[Record], until: int | None = None) -> tuple[World, Counter[str]]:
    """Fold records from the first slot on; return the world and the number of events of each type."""
    world, kinds = World(), Counter[str]()
    for record in records:
        if until is not None and record.sequence > until:
            break
        for envelope in world.apply_record(record):
            kinds[envelope.type] += 1
    return world, kinds


def portrait(world: World) -> dict[str, Any]:
    """Return a world as plain values: each table by id, each map, and the scalars, with their names."""
    tables = {
        name: {msgspec.to_builtins(one)[KEYS[name]]: msgspec.to_builtins(one) for one in getattr(world, name).values()}
        for name in TABLES
    }
    maps = {name: msgspec.to_builtins(dict(getattr(world, name))) for name in MAPS}
    scalars = {name: getattr(world, name) for name in SCALARS}
    return {**tables, **maps, **scalars, "position": str(world.position), "chain": world.chain.hex()}


def digest_of(drawn: object) -> str:
    """Hash plain values, independent of the order of their keys."""
    return hashlib.sha256(msgspec.json.encode(drawn, order="sorted")).hexdigest()


def differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    """Return what in *before* differs *now*; a field added to a state since then is ignored."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key, value in before.items():
            if key not in now:
                yield f"{at}.{key} is gone; it was {value!r}"[:300]
            else:
                yield from differences(value, now[key], f"{at}.{key}")
        if at.count(".") == 1:  # a table: its rows are not fields
            yield from (f"{at}.{key} is new" for key in now if key not in before)
    elif before != now:
        yield f"{at} was {before!r} and is {now!r}"[:300]
