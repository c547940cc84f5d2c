"""The month that is packed: the same for a seed, legal by every placement, and never better than the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from coordinator.bench import packing
from coordinator.bench.packing import FLEET, LOAD, MONTH_S, Fit, Ours, amounts, best_fit, bound, capacity, first_fit
from coordinator.bench.packing import month as month_of
from events.resources import NONE, Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from coordinator.bench.packing import Chooser, Job

TASKS = 3000
LOOKED_AT_EVERY = 50
PLACINGS: dict[str, Callable[[], Chooser]] = {
    "ours": Ours,
    "first_fit": lambda: Fit(first_fit),
    "best_fit": lambda: Fit(best_fit),
}


class Checked:
    """A placement whose every start is checked."""

    def __init__(self, placing: Chooser) -> None:
        self._placing = placing
        self._came: dict[int, Job] = {}
        self.running: dict[int, tuple[Job, int]] = {}
        self.started = 0
        self._turns = 0

    def came(self, job: Job) -> None:
        self._came[job.number] = job
        self._placing.came(job)

    def ended(self, job: Job, worker: int) -> None:
        assert self.running.pop(job.number) == (job, worker)
        self._placing.ended(job, worker)

    def starts(self, now: float) -> Iterator[tuple[Job, int]]:
        for job, worker in self._placing.starts(now):
            assert self._came.pop(job.number) == job, "it came, and starts once"
            assert job.comes <= now
            self.running[job.number] = (job, worker)
            assert self._held(worker).fits_in(FLEET[worker])
            self.started += 1
            yield job, worker
        self._turns += 1
        for job in self._came.values() if self._turns % LOOKED_AT_EVERY == 0 else ():
            assert not any(job.needs.fits_in(FLEET[worker] - self._held(worker)) for worker in range(len(FLEET)))

    def _held(self, worker: int) -> Resources:
        return sum((job.needs for job, where in self.running.values() if where == worker), NONE)


@pytest.mark.parametrize("name", PLACINGS)
def test_every_placement_is_legal_and_idles_nowhere(name: str) -> None:
    """No worker has more than it can; what fits starts; below the bound, more than 85 % of the fleet is used."""
    jobs = month_of(3, TASKS)
    checked = Checked(PLACINGS[name]())
    made = packing.packed(jobs, checked)
    assert made.started == checked.started
    most = bound(jobs)
    assert all(made.used[kind] <= most[kind] for kind in most)
    assert max(made.used.values()) > 0.85


def test_a_seed_is_a_month() -> None:
    """The same tasks each time, as many as asked for, by the time they come, and of the load that is told."""
    jobs = month_of(1, TASKS)
    assert jobs == month_of(1, TASKS) != month_of(2, TASKS)
    assert [job.comes for job in jobs] == sorted(job.comes for job in jobs)
    asked = [sum(amounts(job.needs)[kind] * job.lasts for job in jobs) for kind in range(3)]
    assert max(work / (has * MONTH_S) for work, has in zip(asked, capacity(), strict=True)) == pytest.approx(LOAD)


def test_the_bound_is_that_of_one_machine() -> None:
    """What has not come cannot be done, and what has come is done as fast as all workers together could."""
    has = capacity()[0]
    job = month_of(1, 100)[0]
    half = job._replace(comes=MONTH_S / 2, lasts=MONTH_S * has / job.needs.cpu_millis)
    assert bound([half])["cpu"] == pytest.approx(0.5)
    short = job._replace(comes=0.0, lasts=MONTH_S * has / job.needs.cpu_millis / 4)
    assert bound([short])["cpu"] == pytest.approx(0.25)


async def test_what_is_printed() -> None:
    """The placements side by side, with the bound."""
    figures = await packing.run(300, 7)
    assert list(figures) == ["ours", "first_fit", "best_fit", "bound", "load", "tasks", "workers"]
    assert figures["ours"].keys() == figures["best_fit"].keys()
    assert figures["bound"]["used"].keys() == figures["ours"]["used"].keys() == {"cpu", "memory", "gpu"}


def test_ours_is_the_placement_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that places nothing, nothing starts."""

    def nothing(*_: object, **__: object) -> Iterable[object]:
        return iter(())

    monkeypatch.setattr("coordinator.bench.packing.schedule", nothing)
    assert packing.packed(month_of(1, 100), Ours()).started == 0
