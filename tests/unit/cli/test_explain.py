"""How the explanation of a task is printed: within 80 columns, what needs somebody first."""

from __future__ import annotations

import json

import pytest
from msgspec import convert
from msgspec.structs import replace

from coordinator.cli.explain import age, show_explanation
from coordinator.commands.explain import Blocker, Explanation, Reason, Tier, WorkerFit
from events.task import TaskStatus

WAITS = Explanation(
    task_id="task_1",
    status=TaskStatus.PENDING,
    summary="none of 2 workers handles 'x'",
    for_s=250.0,
    reasons=[
        Reason(code="no_handler", tier=Tier.NEVER, text="none of 2 workers handles 'x'", change="start one"),
        Reason(
            code="workers_busy",
            tier=Tier.ITSELF,
            text=f"all {'very ' * 30}busy",
            blockers=[Blocker(kind="task", id=f"t{number}", for_s=number * 4000.0) for number in range(5)],
        ),
        Reason(code="queue", tier=Tier.ITSELF, text="q\x1b[2J", blockers=[Blocker(kind="queue", id="q")]),
    ],
    policy="fifo",
    ahead=3,
    starts_in_s=90.0,
    starts_from_s=30.0,
    starts_until_s=150.0,
    estimated_from=7,
    estimates_right=275,
    estimates_scored=340,
    workers=[WorkerFit(worker_id="w1", fits=False, against={"other_names": "handles y"})],
)


def test_what_is_in_the_way_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    """By tier; three of the blockers; nothing is wider than a terminal, and nothing controls it."""
    show_explanation(WAITS, output="table", as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "task_1: pending for 4.2 min",
        "it can never run as things are:",
        "  no_handler: none of 2 workers handles 'x'",
        "    to change it: start one",
    ]
    assert "    in the way: task t0 (0.0 s), task t1 (1.1 h), task t2 (2.2 h) and 2 more" in lines
    assert "  queue: q\\x1b[2J" in lines
    at = lines.index("queue default, policy fifo, 3 before it, starts in 0.5 to 2.5 min (80 %, from 7")
    assert lines[at + 1] == "  runs); past estimates were right 81 % of 340"
    assert lines[-1] == "w1      no    handles y"
    assert max(map(len, lines)) <= 80


def test_without_a_reason_the_summary_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A task that may start at once, one that runs, one that has ended."""
    free = Explanation(task_id="t", status=TaskStatus.PENDING, summary="soon", for_s=1.0, ahead=0, starts_in_s=0.0)
    free = replace(free, starts_from_s=0.0, starts_until_s=0.05)
    show_explanation(free, output="table", as_json=False)
    show_explanation(
        Explanation(task_id="t", status=TaskStatus.RUNNING, summary="runs", for_s=200_000.0),
        output="table",
        as_json=False,
    )
    assert capsys.readouterr().out.splitlines() == [
        "t: pending for 1.0 s",
        "  soon",
        "queue default, policy , 0 before it, may start at once",
        "t: running for 2.3 d",
        "  runs",
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({}, ""),
        ({"starts_until_s": 9.0, "estimated_from": 2}, ", starts in 0.0 to 9.0 s (80 %, from 2 runs)"),
        ({"starts_until_s": 9.0, "starts_from_s": 2.5}, ", starts in 2.5 to 9.0 s (80 %, without runs to go by)"),
    ],
)
def test_an_estimate_says_how_far_it_can_be_trusted(
    found: dict[str, float], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing if there is none."""
    waits = {"task_id": "t", "status": "pending", "summary": "s", "for_s": 1.0, "policy": "fifo"}
    waits |= {"starts_in_s": 3.0} if found else {}
    show_explanation(convert({**waits, **found}, Explanation), output="table", as_json=False)
    told = " ".join(line.strip() for line in capsys.readouterr().out.splitlines()[2:])
    assert told == f"queue default, policy fifo{text}{'; no estimate was scored yet' if text else ''}"


def test_programs_get_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON."""
    show_explanation(WAITS, output="json", as_json=False)
    assert len(json.loads(capsys.readouterr().out)["reasons"]) == 3


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1.0 min"), (3600, "1.0 h")])
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    """Seconds, minutes, hours, days."""
    assert age(seconds) == text
