"""
Pack a seeded month of mixed tasks on a fleet, in virtual time: the engine's placement, first fit, best fit, the bound.

*Ours* is `placement.matching.schedule` on a folded world, with claims that wait as in the engine: who was served claims
again and is the last. First fit gives each task, the oldest first, to the first worker that has room; best fit to the
one that has least left then. All three pass over tasks that fit nowhere now. The bound is what no placement can exceed:
each kind of resource as one machine without pieces, which works on whatever has arrived.

More arrives than the fleet can do, `LOAD` of it, with days and nights. Nothing here reads a clock but for `wall_s`.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from random import Random
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from coordinator.placement.matching import schedule
from events import codec
from events.base import Position
from events.coordinator import CoordinatorStarted, WaitingClaim
from events.resources import NONE, Resources
from events.task import TaskCompleted, TaskStarted, TaskSubmitted
from events.worker import WorkerRegistered
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from events.base import Event

MONTH_S = 30 * 86_400.0
LOAD = 1.1
"""What arrives in the month, as a share of what the fleet could do: of the kind of resource that is scarcest."""
BEGAN = 1_795_000_000.0
GIB = 1024**3
FLEET = (
    *[Resources(cpu_millis=16_000, memory_bytes=64 * GIB)] * 6,
    *[Resources(cpu_millis=32_000, memory_bytes=128 * GIB)] * 4,
    *[Resources(cpu_millis=32_000, memory_bytes=256 * GIB, gpus=4)] * 2,
)
DAY_FROM_S, DAY_UNTIL_S, NIGHT = 7 * 3600, 19 * 3600, 0.5
LARGE_MILLIS = 8000
_SLOTS, _MOST = 1000, 1_000_000
_KINDS = ("cpu", "memory", "gpu")


class Job(NamedTuple):
    """One task of the month: when it comes, what it needs and for how long, in seconds."""

    number: int
    comes: float
    needs: Resources
    lasts: float


class _Mix(NamedTuple):
    """Tasks of one sort: how often they come, cores, GiB for each core, GPUs, and for how long they run."""

    weight: float
    cores: tuple[float, ...]
    gib_a_core: tuple[int, ...]
    gpus: tuple[int, ...]
    least_s: float
    most_s: float


_MIXES = (
    _Mix(60, (0.25, 0.5, 1), (2, 4, 8), (0,), 120.0, 1800.0),
    _Mix(30, (1, 2, 4), (2, 4, 8), (0,), 1800.0, 14_400.0),
    _Mix(8, (8, 12, 16), (2, 4), (0,), 3600.0, 43_200.0),
    _Mix(2, (2, 4, 8), (4, 8), (1, 1, 2, 4), 3600.0, 14_400.0),
)


def amounts(one: Resources) -> tuple[int, int, int]:
    """Return the amounts of each kind."""
    return one.cpu_millis, one.memory_bytes, one.gpus


def capacity() -> tuple[int, int, int]:
    """Return what the fleet has of each kind."""
    total = sum(FLEET, NONE)
    return amounts(total)


def month(seed: int, tasks: int) -> list[Job]:
    """Return the tasks of a month by the time they come; how long they run is scaled so that they make `LOAD`."""
    random = Random(seed)  # noqa: S311  # the same month for everybody
    times = sorted(_time(random) for _ in range(tasks))
    drawn = []
    for comes in times:
        mix = random.choices(_MIXES, [one.weight for one in _MIXES])[0]
        cores = random.choice(mix.cores)
        needs = Resources(
            cpu_millis=int(cores * 1000),
            memory_bytes=int(cores * random.choice(mix.gib_a_core) * GIB),
            gpus=random.choice(mix.gpus),
        )
        lasts = mix.least_s * (mix.most_s / mix.least_s) ** random.random()
        drawn.append((comes, needs, lasts))
    asked = [sum(amounts(needs)[kind] * lasts for _, needs, lasts in drawn) for kind in range(3)]
    scale = LOAD / max(work / (has * MONTH_S) for work, has in zip(asked, capacity(), strict=True))
    return [Job(number, comes, needs, lasts * scale) for number, (comes, needs, lasts) in enumerate(drawn)]


def _time(random: Random) -> float:
    """Draw a time of the month; at night half as many tasks come as by day."""
    while True:
        at = random.random() * MONTH_S
        if DAY_FROM_S <= at % 86_400 < DAY_UNTIL_S or random.random() < NIGHT:
            return at


class Chooser(Protocol):
    """Gives tasks to workers: told what comes and what ends, it yields what starts, and where."""

    def came(self, job: Job) -> None: ...

    def ended(self, job: Job, worker: int) -> None: ...

    def starts(self, now: float) -> Iterable[tuple[Job, int]]: ...


class Fit:
    """First fit, or best fit: the tasks in the order in which they came, those that fit nowhere are passed over."""

    def __init__(self, choose: Callable[[Resources, Sequence[Resources]], int | None]) -> None:
        self._choose = choose
        self._free = list(FLEET)
        self._waiting: dict[int, Job] = {}

    def came(self, job: Job) -> None:
        """Take a task."""
        self._waiting[job.number] = job

    def ended(self, job: Job, worker: int) -> None:
        """Free what a task used."""
        self._free[worker] += job.needs

    def starts(self, _: float) -> Iterator[tuple[Job, int]]:
        """Yield what starts now."""
        no_fit = set[Resources]()
        for job in tuple(self._waiting.values()):
            if job.needs in no_fit:
                continue
            worker = self._choose(job.needs, self._free)
            if worker is None:
                no_fit.add(job.needs)
                continue
            self._free[worker] -= job.needs
            del self._waiting[job.number]
            yield job, worker


def first_fit(needs: Resources, free: Sequence[Resources]) -> int | None:
    """Return the first worker that has room."""
    return next((worker for worker, has in enumerate(free) if needs.fits_in(has)), None)


def best_fit(needs: Resources, free: Sequence[Resources]) -> int | None:
    """Return the worker that has least left then: of the kind of which it has most left, as a share of it."""
    fitting = [worker for worker, has in enumerate(free) if needs.fits_in(has)]
    return min(fitting, key=lambda worker: _left(free[worker] - needs, FLEET[worker]), default=None)


def _left(free: Resources, whole: Resources) -> float:
    return max(some / has for some, has in zip(amounts(free), amounts(whole), strict=True) if has)


class Ours:
    """The engine's placement: a world that is folded, and a claim of each worker that waits."""

    def __init__(self) -> None:
        self._world = World()
        self._sequence = 0
        self._claims = deque(WaitingClaim(f"c{number}.0", f"w{number}", _SLOTS, "") for number in range(len(FLEET)))
        self._claimed = 0
        self._came: dict[str, Job] = {}
        self._events: list[Event] = [
            CoordinatorStarted(instance="bench", version="bench", retention_s=0.0, ended_kept=0),
            *(
                WorkerRegistered(worker_id=f"w{number}", slots=_SLOTS, handles=("bench",), resources=has)
                for number, has in enumerate(FLEET)
            ),
        ]
        self._started: dict[int, TaskStarted] = {}

    def came(self, job: Job) -> None:
        """Submit a task."""
        self._came[f"t{job.number}"] = job
        self._events.append(TaskSubmitted(task_id=f"t{job.number}", task_name="bench", resources=job.needs))

    def ended(self, job: Job, _: int) -> None:
        """Complete a task."""
        started = self._started.pop(job.number)
        self._events.append(TaskCompleted(task_id=started.task_id, lease=started.lease))

    def starts(self, now: float) -> Iterator[tuple[Job, int]]:
        """Yield what starts now, as in one turn of the engine."""
        self._fold(self._events, now)
        self._events = []
        placed = list(schedule(self._world, tuple(self._claims), {}, most=_MOST))
        if not placed:
            return
        self._fold(placed, now)
        served = {event.worker_id for event in placed}
        waiting = [claim for claim in self._claims if claim.worker_id not in served]
        self._claimed += 1
        again = [claim.worker_id for claim in self._claims if claim.worker_id in served]
        self._claims = deque(waiting)
        self._claims.extend(WaitingClaim(f"{one}.{self._claimed}", one, _SLOTS, "") for one in again)
        for event in placed:
            job = self._came.pop(event.task_id)
            self._started[job.number] = event
            yield job, int(event.worker_id[1:])

    def _fold(self, events: Sequence[Event], now: float) -> None:
        if not events:
            return
        self._sequence += 1
        at = BEGAN + now
        written = codec.rfc3339(at)
        self._world.indexes.advance(at)
        for index, event in enumerate(events):
            position = Position(self._sequence, index)
            envelope = codec.envelope(event, position=position, time=written, source="/bench")
            self._world.apply(envelope, position, at)
        self._world.seal(self._sequence, len(events), b"", at)


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """How well a placement did: the share of the fleet that was used in the month, and how long tasks waited."""

    used: dict[str, float]
    started: int
    wait_h: float
    wait_p95_h: float
    wait_large_h: float
    """Of tasks with eight cores or more, on average; of those that did not start, what they waited in the month."""
    wall_s: float


