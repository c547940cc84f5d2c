"""
The whole system in one loop under one seed: a server, coordinators, followers, node agents, and their users.

From the bus upwards all code is real; the server, the clocks, the machines and the disks are simulated. A killed
process is started again after a while with the same name. Faults stop at a given time, or continue to the end.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from coordinator.bus import connection as bus
from coordinator.bus.jetstream import key_stream, key_subject
from coordinator.clock import SystemClock
from coordinator.commands import wire
from coordinator.commands.node import NodeOrders, SyncNode
from coordinator.commands.task import GetTask
from coordinator.deciders import shadow
from coordinator.deciders.due import due as find_due
from coordinator.deciders.rules import Limits, Rules
from coordinator.doors.inbox import InboxLimits
from coordinator.engine import budget
from coordinator.engine.engine import Engine
from coordinator.follower.feed import Feed, FeedLimits
from coordinator.follower.shadows import Shadows, run_shadow_reports
from coordinator.follower.snapshotter import SnapshotLimits, Snapshotter
from coordinator.health.check_worker import HealthChecks
from coordinator.health.outcome import CheckResult
from coordinator.ids import TimeOrderedIds
from coordinator.journal import high_water
from coordinator.journal.snapshots import Snapshots
from coordinator.journal.stream import NatsJournal
from coordinator.leadership import reign
from coordinator.leadership.coordinator import Coordinator
from coordinator.leadership.instance import Instance
from coordinator.node.node_agent import NodeAgent
from coordinator.security.authorization import AccessRules, Quota, Rule
from coordinator.security.permissions import commands_of
from coordinator.task_groups import task_group
from events.agents import AgentType
from events.coordinator import CoordinatorPlacementRefused
from events.errors import Unavailable
from events.resources import Resources
from events.subjects import Subjects
from projections import memory, world
from projections.projector import Projector
from projections.store.memory import MemoryStore
from projections.store.port import STORE_BUSY
from projections.world import World
from tests.simulation import actors
from tests.simulation.actors import MIB, NAMESPACE, URL, Actor, connect
from tests.simulation.broker import BROKER, Broker, Connection
from tests.simulation.chaos import Chaos
from tests.simulation.disk import Disk
from tests.simulation.drainer import Drainer
from tests.simulation.faults import Dice, Plan
from tests.simulation.ganger import Ganger
from tests.simulation.holder import Holder
from tests.simulation.kept_shadows import TURNS_LEAST
from tests.simulation.lister import ITEMS_AT_ONCE, NEXT_TO_NO_TIME_S, Lister
from tests.simulation.loop import PROCESS, Process, SeededLoop
from tests.simulation.operator import Cataloguer, Limiter, Operator, Promoter, Releaser
from tests.simulation.promises import Promise, Violation
from tests.simulation.sharer import Sharer
from tests.simulation.task_rules import rules_of
from tests.simulation.treasurer import Treasurer
from tests.simulation.watch import Machine, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from coordinator.client.client import Client
    from coordinator.commands.command import Command
    from coordinator.commands.shadow import ReportShadow
    from coordinator.deciders.deadlines import Deadlines
    from coordinator.deciders.rules import DecisionContext
    from coordinator.deciders.signs import Signs
    from coordinator.engine.turn import Turn
    from events.base import Event
    from projections.store.port import Batch

LOOK_S = 3.0
BOUND_S = 150.0
"""Everything must have ended this long after the last fault."""
FORGETTING_BOUND_S = 300.0
"""The same if tasks wait until what is remembered makes room for them."""
MEMORY_BYTES = 3 * MIB
LEASE_FRESH_S = 3.0
SERVICES = 3
"""How many services there are in plans with a mass silence; one otherwise."""
MOST_PENDING = 6
MOST_SHARES = 1
QUOTA = Quota(max_pending_tasks=MOST_PENDING, submits_per_s=3.0, submit_burst=5)
ACCESS = AccessRules(
    sources={
        "worker0": Rule(may=commands_of("worker"), own=("worker_id", "worker0"), needs_lease=True),
        "client0": Rule(quota=QUOTA),
        "pooluser0": Rule(quota=Quota(max_allocations=MOST_SHARES)),
        "stranger0": Rule(may=frozenset({GetTask})),
    }
)
RULES = Rules(
    lease_s=3.0,
    worker_timeout_s=8.0,
    heartbeat_timeout_s=5.0,
    node_lease_s=4.0,
    retry_backoff_s=0.2,
    max_retries=50,
    restart_backoff_s=0.5,
    restart_backoff_max_s=4.0,
    container_start_timeout_s=10.0,
    cancel_grace_s=2.0,
)
LIMITS = Limits(turn_commands=7, turn_bytes=12_000, tick_s=0.5)
SNAPSHOTS = SnapshotLimits(every_events=60, pause_s=3.0, kept=2)
CHECK_INTERVAL_S = 2.0
SLICES, SLICE_ENTRIES = 6, 4
"""How what is remembered is divided in plans that forget: into so many slices, or into slices of so many entries."""
FEED = FeedLimits(max_age_s=1e6)


class Store(MemoryStore):
    """A follower's store that is sometimes busy."""

    def __init__(self, dice: Dice) -> None:
        super().__init__()
        self._dice = dice

    async def write(self, batch: Batch) -> None:
        if self._dice.strikes("store_busy"):
            raise Unavailable("the disk is full", reason=STORE_BUSY)
        await super().write(batch)


