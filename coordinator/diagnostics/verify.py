"""
Reads the whole journal and says whether it is what was written: every slot, the chain, the fold, and what follows it.

It only reads, one batch at a time; what grows with the journal is the world alone, which forgets what ended long ago.
`accept` writes one claim into it and nothing else. It must never make good what it found, nor pass over a record.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from coordinator.archive.source import ArchiveSource
from coordinator.clock import SystemClock
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
from projections.world import FOLD_VERSION, World

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from coordinator.journal.snapshots import Manifest
    from coordinator.journal.witnesses import Seen
    from events.subjects import Subjects
    from projections.source import CommitSource, Record

HOLDER = "verify"
CLAIM_TIMEOUT_S = 60.0
_RESTORE = "stop everything, copy the store, and restore a backup; docs/operations.md, Corrupt"
_OTHER_HOME = "name the directory of this namespace with --home"
_ACCEPT = "put a good copy back, restore a backup, or accept the loss with 'coordinator verify --accept'"


class Figures(msgspec.Struct, kw_only=True):
    """What was read; times in seconds."""

    records: int = 0
    commits: int = 0
    claims: int = 0
    events: int = 0
    size_bytes: int = 0
    took_s: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, where the fold ended, and how much was read."""

    findings: list[Finding]
    position: str
    generation: int
    chain: str
    digest: str
    figures: Figures


class Files(NamedTuple):
    """What this machine holds that follows the journal, None for what there is not; and the *folder* to copy it to."""

    store: Path | None = None
    mark: Path | None = None
    archive: Path | None = None
    folder: Path | None = None


async def verify(bus: Bus, subjects: Subjects, files: Files) -> Report:
    """
    Read the journal, and hold store, mark, snapshots and feed against it.

    Raises:
        Unavailable: NATS or the store cannot be read now.
    """
    journal = NatsJournal(bus, subjects)
    snapshots = Snapshots(bus, subjects)
    manifests = await snapshots.manifests()
    # Before the journal's end is known: what follows it must not be ahead of it.
    seen, told, is_other = _seen_at_home(files, subjects.stream_journal)
    try:
        seen.append(await seen_by_feed(bus, subjects))
    except Unavailable as error:
        told.append(unknown("seen by the feed", error.message, "run it again when NATS answers"))
    source: CommitSource = journal if files.archive is None else ArchiveSource(files.archive, journal)
    fold = _Fold(source, {one.position.sequence: one for one in manifests})
    findings = await fold.run()
    if findings[0].state is not State.FAIL:
        findings += [await _held_against(journal, fold.world, one) for one in seen if one is not None]
        findings.append(await _snapshots(snapshots, manifests, fold))
        if not is_other:
            findings.append(await compare_store(files.store, source, fold.world.position.sequence, folder=files.folder))
    findings += told
    world = fold.world
    return Report(
        findings=findings,
        position=str(world.position),
        generation=world.generation,
        chain=world.chain.hex(),
        digest=world.digest(),
        figures=fold.figures,
    )


async def accept(bus: Bus, subjects: Subjects, *, archive: Path | None = None, replicas: int = 1) -> int:
    """
    Begin a new generation with the journal as it is, and give it: what was seen beyond is given up for good.

    What has left the journal is read from the *archive*; without one, a snapshot stands for it. Whoever leads is
    deposed; read models, marks and the feed that are ahead are of a generation that is lost. It takes the credentials
    of a coordinator, and may be run again when it was cut off.

    Raises:
        Corrupt: what is left is damaged itself.
        Unavailable: NATS does not answer: run it again.
        Forbidden: these credentials may not do it; nothing was changed.
    """
    journal, clock = NatsJournal(bus, subjects), SystemClock()
    snapshots = Snapshots(bus, subjects, replicas=replicas)
    if archive is not None:
        fold = _Fold(ArchiveSource(archive, journal), {})
    else:
        fold = _Fold(journal, {}, await _archived(journal, snapshots))
    for finding in await fold.run():
        if finding.state is State.FAIL:
            msg = f"what is left is damaged itself, so it cannot be gone on with: {finding.seen}; {_RESTORE}"
            raise Corrupt(msg)
    if fold.world.unfoldable:
        msg = f"the journal holds {fold.world.unfoldable}, which this version does not know: use the newer one"
        raise Refused(msg, reason="unfoldable")
    generation = await _give_up_snapshots(snapshots, fold.world, int(clock.wall()))
    claim = EpochClaim(generation=generation, holder=HOLDER, time=rfc3339(clock.wall()))
    try:
        async with asyncio.timeout(CLAIM_TIMEOUT_S):
            await journal.claim(msgspec.json.encode(claim))
    except TimeoutError:
        msg = f"the new generation could not be claimed within {CLAIM_TIMEOUT_S:g} s: run it again when NATS stores"
        raise Unavailable(msg, reason="timeout") from None
    return generation


