"""
The heartbeat door, and the last heartbeat of each sender from the heartbeat stream, for a writer that takes over.

Of a stored heartbeat only its content is used. When it was heard counts only by the clock of the process that heard it
(ADR 0005), so a stored heartbeat must never count as a sign of life. Reading them never fails: without an answer, the
writer begins with no heartbeats.
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
from events.errors import CoordinationError, Refused, shown
from events.ids import checked
from events.service import ServiceHeartbeat
from events.subjects import Subjects
from events.worker import WorkerHeartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Bus
    from coordinator.engine.listening import Listening

log = structlog.get_logger(__name__)

PAGE = 1000
PAGES_MAX = 200
TIMEOUT_S = 2.0
"""For each page; reading ends when a page does not arrive in time."""

_heartbeat_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
    ENVELOPES[ServiceHeartbeat] | ENVELOPES[WorkerHeartbeat]
)
_BEATS: dict[str, type] = {"service": ServiceHeartbeat, "worker": WorkerHeartbeat}
_LEASES_MAX = 10_000

HEARTBEATS_KEPT_S = 3600


def heartbeat_stream(subjects: Subjects, *, replicas: int = 1) -> dict[str, object]:
    """
    Return the configuration of the heartbeat stream: in memory, the last heartbeat of each sender, for an hour.

    It needs replicas: a single copy is unavailable while its server is down, and no coordinator could start.
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


async def recall_heartbeats(bus: Bus, subjects: Subjects, take: Callable[[Message], None]) -> int:
    """Pass the last heartbeat of each sender to *take*, oldest first, and return their number."""
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
        log.warning("heartbeat_recall_failed", taken=taken, reason=str(error) or "no answer")
    return taken


class HeartbeatDoor:
    """Records signs of life; a heartbeat that is malformed or for another entity than its subject is dropped."""

    def __init__(self, listening: Listening, subjects: Subjects) -> None:
        self._listening = listening
        self._subjects = subjects
        self._malformed = Dropped("heartbeat_dropped")

    def take(self, message: Message) -> None:
        """Record one heartbeat."""
        self._take(message, self._hear)

    def recall(self, message: Message) -> None:
        """Record the load in the last heartbeat before this reign; it does not count as a sign of life."""
        self._take(message, self._recall)

    def _take(self, message: Message, note: Callable[[str, ServiceHeartbeat | WorkerHeartbeat], None]) -> None:
        kind, entity_id = self._subjects.parse_heartbeat(message.subject)
        if kind == "node":
            return  # the sign of life of a node is its sync
        try:
            beat = _heartbeat_decoder.decode(message.data).data
            self._check(kind, checked(entity_id), beat)
            note(entity_id, beat)
        except (*UNREADABLE, Refused) as error:
            self._malformed.say(message.subject, str(error))

    def _check(self, kind: str, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        if beat.subject != entity_id or not isinstance(beat, _BEATS.get(kind, ())):
            raise Refused(f"the heartbeat is of {shown(beat.subject)}, but came on the subject of {kind} {entity_id!r}")
        check_number("load", beat.load, 0.0, 1e9)
        if isinstance(beat, ServiceHeartbeat):
            check_number("connections", beat.connections, 0, 1e9)
            check_number("response_time_ms", beat.response_time_ms or 0.0, 0.0, 1e9)

    def _hear(self, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        if isinstance(beat, WorkerHeartbeat):
            self._listening.hear_worker(entity_id, beat.leases[:_LEASES_MAX], beat.load, beat.registration)
        else:
            self._listening.hear_service(entity_id, _load_of(beat), beat.registration)

    def _recall(self, entity_id: str, beat: ServiceHeartbeat | WorkerHeartbeat) -> None:
        signs, world = self._listening.signs, self._listening.world
        if isinstance(beat, WorkerHeartbeat):
            if entity_id in world.workers:
                signs.recall_worker(entity_id, beat.load)
        elif entity_id in world.services:
            signs.recall_service(entity_id, _load_of(beat))


async def _page(bus: Bus, subjects: Subjects, sequence: int) -> list[Message]:
    """Read up to `PAGE` messages from *sequence* on."""
    found: list[Message] = []
    ended = asyncio.Event()

    def receive(message: Message) -> None:
        if message.status:  # 204: end of the page; 404: no messages
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


def _load_of(beat: ServiceHeartbeat) -> ServiceLoad:
    return ServiceLoad(
        heard_s_ago=0.0, load=beat.load, connections=beat.connections, response_time_ms=beat.response_time_ms
    )