class Sim:
    """One run; `check` checks what was recorded of it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.dice = Dice(self.random, plan)
        subjects = Subjects(NAMESPACE)
        self.watch = Watch(
            NAMESPACE,
            hard_s=plan.hard_s,
            lease=key_subject(subjects.bucket_lease, "writer"),
            fresh_s=LEASE_FRESH_S,
            fired=self.dice.fired,
        )
        self.broker = Broker(self.dice, replicated=plan.replicated)
        self.broker.journal, self.broker.lease = subjects.stream_journal, key_stream(subjects.bucket_lease)
        self.broker.announced = subjects.leader
        self.broker.sent, self.broker.arrived = self.watch.sent, self.watch.arrived
        self.broker.stored, self.broker.granted = self.watch.stored, self.watch.granted
        self.told: list[tuple[Command, Any]] = []
        self.seen_ended: dict[str, Any] = {}
        self.worlds: dict[tuple[int, bytes], dict[str, str]] = defaultdict(dict)
        """Digests of the worlds of leaders and standbys, by position, with the journal up to there."""
        self.disk = Disk()
        self.published: dict[str, set[int]] = defaultdict(set)
        self.store = Store(self.dice)
        self.feed: Feed | None = None
        self.machines: list[Machine] = []
        self.coordinators: dict[str, Coordinator] = {}
        self.processes: dict[str, Process] = {}
        self._ids = count(1)
        self.slept_s = 0.0
        """How long everything stood still, by the clock of the loop."""
        self.has_stopped = False
        """Whether hours have passed, by any clock."""
        self.are_scheduled = asyncio.Event()
        """Set when the schedules are defined: hours may pass."""
        self._over = False
        agent = AgentType(command=("agent",), stop_grace_s=plan.stop_grace_s)
        self.rules = msgspec.structs.replace(RULES, agents={"task_agent": agent}, remembered_max=plan.remembered_max)
        if plan.has_mass_silence:
            self.rules = msgspec.structs.replace(self.rules, mass_silence_least=2, mass_silence_share=0.5)
        self._limits = msgspec.structs.replace(LIMITS, retention_s=plan.retention_s, ended_kept=plan.ended_kept)

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
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.watch.crashed(context))
        with self._environment():
            async with AsyncExitStack() as stack:
                for _ in range(plan.nodes):
                    machine = Machine(self.watch, self.machines, MEMORY_BYTES, self.dice)
                    self.machines.append(await stack.enter_async_context(machine))
                servants, users = self._start()
                chaos = Chaos(self)
                striking = [asyncio.create_task(chaos.strike(kind)) for kind in self.dice.kinds_by_themselves()]
                everyone = [*servants, *users, *striking]
                try:
                    await self._watch_over(everyone, lambda: self._awake() >= plan.faulty_s and self._has_enough())
                    if plan.is_lively:
                        await _stop(striking)
                        chaos.heal()
                        await self._watch_over(everyone, lambda: all(one.done() for one in users) and self._is_quiet())
                finally:
                    self._over = True
                    chaos.heal()
                    await _stop(everyone)

    def _awake(self) -> float:
        """Return for how long something could run."""
        return _now() - self.slept_s

    def _has_enough(self) -> bool:
        """Return whether there were as many steps and faults as there must be, and hours have passed if they must."""
        plan, loop = self.plan, asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        if plan.has_hours and not self.has_stopped:
            return False
        return loop.steps >= plan.least_steps and self.dice.fired.total() >= plan.least_faults

    async def _watch_over(self, everyone: list[asyncio.Task[None]], is_over: Callable[[], bool]) -> None:
        """Wait until *is_over*, or until a promise is broken."""
        bound_s = FORGETTING_BOUND_S if self.plan.forgets else BOUND_S
        give_up_at = max(self.plan.faulty_s, self._awake()) + bound_s
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
            if self._awake() > give_up_at:
                raise Violation(
                    Promise.IN_TIME, f"not all has ended {bound_s} s after the last fault: {self._unfinished()}"
                )

    def _look(self) -> None:
        """Record the world of every coordinator."""
        for name, one in self.coordinators.items():
            if self.processes[name].alive:
                role, seen = ("standby", one._world) if one.engine is None else ("leader", one.engine.world)
                self.worlds[seen.position.sequence, seen.chain][role] = seen.digest()

    def leading(self) -> str:
        """Return the name of the instance that considers itself leader, '' if none does."""
        engine = self.leader()
        return next((name for name, one in self.coordinators.items() if engine and one.engine is engine), "")

    def leader(self) -> Engine | None:
        """Return the engine of the coordinator that considers itself leader, the newest reign if several do."""
        leading = [one.engine for name, one in self.coordinators.items() if self.processes[name].alive]
        return max((one for one in leading if one is not None), key=lambda one: one.epoch, default=None)

    def _is_quiet(self) -> bool:
        """Return True if all started work has ended and the followers are up to date."""
        engine = self.leader()
        if engine is None or engine.committed != engine.world.position:
            return False
        live = engine.world
        read = {domain: one.sequence for domain, one in live.inboxes.items()}
        inboxes = {name: one for name, one in self.broker.streams.items() if "_INBOX_" in name}
        return (
            all(task.is_ended for task in live.tasks.values())
            and all(one.last == read.get(name.rpartition("_")[2].lower()) for name, one in inboxes.items())
            and self.store.position().position == live.position
            and (not self.plan.has_feed or (self.feed is not None and self.feed.through >= live.position.sequence))
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
        for number in range(SERVICES if plan.has_mass_silence else 1):
            servants[f"service{number}"] = self._act(actors.Service)
        if plan.has_checks:
            servants["checker"] = self._check_health
        if plan.has_access:
            servants["stranger0"] = self._act(actors.Stranger)
        users: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {}
        for number in range(plan.clients):
            users[f"client{number}"] = self._act(actors.Submitter)
            users[f"pooluser{number}"] = self._act(actors.PoolUser)
        if plan.has_queues:
            users["operator0"] = self._act(Operator)
        if plan.has_shadows:
            users["promoter0"] = self._act(Promoter)
        if plan.has_holds:
            users["holder0"] = self._act(Holder)
        if plan.has_drains:
            users["drainer0"] = self._act(Drainer)
        if plan.has_limits:
            users["limiter0"] = self._act(Limiter)
        if plan.has_versions:
            users["releaser0"] = self._act(Releaser)
        if plan.has_agents:
            users["cataloguer0"] = self._act(Cataloguer)
        if plan.has_budgets:
            users["treasurer0"] = self._act(Treasurer)
        if plan.has_shares:
            users |= {f"sharer{number}": self._act(Sharer) for number in range(3)}
        if plan.has_gangs:
            users["ganger0"] = self._act(Ganger)
        if plan.has_lists:
            users["lister0"] = self._act(Lister)
        users["scheduleuser0"] = self._act(actors.ScheduleUser)
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
                name,
                offset_s=self.random.uniform(-1.0, 1.0) * self.plan.most_wrong_s,
                pace=self.random.uniform(0.99, 1.01),
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
                if not self._gave_up(error):
                    raise error
            await asyncio.sleep(self.random.uniform(0.2, 3.0))

    def _gave_up(self, error: BaseException) -> bool:
        """Return whether a process ended as it got no answer: after hours that also those do that do much at once."""
        if self.has_stopped and isinstance(error, BaseExceptionGroup):
            return error.split(Unavailable)[1] is None
        return isinstance(error, Unavailable)

    def lose_power(self, process: Process) -> None:
        """End a process with its machine: what its disk did not sync may be lost."""
        self.kill(process)
        self.disk.lose_power(f"{process.name}/journal.seen", self.random)

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
            rules=self._rules_of(process.name),
            limits=self._limits,
            access=ACCESS if plan.has_access else None,
            inbox=InboxLimits(discover_s=2.0, kept_s=1.0),
            seen_file=f"{process.name}/journal.seen",
            lease_ttl_s=6,
            lease_renew_s=1.5,
            lease_fresh_s=LEASE_FRESH_S,
        )
        coordinator = self.coordinators[process.name] = Coordinator(instance, clock=process)
        await coordinator.run()
        raise Unavailable("stopped on request; it is started again")

    def _rules_of(self, name: str) -> Rules:
        """Return the rules of a coordinator; with agents, each says that they run something else."""
        plan, rules = self.plan, self.rules
        if plan.has_agents:
            agent = msgspec.structs.replace(rules.agents["task_agent"], command=("agent", name))
            rules = msgspec.structs.replace(rules, agents={"task_agent": agent})
        return msgspec.structs.replace(rules, task_rules=rules_of(name) if plan.has_access else ())

    async def _follow(self, process: Process) -> None:
        plan, subjects = self.plan, Subjects(NAMESPACE)
        projector: Projector | None = None
        shadows = Shadows(process.heard)
        async with (
            bus.Bus.open(URL, name=process.name) as connection,
            bus.Bus.open(URL, name="feed", buffered=False) as feed_bus,
            task_group() as tasks,
        ):
            journal = NatsJournal(connection, subjects)

            def compared(every_s: float) -> list[ReportShadow]:
                return [] if projector is None else list(shadows.reports(projector.world, every_s))

            if plan.has_snapshots:
                kept = Snapshots(connection, subjects, kept=SNAPSHOTS.kept)
                tasks.create_task(Snapshotter(kept, lambda: projector, SNAPSHOTS).run())
            if plan.has_feed:
                self.feed = Feed(feed_bus, subjects, NatsJournal(feed_bus, subjects), FEED, now=process.wall)
                tasks.create_task(self.feed.run())
            if plan.has_shadows:
                tasks.create_task(self._report_shadows(process, compared))
            while True:
                with suppress(Unavailable):
                    shadows = Shadows(process.heard)
                    projector = Projector(journal, self.store, fold=shadows.apply_record if plan.has_shadows else None)
                    await projector.run()
                await asyncio.sleep(0.5)

    @staticmethod
    async def _report_shadows(process: Process, compared: Callable[[float], list[ReportShadow]]) -> None:
        async with connect(process.name) as client:
            client.attempt_timeout_s = 1.0
            await run_shadow_reports(client, compared, every_s=0.5)

    async def _check_health(self, process: Process) -> None:
        async with connect(process.name) as client, task_group() as tasks:
            client.attempt_timeout_s = 1.0
            prober: Any = Prober(self.random)
            await HealthChecks(client, prober, tasks, interval_s=CHECK_INTERVAL_S).keep_following()

    async def _serve_node(self, process: Process) -> None:
        machine = self.machines[int(process.name[-1])]
        machine.heard = process.heard
        async with connect(process.name) as client:
            client.attempt_timeout_s = 1.0
            client.execute = OldLeader(client, process).execute  # type: ignore[method-assign]
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

    # --- what is simulated --------------------------------------------------------------------------------------------

    def _restored(self, data: bytes) -> World:
        self.dice.fired["snapshot_used"] += 1
        return _restore(data)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Let everything be forgotten after the time of the plan, also while the journal is replayed."""
        hard_s = self.plan.hard_s
        if not self.plan.forgets:
            yield
            return
        kinds = memory._KEPT_S
        kept = {kind: kept_s * hard_s / memory.HARD_S for kind, kept_s in kinds.items()}
        with (
            mock.patch.object(memory, "HARD_S", hard_s),
            mock.patch.object(world, "HARD_S", hard_s),
            mock.patch.object(memory, "_PERIOD_S", dict.fromkeys(kinds, hard_s / SLICES)),
            mock.patch.object(memory, "_KEPT_S", kept),
            mock.patch.object(memory, "_MOST", dict.fromkeys(kinds, SLICE_ENTRIES)),
        ):
            yield

    @contextmanager
    def _environment(self) -> Iterator[None]:
        """Replace the real server, ids and clocks by the simulated ones."""
        open_turn = Engine._open_turn

        def opened(engine: Engine) -> Turn:
            self.watch.opened(clock(engine))
            return open_turn(engine)

        def clock(_: object) -> Process:
            process = PROCESS.get()
            assert process is not None
            return process

        def due(now: World, signs: Signs, context: DecisionContext, heard: float, found: Deadlines) -> Iterator[Event]:
            is_quiet = True
            for event in find_due(now, signs, context, heard, found):
                is_quiet &= type(event) is CoordinatorPlacementRefused  # it is yielded in each look
                yield event
            if is_quiet:
                self.watch.looked(find_due(now, signs, context, heard))

        with (
            mock.patch("coordinator.engine.engine.due", due),
            mock.patch.object(shadow, "TURNS_LEAST", TURNS_LEAST),
            mock.patch.object(budget, "TURN_S", NEXT_TO_NO_TIME_S if self.plan.has_lists else budget.TURN_S),
            mock.patch.object(wire, "ITEMS_AT_ONCE", ITEMS_AT_ONCE if self.plan.has_lists else wire.ITEMS_AT_ONCE),
            mock.patch.object(bus, "NatsClient", Connection),
            mock.patch.object(high_water, "os", self.disk),
            mock.patch.object(TimeOrderedIds, "new", lambda _, prefix: self.new_id(prefix)),
            mock.patch.object(asyncio, "to_thread", _at_once),
            mock.patch.object(World, "restore", self._restored),
            mock.patch.object(Engine, "_open_turn", opened),
            mock.patch.object(SystemClock, "wall", lambda own: clock(own).wall()),
            mock.patch.object(SystemClock, "heard", lambda own: clock(own).heard()),
            mock.patch.object(
                reign, "gc", mock.Mock()
            ),  # the garbage collector belongs to this process, not to a coordinator
        ):
            yield


