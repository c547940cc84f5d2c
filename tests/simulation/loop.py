"""A virtual-time loop whose order of steps is drawn from a seed, so that one number replays a whole run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from tests.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")


class SeededLoop(VirtualLoop):
    """Runs what is ready in a drawn order; `steps` counts callbacks."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.steps = 0
        self._random = random

    def _run_once(self) -> None:
        ready: deque[Any] = self._ready  # type: ignore[attr-defined]  # private to the base class
        if len(ready) > 1:
            drawn = list(ready)
            self._random.shuffle(drawn)
            ready.clear()
            ready.extend(drawn)
        self.steps += len(ready)
        super()._run_once()  # type: ignore[misc]  # private to the base class


def run_seeded(main: Coroutine[Any, Any, T], random: Random) -> tuple[T, int]:
    """Run to the end; give the result and the number of steps."""
    loop = SeededLoop(random)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main), loop.steps
