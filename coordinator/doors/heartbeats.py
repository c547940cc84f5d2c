"""
What the heartbeat stream remembers of each sender, for a writer that has just begun to listen.

Only what senders said of themselves is of use: when a beat was heard is for the clock of whoever heard it (ADR 0005),
so nothing read here may count as a sign of life. It never fails: without an answer the writer begins knowing nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.bus.streams import ask_stored
from coordinator.bus.subscription import Message
from coordinator.commands.service import ServiceLoad
from coordinator.commands.validation import check_number
from coordinator.doors.dropped import Dropped
from events.codec import ENVELOPES, UNREADABLE
from events.errors import CoordinationError, Refused
from events.ids import checked
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Bus
    from coordinator.engine.listening import Listening
    from events.subjects import Subjects

log = structlog.get_logger(__name__)

PAGE = 1000
PAGES_MAX = 200
TIMEOUT_S = 2.0
"""For each page; one that does not come ends it."""

_heartbeat_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    ENVELOPES[ServiceHeartbeat] | ENVELOPES[WorkerHeartbeat]
)
_BEATS: dict[str, type] = {"service": ServiceHeartbeat, "worker": WorkerHeartbeat}
_LEASES_MAX = 10_000

HEARTBEATS_KEPT_S = 3600


async def recall_heartbeats(bus: Bus, subjects: Subjects, take: Callable[[Message], None]) -> int:
    """Hand the last heartbeat of each sender to *take*, oldest first, and say how many there were."""
    taken, sequence = 0, 1
    try:
        for _ in range(PAGES_MAX):
            page = await _page(bus, subjects, sequence)
            for message in page:
                subject = message.header(b"Nats-Subject") or ""
                take(Message(subject, "", message.data))
                sequence = int(message.header(b"Nats-Sequence") or 0) + 1
            taken += len(page)
            if len(page) < PAGE:
                break
    except (CoordinationError, TimeoutError) as error:
        log.warning("heartbeats_not_recalled", taken=taken, reason=str(error) or "no answer")
    return taken


async def _page(bus: Bus, subjects: Subjects, sequence: int) -> list[Message]:
    """Read up to `PAGE` messages from *sequence* on."""
    found: list[Message] = []
    ended = asyncio.Event()

    def receive(message: Message) -> None:
        if message.status:  # 204: the page ends; 404: there is nothing
            ended.set()
        else:
            found.append(message)

    inbox = bus.new_inbox()
    subscription = await bus.subscribe(inbox, receive)
    try:
        which = {"seq": sequence, "batch": PAGE, "next_by_subj": subjects.heartbeats}
        await ask_stored(bus, subjects.stream_heartbeats, which, inbox)
        async with asyncio.timeout(TIMEOUT_S):
            await ended.wait()
    finally:
        await subscription.unsubscribe()
    return found


class HeartbeatDoor:
    """Notes signs of life; what is malformed, or speaks for another than its subject says, is dropped and logged."""

    def __init__(self, listening: Listening, subjects: Subjects) -> None:
        self._listening = listening
        self._subjects = subjects
        self._malformed = Dropped("heartbeat_dropped")

    def take(self, message: Message) -> None:
        """Note one heartbeat."""
        self._take(message, self._hear)

    def recall(self, message: Message) -> None:
        """Note what the last heartbeat before this reign said of its sender; when it came says nothing here."""
        self._take(message, self._recall)

    def _take(self, message: Message, note: Callable[[str, ServiceHeartbeat | WorkerHeartbeat], None]) -> None:
        kind, entity_id = self._subjects.parse_heartbeat(message.subject)
        if kind == "node":
            return  # a node's sign is its sync
        try:
            beat = _heartbeat_decoder.decode(message.data).data
            self._check(kind, checked(entity_id), beat)
            note(entity_id, beat)
        except (*UNREADABLE, Refused) as error:
            self._malformed.say(message.subject, str(error))

    def _check(self, kind: str, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        if beat.subject != entity_id or not isinstance(beat, _BEATS.get(kind, ())):
            raise Refused("it speaks for another than its subject")
        check_number("load", beat.load, 0.0, 1e9)
        if isinstance(beat, ServiceHeartbeat):
            check_number("connections", beat.connections, 0, 1e9)
            check_number("response_time_ms", beat.response_time_ms or 0.0, 0.0, 1e9)

    def _hear(self, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        if isinstance(beat, WorkerHeartbeat):
            self._listening.hear_worker(entity_id, beat.leases[:_LEASES_MAX], beat.load)
        else:
            self._listening.hear_service(entity_id, _load_of(beat))

    def _recall(self, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        signs, world = self._listening.signs, self._listening.world
        if isinstance(beat, WorkerHeartbeat):
            if entity_id in world.workers:
                signs.recall_worker(entity_id, beat.load)
        elif entity_id in world.services:
            signs.recall_service(entity_id, _load_of(beat))


def _load_of(beat: ServiceHeartbeat) -> ServiceLoad:
    return ServiceLoad(
        heard_s_ago=0.0, load=beat.load, connections=beat.connections, response_time_ms=beat.response_time_ms
    )


def heartbeat_stream(subjects: Subjects, *, replicas: int = 1) -> dict[str, object]:
    """
    Say how the stream of signs of life is to be: in memory, the last one of each sender, for an hour.

    With one copy it would be gone with its server, for as long as that is away, and no coordinator could start.
    """
    return {
        "name": subjects.stream_heartbeats,
        "subjects": [subjects.heartbeats],
        "storage": "memory",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_age": HEARTBEATS_KEPT_S * 1_000_000_000,
        "max_msg_size": 64 * 1024,
        "no_ack": True,
        "discard": "old",
        "allow_direct": True,
    }
