"""
An engine that leads over a journal in memory, with a clock and a network that tests control.

Every test that opens one also checks what holds for every engine: each command is answered exactly once, and a replay
of the journal results in the same world that the engine decided on.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands.caller import Caller
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.rules import Limits, Rules
from coordinator.diagnostics.derivation import Derivation
from coordinator.engine.engine import Engine
from coordinator.engine.intake import Asked
from coordinator.errors import CoordinationError
from coordinator.journal.memory import Lost, MemoryJournal, MemoryStream
from events import codec
from events.coordinator import EpochClaim
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container

    from coordinator.commands.command import Command
    from coordinator.journal.memory import Point
    from coordinator.security.authorization import AccessRules
    from events.base import Envelope, Event
    from projections.source import Record

PATIENCE_S = 5.0
"""No step takes this long; a test that waits longer has found a hang."""

TICK_S = 0.005


class Hands:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.wall_s = 1_700_000_000.0
        self.heard_s = 1_000.0

    def wall(self) -> float:
        return self.wall_s

    def heard(self) -> float:
        return self.heard_s

    def turn(self, seconds: float) -> None:
        """Advance both clocks."""
        self.wall_s += seconds
        self.heard_s += seconds


class Network:
    """The way to the journal: a gate that holds commits back, and losses to inject."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.losses: list[tuple[Point, Lost]] = []

    async def at(self, point: Point) -> None:
        if point == "publish":
            await self.gate.wait()
        for loss in self.losses:
            if loss[0] == point:
                self.losses.remove(loss)
                raise loss[1]


class Told:
    """The answer that a caller got; an error is raised by `outcome`."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._outcome: asyncio.Future[tuple[Any, CoordinationError | None]] = asyncio.get_running_loop().create_future()

    def __call__(self, value: Any, error: CoordinationError | None) -> None:
        assert not self._outcome.done(), "a command was answered twice"
        declared = self._command.REFUSALS | self._command.ALWAYS
        assert error is None or error.reason in declared, f"{self._command.NAME} does not declare {error.reason}"
        self._outcome.set_result((value, error))

    @property
    def yet(self) -> bool:
        return self._outcome.done()

    async def outcome(self) -> Any:
        value, error = await asyncio.wait_for(asyncio.shield(self._outcome), PATIENCE_S)
        if error is not None:
            raise error
        return value

    async def error(self) -> CoordinationError:
        """Assert that the answer is an error, and return it."""
        try:
            value = await self.outcome()
        except CoordinationError as error:
            return error
        raise AssertionError(f"answered {value!r} instead of an error")


class Rig:
    """A running engine; `run` is its task."""

    trouble = ""

    def __init__(self, engine: Engine, stream: MemoryStream, hands: Hands, network: Network) -> None:
        self.engine = engine
        self.stream = stream
        self.hands = hands
        self.network = network
        self.notices: list[tuple[str, str, Any]] = []
        self.asked: list[Told] = []
        self.run: asyncio.Task[None] = asyncio.ensure_future(engine.run())

    @property
    def world(self) -> World:
        return self.engine.world

    def ask(self, command: Command, **caller: str) -> Told:
        """Submit a command to the engine, as a door does."""
        told = Told(command)
        self.asked.append(told)
        self.engine.put(Asked(command, Caller(**{"actor": "tester", **caller}), told))
        return told

    async def order(self, command: Command, **caller: str) -> Any:
        """Submit a command to the engine and return its answer."""
        return await self.ask(command, **caller).outcome()

    async def settle(self) -> None:
        """Wait until the engine has done all it can, and has checked the clock."""
        turns = self.engine.turns
        async with asyncio.timeout(PATIENCE_S):
            while self.engine.turns < turns + 2 and not self.run.done():  # noqa: ASYNC110  # it tells nobody of its turns
                await asyncio.sleep(TICK_S / 2)

    async def hold(self) -> Told:
        """Close the gate and let one commit wait at it; return the pending answer to its command."""
        self.network.gate.clear()
        told = self.ask(HELD_UP)
        async with asyncio.timeout(PATIENCE_S):
            while HELD_UP.worker_id not in self.world.workers:  # noqa: ASYNC110  # nor of what it folds
                await asyncio.sleep(0)
        return told

    def let_go(self) -> None:
        """Open the gate again."""
        self.network.gate.set()

    def commits(self) -> list[list[Envelope]]:
        """Return all that the journal holds, commit by commit."""
        return [codec.decode(record.body) for record in self.records() if record.kind == "commit"]

    def events(self) -> list[Event]:
        """Return all events that the journal holds."""
        return [envelope.data for commit in self.commits() for envelope in commit]

    def types(self) -> list[list[str]]:
        """Return the event types of each commit."""
        return [[envelope.type for envelope in commit] for commit in self.commits()]

    def records(self) -> list[Record]:
        return self.stream.after(0)

    def replayed(self) -> World:
        """Fold the journal into a new world."""
        world = World()
        for record in self.records():
            world.apply_record(record)
        return world


HELD_UP = RegisterWorker(worker_id="held-up")
SMALL = Limits(tick_s=TICK_S)


@asynccontextmanager
async def leading(
    *,
    stream: MemoryStream | None = None,
    hands: Hands | None = None,
    rules: Rules | None = None,
    limits: Limits = SMALL,
    is_fresh: Callable[[], bool] = lambda: True,
    is_over: Callable[[], bool] = lambda: False,
    generation: int = 1,
    access: AccessRules | None = None,
    spoiled: Container[str] = (),
    blind_after_s: float = math.inf,
) -> AsyncIterator[Rig]:
    """
    Lead over *stream* while the block runs, then resign.

    At the end every command must have been answered once, and the journal must replay to the engine's world, unless the
    engine has stopped by itself.
    """
    network = Network()
    journal = MemoryJournal(stream, faults=network)
    world, hands = World(), hands if hands is not None else Hands()
    claim = EpochClaim(generation=generation, holder="one", time=codec.rfc3339(hands.wall()))
    sequence = await journal.claim(msgspec.json.encode(claim))
    async for batch in journal.read(0, sequence):
        for record in batch:
            world.apply_record(record)
    notices: list[tuple[str, str, Any]] = []
    engine = Engine(
        world=world,
        journal=journal,
        rules=rules if rules is not None else Rules(),
        clock=hands,
        instance="one",
        version="1.0",
        limits=msgspec.structs.replace(limits, blind_after_s=blind_after_s),
        is_fresh=is_fresh,
        is_over=is_over,
        notify=lambda kind, entity_id, body: notices.append((kind, entity_id, msgspec.json.decode(body))),
        access=access,
        spoiled=spoiled,
    )
    rig = Rig(engine, journal.stream, hands, network)
    rig.notices = notices
    try:
        await rig.settle()
        yield rig
        await _end_well(rig)
    finally:
        rig.run.cancel()
        await asyncio.wait([rig.run])


async def _end_well(rig: Rig) -> None:
    if not rig.run.done():
        rig.let_go()
        rig.engine.resign("the test is over")
        await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        assert rig.replayed().digest() == rig.world.digest(), "replay made another world"
        assert "coordinator.stopped" in rig.types()[-1]
    assert [told for told in rig.asked if not told.yet] == [], "a command was never answered"


def explained(rig: Rig) -> int:
    """Derive each placement again from the journal and return how many there are."""
    derivation = Derivation()
    for record in rig.records():
        derivation.apply_record(record)
    assert derivation.differences == []
    assert derivation.world.digest() == rig.replayed().digest()
    return derivation.derived
