"""
The follower: follows the journal, updates the read model and the feed, and answers questions from the read model.

Several may run; none of them decides anything, and the files of one can be deleted at any time. It resumes by itself
after an outage of NATS. A read model that is damaged or of another journal is moved aside and rebuilt. When the journal
is damaged, the follower stops following it and still answers questions as of the position before the damage.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import msgspec
import structlog

from coordinator.archive.source import ArchiveSource
from coordinator.bus.connection import CONNECT_TIMEOUT_S, Bus
from coordinator.follower.feed import Feed
from coordinator.follower.lag import lag
from coordinator.follower.read_door import ReadDoor, ReadLimits
from coordinator.follower.shadows import Shadows
from coordinator.follower.snapshotter import SnapshotLimits, Snapshotter
from coordinator.follower.store_size import measure, size_of
from coordinator.health.history import CheckHistory
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from events.errors import CoordinationError, Unavailable
from events.subjects import Subjects
from projections.projector import Projector, ProjectorLimits
from projections.store.port import StoreUnfit
from projections.store.retention import Retention
from projections.store.sqlite import SqliteStore, set_aside

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from coordinator.commands.shadow import ReportShadow
    from coordinator.follower.feed import FeedLimits
    from projections.source import CommitSource
    from projections.store.port import Store

log = structlog.get_logger(__name__)


class FollowerLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits of a follower; times in seconds."""

    projector: ProjectorLimits = ProjectorLimits()
    reads: ReadLimits = ReadLimits()
    first_pause_s: float = 0.1
    longest_pause_s: float = 10.0
    """Pauses between attempts while the journal or the store cannot be used."""
    keep: Retention = Retention()
    sweep_s: float = 10.0


