"""The file of outcomes, without a network: what comes in is untrusted, and a file that fails loses only outcomes."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import msgspec
import pytest
from structlog.testing import capture_logs

from coordinator.bus.subscription import Message
from coordinator.commands.service import CheckOutcome
from coordinator.health import history as history_module
from coordinator.health.history import CheckHistory, _opened, changes_in
from events import codec
from events.base import Position
from events.service import ServiceStatus
from tests.unit.deciders.facts import health, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from events.base import Event


@asynccontextmanager
async def history_in(folder: Path) -> AsyncIterator[CheckHistory]:
    database = await _opened(folder / "checks.db")
    try:
        yield CheckHistory(database)
    finally:
        await database.close()


def told(number: int, *, reign: str = "1.1", service_id: str = "s", data: bytes | None = None) -> Message:
    outcome = CheckOutcome(at=1.0 * number, ok=True, check="http", status=ServiceStatus.HEALTHY)
    outcome = msgspec.structs.replace(outcome, number=number, reign=reign)
    return Message(
        f"coordination.notice.check.{service_id}", "", msgspec.json.encode(outcome) if data is None else data
    )


async def numbers(history: CheckHistory, service_id: str = "s") -> list[tuple[int, int]]:
    """Return the number of each outcome, oldest first, and how many before it are lost."""
    return [(one.number, one.lost) for one in reversed(await history.last(service_id, 1000))]


async def test_what_was_lost_is_told(tmp_path: Path) -> None:
    """Before the first outcome, between two, and at the beginning of another reign."""
    async with history_in(tmp_path) as history:
        for number, reign in ((3, "1.1"), (4, "1.1"), (7, "1.1"), (1, "1.9"), (4, "1.9"), (2, "1.20")):
            history.take(told(number, reign=reign))
        assert await numbers(history) == [(3, 2), (4, 0), (7, 2), (1, 0), (4, 2), (2, 1)]
        assert await numbers(history, "nobody") == []
    async with history_in(tmp_path) as again:
        assert len(await numbers(again)) == 6


@pytest.mark.parametrize("bad", [b"", b"{}", b"[1]", b"\xff", b'{"at":"now"}'])
async def test_what_is_no_outcome_is_left_out(tmp_path: Path, bad: bytes) -> None:
    """Anybody may publish on an open NATS."""
    async with history_in(tmp_path) as history:
        history.take(told(1, data=bad))
        history.take(told(1, service_id="*"))
        history.take(told(1))
        assert await numbers(history) == [(1, 0)]


async def test_a_flood_is_lost_and_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers tell what was lost."""
    monkeypatch.setattr(history_module, "WAITING_MAX", 2)
    async with history_in(tmp_path) as history:
        for number in (1, 2, 3, 4):
            history.take(told(number))
        await history.write()
        history.take(told(5))
        assert await numbers(history) == [(1, 0), (2, 0), (5, 2)]


async def test_an_outcome_is_small(tmp_path: Path) -> None:
    """What is larger than any check can be, is none: 50,000 may wait, and a million are kept."""
    async with history_in(tmp_path) as history:
        one = told(1)
        history.take(told(2, data=one.data + b" " * history_module.OUTCOME_BYTES_MAX))
        history.take(one)
        assert await numbers(history) == [(1, 0)]


async def test_services_that_are_gone_leave_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ids never come again, so only the number of all rows is a limit."""
    monkeypatch.setattr(history_module, "ROWS_KEPT", 10)
    async with history_in(tmp_path) as history:
        for number in range(30):
            history.take(told(1, service_id=f"s{number}"))
            await history.write()
        kept = [number for number in range(30) if await history.last(f"s{number}", 1)]
        assert kept == list(range(20, 30))


async def test_a_file_that_cannot_be_written_loses_outcomes(tmp_path: Path) -> None:
    """It is logged with how many, and does not end the follower."""
    async with history_in(tmp_path) as history:
        await history._database.execute("DROP TABLE outcomes")
        history.take(told(1))
        with capture_logs() as logs:
            await history.write()
        assert [(one["event"], one["lost"]) for one in logs] == [("checks_write_failed", 1)]


def test_changes_of_health_are_entries_of_a_history() -> None:
    """Other events, also of later releases, are none."""

    def written(event: Event) -> bytes:
        position = Position(1, 0)
        return codec.encode(codec.envelope(event, position=position, time="2026-11-28T00:00:00.000000Z", source="/c"))

    later = written(health(ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN)).replace(
        b'"dataversion":1', b'"dataversion":9'
    )
    events = [written(health(ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY)), written(service()), later]
    (change,) = changes_in(events)
    assert (change.status, change.ok, change.check, change.is_change) == (ServiceStatus.UNHEALTHY, False, "told", True)


async def test_a_file_that_cannot_be_opened_now_is_left_alone(tmp_path: Path) -> None:
    """It is not damaged: the outcomes of this run are kept in memory, and those in the file stay."""
    path = tmp_path / "checks.db"
    async with history_in(tmp_path) as history:
        history.take(told(1))
        await history.write()
    with closing(sqlite3.connect(path)) as other, capture_logs() as logs:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        async with history_in(tmp_path) as history:
            history.take(told(2))
            assert await numbers(history) == [(2, 1)]
        assert [one["event"] for one in logs] == ["checks_kept_in_memory"]
    async with history_in(tmp_path) as history:
        assert await numbers(history) == [(1, 0)]
