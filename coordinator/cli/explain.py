"""How the explanation of a task is printed: what is in its way first, then what would change it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from coordinator.cli.output import show, show_json
from coordinator.commands.explain import Tier
from coordinator.terminal import clean
from events.task import TaskStatus

if TYPE_CHECKING:
    from coordinator.commands.explain import Blocker, Explanation

WIDTH = 80
BLOCKERS_SHOWN = 3
WAITED_SHOWN_S = 0.05
AT_ONCE_S = 1.0
_UNITS = {"d": 86_400, "h": 3600, "min": 60}
_HEADS = {
    Tier.NEVER: "it can never run as things are",
    Tier.OPERATOR: "somebody has to act",
    Tier.ITSELF: "this clears by itself",
}


def show_explanation(found: Explanation, *, output: str, as_json: bool) -> None:
    """Print an explanation for people, or as JSON."""
    if as_json or output == "json":
        show_json(found)
        return
    _line(f"{found.task_id}: {found.status.value} for {age(found.for_s)}", indent=0)
    if found.status is not TaskStatus.PENDING:
        _line(found.summary, indent=2)
        _show_waited(found)
        return
    if not found.reasons:
        _line(found.summary, indent=2)
    for tier, head in _HEADS.items():
        reasons = [reason for reason in found.reasons if reason.tier is tier]
        if reasons:
            click.echo(f"{head}:")
        for reason in reasons:
            _line(f"{reason.code}: {reason.text}", indent=2)
            if reason.blockers:
                shown = ", ".join(map(_blocker, reason.blockers[:BLOCKERS_SHOWN]))
                more = len(reason.blockers) - BLOCKERS_SHOWN
                _line(f"in the way: {shown}{f' and {more} more' if more > 0 else ''}", indent=4)
            if reason.change:
                _line(f"to change it: {reason.change}", indent=4)
    _show_waited(found)
    _line(f"queue {found.queue}, policy {found.policy}{_place(found)}", indent=0)
    if found.workers:
        click.echo()
        columns = (
            ("worker", lambda one: one.worker_id),
            ("fits", lambda one: "yes" if one.fits else "no"),
            ("against", lambda one: "; ".join(one.against.values())),
        )
        show(found.workers, columns, output=output, as_json=as_json)


def _show_waited(found: Explanation) -> None:
    whole = sum(found.waited.values())
    parts = [f"{code} {age(seconds)}" for code, seconds in found.waited.items() if seconds >= WAITED_SHOWN_S]
    if parts:
        _line(f"waited {age(whole)}: {', '.join(parts)}", indent=0)


def age(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, size in _UNITS.items():
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _place(found: Explanation) -> str:
    place = "" if found.ahead is None else f", {found.ahead} before it"
    if found.starts_in_s is None or found.starts_until_s is None:
        return place
    if not found.starts_in_s and found.starts_until_s < AT_ONCE_S:
        return f"{place}, may start at once"
    runs = f"from {found.estimated_from} runs" if found.estimated_from else "without runs to go by"
    when = f"{place}, starts in {_between(found.starts_from_s or 0.0, found.starts_until_s)} (80 %, {runs})"
    if not found.estimates_scored:
        return f"{when}; no estimate was scored yet"
    right = round(100 * found.estimates_right / found.estimates_scored)
    return f"{when}; past estimates were right {right} % of {found.estimates_scored}"


def _between(least_s: float, most_s: float) -> str:
    """Return two durations in the largest unit of the longer one."""
    number, unit = age(most_s).split()
    size = _UNITS.get(unit, 1)
    return f"{least_s / size:.1f} to {number} {unit}"


def _blocker(one: Blocker) -> str:
    return f"{one.kind} {one.id}" + ("" if one.for_s is None else f" ({age(one.for_s)})")


def _line(text: str, *, indent: int) -> None:
    pad = " " * indent
    for line in textwrap.wrap(clean(text), WIDTH, initial_indent=pad, subsequent_indent=pad + "  "):
        click.echo(line)
