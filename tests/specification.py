"""
The language for tests of pure code: given these facts, when this command is decided, then these events follow.

    given(TaskSubmitted(task_id="t", task_name="n"))
        .when(CancelTask(task_id="t"))
        .then(TaskCancelled(task_id="t"))

    given().when(CancelTask(task_id="t")).then_refused("not_found")
    given(…).when(…, at=2000.0).then_nothing()                       no change is needed
    given(…).when(…).then(…).then_answers("t")
    fold(…).tasks["t"].status                                        for reducers

Each fact is one commit, a second apart from `BEGIN` on, by `ACTOR` of `TENANT`; `said(event, at=…)` changes these
values. `when` decides like the writer, by default one second after the last fact, and checks what is true of every
decider: it does not change the world, deciding again gives the same result, and a refusal is one that the command
declares. `then` folds the decided events, so
that no decider can return events that the reducers refuse.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.deciders.dispatch import answer, decide
from coordinator.deciders.rules import DecisionContext, Rules
from events import codec
from events.base import Event, Position
from events.coordinator import EpochClaim
from events.errors import CoordinationError
from projections.source import Record
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coordinator.commands.command import Command

BEGIN = 1_000.0
TENANT = "default"
ACTOR = "tester"
SOURCE = "/coordination/1"


class Said(NamedTuple):
    """A fact with its circumstances; None means the default."""

    event: Event
    at: float | None = None
    tenant: str = TENANT
    actor: str = ACTOR
    commandid: str = ""
    traceparent: str = ""
    causationid: str = ""


def said(
    event: Event,
    *,
    at: float | None = None,
    tenant: str = TENANT,
    actor: str = ACTOR,
    commandid: str = "",
    traceparent: str = "",
    causationid: str = "",
) -> Said:
    """Return a fact with its own commit time, tenant, actor, command, trace or cause."""
    return Said(event, at, tenant, actor, commandid, traceparent, causationid)


class Scribe:
    """
    Writes a journal like the engine, and keeps its records and the world folded from them.

    Another `World` folded from the same records must be equal.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world if world is not None else World()
        self.records: list[Record] = []

    def commit(self, *facts: Event | Said) -> Record:
        """Write all *facts* as one commit, at the time of the first; by default a second after the last commit."""
        first = facts[0]
        at = first.at if isinstance(first, Said) else None
        return self.commit_each(facts, at=self._next() if at is None else at)

    def commit_each(self, facts: Iterable[Event | Said], *, at: float) -> Record:
        """Write *facts* as one commit at that time; each is folded before the next is requested."""
        world = self.world
        sequence = world.position.sequence + 1
        time = codec.rfc3339(at)
        now = codec.seconds_of(time)
        world.indexes.advance(now)
        parts: list[bytes] = []
        for index, fact in enumerate(facts):
            one = fact if isinstance(fact, Said) else Said(fact)
            position = Position(sequence, index)
            envelope = codec.envelope(
                one.event,
                position=position,
                time=time,
                source=SOURCE,
                tenant=one.tenant,
                actor=one.actor,
                commandid=one.commandid,
                traceparent=one.traceparent,
                causationid=one.causationid,
            )
            parts.append(codec.encode(envelope))
            world.apply(envelope, position, now)
        body = codec.join(parts)
        chain = world.chain.hex()
        world.seal(sequence, len(parts), body, now)
        return self._keep(Record(sequence=sequence, kind="commit", body=body, chain=chain))

    def claim(self, *, generation: int = 1, holder: str = "writer") -> Record:
        """Write a claim of the epoch."""
        body = msgspec.json.encode(EpochClaim(generation=generation, holder=holder, time=codec.rfc3339(BEGIN)))
        sequence = self.world.position.sequence + 1
        self.world.seal_claim(sequence, body)
        return self._keep(Record(sequence=sequence, kind="claim", body=body))

    def _next(self) -> float:
        return self.world.time + 1.0 if self.world.time else BEGIN

    def _keep(self, record: Record) -> Record:
        self.records.append(record)
        return record


