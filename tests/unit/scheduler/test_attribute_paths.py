"""Attributes of a task that a program takes from its payload when it submits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.scheduler import TaskScheduler
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.app.app import App

PATHS = {"report": {"customer": "customer.id", "first": "items.0.sku", "urgent": "urgent", "pages": "pages"}}


async def attributes(app: App, name: str, payload: Any, **given: Any) -> dict[str, Any]:
    scheduler = TaskScheduler(app, attribute_paths=PATHS)
    task_id = await scheduler.submit_task(name, payload=payload, **given)
    (task,) = await scheduler.list_tasks(where=f'task_id == "{task_id}"')
    found: dict[str, Any] = task.attributes
    return found


async def test_a_task_has_what_its_payload_has_at_the_paths(app: App) -> None:
    """Texts, numbers and truth values, behind keys and indexes; those of other names have none."""
    payload = {"customer": {"id": "acme"}, "items": [{"sku": 7}, {}], "urgent": False, "pages": 2.5}
    assert await attributes(app, "report", payload) == {"customer": "acme", "first": 7, "urgent": False, "pages": 2.5}
    assert await attributes(app, "other", payload) == {}
    assert await attributes(app, "report", payload, attributes={"pages": 1, "x": "y"}) == {
        "customer": "acme", "first": 7, "urgent": False,
        "pages": 1, "x": "y",
    }  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"\x00",
        "text",
        5,
        [],
        {},
        {"customer": "acme", "items": {}, "urgent": None, "pages": [1]},
        {"customer": {"id": {}}, "items": [], "urgent": {}},
        {"customer": None, "items": [5]},
        {"customer": ["id"], "items": {"1": 2}},
    ],
)
async def test_what_is_not_there_is_left_out(app: App, payload: Any) -> None:
    """As is what is no text, number or truth value."""
    assert await attributes(app, "report", payload) == {}


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        ([], r"attribute_paths \[\] is not a mapping"),
        ({"report": "customer"}, r"attribute_paths\['report'\] 'customer' is not a mapping"),
        ({"report": {"customer": 5}}, r"attribute_paths\['report'\]\['customer'\] 5 is not text"),
        ({"report": {"customer": "a..b"}}, "'a..b' is not a path"),
        ({"report": {"customer": ""}}, "'' is not a path"),
        ({5: {}}, "a task name 5 is not text"),
        ({"report": {5: "a"}}, "a name 5 is not text"),
    ],
)
def test_paths_that_are_none_are_refused(paths: Any, why: str) -> None:
    """When the scheduler is made, with their place."""
    with pytest.raises(Refused, match=why):
        TaskScheduler(attribute_paths=paths)


async def test_a_value_that_is_too_long_is_refused_by_the_coordinator(app: App) -> None:
    """As if it had been given."""
    with pytest.raises(Refused, match="attributes"):
        await attributes(app, "report", {"customer": {"id": "x" * 2000}})
