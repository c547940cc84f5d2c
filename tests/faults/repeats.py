"""
Repeats: every command about a task is sent again, also long after thousands of other tasks have ended.

Each task is submitted, completed, failed or cancelled, and each of its commands is repeated later at a random moment,
with the same id, while the coordinator keeps few ended tasks and is killed now and then. Every repeat must get the
first answer, and no task may start or end a second time.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.bus.connection import Bus
from coordinator.client.client import Client
from coordinator.commands.cluster import GetStats
from coordinator.commands.task import CancelTask, CompleteTask, FailTask, SubmitTask
from coordinator.commands.wire import WIRE_COMMANDS, encode_command, request_of
from coordinator.ids import TimeOrderedIds
from coordinator.journal.stream import NatsJournal
from coordinator.task_groups import task_group
from events import codec
from events.errors import Unavailable
from events.subjects import Subjects
from tests.faults.instances import PATIENCE_S, instances, led_by
from tests.real_server import real_server

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from tests.faults.instances import Instance

ENDED_KEPT = 100
ANSWER_S = 2.0
PAUSE_S = 0.2
ENDS = ("task.completed", "task.failed", "task.cancelled", "task.timed_out")

_SUBJECTS = Subjects()
_ids = TimeOrderedIds()


async def run(tasks: int = 20_000, *, kills: int = 3, seed: int = 1) -> dict[str, Any]:
    """Run *tasks* tasks and repeat each command of theirs; the coordinator is killed *kills* times meanwhile."""
    environment = {"COORDINATOR_ENGINE__ENDED_KEPT": str(ENDED_KEPT)}
    with tempfile.TemporaryDirectory(prefix="coordinator-repeats-") as folder:
        (nats := Path(folder) / "nats").mkdir()
        async with (
            real_server(nats) as server,
            instances(Path(folder), server.url, 1, environment=environment) as (coordinator,),
            Client.open(server.url, source="faults") as client,
            Bus.open(server.url, name="faults") as bus,
        ):
            await coordinator.start()
            await led_by(client, coordinator)
            sender = _Sender(bus, random.Random(seed))  # a game, not a secret
            async with task_group() as group:
                killing = group.create_task(_kill_now_and_then(coordinator, sender, tasks, kills))
                await asyncio.gather(*(sender.run(tasks // 20) for _ in range(20)))
                await killing
            await sender.repeat_all()
            totals = (await client.execute(GetStats())).totals
            events = await _count(NatsJournal(bus, _SUBJECTS))
    return {
        "tasks": sender.tasks,
        "kills": kills,
        "repeats": sender.repeats,
        "other_answers": sender.others,
        "submitted": events["task.submitted"],
        "ended": sum(events[one] for one in ENDS),
        "ended_twice": events["twice"],
        "totals": {name: totals.get(f"tasks_{name}", 0) for name in ("completed", "failed", "cancelled")},
    }


def is_kept(result: dict[str, Any]) -> bool:
    """Return True if every repeat got the first answer and every task was submitted once and ended once."""
    return (
        result["tasks"] == result["submitted"] == result["ended"] == sum(result["totals"].values())
        and result["repeats"] >= 2 * result["tasks"]
        and not result["other_answers"]
        and result["ended_twice"] == 0
    )


class _Sender:
    """Sends commands and repeats those that were answered before."""

    def __init__(self, bus: Bus, rng: random.Random) -> None:
        self.tasks = 0
        self.repeats = 0
        self.others: list[str] = []
        self._bus = bus
        self._random = rng
        self._answered: list[tuple[Command, str, Any]] = []

    async def run(self, count: int) -> None:
        """Play *count* tasks one after the other, and repeat about as many commands."""
        for _ in range(count):
            await self._play()
            for _ in range(2):
                await self._repeat(self._random.choice(self._answered))

    async def repeat_all(self) -> None:
        """Repeat each command once more: the oldest are of tasks that were evicted long ago."""
        for at in range(0, len(self._answered), 500):
            await asyncio.gather(*(self._repeat(one) for one in self._answered[at : at + 500]))

    async def _play(self) -> None:
        task_id = _ids.new("task")
        self.tasks += 1
        await self._send(SubmitTask(task_id=task_id, task_name="n", max_retries=0))
        end: Command = self._random.choice(
            (
                CompleteTask(task_id=task_id, worker_id="w"),
                FailTask(task_id=task_id, error="e", worker_id="w"),
                CancelTask(task_id=task_id),
            )
        )
        await self._send(end)

    async def _send(self, command: Command) -> None:
        command_id = _ids.new("cmd")
        self._answered.append((command, command_id, await self._outcome(command, command_id)))

    async def _repeat(self, before: tuple[Command, str, Any]) -> None:
        command, command_id, first = before
        outcome = await self._outcome(command, command_id)
        self.repeats += 1
        if outcome != first:
            self.others.append(f"{command}: {first} and then {outcome}")

    async def _outcome(self, command: Command, command_id: str) -> Any:
        """Send one command, as it is, until it is answered, and return the value or the error's code and reason."""
        subject = _SUBJECTS.rpc("faults", command.KIND, command.VERB)
        request = request_of([encode_command(WIRE_COMMANDS[type(command)](data=command, id=command_id))])
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with suppress(Unavailable):
                    (answer,) = json.loads(await self._bus.request(subject, request, timeout_s=ANSWER_S))
                    error = answer.get("error")
                    if error is None:
                        return answer["ok"]
                    if error["code"] != "unavailable":
                        return f"{error['code']} {error.get('reason')}"
                await asyncio.sleep(PAUSE_S)


async def _kill_now_and_then(coordinator: Instance, sender: _Sender, tasks: int, kills: int) -> None:
    for number in range(kills):
        while sender.tasks < tasks * (number + 1) / (kills + 1):  # noqa: ASYNC110  # a count
            await asyncio.sleep(0.02)
        await coordinator.kill()
        await coordinator.start()


async def _count(journal: NatsJournal) -> Counter[str]:
    """Count the events of the journal by type, and the tasks that ended more than once."""
    found, ended = Counter[str](), Counter[str]()
    async for records in journal.read(0, (await journal.bounds()).last):
        for record in records:
            for one in codec.decode(record.body) if record.kind == "commit" else ():
                found[one.type] += 1
                if one.type in ENDS:
                    ended[one.subject] += 1
    found["twice"] = sum(count > 1 for count in ended.values())
    return found
