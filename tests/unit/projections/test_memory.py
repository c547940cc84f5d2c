"""What left the world is remembered for as long as promised, in few bytes, and the same in every replay."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.errors import Corrupt
from projections import memory as memory_module
from projections.memory import COMMAND, HARD_S, KEY, SOFT_S, TASK, Memory, Slice

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = 1_800_000_000.0  # a full hour
NAMES = [*(f"task_{number:05d}" for number in range(20)), "é", "", "日本", "z" * 300]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make slices of a few entries, so that many are sealed and merged."""
    monkeypatch.setattr(memory_module, "_MOST", {TASK: 3, COMMAND: 2, KEY: 3})


steps = st.lists(
    st.tuples(
        st.sampled_from((TASK, COMMAND, KEY)),
        st.sampled_from(NAMES),
        st.sampled_from(("acme", "blue")),
        st.floats(0, 90, allow_nan=False),
    ),
    max_size=120,
)


@pytest.mark.usefixtures("small")
@settings(max_examples=60)
@given(steps)
def test_everything_is_found_for_as_long_as_promised(played: list[tuple[str, str, str, float]]) -> None:
    """Compared with a plain dict: what is young must be found as it was last noted; what was never noted must not."""
    memory, noted, now = Memory(), dict[tuple[str, str, str], tuple[float, bytes]](), BEGIN
    for number, (kind, name, tenant, pause_s) in enumerate(played):
        now += pause_s
        owner, value = tenant if kind == KEY else "", number.to_bytes(3, "little")
        memory.note(kind, name, value, now, owner)
        noted[kind, name, owner] = (now, value)
        memory.advance(now)
        if number % 10 == 0:
            memory = again(memory, now)
        for one in NAMES:
            known = noted.get((kind, one, owner))
            found = memory.find(kind, one, owner)
            if known is None:
                assert found is None
            elif now - known[0] <= (SOFT_S if kind == KEY else HARD_S):
                assert found == known[1]
            else:
                assert found in (None, known[1])
    assert memory.count == sum(one.count for one in memory.frozen())


def again(memory: Memory, now: float) -> Memory:
    """Return a memory made from the slices of *memory*, which must be the same."""
    made = Memory()
    made.restore(memory.frozen(), now)
    assert made.frozen() == memory.frozen()
    assert (made.count, made.keys) == (memory.count, memory.keys)
    return made


@pytest.mark.usefixtures("small")
def test_what_was_noted_last_is_found_after_a_restore() -> None:
    """Also if it is in a slice of the same times as the one before, which has greater bytes."""
    memory = Memory()
    for name, value in (("b", b"9"), ("a", b"9"), ("a", b"1")):
        memory.note(COMMAND, name, value, BEGIN)
    memory.advance(BEGIN + 60)
    assert again(memory, BEGIN + 60).find(COMMAND, "a") == b"1"


@pytest.mark.usefixtures("small")
def test_the_order_within_a_period_does_not_matter() -> None:
    """A slice is sorted, so that a conversion of an old snapshot gives the same bytes as a fold."""
    for kind in (TASK, KEY):
        one, two = Memory(), Memory()
        for name, other in (("a", "b"), ("b", "a")):
            one.note(kind, name, name.encode(), BEGIN)
            two.note(kind, other, other.encode(), BEGIN)
        assert one.frozen() == two.frozen()


def test_what_is_too_old_is_dropped_as_a_whole() -> None:
    """At the latest a period after its time; the room is free again."""
    memory = Memory()
    for minute in range(30):
        memory.note(TASK, f"t{minute}", b"x", BEGIN + 60 * minute)
        memory.advance(BEGIN + 60 * minute)
    assert 11 <= memory.count <= 12
    assert memory.find(TASK, "t5") is None
    assert memory.find(TASK, "t19") == b"x"
    memory.advance(BEGIN + 10_000)
    assert (memory.count, memory.frozen(), memory.find(TASK, "t29")) == (0, [], None)


def test_names_are_found_in_any_of_many_slices() -> None:
    """Merged runs of the index find what they should, and are dropped with their slices."""
    memory, names = Memory(), [f"{number:032x}" for number in random.Random(1).sample(range(2**62), 60_000)]
    for number, name in enumerate(names):
        memory.note(TASK, name, number.to_bytes(4, "little"), BEGIN + number / 1000)
    memory.advance(BEGIN + 60)
    assert all(memory.find(TASK, name) == number.to_bytes(4, "little") for number, name in enumerate(names))
    assert not any(memory.find(TASK, name[:-1] + "x") for name in names[:1000])
    memory.note(TASK, "last", b"x", BEGIN + 3000)
    memory.advance(BEGIN + 3000)
    assert memory.count == 1
    assert not any(memory.find(TASK, name) for name in names[:1000])


