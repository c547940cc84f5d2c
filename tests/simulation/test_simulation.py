"""The simulation finds nothing in some seeds, and finds planted bugs: a check that cannot fail is useless."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.simulation.faults import Plan, plan_of
from tests.simulation.planted import PLANTED
from tests.simulation.play import play, play_safely, quiet, shrink

pytestmark = [pytest.mark.alone, pytest.mark.untraced]

SEEDS = 100
"""With at least this many seeds, each kind of fault must strike."""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


def simulate(*arguments: str) -> tuple[int, str]:
    """Run the simulation as `make sim` does: in processes with a fixed iteration order of sets of text."""
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    ended = subprocess.run(command, capture_output=True, timeout=280, check=False, text=True)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.timeout(300)
def test_no_promise_is_broken_and_every_fault_strikes() -> None:
    """Over some seeds of both modes all promises hold, and each kind of fault strikes."""
    code, said = simulate("--seeds", str(SEEDS))
    assert code == 0, said
    assert "no violation" in said


@pytest.mark.timeout(300)
def test_a_seed_gives_one_run() -> None:
    """Two runs of a seed send and store the same, byte for byte."""
    for seed in (0, 1):
        play(plan_of(seed), twice=True)


@pytest.mark.timeout(300)
def test_planted_bugs_are_found() -> None:
    """With each of the bugs in the production code, some seed fails; what it says names those that were not found."""
    code, said = simulate("--planted")
    assert code == 0, said
    assert f"{len(PLANTED)} of {len(PLANTED)} planted bugs found" in said


@pytest.mark.timeout(300)
def test_a_failure_is_made_smaller() -> None:
    """A failing plan shrinks to a smaller plan that fails too and can be passed as text."""
    whole, bug = plan_of(0), "epoch_header_missing"
    small, failure = shrink(whole, bug)
    assert failure
    assert len(small.intensity) < len(whole.intensity)
    again = msgspec.json.decode(msgspec.json.encode(small), type=Plan)
    assert play_safely(again, bug).failure == failure
