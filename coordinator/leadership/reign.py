"""
One reign: claim the epoch, fold everything before the claim, lead until the engine resigns.

The claim fences off the previous writer, so only an instance that knows all events of the journal makes one.
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import structlog

from coordinator.commands.notices import Announcement
from coordinator.doors.heartbeats import HeartbeatDoor, recall_heartbeats
from coordinator.doors.inbox import InboxReaders
from coordinator.doors.micro import queue_of
from coordinator.doors.rpc import RpcDoor
from coordinator.engine.engine import Engine
from coordinator.journal.slots import DEPOSED, Deposed
from coordinator.leadership.led_journal import LedJournal
from coordinator.task_groups import task_group
from events.codec import rfc3339
from events.coordinator import EpochClaim
from events.subjects import Subjects
from projections.agents import changes

log = structlog.get_logger(__name__)

CROWDED_BYTES = 4 * 1024 * 1024
"""While more answers than this wait for the network, no questions are answered."""

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container

    from coordinator.bus.connection import Bus
    from coordinator.clock import Clock
    from coordinator.doors.micro import RequestStats
    from coordinator.journal.stream import NatsJournal
    from coordinator.leadership.catch_up import CatchUp
    from coordinator.leadership.instance import Instance
    from coordinator.leadership.lease import Lease
    from projections.world import World


@asynccontextmanager
async def open_doors(engine: Engine, bus: Bus, subjects: Subjects, stats: RequestStats) -> AsyncIterator[None]:
    """
    Accept commands and heartbeats for *engine* while the block runs, and announce that it leads.

    When the connection was lost and is there again this is announced too: requests that were on their way are lost.
    """
    opened = count(1)

    def announce() -> None:
        bus.send(subjects.leader, msgspec.json.encode(Announcement(epoch=str(engine.epoch), opened=next(opened))))

    rpc = RpcDoor(engine, bus, subjects, stats)
    heartbeats = HeartbeatDoor(engine.listening, subjects)
    subscriptions = [
        await bus.subscribe(subjects.rpc_all, rpc.take, queue=queue_of(engine.epoch)),
        await bus.subscribe(subjects.heartbeats, heartbeats.take),
    ]
    try:
        await bus.flush()
        announce()
        bus.on_reconnect.append(announce)
        await recall_heartbeats(bus, subjects, heartbeats.recall)
        yield
    finally:
        if announce in bus.on_reconnect:  # not if it could not be flushed above
            bus.on_reconnect.remove(announce)
        for subscription in subscriptions:
            await subscription.unsubscribe()


class Reign:
    """One reign of an instance; *spoiled* names the callers whose command made the fold fail."""

    def __init__(
        self,
        instance: Instance,
        world: World,
        *,
        journal: NatsJournal,
        catch_up: CatchUp,
        lease: Lease,
        doors: Bus,
        stats: RequestStats,
        clock: Clock,
        spoiled: Container[str],
    ) -> None:
        self._instance = instance
        self._world = world
        self._journal = journal
        self._catch_up = catch_up
        self._lease = lease
        self._doors = doors
        self._stats = stats
        self._clock = clock
        self._spoiled = spoiled
        self._subjects = Subjects(instance.namespace)

    async def claim(self, may_lead: Callable[[World], bool]) -> bool:
        """Claim the epoch and fold up to the claim; return False if *may_lead* is false for the folded world."""
        world = self._world
        await self._catch_up.to_end(world)
        if not may_lead(world):
            return False
        holder, now = self._instance.name, rfc3339(self._clock.wall())
        claim = EpochClaim(generation=max(world.generation, 1), holder=holder, time=now)
        sequence = await self._journal.claim(msgspec.json.encode(claim))
        await self._catch_up.to_claim(world, sequence)
        if world.epoch != sequence:
            msg = f"our claim is in slot {sequence}, but the world was folded up to that in slot {world.epoch}"
            raise Deposed(msg, reason=DEPOSED)
        return may_lead(world)

    async def lead(self, began: Callable[[Engine], None], ended: Callable[[], None]) -> None:
        """Decide and answer until the engine resigns; *began* and *ended* are called when the doors open and close."""
        instance, world, doors = self._instance, self._world, self._doors
        journal = LedJournal(
            self._journal,
            world,
            note=lambda: self._catch_up.note(world),
            send=lambda notice: doors.send(self._subjects.services, notice),
        )
        engine = Engine(
            world=world,
            journal=journal,
            rules=instance.rules,
            clock=self._clock,
            instance=instance.name,
            version=instance.version,
            limits=instance.limits,
            is_fresh=lambda: self._lease.is_fresh(instance.lease_fresh_s),
            is_over=self._lease.must_stop,
            is_crowded=lambda: doors.unsent_bytes > CROWDED_BYTES,
            notify=lambda kind, entity_id, body: doors.send(self._subjects.notice(kind, entity_id), body),
            access=instance.access,
            spoiled=self._spoiled,
        )
        _freeze()
        log.info("leadership_started", instance=instance.name, epoch=str(engine.epoch), position=str(world.position))
        _tell_of_agents(world, instance)
        async with task_group() as tasks:
            led = tasks.create_task(engine.run())
            telling = tasks.create_task(journal.keep_telling())
            async with open_doors(engine, doors, self._subjects, self._stats):
                began(engine)
                inboxes = tasks.create_task(InboxReaders(engine.inboxes, doors, self._subjects, instance.inbox).run())
                await asyncio.wait([led])
                inboxes.cancel()
                ended()
            telling.cancel()
        log.info("leadership_ended", instance=instance.name, position=str(world.position))


def _tell_of_agents(world: World, instance: Instance) -> None:
    """Say that the catalogue in the journal is another one than that of the settings, which then have no effect."""
    differ = changes(world.agents.agents, instance.rules.agents) if world.agents.digest else {}
    if differ:
        log.warning(
            "agents_differ",
            instance=instance.name,
            agents=sorted(differ),
            why="the settings only fill an empty catalogue: see `coordinator agents diff`, then `agents apply`",
        )


def _freeze() -> None:
    """
    Exclude the folded world from garbage collection: it lives as long as this reign.

    The world of the previous reign must be collected first, or it would never be freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
