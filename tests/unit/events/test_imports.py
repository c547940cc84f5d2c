"""The contract can be taken alone: it needs msgspec and the standard library, nothing of the coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_WITH_NATS = {"publisher", "nats_transport"}
CONTRACT = sorted(path.stem for path in (ROOT / "events").glob("*.py") if path.stem not in {"__init__", *_WITH_NATS})
FOLDS = (
    "stamp", "task", "container", "service", "worker", "node", "pool", "session", "indexes", "world", "source",
)  # fmt: skip

_PROGRAM = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
sys.modules["typing_extensions"] = None  # msgspec takes it where it is installed, and must do without
before = set(sys.modules)
for name in sys.argv[2:]:
    importlib.import_module(name)
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names))))
"""


def brought_in(names: list[str]) -> set[str]:
    """Import *names* in a fresh interpreter; give whose modules came with them, the standard library's aside."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM, str(ROOT), *names],
        check=True, capture_output=True, text=True, timeout=60, env={},
    )  # fmt: skip
    return set(json.loads(done.stdout))


def test_the_contract_needs_msgspec_alone() -> None:
    """All of `events` but the publisher and how it connects, in one fresh interpreter."""
    assert {"base", "codec", "ids", "subjects", "resources", "errors", "task"} <= set(CONTRACT)
    assert brought_in(["events", *(f"events.{name}" for name in CONTRACT)]) == {"events", "msgspec"}


@pytest.mark.parametrize("name", CONTRACT)
def test_each_module_of_the_contract_can_be_imported_first(name: str) -> None:
    """None relies on another having been imported before."""
    assert brought_in([f"events.{name}"]) <= {"events", "msgspec"}


def test_the_folds_need_the_contract_alone() -> None:
    """The pure part of `projections` brings in nothing of the coordinator and no library but msgspec."""
    assert brought_in([f"projections.{name}" for name in FOLDS]) == {"events", "projections", "msgspec"}


def test_what_a_module_brings_in_would_be_seen() -> None:
    """The test can fail: a package that is no part of the contract is named."""
    assert "pytest" in brought_in(["pytest"])
