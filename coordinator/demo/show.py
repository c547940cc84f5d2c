"""The live output of the demo."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

import click

from coordinator.commands.payloads import value_of
from coordinator.journal.stream import NatsJournal
from coordinator.terminal import clean, is_fancy
from events import codec
from events.base import START, Position
from events.task import TaskCompleted, TaskFailed, TaskStarted, TaskSubmitted

if TYPE_CHECKING:
    from events.base import Envelope
    from events.task import TaskEvent


class Show:
    """Show the events of the journal as they are committed: a progress bar on a terminal, else lines."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.began = 0.0
        self.took_s = 0.0
        self.failed = 0
        self.types: Counter[str] = Counter()
        self.commits = 0
        self.bytes = 0
        self.results: list[dict[str, Any]] = []
        self.all_ended = asyncio.Event()
        self.to_start_s: list[float] = []
        self.to_end_s: list[float] = []
        self.position = START
        self._submitted: dict[str, float] = {}
        self._bar: Any = _bar(total) if is_fancy() else None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def ended(self) -> int:
        """Return the number of ended tasks."""
        return len(self.to_end_s)

    async def follow(self, journal: NatsJournal) -> None:
        """Show every event, from the first one on."""
        async for records in journal.follow(0):
            for record in records:
                if record.kind != "commit":
                    continue
                self.commits += 1
                self.bytes += len(record.body)
                for index, envelope in enumerate(codec.decode(record.body)):
                    self.position = Position(record.sequence, index)
                    self._see(envelope)

    def _see(self, envelope: Envelope) -> None:
        kind = envelope.type
        self.types[kind] += 1
        if kind.startswith("task."):
            self._see_task(envelope.data, codec.seconds_of(envelope.time))  # type: ignore[arg-type]  # by its type
        elif kind != "coordinator.turn":
            self._line(envelope)
        if kind.startswith("task.") and self._bar is None and self.types[kind] % 150 == 1:
            self._line(envelope)

    def _see_task(self, event: TaskEvent, at: float) -> None:
        match event:
            case TaskSubmitted():
                self._submitted[event.task_id] = at
            case TaskStarted():
                self.to_start_s.append(at - self._submitted[event.task_id])
            case TaskCompleted() | TaskFailed():
                self.to_end_s.append(at - self._submitted[event.task_id])
                if isinstance(event, TaskCompleted):
                    self.results.append(value_of(event.result))
                else:
                    self.failed += 1
                if self._bar is not None:
                    self._bar.advance(self._bar.task_ids[0])
                if self.ended == self.total:
                    self.all_ended.set()
            case _:
                pass

    def _line(self, envelope: Envelope) -> None:
        line = f"{envelope.time[11:23]}  {envelope.id:>9}  {envelope.type:<22} {clean(envelope.subject)}"
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        else:
            click.echo(line)


def _bar(total: int) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True)
    bar.add_task("tasks", total=total)
    return bar


def say(text: str) -> None:
    """Print a progress message of the demo."""
    click.echo(f"demo: {clean(text)}")
