"""
Reads the whole journal and checks it: every slot, the chain, the fold, and everything derived from it.

It only reads, one batch at a time; only the world grows with the journal, and it evicts what ended long ago. `accept`
writes one claim into the journal and nothing else. It must never repair what it finds, and never skip a record.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.archive.source import ArchiveSource
from coordinator.clock import SystemClock
from coordinator.diagnostics.derivation import Decision, Derivation
from coordinator.diagnostics.findings import Finding, State, fail, ok, unknown, warn
from coordinator.diagnostics.read_model import CHECK, compare_store
from coordinator.journal.high_water import HighWater
from coordinator.journal.replay import check_archived
from coordinator.journal.slots import NO_JOURNAL
from coordinator.journal.snapshots import Archived, Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.journal.witnesses import chain_at, is_of_another, seen_by_feed, seen_by_store
from events.codec import rfc3339
from events.coordinator import EpochClaim
from events.errors import Corrupt, Refused, Unavailable
from projections.source import GENESIS
from projections.upgrade import FOLD_VERSION
from projections.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from coordinator.journal.snapshots import Manifest
    from coordinator.journal.witnesses import Seen
    from events.subjects import Subjects
    from projections.source import CommitSource, Record

HOLDER = "verify"
CLAIM_TIMEOUT_S = 60.0
DIFFERENCE_CHARS = 300
_RESTORE = "stop all processes, copy the NATS store, then restore a backup; see docs/operations.md, Corrupt"
_OTHER_HOME = "name the state directory of this namespace with --home"
_ACCEPT = "put a good copy of the store back, restore a backup, or accept the loss with 'coordinator verify --accept'"


class Figures(msgspec.Struct, kw_only=True):
    """How much was read; times in seconds."""

    records: int = 0
    commits: int = 0
    claims: int = 0
    events: int = 0
    size_bytes: int = 0
    took_s: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The findings, where the fold ended, and how much was read."""

    findings: list[Finding]
    position: str
    generation: int
    chain: str
    digest: str
    figures: Figures
    placements: list[Decision] = []
    """How the task that was asked for was placed, each of its attempts."""


class Files(NamedTuple):
    """The files of this machine to check, None for a missing one; copies are made in *folder*."""

    store: Path | None = None
    mark: Path | None = None
    archive: Path | None = None
    folder: Path | None = None


async def verify(bus: Bus, subjects: Subjects, files: Files, *, task_id: str = "") -> Report:
    """
    Check the journal, and compare read model, high-water mark, snapshots and feed with it.

    Of the task *task_id* it tells how it was placed.

    Raises:
        Unavailable: NATS or the read model cannot be read now.
    """
    journal = NatsJournal(bus, subjects)
    snapshots = Snapshots(bus, subjects)
    manifests = await snapshots.manifests()
    # Read before the journal's end is known: otherwise a follower that goes on would seem ahead of the journal.
    seen, further, is_other = _seen_at_home(files, subjects.stream_journal)
    try:
        seen.append(await seen_by_feed(bus, subjects))
    except Unavailable as error:
        further.append(unknown("seen by the feed", error.message, "run verify again when NATS answers"))
    source: CommitSource = journal if files.archive is None else ArchiveSource(files.archive, journal)
    fold = _Fold(source, {one.position.sequence: one for one in manifests}, task_id=task_id)
    findings = await fold.run()
    if findings[0].state is not State.FAIL:
        findings += [await _compare_seen(journal, fold.world, one) for one in seen if one is not None]
        findings.append(await _snapshots(snapshots, manifests, fold))
        if not is_other:
            findings.append(await compare_store(files.store, source, fold.world.position.sequence, folder=files.folder))
    findings += further
    world = fold.world
    return Report(
        findings=findings,
        position=str(world.position),
        generation=world.generation,
        chain=world.chain.hex(),
        digest=world.digest(),
        figures=fold.figures,
        placements=fold.derivation.decisions,
    )


async def accept(bus: Bus, subjects: Subjects, *, archive: Path | None = None, replicas: int = 1) -> int:
    """
    Begin a new generation at the current end of the journal and return it; everything seen beyond that end is lost.

    Archived records are read from the *archive*; without one, a snapshot replaces them. The current leader is deposed.
    Read models, marks and the feed that are ahead belong to the lost generation. Requires the credentials of a
    coordinator. It can be run again if it was interrupted.

    Raises:
        Corrupt: the remaining journal is damaged too.
        Unavailable: NATS does not answer; run it again.
        Forbidden: the credentials do not allow it; nothing was changed.
    """
    journal, clock = NatsJournal(bus, subjects), SystemClock()
    snapshots = Snapshots(bus, subjects, replicas=replicas)
    if archive is not None:
        fold = _Fold(ArchiveSource(archive, journal), {})
    else:
        fold = _Fold(journal, {}, await _archived(journal, snapshots))
    for finding in await fold.run():
        if finding.state is State.FAIL:
            msg = f"the remaining journal is damaged too and cannot be accepted: {finding.seen}; {_RESTORE}"
            raise Corrupt(msg)
    if fold.world.unfoldable:
        msg = f"the journal holds {fold.world.unfoldable}, which this version does not know: use the newer release"
        raise Refused(msg, reason="unfoldable")
    generation = await _give_up_snapshots(snapshots, fold.world, int(clock.wall()))
    claim = EpochClaim(generation=generation, holder=HOLDER, time=rfc3339(clock.wall()))
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT_S):
            await journal.claim(msgspec.json.encode(claim))
    except TimeoutError:
        msg = f"the new generation was not stored within {CLAIM_TIMEOUT_S:g} s: run it again when NATS accepts messages"
        raise Unavailable(msg, reason="timeout") from None
    return generation


