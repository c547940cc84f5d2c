"""The simulation finds nothing in a few seeds, and finds bugs that are planted: a check that cannot fail is none."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.inbox_turn import InboxTurns
from coordinator.scheduler import decide
from coordinator.turn import Turn
from events.task import TaskStatus
from projections.task import Task
from projections.world import World
from tests.simulation.__main__ import EXPECTED, play, play_all, quiet
from tests.simulation.check import Violation

SEEDS = 40
SEEDS_TO_FIND = 60


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.mark.timeout(300)
def test_no_promise_is_broken_and_every_fault_strikes() -> None:
    """Forty seeds: acknowledged is kept, one end for each task, no stale lease accepted, replay equals live."""
    fired, _, _ = play_all(range(SEEDS))
    assert fired.keys() >= EXPECTED


def _is_found() -> bool:
    for seed in range(SEEDS_TO_FIND):
        try:
            play(seed)
        except (Violation, BaseExceptionGroup, TimeoutError):
            return True
    return False


def test_an_unchecked_lease_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: whoever reports on a running task is believed, whatever lease it names."""

    def check_holds(task: Task, lease: str, worker_id: str, outcome: str) -> None:
        if task.status is not TaskStatus.RUNNING:
            original(task, lease, worker_id, outcome)

    original = decide._check_holds
    monkeypatch.setattr(decide, "_check_holds", check_holds)
    assert _is_found()


def test_an_answer_before_the_commit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: everyone is answered when the turn is sealed, before the journal has it."""

    def seal(self: Turn) -> tuple[bytes, bytes]:
        self.answer_all()
        self.answers = []
        return original(self)

    original = Turn.seal
    monkeypatch.setattr(Turn, "seal", seal)
    assert _is_found()


def test_a_fold_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a snapshot leaves out how often a task has failed."""

    def snapshot(self: World) -> bytes:
        world = World.restore(original(self))
        for task_id, task in world.tasks.items():
            world.tasks[task_id] = msgspec.structs.replace(task, failures=0)
        return original(world)

    original = World.snapshot
    monkeypatch.setattr(World, "snapshot", snapshot)
    monkeypatch.setattr(World, "digest", lambda self: original(self).hex())
    assert _is_found()


def test_a_position_in_a_commit_of_its_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: how far an inbox is read is recorded one turn later than what followed from it."""

    def take_share(self: InboxTurns, turn: Turn) -> None:
        close(self, turn)
        original(self, turn)

    original, close = InboxTurns.take_share, InboxTurns.close
    monkeypatch.setattr(InboxTurns, "take_share", take_share)
    monkeypatch.setattr(InboxTurns, "close", lambda *_: None)
    assert _is_found()


def test_a_position_that_passes_what_waits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what was handed over counts as read."""

    def close(self: InboxTurns, turn: Turn) -> None:
        for domain, queue in self._queues.items():
            queue.reached = self.reached(domain) if queue.reached is not None else None
        original(self, turn)

    original = InboxTurns.close
    monkeypatch.setattr(InboxTurns, "close", close)
    assert _is_found()


def test_a_clock_that_stands_still_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: commit time waits for the wall clock of a writer that is an hour behind."""
    from coordinator.clock import CommitClock

    def now(self: CommitClock) -> float:
        self._last = max(self._clock.wall(), self._last)
        return self._last

    monkeypatch.setattr(CommitClock, "now", now)
    assert _is_found()