def journal_record(body: bytes, *, after: World) -> Record:
    """Return the next commit after *after* with *body*, correctly chained."""
    return Record(sequence=after.position.sequence + 1, kind="commit", body=body, chain=after.chain.hex())


def fold(*facts: Event | Said) -> World:
    """Fold *facts*, one commit each, into a new world."""
    return write(*facts).world


def write(*facts: Event | Said) -> Scribe:
    """Write *facts*, one commit each, into a new journal."""
    scribe = Scribe()
    for fact in facts:
        scribe.commit(fact)
    return scribe


def given(*facts: Event | Said) -> Given:
    """Begin a specification with past events."""
    return Given(write(*facts))


class Given:
    """The past events of a specification."""

    def __init__(self, scribe: Scribe) -> None:
        self.scribe = scribe
        self.world = scribe.world

    def when(
        self,
        command: Command,
        *,
        at: float | None = None,
        rules: Rules | None = None,
        tenant: str = TENANT,
        actor: str = ACTOR,
        streak: int = 1,
        silent_s: float = math.inf,
        traceparent: str = "",
    ) -> Decided:
        """Decide *command* at commit time *at*."""
        now = at if at is not None else (self.world.time + 1.0 if self.world.time else BEGIN)
        self.world.indexes.advance(now)
        context = DecisionContext(
            now,
            rules if rules is not None else Rules(),
            tenant,
            actor,
            streak,
            silent_s=silent_s,
            traceparent=traceparent,
        )
        before = self.world.digest()
        decided = Decided(self.scribe, command, context, *_decide(self.world, command, context))
        again = _decide(self.world, command, context)
        assert self.world.digest() == before, "deciding changed the world"
        assert again[0] == decided.events, "deciding again gave other events"
        assert repr(again[1]) == repr(decided.error), "deciding again gave another error"
        return decided


class Decided:
    """The decision, to compare with the expected one."""

    def __init__(
        self,
        scribe: Scribe,
        command: Command,
        context: DecisionContext,
        events: tuple[Event, ...],
        error: CoordinationError | None,
    ) -> None:
        self.world = scribe.world
        self.events = events
        self.error = error
        self._scribe = scribe
        self._command = command
        self._context = context

    def then(self, *events: Event) -> Decided:
        """Expect exactly these events, at least one, and fold them."""
        assert events, "expect at least one event; use `then_nothing` if no change is needed"
        self._expect_events()
        assert self.events == events
        self.fold()
        return self

    def then_nothing(self) -> Decided:
        """Expect that no change is needed: no event, no error."""
        self._expect_events()
        assert self.events == ()
        return self

    def then_refused(
        self, reason: str, *contains: str, code: str | None = None, facts: tuple[Event, ...] = ()
    ) -> CoordinationError:
        """
        Expect an error with this *reason* (its code if it has no reason), and return it.

        Its message contains each of *contains*; *facts* are events that are recorded despite the error.
        """
        assert self.error is not None, f"decided {self.events} instead of refusing"
        assert self.error.reason == reason, f"{self.error.reason}: {self.error.message}"
        assert code is None or self.error.code == code, f"{self.error.code}: {self.error.message}"
        for part in contains:
            assert part in self.error.message
        assert self.error.facts == facts
        return self.error

    def then_answers(self, value: Any) -> Decided:
        """Expect this answer to the sender; if the command led to events, call it after `then`."""
        self._expect_events()
        assert answer(self.world, self._command, self._context, self.events) == value
        return self

    def fold(self) -> World:
        """Fold the decided events as one commit of the sender, and return the world after it."""
        context = self._context
        self._scribe.commit(
            *(said(event, at=context.now, tenant=context.tenant, actor=context.actor) for event in self.events)
        )
        return self.world

    def _expect_events(self) -> None:
        assert self.error is None, f"refused ({self.error.reason}): {self.error.message}"


def _decide(
    world: World, command: Command, context: DecisionContext
) -> tuple[tuple[Event, ...], CoordinationError | None]:
    try:
        return decide(world, command, context), None
    except CoordinationError as error:
        refused = error
    declared = command.REFUSALS | command.ALWAYS
    assert refused.reason in declared, f"{command.NAME} does not declare {refused.reason}: {refused.message}"
    return (), refused