async def _archived(journal: NatsJournal, snapshots: Snapshots) -> World | None:
    """Return the world at the point up to which the journal was archived; None if nothing was archived."""
    try:
        first, last = await journal.bounds()
    except Unavailable as error:
        if error.reason != NO_JOURNAL:
            raise
        return None  # the fold reports it
    if first == 1:
        return None
    await check_archived(snapshots, first)
    world = await snapshots.newest(journal, World.restore, before=last + 1)
    if world is None or world.position.sequence < first - 1:
        msg = (
            f"the journal begins at {first} because its beginning was archived, and there is no usable snapshot of "
            "what came before: name the archive with --archive DIRECTORY"
        )
        raise Corrupt(msg, reason="no_snapshot")
    return world


async def _give_up_snapshots(snapshots: Snapshots, world: World, at_least: int) -> int:
    """
    Remove the snapshots of positions after the end of *world*, and return a generation higher than any before.

    The new claim takes a slot that one of these snapshots may refer to, so they are removed first. Before that, the new
    generation is recorded as pending: if this is interrupted anywhere, no coordinator can lead until it is run again.
    """
    manifests, noted = await snapshots.manifests(), await snapshots.archived()
    noted = noted if noted is not None else Archived(through=0, chain=GENESIS.hex())
    before = max(world.generation, noted.generation, *(one.generation for one in manifests))
    generation = max(before + 1, at_least)
    if any(one.position.sequence > world.position.sequence for one in manifests):
        await snapshots.note_archived(msgspec.structs.replace(noted, generation=generation))
        await snapshots.forget_behind(world.position.sequence)
    return generation


class _Fold:
    """Folds all of *source*, or what comes after *world*; keeps the digest of the world at each snapshot's position."""

    def __init__(
        self, source: CommitSource, manifests: dict[int, Manifest], world: World | None = None, *, task_id: str = ""
    ) -> None:
        self.derivation = Derivation(world, task_id=task_id)
        self.world = self.derivation.world
        self.figures = Figures()
        self.digests: dict[int, tuple[str, str]] = {}
        """Chain and digest of the world, by the slot of the snapshot."""
        self._source = source
        self._manifests = manifests
        self._generation = self.world.generation
        self._stray = ""
        self._strays = 0

    async def run(self) -> list[Finding]:
        """Fold everything and return the findings; damage is the only one, since nothing after it is read."""
        began = time.monotonic()
        try:
            first, last = await self._source.bounds()
            after = self.world.position.sequence
            if first > after + 1:
                seen = f"the journal begins at slot {first}; the slots before were archived or lost"
                return [fail("slots", seen, "name the archive with --archive DIRECTORY, or restore a backup")]
            async for records in self._source.read(after, last):
                for record in records:
                    self._take(record)
        except Corrupt as error:
            return [fail("slots", f"{error.message} (sound up to {self.world.position})", _RESTORE)]
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
            return [fail("slots", error.message, "start a coordinator if none ever ran; otherwise restore a backup")]
        finally:
            self.figures.took_s = round(time.monotonic() - began, 3)
        return self._findings(after + 1, last)

    def _take(self, record: Record) -> None:
        figures, world = self.figures, self.world
        figures.records += 1
        figures.size_bytes += len(record.body)
        if record.kind == "commit":
            expected = f"{world.generation}.{world.epoch}.{record.sequence}"
            figures.commits += 1
            if record.message_id != expected:
                self._stray_at(
                    f"commit {record.sequence} has the id {record.message_id}, but its reign requires {expected}"
                )
        else:
            figures.claims += 1
        figures.events += len(self.derivation.apply_record(record))
        if record.kind == "claim":
            self._check_claim(record)
        if record.sequence in self._manifests:
            self.digests[record.sequence] = (world.chain.hex(), world.digest())

    def _check_claim(self, record: Record) -> None:
        generation = msgspec.json.decode(record.body, type=EpochClaim).generation
        if generation < self._generation:
            self._stray_at(f"claim {record.sequence} has generation {generation}, after one of {self._generation}")
        self._generation = max(self._generation, generation)

    def _stray_at(self, seen: str) -> None:
        self._strays += 1
        self._stray = self._stray or seen

    def _findings(self, first: int, last: int) -> list[Finding]:
        figures, world = self.figures, self.world
        found = [
            ok("slots", f"{first} to {last}, none missing: {figures.commits} commits, {figures.claims} claims"),
            ok("chain", f"unbroken up to {world.position}: {world.chain.hex()}"),
            ok("fold", f"{figures.events} events, all readable and allowed; digest {world.digest()}"),
        ]
        if world.unfoldable:
            do = "verify with the newer release that wrote it"
            found[-1] = warn("fold", f"{world.unfoldable} is unknown to this version", do)
        if self._strays:
            do = "something other than a coordinator writes here: check who may publish on the journal's subjects"
            found.append(fail("reigns", f"{self._stray}; {self._strays} in total", do))
        else:
            found.append(ok("reigns", f"each commit belongs to its reign; generation {world.generation}"))
        found.append(self._placements())
        return found

    def _placements(self) -> Finding:
        """Return whether all placements follow from what came before them."""
        derived, check = self.derivation, "placements"
        skipped = f"; {derived.skipped} by other rules were not" if derived.skipped else ""
        if derived.differences:
            seen = f"{derived.differences[0][:DIFFERENCE_CHARS]}; {len(derived.differences)} turns in total"
            return fail(check, seen, "something other than a coordinator of this version wrote them: see `reigns`")
        return ok(check, f"{derived.derived} follow from what was recorded before them{skipped}")


