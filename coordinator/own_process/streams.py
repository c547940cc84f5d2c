"""
The standard streams of our processes: none is missing, and writing to standard error never fails and never blocks.

What was closed when the process started leads to the null device; otherwise the next socket or file would be number 2,
and receive what a library prints. A reader that has ended, a full device or a pipe that nobody empties costs lines of
the log, and not the service: the next line that comes through says how many.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from contextlib import suppress
from typing import Any

_STDERR = 2
PATIENCE_MS = 200
"""How long the first write waits for a reader that does not read; later ones do not wait."""


def prepare_streams() -> None:
    """Call it once, before anything is opened or written."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number, and those below are open
            os.set_inheritable(number, True)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # no path
    encoding = sys.stderr.encoding
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Unfailing()), encoding, "backslashreplace", line_buffering=True, write_through=True
    )


class _Unfailing(io.FileIO):
    def __init__(self) -> None:
        super().__init__(_STDERR, "wb", closefd=False)
        self._lost = 0
        self._polled = select.poll()
        self._polled.register(_STDERR, select.POLLOUT)
        self._own = _reopened()

    def write(self, data: Any, /) -> int:
        given = bytes(data)
        if self._lost and self._send(
            b"%d writes before this line were lost: nobody read them, or they had no room\n" % self._lost
        ):
            self._lost = 0
        if self._lost or not self._send(given):
            self._lost += 1
        return len(given)

    def _send(self, left: bytes) -> bool:
        """Write all of it; return False when nobody reads it."""
        while left:
            try:
                if not self._polled.poll(0 if self._lost else PATIENCE_MS):
                    return False
                left = left[os.write(self._own, left) :]
            except OSError:  # also when less than this fits into the pipe
                return False
        return True


def _reopened() -> int:
    """Return a descriptor of standard error; of a pipe, one that does not block: others have the flags of number 2."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(_STDERR).st_mode):
            return os.open(f"/proc/self/fd/{_STDERR}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return _STDERR
