"""Filters: what they accept, what they refuse and how that is told, and that they agree with Python's evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.base import Position
from events.errors import Refused
from events.task import TaskStatus
from projections.filters import DEPTH_MAX, FILTER_CHARS_MAX, LIST_MAX, parsed
from projections.task import Task
from projections.task_fields import ALL, LASTING

TASK = Task(
    task_id="t1",
    task_name="report",
    status=TaskStatus.RUNNING,
    submitted=Position(2, 0),
    submitted_at=1.0,
    task_type="slow",
    tenant="acme",
    source="planning",
    program="shop",
    priority=5,
    attempt=2,
    worker_id="w1",
    queue="reports",
    fairness_key="x",
    attributes={"customer": "acme", "size": 2.5, "urgent": True, "pages": 3, "empty": ""},
)


def meets(where: str, task: Task = TASK) -> bool:
    return parsed(where, ALL)(task)


@pytest.mark.parametrize(
    "where",
    [
        'task_id == "t1"',
        'task_name == "report" && task_type == "slow"',
        'tenant == "acme" and source == "planning" and program == "shop"',
        'queue == "reports" and fairness_key == "x"',
        'status == "running" && attempt == 2 && worker_id == "w1"',
        "priority == 5",
        "priority == 5.0",
        "priority >= 5 && priority <= 5 && priority > 4 && priority < 6",
        "priority != -5",
        "5 == priority",
        "attributes.size > 2",
        "attributes.urgent",
        "attributes.urgent == true",
        "!attributes.missing",
        "not attributes.missing",
        "attributes.missing == null",
        "has(attributes.customer) && !has(attributes.missing)",
        "has(attributes.empty)",
        'attributes.customer in ["umbrella", "acme"]',
        'attributes.customer not in ["umbrella"]',
        'attributes.customer !in ["umbrella"]',
        '!(attributes.customer in ["umbrella"])',
        "attributes.pages in [1, 2, attributes.pages]",
        "attributes.pages in [null, 3.0, 'a']",
        "attributes.missing in [null]",
        "attributes.urgent in [true]",
        'task_name.startsWith("rep") && task_name.endsWith("ort") && task_name.contains("epo")',
        "task_name.startsWith('rep')",
        "attributes.customer.contains(attributes.empty)",
        'task_name == "other" || priority == 5',
        'task_name == "other" && tenant == "other" || priority == 5',
        'priority == 5 || task_name == "other" && tenant == "other"',
        '!(task_name == "other" || priority == 4)',
        "!!(priority == 5)",
        "true",
        '"a" < "b" && "" <= ""',
        r'"a\"b\\\n" == "a\"b\\\n"',
        '  task_name=="report"  ',
        'attributes.customer == "acme"\n  && priority == 5',
    ],
)
def test_a_task_meets_a_condition(where: str) -> None:
    """Each of these is true of the task, and its negation is not."""
    assert meets(where)
    assert not meets(f"!({where})")


@pytest.mark.parametrize(
    "where",
    [
        'task_name == "Report"',
        "attributes.urgent == 1",  # a truth value is no number, as Python has it
        "attributes.size in [true, false]",
        "attributes.urgent in [1, 1.0]",
        "attributes.pages in ['3', true, null]",
        'priority == "5"',
        'priority < "9"',
        "attributes.customer < 5",
        "attributes.missing < 5",
        "attributes.missing >= 5",
        "null < null",
        "true < false",
        "attributes.customer",  # not a truth value
        "priority",
        'priority.startsWith("5")',
        'attributes.missing.contains("a")',
        "task_name.contains(5)",
        'attributes.customer in ["umbrella", 5, null]',
        "attributes.missing in [false]",
        "false",
        "null",
        'task_name || "a"',
    ],
)
def test_values_of_other_kinds_are_not_equal_and_in_no_order(where: str) -> None:
    """That is no error: the condition is not met."""
    assert not meets(where)


def test_the_default_queue_has_its_name() -> None:
    """A task of no queue is in that named `default`."""
    task = msgspec.structs.replace(TASK, queue="")
    assert meets('queue == "default"', task)
    assert not meets('queue == ""', task)


@pytest.mark.parametrize(
    ("where", "at", "why"),
    [
        ("", 1, "it is empty"),
        ("  ", 3, "it is empty"),
        ('task_nam == "x"', 1, "did you mean task_name"),
        ("colour == 1", 1, "use task_id, task_name"),
        ("colour == 1", 1, "attributes.…"),
        ("attributes == 1", 1, "not a field"),
        ("attribute.customer == 1", 1, "not a field"),
        ("priority.x == 1", 1, "not a field"),
        ("priority = 5", 10, "use == to compare"),
        ("priority == 5 & true", 15, "'&': it is not understood"),
        ('task_name == "x', 14, "it is not understood"),
        ("priority ==", 12, "a field or a value is expected instead of 'the end'"),
        ("(priority == 5", 15, "')' is missing before 'the end'"),
        ("priority == 5)", 14, "')' is not expected here"),
        ("priority == 5 5", 15, "'5' is not expected here"),
        ("1 < priority < 9", 14, "'<' is not expected here"),
        ("priority in 5", 13, "'[' is missing"),
        ("priority in []", 14, "a field or a value is expected instead of ']'"),
        ("priority in [5", 15, "']' is missing"),
        ("has(5)", 5, "not a field"),
        ("has(priority", 13, "')' is missing"),
        ('nothing.startsWith("a")', 1, "'nothing' is not a field"),
        ('task_name.startsWith("a"', 25, "')' is missing"),
        ('task_name.matches("a")', 1, "not a field"),
        ("1.2.3 == 1", 1, "it is not understood"),
        ("12abc == 1", 1, "it is not understood"),
        ("priority == \x00", 13, "it is not understood"),
        ("(" * (DEPTH_MAX + 1) + "true", DEPTH_MAX + 1, "nested deeper than"),
        (f"priority in [{', '.join('1' for _ in range(LIST_MAX + 1))}]", 13 + 3 * (LIST_MAX + 1) - 1, "more than 100"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(where: str, at: int, why: str) -> None:
    """The error has the filter, the number of the character, and what would be right."""
    with pytest.raises(Refused, match=f"character {at}: ") as caught:
        parsed(where, ALL)
    assert why in caught.value.message
    assert caught.value.reason == "bad_filter"


def test_a_filter_has_at_most_so_many_characters() -> None:
    """One of just as many is accepted, and evaluated whatever it is made of."""
    longest = "1" + "||1" * ((FILTER_CHARS_MAX - 1) // 3)
    assert not meets(longest)
    assert meets("true" + "&&true" * ((FILTER_CHARS_MAX - 4) // 6))
    assert meets("!" * (FILTER_CHARS_MAX - 4) + "true")
    with pytest.raises(Refused, match="1001 characters: use at most 1000") as caught:
        parsed("1" * (FILTER_CHARS_MAX + 1), ALL)
    assert caught.value.reason == "bad_filter"


@pytest.mark.parametrize("name", ["status", "attempt", "worker_id"])
def test_what_changes_is_no_lasting_field(name: str) -> None:
    """A hold may not name it."""
    with pytest.raises(Refused, match="is not a field"):
        parsed(f"{name} == 1", LASTING)
    parsed(f"{name} == 1", ALL)


# --- random filters ---------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-9, 9), st.sampled_from([0.5, 2.5, -1.25]))
TEXTS = st.text(alphabet="ab ", max_size=3)


def _of(values: st.SearchStrategy[Any], *fields: str) -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(fields), values.map(repr))


def _compared() -> st.SearchStrategy[str]:
    """Conditions that mean the same in Python: both sides are of one kind, and present."""
    numbers, texts = _of(NUMBERS, "priority", "attributes.n"), _of(TEXTS, "task_name", "attributes.s")
    of_one_kind = st.one_of(
        *(st.tuples(side, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), side) for side in (numbers, texts)),
        *(
            st.tuples(side, st.sampled_from(["in", "not in"]), st.lists(side, min_size=1, max_size=3).map(_list))
            for side in (numbers, texts)
        ),
    )
    return st.one_of(of_one_kind.map(" ".join), st.sampled_from(["attributes.b", "not attributes.b"]))


def _list(values: list[str]) -> str:
    return f"[{', '.join(values)}]"


CONDITIONS = st.recursive(
    _compared(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
        inner.map("({})".format),
        inner.map("not ({})".format),
    ),
    max_leaves=8,
).filter(lambda where: len(where) <= FILTER_CHARS_MAX)
TASKS = st.builds(
    lambda name, priority, s, n, b: msgspec.structs.replace(
        TASK, task_name=name, priority=priority, attributes={"s": s, "n": n, "b": b}
    ),
    TEXTS, st.integers(-9, 9), TEXTS, NUMBERS, st.booleans(),
)  # fmt: skip


@settings(max_examples=300)
@given(where=CONDITIONS, task=TASKS)
def test_conditions_mean_what_they_mean_in_python(where: str, task: Task) -> None:
    """With `and`, `or`, `not`, comparisons and lists, as far as values are of one kind."""
    names = {
        "task_name": task.task_name,
        "priority": task.priority,
        "attributes": SimpleNamespace(**task.attributes),
    }
    expected = eval(where, {"__builtins__": {}}, names)  # made above of nothing but comparisons
    assert meets(where, task) is expected
    assert meets(where.replace(" and ", "&&").replace(" or ", "||"), task) is expected


WORDS = st.sampled_from([
    *ALL.plain, "attributes.a", "attributes.b", "has", "in", "not", "and", "or", "true", "false", "null", "startsWith",
    *("task_name.startsWith", "attributes.a.contains", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "!", "(", ")"),
    *("[", "]", ",", "5", "-1.5", '"a"', "''", "."),
])  # fmt: skip
VALUES = st.one_of(st.text(max_size=3), st.integers(), st.floats(allow_nan=False), st.booleans())


@settings(max_examples=500)
@given(
    where=st.one_of(st.lists(WORDS, max_size=12).map(" ".join), st.text(max_size=30), CONDITIONS),
    attributes=st.dictionaries(st.sampled_from("abns"), VALUES),
    queue=st.sampled_from(["", "a"]),
)
def test_a_filter_that_is_accepted_answers_for_every_task(where: str, attributes: dict[str, Any], queue: str) -> None:
    """Anything is either refused with the reason `bad_filter`, or true or false of any task."""
    task = msgspec.structs.replace(TASK, attributes=attributes, queue=queue)
    try:
        said = str(meets(where, task))
    except Refused as error:
        said = error.reason
    assert said in ("True", "False", "bad_filter")