def test_the_index_forgets_slices_that_were_dropped() -> None:
    """A merge leaves out what belongs to slices that are gone; a run of which nothing is left goes at once."""
    memory = Memory()
    levels = memory._indexes[KEY]._levels
    for hour in range(17):
        memory.note(KEY, f"k{hour}", b"x", BEGIN + 3600 * hour, "acme" if hour else "blue")
        memory.advance(BEGIN + 3600 * hour)
        if hour == 10:
            memory.forget("acme", BEGIN + 3600)
            assert [sum(len(slots) for slots, _ in level) for level in levels[:3]] == [2, 8, 0]
    assert [sum(len(slots) for slots, _ in level) for level in levels[:3]] == [0, 0, 15]
    assert [hour for hour in range(17) if memory.find(KEY, f"k{hour}", "acme") is None] == [0, 1]
    memory.forget("acme", BEGIN + 3600 * 20)
    memory.forget("blue", BEGIN + 3600 * 20)
    assert not any(levels)


@pytest.mark.usefixtures("small")
def test_many_at_once_are_as_if_one_after_the_other() -> None:
    """They may fill a slice, or need several; a name may come again."""
    for sizes in ((1, 2, 3, 4), (2, 1, 5), (3, 3)):
        one, two, number = Memory(), Memory(), 0
        for size in sizes:
            values = {NAMES[(number := number + 1) % 5]: bytes([number]) for _ in range(size)}
            one.note_all(TASK, values, BEGIN + number)
            for name, value in values.items():
                two.note(TASK, name, value, BEGIN + number)
            assert (one.frozen(), one.count, one._greatest) == (two.frozen(), two.count, two._greatest)


def test_the_last_level_is_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in it is found as well."""
    monkeypatch.setattr(memory_module, "_LEVELS", 2)
    memory = Memory()
    for hour in range(40):
        memory.note(KEY, f"k{hour}", b"x", BEGIN + 3600 * hour, "acme")
        memory.advance(BEGIN + 3600 * (hour + 1))
    assert [len(level) for level in memory._indexes[KEY]._levels] == [0, 10]
    assert all(memory.find(KEY, f"k{hour}", "acme") for hour in range(40))


def test_many_small_slices_make_few_runs() -> None:
    """Each tenant has slices of its own, so a look-up must not take longer with each of them."""
    memory = Memory()
    for hour in range(10):
        for tenant in range(200):
            memory.note(KEY, f"k{hour}", tenant.to_bytes(2, "little"), BEGIN + 3600 * hour, f"tenant{tenant}")
        memory.advance(BEGIN + 3600 * (hour + 1))
    assert sum(map(len, memory._indexes[KEY]._levels)) <= 20
    assert all(memory.find(KEY, "k3", f"tenant{tenant}") == tenant.to_bytes(2, "little") for tenant in range(200))


def test_large_runs_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A merge must not take long; small runs between the large ones are merged."""
    monkeypatch.setattr(memory_module, "_MERGED_MOST", 16)
    memory = Memory()
    for hour in range(60):
        for number in range(10 if hour % 6 == 0 else 1):
            memory.note(KEY, f"k{hour}.{number}", b"x", BEGIN + 3600 * hour, "acme")
        memory.advance(BEGIN + 3600 * (hour + 1))
    runs = [len(slots) for level in memory._indexes[KEY]._levels for slots, _ in level]
    assert max(runs) <= 16
    assert sum(one < 4 for one in runs) <= 6
    assert all(memory.find(KEY, f"k{hour}.0", "acme") for hour in range(60))


def test_to_forget_reads_the_slices_once() -> None:
    """Also if nothing can be forgotten: it is asked again and again while there is no room."""

    class Counted(dict[int, Slice]):
        reads = 0

        def values(self) -> Any:
            self.reads += 1
            return super().values()

    memory = Memory()
    for tenant in range(50):
        memory.note(KEY, "k", b"x", BEGIN, f"tenant{tenant:02d}")
    memory.advance(BEGIN + 3600)
    sealed = memory._sealed = Counted(memory._sealed)
    assert memory.to_forget(10, BEGIN) == []
    assert sealed.reads == 1
    assert memory.to_forget(3, BEGIN + 7200) == [(f"tenant0{number}", BEGIN) for number in range(3)]
    assert sealed.reads == 2


