# ruff: noqa: INP001, T201  # a folder of programs, not a package; what is run again is told on the terminal
"""
Run all tests, as `make test` does: most side by side, then those `alone`; or those with real engines, `make test-real`.

What fails is run once more when nothing else runs. Of some thirteen thousand tests beside one another, with real
processes on two cores, one fails now and then by the machine's fault. A test that fails twice fails the run, and so do
more than `MOST` that fail once. Those that passed only when run again are named last: a race is a fault like any other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BESIDE = ["-m", "not alone and not docker and not oci", "--numprocesses=3", "--dist=loadfile", "--no-loadscope-reorder"]
ALONE = ["-m", "alone"]
USUAL = [["--cache-clear", "--max-worker-restart=0", *BESIDE], ALONE]
REAL = [["--cache-clear", "-m", "docker or oci", "tests/contract", "tests/e2e"]]
MOST = 5
"""So many tests may be run again: more than that are no accident."""

FAILED = Path(".pytest_cache/v/cache/lastfailed")
TESTS_FAILED = 1
"""pytest's exit code for "some tests failed": any other says that they were not all run."""


def main(options: list[str]) -> int:
    """Run the tests, with `real` first those that need an engine, with pytest's *options*; return 0 if all passed."""
    is_real = options[:1] == ["real"]
    options = options[is_real:]
    pytest = ["pytest"] if is_real else ["coverage", "run", "-m", "pytest"]
    codes = {_run(*pytest, *step, *options) for step in (REAL if is_real else USUAL)}
    if codes == {0}:
        return 0
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    if not codes <= {0, TESTS_FAILED} or not 0 < len(failed) <= MOST:
        return 1
    print("again, with nothing beside:", *failed, sep="\n  ", flush=True)
    if _run(*pytest, "--last-failed", *options) != 0:
        return 1
    print("FAILED ONCE, passed when run again:", *failed, sep="\n  ", flush=True)
    return 0


def _run(*pytest: str) -> int:
    return subprocess.run([sys.executable, "-m", *pytest, "--session-timeout=3000"], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
