"""What `make compare` makes of figures: ratios of pairs, their median, and whether each bound is kept."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tools import compare
from tools.compare import BROKEN, FIGURES, KEPT, UNUSABLE, Bound, Failure

BOUNDS = {
    "cpu": Bound(1.03),
    "throughput": Bound(0.95, is_least=True),
    "p50": Bound(1.05),
    "p99": Bound(1.3),
}
MOST_COLUMNS = 80


def run(**changed: float) -> dict[str, Any]:
    """Give what the benchmarks of one side tell; figures are named by the words of their path, joined by `_`."""
    found: dict[str, Any] = {}
    for figure in FIGURES:
        at = found
        for key in figure.path[:-1]:
            at = at.setdefault(key, {})
        at[figure.path[-1]] = changed.get("_".join(figure.path[1:]), 100.0)
    return found


def broken(*pairs: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    """Name the figures whose bound is not kept."""
    return [row.figure.name for row in compare.rows_of(pairs, BOUNDS) if not row.is_kept]


def test_equal_sides_keep_every_bound() -> None:
    """And each figure that has a bound is told."""
    rows = compare.rows_of([(run(), run())], BOUNDS)
    assert all(row.is_kept and row.of_medians == row.of_pairs == 1.0 for row in rows)
    said = compare.verdict(rows).splitlines()
    assert said[-1] == "all bounds are kept"
    assert len(said) == 1 + sum(figure.bound != "" for figure in FIGURES)


@pytest.mark.parametrize(
    ("figure", "at_bound", "beyond", "name"),
    [
        ("cpu_us_per_task_coordinator", 103.0, 103.1, "coordinator, µs per task"),
        ("tasks_per_s", 95.0, 94.9, "tasks per s"),
        ("submit_ms_p50", 105.0, 105.1, "submit p50, ms"),
        ("submit_ms_p99", 130.0, 130.1, "submit p99, ms"),
        ("submit_to_start_ms_p50", 105.0, 105.1, "submit to start p50, ms"),
        ("submit_to_start_ms_p99", 130.0, 130.1, "submit to start p99, ms"),
    ],
)
def test_a_bound_is_kept_up_to_its_value(figure: str, at_bound: float, beyond: float, name: str) -> None:
    """What is better is never refused; what is a little beyond it is."""
    assert broken((run(), run(**{figure: at_bound}))) == []
    assert broken((run(), run(**{figure: beyond}))) == [name]
    better = 1000.0 if figure == "tasks_per_s" else 1.0
    assert broken((run(), run(**{figure: better}))) == []


def test_a_bound_is_broken_only_when_both_ratios_break_it() -> None:
    """One busy pair says nothing; nor does a machine that was slower for both sides of a pair."""
    slow, fast = run(tasks_per_s=50.0), run(tasks_per_s=100.0)
    assert broken((fast, fast), (fast, slow), (slow, slow)) == []
    assert broken((fast, slow), (fast, slow), (slow, slow)) == ["tasks per s"]
    # Medians of 100 and 50, and of the ratios 1.
    assert broken((slow, slow), (fast, fast), (fast, slow)) == []
    (row, *_) = compare.rows_of([(fast, slow), (fast, fast), (slow, fast)], BOUNDS)
    assert (row.base, row.now, row.of_medians, row.of_pairs) == (100.0, 100.0, 1.0, 1.0)
    assert row.ratios == (0.5, 1.0, 2.0)


def test_runs_of_one_side_are_averaged() -> None:
    """Number by number; what is none is left."""
    runs = [{"p50": 1.0, "each": {"n": 10}, "python": "3.11"}, {"p50": 2.0, "each": {"n": 20}, "python": "3.11"}]
    assert compare.mean_of(runs) == {"p50": 1.5, "each": {"n": 15}, "python": "3.11"}


def test_a_bound_that_is_not_kept_is_told_with_how_sure_that_is() -> None:
    """How many pairs alone would have kept it."""
    slow = run(cpu_us_per_task_coordinator=110.0)
    said = compare.verdict(compare.rows_of([(run(), slow), (run(), slow), (run(), run())], BOUNDS)).splitlines()
    assert "coordinator, µs per task: bound ≤ 1.03: NOT KEPT (1 of 3 pairs keep it)" in said
    assert said[-1] == "1 of 6 bounds not kept"


def test_a_process_that_computed_nothing_measurable_is_compared_too() -> None:
    """Both nothing is alike; something against nothing is not."""
    nothing, something = run(cpu_us_per_task_coordinator=0.0), run()
    assert broken((nothing, nothing)) == []
    assert broken((nothing, something)) == ["coordinator, µs per task"]


def test_the_table_fits_a_terminal() -> None:
    """With figures of any usual size."""
    rows = compare.rows_of([(run(tasks_per_s=123_456.0), run(tasks_per_s=98_765.0))], BOUNDS)
    lines = f"{compare.table(rows)}\n{compare.verdict(rows)}".splitlines()
    assert max(map(len, lines)) <= MOST_COLUMNS
    assert " ".join(lines[1].split()) == "tasks per s 123,456 98,765 0.800 0.800 0.80–0.80 ≥ 0.95"


def test_a_commit_that_is_none_is_a_usage_error() -> None:
    """It says so, and nothing is measured."""
    command = [sys.executable, "-m", "tools.compare", "no-such-commit"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == UNUSABLE
    assert ended.stderr == (
        "compare: 'no-such-commit' is no commit of this repository: name one, such as BASE=HEAD~1\n"
    )


def test_the_exit_code_says_whether_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are given by options; a benchmark that fails is no verdict."""
    pairs = [(run(), run(cpu_us_per_task_coordinator=105.0))]
    monkeypatch.setattr(compare, "commit_of", lambda name: name)
    monkeypatch.setattr(compare, "_sides", lambda _: _Nothing())
    monkeypatch.setattr(compare, "_measured", lambda *_: iter(pairs))
    assert compare.main(["base"]) == BROKEN
    assert compare.main(["base", "--cpu", "5"]) == KEPT

    def fails(*_: object) -> None:
        raise Failure("it ended with 1")

    monkeypatch.setattr(compare, "_measured", fails)
    assert compare.main(["base"]) == UNUSABLE


class _Nothing:
    """Stands where the two sides do."""

    def __enter__(self) -> tuple[None, None]:
        return None, None

    def __exit__(self, *_: object) -> None:
        pass
