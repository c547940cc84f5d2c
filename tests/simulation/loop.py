"""
A virtual-time loop that draws the order of steps from a seed, so that one number replays a whole run.

It knows the process of each step: a stopped process runs nothing until woken, as with SIGSTOP, and a process with a
lit fuse dies between two of its steps.
"""

from __future__ import annotations

import asyncio
import heapq
from contextvars import Context, ContextVar, copy_context
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from coordinator.bus.subscription import Subscription
from tests.virtual_time import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from random import Random

T = TypeVar("T")

RESOLUTION_S = 1e-9
EPOCH_BEGIN = 1_700_000_000.0


class Process:
    """
    One process of the cluster and its machine's clocks.

    `cut_in` and `cut_out`: no message reaches it, or leaves it; `alive`: it was not killed; `fuse`: the number of steps
    after which it dies.
    """

    def __init__(self, name: str, *, offset_s: float = 0.0, pace: float = 1.0) -> None:
        self.name = name
        self.offset_s = offset_s
        self.pace = pace
        self.alive = True
        self.stopped = False
        self.cut_in = self.cut_out = False
        self.obeys_old_leader = False
        """A node: whether its syncs are answered by a deposed leader."""
        self.fuse: int | None = None
        self.burnt: Callable[[], None] = lambda: None
        self.held: list[asyncio.Handle] = []
        self.main: asyncio.Task[None] | None = None
        self.context: Context = copy_context()
        self.context.run(PROCESS.set, self)

    def wall(self) -> float:
        """Return the wall clock time, which may be wrong and may jump."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        return EPOCH_BEGIN + self.offset_s + loop.time() + loop.suspended_s

    def heard(self) -> float:
        """Return the monotonic clock time, which may be a little fast or slow."""
        return 1000.0 + self.pace * asyncio.get_running_loop().time()


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Task(asyncio.Task[Any]):
    """A task that hashes by its creation number, not its address, so that runs repeat."""

    def __init__(self, coroutine: Any, *, loop: SeededLoop, **options: Any) -> None:
        self._number = next(loop.numbers)  # first, because the base class puts it into a set
        super().__init__(coroutine, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class SeededLoop(VirtualLoop):
    """Runs ready callbacks in a random order; `steps` counts them."""

    _ready: Any
    _stopping: bool

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.steps = 0
        self.suspended_s = 0.0
        """For how long nothing ran while only the wall clocks went on."""
        self.numbers = count(1)
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._random = random
        self._watched = 0
        self.set_task_factory(lambda _, coroutine, **options: _Task(coroutine, loop=self, **options))

    # --- processes ----------------------------------------------------------------------------------------------------

    def stop_process(self, process: Process) -> None:
        """Stop *process* until `wake_process`."""
        if not process.stopped:
            process.stopped = True
            self._watched += 1

    def wake_process(self, process: Process) -> None:
        """Continue *process*; overdue callbacks run now."""
        if process.stopped:
            process.stopped = False
            self._watched -= 1
            self._ready.extend(process.held)
            process.held = []

    def skip(self, seconds: float) -> None:
        """Let time pass in which nothing runs: every timer that is set for it is overdue then."""
        self._io.now += seconds

    def light_fuse(self, process: Process, steps: int, burnt: Callable[[], None]) -> None:
        """Call *burnt* between two steps of *process*, after *steps* of them."""
        if process.fuse is None:
            self._watched += 1
        process.fuse, process.burnt = steps, burnt

    def _may_run(self, handle: Any) -> bool:
        process = handle._context.get(PROCESS)
        if process is None:
            return True
        if process.stopped:
            process.held.append(handle)
            return False
        if process.fuse is not None:
            process.fuse -= 1
            if process.fuse <= 0:
                process.fuse = None
                self._watched -= 1
                process.burnt()
        return True

    # --- the loop -----------------------------------------------------------------------------------------------------

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:  # type: ignore[override]
        # The base class's heap compares handles, in Python; this one compares numbers.
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self.numbers), handle))
        return handle

    def _run_once(self) -> None:
        # As in the base class, without waiting for files, which took most of the time of a simulation.
        ready, timers = self._ready, self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not ready and not self._stopping:
            if not timers:
                msg = "deadlock: nothing is ready, and no timer is set"
                raise RuntimeError(msg)
            self._io.now = max(self._io.now, timers[0][0])
        due = self._io.now + RESOLUTION_S
        while timers and timers[0][0] < due:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)
        batch = list(ready)
        ready.clear()
        if len(batch) > 1:
            self._random.shuffle(batch)
        for handle in batch:
            if not handle._cancelled and (not self._watched or self._may_run(handle)):
                self.steps += 1
                handle._run()


def run_seeded(main: Coroutine[Any, Any, T], random: Random) -> tuple[T, int]:
    """Run to the end; return the result and the number of steps."""
    loop = SeededLoop(random)
    numbers = count(1)
    numbered = {kind: kind.__hash__ for kind in (Subscription, asyncio.Timeout)}
    given: dict[int, tuple[object, int]] = {}

    def number(self: object) -> int:
        # Kept with the object, so that its address is not reused.
        return given.setdefault(id(self), (self, next(numbers)))[1]

    for kind in numbered:
        kind.__hash__ = number  # type: ignore[method-assign]  # sets of these are iterated
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(main), loop.steps
    finally:
        for kind, before in numbered.items():
            kind.__hash__ = before  # type: ignore[method-assign]