def packed(jobs: Sequence[Job], placing: Chooser) -> Packed:
    """Run a month with a placement."""
    began = time.perf_counter()
    running: list[tuple[float, int, Job, int]] = []
    work, waits, started = [0.0, 0.0, 0.0], {job.number: MONTH_S - job.comes for job in jobs}, 0
    coming = deque(jobs)
    while coming or running:
        now = min([*(one.comes for one in list(coming)[:1]), *(end for end, *_ in running[:1])])
        if now >= MONTH_S:
            break
        while coming and coming[0].comes <= now:
            placing.came(coming.popleft())
        while running and running[0][0] <= now:
            _, _, job, worker = heapq.heappop(running)
            placing.ended(job, worker)
        for job, worker in placing.starts(now):
            heapq.heappush(running, (now + job.lasts, job.number, job, worker))
            waits[job.number] = now - job.comes
            started += 1
            inside_s = min(now + job.lasts, MONTH_S) - now
            work = [sum_ + one * inside_s for sum_, one in zip(work, amounts(job.needs), strict=True)]
    large = [waits[job.number] for job in jobs if job.needs.cpu_millis >= LARGE_MILLIS]
    return Packed(
        used=_used(work),
        started=started,
        wait_h=fmean(waits.values()) / 3600,
        wait_p95_h=quantiles(waits.values(), n=20)[-1] / 3600,
        wait_large_h=fmean(large) / 3600 if large else 0.0,
        wall_s=time.perf_counter() - began,
    )


