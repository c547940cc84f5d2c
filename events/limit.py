"""Events about limits: how many tasks with something in common may run, start and wait, and what a busy one means."""

from __future__ import annotations

from enum import Enum

import msgspec

from events.base import Event


class WhenBusy(Enum):
    """What becomes of a task that is submitted while its key is busy."""

    QUEUE = "queue"
    REJECT = "reject"
    RETURN_EXISTING = "return_existing"
    CANCEL_RUNNING = "cancel_running"
    REPLACE_WAITING = "replace_waiting"


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    What a limit allows for each of its keys; null and 0 mean that it does not limit this.

    `by` says what tasks of one key have in common: `all`, `tenant`, `queue`, `task_name`, `fairness_key` or
    `attributes.NAME`; a task without that attribute is not limited, nor is one that does not meet the filter `where`.
    So many tasks may be `running`, so many attempts
    begin in any `per_s` seconds (`starts`), so many may be `pending`. After the end of a task none starts for
    `cooldown_s` seconds. A task that is submitted waits `debounce_s` seconds, and another one of its key that is
    submitted meanwhile takes its place, but for no longer than `debounce_most_s` after the first. A key is busy while
    `running` of its tasks have not ended, after as many starts as are allowed, and while it cools down. No amount is
    above that of the limit `parent`. With `retries_only` it limits attempts after a failed one, and nothing else: a
    retry budget.
    """

    by: str = "all"
    where: str = ""
    running: int | None = None
    starts: int | None = None
    per_s: float = 0.0
    pending: int | None = None
    cooldown_s: float = 0.0
    debounce_s: float = 0.0
    debounce_most_s: float = 0.0
    when_busy: WhenBusy = WhenBusy.QUEUE
    parent: str = ""
    retries_only: bool = False


class LimitEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one limit."""

    SUBJECT = "limit_id"

    limit_id: str


class LimitDefined(LimitEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """From here on tasks are limited by these terms; those that run already go on."""

    terms: Terms
    reason: str = ""


class LimitDeleted(LimitEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The limit exists no more."""

    reason: str = ""
