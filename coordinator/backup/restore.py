"""
Restores a backup into a NATS without a journal: the same slots, the same bytes, and then a new generation.

The claim of the new generation comes last. A note that it is due is stored before the first record, so no coordinator
leads on a partly restored journal. It must never write to a journal that is not the beginning of the same backup.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.archive.manifest import read_snapshot
from coordinator.archive.segments import read_records
from coordinator.bus.jetstream import NO_STREAM, ApiError
from coordinator.bus.streams import ensure_stream
from coordinator.clock import SystemClock
from coordinator.journal.slots import NO_JOURNAL
from coordinator.journal.snapshots import Archived, Snapshots
from coordinator.journal.stream import NatsJournal, stream_config
from coordinator.leadership.lease import Lease
from events.codec import rfc3339
from events.coordinator import EpochClaim
from events.errors import CoordinationError, Refused, Unavailable
from projections.source import GENESIS, Bounds
from projections.upgrade import READABLE
from projections.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.archive.manifest import Contents
    from coordinator.bus.connection import Bus
    from events.subjects import Subjects
    from projections.source import Record

log = structlog.get_logger(__name__)

HOLDER = "restore"
WINDOW_RECORDS = 500
WINDOW_BYTES = 4 * 1024 * 1024
"""How many records and bytes are sent before waiting for their acknowledgements."""
STORE_TIMEOUT_S = 60.0


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a restore: the slots of the journal, and the generation and slot of the claim after them."""

    first: int
    last: int
    generation: int
    claim: int
    took_s: float


async def restore(
    bus: Bus, subjects: Subjects, folder: Path, contents: Contents, *, replicas: int = 1, generation: int | None = None
) -> Restored:
    """
    Restore a backup that `verify` found sound into the NATS of *bus*; a restore that was cut off is resumed.

    The *generation* must be higher than any used before, also by the history that the restore discards. Without one,
    the seconds since 1970 are used.

    Raises:
        Refused: NATS has a journal, a coordinator uses it, or the backup is of another namespace.
        Unavailable: NATS does not answer, or has no room; run it again.
        Corrupt: the backup was damaged since it was verified.
    """
    clock = SystemClock()
    began = clock.heard()
    if contents.namespace != subjects.namespace:
        msg = (
            f"the backup is of the namespace {contents.namespace!r}, not {subjects.namespace!r}: set namespace to "
            f"{contents.namespace!r}"
        )
        raise Refused(msg, reason="wrong_namespace")
    raised = max(contents.generation + 1, int(clock.wall())) if generation is None else generation
    if raised <= contents.generation:
        msg = f"generation is {raised}, but must be higher than that of the backup, {contents.generation}"
        raise Refused(msg, reason="bad_generation")
    journal, snapshots = NatsJournal(bus, subjects, replicas=replicas), Snapshots(bus, subjects, replicas=replicas)
    await _check_nobody_leads(bus, subjects, replicas)
    resume_after = await _resume_after(journal, snapshots, folder, contents)
    await _begin(bus, subjects, snapshots, folder, contents, replicas, raised)
    for batch in read_records(folder, contents, resume_after):
        await _append(bus, subjects, batch)
    claim = EpochClaim(generation=raised, holder=HOLDER, time=rfc3339(clock.wall()))
    try:
        async with asyncio.timeout(STORE_TIMEOUT_S):
            slot = await journal.claim(msgspec.json.encode(claim))
    except TimeoutError:
        msg = f"the new generation could not be claimed within {STORE_TIMEOUT_S:g} s: run it again"
        raise Unavailable(msg, reason="timeout") from None
    log.info("backup_restored", folder=str(folder), last=contents.last, generation=raised, claim=slot)
    return Restored(
        first=contents.first,
        last=contents.last,
        generation=raised,
        claim=slot,
        took_s=round(clock.heard() - began, 3),
    )


async def _check_nobody_leads(bus: Bus, subjects: Subjects, replicas: int) -> None:
    try:
        holder = await Lease(bus, subjects, HOLDER, replicas=replicas).current()
    except Unavailable as error:
        if isinstance(error.__cause__, ApiError) and error.__cause__.err_code == NO_STREAM:
            return
        raise
    if holder is not None:
        msg = f"the coordinator {holder.holder} uses this NATS: stop it, and restore into a NATS that is empty"
        raise Refused(msg, reason="in_use")


