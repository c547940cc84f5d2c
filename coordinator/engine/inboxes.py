"""
The items of the inboxes that wait for a turn, and how a turn takes them: each exactly once, in order.

A turn that took items records how far each inbox is read, in the same commit; so the next leader continues exactly
after the last item, whatever crashed in between. An item that does not fit waits for the next turn, and the position
does not pass it. A refused command is recorded as refused and blocks nothing. One that cannot be decided now, as a
memory is full, waits until it can, and so does what came after it. This must never lose an item or take one twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import structlog

from coordinator.commands.acting import ids_of
from coordinator.commands.caller import Caller
from coordinator.commands.inbox import Item, refusal
from coordinator.engine.intake import Asked
from coordinator.engine.turn import FoldFailed, TurnFull
from events.errors import CoordinationError, Refused, Unavailable
from events.inbox import InboxRead

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from coordinator.deciders.rules import Limits
    from coordinator.engine.turn import Turn
    from projections.world import World

log = structlog.get_logger(__name__)

READ_BYTES = 1024
"""Upper bound of one `inbox.read` in a commit; this much is reserved for each inbox that a turn takes from."""

SHARE = 64
"""This many items of one inbox are taken before those of the next inbox."""

READER = Caller(actor="coordinator")


class InboxPlace(NamedTuple):
    """A position in an inbox: whole messages up to `sequence`, and the first `index` events of the next."""

    stream_created: str
    sequence: int
    index: int  # type: ignore[assignment]  # as in `Position`


def _behind(stream_created: str, item: Item) -> InboxPlace:
    """Return the place after *item*; a gap counts as its last message."""
    if item.is_last:
        return InboxPlace(stream_created, item.sequence, 0)
    return InboxPlace(stream_created, item.sequence - 1, item.index + 1)


class _Queue:
    """The waiting items of one inbox, and the place up to which this turn took them."""

    def __init__(self, domain: str, most: int) -> None:
        self.domain = domain
        self.most = most
        self.stream_created = ""
        self.waiting: deque[tuple[str, Item]] = deque()
        self.reached: InboxPlace | None = None
        self.is_held = False
        self.room = asyncio.Event()
        self.room.set()


class InboxTurns:
    """
    The inboxes as the engine sees them.

    *decide* decides and records one command, as for RPC; *wake* starts a turn. At most about `inbox_max` items of each
    inbox wait: its reader waits in `room` until there are fewer. The items in *spoiled* ended an earlier reign, as
    `FoldFailed.culprit`, and are refused.
    """

    def __init__(
        self,
        world: World,
        decide: Callable[[Turn, Asked], None],
        wake: Callable[[], None],
        limits: Limits,
        spoiled: Container[str] = (),
    ) -> None:
        self._world = world
        self._decide = decide
        self._wake = wake
        self._limits = limits
        self._spoiled = spoiled
        self._queues: dict[str, _Queue] = {}
        self._stands_back = False
        self._settled = {one.domain: (one.stream_created, one.sequence) for one in world.inboxes.values()}
        self._closing: dict[str, tuple[str, int]] = {}

    def reached(self, domain: str) -> InboxPlace:
        """Return the place after which the next item of *domain* belongs: after the waiting items, or the read ones."""
        queue, inbox = self._queues.get(domain), self._world.inboxes.get(domain)
        if queue is not None and queue.waiting:
            return _behind(*queue.waiting[-1])
        if queue is not None and queue.reached is not None:
            return queue.reached
        return InboxPlace("", 0, 0) if inbox is None else InboxPlace(inbox.stream_created, inbox.sequence, inbox.index)

    def settled(self, domain: str) -> tuple[str, int]:
        """Return the stream of *domain*, and the last of its messages that an acknowledged commit accounts for."""
        return self._settled.get(domain, ("", 0))

    def settle(self) -> None:
        """Note that the commit of the turn that was closed last is acknowledged."""
        self._settled |= self._closing
        self._closing.clear()

    def put(self, domain: str, stream_created: str, items: Iterable[Item]) -> None:
        """Queue the next items of the inbox of *domain*."""
        queue = self._queue(domain)
        queue.waiting.extend((stream_created, item) for item in items)
        if len(queue.waiting) >= queue.most:
            queue.room.clear()
        if queue.waiting:
            self._wake()

    async def room(self, domain: str) -> None:
        """Wait until `put` accepts more items of the inbox of *domain*."""
        await self._queue(domain).room.wait()

    def take_share(self, turn: Turn) -> None:
        """Take items for a quarter of the turn: a flood of RPC cannot stop the inboxes, nor a flood of items RPC."""
        stands_back, self._stands_back = self._stands_back, False
        if not stands_back:
            self._take(turn, self._limits.turn_bytes * 3 // 4)

    def stand_back(self) -> None:
        """Let RPC go first in the next turn: one of its commands did not fit and may need a whole turn."""
        self._stands_back = True

    def take_rest(self, turn: Turn) -> None:
        """Take the room that RPC left, up to the half of the turn that is reserved for placements and due events."""
        self._take(turn, self._limits.turn_bytes // 2)

    def _take(self, turn: Turn, room_bytes: int) -> None:
        ready = [queue for queue in self._queues.values() if queue.waiting]
        left = self._limits.turn_commands
        while ready and left > 0:
            for queue in tuple(ready):
                took = self._take_share(turn, queue, room_bytes, min(SHARE, left))
                left -= took
                if took < SHARE or not queue.waiting:
                    ready.remove(queue)

    def close(self, turn: Turn) -> None:
        """Record how far each inbox is read that *turn* took items from."""
        turn.release()
        for queue in self._queues.values():
            if queue.reached is not None:
                (created, sequence, index), queue.reached = queue.reached, None
                self._closing[queue.domain] = created, sequence
                turn.record(
                    [InboxRead(domain=queue.domain, stream_created=created, sequence=sequence, index=index)], READER
                )
        if any(queue.waiting and not queue.is_held for queue in self._queues.values()):
            self._wake()
        for domain in tuple(self._queues)[:1]:
            # Another inbox is first in the next turn, so that an item that needs a whole turn gets one.
            self._queues[domain] = self._queues.pop(domain)

    def _queue(self, domain: str) -> _Queue:
        queue = self._queues.get(domain)
        if queue is None:
            queue = self._queues[domain] = _Queue(domain, self._limits.inbox_max)
        return queue

    def _take_share(self, turn: Turn, queue: _Queue, room_bytes: int, most: int) -> int:
        if queue.reached is None:
            if turn.room - READ_BYTES <= room_bytes:
                return 0
            turn.reserve(READ_BYTES)
        taken = 0
        queue.is_held = False
        while taken < most and queue.waiting and turn.room > room_bytes:
            created, item = queue.waiting[0]
            try:
                self._take_up(turn, queue.domain, item, f"{queue.domain} {created} {item.sequence}.{item.index}")
            except TurnFull:
                break
            except Unavailable:
                queue.is_held = True  # until the next turn, which begins with the next command or tick
                break
            queue.waiting.popleft()
            taken += 1
            queue.reached = _behind(created, item)
        if len(queue.waiting) * 2 < queue.most:
            queue.room.set()
        return taken

    def _take_up(self, turn: Turn, domain: str, item: Item, key: str) -> None:
        """
        Decide or record one item.

        Raises:
            TurnFull, Unavailable: nothing of the item was recorded; it belongs to the next turn.
            FoldFailed: see `Turn.record`.
        """
        caller = Caller(actor=domain, tenant=item.tenant, command_id=item.command_id, traceparent=item.traceparent)
        try:
            if key in self._spoiled:
                raise Refused("the coordinator failed on this command and started a new reign", reason="internal")
            if item.command is not None:
                self._decide(turn, Asked(item.command, caller))
            elif item.event is not None:
                turn.record([item.event], caller)
        except (TurnFull, Unavailable):
            raise
        except FoldFailed as error:
            error.culprit = key
            raise
        except CoordinationError as error:
            self._refuse(turn, domain, item, caller, error)
        except Exception as error:  # one command must never stop the writer: refuse and log it
            ids = ids_of(item.tenant, item.traceparent)
            log.exception("command_crashed", command=type(item.command).__name__, actor=domain, **ids)
            refused = Refused(f"the coordinator failed on this command: {error}", reason="internal")
            self._refuse(turn, domain, item, caller, refused)

    def _refuse(self, turn: Turn, domain: str, item: Item, caller: Caller, error: CoordinationError) -> None:
        # The facts and the refusal are recorded together or not at all, as the item may come again in the next turn.
        turn.record((*error.facts, refusal(domain, item, error)), caller)
