"""Which process of ours gets the CPU first where it is short: the writer, then NATS, then what may lag behind them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_MOST = 19


def come_first(niceness: int) -> None:
    """
    Lower the nice value of this process to *niceness*, from -20 to 0, where this is allowed: to root, as a rule.

    Whoever has started it with another nice value than 0 is obeyed. Call it before there are threads.
    """
    if niceness and os.nice(0) == 0:
        _set(niceness)


def yield_cpu(niceness: int) -> None:
    """Raise the nice value of this process, and of those it starts, to *niceness* above the usual, from 0 to 19."""
    _set(min(max(0, os.nice(0)) + niceness, _MOST))  # one that comes first does not share that with its children


def _set(niceness: int) -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
        # Linux with autogroups schedules sessions first; nice values count only within one session.
        _AUTOGROUP.write_text(f"{niceness}\n")