def bound(jobs: Sequence[Job]) -> dict[str, float]:
    """Return the share of each kind that no placement can exceed: that of one machine which is never idle if it can."""
    most = []
    for kind, has in enumerate(capacity()):
        done, backlog, at = 0.0, 0.0, 0.0
        for job in (*jobs, Job(-1, MONTH_S, NONE, 0.0)):
            could = has * (job.comes - at)
            done += min(backlog, could)
            backlog = max(0.0, backlog - could) + amounts(job.needs)[kind] * job.lasts
            at = job.comes
        most.append(done)
    return _used(most)


def _used(work: Sequence[float]) -> dict[str, float]:
    return {name: sum_ / (has * MONTH_S) for name, sum_, has in zip(_KINDS, work, capacity(), strict=True)}


async def run(tasks: int, seed: int) -> dict[str, Any]:
    """Pack the month by each placement, and return the figures."""
    jobs = month(seed, tasks)
    made = {
        "ours": packed(jobs, Ours()),
        "first_fit": packed(jobs, Fit(first_fit)),
        "best_fit": packed(jobs, Fit(best_fit)),
    }
    return {
        **{name: msgspec.to_builtins(one) for name, one in made.items()},
        "bound": {"used": bound(jobs)},
        "load": LOAD,
        "tasks": tasks,
        "workers": len(FLEET),
    }
