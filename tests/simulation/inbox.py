"""
A simulated inbox: a publisher whose messages and acknowledgements are lost, and a reader for the leader.

The stream follows the rules of the server (it remembers a message id for a while only). The reader follows those of the
real one: it continues at the position in the journal, and passes on what the real code makes of each message.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.inbox import Item
from coordinator.doors.inbox_messages import Incoming, items_of
from events.inbox import InboxRead, InboxRecorded, InboxRefused

if TYPE_CHECKING:
    from random import Random

    from coordinator.engine.engine import Engine
    from events.base import Event

DOMAIN = "execution"
CREATED = "2026-11-23T17:00:00Z"
MESSAGES = 30
WINDOW_S = 3.0
LOOK_S = 0.3
MOST_AT_ONCE = 5


class SimInbox:
    """The stream of one domain; message *n* has sequence *n*, starting at 1."""

    def __init__(self, random: Random, fired: Counter[str]) -> None:
        self.messages: list[Incoming] = []
        self.tasks: set[str] = set()
        self._random = random
        self._fired = fired
        self._known: dict[str, float] = {}

    async def publish_all(self, until_s: float) -> None:
        """Publish every message until acknowledged, spread over the time before *until_s*."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(MESSAGES):
                tasks.create_task(self._publish(number, self._random.random() * until_s * 0.9))

    async def _publish(self, number: int, at_s: float) -> None:
        kind, event, body = self._drawn(number)
        await asyncio.sleep(at_s)
        while not self._sent(f"m{number}", kind, event, body):  # noqa: ASYNC110  # a publisher waits and retries
            await asyncio.sleep(self._random.uniform(0.1, 2 * WINDOW_S))

    def _drawn(self, number: int) -> tuple[str, str, bytes]:
        drawn = self._random.random()
        if drawn < 0.1:
            return "task", "submitted", b"{ not JSON"
        if drawn < 0.4:
            task_id = f"inbox_{number}"
            self.tasks.add(task_id)
            data = {"task_id": task_id, "task_name": "n"}
            return "task", "submitted", msgspec.json.encode(_event(f"e{number}", "task.submitted", data))
        if drawn < 0.5:
            return (
                "task",
                "cancelled",
                msgspec.json.encode(_event(f"e{number}", "task.cancelled", {"task_id": "nobody"})),
            )
        count = self._random.choice((1, 3, 80, 80))
        facts = [_event(f"e{number}.{n}", "robot.moved", {"x": n}) for n in range(count)]
        return "robot", "moved", msgspec.json.encode(facts)

    def _sent(self, message_id: str, kind: str, event: str, body: bytes) -> bool:
        if self._random.random() < 0.1:
            self._fired["inbox_message_lost"] += 1
            return False
        now = asyncio.get_running_loop().time()
        if now - self._known.get(message_id, -WINDOW_S) >= WINDOW_S:
            if message_id in self._known:
                self._fired["inbox_message_repeated"] += 1
            self._known[message_id] = now
            sequence = len(self.messages) + 1
            self.messages.append(Incoming(domain=DOMAIN, kind=kind, event=event, sequence=sequence, body=body))
        if self._random.random() < 0.15:
            self._fired["inbox_ack_lost"] += 1
            return False
        return True

    async def read(self, engine: Engine) -> None:
        """Pass all messages to *engine* while it leads."""
        _, sequence, skip = engine.inboxes.reached(DOMAIN)
        if skip:
            self._fired["inbox_resumed_within_a_message"] += 1
        while True:
            await asyncio.sleep(self._random.random() * LOOK_S)
            for message in self.messages[sequence : sequence + MOST_AT_ONCE]:
                await engine.inboxes.room(DOMAIN)
                engine.inboxes.put(DOMAIN, CREATED, items_of(message)[skip:])
                sequence, skip = message.sequence, 0


def _event(event_id: str, type_: str, data: object) -> dict[str, object]:
    return {"specversion": "1.0", "id": event_id, "source": "/sim", "type": type_, "data": data}


def faults_of(inbox: SimInbox, events: list[Event]) -> list[str]:
    """List how the journal differs from the inbox; each event must have its effect once, in order."""
    items = [item for message in inbox.messages for item in items_of(message)]
    due = [_expected(item) for item in items if item.command is None or item.type == "task.cancelled"]
    found = [
        event.event_id if isinstance(event, InboxRecorded) else f"refused {event.sequence}.{event.index}"
        for event in events
        if isinstance(event, InboxRecorded | InboxRefused)
    ]
    faults = [] if found == due else [f"the inbox held {due}, the journal has {found}"]
    reads = [event for event in events if isinstance(event, InboxRead)]
    if [(one.sequence, one.index) for one in reads] != sorted({(one.sequence, one.index) for one in reads}):
        faults.append(f"the inbox position did not advance or went back: {reads}")
    if not reads or reads[-1].sequence != len(inbox.messages) or reads[-1].index:
        faults.append(f"the inbox holds {len(inbox.messages)} messages and is read to {reads[-1:]}")
    return faults


def _expected(item: Item) -> str:
    return item.event.event_id if isinstance(item.event, InboxRecorded) else f"refused {item.sequence}.{item.index}"