class OldLeader:
    """The orders of a deposed leader, which still reaches a node: they come instead of those of the leader."""

    def __init__(self, client: Client, process: Process) -> None:
        self._execute = client.execute
        self._process = process
        self._newest: NodeOrders | None = None
        self._before: NodeOrders | None = None

    async def execute(self, command: Command, *, timeout_s: float | None = None) -> Any:
        """Execute a command; see `Door.execute`."""
        if isinstance(command, SyncNode) and self._process.obeys_old_leader and self._before is not None:
            await asyncio.sleep(0.01)
            return self._before
        answer = await self._execute(command, timeout_s=timeout_s)
        if isinstance(answer, NodeOrders):
            if self._newest is not None and answer.epoch > self._newest.epoch:
                self._before = self._newest
            self._newest = answer
        return answer


class Prober:
    """Draws the results of health checks."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def look(self, _: str, __: str = "") -> CheckResult:
        """Return a drawn result."""
        await asyncio.sleep(self._random.random() * 0.3)
        return CheckResult(ok=self._random.random() < 0.6, detail="drawn", latency_ms=1.0)


async def _at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    """Replace `asyncio.to_thread`: the loop knows no threads."""
    await asyncio.sleep(0.0)
    return call(*arguments)


_restore = World.restore


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()