async def _archived(journal: NatsJournal, snapshots: Snapshots) -> World | None:
    """Give a world that stands for what has left the journal; None where nothing has."""
    try:
        first, last = await journal.bounds()
    except Unavailable as error:
        if error.reason != NO_JOURNAL:
            raise
        return None  # the fold says so
    if first == 1:
        return None
    await check_archived(snapshots, first)
    world = await snapshots.newest(journal, World.restore, before=last + 1)
    if world is None or world.position.sequence < first - 1:
        msg = (
            f"the journal begins at {first}, for its beginning was archived, and there is no usable snapshot of what "
            "came before: name the archive with --archive DIRECTORY"
        )
        raise Corrupt(msg, reason="no_snapshot")
    return world


async def _give_up_snapshots(snapshots: Snapshots, world: World, at_least: int) -> int:
    """
    Remove the snapshots of what is behind the end of *world*, and give a generation above all there were.

    A claim behind the end takes the slot that one of them may be of. So they go first, and before that it is noted that
    the generation must come: cut off at any line, nobody can begin until this was run again.
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
    """Folds all of *source*, or what is behind *world*; keeps the digests of the world where a snapshot was made."""

    def __init__(self, source: CommitSource, manifests: dict[int, Manifest], world: World | None = None) -> None:
        self.world = world if world is not None else World()
        self.figures = Figures()
        self.digests: dict[int, tuple[str, str]] = {}
        """Chain and digest of the world, by the slot of a snapshot."""
        self._source = source
        self._manifests = manifests
        self._generation = self.world.generation
        self._stray = ""
        self._strays = 0

    async def run(self) -> list[Finding]:
        """Give a finding for each thing that the fold tells; damage is the first, for nothing behind it was read."""
        began = time.monotonic()
        try:
            first, last = await self._source.bounds()
            after = self.world.position.sequence
            if first > after + 1:
                seen = f"the journal begins at slot {first}; what stood before was archived, or is gone"
                return [fail("slots", seen, "give the archive with --archive DIRECTORY, or restore a backup")]
            async for records in self._source.read(after, last):
                for record in records:
                    self._take(record)
        except Corrupt as error:
            return [fail("slots", f"{error.message} (sound up to {self.world.position})", _RESTORE)]
        except Unavailable as error:
            if error.reason != NO_JOURNAL:
                raise
            return [fail("slots", error.message, "start a coordinator if there never was one; else restore a backup")]
        finally:
            self.figures.took_s = round(time.monotonic() - began, 3)
        return self._told(after + 1, last)

    def _take(self, record: Record) -> None:
        figures, world = self.figures, self.world
        figures.records += 1
        figures.size_bytes += len(record.body)
        if record.kind == "commit":
            expected = f"{world.generation}.{world.epoch}.{record.sequence}"
            figures.commits += 1
            if record.message_id != expected:
                self._stray_at(f"commit {record.sequence} has the id {record.message_id}, and its reign is {expected}")
        else:
            figures.claims += 1
        figures.events += len(world.apply_record(record))
        if record.kind == "claim":
            self._check_claim(record)
        if record.sequence in self._manifests:
            self.digests[record.sequence] = (world.chain.hex(), world.digest())

    def _check_claim(self, record: Record) -> None:
        generation = msgspec.json.decode(record.body, type=EpochClaim).generation
        if generation < self._generation:
            self._stray_at(f"claim {record.sequence} is of generation {generation}, behind one of {self._generation}")
        self._generation = max(self._generation, generation)

    def _stray_at(self, seen: str) -> None:
        self._strays += 1
        self._stray = self._stray or seen

    def _told(self, first: int, last: int) -> list[Finding]:
        figures, world = self.figures, self.world
        found = [
            ok("slots", f"{first} to {last}, none missing: {figures.commits} commits, {figures.claims} claims"),
            ok("chain", f"holds up to {world.position}: {world.chain.hex()}"),
            ok("fold", f"{figures.events} events, all decoded and allowed; digest {world.digest()}"),
        ]
        if world.unfoldable:
            do = "run the newer release that wrote it"
            found[-1] = warn("fold", f"{world.unfoldable} is not known to this version", do)
        if self._strays:
            do = "something else than a coordinator writes here: look who may publish on the journal's subjects"
            found.append(fail("reigns", f"{self._stray}; {self._strays} such", do))
        else:
            found.append(ok("reigns", f"each commit is of the reign it stands in; generation {world.generation}"))
        return found


def _seen_at_home(files: Files, stream: str) -> tuple[list[Seen | None], list[Finding], bool]:
    """Give what mark and read model have seen of *stream*, what else is to be told, and if the latter is of another."""
    seen: list[Seen | None] = []
    told: list[Finding] = []
    marked = _marked(files.mark)
    store = seen_by_store(files.store) if files.store is not None else None
    if isinstance(marked, Finding):
        told.append(marked)
        return [store], told, False
    if marked is not None and marked.stream not in ("", stream):
        told.append(unknown("mark", f"{files.mark} is of stream {marked.stream}: not looked at", _OTHER_HOME))
    else:
        seen.append(marked)
    is_other = store is not None and is_of_another(store, marked, stream)
    if is_other:
        told.append(unknown(CHECK, f"{files.store} is of another stream than {stream}: not compared", _OTHER_HOME))
    else:
        seen.append(store)
    return seen, told, is_other


def _marked(file: Path | None) -> Seen | Finding | None:
    """Read the mark, None where there is none; one that is damaged is a finding."""
    if file is None or not file.is_file():
        return None
    try:
        with HighWater.open(file) as high_water:
            return high_water.seen
    except Corrupt as error:
        return fail(f"mark {file.name}", error.message, "delete it when all else here is sound")


async def _held_against(journal: NatsJournal, world: World, seen: Seen) -> Finding:
    """Hold against the journal what somebody has seen of it."""
    check, reached = f"seen by {seen.by}", world.position.sequence
    lost = f"generation {seen.generation} is over, and {world.generation} reigns"
    if seen.sequence > reached:
        what = f"it has seen {seen.sequence}, and the journal ends at {reached}"
        if world.generation > seen.generation:
            return ok(check, f"{what}: {lost}")
        return fail(check, f"{what}: it went back, or lost its tail", _ACCEPT)
    found = await chain_at(journal, world, seen.sequence)
    if seen.chain and found and found != seen.chain:
        if world.generation > seen.generation:
            return ok(check, f"another record {seen.sequence}: {lost}")
        return fail(check, f"record {seen.sequence} is not the one it has seen: another journal, or changed", _ACCEPT)
    return ok(check, f"{seen.sequence} of {reached}, the same journal")


async def _snapshots(snapshots: Snapshots, manifests: list[Manifest], fold: _Fold) -> Finding:
    check, wrong, other, gone = "snapshots", [], 0, 0
    do = "a snapshot that is wrong is passed over at a start, which only takes longer; the next ones replace it"
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
                gone += 1  # a follower wrote a newer one meanwhile, and removed the oldest
            continue
        if fold.digests.get(at) != (manifest.chain, manifest.digest):
            wrong.append(f"the snapshot of {manifest.position} is not what the journal folds to there")
    if wrong:
        return fail(check, f"{wrong[0]}; {len(wrong)} of {len(manifests)} are wrong", do)
    if not manifests:
        return unknown(check, "there is none: followers make one every so many events")
    if gone == len(manifests):
        return unknown(check, "newer ones have replaced all there were meanwhile", "run it again")
    folded = f"{len(manifests) - other - gone} are what the journal folds to"
    folded += f", {other} of another fold version are not used" if other else ""
    return ok(check, folded + (f", {gone} were replaced meanwhile" if gone else ""))
