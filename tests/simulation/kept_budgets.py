"""What budgets allow and what was spent, derived from the journal event by event, without the code that is checked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, Unit
from events.prices import Price, PricesSet
from events.queue import DEFAULT
from events.spend import Spend
from events.task import TaskAttemptFailed, TaskCompleted, TaskProgressed, TaskStarted, TaskSubmitted, TaskUsage
from events.task_pause import TaskPaused
from tests.simulation.kept_limits import DIRECT, ENDS

if TYPE_CHECKING:
    from random import Random

    from events.base import Event
    from events.budget import BudgetTerms
    from events.spend import Reservation, Spent
    from projections.task import Task
    from projections.world import World

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MILLION = 1_000_000
Entry = tuple[str, str, bool, int]
"""A budget, the value of a key, whether the floor is for it, and when the window began."""


class Known(NamedTuple):
    """What budgets ask of a task."""

    values: dict[str, str]
    priority: int
    spend: Spend


class Runs:
    """A running attempt."""

    def __init__(self, began_at: float, reserved: Reservation | None) -> None:
        self.began_at = began_at
        self.reserved = reserved
        self.usage: dict[str, int] = {}

    def kept(self, unit: Unit) -> int:
        """Return the most of what was reserved and what was used."""
        reserved = 0 if self.reserved is None else in_unit(self.reserved, unit)
        return max(reserved, cost(self.usage, price_of(self.reserved))[unit])


def in_unit(amounts: Any, unit: Unit) -> int:
    return int(amounts.tokens if unit is Unit.TOKENS else amounts.money_micros)


def price_of(reserved: Reservation | None) -> Price | None:
    return None if reserved is None else reserved.price


def began(window: str, at: float) -> int:
    """Return when the window began that a time is in."""
    if window == "none":
        return 0
    if window == "month":
        day = datetime.fromtimestamp(at, UTC)
        return int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
    length = int(window[:-1]) * SECONDS[window[-1]]
    return int(at // length) * length


def cost(usage: dict[str, int], price: Price | None) -> dict[Unit, int]:
    """Return what an attempt spent that used this."""
    tokens = sum(amount for name, amount in usage.items() if name != "money_micros")
    money = usage.get("money_micros", 0)
    if price is not None:
        cached = price.input_micros if price.cached_micros is None else price.cached_micros
        reasoning = price.output_micros if price.reasoning_micros is None else price.reasoning_micros
        each = {"input": price.input_micros, "cached": cached, "output": price.output_micros, "reasoning": reasoning}
        part = sum(usage.get(f"{name}_tokens", 0) * micros for name, micros in each.items())
        money += part // MILLION + (part % MILLION > 0)
    return {Unit.TOKENS: tokens, Unit.MONEY: money}


def most_of(spend: Spend, price: Price | None) -> dict[Unit, int]:
    """Return the most that an attempt may spend: each token at its dearest."""
    dear = price
    if price is not None:
        dear = Price(
            input_micros=max(price.input_micros, price.cached_micros or 0),
            output_micros=max(price.output_micros, price.reasoning_micros or 0),
        )
    used = {"input_tokens": spend.input_tokens, "output_tokens": spend.output_tokens}
    return cost(used | {"money_micros": spend.money_micros}, dear)


def spend_of(number: int) -> Spend | None:
    """Return what a task of a run may spend, by its number."""
    if number % 5 == 3:
        return None
    return Spend(
        model=("m", "m", "")[number % 3],
        input_tokens=(10, 20, 30)[number % 3],
        output_tokens=10,
        money_micros=number % 2,
    )


def drawn_usage(random: Random, task: Task) -> TaskUsage | None:
    """Return what an attempt says that it used: nothing, no more than it may, or more."""
    spend = task.spend
    if spend is None or random.random() < 0.2:
        return None
    read = random.randint(0, spend.input_tokens) + (25 if random.random() < 0.1 else 0)
    cached = random.randint(0, read)
    written = random.randint(0, spend.output_tokens)
    return TaskUsage(
        input_tokens=read - cached,
        cached_tokens=cached,
        output_tokens=written // 2,
        reasoning_tokens=written - written // 2,
        money_micros=random.randint(0, spend.money_micros),
    )


class KeptBudgets:
    """The budgets, and what each attempt is charged; `take` returns what is wrong with an event, or ''."""

    def __init__(self) -> None:
        self.terms: dict[str, BudgetTerms] = {}
        self.spent: dict[Entry, int] = {}
        self.starts = 0
        self.overruns = 0
        self.full = 0
        """How often an attempt began that took the last of a budget, or nearly."""
        self._known: dict[str, Known] = {}
        self._runs: dict[str, Runs] = {}
        self._kept: dict[Entry, int] = {}
        self._prices: tuple[str, dict[str, Price]] = ("", {})

    def take(self, event: Event, time: float, tenant: str = "", source: str = "") -> str:
        """Apply an event."""
        match event:
            case BudgetDefined():
                self._define(event)
            case BudgetRemoved():
                del self.terms[event.budget_id]
                self._forget(event.budget_id)
                self._kept = self.kept()
            case BudgetCorrected():
                entry = (event.budget_id, event.key, event.of_floor, event.window)
                self.spent[entry] = self.spent.get(entry, 0) + event.amount
                return f"{event} leaves {self.spent[entry]}" if self.spent[entry] < 0 else ""
            case PricesSet():
                self._prices = event.version, event.models
            case TaskSubmitted() if event.spend is not None:
                self._known[event.task_id] = self._submitted(event, event.spend, tenant, source)
            case TaskStarted() if event.task_id in self._known:
                return self._start(event, time)
            case TaskProgressed() if event.task_id in self._runs and event.usage is not None:
                return self._progress(event)
            case _ if getattr(event, "task_id", "") in self._known and event.task_id in self._runs:  # type: ignore[attr-defined]
                return self._maybe_end(event)
        return ""

    def _define(self, event: BudgetDefined) -> None:
        before = self.terms.get(event.budget_id)
        self.terms[event.budget_id] = terms = event.terms
        if before is None or any(
            getattr(before, name) != getattr(terms, name) for name in ("by", "where", "unit", "window", "floor_for")
        ):
            self._forget(event.budget_id)
        self._kept = self.kept()

    def _forget(self, budget_id: str) -> None:
        self.spent = {entry: amount for entry, amount in self.spent.items() if entry[0] != budget_id}

    def _submitted(self, event: TaskSubmitted, spend: Spend, tenant: str, source: str) -> Known:
        values = {"all": "", "tenant": tenant, "source": source, "program": event.program, "task_name": event.task_name}
        values |= {"queue": event.queue or DEFAULT, "fairness_key": event.fairness_key}
        values |= {f"attributes.{name}": str(value) for name, value in event.attributes.items()}
        return Known(values, event.priority, spend)

    def _start(self, event: TaskStarted, time: float) -> str:
        known = self._known[event.task_id]
        self._runs[event.task_id] = Runs(time, event.reserved)
        self._count(event.task_id, 1)
        if event.claim_id == DIRECT:
            return "" if event.reserved is None else f"{event} reserves, although it ends at once"
        version, models = self._prices
        price, reserved = models.get(known.spend.model), event.reserved
        most = most_of(known.spend, price)
        if reserved is None or reserved.price != price or any(in_unit(reserved, unit) != most[unit] for unit in Unit):
            return f"{event} reserves something else than {most} by version {version!r} of the prices"
        self.starts += 1
        return self._too_much(event, time)

    def _too_much(self, event: TaskStarted, time: float) -> str:
        """Return which budget has less than an attempt may spend that has begun now."""
        known = self._known[event.task_id]
        for budget_id, terms in self.terms.items():
            value = known.values.get(terms.by)
            if value is None:
                continue
            if terms.unit is Unit.MONEY and known.spend.model and price_of(event.reserved) is None:
                return f"{event} began without a price, and {budget_id} counts money"
            start = began(terms.window, time)
            used = {floor: self.used((budget_id, value, floor, start)) for floor in (False, True)}
            spare = 0 if self._is_of_floor(known, terms) else max(0, terms.floor - used[True])
            self.full += 4 * (terms.cap - spare - sum(used.values())) < terms.cap
            if sum(used.values()) > terms.cap - spare:
                return f"{event} began at {time} with {used} of {budget_id} used in all, and {terms} only allow less"
        return ""

    def _is_of_floor(self, known: Known, terms: BudgetTerms) -> bool:
        """Return whether the floor is for a task: the filters of tests have one form."""
        return bool(terms.floor_for) and known.priority >= int(terms.floor_for.removeprefix("priority >= "))

    def used(self, entry: Entry) -> int:
        """Return what was spent and is kept."""
        return self.spent.get(entry, 0) + self._kept.get(entry, 0)

    def _count(self, task_id: str, sign: int) -> None:
        """Count what is kept for a task that runs, or no longer with -1."""
        runs = self._runs[task_id]
        for entry, unit in self._entries(task_id, runs.began_at):
            self._kept[entry] = self._kept.get(entry, 0) + sign * runs.kept(unit)

    def kept(self) -> dict[Entry, int]:
        """Return what is kept for all that run, added up one by one."""
        found: dict[Entry, int] = {}
        for task_id, runs in self._runs.items():
            for entry, unit in self._entries(task_id, runs.began_at):
                if amount := runs.kept(unit):
                    found[entry] = found.get(entry, 0) + amount
        return found

    def _entries(self, task_id: str, at: float) -> list[tuple[Entry, Unit]]:
        known = self._known[task_id]
        return [
            ((budget_id, value, self._is_of_floor(known, terms), began(terms.window, at)), terms.unit)
            for budget_id, terms in self.terms.items()
            if (value := known.values.get(terms.by)) is not None
        ]

    def _progress(self, event: TaskProgressed) -> str:
        runs = self._runs[event.task_id]
        self._count(event.task_id, -1)
        self._use(runs, event.usage)
        self._count(event.task_id, 1)
        right = cost(runs.usage, price_of(runs.reserved))
        return self._differs(event, event.spent, right)

    def _use(self, runs: Runs, usage: TaskUsage | None) -> None:
        for name in () if usage is None else usage.__struct_fields__:
            runs.usage[name] = max(runs.usage.get(name, 0), getattr(usage, name))

    def _maybe_end(self, event: Any) -> str:
        """Charge the attempt that an event ends, if it ends one."""
        if not isinstance(event, ENDS) and not (isinstance(event, (TaskAttemptFailed, TaskPaused)) and event.lease):
            return ""
        task_id = event.task_id
        runs = self._runs[task_id]
        self._count(task_id, -1)
        self._use(runs, event.usage)
        if event.usage is None and isinstance(event, TaskCompleted):
            known = self._known[task_id]
            right = {unit: 0 if runs.reserved is None else in_unit(runs.reserved, unit) for unit in Unit}
            if runs.reserved is None and event.lease.startswith(DIRECT):
                right = most_of(known.spend, self._prices[1].get(known.spend.model))
        else:
            direct = event.lease.startswith(DIRECT) and runs.reserved is None
            price = self._prices[1].get(self._known[task_id].spend.model) if direct else price_of(runs.reserved)
            right = cost(runs.usage, price)
        del self._runs[task_id]
        for entry, unit in self._entries(task_id, runs.began_at):
            amount = right[unit]
            if amount:
                self.spent[entry] = self.spent.get(entry, 0) + amount
            self.overruns += amount > (0 if runs.reserved is None else in_unit(runs.reserved, unit))
        if isinstance(event, ENDS):
            del self._known[task_id]
        return self._differs(event, event.spent, right)

    def _is_kept(self, entry: Entry, now: float) -> bool:
        """Return whether a window began so lately that all that is told of it counts."""
        window = self.terms[entry[0]].window
        length = SECONDS.get(window[-1], 0) * int(window[:-1]) if window[0].isdigit() else 31 * SECONDS["d"]
        return window == "none" or now < entry[3] + 8 * length

    def _differs(self, event: Event, told: Spent | None, right: dict[Unit, int]) -> str:
        if told is not None and all(in_unit(told, unit) == amount for unit, amount in right.items()):
            return ""
        return f"{event} tells that {told} was spent, and it was {right}"

    def differences(self, world: World) -> str:
        """Return where a world that has folded the same events has other sums; of windows that it keeps no longer."""
        funds = world.indexes.keyed.funds
        held: dict[Entry, int] = {}
        for key, windows in funds.held.items():
            held |= {(*_parts(key), start): amount for start, amount in windows.items()}
        if held != self.kept():
            return f"the world keeps {held} for what runs, and it should be {self.kept()}"
        told = {(*_parts(key), one.start): one.spent for key, spent in world.spent.items() for one in spent.windows}
        for entry, amount in told.items():
            if amount != self.spent.get(entry, 0) and self._is_kept(entry, world.time):
                return f"the world has {amount} as spent of {entry}, and it should be {self.spent.get(entry, 0)}"
        now = {entry for entry in self.spent if entry[3] == began(self.terms[entry[0]].window, world.time)}
        missing = {entry: self.spent[entry] for entry in now if self.spent[entry] and entry not in told}
        return f"the world does not know of {missing}" if missing else ""


def _parts(key: str) -> tuple[str, str, bool]:
    """Return the budget, the value and the floor of a key of the world."""
    name, _, value = key.removeprefix("$").partition(":")
    return name.removesuffix("+"), value, name.endswith("+")
