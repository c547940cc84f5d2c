"""
The users of the cluster: clients, workers, services, users of containers and pools, and domains with their inboxes.

Each runs as a separate process with the real client. Acknowledged answers go to `told`; nothing is checked here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.bus.connection import Bus
from coordinator.bus.jetstream import ApiError
from coordinator.client.client import Client
from coordinator.commands.command import Command
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    GetContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.service import RegisterService
from coordinator.commands.task import (
    CancelTask,
    ClaimTasks,
    CompleteTask,
    FailTask,
    GetTask,
    ProgressTask,
    ReleaseTask,
    SubmitTask,
)
from coordinator.commands.worker import LeaveWorker, RegisterWorker
from coordinator.doors.inbox import InboxLimits, inbox_stream
from events.container import ContainerStatus
from events.errors import NotFound, Refused, StaleLease, Unavailable
from events.resources import Resources
from events.subjects import Subjects
from tests.simulation.broker import LATE_S

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from projections.task import Task
    from tests.simulation.cluster import Sim

URL = "nats://sim:4222"
NAMESPACE = "sim"
PATIENCE_S = 600.0
MIB = 1024 * 1024
SLOTS = 3
POOL = Resources(cpu_millis=1000)


def connect(source: str) -> AbstractAsyncContextManager[Client]:
    """Open the real client, with time-outs longer than any fault."""
    return Client.open(URL, source=source, namespace=NAMESPACE, name=source)


class Actor:
    """One process of a user: `run` does its work, with its own client."""

    def __init__(self, sim: Sim, name: str) -> None:
        self.sim = sim
        self.name = name
        self.random = sim.random
        self.client: Client

    async def main(self) -> None:
        """Connect and run; called again after a kill."""
        async with connect(self.name) as self.client:
            self.client.attempt_timeout_s = 1.0
            await self.run()

    async def run(self) -> None:
        """Do the work of the actor; it may be killed and started again."""
        raise NotImplementedError

    async def ask(self, command: Command) -> Any:
        """Send a command and record the acknowledged answer."""
        answer = await self.client.execute(command, timeout_s=PATIENCE_S)
        self.sim.told.append((command, answer))
        return answer

    async def sleep(self, least: float, most: float) -> None:
        """Sleep for a random time."""
        await asyncio.sleep(self.random.uniform(least, most))


class Submitter(Actor):
    """Submits tasks, cancels some, and waits for the end of each; after a restart it submits the same tasks."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.sim.plan.tasks):
                tasks.create_task(self._one(f"{self.name}-{number}", number))

    async def _one(self, task_id: str, number: int) -> None:
        await self.sleep(0, self.sim.plan.faulty_s * 0.8)
        command = SubmitTask(
            task_id=task_id,
            task_name="work",
            priority=number % 3,
            timeout_s=1.5 if number % 5 == 0 else None,
            max_retries=1 if number % 7 == 0 else None,
            idempotency_key=f"key-{task_id}" if number % 4 == 0 else "",
        )
        await self.ask(command)
        if number % 9 == 4:
            try:
                await self.ask(CancelTask(task_id=task_id, reason="drawn"))
                self.sim.dice.fired["cancelled"] += 1
            except (Refused, NotFound):
                pass  # it has already ended
        while not (
            task := await self.client.execute(GetTask(task_id=task_id, wait_s=5.0), timeout_s=PATIENCE_S)
        ).is_ended:
            pass
        self.sim.seen_ended[task_id] = task.status


class Worker(Actor):
    """Claims tasks, executes them one after the other, sometimes slowly, and sends heartbeats."""

    def __init__(self, sim: Sim, name: str) -> None:
        super().__init__(sim, name)
        self._leases: list[str] = []

    async def run(self) -> None:
        self._leases = []
        await self.ask(RegisterWorker(worker_id=self.name, slots=SLOTS))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            while True:
                await self._round()

    async def _beat(self) -> None:
        while True:
            self.client.beat_worker(self.name, tuple(self._leases), 0.5)
            await self.sleep(0.5, 1.0)

    async def _round(self) -> None:
        claim = ClaimTasks(
            claim_id=self.sim.new_id("claim"),
            worker_id=self.name,
            slots=self.random.randint(1, SLOTS),
            wait_s=2.0,
            strategy=self.random.choice(("fifo", "priority", "round_robin", "least_loaded")),
        )
        try:
            tasks: list[Task] = await self.ask(claim)
        except Refused:
            await self.sleep(0.1, 0.5)
            return
        self._leases = [task.lease for task in tasks]
        for task in tasks:
            await self._execute(task)
            self._leases.remove(task.lease)
        if self.random.random() < 0.02:
            await self.ask(LeaveWorker(worker_id=self.name))

    async def _execute(self, task: Task) -> None:
        await self.sleep(0.0, 0.8)
        try:
            drawn = self.random.random()
            if drawn < 0.1:
                await self.ask(ProgressTask(task_id=task.task_id, lease=task.lease, progress=0.5))
            if drawn > 0.95:
                await self.ask(ReleaseTask(task_id=task.task_id, lease=task.lease))
            elif drawn > 0.8:
                await self.ask(FailTask(task_id=task.task_id, error="drawn", lease=task.lease, worker_id=self.name))
            else:
                await self.ask(CompleteTask(task_id=task.task_id, lease=task.lease, worker_id=self.name))
        except StaleLease:
            self.sim.dice.fired["stale_refused"] += 1
        except (Refused, NotFound):
            pass  # cancelled or timed out


