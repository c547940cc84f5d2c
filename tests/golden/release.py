"""
Make the witnesses of a release: what it wrote and sent, for later code to open, lead, verify and answer.

    python -m tests.golden.release tests/golden/release-1

It runs this code for real: nats-server, coordinators, a follower, a node agent and workers, each its own process, and
leads them through everything that can happen. The folder must not exist: a witness is made once, then only read.
"""

from __future__ import annotations

import asyncio
import lzma
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from events import codec
from projections.upgrade import FOLD_VERSION
from tests.golden.release_journal import (
    command,
    digest_of,
    folded,
    portrait,
    read_journal,
    read_snapshots,
    serving,
)
from tests.golden.release_play import SETTINGS, play
from tests.golden.release_wire import STEPS, record, recorded_with

KEEP_SLOTS = 60
"""How many slots at the end of the journal are not archived."""


def make(folder: Path) -> None:
    """Make the witnesses of this code in the new directory *folder*."""
    with tempfile.TemporaryDirectory(prefix="release-") as temporary:
        work = Path(temporary)
        parts = work / "parts"
        (parts / "home").mkdir(parents=True)
        (work / "coordinator.yaml").write_text(SETTINGS)
        asyncio.run(play(work, parts / "home"))
        expected = asyncio.run(_look_at(work, parts))
        asyncio.run(_archive(work, parts))
        lines = asyncio.run(_exchanges(work))
        _tidy(parts)
        folder.mkdir(parents=True)
        _pack(parts, folder / "witnesses.tar.xz")
        (folder / "wire.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        expected |= {"exchanges": len(lines), "commands": sorted({name for name, _ in STEPS} | {"list_inboxes"})}
        (folder / "expected.json").write_bytes(msgspec.json.format(msgspec.json.encode(expected), indent=2) + b"\n")


async def _look_at(work: Path, parts: Path) -> dict[str, Any]:
    """Write what the journal holds and folds to, and copy the newest snapshot out of the store unchanged."""
    async with serving(work / "server", parts / "home" / "nats") as server:
        records = await read_journal(server.url)
        manifest, chunks = (await read_snapshots(server.url))[-1]
    world, kinds = folded(records)
    missing = sorted(set(codec.EVENTS) - set(codec.HEARTBEATS) - set(kinds))
    assert not missing, f"these never came about: {missing}"
    drawn = portrait(world)
    _write(parts, {"world.json": msgspec.json.encode(drawn, order="sorted"), "snapshot/manifest.json": manifest})
    _write(parts, {f"snapshot/chunk-{number}": chunk for number, chunk in enumerate(chunks)})
    return {
        "fold_version": FOLD_VERSION,
        "events": kinds.total(),
        "kinds": dict(sorted(kinds.items())),
        "first": records[0].sequence,
        "last": records[-1].sequence,
        "claims": sum(one.kind == "claim" for one in records),
        "position": str(world.position),
        "chain": world.chain.hex(),
        "generation": world.generation,
        "epoch": world.epoch,
        "world": digest_of(drawn),
        "rows": {name: len(value) for name, value in drawn.items() if isinstance(value, dict)},
        "snapshot_position": ".".join(map(str, msgspec.json.decode(manifest)["position"])),
        "archived_through": records[-1].sequence - KEEP_SLOTS - 1,
    }


async def _archive(work: Path, parts: Path) -> None:
    """Back up the journal, then archive most of it: in a copy, so that the complete one stays."""
    store = parts / "archived" / "nats"
    shutil.copytree(parts / "home" / "nats", store)
    async with serving(work / "server", store) as server:
        last = len(await read_journal(server.url))
        for arguments in (
            ("backup", "create", str(parts / "backup")),
            ("archive", "run", str(parts / "archive"), "--before", str(last - KEEP_SLOTS)),
        ):
            code, said, error = await command(work / "tools", *arguments, url=server.url)
            assert code == 0, error
            print(said)


async def _exchanges(work: Path) -> list[bytes]:
    """Record what a client and the coordinator send each other, on a journal of its own."""
    store = work / "wire" / "nats"
    async with serving(work / "wire", store) as server, recorded_with(work / "wire" / "home", server.url):
        return [msgspec.json.encode(exchange) for exchange in await record(server.url)]


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


def _tidy(parts: Path) -> None:
    """Remove what is specific to this machine: locks, logs, the server's files about its ports."""
    for pattern in ("**/*.lock", "**/lock", "**/*.log", "**/*.ports", "home/containers", "home/running.json"):
        for path in parts.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _pack(parts: Path, file: Path) -> None:
    """Pack all of it into one archive, so that content shared by several parts is stored once."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    with lzma.open(file, "wb", filters=filters) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(parts.iterdir()):
            tar.add(path, path.name, filter=plain)


if __name__ == "__main__":
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit(f"use: python -m tests.golden.release FOLDER, which does not exist yet; given {sys.argv[1:]}")
    make(Path(sys.argv[1]))
