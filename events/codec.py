"""
Bytes ↔ events, in one pass.

A commit is a JSON array of CloudEvents. The usual commit, with known types and current versions only, is decoded by one
call. A commit that this call cannot decode (a type or version of another release) takes the slow path: upcasters
convert old versions; unknown events are kept and written back byte for byte. An event with a value that this release
does not know, such as a status of a later release, is unknown too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec

from events.agents import AgentsChanged
from events.base import Envelope, Event, Position, UnknownEvent, type_of, version_of
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved
from events.cancel_ladder import TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
)
from events.coordinator import (
    CoordinatorCommandRefused,
    CoordinatorMassSilenceEnded,
    CoordinatorMassSilenceNoticed,
    CoordinatorPlacementRefused,
    CoordinatorStarted,
    CoordinatorStopped,
    CoordinatorTurn,
)
from events.errors import Corrupt, shown
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.idempotency import IdempotencyForgotten
from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused
from events.limit import LimitDefined, LimitDeleted
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeHeartbeat,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.pool import (
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.prices import PricesSet
from events.queue import (
    QueueBlocked,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicyFailed,
    QueuePolicySet,
    QueuePromoted,
    QueueResumed,
    QueueRolledBack,
    QueueRouted,
    QueueShadowReported,
    QueueShadowSet,
)
from events.schedule import (
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
)
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceHeartbeat, ServiceRegistered
from events.session import SessionBound, SessionClosed
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
)
from events.task_pause import TaskPaused, TaskResumed
from events.version import VersionReinstated, VersionRetired
from events.worker import WorkerDraining, WorkerHeartbeat, WorkerLeft, WorkerLost, WorkerRegistered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

SPECVERSION = "1.0"

AnyEvent = (
    ContainerCreated | ContainerStarting | ContainerStarted | ContainerPausing | ContainerPaused | ContainerResuming
    | ContainerResumed | ContainerStopping | ContainerStopped | ContainerFailed | ContainerDestroyed
    | ServiceRegistered | ServiceDeregistered | ServiceHealthChanged | ServiceHeartbeat
    | TaskSubmitted | TaskStarted | TaskProgressed | TaskCompleted | TaskAttemptFailed | TaskFailed | TaskCancelled
    | TaskTimedOut | TaskReportRefused | TaskCancelAsked | TaskCancelTold | TaskCancelForced
    | TaskUnblocked
    | TaskPaused | TaskResumed | TaskExtended
    | WorkerRegistered | WorkerDraining | WorkerLeft | WorkerLost | WorkerHeartbeat
    | NodeRegistered | NodeCordoned | NodeUncordoned | NodeDraining | NodeDrained | NodeRemoving | NodeLost
    | NodeReturned | NodeRemoved | NodeHeartbeat
    | PoolDefined | PoolRequested | PoolAllocated | PoolBound | PoolMoved | PoolReleased | PoolPreempted
    | PoolWithdrawn
    | LimitDefined | LimitDeleted
    | BudgetDefined | BudgetCorrected | BudgetRemoved | PricesSet
    | AgentsChanged
    | QueueDefined | QueuePolicySet | QueuePolicyFailed | QueuePaused | QueueResumed | QueueDeleted | QueueBlocked
    | QueueRouted | VersionRetired | VersionReinstated
    | QueueShadowSet | QueueShadowReported | QueuePromoted | QueueRolledBack
    | HoldPlaced | HoldLifted | HoldExpired
    | SessionBound | SessionClosed
    | ScheduleDefined | ScheduleFired | ScheduleQueued | ScheduleSkipped | SchedulePaused | ScheduleResumed
    | ScheduleDeleted
    | IdempotencyForgotten
    | InboxRecorded | InboxRefused | InboxRead | InboxGap
    | CoordinatorStarted | CoordinatorStopped | CoordinatorTurn
    | CoordinatorMassSilenceNoticed | CoordinatorMassSilenceEnded
    | CoordinatorCommandRefused | CoordinatorPlacementRefused
)  # fmt: skip

EVENTS: dict[str, type[Event]] = {type_of(event): event for event in get_args(AnyEvent)}
"""Every event type of this release by its name on the wire."""

UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""(type, version) → a function that turns that version's data into the next version's."""

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that hold something else, are not UTF-8, or are nested too deep."""

_UNKNOWN_VALUE = "Invalid enum value"
"""What msgspec says of a value that is none of an enum's."""

HEARTBEATS = frozenset({"service.heartbeat", "worker.heartbeat", "node.heartbeat"})
"""Types that are published on the heartbeat stream and never enter the journal."""


def _envelope_class(name: str, event: type[Event]) -> type[Envelope]:
    made = msgspec.defstruct(
        f"{event.__name__}Envelope",
        [("data", event)],
        bases=(Envelope,),
        tag_field="type",
        tag=name,
        frozen=True,
        kw_only=True,
        gc=False,
        omit_defaults=True,
    )
    return cast("type[Envelope]", made)


ENVELOPES: dict[type[Event], type[Envelope]] = {event: _envelope_class(name, event) for name, event in EVENTS.items()}

READ_AS_IS = {
    event: tuple(range(min(event.SINCE.values(), default=event.VERSION + 1) - 1, event.VERSION + 1))
    for event in EVENTS.values()
}
"""The versions of each event that are decoded as they are: fields added since have their defaults."""
_encoder = msgspec.json.Encoder()
encode_known = _encoder.encode
"""As `encode`, for an event that is none of an unknown type."""
_any_envelope: Any = None
for _class in ENVELOPES.values():
    _any_envelope = _class if _any_envelope is None else _any_envelope | _class
