"""
Damage: bytes of the journal's store change while nats-server is stopped. Is it found before a commit?

Everything is real: nats-server with one replica and fsync, and a journal of several blocks. For each damage a copy of
the store is changed and served again, and a coordinator with a high-water mark starts on it. It must stop with
`Corrupt` and write nothing. A damage that the server repairs without loss is recognised by the chain and not counted.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.commands.payloads import payload_of
from coordinator.commands.task import SubmitTask
from coordinator.errors import Corrupt, Unavailable
from coordinator.journal.high_water import FILE
from coordinator.journal.stream import NatsJournal
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.task_groups import task_group
from events.subjects import Subjects
from projections.world import World
from tests.real_server import RealServer, real_server

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

SUBJECTS = Subjects()
TASKS, PAYLOAD_BYTES = 330, 60_000
"""About 20 MB: three blocks of nats-server."""
AT_ONCE = 8
JUDGED_WITHIN_S = 60.0
MOST_TRIES = 4
"""Most damages made for each that counts; the server repairs the others without loss."""


class Damage(NamedTuple):
    """One damage of the store, and its outcome."""

    what: str
    outcome: str
    """`found`, `repaired` (nothing was lost), `missed` or `hung`."""
    said: str
    took_s: float


async def run(count: int, *, seed: int = 1, remembering: bool = True) -> dict[str, Any]:
    """
    Damage a journal *count* times so that data is lost or changed, and return how often that was found.

    Without *remembering* this is the control: a coordinator without a high-water mark must miss some.
    """
    rng = random.Random(seed)
    kinds = list(DAMAGES)
    results: list[Damage] = []
    with tempfile.TemporaryDirectory(prefix="coordinator-damage-") as folder:
        good = Path(tempfile.mkdtemp(dir=folder))
        await _write_journal(good)
        mark = (good / FILE).read_bytes()
        if not remembering:
            (good / FILE).unlink()
        for number in range(count * MOST_TRIES):
            if sum(one.outcome != "repaired" for one in results) >= count:
                break
            results.append(await _try(good, Path(folder) / "tried", kinds[number % len(kinds)], rng, mark))
    outcomes = Counter(one.outcome for one in results)
    counted = len(results) - outcomes["repaired"]
    return {
        "damages": counted,
        "found": outcomes["found"],
        "missed": [one.what for one in results if one.outcome == "missed"],
        "hung": [one.what for one in results if one.outcome == "hung"],
        "repaired_without_loss": outcomes["repaired"],
        "kinds": dict(Counter(one.what.partition(" ")[0] for one in results if one.outcome == "found")),
        "slowest_s": round(max(one.took_s for one in results), 1),
        "remembering": remembering,
        "seed": seed,
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if every damage was found before a commit was written."""
    return bool(result["found"] == result["damages"] > 0 and not result["missed"] and not result["hung"])


