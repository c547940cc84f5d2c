"""Arguments of the methods for dead tasks; what they do is tested with a follower (`tests/e2e/test_retries.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.scheduler import TaskScheduler
from events.errors import Refused

if TYPE_CHECKING:
    from coordinator.app.app import App

NAN = float("nan")
FILTERS = [
    *({"task_name": wrong} for wrong in (7, b"x", "\ud800", ["x"])),
    *({"tenant": wrong} for wrong in (7, "\ud800")),
    *({"error_type": wrong} for wrong in (ValueError, "\ud800")),
    *({"since": wrong} for wrong in ("today", NAN, True)),
]
BOUNDS = [
    *({"most": wrong} for wrong in (0, 10_001, 1.5)),
    *({"rate": wrong} for wrong in (0, -1, NAN, "10", 1e9)),
]


@pytest.mark.parametrize("given", [*FILTERS, *({"limit": wrong} for wrong in (0, -1, 10_001, 1.5, True, None))])
async def test_a_list_of_dead_tasks_checks_its_arguments(app: App, given: dict[str, Any]) -> None:
    """The error names the argument."""
    with pytest.raises(Refused, match=next(iter(given))):
        await TaskScheduler(app).list_dead_tasks(**given)


@pytest.mark.parametrize(
    "given",
    [
        *FILTERS,
        *({"most": wrong} for wrong in (0, 10_001, 1.5)),
        *({"rate": wrong} for wrong in (0, -1, NAN, "10", 1e9)),
    ],
)
async def test_to_requeue_checks_its_arguments(app: App, given: dict[str, Any]) -> None:
    """Before anything is read or submitted."""
    with pytest.raises(Refused, match=next(iter(given))):
        await TaskScheduler(app).requeue_tasks(**given)


@pytest.mark.parametrize("wrong", [7, None, "\ud800", b"t"])
async def test_a_task_to_requeue_is_named_by_its_id(app: App, wrong: Any) -> None:
    """Nothing else is an id."""
    with pytest.raises(Refused, match="task_id"):
        await TaskScheduler(app).requeue_task(wrong)