def _seen_at_home(files: Files, stream: str) -> tuple[list[Seen | None], list[Finding], bool]:
    """Return what mark and read model have seen, findings, and whether the read model is of another *stream*."""
    seen: list[Seen | None] = []
    findings: list[Finding] = []
    marked = _marked(files.mark)
    store = seen_by_store(files.store) if files.store is not None else None
    if isinstance(marked, Finding):
        findings.append(marked)
        return [store], findings, False
    if marked is not None and marked.stream not in ("", stream):
        findings.append(unknown("mark", f"{files.mark} is of stream {marked.stream}: not checked", _OTHER_HOME))
    else:
        seen.append(marked)
    is_other = store is not None and is_of_another(store, marked, stream)
    if is_other:
        findings.append(unknown(CHECK, f"{files.store} is not of stream {stream}: not compared", _OTHER_HOME))
    else:
        seen.append(store)
    return seen, findings, is_other


def _marked(file: Path | None) -> Seen | Finding | None:
    """Return what the high-water mark has seen, None if there is no mark, or a finding if it is damaged."""
    if file is None or not file.is_file():
        return None
    try:
        with HighWater.open(file) as high_water:
            return high_water.seen
    except Corrupt as error:
        return fail(f"mark {file.name}", error.message, "delete it if all other checks are ok")


async def _compare_seen(journal: NatsJournal, world: World, seen: Seen) -> Finding:
    """Compare the journal with what mark, read model or feed have seen of it."""
    check, reached = f"seen by {seen.by}", world.position.sequence
    lost = f"generation {seen.generation} ended, the journal is in {world.generation}"
    if seen.sequence > reached:
        what = f"it has seen {seen.sequence}, but the journal ends at {reached}"
        if world.generation > seen.generation:
            return ok(check, f"{what}: {lost}")
        return fail(check, f"{what}: the journal went back to an older state, or lost its end", _ACCEPT)
    found = await chain_at(journal, world, seen.sequence)
    if seen.chain and found and found != seen.chain:
        if world.generation > seen.generation:
            return ok(check, f"record {seen.sequence} is a different one: {lost}")
        return fail(
            check,
            f"record {seen.sequence} is not the one it has seen: changed, or another journal",
            _ACCEPT,
        )
    return ok(check, f"at {seen.sequence} of {reached}, same journal")


async def _snapshots(snapshots: Snapshots, manifests: list[Manifest], fold: _Fold) -> Finding:
    check, wrong, other, gone = "snapshots", [], 0, 0
    do = "nothing: a wrong snapshot is ignored, so starts take longer until newer ones replace it"
    for manifest in manifests:
        at = manifest.position.sequence
        if manifest.fold_version != FOLD_VERSION:
            other += 1
            continue
        try:
            await snapshots.load(manifest)
        except Corrupt as error:
            if manifest in await snapshots.manifests():
                wrong.append(error.message)
            else:
                gone += 1  # a follower has since written a newer one and removed the oldest
            continue
        if fold.digests.get(at) != (manifest.chain, manifest.digest):
            wrong.append(f"the snapshot at {manifest.position} differs from the fold of the journal")
    if wrong:
        return fail(check, f"{wrong[0]}; {len(wrong)} of {len(manifests)} are wrong", do)
    if not manifests:
        return unknown(check, "there are none yet: followers write one every follower.snapshot_events events")
    if gone == len(manifests):
        return unknown(check, "all were replaced by newer ones during the check", "run verify again")
    folded = f"{len(manifests) - other - gone} match the journal"
    folded += f", {other} of another fold version are ignored" if other else ""
    return ok(check, folded + (f", {gone} were replaced during the check" if gone else ""))