_commit_decoder = msgspec.json.Decoder(list[_any_envelope])
_parts_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class Head(msgspec.Struct, gc=False):
    """The fields that are read without decoding the event: much faster, and possible for unknown events too."""

    type: str
    time: str = ""


class _Head(msgspec.Struct):
    type: str
    dataversion: int
    subject: str = ""


_head_decoder = msgspec.json.Decoder(_Head)
_decode_head = msgspec.json.Decoder(Head).decode


def rfc3339(seconds: float) -> str:
    """Format seconds since 1970 as `2026-11-23T17:15:00.123456Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: str) -> float:
    """
    Parse an RFC 3339 time and return seconds since 1970.

    Raises:
        Corrupt: *text* is not such a time, or has no offset from UTC.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = datetime.min  # noqa: DTZ901  # refused below, because it has no offset
    if time.tzinfo is None:
        msg = f"time {shown(text)} is not RFC 3339 with an offset, such as '2026-11-23T17:15:00.123456Z'"
        raise Corrupt(msg)
    return time.timestamp()


def envelope(
    event: Event,
    *,
    position: Position | str,
    time: str,
    source: str,
    tenant: str = "",
    actor: str = "",
    commandid: str = "",
    causationid: str = "",
    traceparent: str = "",
) -> Envelope:
    """Return the envelope of *event*, with its position (or any text unique at *source*) as id."""
    return ENVELOPES[type(event)](
        specversion=SPECVERSION,
        id=str(position),
        source=source,
        subject=event.subject,
        time=time,
        dataversion=version_of(event),
        data=event,
        tenant=tenant,
        actor=actor,
        commandid=commandid,
        causationid=causationid,
        traceparent=traceparent,
    )


def encode(one: Envelope) -> bytes:
    """Encode one CloudEvent; an unknown one is written back unchanged."""
    if isinstance(one.data, UnknownEvent):
        return one.data.raw
    return _encoder.encode(one)


def join(parts: Iterable[bytes]) -> bytes:
    """Build a commit's body from encoded CloudEvents."""
    return b"[%b]" % b",".join(parts)


def decode(body: bytes) -> list[Envelope]:
    """
    Decode a commit's body.

    Raises:
        Corrupt: the body is not a JSON array of CloudEvents.
    """
    try:
        envelopes: list[Envelope] = _commit_decoder.decode(body)
    except UNREADABLE:
        return _decode_one_by_one(body)
    for one in envelopes:
        if one.dataversion not in READ_AS_IS[type(one.data)]:
            return _decode_one_by_one(body)
    return envelopes


def split(body: bytes) -> list[tuple[Head, msgspec.Raw]]:
    """
    Split a commit's body into its events, byte for byte, each with its head.

    Raises:
        Corrupt: the body is not a JSON array of CloudEvents.
    """
    try:
        return [(_decode_head(raw), raw) for raw in _parts_decoder.decode(body)]
    except UNREADABLE as error:
        raise _bad_commit(body, error) from error


def parts(body: bytes) -> list[msgspec.Raw]:
    """
    Split a commit's body into its events, byte for byte.

    Raises:
        Corrupt: the body is not a JSON array.
    """
    try:
        return _parts_decoder.decode(body)
    except UNREADABLE as error:
        raise _bad_commit(body, error) from error


def _decode_one_by_one(body: bytes) -> list[Envelope]:
    try:
        return [_decode_one(bytes(raw)) for raw in _parts_decoder.decode(body)]
    except UNREADABLE as error:
        raise _bad_commit(body, error) from error


def _bad_commit(body: bytes, error: Exception) -> Corrupt:
    return Corrupt(f"the commit is not a JSON array of CloudEvents ({error}); it begins with {body[:80]!r}")


def _decode_one(raw: bytes) -> Envelope:
    head = _head_decoder.decode(raw)
    event = EVENTS.get(head.type)
    if event is None or head.dataversion > event.VERSION:
        return _unknown(head, raw)
    first = READ_AS_IS[event][0]
    if head.dataversion >= first:
        try:
            return msgspec.json.decode(raw, type=ENVELOPES[event])
        except msgspec.ValidationError as error:
            if _UNKNOWN_VALUE in str(error):
                return _unknown(head, raw)
            raise
    value = msgspec.json.decode(raw)
    for version in range(head.dataversion, first):
        upcaster, data = UPCASTERS.get((head.type, version)), value.get("data")
        if upcaster is None or not isinstance(data, dict):
            msg = f"{head.type} of version {head.dataversion} cannot be converted from version {version}: {shown(raw)}"
            raise Corrupt(msg)
        value["data"] = upcaster(data)
    # Through bytes, because a field of raw JSON cannot be built from values.
    raised = msgspec.json.decode(_encoder.encode(value), type=ENVELOPES[event])
    return msgspec.structs.replace(raised, dataversion=version_of(raised.data))


def _unknown(head: _Head, raw: bytes) -> Envelope:
    value = msgspec.json.decode(raw)
    value["data"] = {"type": head.type, "about": head.subject, "raw": ""}
    known = {key: value[key] for key in Envelope.__struct_fields__ if key in value}
    unknown: Envelope = msgspec.convert(known, _UnknownEnvelope)
    return msgspec.structs.replace(unknown, data=UnknownEvent(type=head.type, about=head.subject, raw=raw))


class _UnknownEnvelope(Envelope, frozen=True, kw_only=True, gc=False):
    data: UnknownEvent
