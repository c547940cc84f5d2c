"""Whatever happens, no budget is exceeded by what begins, and the sums are those of the events, to the last token."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.commands.budget import CorrectBudget, DefineBudget, RemoveBudget
from coordinator.commands.prices import SetPrices
from coordinator.commands.task import CancelTask, ProgressTask, ReleaseTask
from coordinator.deciders.dispatch import decide
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.placement.matching import schedule
from events.budget import BudgetTerms, Stop, Unit
from events.errors import CoordinationError
from events.prices import Price
from events.spend import Spend
from events.task import TaskStatus, TaskUsage
from projections.world import World
from tests.simulation.kept_budgets import KeptBudgets
from tests.specification import Scribe, said
from tests.unit.deciders.facts import complete, fail, submit, worker
from tests.unit.placement.test_matching import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coordinator.commands.command import Command
    from events.base import Event

RULES = Rules(lease_s=30.0, poison_after=10)


class Play:
    """A writer that decides random commands, and the same events in a ledger of their own."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # a test
        self.scribe = Scribe()
        self.world = self.scribe.world
        self.ledger = KeptBudgets()
        self.now = self.random.choice((1000.0, 86_390.0, 2_678_395.0))
        self.made = 0
        self.leases: list[tuple[str, str]] = []
        self._record([worker()])

    def _record(self, events: Iterable[Event], tenant: str = "") -> None:
        events = list(events)
        if not events:
            return
        self.scribe.commit_each((said(one, tenant=tenant) for one in events), at=self.now)
        for event in events:
            wrong = self.ledger.take(event, self.now, tenant)
            assert not wrong, wrong
        different = self.ledger.differences(self.world)
        assert not different, different

    def order(self, command: Command, tenant: str = "") -> None:
        """Decide a command; what is refused changes nothing."""
        context = DecisionContext(self.now, RULES, tenant)
        try:
            events = decide(self.world, command, context)
        except CoordinationError as error:
            events = tuple(error.facts)
        self._record(events, tenant)

    def step(self) -> None:
        self.now += self.random.choice((0.5, 1.0, 7.0))
        self.world.indexes.advance(self.now)
        move: Callable[[], None] = self.random.choices(
            (self.define, self.submit, self.claim, self.use, self.end, self.lose, self.correct, self.price, self.wait),
            (2, 8, 10, 4, 9, 2, 2, 1, 1),
        )[0]
        move()

    def define(self) -> None:
        budget_id = self.random.choice("ab")
        if self.random.random() < 0.2:
            self.order(RemoveBudget(budget_id=budget_id))
            return
        floor: dict[str, Any] = self.random.choice(({}, {"floor": 25, "floor_for": "priority >= 1"}))
        terms = BudgetTerms(
            cap=self.random.choice((40, 60, 100)),
            unit=self.random.choice(list(Unit)),
            by=self.random.choice(("all", "tenant", "attributes.a", "task_name")),
            window=self.random.choice(("10s", "1d", "month", "none")),
            stop=self.random.choice(list(Stop)),
            **floor,
        )
        self.order(DefineBudget(budget_id=budget_id, terms=terms))

    def submit(self) -> None:
        self.made += 1
        spend = Spend(
            model=self.random.choice(("m", "m", "n", "")),
            input_tokens=self.random.choice((5, 20)),
            output_tokens=self.random.choice((0, 10)),
            money_micros=self.random.choice((0, 3)),
        )
        task = submit(
            f"t{self.made}",
            spend=self.random.choice((None, spend, spend, spend)),
            priority=self.random.choice((0, 1)),
            attributes=self.random.choice(({}, {"a": "x"}, {"a": "y"})),
            timeout_s=self.random.choice((None, 30.0)),
        )
        self.order(task, self.random.choice(("acme", "blue")))

    def claim(self) -> None:
        known = self.world.workers.get("w")
        if known is None or known.is_ended:
            self._record([worker()])
        claim = waiting(f"c{self.scribe.world.position.sequence}", slots=self.random.randint(1, 4))
        started = list(schedule(self.world, [claim], {}, {}, most=claim.slots))
        self.leases += [(event.task_id, event.lease) for event in started]
        self._record(started)

    def _running(self) -> tuple[str, str] | None:
        running = list(self.world.indexes.tasks[TaskStatus.RUNNING])
        return None if not running else (task_id := self.random.choice(running), self.world.tasks[task_id].lease)

    def _usage(self) -> TaskUsage:
        most = self.random.choice((0, 4, 40))
        return TaskUsage(
            input_tokens=self.random.randint(0, most),
            cached_tokens=self.random.randint(0, 3),
            output_tokens=self.random.randint(0, most),
            money_micros=self.random.randint(0, 2),
        )

    def use(self) -> None:
        if found := self._running():
            self.order(ProgressTask(task_id=found[0], lease=found[1], usage=self._usage()))

    def end(self) -> None:
        waits = list(self.world.indexes.tasks[TaskStatus.PENDING])
        if waits and self.random.random() < 0.1:  # an attempt that begins and ends at once
            self.order(complete("", self.random.choice(waits), usage=self.random.choice((None, self._usage()))))
        elif self.leases and self.random.random() < 0.2:  # a report that comes too late, perhaps
            task_id, lease = self.random.choice(self.leases)
            self.order(self.random.choice((complete, fail))(lease, task_id, usage=self._usage()))
        elif found := self._running():
            task_id, lease = found
            usage = self.random.choice((None, self._usage()))
            ways: tuple[Command, ...] = (
                complete(lease, task_id, usage=usage),
                complete(lease, task_id, usage=usage),
                fail(lease, task_id, usage=usage),
                ReleaseTask(task_id=task_id, lease=lease),
                CancelTask(task_id=task_id, grace_s=self.random.choice((0.0, 5.0))),
            )
            self.order(self.random.choice(ways))

    def lose(self) -> None:
        """Let leases expire, and whatever else is due."""
        if self.random.random() < 0.5:
            self.now += 40.0
            self.world.indexes.advance(self.now)
        context = DecisionContext(self.now, RULES)
        signs = Signs()
        signs.begin(0.0)
        heard = self.random.choice((1.0, 1000.0))
        for event in due(self.world, signs, context, heard):
            self._record([event])

    def correct(self) -> None:
        key, amount = self.random.choice(("", "x", "acme")), self.random.choice((-20, -1, 5, 30))
        at = self.random.choice((None, self.now - 15.0))
        self.order(CorrectBudget(budget_id=self.random.choice("ab"), key=key, amount=amount, at=at))

    def price(self) -> None:
        self.made += 1
        price = Price(
            input_micros=self.random.choice((0, 300_000, 1_000_000)),
            output_micros=500_000,
            cached_micros=self.random.choice((None, 100_000, 400_000)),
        )
        self.order(SetPrices(version=f"v{self.made}", models=self.random.choice(({}, {"m": price}))))

    def wait(self) -> None:
        """Let another window begin, sometimes."""
        self.now += self.random.choice((3.0, 10.0, 86_400.0))
        self.world.indexes.advance(self.now)


@settings(max_examples=250, deadline=None)
@for_all(st.integers(0, 2**32), st.integers(20, 120))
def test_whatever_happens_the_sums_are_exact_and_no_cap_is_exceeded(seed: int, steps: int) -> None:
    """Also by a world that was restored meanwhile: the ledger is compared after every commit."""
    play = Play(seed)
    for _ in range(steps):
        play.step()
    again = World.restore(play.world.snapshot())
    assert not play.ledger.differences(again)
    again.indexes.advance(play.now)
    for key in (*play.world.spent, *play.world.indexes.keyed.funds.held):
        assert again.indexes.keyed.room(key) == play.world.indexes.keyed.room(key)


def test_the_play_is_about_something() -> None:
    """Attempts begin, budgets run out, and more is spent than was reserved."""
    starts = overruns = full = 0
    for seed in range(20):
        play = Play(seed)
        for _ in range(120):
            play.step()
        starts += play.ledger.starts
        overruns += play.ledger.overruns
        full += play.ledger.full
    assert (starts > 100, overruns > 20, full > 10) == (True, True, True), (starts, overruns, full)