def test_the_greatest_name_is_known_after_slices_were_dropped() -> None:
    """What is greater than all that is left is known to be new; what is left is found."""
    memory = Memory()
    memory.note(KEY, "z", b"1", BEGIN, "acme")
    memory.note(KEY, "m", b"2", BEGIN, "blue")
    memory.note(KEY, "n", b"3", BEGIN + 3600, "cyan")
    memory.advance(BEGIN + 3600)
    memory.forget("blue", BEGIN)
    assert memory._greatest[KEY] == "z"
    memory.forget("acme", BEGIN)
    assert (memory._greatest[KEY], memory.find(KEY, "n", "cyan")) == ("n", b"3")
    memory.note(KEY, "b", b"4", BEGIN + 3600, "blue")
    memory.advance(BEGIN + 7200)
    memory.forget("cyan", BEGIN + 3600)
    assert (memory._greatest[KEY], memory.find(KEY, "b", "blue")) == ("b", b"4")


def test_to_forget_names_the_tenant_with_the_most_keys_and_its_oldest() -> None:
    """Keys of the last ten minutes are never forgotten; as much as is needed, in whole slices."""
    memory = Memory()
    for hour in range(5):
        for tenant, count in (("acme", 4), ("blue", 6), ("cyan", 1)):
            for number in range(count):
                memory.note(KEY, f"k{hour}.{number}", b"x", BEGIN + 3600 * hour, tenant)
        memory.advance(BEGIN + 3600 * hour)
    now = BEGIN + 5 * 3600
    assert memory.to_forget(1, now)
    memory.advance(now)
    assert memory.keys == {"acme": 20, "blue": 30, "cyan": 5}
    assert memory.to_forget(7, now) == [("blue", BEGIN + 3600)]
    assert memory.to_forget(35, now) == [("blue", BEGIN + 4 * 3600), ("acme", BEGIN + 3600)]
    assert memory.to_forget(10**6, now) == [(one, BEGIN + 4 * 3600) for one in ("blue", "acme", "cyan")]
    memory.forget("blue", BEGIN + 3600)
    assert memory.keys == {"acme": 20, "blue": 18, "cyan": 5}
    assert memory.to_forget(1, now) == [("acme", BEGIN)]
    assert (memory.find(KEY, "k1.0", "blue"), memory.find(KEY, "k2.0", "blue")) == (None, b"x")
    memory.forget("acme", now)
    memory.forget("blue", now)
    memory.forget("cyan", now)
    assert (memory.keys, memory.count, memory.to_forget(1, now)) == ({}, 0, [])


def test_keys_that_are_young_are_not_to_forget() -> None:
    """A client may still send them again."""
    memory = Memory()
    memory.note(KEY, "k", b"x", BEGIN + 3599, "acme")
    memory.advance(BEGIN + 3601)
    assert memory.to_forget(1, BEGIN + 3601) == []
    assert memory.to_forget(1, BEGIN + 3601 + HARD_S) == [("acme", BEGIN + 3599)]


def test_an_entry_costs_little() -> None:
    """At most 40 bytes beyond the name: 6 in the slice, 8 in the index, 11 for a task."""
    memory, names = Memory(), [f"task_01m8{number:023x}" for number in range(8192)]
    for name in names:
        memory.note(TASK, name, b"x" * 11, BEGIN)
    (one,) = memory.frozen()
    assert len(one.entries) <= sum(map(len, names)) + len(names) * (11 + 6) + 4
    assert sum(slots.itemsize * len(slots) for slots, _ in memory._indexes[TASK]._levels[0]) == 8 * len(names)


def broken(**changes: object) -> Iterator[Slice]:
    memory = Memory()
    memory.note(TASK, "a", b"x", BEGIN)
    for one in memory.frozen():
        yield msgspec.structs.replace(one, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"entries": b""},
        {"count": 9},
        {"kind": "tusk"},
        {"count": 0, "is_open": False},
        {"entries": b"\0\0\0\0\1\0\0\0\1\0\xff"},
    ],
    ids=str,
)
def test_a_slice_that_is_none_is_corrupt(changes: dict[str, object]) -> None:
    """Never another exception."""
    with pytest.raises(Corrupt, match="is unreadable"):
        Memory().restore(broken(**changes), BEGIN)
