"""The simulation finds nothing in some seeds, and finds bugs that are planted: a check that cannot fail is none."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.simulation.faults import Plan, plan_of
from tests.simulation.planted import PLANTED
from tests.simulation.play import play, play_safely, quiet, shrink

SEEDS = 100
"""From so many on, each kind of fault must have struck."""
FOUND_FROM: dict[str, int] = {}
"""Where the seeds begin among which a bug is looked for, when it is not at 0: few seeds show it."""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def simulate(*arguments: str) -> tuple[int, str]:
    """Run the simulation as `make sim` does: in processes where sets of text are walked in the same order each time."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments], capture_output=True, timeout=280, check=False, text=True
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.timeout(300)
def test_no_promise_is_broken_and_every_fault_strikes() -> None:
    """Some seeds of both modes: everything promised holds, and each kind of fault has struck."""
    code, said = simulate("--seeds", str(SEEDS))
    assert code == 0, said
    assert "no violation" in said


@pytest.mark.timeout(120)
def test_a_seed_gives_one_run() -> None:
    """Played twice, it says and keeps the same, byte for byte."""
    for seed in (0, 1):
        play(plan_of(seed), twice=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str) -> None:
    """Each of the ten is in the production code while seeds run, and one of these fails."""
    code, said = simulate("--planted", name, "--first", str(FOUND_FROM.get(name, 0)))
    assert code == 0, said
    assert "1 of 1 planted bugs found" in said


@pytest.mark.timeout(300)
def test_a_failure_is_made_smaller() -> None:
    """What is left of a plan that fails has less in it, fails too, and can be handed on as text."""
    whole, bug = plan_of(0), "epoch_header_missing"
    small, failure = shrink(whole, bug)
    assert failure
    assert len(small.intensity) < len(whole.intensity)
    again = msgspec.json.decode(msgspec.json.encode(small), type=Plan)
    assert play_safely(again, bug).failure == failure
