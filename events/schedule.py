"""Events about schedules: each submits a task at every one of its slots."""

from __future__ import annotations

from enum import Enum

import msgspec

from events.base import Event
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.spend import Spend
from events.task import Payload, Scalar
from events.time_limits import TimeLimits


class ScheduleStatus(Enum):
    """The status of a schedule."""

    ACTIVE = "active"
    PAUSED = "paused"
    DELETED = "deleted"


class Catchup(Enum):
    """Which of the slots that were missed are still fired: none, the last, or all up to a number, the newest."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class Overlap(Enum):
    """What happens to a slot while the task before it has not ended: it is left out, waits, or cancels that task."""

    SKIP = "skip"
    QUEUE = "queue"
    CANCEL = "cancel"


class Timing(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    When the slots of a schedule are: by a `cron` expression of five fields in a time zone, or every `every_s` seconds.

    Slots are whole seconds since 1970, from `start` on, to `end`; those of an interval are counted from `start`. Each
    is fired up to `jitter_s` later, by its schedule and its time always the same.
    """

    cron: str = ""
    every_s: int | None = None
    time_zone: str = "UTC"
    jitter_s: float = 0.0
    start: float = 0.0
    end: float | None = None


class TaskContent(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a schedule submits each time; see `TaskSubmitted`. `max_retries` None is that of the settings."""

    task_name: str
    task_type: str = ""
    priority: int = 0
    timeout_s: float | None = None
    max_retries: int | None = None
    resources: Resources = NONE
    payload: Payload | None = None
    program: str = ""
    time_limits: TimeLimits | None = None
    queue: str = ""
    fairness_key: str = ""
    retry: RetryPolicy | None = None
    attributes: dict[str, Scalar] = {}
    worker_filter: str = ""
    pin_version: bool = True
    spend: Spend | None = None


class ScheduleEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one schedule."""

    SUBJECT = "schedule_id"

    schedule_id: str


class ScheduleDefined(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The schedule was created, or changed to this; `next_slot` is null if it has no slot any more."""

    timing: Timing
    task: TaskContent
    next_slot: int | None = None
    catchup: Catchup = Catchup.LAST
    catchup_most: int = 100
    overlap: Overlap = Overlap.SKIP


class ScheduleFired(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The task of a slot was submitted; `is_backfill` if a command asked for a slot of the past.

    `next_slot` is what follows the last slot that was looked at, null if nothing does.
    """

    slot: int
    task_id: str
    next_slot: int | None = None
    is_backfill: bool = False


class ScheduleQueued(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The slot waits until the task before it has ended."""

    slot: int
    next_slot: int | None = None


class ScheduleSkipped(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    The slots from `slot` to `through` are left out.

    `reason` is `missed` (nobody led when they were due, and `catchup` does not want them), `overlap` (the task before
    has not ended), `queue_full` (too many wait for it), `busy` (a limit does not let the task wait) or
    `forbidden` (who made the schedule may not submit the task any more; then it may be a slot that waited).
    """

    slot: int
    through: int
    reason: str
    next_slot: int | None = None


class SchedulePaused(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The schedule fires nothing until it is resumed."""

    reason: str = ""


class ScheduleResumed(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The schedule goes on with the first slot from now on."""

    next_slot: int | None = None


class ScheduleDeleted(ScheduleEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The schedule fires nothing any more; tasks that it submitted stay."""

    reason: str = ""