async def _write_journal(folder: Path) -> None:
    """Let a coordinator write a journal, keep an older copy of its store, and stop in the middle of a reign."""
    async with real_server(folder) as server:
        async with task_group() as tasks:
            coordinator = Coordinator(_instance(server, folder))
            running = tasks.create_task(coordinator.run())
            async with Client.open(server.url) as client:
                await _submit(client, 0, TASKS // 2)
                await server.stop()
                shutil.copytree(folder / "store", folder / "older")
                await server.start()
                await _submit(client, TASKS // 2, TASKS)
            running.cancel()
        await server.stop()


async def _submit(client: Client, begin: int, end: int) -> None:
    client.call_timeout_s = JUDGED_WITHIN_S
    for first in range(begin, end, AT_ONCE):
        async with task_group() as tasks:
            for number in range(first, min(first + AT_ONCE, end)):
                payload = payload_of(random.Random(number).randbytes(PAYLOAD_BYTES // 2).hex())
                command = SubmitTask(task_id=f"t{number}", task_name="n", payload=payload)
                tasks.create_task(client.execute(command))


async def _try(good: Path, folder: Path, kind: str, rng: random.Random, mark: bytes) -> Damage:
    shutil.copytree(good, folder)
    try:
        what = f"{kind} {DAMAGES[kind](folder, rng)}"
        began = time.monotonic()
        async with real_server(folder) as server:
            outcome, said = await _judged(server, folder, mark)
        damage = Damage(what, outcome, said, time.monotonic() - began)
        log.info("damage_tried", **damage._asdict())
        return damage
    finally:
        shutil.rmtree(folder)


async def _judged(server: RealServer, folder: Path, mark: bytes) -> tuple[str, str]:
    """Start a coordinator on the damaged store; return the outcome and its error."""
    before = await _last(server)
    coordinator = Coordinator(_instance(server, folder))
    try:
        async with asyncio.timeout(JUDGED_WITHIN_S), task_group() as tasks:
            running = tasks.create_task(coordinator.run())
            await coordinator.leading.wait()
            running.cancel()
    except Corrupt as error:
        after = await _last(server)
        return ("found" if before == after else "missed"), error.message
    except TimeoutError:
        return "hung", ""
    return ("repaired" if await _is_whole(server, mark) else "missed"), ""


async def _last(server: RealServer) -> int | None:
    async with Bus.open(server.url, name="judge") as bus:
        try:
            return (await NatsJournal(bus, SUBJECTS).bounds()).last
        except Unavailable:
            return None


async def _is_whole(server: RealServer, mark: bytes) -> bool:
    """Return True if the journal still has all acknowledged data, unchanged."""
    world = World()
    async with Bus.open(server.url, name="judge") as bus:
        journal = NatsJournal(bus, SUBJECTS)
        async for records in journal.read(0, (await journal.bounds()).last):
            for record in records:
                world.apply_record(record)
                if world.chain.hex().encode() in mark:
                    return True
    return False


def _instance(server: RealServer, folder: Path) -> Instance:
    return Instance(
        url=server.url,
        name="damaged",
        version="0",
        lease_ttl_s=2,
        lease_renew_s=0.5,
        lease_fresh_s=1.0,
        seen_file=str(folder / FILE),
    )


# --- damages ----------------------------------------------------------------------------------------------------------


def _files(folder: Path, pattern: str) -> list[Path]:
    stream = next((folder / "store").rglob(f"streams/{SUBJECTS.stream_journal}"))
    return sorted(stream.glob(pattern))


def _flip(file: Path, rng: random.Random) -> str:
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return f"{file.name} at {at} of {len(data)}"


def _truncate(file: Path, rng: random.Random) -> str:
    size = file.stat().st_size
    left = rng.randrange(size)
    with file.open("r+b") as opened:
        opened.truncate(left)
    return f"{file.name} at {left} of {size}"


def _flip_block(folder: Path, rng: random.Random) -> str:
    return _flip(rng.choice(_files(folder, "msgs/*.blk")), rng)


def _flip_block_unindexed(folder: Path, rng: random.Random) -> str:
    for index in _files(folder, "msgs/index.db"):
        index.unlink()
    return _flip_block(folder, rng)


def _truncate_block(folder: Path, rng: random.Random) -> str:
    return _truncate(rng.choice(_files(folder, "msgs/*.blk")), rng)


def _zero_page(folder: Path, rng: random.Random) -> str:
    file = rng.choice(_files(folder, "msgs/*.blk"))
    at = rng.randrange(file.stat().st_size // 4096) * 4096
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(bytes(4096))
    return f"{file.name} at {at}"


def _remove_block(folder: Path, rng: random.Random) -> str:
    file = rng.choice(_files(folder, "msgs/*.blk"))
    file.unlink()
    return file.name


def _damage_index(folder: Path, rng: random.Random) -> str:
    return rng.choice((_flip, _truncate))(rng.choice(_files(folder, "msgs/index.db")), rng)


def _damage_meta(folder: Path, rng: random.Random) -> str:
    return rng.choice((_flip, _truncate))(rng.choice(_files(folder, "meta.*")), rng)


def _older_copy(folder: Path, rng: random.Random) -> str:
    shutil.rmtree(folder / "store")
    shutil.copytree(folder / "older", folder / "store")
    return "of the whole store"


DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "bit-flipped": _flip_block,
    "truncated": _truncate_block,
    "stream-description-damaged": _damage_meta,
    "older-copy": _older_copy,
    "bit-flipped-without-index": _flip_block_unindexed,
    "page-zeroed": _zero_page,
    "block-removed": _remove_block,
    "index-damaged": _damage_index,
}
