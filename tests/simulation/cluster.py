"""
The whole system in one loop under one seed: a server, coordinators, followers, node agents, and their users.

From the bus upwards all code is real; the server, the clocks, the machines and the disks are simulated. A killed
process is started again after a while with the same name. Faults stop at a given time, or continue to the end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NoReturn
from unittest import mock

from coordinator.bus import connection as bus
from coordinator.clock import SystemClock
from coordinator.deciders.rules import AgentType, Limits, Rules
from coordinator.doors.inbox import InboxLimits
from coordinator.ids import TimeOrderedIds
from coordinator.journal.high_water import HighWater
from coordinator.journal.stream import NatsJournal
from coordinator.leadership import reign
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.node.node_agent import NodeAgent
from events.errors import Unavailable
from events.resources import Resources
from events.subjects import Subjects
from projections.projector import Projector
from projections.store.memory import MemoryStore
from projections.store.port import STORE_BUSY
from tests.simulation import actors
from tests.simulation.actors import MIB, NAMESPACE, URL, Actor, connect
from tests.simulation.broker import BROKER, Broker, Connection
from tests.simulation.chaos import Chaos
from tests.simulation.faults import Dice, Plan
from tests.simulation.loop import MOST_WRONG_S, PROCESS, Process, SeededLoop
from tests.simulation.promises import Promise, Violation
from tests.simulation.watch import Machine, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from coordinator.commands.command import Command
    from coordinator.engine.engine import Engine
    from projections.store.port import Batch

LOOK_S = 3.0
BOUND_S = 150.0
"""Everything must have ended this long after the last fault."""
MEMORY_BYTES = 3 * MIB
RULES = Rules(
    agents={"task_agent": AgentType(command=("agent",), stop_grace_s=2.0)},
    lease_s=3.0,
    worker_timeout_s=8.0,
    heartbeat_timeout_s=5.0,
    node_lease_s=4.0,
    retry_backoff_s=0.2,
    max_retries=50,
    restart_backoff_s=0.5,
    restart_backoff_max_s=4.0,
    container_start_timeout_s=10.0,
)
LIMITS = Limits(turn_commands=7, turn_bytes=12_000, tick_s=0.5, retention_s=1e6)


class Store(MemoryStore):
    """A follower's store that is sometimes busy."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self._dice = dice

    async def write(self, batch: Batch) -> None:
        if self._dice.strikes("store_busy"):
            raise Unavailable("the disk is full", reason=STORE_BUSY)
        await super().write(batch)


class Mark(HighWater):
    """The high-water mark of one instance, kept across restarts of its process; its disk has no faults."""

    async def keep_synced(self) -> NoReturn:
        await asyncio.get_running_loop().create_future()
        raise AssertionError


