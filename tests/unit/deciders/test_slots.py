"""The slots of a schedule: cron in a time zone, and intervals."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from coordinator.deciders.slots import check_timing, local_time, newest_first, next_after
from events.errors import Refused
from events.schedule import Timing

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 28, 12, 0, tzinfo=BERLIN).timestamp()


def berlin(cron: str, **others: Any) -> Timing:
    return Timing(cron=cron, time_zone="Europe/Berlin", **others)


def following(timing: Timing, after: float, count: int) -> list[str]:
    """Return the next slots as local times."""
    found = []
    for _ in range(count):
        slot = next_after(timing, after)
        assert slot is not None
        found.append(local_time(timing, slot).isoformat(timespec="minutes"))
        after = slot
    return found


def test_a_time_that_the_clocks_skip_is_the_one_after_it() -> None:
    """On the day that begins summer time there is no half past two."""
    assert following(berlin("30 2 * * *"), NOW, 3) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
        "2026-03-31T02:30+02:00",
    ]


def test_a_time_that_the_clocks_repeat_counts_once() -> None:
    """On the day that ends summer time half past two comes twice; the first one counts."""
    before = datetime(2026, 10, 24, 12, 0, tzinfo=BERLIN).timestamp()
    assert following(berlin("30 2 * * *"), before, 2) == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]
    between = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1).timestamp()
    assert following(berlin("30 2 * * *"), between, 1) == ["2026-10-26T02:30+01:00"]
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN).timestamp()
    assert next(newest_first(berlin("30 2 * * *"), 0, between)) == first


def test_every_hour_goes_on_over_a_change_of_the_clocks() -> None:
    """What runs every so many minutes or every hour runs in real time."""
    before = datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN).timestamp()
    assert following(berlin("0 * * * *"), before, 3) == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T03:00+01:00",
    ]


def test_an_interval_counts_from_its_start() -> None:
    """In real time, whatever the clocks do; from 1970 on without a start."""
    assert next_after(Timing(every_s=600), 1234.5) == 1800
    timing = Timing(every_s=600, start=1000.5, end=2300.0)
    assert [next_after(timing, after) for after in (0.0, 1000.0, 1001.0, 1600.9, 1601.0, 2201.0)] == [
        *(1001, 1001, 1601, 1601, 2201),
        None,
    ]
    assert list(newest_first(timing, 0, 1e9)) == [2201, 1601, 1001]
    assert list(newest_first(timing, 1602, 2200.0)) == []


def test_a_cron_expression_begins_and_ends() -> None:
    """Slots lie between start and end, both included."""
    timing = Timing(cron="*/10 * * * *", start=600.0, end=1800.0)
    assert [next_after(timing, after) for after in (0.0, 599.0, 600.0, 1799.9, 1800.0)] == [600, 600, 1200, 1800, None]
    assert list(newest_first(timing, 0, 1e9)) == [1800, 1200, 600]


@pytest.mark.parametrize(
    ("wrong", "reason", "named"),
    [
        ({}, "bad_schedule", "exactly one"),
        ({"cron": "* * * * *", "every_s": 5}, "bad_schedule", "exactly one"),
        ({"cron": "* * * *"}, "bad_schedule", "5 fields"),
        ({"cron": "* * * * * *"}, "bad_schedule", "5 fields"),
        ({"cron": "61 * * * *"}, "bad_schedule", "minute"),
        ({"cron": "a b c d e"}, "bad_schedule", "cannot be read"),
        ({"cron": "*/0 * * * *"}, "bad_schedule", "cannot be read"),
        ({"cron": "* * * * MON#²"}, "bad_schedule", "cannot be read"),
        ({"cron": "0 0 30,31 2 *"}, "bad_schedule", "cannot be read"),
        ({"cron": "0 0 */31 2 5#5"}, "bad_schedule", "ever comes"),
        ({"cron": "1," * 200 + "1 * * * *"}, "bad_text", "cron"),
        ({"cron": "* * * *\x1b *"}, "bad_text", "cron"),
        ({"every_s": 0}, "bad_number", "every_s"),
        ({"every_s": 400 * 86_400}, "bad_number", "every_s"),
        ({"every_s": 60, "jitter_s": 61.0}, "bad_number", "jitter_s"),
        ({"every_s": 60, "jitter_s": float("nan")}, "bad_number", "jitter_s"),
        ({"cron": "* * * * *", "jitter_s": 61.0}, "bad_number", "jitter_s"),
        ({"cron": "0 * * * *", "jitter_s": 3601.0}, "bad_number", "jitter_s"),
        ({"every_s": 60, "start": float("nan")}, "bad_time", "start"),
        ({"every_s": 60, "start": -1.0}, "bad_time", "start"),
        ({"every_s": 60, "end": 1e12}, "bad_time", "end"),
        ({"every_s": 60, "time_zone": ""}, "bad_text", "time_zone"),
        ({"every_s": 60, "time_zone": "Europe/Atlantis"}, "bad_schedule", "Europe/Atlantis"),
        ({"every_s": 60, "time_zone": "Europe"}, "bad_schedule", "Europe"),
        ({"every_s": 60, "time_zone": "../../etc/passwd"}, "bad_schedule", "passwd"),
        ({"every_s": 60, "time_zone": "/etc/localtime"}, "bad_schedule", "localtime"),
    ],
)
def test_what_is_no_timing_is_refused(wrong: dict[str, Any], reason: str, named: str) -> None:
    """The refusal names the value and what would be right."""
    with pytest.raises(Refused) as caught:
        check_timing(Timing(**wrong), NOW)
    assert caught.value.reason == reason
    assert named in caught.value.message


@pytest.mark.parametrize(
    "timing",
    [
        Timing(cron="0 9 * * MON-FRI"),
        Timing(cron="0 0 L * *", jitter_s=60.0),
        Timing(cron="0 0 1 1 *", jitter_s=3600.0, end=NOW + 1.0),
        Timing(cron="0 0 29 2 *", time_zone="Asia/Kathmandu"),
        Timing(every_s=1, jitter_s=1.0, start=NOW),
    ],
)
def test_usual_timings_are_accepted(timing: Timing) -> None:
    """Names of days and the last of a month too."""
    check_timing(timing, NOW)


def test_a_cron_expression_that_names_no_day_has_no_slot() -> None:
    """The library gives up after 50 years."""
    assert next_after(Timing(cron="0 0 */31 2 5#5"), NOW) is None


CRONS = st.builds(
    "{} {} * * {}".format,
    st.sampled_from(["0", "30", "*/7", "0,59", "*", "15-20"]),
    st.sampled_from(["*", "2", "1,2,3", "*/3", "0-5", "23"]),
    st.sampled_from(["*", "SUN", "1-5"]),
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Sydney", "Asia/Kathmandu"])
"""Not Australia/Lord_Howe: where clocks change by half an hour, what the library gives depends on where it begins."""
CHANGES = [datetime(2026, month, day, tzinfo=UTC).timestamp() for month, day in ((3, 29), (10, 25), (4, 4), (11, 1))]


@for_all(CRONS, ZONES, st.sampled_from(CHANGES), st.floats(-90_000.0, 90_000.0))
def test_backwards_are_the_same_slots_as_forwards(cron: str, zone: str, change: float, off: float) -> None:
    """Around changes of the clocks too: slots only grow, and those that have passed are those that came."""
    timing = Timing(cron=cron, time_zone=zone)
    begin = change + off
    forwards: list[int] = []
    after = begin
    for _ in range(40):
        slot = next_after(timing, after)
        assert slot is not None
        assert slot > after
        forwards.append(slot)
        after = slot
    assert all(one < other for one, other in pairwise(forwards))
    for through in (forwards[-1], forwards[20] + 0.5):
        backwards = list(islice(newest_first(timing, forwards[0], through), 60))
        assert backwards[::-1] == [slot for slot in forwards if slot <= through]


@for_all(st.integers(1, 10_000), st.floats(0.0, 1e6), st.floats(0.0, 2e6))
def test_intervals_backwards_are_the_same_as_forwards(every_s: int, start: float, now: float) -> None:
    """With any start."""
    timing = Timing(every_s=every_s, start=start)
    slot = next_after(timing, now)
    assert slot is not None
    assert now < slot
    assert next(newest_first(timing, 0, slot)) == slot
    assert next(newest_first(timing, 0, slot - 1), slot - every_s) == slot - every_s
