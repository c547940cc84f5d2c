"""
A coordinator instance: it follows the journal on standby, leads when it can, and goes back to standby when deposed.

    fold continuously → take the lease → claim `….epoch` → catch up to the claim → lead

The lease only says which instance should try; the claim is what the server checks at each commit. Everything before the
claim is folded before anything is decided, so a new writer continues exactly where the last one stopped.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.bus.connection import Bus
from coordinator.bus.streams import ensure_stream
from coordinator.clock import SystemClock
from coordinator.commands.notices import NOTICE_EVERY_S, Announcement
from coordinator.doors.heartbeats import heartbeat_stream
from coordinator.doors.micro import Standing, open_service_api
from coordinator.engine.engine import Engine
from coordinator.engine.turn import FoldFailed
from coordinator.journal.high_water import HighWater
from coordinator.journal.slots import Epoch
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal, check_max_payload
from coordinator.leadership.catch_up import BRANCHED, CatchUp, remembering
from coordinator.leadership.instance import Instance
from coordinator.leadership.lease import Lease
from coordinator.leadership.reign import Reign
from coordinator.nats_server.health import write_error
from coordinator.task_groups import task_group
from events.errors import Unavailable
from events.subjects import Subjects
from projections.world import World

if TYPE_CHECKING:
    from coordinator.clock import Clock
    from coordinator.doors.micro import RequestStats

log = structlog.get_logger(__name__)


FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Pauses between reigns that ended soon, for example while NATS does not answer."""
START_PATIENCE_S = 30.0
"""How long to wait for JetStream at the start: servers that start together first elect their leaders, twice."""
STAND_BY_S = 1.0
"""How often a standby folds new records."""
SPOILED_KEPT = 1000
"""How many commands that made a fold fail are remembered; inboxes are read in order, so one of each would do."""