class Follower:
    """
    One follower with the store file *path*; `store` and `projector` are None while the store is not open.

        async with Follower.open(url, home / "state.db") as follower:
            await follower.wait_failed()
    """

    def __init__(self, source: CommitSource, path: Path, limits: FollowerLimits | None = None) -> None:
        self.store: Store | None = None
        self.projector: Projector | None = None
        self.shadows: Shadows | None = None
        """Compares candidate policies while the projector runs."""
        self.feed: Feed | None = None
        self.begins: Callable[[int], Awaitable[bytes | None]] | None = None
        """Returns the newest snapshot of the journal before a slot."""
        self.snapshotter: Snapshotter | None = None
        self.measured = measure(path)
        """The size of the store at the beginning."""
        self._source = source
        self._path = path
        self._limits = limits if limits is not None else FollowerLimits()
        self._opened = asyncio.Event()
        self._failed = asyncio.Event()
        self._failure: CoordinationError | None = None

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        path: Path,
        *,
        namespace: str = "coordination",
        creds: str | None = None,
        tls_ca: str | None = None,
        limits: FollowerLimits | None = None,
        feed: FeedLimits | None = None,
        snapshots: SnapshotLimits | None = None,
        archive: Path | None = None,
        replicas: int = 1,
        checks: Path | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> AsyncIterator[Follower]:
        """
        Follow the journal at *url* into the store *path* and answer questions while the block runs.

        With *feed* it also writes the feed, and with *snapshots* snapshots; NATS keeps *replicas* copies of these and
        of the journal. Records that were purged from the journal are read from the directory *archive*. The outcomes of
        health checks are kept in the file *checks*. A server must answer within *connect_timeout_s* seconds.

        Raises:
            Unavailable: NATS cannot be reached at the start.
            Refused: the credentials or the URL are wrong.
        """
        subjects = Subjects(namespace)
        reach = partial(Bus.open, url, creds=creds, tls_ca=tls_ca, connect_timeout_s=connect_timeout_s)
        # Each has its own connection and reads for itself, so a slow one does not delay the other.
        feed_bus: Bus | None
        history: CheckHistory | None
        async with (
            reach(name="follower") as bus,
            reach(name="feed", buffered=False) if feed is not None else nullcontext() as feed_bus,
            CheckHistory.open(checks, bus, subjects) if checks is not None else nullcontext() as history,
        ):
            journal = NatsJournal(bus, subjects)
            follower = cls(journal if archive is None else ArchiveSource(archive, journal), path, limits)
            wanted = snapshots if snapshots is not None else SnapshotLimits()
            kept = Snapshots(bus, subjects, replicas=replicas, kept=wanted.kept)
            follower.begins = lambda before: kept.newest(journal, bytes, before=before)
            if snapshots is not None:
                follower.snapshotter = Snapshotter(kept, lambda: follower.projector, snapshots)
            if feed is not None and feed_bus is not None:
                follower.feed = Feed(feed_bus, subjects, NatsJournal(feed_bus, subjects), feed)
            door = ReadDoor(
                bus,
                subjects,
                lambda: follower.store,
                follower._limits.reads,
                lag=lambda: lag(journal, follower.store, follower.feed, size_of(path, follower.measured)),
                checks=history,
            )
            async with follower.following(), door.opened():
                yield follower

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Update store, feed and snapshots from the journal while the block runs."""
        async with task_group() as tasks:
            working = [tasks.create_task(self._keep_following())]
            if self.feed is not None:
                working.append(tasks.create_task(self.feed.run()))
            if self.snapshotter is not None:
                working.append(tasks.create_task(self.snapshotter.run()))
            try:
                yield
            finally:
                for task in working:
                    task.cancel()

    async def wait_failed(self) -> NoReturn:
        """
        Wait, without limit, until the journal cannot be followed any more.

        Raises:
            CoordinationError: the cause; `Corrupt` if the journal is damaged.
        """
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    def compared(self, every_s: float) -> list[ReportShadow]:
        """Return what is to be reported of candidate policies, of each queue every *every_s* seconds."""
        shadows, projector = self.shadows, self.projector
        return [] if shadows is None or projector is None else list(shadows.reports(projector.world, every_s))

    async def wait_opened(self, timeout_s: float) -> Store:
        """
        Wait until the store is open and return it.

        Raises:
            Unavailable: it is not open within *timeout_s*.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.store is None:
                    await self._opened.wait()
        except TimeoutError:
            msg = f"the read model {self._path} is not open within {timeout_s:g} s: try again"
            raise Unavailable(msg, reason="starting") from None
        return self.store

    async def _keep_following(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = self._limits.first_pause_s
        while True:
            began = loop.time()
            try:
                async with SqliteStore.open(self._path) as store:
                    await self._follow(store)
            except StoreUnfit as error:
                why = await self._set_aside(error.message)
            except Unavailable as error:
                why = error.message
            if loop.time() - began > self._limits.longest_pause_s:
                pause_s = self._limits.first_pause_s
            log.warning("following_interrupted", path=str(self._path), again_in_s=pause_s, reason=why)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._limits.longest_pause_s)

    async def _follow(self, store: SqliteStore) -> NoReturn:
        self.store = store
        self._opened.set()
        log.info("follower_started", path=str(self._path), position=str(store.position().position))
        try:
            shadows = Shadows()
            self.projector = Projector(
                self._source,
                store,
                snapshot=await self._snapshot(store),
                limits=self._limits.projector,
                fold=shadows.apply_record,
            )
            self.shadows = shadows
            async with task_group() as tasks:
                sweeping = tasks.create_task(self._keep_bounded(store))
                try:
                    await self.projector.run()
                finally:
                    sweeping.cancel()
        except Unavailable:
            raise
        except CoordinationError as error:
            position = str(store.position().position)
            log.error("follower_failed", position=position, code=error.code, reason=error.message)  # noqa: TRY400
            self._failure = error
            self._failed.set()
            # Keep answering questions from what was read, until the process that runs this stops it on `wait_failed`.
            await asyncio.Event().wait()
        finally:
            self.store = self.projector = self.shadows = None
            self._opened.clear()
            log.info("follower_stopped", path=str(self._path), position=str(store.position().position))
        raise AssertionError

    async def _keep_bounded(self, store: SqliteStore) -> None:
        while self._limits.keep.is_bounded:
            try:
                removed = await store.sweep(self._limits.keep)
            except (Unavailable, OSError) as error:  # the projector meets what is wrong with the store, too
                log.warning("store_sweep_failed", path=str(self._path), reason=str(error))
            else:
                if removed:
                    log.info("store_swept", path=str(self._path), rows=removed, begins=str(store.begins()))
            await asyncio.sleep(self._limits.sweep_s)

    async def _snapshot(self, store: Store) -> bytes | None:
        """
        Return a snapshot to start with, or None if none helps.

        It is older than the store, so at least one record of both is compared: this shows if they are of one journal.
        """
        stored = store.position().position.sequence
        return None if stored <= 1 or self.begins is None else await self.begins(stored)

    async def _set_aside(self, reason: str) -> str:
        try:
            await asyncio.to_thread(set_aside, self._path, reason)
        except Unavailable as error:
            return error.message
        return reason
