"""That no worker could run some tasks is logged once, and that it is over; not more lines than are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs

from coordinator.engine.unfit_tasks import LINES_MOST, LINES_S, UnfitTasks
from events.queue import QueueBlocked
from projections import blockage
from projections.world import World
from tests.specification import fold

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _all_levels() -> Iterator[None]:
    """Log every level, whatever a test before has set for this process."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


def blocked(cause: str = "no_handler", shape: str = "s", **others: Any) -> QueueBlocked:
    return QueueBlocked(queue_id="q", shape=shape, task_name="work", since=1000.0, cause=cause, **others)


def noted(unfit: UnfitTasks, *events: QueueBlocked, at: float = 1000.0) -> list[dict[str, Any]]:
    with capture_logs() as lines:
        for event in events:
            unfit.note(event, at)
    return [dict(one) for one in lines]


def test_it_is_told_once_and_when_it_is_over() -> None:
    """Again when the cause is another one; other causes are told by nobody."""
    unfit = UnfitTasks(World())
    about = {"queue": "q", "task_name": "work"}
    assert noted(unfit, blocked(waiting={"a": 2, "b": 1}), blocked()) == [
        {"event": "tasks_cannot_run", "log_level": "warning", "cause": "no_handler", "waiting": 3, **about}
    ]
    assert [one["cause"] for one in noted(unfit, blocked("no_worker"))] == ["no_worker"]
    over = {"event": "tasks_cannot_run_over", "log_level": "info", "cause": "no_worker", **about}
    assert noted(unfit, blocked("workers_busy")) == [over]
    assert noted(unfit, blocked(""), blocked("key_full")) == []


def test_a_new_writer_does_not_tell_it_again() -> None:
    """It is in the journal; that it is over is told."""
    unfit = UnfitTasks(fold(blocked()))
    assert noted(unfit, blocked()) == []
    assert [one["event"] for one in noted(unfit, blocked(""))] == ["tasks_cannot_run_over"]


def test_the_lines_are_bounded(monkeypatch: Any) -> None:
    """What is left out is counted in the next line, and so is what is kept."""
    unfit = UnfitTasks(World())
    many = [blocked(shape=f"s{number}") for number in range(LINES_MOST + 5)]
    assert len(noted(unfit, *many)) == LINES_MOST
    (line,) = noted(unfit, blocked("no_worker", shape="s0"), at=1000.0 + LINES_S)
    assert line["left_out"] == 5
    assert noted(unfit, *(blocked("no_worker", shape=f"s{number}") for number in range(LINES_MOST + 5)))[-1:] != []
    assert noted(unfit, blocked("", shape="s1")) == []
    monkeypatch.setattr("coordinator.engine.unfit_tasks.MOST_BLOCKAGES", 1)
    unfit = UnfitTasks(World())
    noted(unfit, blocked(), blocked(shape="t"))
    assert list(unfit._causes) == [blockage.name_in("q", "t")]
