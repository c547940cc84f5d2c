"""
What came in from the inboxes and was not yet taken up, and how a turn takes it: each item once, in order, none twice.

A turn that took something ends with how far each inbox is read, in the same commit; so whoever leads next goes on
exactly behind it, whatever crashed in between. What does not fit waits for the next turn, and the position does not
pass it. An order that is refused is recorded as refused and holds up nothing. This must never lose an item or take one
again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import structlog

from coordinator.commands.caller import Caller
from coordinator.commands.inbox import Item, refusal
from coordinator.engine.intake import Asked
from coordinator.engine.turn import FoldFailed, TurnFull
from events.errors import CoordinationError, Refused
from events.inbox import InboxRead

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from coordinator.deciders.rules import Limits
    from coordinator.engine.turn import Turn
    from projections.world import World

log = structlog.get_logger(__name__)

READ_BYTES = 1024
"""What one `inbox.read` takes in a commit at most; as much is kept free for each inbox that a turn takes from."""

SHARE = 64
"""So many items of one inbox are taken before the next inbox has its turn."""

READER = Caller(actor="coordinator")


class InboxPlace(NamedTuple):
    """A position in an inbox: whole messages up to `sequence`, and the first `index` events of the next."""

    stream_created: str
    sequence: int
    index: int  # type: ignore[assignment]  # as in `Position`


def _behind(stream_created: str, item: Item) -> InboxPlace:
    """Say how far an inbox is read with *item*; a gap counts as its last message."""
    if item.is_last:
        return InboxPlace(stream_created, item.sequence, 0)
    return InboxPlace(stream_created, item.sequence - 1, item.index + 1)


class _Queue:
    """What waits of one inbox, and how far what this turn took of it reaches."""

    def __init__(self, domain: str, most: int) -> None:
        self.domain = domain
        self.most = most
        self.stream_created = ""
        self.waiting: deque[tuple[str, Item]] = deque()
        self.reached: InboxPlace | None = None
        self.room = asyncio.Event()
        self.room.set()


class InboxTurns:
    """
    The inboxes as the engine sees them.

    *decide* decides and records one order, as it does those of RPC; *wake* begins a turn. Of each inbox about
    `inbox_max` items wait at most: whoever reads it waits in `room` until there are fewer. What is in *spoiled* ended
    a reign before, as `FoldFailed.culprit`, and is refused.
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

    def reached(self, domain: str) -> InboxPlace:
        """Say behind what the next item of the inbox of *domain* belongs: behind what waits, else where the fold is."""
        queue, inbox = self._queues.get(domain), self._world.inboxes.get(domain)
        if queue is not None and queue.waiting:
            return _behind(*queue.waiting[-1])
        if queue is not None and queue.reached is not None:
            return queue.reached
        return InboxPlace("", 0, 0) if inbox is None else InboxPlace(inbox.stream_created, inbox.sequence, inbox.index)

    def put(self, domain: str, stream_created: str, items: Iterable[Item]) -> None:
        """Queue what comes next in the inbox of *domain*."""
        queue = self._queue(domain)
        queue.waiting.extend((stream_created, item) for item in items)
        if len(queue.waiting) >= queue.most:
            queue.room.clear()
        if queue.waiting:
            self._wake()

    async def room(self, domain: str) -> None:
        """Wait until more of the inbox of *domain* may be put here."""
        await self._queue(domain).room.wait()

    def take_share(self, turn: Turn) -> None:
        """Take what no flood of RPC may take from the inboxes, nor they from it: a quarter of the turn."""
        stands_back, self._stands_back = self._stands_back, False
        if not stands_back:
            self._take(turn, self._limits.turn_bytes * 3 // 4)

    def stand_back(self) -> None:
        """Let RPC come first in the next turn: an order of its did not fit into this one, and may need all of it."""
        self._stands_back = True

    def take_rest(self, turn: Turn) -> None:
        """Take what RPC left over, up to the half of the turn that is kept for what follows from orders."""
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
        """Record how far each inbox is read that *turn* took from."""
        turn.release()
        for queue in self._queues.values():
            if queue.reached is not None:
                (created, sequence, index), queue.reached = queue.reached, None
                turn.record(
                    [InboxRead(domain=queue.domain, stream_created=created, sequence=sequence, index=index)], READER
                )
        if any(queue.waiting for queue in self._queues.values()):
            self._wake()
        for domain in tuple(self._queues)[:1]:
            # Another is first in the next turn: what needs an empty turn, being so large, finds one.
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
        while taken < most and queue.waiting and turn.room > room_bytes:
            created, item = queue.waiting[0]
            try:
                self._take_up(turn, queue.domain, item, f"{queue.domain} {created} {item.sequence}.{item.index}")
            except TurnFull:
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
            TurnFull: nothing of it was recorded; it belongs to the next turn.
            FoldFailed: see `Turn.record`.
        """
        caller = Caller(actor=domain, tenant=item.tenant, command_id=item.command_id, traceparent=item.traceparent)
        try:
            if key in self._spoiled:
                raise Refused("the coordinator failed on this and had to begin anew", reason="internal")
            if item.command is not None:
                self._decide(turn, Asked(item.command, caller))
            elif item.event is not None:
                turn.record([item.event], caller)
        except TurnFull:
            raise
        except FoldFailed as error:
            error.culprit = key
            raise
        except CoordinationError as error:
            self._refuse(turn, domain, item, caller, error)
        except Exception as error:  # one order must never stop the writer: refuse it, say so
            log.exception("command_crashed", command=type(item.command).__name__, actor=domain)
            refused = Refused(f"the coordinator failed on this command: {error}", reason="internal")
            self._refuse(turn, domain, item, caller, refused)

    def _refuse(self, turn: Turn, domain: str, item: Item, caller: Caller, error: CoordinationError) -> None:
        # What is on record all the same goes with it: all or nothing, for the item may come again in the next turn.
        turn.record((*error.facts, refusal(domain, item, error)), caller)
