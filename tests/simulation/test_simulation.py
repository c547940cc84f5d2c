"""The simulation finds nothing in a few seeds, and finds bugs that are planted: a check that cannot fail is none."""

from __future__ import annotations

import msgspec
import pytest

from tests.simulation.faults import KINDS, Plan, plan_of
from tests.simulation.planted import PLANTED
from tests.simulation.play import Played, play, play_safely, quiet, shrink

SEEDS = range(24)
FOUND_WITHIN = 12
"""Seeds; over 1,000 of them every bug is looked for by `python -m tests.simulation --planted`."""
FOUND_FROM: dict[str, int] = {}
"""Where the seeds begin among which a bug is found, when it is not at 0: few seeds show it."""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.mark.timeout(300)
def test_no_promise_is_broken_and_every_fault_strikes() -> None:
    """Some seeds of both modes: everything promised holds, and each kind of fault has fired."""
    together = Played(runs=0)
    for seed in SEEDS:
        together.add(play(plan_of(seed)))
    assert set(KINDS) <= together.fired.keys()


@pytest.mark.timeout(120)
def test_a_seed_gives_one_run() -> None:
    """Played twice, it says and keeps the same, byte for byte."""
    for seed in (0, 1):
        play(plan_of(seed), twice=True)


def _find(name: str) -> Played | None:
    first = FOUND_FROM.get(name, 0)
    runs = (play_safely(plan_of(seed), name) for seed in range(first, first + FOUND_WITHIN))
    return next((played for played in runs if played.failure), None)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    """Each of the ten is in the production code while a few seeds run, and one of these fails."""
    assert _find(name) is not None


@pytest.mark.timeout(300)
def test_a_failure_is_made_smaller() -> None:
    """What is left of a plan that fails has less in it, fails too, and can be handed on as text."""
    found = _find("answer_before_commit")
    assert found is not None
    whole = plan_of(found.seed)
    small, failure = shrink(whole, "answer_before_commit")
    assert failure
    assert len(small.intensity) < len(whole.intensity)
    again = msgspec.json.decode(msgspec.json.encode(small), type=Plan)
    assert play_safely(again, "answer_before_commit").failure == failure
