"""
Who may submit which task, to which queue, and which agents and nodes may run it: by the rules of the settings. Pure.

Without rules everybody may submit everything. With rules, the first one that a submit meets decides: it may be made,
and the workers that the rule names run the task. One that meets none is refused. What was decided is in the event: who
reads the journal does not need the rules.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from events.errors import Forbidden, shown
from events.queue import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.deciders.rules import TaskRule
    from events.task import TaskSubmitted

_SHOWN = 5
_FIELDS = ("users", "tenants", "task_names", "queues")
_TASK_NAMES = _FIELDS.index("task_names")
_special = re.compile(r"[?[]")
"""What `fnmatch` gives a meaning to, besides `*`."""


def permitted(event: TaskSubmitted, user: str, tenant: str, rules: tuple[TaskRule, ...]) -> TaskSubmitted:
    """
    Return a submit with the rule that permits it, and where the task may run by that.

    Raises:
        Forbidden: no rule permits it; the message names the rule that is nearest, if possible one of these tasks.
    """
    asked = (user, tenant, event.task_name, event.queue or DEFAULT)
    nearest: tuple[tuple[bool, int], TaskRule] | None = None
    for rule in rules:
        met = [bool(meets(value)) for meets, value in zip(_tests(rule), asked, strict=True)]
        if all(met):
            return msgspec.structs.replace(event, rule=rule.name, rule_filter=worker_filter_of(rule))
        lacks = (not met[_TASK_NAMES], met.count(False))
        if nearest is None or lacks < nearest[0]:
            nearest = (lacks, rule)
    assert nearest is not None, "without rules nobody is asked"
    raise Forbidden(_refusal(nearest[1], asked))


def _refusal(rule: TaskRule, asked: tuple[str, ...]) -> str:
    wrong = [
        f"{name} {', '.join(getattr(rule, name)[:_SHOWN])}"
        for name, meets, value in zip(_FIELDS, _tests(rule), asked, strict=True)
        if not meets(value)
    ]
    user, tenant, task_name, queue = map(shown, asked)
    return (
        f"{user} may not submit task {task_name} to queue {queue} for tenant {tenant}: no rule of security.tasks "
        f"permits it; the nearest, {rule.name}, is for {' and '.join(wrong)}"
    )


@lru_cache(maxsize=1024)
def worker_filter_of(rule: TaskRule) -> str:
    """Return the filter that the workers meet which may run tasks by a rule, '' for all."""
    named = (("agent_type", rule.agent_types), ("node_id", rule.nodes))
    return " && ".join(f"{field} in {_list(names)}" for field, names in named if names)


def _list(names: tuple[str, ...]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


@lru_cache(maxsize=1024)
def _tests(rule: TaskRule) -> tuple[Callable[[str], object], ...]:
    """Return what tells whether a value meets the patterns of a rule, for each of its fields."""
    return tuple(_test(getattr(rule, name)) for name in _FIELDS)


def _test(patterns: tuple[str, ...]) -> Callable[[str], object]:
    # With several `*`, a plain pattern would try all places for each: a task's name could hold the writer up for hours.
    return re.compile("|".join(translate(_special.sub(r"[\g<0>]", one)) for one in patterns)).match
