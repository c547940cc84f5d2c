"""
Define schedules, which submit a task again and again, and ask for them.

Each occurrence is a task of its own, with the id of the schedule and its slot; everything else about it is as for any
task.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from coordinator.app.facade import Facade
from coordinator.client.paging import listed
from coordinator.commands.arguments import member, moment, number, retry_policy, scalars, spending, text, whole
from coordinator.commands.payloads import payload_of, value_of
from coordinator.commands.schedule import (
    BackfillSchedule,
    DefineSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    NextRuns,
    PauseSchedule,
    ResumeSchedule,
)
from events.resources import Resources
from events.schedule import Catchup, Overlap, ScheduleStatus, TaskContent
from events.time_limits import TimeLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.commands.schedule import Run
    from events.retry import RetryPolicy
    from events.spend import Spend
    from events.task import Scalar
    from projections.schedule import Schedule


@dataclass(kw_only=True)
class ScheduleInfo:
    """
    A schedule as callers see it; its times are in its time zone, `every` and `jitter` in seconds.

    `next_run` is the next slot, None if there is none; `last_run` and `last_task_id` are of the slot that was fired
    last; `waiting` slots wait for the task before them; `fired` is how many tasks it has submitted.
    """

    schedule_id: str
    status: ScheduleStatus
    task_name: str
    cron: str
    every: int | None
    time_zone: str
    jitter: float
    start: datetime | None
    end: datetime | None
    catchup: Catchup
    catchup_most: int
    overlap: Overlap
    next_run: datetime | None
    last_run: datetime | None
    last_task_id: str
    waiting: int
    fired: int
    payload: Any
    """Of its tasks; None in a list."""


def schedule_info(schedule: Schedule) -> ScheduleInfo:
    """Convert a folded schedule to a `ScheduleInfo`."""
    timing, task = schedule.timing, schedule.task
    zone = ZoneInfo(timing.time_zone)

    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, zone)

    return ScheduleInfo(
        schedule_id=schedule.schedule_id,
        status=schedule.status,
        task_name="" if task is None else task.task_name,
        cron=timing.cron,
        every=timing.every_s,
        time_zone=timing.time_zone,
        jitter=timing.jitter_s,
        start=at(timing.start or None),
        end=at(timing.end),
        catchup=schedule.catchup,
        catchup_most=schedule.catchup_most,
        overlap=schedule.overlap,
        next_run=at(schedule.next_slot),
        last_run=at(schedule.last_slot),
        last_task_id=schedule.last_task_id,
        waiting=len(schedule.queued),
        fired=schedule.fired,
        payload=None if task is None else value_of(task.payload),
    )


def _timing(cron: Any, every: Any, time_zone: Any, jitter: Any, start: Any, end: Any) -> dict[str, Any]:
    return {
        "cron": text("cron", cron),
        "every_s": None if every is None else whole("every", every),
        "time_zone": text("time_zone", time_zone),
        "jitter_s": number("jitter", jitter),
        "start": 0.0 if start is None else moment("start", start),
        "end": None if end is None else moment("end", end),
    }


def _time_limits(start_within: Any, finish_within: Any, heartbeat: Any) -> TimeLimits:
    return TimeLimits(
        start_within_s=_seconds("start_within", start_within),
        finish_within_s=_seconds("finish_within", finish_within),
        heartbeat_s=_seconds("heartbeat", heartbeat),
    )


def _waiting(queue: Any, fairness_key: Any, retry: Any, attributes: Any, spend: Any) -> dict[str, Any]:
    return {
        "queue": text("queue", queue),
        "fairness_key": text("fairness_key", fairness_key),
        "retry": None if retry is None else retry_policy("retry", retry),
        "attributes": {} if attributes is None else scalars("attributes", attributes),
        "spend": spending("spend", spend),
    }


def _seconds(name: str, given: Any) -> float | None:
    return None if given is None else number(name, given)


class Schedules(Facade):
    """The schedules of the cluster."""

    async def define_schedule(
        self,
        schedule_id: str,
        task_name: str,
        *,
        cron: str = "",
        every: int | None = None,
        time_zone: str = "UTC",
        jitter: float = 0.0,
        start: datetime | None = None,
        end: datetime | None = None,
        catchup: Catchup | str = Catchup.LAST,
        catchup_most: int = 100,
        overlap: Overlap | str = Overlap.SKIP,
        payload: Any = None,
        task_type: str = "",
        priority: int = 0,
        timeout: float | None = None,  # noqa: ASYNC109  # of the tasks, not of this call
        resources: Mapping[str, Any] | None = None,
        max_retries: int | None = None,
        start_within: float | None = None,
        finish_within: float | None = None,
        heartbeat: float | None = None,
        queue: str = "",
        fairness_key: str = "",
        retry: RetryPolicy | None = None,
        attributes: Mapping[str, Scalar] | None = None,
        spend: Spend | None = None,
    ) -> ScheduleInfo:
        """
        Create a schedule, or change the one of this id, and return it.

        Its slots are those of *cron* (minute, hour, day, month, weekday) in *time_zone*, or come *every* so many whole
        seconds, counted from *start*; they lie between *start* and *end*, which have zones. Each is fired up to
        *jitter* seconds later. *catchup* says which missed slots are fired: "none", the "last", or "all", the
        newest up to *catchup_most*; *overlap* what happens to a slot while the task before has not ended: it is left
        out ("skip"), waits ("queue"), or cancels that task ("cancel"). The rest is as in `TaskScheduler.submit_task`.
        Raises `Refused` if an argument is invalid, or there are too many schedules.
        """
        command = DefineSchedule(
            schedule_id=text("schedule_id", schedule_id),
            task=TaskContent(
                task_name=text("task_name", task_name),
                task_type=text("task_type", task_type),
                priority=whole("priority", priority),
                timeout_s=_seconds("timeout", timeout),
                max_retries=None if max_retries is None else whole("max_retries", max_retries),
                resources=Resources.parse(resources),
                payload=payload_of(payload),
                program=(await self.opened()).program,
                time_limits=_time_limits(start_within, finish_within, heartbeat),
                **_waiting(queue, fairness_key, retry, attributes, spend),
            ),
            **_timing(cron, every, time_zone, jitter, start, end),
            catchup=member("catchup", catchup, Catchup),
            catchup_most=whole("catchup_most", catchup_most),
            overlap=member("overlap", overlap, Overlap),
        )
        return schedule_info(await self.execute(command))

    async def pause_schedule(self, schedule_id: str, reason: str = "") -> None:
        """Pause a schedule: it fires nothing until it is resumed. Raises `NotFound` if it does not exist."""
        await self.execute(PauseSchedule(schedule_id=text("schedule_id", schedule_id), reason=text("reason", reason)))

    async def resume_schedule(self, schedule_id: str) -> None:
        """Resume a schedule with the first slot from now on. Raises `NotFound` if it does not exist."""
        await self.execute(ResumeSchedule(schedule_id=text("schedule_id", schedule_id)))

    async def delete_schedule(self, schedule_id: str, reason: str = "") -> None:
        """Delete a schedule; tasks that it submitted stay. Raises `NotFound` if it does not exist."""
        await self.execute(DeleteSchedule(schedule_id=text("schedule_id", schedule_id), reason=text("reason", reason)))

    async def backfill_schedule(self, schedule_id: str, since: datetime, until: datetime) -> list[str]:
        """
        Submit the tasks of slots that have passed, and return the ids of all tasks in that time, oldest first.

        Args:
            schedule_id: the schedule.
            since: the first slot is not before it; a datetime with a zone.
            until: the last slot is not after it.

        Raises:
            Refused: the times are not two that have passed, or more than 100 slots are between them.
            NotFound: the schedule does not exist.
        """
        command = BackfillSchedule(
            schedule_id=text("schedule_id", schedule_id), since=moment("since", since), until=moment("until", until)
        )
        submitted: list[str] = await self.execute(command)
        return submitted

    async def get_schedule(self, schedule_id: str) -> ScheduleInfo:
        """Return a schedule; raise `NotFound` if it does not exist."""
        return schedule_info(await self.execute(GetSchedule(schedule_id=text("schedule_id", schedule_id))))

    async def list_schedules(self, limit: int = 100) -> list[ScheduleInfo]:
        """Return at most *limit* schedules, newest first, without payloads; deleted ones for a while too."""
        found: list[Schedule] = await listed(self, ListSchedules(limit=whole("limit", limit)))
        return [schedule_info(one) for one in found]

    async def next_runs(self, schedule_id: str, count: int = 5) -> list[datetime]:
        """
        Return the next slots of a schedule, in its time zone; of a paused one, those that it would have.

        Args:
            schedule_id: the schedule.
            count: how many, 1 to 100.

        Raises:
            NotFound: the schedule does not exist.
        """
        question = NextRuns(schedule_id=text("schedule_id", schedule_id), count=whole("count", count))
        runs: list[Run] = await self.execute(question)
        return [datetime.fromisoformat(run.local) for run in runs]