async def _resume_after(journal: NatsJournal, snapshots: Snapshots, folder: Path, contents: Contents) -> int:
    """Return the last slot that an earlier attempt stored, or the slot before the first if there was none."""
    try:
        bounds = await journal.bounds()
    except Unavailable as error:
        if error.reason != NO_JOURNAL:
            raise
        bounds = Bounds(contents.first, contents.first - 1)
    last = bounds.last
    if last == contents.first - 1 and bounds.first == contents.first:
        return last
    noted = await snapshots.archived()
    was_begun = noted is not None and noted.generation > contents.generation
    found = await journal.slot(last) if was_begun and contents.first <= last <= contents.last else None
    if found is not None and found == next(read_records(folder, contents, last - 1))[0]:
        log.info("restore_resumed", behind=last)
        return last
    msg = f"this NATS has a journal of slots {bounds.first} to {last}: restore into a NATS that is empty"
    raise Refused(msg, reason="not_empty")


async def _begin(
    bus: Bus,
    subjects: Subjects,
    snapshots: Snapshots,
    folder: Path,
    contents: Contents,
    replicas: int,
    generation: int,
) -> None:
    """Note that a restore is under way, store the snapshot, and create the stream."""
    snapshot = contents.snapshot
    assert snapshot is not None
    others = [one for one in await snapshots.manifests() if one.digest != snapshot.digest]
    if others:
        msg = (
            f"this NATS has snapshots of another journal, for example at {others[0].position}: restore into a NATS "
            "that is empty"
        )
        raise Refused(msg, reason="not_empty")
    noted = contents.archived if contents.archived is not None else Archived(through=0, chain=GENESIS.hex())
    await snapshots.note_archived(msgspec.structs.replace(noted, generation=generation))
    if snapshot.fold_version in READABLE:
        data = read_snapshot(folder, snapshot)
        frozen = World.restore(data).frozen()
        await snapshots.put(iter([data]), msgspec.structs.replace(frozen, fold_version=snapshot.fold_version))
    config = stream_config(subjects, replicas=replicas)
    if contents.first > 1:
        config["first_seq"] = contents.first
    await ensure_stream(bus, config)


async def _append(bus: Bus, subjects: Subjects, records: list[Record]) -> None:
    window: list[Record] = []
    size = 0
    for record in records:
        window.append(record)
        size += len(record.body)
        if len(window) >= WINDOW_RECORDS or size >= WINDOW_BYTES:
            await _put_all(bus, subjects, window)
            window, size = [], 0
    await _put_all(bus, subjects, window)


async def _put_all(bus: Bus, subjects: Subjects, records: list[Record]) -> None:
    """Send records one after the other, and wait for the outcome of all of them."""
    ends = await asyncio.gather(*(_put(bus, subjects, one) for one in records), return_exceptions=True)
    for end in ends:
        if end is not None:
            raise end


async def _put(bus: Bus, subjects: Subjects, record: Record) -> None:
    headers = {"Nats-Expected-Last-Sequence": str(record.sequence - 1)}
    if record.message_id is not None:
        headers["Nats-Msg-Id"] = record.message_id
    subject = subjects.epoch
    if record.kind == "commit":
        subject = subjects.journal
        headers |= {"Content-Type": "application/cloudevents-batch+json", "Chain": record.chain or ""}
    try:
        ack = await bus.js_publish(subject, record.body, headers, timeout_s=STORE_TIMEOUT_S)
    except ApiError as error:
        msg = (
            f"record {record.sequence} was not stored ({error.message}): check that nothing else writes to this NATS, "
            "and run it again"
        )
        raise Unavailable(msg) from error
    if ack.sequence != record.sequence:
        msg = (
            f"record {record.sequence} was stored in slot {ack.sequence}: something else writes to this NATS. Restore "
            "into a NATS that is empty"
        )
        raise CoordinationError(msg)
