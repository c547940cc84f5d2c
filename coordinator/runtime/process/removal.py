"""
Deletes what was put away, one directory after another, in a thread of its own.

A container may leave any number of files; deleting them in the loop would keep the agent from its lease. Nobody waits
for this thread, and the process may end before it is done: what is left is put away again at the next opening.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from coordinator.runtime.process import directory as on_disk

END_S = 0.5
"""How long an end waits for deletions that are about to be done."""
_POLL_S = 0.01

log = structlog.get_logger(__name__)


class Removal:
    """The directories that wait to be deleted."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._left: set[Path] = set()
        self._thread: threading.Thread | None = None

    def add(self, directory: Path | None) -> None:
        """Delete a directory that was put away, as soon as those before it are; None stands for one that is gone."""
        if directory is None:
            return
        self._left.add(directory)
        self._waiting.put(directory)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="removal", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no further thread: with the next one, or at the next opening
                log.warning("removal_delayed", directory=str(directory), error=str(error))
            else:
                self._thread = thread

    async def settle(self, is_settled: Callable[[], bool]) -> None:
        """Wait for deletions that take no longer than a moment, and for what else *is_settled* tells of."""
        async with asyncio.timeout(END_S):
            while self._left or not is_settled():  # noqa: ASYNC110  # a thread that is about to end anyway
                await asyncio.sleep(_POLL_S)

    def close(self) -> None:
        """Delete nothing more after the directory that is being deleted."""
        with suppress(queue.Empty):  # asked for without waiting: the thread may take the last one just now
            while True:
                self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread = None

    def _run(self) -> None:
        while (directory := self._waiting.get()) is not None:
            try:
                is_gone = on_disk.delete(directory)
            except Exception as error:  # noqa: BLE001  # of one directory: the others go on
                is_gone = False
                log.warning("removal_failed", directory=str(directory), error=str(error))
            if not is_gone:
                log.warning("container_files_left", directory=str(directory))
            self._left.discard(directory)