class Coordinator:
    """An instance that leads whenever it can; `engine` is the engine of its current reign, None while on standby."""

    def __init__(self, instance: Instance, *, clock: Clock | None = None) -> None:
        self.engine: Engine | None = None
        self.leading = asyncio.Event()
        self.trouble = ""
        """Why nothing is stored now although NATS answers; '' while it is."""
        self._instance = instance
        self._subjects = Subjects(instance.namespace)
        self._clock = clock if clock is not None else SystemClock()
        self._stopped = asyncio.Event()
        self._not_known = ""
        self._is_cut_off = False
        self._world = World()
        self._spoiled: dict[str, None] = {}

    async def run(self) -> None:
        """
        Serve until `stop`.

        Raises:
            Corrupt: the journal is damaged, shorter than a high-water mark, or does not exist any more; nothing was
                written.
            Refused: a stream has another configuration, or the credentials are wrong.
            Unavailable: NATS cannot be reached at the start.
        """
        instance = self._instance
        with HighWater.open(Path(instance.seen_file) if instance.seen_file else None) as high_water:
            async with task_group() as tasks:
                syncing = tasks.create_task(high_water.keep_synced())
                await self._run(high_water)
                syncing.cancel()

    async def _run(self, high_water: HighWater) -> None:
        instance = self._instance
        reach = partial(
            Bus.open,
            instance.url,
            buffered=False,
            creds=instance.creds,
            tls_ca=instance.tls_ca,
            connect_timeout_s=instance.connect_timeout_s,
        )
        async with (
            reach(name=f"{instance.name}-writer") as writer,
            reach(name=f"{instance.name}-doors") as doors,
            open_service_api(
                doors,
                self._subjects,
                instance=instance.name,
                wall=self._clock.wall(),
                standing=self._standing,
            ) as api,
        ):
            check_max_payload(writer.max_payload_bytes, instance.limits.turn_bytes)
            prepared = await self._prepared(writer, doors, high_water)
            if prepared is None:
                return
            journal, catch_up, lease = prepared
            async with task_group() as tasks:
                telling = tasks.create_task(self._keep_telling(journal, lease, doors))
                await self._lead_on(journal, catch_up, lease, doors, api.stats)
                telling.cancel()

    async def _lead_on(
        self, journal: NatsJournal, catch_up: CatchUp, lease: Lease, doors: Bus, stats: RequestStats
    ) -> None:
        """Reign again and again, until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self._stopped.is_set():
            began = self._clock.heard()
            try:
                await self._reign(journal, catch_up, lease, doors, stats)
            except FoldFailed as error:  # nothing was committed: begin a new reign and refuse the command at fault
                if not error.culprit or error.culprit in self._spoiled:
                    raise
                log.exception("fold_failed", instance=self._instance.name, culprit=error.culprit)
                self._spoiled[error.culprit] = None
                if len(self._spoiled) > SPOILED_KEPT:
                    del self._spoiled[next(iter(self._spoiled))]
            except Unavailable as error:  # deposed, or NATS does not answer: go back to standby
                log.warning("leadership_lost", instance=self._instance.name, why=error.message)
            finally:
                self.engine = None
                self.leading.clear()
                journal.trouble = ""  # the lease tells from here on; another instance may write by now
            pause_s = FIRST_PAUSE_S if self._clock.heard() - began > LONGEST_PAUSE_S else pause_s
            await self._stopped_within(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _prepared(
        self, writer: Bus, doors: Bus, high_water: HighWater
    ) -> tuple[NatsJournal, CatchUp, Lease] | None:
        """Run `_prepare`, and retry while a cluster of NATS servers elects its leaders; return None when stopped."""
        began = self._clock.heard()
        while True:
            try:
                return await self._prepare(writer, doors, high_water)
            except Unavailable as error:
                if self._clock.heard() - began > START_PATIENCE_S:
                    raise
                log.warning("start_delayed", instance=self._instance.name, reason=error.message)
            if await self._stopped_within(STAND_BY_S):
                return None

    async def _prepare(self, writer: Bus, doors: Bus, high_water: HighWater) -> tuple[NatsJournal, CatchUp, Lease]:
        """Check that the journal was not lost, and that the streams exist with the right configuration."""
        instance, subjects = self._instance, self._subjects
        journal = NatsJournal(writer, subjects, replicas=instance.replicas)
        catch_up = await remembering(
            journal,
            writer,
            subjects,
            high_water,
            Snapshots(doors, subjects, replicas=instance.replicas),
            store=instance.store_file,
            archive=instance.archive,
            replicas=instance.replicas,
        )
        await journal.prepare()
        await ensure_stream(doors, heartbeat_stream(subjects, replicas=instance.replicas))
        lease = Lease(
            writer,
            subjects,
            instance.name,
            ttl_s=instance.lease_ttl_s,
            renew_s=instance.lease_renew_s,
            stop_s=instance.lease_stop_s,
            replicas=instance.replicas,
            clock=self._clock.heard,
        )
        await lease.prepare()
        return journal, catch_up, lease

    async def _keep_telling(self, journal: NatsJournal, lease: Lease, doors: Bus) -> None:
        """While NATS does not store the lease or a record, log and publish why nobody can lead; callers hear of it."""
        while True:
            await asyncio.sleep(NOTICE_EVERY_S)
            if seen := lease.trouble or journal.trouble:
                told, self.trouble = self.trouble, await self._write_error() or seen
                if self.trouble != told:
                    log.error("nats_stores_nothing", instance=self._instance.name, why=self.trouble)
                epoch = str(Epoch(self._world.generation, self._world.epoch))
                doors.send(self._subjects.leader, msgspec.json.encode(Announcement(epoch=epoch, trouble=self.trouble)))
            elif self.trouble:
                self.trouble = ""
                log.info("nats_stores_again", instance=self._instance.name)

    async def _write_error(self) -> str:
        store = self._instance.nats_store
        return await write_error(Path(store)) if store else ""

    def stop(self, reason: str) -> None:
        """Resign, or stop waiting to lead; `run` then returns."""
        self._stopped.set()
        if self.engine is not None:
            self.engine.resign(reason)

    def _standing(self) -> Standing:
        """Return whether this instance leads, and which one does, for NATS tools."""
        return Standing(epoch=self.engine.epoch if self.engine is not None else None, leader=self._world.leader)

    async def _stopped_within(self, timeout_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _reign(
        self, journal: NatsJournal, catch_up: CatchUp, lease: Lease, doors: Bus, stats: RequestStats
    ) -> None:
        world = self._world = await catch_up.begun()
        # The instance's name is protected by a lock: a process that has it knows that its predecessor has ended.
        if not self._may_lead(world) or not await lease.take_back(self._instance.name):
            log.info("standby_started", instance=self._instance.name)
            while not self._may_lead(world) or not await lease.acquire(STAND_BY_S):
                if await self._stopped_within(0.0 if self._may_lead(world) else STAND_BY_S):
                    return
                await self._follow(catch_up, world)
        try:
            async with task_group() as tasks:
                work = [
                    tasks.create_task(lease.hold()),
                    tasks.create_task(self._lead(world, journal, catch_up, lease, doors, stats)),
                    tasks.create_task(self._stopped.wait()),
                ]
                await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
                if self.engine is not None and not work[0].done():
                    await asyncio.wait(work[:2], return_when=asyncio.FIRST_COMPLETED)
                for task in work:
                    task.cancel()
        finally:
            await lease.release()

    async def _follow(self, catch_up: CatchUp, world: World) -> None:
        """Fold new records; keep the world while NATS does not answer, it may be needed as soon as NATS is back."""
        try:
            await catch_up.to_end(world)
            self._is_cut_off = False
        except Unavailable as error:
            if error.reason == BRANCHED:
                raise
            if not self._is_cut_off:
                log.warning("standby_read_failed", instance=self._instance.name, why=error.message)
            self._is_cut_off = True
            await self._stopped_within(STAND_BY_S)

    def _may_lead(self, world: World) -> bool:
        """Return whether this version knows all events of the journal; if not, it follows and never leads."""
        if world.unfoldable and world.unfoldable != self._not_known:
            self._not_known = world.unfoldable
            log.error(
                "leadership_declined",
                instance=self._instance.name,
                reason=f"the journal holds {world.unfoldable}, which this version {self._instance.version} does not "
                "know: it follows on standby and does not lead until it is upgraded",
            )
        return not world.unfoldable

    async def _lead(
        self,
        world: World,
        journal: NatsJournal,
        catch_up: CatchUp,
        lease: Lease,
        doors: Bus,
        stats: RequestStats,
    ) -> None:
        """Lead until the engine resigns, if this version knows all events of *world*."""
        reign = Reign(
            self._instance,
            world,
            journal=journal,
            catch_up=catch_up,
            lease=lease,
            doors=doors,
            stats=stats,
            clock=self._clock,
            spoiled=self._spoiled,
        )
        if await reign.claim(self._may_lead):
            await reign.lead(self._began, self.leading.clear)

    def _began(self, engine: Engine) -> None:
        self.engine = engine
        self.leading.set()
        if self._stopped.is_set():
            engine.resign("stopped")
