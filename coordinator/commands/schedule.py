"""Commands and questions about schedules."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import RUNS, SCHEDULE, SCHEDULE_FIRED
from events.schedule import Catchup, Overlap, TaskContent
from projections.schedule import Schedule


class Run(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A slot to come: when it is, and when it is fired, in seconds since 1970.

    `local` is the slot in the schedule's time zone, with the offset from UTC, `zone` the zone's abbreviation then, and
    `is_dst` whether that is daylight saving time.
    """

    slot: int
    fires_at: float
    local: str
    zone: str
    is_dst: bool


class DefineSchedule(Command[Schedule], frozen=True, kw_only=True, gc=False):
    """
    Create a schedule, or change it: at each of its slots it submits `task`, with the id of the schedule and the slot.

    Slots are given by `cron` (minute, hour, day, month, weekday) in a `time_zone`, or by `every_s`, counted from
    `start`; they lie between `start` and `end`. Each is fired up to `jitter_s` later.
    """

    KIND, VERB = "schedule", "define"
    REFUSALS = frozenset({
        "bad_attributes", "bad_filter", "bad_number", "bad_payload", "bad_resources", "bad_retry", "bad_schedule",
        "bad_text", "bad_time", "memory_full", "payload_too_large", "queue_full", "quota", "too_many", "unknown_queue",
    })  # fmt: skip
    EXAMPLE = Example(
        {
            "schedule_id": "nightly",
            "task": {"task_name": "add"},
            "cron": "30 2 * * *",
            "time_zone": "Europe/Berlin",
        },
        SCHEDULE,
    )

    schedule_id: str
    task: TaskContent
    cron: str = ""
    every_s: int | None = None
    time_zone: str = "UTC"
    jitter_s: float = 0.0
    start: float = 0.0
    end: float | None = None
    catchup: Catchup = Catchup.LAST
    catchup_most: int = 100
    """How many missed slots are fired with `catchup` all, the newest."""
    overlap: Overlap = Overlap.SKIP


class PauseSchedule(Command[None], frozen=True, kw_only=True, gc=False):
    """Pause a schedule: it fires nothing until it is resumed."""

    KIND, VERB, REMEMBERED = "schedule", "pause", True
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"schedule_id": "nightly", "reason": "maintenance"})

    schedule_id: str
    reason: str = ""


class ResumeSchedule(Command[None], frozen=True, kw_only=True, gc=False):
    """Resume a paused schedule with the first slot from now on; what it missed meanwhile is not caught up."""

    KIND, VERB, REMEMBERED = "schedule", "resume", True
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"schedule_id": "nightly"})

    schedule_id: str


class DeleteSchedule(Command[None], frozen=True, kw_only=True, gc=False):
    """Delete a schedule; tasks that it submitted stay."""

    KIND, VERB, REMEMBERED = "schedule", "delete", True
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"schedule_id": "nightly"})

    schedule_id: str
    reason: str = ""


class BackfillSchedule(Command[list[str]], frozen=True, kw_only=True, gc=False):
    """
    Submit the tasks of the slots from `since` to `until`, which have passed; at most 100 in one command.

    A slot whose task is still known is left out. The answer has the ids of all tasks in that time, oldest first.
    """

    KIND, VERB, REMEMBERED = "schedule", "backfill", True
    REFUSALS = frozenset({"bad_time", "memory_full", "not_found", "queue_full", "too_many"})
    EXAMPLE = Example(
        {"schedule_id": "nightly", "since": 1795900000.0, "until": 1795960000.0}, ["nightly-20261129T013000Z"]
    )

    schedule_id: str
    since: float
    until: float


class GetSchedule(Question[Schedule], frozen=True, kw_only=True, gc=False):
    """Get one schedule."""

    KIND, VERB = "schedule", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"schedule_id": "nightly"}, SCHEDULE_FIRED)

    schedule_id: str


class ListSchedules(Question[list[Schedule]], frozen=True, kw_only=True, gc=False):
    """
    List schedules, newest first, without the payloads of their tasks.

    With `after`, the id of a schedule, the list begins after that one.
    """

    KIND, VERB = "schedule", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [SCHEDULE_FIRED])

    limit: int = 100
    after: str = ""


class NextRuns(Question[list[Run]], frozen=True, kw_only=True, gc=False):
    """Tell the next slots of a schedule, in its time zone."""

    KIND, VERB = "schedule", "next"
    REFUSALS = frozenset({"bad_number", "not_found"})
    EXAMPLE = Example({"schedule_id": "nightly", "count": 2}, RUNS)

    schedule_id: str
    count: int = 5