class Service(Actor):
    """Registers, sends heartbeats, and is sometimes silent for too long."""

    async def run(self) -> None:
        command = RegisterService(
            service_id=self.name, service_name="s", service_type="agent", host="localhost", port=1
        )
        await self.ask(command)
        while True:
            self.client.beat_service(self.name)
            await self.sleep(0.5, 1.5)
            if self.random.random() < 0.01:
                await self.sleep(5, 15)


class ContainerUser(Actor):
    """Takes containers through their life cycle; after a kill it continues with the container as it is."""

    async def run(self) -> None:
        for number in range(2):
            container_id = f"{self.name}-{number}"
            await self.sleep(0.0, 4.0)
            create = CreateContainer(
                container_id=container_id,
                agent_id="a",
                agent_type="task_agent",
                resources=Resources(cpu_millis=100, memory_bytes=(1 + number % 2) * MIB),
            )
            if not await self._until_room(create) or await self._status(container_id) is ContainerStatus.DESTROYED:
                continue  # possibly by this process before it was killed
            for _ in range(2):
                await self._start_and_stop(container_id)
            await self._until_done(DestroyContainer(container_id=container_id))
            await self._until(container_id, ContainerStatus.DESTROYED)

    async def _start_and_stop(self, container_id: str) -> None:
        if not await self._until_room(StartContainer(container_id=container_id)):
            return
        await self._until(container_id, ContainerStatus.RUNNING, least=False)
        await self.sleep(0.0, 4.0)
        if self.random.random() < 0.3:
            await self._until_done(PauseContainer(container_id=container_id))
            await self.sleep(0.0, 3.0)
            await self._until_done(ResumeContainer(container_id=container_id))
        await self._until_done(StopContainer(container_id=container_id, force=self.random.random() < 0.3))
        await self._until(container_id, ContainerStatus.STOPPED, ContainerStatus.ERROR)

    async def _until_room(self, command: Command) -> bool:
        for _ in range(20):
            try:
                await self.ask(command)
            except Refused as error:
                if error.reason not in ("no_room", "not_startable"):
                    return False
                await self.sleep(0.5, 2.0)
            else:
                return True
        return False

    async def _until_done(self, command: Command) -> None:
        with suppress(Refused, NotFound):
            await self.ask(command)

    async def _status(self, container_id: str) -> ContainerStatus:
        question = GetContainer(container_id=container_id)
        status: ContainerStatus = (await self.client.execute(question, timeout_s=PATIENCE_S)).status
        return status

    async def _until(self, container_id: str, *statuses: ContainerStatus, least: bool = True) -> None:
        """Wait until the container has one of *statuses*; unless *least*, only for a while."""
        for turn in range(10_000):
            status = await self._status(container_id)
            if status in statuses or status is ContainerStatus.DESTROYED or (not least and turn > 10):
                return
            await asyncio.sleep(0.5)


class PoolUser(Actor):
    """Allocates shares of a pool that is too small for all users, and releases them."""

    async def run(self) -> None:
        await self.ask(DefinePool(pool_id="pool", capacity=POOL))
        for _ in range(3):
            await self.sleep(0.0, 5.0)
            request_id = self.sim.new_id("request")
            asked = AllocatePool(pool_id="pool", request_id=request_id, resources=Resources(cpu_millis=400))
            if await self.ask(asked):
                # Longer than a message can be late: a request of that id that arrives after the release is a new one.
                await self.sleep(LATE_S, LATE_S + 3.0)
                await self.ask(ReleasePool(pool_id="pool", request_id=request_id))


class Domain(Actor):
    """Another domain: publishes commands, events and garbage into its inbox, each until acknowledged."""

    async def main(self) -> None:
        async with Bus.open(URL, name=self.name) as bus:
            subjects = Subjects(NAMESPACE)
            config = inbox_stream(subjects, self.name, InboxLimits())
            await self._until_answered(bus.js_request, f"STREAM.CREATE.{config['name']}", config)
            for number in range(12):
                await self.sleep(0.0, self.sim.plan.faulty_s / 10)
                kind, body = self._message(number)
                headers = {"Nats-Msg-Id": f"{self.name}-{number}"}
                await self._until_answered(bus.js_publish, subjects.inbox(self.name, kind), body, headers)
                self.sim.published[self.name].add(number)

    async def _until_answered(self, call: Any, *arguments: Any) -> None:
        while True:
            try:
                await call(*arguments, timeout_s=1.0)
            except (Unavailable, ApiError):
                await self.sleep(0.1, 0.5)
            else:
                return

    def _message(self, number: int) -> tuple[str, bytes]:
        if number % 6 == 5:
            return "task.submitted", b"nonsense"
        if number % 2:
            events = [
                self._event(f"{number}.{index}", "weather.noted", {"n": number}) for index in range(1 + number % 3)
            ]
            return "weather.noted", msgspec.json.encode(events)
        task_id = f"{self.name}-task-{number}"
        return "task.submitted", msgspec.json.encode(
            self._event(str(number), "task.submitted", {"task_id": task_id, "task_name": "work"})
        )

    def _event(self, name: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        return {"specversion": "1.0", "id": name, "source": f"/{self.name}", "type": kind, "data": data}
