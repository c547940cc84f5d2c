"""
The language that tests of pure code are written in: given these facts, when this is ordered, then that follows.

    given(TaskSubmitted(task_id="t", task_name="n"))
        .when(CancelTask(task_id="t"))
        .then(TaskCancelled(task_id="t"))

    given().when(CancelTask(task_id="t")).then_refused("not_found")
    given(…).when(…, at=2000.0).then_nothing()                       it is already so
    given(…).when(…).then(…).then_answers("t")
    fold(…).tasks["t"].status                                        for reducers

Facts are one commit each, a second apart from `BEGIN` on, by `ACTOR` of `TENANT`; `said(event, at=…)` tells one
that was otherwise. `when` decides as the writer does, at a second after the last fact unless told, and it checks what
holds of every decider: it leaves the world as it was, and deciding again gives the same. `then` folds what was decided,
so that no decider may give events that the reducers refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.deciders.dispatch import answer, decide
from coordinator.deciders.rules import Context, Rules
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
    """A fact with its circumstances; None leaves what is usual."""

    event: Event
    at: float | None = None
    tenant: str = TENANT
    actor: str = ACTOR
    commandid: str = ""


def said(
    event: Event, *, at: float | None = None, tenant: str = TENANT, actor: str = ACTOR, commandid: str = ""
) -> Said:
    """Tell a fact whose commit time, tenant, actor or command is not the usual one."""
    return Said(event, at, tenant, actor, commandid)


class Scribe:
    """
    Writes a journal as the engine does and keeps its records, beside the world they were folded into.

    Another `World` that is given the same records must end up the same.
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
        """Write *facts* as one commit at that time; each is folded before the next is asked for."""
        world = self.world
        sequence = world.position.sequence + 1
        time = codec.rfc3339(at)
        now = codec.seconds_of(time)
        world.indexes.advance(now)
        parts: list[bytes] = []
        for index, fact in enumerate(facts):
            one = fact if isinstance(fact, Said) else Said(fact)
            position = Position(sequence, index)
            attributes = {"tenant": one.tenant, "actor": one.actor, "commandid": one.commandid}
            envelope = codec.envelope(one.event, position=position, time=time, source=SOURCE, **attributes)
            parts.append(codec.encode(envelope))
            world.apply(envelope, position, now)
        body = codec.join(parts)
        chain = world.chain.hex()
        world.seal(sequence, len(parts), body, now)
        return self._keep(Record(sequence=sequence, kind="commit", body=body, chain=chain))

    def claim(self, *, generation: int = 1, holder: str = "writer") -> Record:
        """Write a claim of the right to write."""
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
    """Give the commit of *body* that stands next after *after*, chained as it should be."""
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
    """Begin a specification with what has happened."""
    return Given(write(*facts))


class Given:
    """What has happened so far."""

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
    ) -> Decided:
        """Decide *command* at commit time *at*."""
        now = at if at is not None else (self.world.time + 1.0 if self.world.time else BEGIN)
        self.world.indexes.advance(now)
        context = Context(now, rules if rules is not None else Rules(), tenant, actor, streak)
        before = self.world.digest()
        decided = Decided(self.scribe, command, context, *_decide(self.world, command, context))
        again = _decide(self.world, command, context)
        assert self.world.digest() == before, "deciding changed the world"
        assert again[0] == decided.events, "deciding again gave other events"
        assert repr(again[1]) == repr(decided.error), "deciding again gave another error"
        return decided


class Decided:
    """What was decided, to be held against what should have been."""

    def __init__(
        self,
        scribe: Scribe,
        command: Command,
        context: Context,
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
        assert events, "expect at least one event; an order that is already so is `then_nothing`"
        self._expect_events()
        assert self.events == events
        self.fold()
        return self

    def then_nothing(self) -> Decided:
        """Expect that it is already so: no event, no error."""
        self._expect_events()
        assert self.events == ()
        return self

    def then_refused(
        self, reason: str, *contains: str, code: str | None = None, facts: tuple[Event, ...] = ()
    ) -> CoordinationError:
        """
        Expect an error of this *reason* (for errors without a reason of their own: their code), and give it.

        Its message holds each of *contains*; *facts* are the events that are on record all the same.
        """
        assert self.error is not None, f"decided {self.events} instead of refusing"
        assert self.error.reason == reason, f"{self.error.reason}: {self.error.message}"
        assert code is None or self.error.code == code, f"{self.error.code}: {self.error.message}"
        for part in contains:
            assert part in self.error.message
        assert self.error.facts == facts
        return self.error

    def then_answers(self, value: Any) -> Decided:
        """Expect this answer to whoever gave the order; of an order that led to events, after `then`."""
        self._expect_events()
        assert answer(self.world, self._command, self._context, self.events) == value
        return self

    def fold(self) -> World:
        """Fold what was decided as one commit of whoever ordered it, and give the world after it."""
        context = self._context
        self._scribe.commit(
            *(said(event, at=context.now, tenant=context.tenant, actor=context.actor) for event in self.events)
        )
        return self.world

    def _expect_events(self) -> None:
        assert self.error is None, f"refused ({self.error.reason}): {self.error.message}"


def _decide(world: World, command: Command, context: Context) -> tuple[tuple[Event, ...], CoordinationError | None]:
    try:
        return decide(world, command, context), None
    except CoordinationError as error:
        return (), error
