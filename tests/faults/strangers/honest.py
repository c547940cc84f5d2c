"""
The honest client: submits small tasks at a steady rate, asks for its service, and measures both.

A submit lasts until its answer; a start until the handler runs. Its worker is a process of its own and writes when each
handler started. Its service has a health check, which must never fail.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from coordinator.commands.payloads import payload_of
from coordinator.commands.service import GetService, RegisterService
from coordinator.commands.task import SubmitTask
from coordinator.task_groups import task_group
from events.errors import CoordinationError
from events.service import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from coordinator.client.client import Client

PER_S = 50
CALL_TIMEOUT_S = 30.0
ASKS_EVERY = 10
"""One question after so many submits."""
SERVICE = "honest"
BEAT_S = 5.0
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Phase:
    """What the honest client met during one part of the run; times in seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.submits: list[float] = []
        self.starts: list[float] = []
        self.sent_at: dict[int, float] = {}
        self.failures: list[str] = []
        self.unhealthy: Counter[str] = Counter()


class Honest:
    """The honest client; `phase` is the part of the run that its calls belong to."""

    def __init__(self, client: Client, starts_file: Path) -> None:
        self.phase = Phase("warm_up")
        self._client = client
        self._file = starts_file
        self._number = 0

    async def go_on(self) -> None:
        """Submit and ask until cancelled."""
        began, made = time.monotonic(), 0
        async with task_group() as tasks:
            tasks.create_task(self._beat())
            while True:
                tasks.create_task(self._submit(self._number, self.phase))
                if self._number % ASKS_EVERY == 0:
                    tasks.create_task(self._ask(self.phase))
                self._number += 1
                made += 1
                await asyncio.sleep(max(0.0, began + made / PER_S - time.monotonic()))

    def note_starts(self, phases: list[Phase]) -> None:
        """Read when the handlers started; a task that never did is a failure."""
        started: dict[int, float] = {}
        for line in self._file.read_text().splitlines():
            which, at = line.split()
            started.setdefault(int(which), float(at))
        for phase in phases:
            for number, sent_at in phase.sent_at.items():
                if number in started:
                    phase.starts.append(started[number] - sent_at)
                else:
                    phase.failures.append("never started")

    async def register(self, port: int) -> None:
        """Register its service, whose health check is answered at *port*."""
        await self._client.execute(
            RegisterService(
                service_id=SERVICE,
                service_name=SERVICE,
                service_type="t",
                host="127.0.0.1",
                port=port,
                health_check_url=f"http://127.0.0.1:{port}/",
            )
        )

    async def _submit(self, number: int, phase: Phase) -> None:
        command = SubmitTask(task_id=f"honest{number}", task_name="note", payload=payload_of(number))
        began = time.monotonic()
        try:
            await self._client.execute(command, timeout_s=CALL_TIMEOUT_S)
        except CoordinationError as error:
            phase.failures.append(error.reason or error.code)
        else:
            phase.submits.append(time.monotonic() - began)
            phase.sent_at[number] = began

    async def _ask(self, phase: Phase) -> None:
        try:
            view = await self._client.execute(GetService(service_id=SERVICE), timeout_s=CALL_TIMEOUT_S)
        except CoordinationError as error:
            phase.failures.append(error.reason or error.code)
        else:
            if view.service.status in (ServiceStatus.UNHEALTHY, ServiceStatus.OFFLINE):
                phase.unhealthy[f"{view.service.health_rule}: {view.service.health_detail}"] += 1

    async def _beat(self) -> None:
        while True:
            self._client.beat_service(SERVICE)
            await asyncio.sleep(BEAT_S)


@asynccontextmanager
async def health_page() -> AsyncIterator[int]:
    """Answer health checks while the block runs; yield the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_PAGE)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            print("the health page lost a connection", file=sys.stderr)
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
