"""Handlers of the honest worker: one that notes when it starts, and one that is given poison."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from coordinator.worker import task
from tests.faults.strangers.handlers_file import STARTS

_file = os.open(Path(os.environ[STARTS]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


@task("note")
async def note(number: int) -> int:
    """Note the start and return the number."""
    os.write(_file, f"{number} {time.monotonic()}\n".encode())
    return number


@task("poison")
async def poison(how: str) -> Any:
    """Fail in one of the ways in which a handler can."""
    if how == "exit":
        sys.exit(1)
    if how == "raise":
        raise RuntimeError("poison " * 10_000)
    return {"set": {1}, "nan": float("nan")} if how == "odd" else "x" * 1_000_000
