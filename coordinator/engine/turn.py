"""
One turn of the writer: the events decided so far, which are already folded, and the answers to send after the commit.

Events are encoded before they are folded, so an event that cannot be written never changes the world, and a full turn
stops before the event that does not fit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from coordinator.commands.acting import ids_of
from coordinator.deciders.origins import NO_ORIGIN, ORIGINS
from coordinator.deciders.rules import DecisionContext
from events import codec
from events.base import Position, version_of
from events.errors import Corrupt, Refused
from projections.latest import FOLLOWED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordinator.commands.caller import Caller
    from coordinator.deciders.rules import Rules
    from coordinator.engine.intake import Asked
    from events.base import Envelope, Event
    from events.errors import CoordinationError
    from projections.world import World

log = structlog.get_logger(__name__)

_NOTHING: Mapping[str, str] = {}


class TurnFull(Exception):
    """The events do not fit into this turn; they belong to the next one"""


class FoldFailed(Corrupt):
    """
    A decided event could not be folded

    The world is half changed and must not be used any more; nothing of it is in the journal. `culprit` names the
    command that led to it, if known: the next leader begins with a new world and refuses that command.
    """

    culprit = ""


class Turn:
    """The commit being made: slot *sequence*, commit time *now*, at most *bytes_max* bytes."""

    def __init__(self, world: World, *, now: float, bytes_max: int) -> None:
        self.world = world
        self.sequence = world.position.sequence + 1
        self.time = codec.rfc3339(now)
        self.now = codec.seconds_of(self.time)
        self.events: list[Event] = []
        self.answers: list[tuple[Asked, Any, CoordinationError | None]] = []
        self._context: tuple[Caller | None, DecisionContext | None] = (None, None)
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._size = 2
        self._reserved = 0
        self._source = f"/coordination/{world.generation}"
        self._prefix = f"{self.sequence}."

    def context_of(self, caller: Caller, rules: Rules) -> DecisionContext:
        """Return what a decider may use besides the world and the command, if nothing is known of the command."""
        last, context = self._context
        if context is None or caller is not last:  # the commands of one request have the same
            context = DecisionContext(self.now, rules, caller.tenant, caller.actor, traceparent=caller.traceparent)
            self._context = (caller, context)
        return context

    def record(self, events: Sequence[Event], caller: Caller, *, commandid: str = "", are_apart: bool = False) -> None:
        """
        Encode and fold *events*, all or none, each with the tenant, the trace and the cause that it has by its thing.

        If they *are_apart*, none of them is the cause of another.

        Raises:
            TurnFull: they do not fit into the rest of this turn.
            Refused: they do not fit into any turn.
            FoldFailed: the world is half changed and must not be used any more.
        """
        at = len(self._parts)
        if len(events) == 1:
            envelope = self._envelope(events[0], at, caller, commandid, _NOTHING)
            part = codec.encode_known(envelope)
            if self._size + len(part) < self._bytes_max - self._reserved:  # as `_take`, without a call
                self._size += len(part) + 1
            else:
                self._take(len(part) + 1)
            self._fold(envelope, at, part)
            return
        made: list[tuple[Envelope, int, bytes]] = []
        size, said = 0, dict[str, str]()
        for index, event in enumerate(events, at):
            envelope = self._envelope(event, index, caller, commandid, said)
            if not are_apart and (follow := FOLLOWED.get(type(event))) is not None:
                said[follow[0] + envelope.subject] = envelope.id
            part = codec.encode_known(envelope)
            size += len(part) + 1
            made.append((envelope, index, part))
        self._take(size)
        for one in made:
            self._fold(*one)

    def _envelope(self, event: Event, at: int, caller: Caller, commandid: str, said: Mapping[str, str]) -> Envelope:
        kind = type(event)
        find = ORIGINS.get(kind)
        tenant, traceparent, cause = NO_ORIGIN if find is None else find(self.world, event, said)
        return codec.ENVELOPES[kind](  # `codec.envelope`, without another call
            specversion=codec.SPECVERSION,
            id=f"{self._prefix}{at}",
            source=self._source,
            subject=getattr(event, event.SUBJECT),
            time=self.time,
            dataversion=version_of(event),
            data=event,
            tenant=tenant or caller.tenant,
            actor=caller.actor,
            commandid=commandid,
            causationid=cause,
            traceparent=traceparent or caller.traceparent,
        )

    def _take(self, size: int) -> None:
        most, taken = self._bytes_max - self._reserved, self._size + size
        if taken > most:
            if self._parts:
                raise TurnFull
            msg = f"the events of this command have {taken} bytes: at most {most} fit into one commit; make it smaller"
            raise Refused(msg, reason="too_large")
        self._size = taken

    def _fold(self, envelope: Envelope, at: int, part: bytes) -> None:
        position = tuple.__new__(Position, (self.sequence, at))  # takes half the time of the constructor
        try:
            self.world.apply(envelope, position, self.now)
        except Exception as error:  # after any error here the world cannot be trusted
            msg = f"the decided event {envelope.type} could not be folded: {error}"
            raise FoldFailed(msg, reason="fold_failed") from error
        self._parts.append(part)
        self.events.append(envelope.data)

    @property
    def room(self) -> int:
        """How many bytes are left."""
        return self._bytes_max - self._reserved - self._size

    def reserve(self, size: int) -> None:
        """Keep *size* bytes free for events that must come last, until `release`."""
        self._reserved += size

    def release(self) -> None:
        """Make all reserved bytes available."""
        self._reserved = 0

    def seal(self) -> tuple[bytes, bytes]:
        """Close the turn in the world and return the chain before it and its body."""
        before = self.world.chain
        body = codec.join(self._parts)
        self.world.seal(self.sequence, len(self._parts), body, self.now)
        return before, body

    def withhold(self, error: CoordinationError) -> None:
        """Replace every answer by *error*: it is not known whether the commit was stored."""
        self.answers = [(asked, None, error) for asked, _, _ in self.answers]

    def answer_all(self) -> None:
        """Send every answer."""
        for asked, value, error in self.answers:
            try:
                asked.reply(value, error)
            except Exception:  # this caller may be gone; the others still need their answers
                ids = ids_of(asked.caller.tenant, asked.caller.traceparent)
                log.exception("reply_failed", command=type(asked.command).__name__, **ids)