class Sim:
    """One run; `check` checks what was recorded of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.dice = Dice(self.random, plan)
        self.watch = Watch(NAMESPACE)
        self.broker = Broker(self.dice, replicated=plan.replicated)
        self.broker.journal = Subjects(NAMESPACE).stream_journal
        self.broker.sent, self.broker.arrived = self.watch.sent, self.watch.arrived
        self.broker.stored = self.watch.stored
        self.told: list[tuple[Command, Any]] = []
        self.seen_ended: dict[str, Any] = {}
        self.worlds: dict[tuple[int, bytes], dict[str, str]] = defaultdict(dict)
        """Digests of the worlds of leaders and standbys, by position, with the journal up to there."""
        self.marks: dict[str, HighWater] = defaultdict(Mark)
        self.published: dict[str, set[int]] = defaultdict(set)
        self.store = Store(self.dice)
        self.machines: list[Machine] = []
        self.coordinators: dict[str, Coordinator] = {}
        self.processes: dict[str, Process] = {}
        self._ids = count(1)
        self._over = False

    def new_id(self, prefix: str) -> str:
        """Return a new id with a counter."""
        return f"{prefix}_{next(self._ids)}"

    async def run(self) -> None:
        """
        Run to the end.

        Raises:
            Violation: a promise was broken during the run, or something did not end in time.
        """
        plan = self.plan
        BROKER.set(self.broker)
        with self._environment():
            async with AsyncExitStack() as stack:
                for _ in range(plan.nodes):
                    machine = Machine(self.watch, self.machines, MEMORY_BYTES)
                    self.machines.append(await stack.enter_async_context(machine))
                servants, users = self._start()
                chaos = Chaos(self)
                striking = [asyncio.create_task(chaos.strike(kind)) for kind in self.dice.kinds_by_themselves()]
                everyone = [*servants, *users, *striking]
                try:
                    await self._watch_over(everyone, lambda: _now() >= plan.faulty_s)
                    if plan.is_lively:
                        await _stop(striking)
                        chaos.heal()
                        await self._watch_over(everyone, lambda: all(one.done() for one in users) and self._is_quiet())
                finally:
                    self._over = True
                    chaos.heal()
                    await _stop(everyone)

    async def _watch_over(self, everyone: list[asyncio.Task[None]], is_over: Callable[[], bool]) -> None:
        """Wait until *is_over*, or until a promise is broken."""
        give_up_at = self.plan.faulty_s + BOUND_S
        looked_at = 0.0
        while not is_over():
            await asyncio.sleep(0.5)
            if _now() >= looked_at + LOOK_S:
                looked_at = _now()
                self._look()
            if self.watch.broken is not None:
                raise self.watch.broken
            for one in everyone:
                if one.done() and not one.cancelled() and (error := one.exception()) is not None:
                    raise error
            if _now() > give_up_at:
                raise Violation(
                    Promise.IN_TIME, f"not all has ended {BOUND_S} s after the last fault: {self._unfinished()}"
                )

    def _look(self) -> None:
        """Record the world of every coordinator."""
        for name, one in self.coordinators.items():
            if self.processes[name].alive:
                role, world = ("standby", one._world) if one.engine is None else ("leader", one.engine.world)
                self.worlds[world.position.sequence, world.chain][role] = world.digest()

    def leader(self) -> Engine | None:
        """Return the engine of the coordinator that considers itself leader, the newest reign if several do."""
        leading = [one.engine for name, one in self.coordinators.items() if self.processes[name].alive]
        return max((one for one in leading if one is not None), key=lambda one: one.epoch, default=None)

    def _is_quiet(self) -> bool:
        """Return True if all started work has ended and the followers are up to date."""
        engine = self.leader()
        if engine is None or engine.committed != engine.world.position:
            return False
        world = engine.world
        read = {domain: one.sequence for domain, one in world.inboxes.items()}
        inboxes = {name: one for name, one in self.broker.streams.items() if "_INBOX_" in name}
        return (
            all(task.is_ended for task in world.tasks.values())
            and all(one.last == read.get(name.rpartition("_")[2].lower()) for name, one in inboxes.items())
            and self.store.position().position == world.position
        )

    def _unfinished(self) -> str:
        engine = self.leader()
        tasks = [one for one in engine.world.tasks.values() if not one.is_ended] if engine is not None else []
        users = [name for name, process in self.processes.items() if process.alive and "er" in name]
        where = engine.world.position if engine is not None else None
        return (
            f"leader {engine and engine.epoch} at {where}, store {self.store.position().position}, {tasks=}, {users=}"
        )

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self) -> tuple[list[asyncio.Task[None]], list[asyncio.Task[None]]]:
        plan = self.plan
        servants: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {"follower": self._follow}
        for number in range(plan.coordinators):
            servants[f"coordinator{number}"] = self._coordinate
        for number in range(plan.nodes):
            servants[f"node{number}"] = self._serve_node
        for number in range(plan.workers):
            servants[f"worker{number}"] = self._act(actors.Worker)
        servants["service0"] = self._act(actors.Service)
        users: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {}
        for number in range(plan.clients):
            users[f"client{number}"] = self._act(actors.Submitter)
            users[f"pooluser{number}"] = self._act(actors.PoolUser)
        for number in range(plan.containers):
            users[f"containeruser{number}"] = self._act(actors.ContainerUser)
        for number in range(plan.domains):
            users[f"domain{number}"] = self._act(actors.Domain)
        return (
            [asyncio.create_task(self._live(name, body)) for name, body in servants.items()],
            [asyncio.create_task(self._live(name, body)) for name, body in users.items()],
        )

    async def _live(self, name: str, body: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Run a process, and again after each kill, until its work is done."""
        while not self._over:
            process: Process = Process(
                name, offset_s=self.random.uniform(-MOST_WRONG_S, MOST_WRONG_S), pace=self.random.uniform(0.99, 1.01)
            )
            self.processes[name] = process
            main = asyncio.get_running_loop().create_task(body(process), context=process.context)
            process.main = main
            try:
                await asyncio.wait([main])
            finally:
                was_killed = not process.alive
                self.kill(process)
                await asyncio.wait([main])
            if not was_killed and not main.cancelled():
                error = main.exception()
                if error is None:
                    return
                if not isinstance(error, Unavailable):
                    raise error
            await asyncio.sleep(self.random.uniform(0.2, 3.0))

    def kill(self, process: Process) -> None:
        """End a process like kill -9: nothing it does while ending has an effect."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        process.alive = False
        loop.wake_process(process)
        for connection in [one for one in self.broker.connections if one.process is process]:
            connection.abort()
        if process.main is not None:
            process.main.cancel()

    async def _coordinate(self, process: Process) -> None:
        plan = self.plan
        instance = Instance(
            url=URL,
            name=process.name,
            version="sim",
            namespace=NAMESPACE,
            replicas=3 if plan.replicated else 1,
            rules=RULES,
            limits=LIMITS,
            inbox=InboxLimits(discover_s=2.0),
            lease_ttl_s=6,
            lease_renew_s=1.5,
            lease_fresh_s=3.0,
        )
        coordinator = self.coordinators[process.name] = Coordinator(instance, clock=process)
        await coordinator.run()
        raise Unavailable("stopped on request; it is started again")

    async def _follow(self, process: Process) -> None:
        async with bus.Bus.open(URL, name=process.name) as connection:
            journal = NatsJournal(connection, Subjects(NAMESPACE))
            while True:
                with suppress(Unavailable):
                    await Projector(journal, self.store).run()
                await asyncio.sleep(0.5)

    async def _serve_node(self, process: Process) -> None:
        machine = self.machines[int(process.name[-1])]
        async with connect(process.name) as client:
            client.attempt_timeout_s = 1.0
            async with NodeAgent.open(
                client,
                machine,
                node_id=process.name,
                capacity=Resources(cpu_millis=4000, memory_bytes=MEMORY_BYTES),
                reach={"COORDINATOR_URL": URL},
                secrets=Path("secrets"),
                clock=process,
            ):
                await asyncio.get_running_loop().create_future()

    def _act(self, kind: type[Actor]) -> Callable[[Process], Coroutine[Any, Any, None]]:
        return lambda process: kind(self, process.name).main()

    def _mark(self, _: Path | None) -> AbstractContextManager[HighWater]:
        process = PROCESS.get()
        assert process is not None
        return nullcontext(self.marks[process.name])

    # --- what is simulated --------------------------------------------------------------------------------------------

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Replace the real server, ids and clocks by the simulated ones."""

        def clock(_: object) -> Process:
            process = PROCESS.get()
            assert process is not None
            return process

        with (
            mock.patch.object(bus, "NatsClient", Connection),
            mock.patch.object(HighWater, "open", self._mark),
            mock.patch.object(TimeOrderedIds, "new", lambda _, prefix: self.new_id(prefix)),
            mock.patch.object(SystemClock, "wall", lambda own: clock(own).wall()),
            mock.patch.object(SystemClock, "heard", lambda own: clock(own).heard()),
            mock.patch.object(
                reign, "gc", mock.Mock()
            ),  # the garbage collector belongs to this process, not to a coordinator
        ):
            yield


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()
