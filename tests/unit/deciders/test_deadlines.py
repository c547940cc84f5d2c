"""What is due is found without looking at everything, and is the same as if everything were looked at."""

from __future__ import annotations

import random
from math import inf
from typing import TYPE_CHECKING

import msgspec
import pytest

from coordinator.commands.cluster import AcceptSilence
from coordinator.commands.container import (
    CreateContainer,
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.commands.service import (
    DeregisterService,
    HeartbeatService,
    RegisterService,
    ReportCheck,
    ReportNotChecked,
    ServiceLoad,
)
from coordinator.commands.task import CancelTask, CompleteTask, FailTask, ReleaseTask
from coordinator.commands.worker import DrainWorker, LeaveWorker, RegisterWorker
from coordinator.deciders.deadlines import NEVER, Deadlines, Due
from coordinator.deciders.dispatch import decide
from coordinator.deciders.due import due
from coordinator.deciders.housing import SERVING, said_of
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.container import ContainerStarting, ContainerStatus
from events.coordinator import CoordinatorMassSilenceEnded, CoordinatorMassSilenceNoticed, Watched
from events.errors import CoordinationError
from events.task import TaskStatus
from events.worker import WorkerLeft
from projections.worker import WorkerState, WorkerStatus
from projections.world import World
from tests.specification import Scribe, write
from tests.unit.deciders.facts import BEGIN, register_node, resources, service, started, submit, submitted, worker

if TYPE_CHECKING:
    from coordinator.commands.command import Command
    from events.base import Event

RULES = Rules(
    lease_s=5.0,
    worker_timeout_s=10.0,
    heartbeat_timeout_s=8.0,
    deregister_after_s=30.0,
    node_lease_s=6.0,
    container_start_timeout_s=7.0,
    mass_silence_least=3,
    mass_silence_share=0.4,
)
STEPS = 400
_S = ContainerStatus


class Fleet:
    """A small cluster to which anything may happen, and the deadlines that a writer keeps beside it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.scribe = Scribe()
        self.signs = Signs()
        self.heard, self.time = 100.0, BEGIN
        self.signs.begin(self.heard)
        self.deadlines = Deadlines(self.world)
        self.number = 0
        self.found: set[type[Event]] = set()

    @property
    def world(self) -> World:
        return self.scribe.world

    def context(self) -> DecisionContext:
        return DecisionContext(max(self.time, self.world.time + 1e-3), RULES)

    def fold(self, *events: Event) -> None:
        self.scribe.commit_each(events, at=self.context().now)
        for event in events:
            lease = getattr(event, "lease", "")
            if type(event).__name__ == "TaskStarted":
                self.signs.leases[lease] = self.heard
        self.deadlines.note(events)

    def tell(self, command: Command) -> None:
        context = msgspec.structs.replace(self.context(), streak=self.signs.streak(command))
        try:
            events = decide(self.world, command, context)
        except CoordinationError:
            return
        if events:
            self.fold(*events)
        self.signs.accepted(command, self.heard, context.now, self.world)
        if isinstance(command, (ReportCheck, ReportNotChecked)):
            self.deadlines.service_changed(command.service_id)

    def check(self) -> None:
        """The kept deadlines find what a look at everything finds."""
        by_all = list(due(self.world, self.signs, self.context(), self.heard))
        by_deadline = list(due(self.world, self.signs, self.context(), self.heard, self.deadlines))
        assert sorted(map(repr, by_deadline)) == sorted(map(repr, by_all))

    def record_due_of(self, kind: type[Event]) -> None:
        """Fold the events of one type that are due."""
        for event in list(due(self.world, self.signs, self.context(), self.heard, self.deadlines)):
            if isinstance(event, kind):
                self.fold(event)

    def record_due(self) -> None:
        """Fold what is due, one event after the other, or only some of it, as when a turn is full."""
        most = self.random.choice((1, 3, 1000))
        for event in due(self.world, self.signs, self.context(), self.heard, self.deadlines):
            if type(event).__name__ == "CoordinatorPlacementRefused":
                continue
            self.fold(event)
            self.found.add(type(event))
            most -= 1
            if not most:
                return

    def step(self) -> None:
        pick = self.random.choice
        pick((self.wait, self.wait, self.of_tasks, self.of_tasks, self.of_workers, self.of_services, self.of_nodes,
              self.of_containers, self.of_containers, self.hear, self.hear, self.of_others))()  # fmt: skip

    def wait(self) -> None:
        for_s = self.random.choice((0.5, 0.5, 1.0, 3.0, 9.0))
        self.time += for_s
        self.heard += for_s
        match self.random.randrange(40):
            case 0:  # the clock of the wall is set
                self.time += 40.0
            case 1:  # the writer stood still
                self.signs.begin(self.heard)
            case _:
                pass

    def of_tasks(self) -> None:
        pick, world = self.random.choice, self.world
        self.number += 1
        task_id = f"t{self.number}"
        self.fold(submitted(task_id, timeout_s=pick((None, 4.0))))
        serving = [one.worker_id for one in world.workers.values() if self.gets_tasks(one)]
        if serving:
            self.fold(started(task_id, f"c.{self.number}.1", worker_id=pick(serving)))
        running = world.indexes.tasks[TaskStatus.RUNNING]
        for task_id in self.random.sample([*running], k=min(2, len(running))):
            lease = world.tasks[task_id].lease
            self.tell(pick((
                CompleteTask(task_id=task_id, lease=lease), FailTask(task_id=task_id, lease=lease, error="boom"),
                ReleaseTask(task_id=task_id, lease=lease), CancelTask(task_id=task_id), submit("again"),
            )))  # fmt: skip

    def gets_tasks(self, one: WorkerState) -> bool:
        is_open = not one.container_id or said_of(self.world, one.container_id) in SERVING
        return one.status is WorkerStatus.ACTIVE and is_open

    def of_workers(self) -> None:
        worker_id, container_id = f"w{self.random.randrange(6)}", self.random.choice(("", "", "k0", "k1", "k9"))
        match self.random.randrange(5):
            case 0:
                self.tell(DrainWorker(worker_id=worker_id))
            case 1:
                self.tell(LeaveWorker(worker_id=worker_id))
            case _:
                self.tell(RegisterWorker(worker_id=worker_id, container_id=container_id))

    def of_services(self) -> None:
        pick, service_id = self.random.choice, f"s{self.random.randrange(8)}"
        match self.random.randrange(6):
            case 0:
                self.tell(DeregisterService(service_id=service_id))
            case 1:
                self.tell(HeartbeatService(service_id=service_id))
            case 2:
                every_s = pick((None, 1.0, 20.0))
                self.tell(ReportCheck(service_id=service_id, ok=pick((True, False)), check="http", every_s=every_s))
            case 3:
                self.tell(ReportNotChecked(service_id=service_id, check="http"))
            case _:
                self.tell(RegisterService(
                    service_id=service_id, service_name="a", service_type="http", host="h", port=1,
                    health_check_url=pick(("", "", "http://h:1/")), container_id=pick(("", "", "k0", "k1", "k9")),
                ))  # fmt: skip

    def of_nodes(self) -> None:
        node_id = f"n{self.random.randrange(4)}"
        if self.world.nodes.get(node_id) is None or self.random.random() < 0.3:
            self.tell(register_node(node_id, capacity=resources(cpu=1000, memory=1000)))
        on_it = self.world.indexes.containers_on.get(node_id, ())
        observed = tuple(
            ObservedContainer(
                container_id=one,
                generation=self.world.containers[one].generation,
                state=self.random.choice(("running", "running", "paused", "exited", "failed", "busy")),
                exit_code=self.random.choice((0, 1)),
            )
            for one in on_it
        )
        self.tell(SyncNode(node_id=node_id, observed=observed))

    def of_containers(self) -> None:
        one = f"k{self.random.randrange(5)}"
        self.tell(self.random.choice((
            CreateContainer(container_id=one, agent_id="a", agent_type="task_agent", resources=resources(cpu=900)),
            StartContainer(container_id=one), StartContainer(container_id=one), PauseContainer(container_id=one),
            ResumeContainer(container_id=one), StopContainer(container_id=one, force=True),
            DestroyContainer(container_id=one),
        )))  # fmt: skip

    def of_others(self) -> None:
        """Fold what another writer may have written, without what follows from it in the same commit."""
        pick, world = self.random.choice, self.world
        for held in [one for one in world.indexes.held if not world.workers[one].is_ended][:1]:
            self.fold(WorkerLeft(worker_id=held))
        still = [one for one in world.containers.values() if one.status in (_S.CREATED, _S.STOPPED, _S.ERROR)]
        if still and world.nodes:
            node_id = pick([*world.nodes])
            self.fold(ContainerStarting(container_id=pick(still).container_id, node_id=node_id, reason="r", restarts=0))

    def hear(self) -> None:
        pick, world = self.random.choice, self.world
        if world.workers:
            worker_id = pick([*world.workers])
            held = [world.tasks[one].lease for one in world.indexes.held.get(worker_id, ())]
            self.signs.hear_worker(worker_id, self.heard, tuple(held[: self.random.randrange(len(held) + 1)]), 0.0)
        if world.services:
            self.signs.hear_service(pick([*world.services]), self.heard, ServiceLoad(heard_s_ago=0.0))
        for kind in Watched:
            if self.random.random() < 0.2:
                self.tell(AcceptSilence(kind=kind, reason="known"))


@pytest.mark.parametrize("seed", range(20))
def test_what_is_due_is_found_by_its_deadline(seed: int) -> None:
    """Whatever happened, and whenever it is looked: the same as by a look at everything, even if a turn was full."""
    fleet = Fleet(seed)
    for _ in range(STEPS):
        fleet.step()
        fleet.check()
        if fleet.random.random() < 0.5:
            fleet.record_due()
            fleet.check()
    restored = World.restore(fleet.world.snapshot())
    again = due(restored, fleet.signs, fleet.context(), fleet.heard, Deadlines(restored))
    first = due(fleet.world, fleet.signs, fleet.context(), fleet.heard, fleet.deadlines)
    assert sorted(map(repr, again)) == sorted(map(repr, first))


def test_a_service_whose_limit_is_shorter_again_is_found_in_time() -> None:
    """A custom check far from the next one gave it more time; the heartbeat after it gives the usual time from then."""
    scribe, signs, now = write(service("s")), Signs(), BEGIN + 10.0
    signs.begin(0.0)
    deadlines = Deadlines(scribe.world)
    report = ReportCheck(service_id="s", ok=True, check="own", every_s=100.0)
    signs.accepted(report, 1.0, now, scribe.world)
    deadlines.service_changed("s")

    def look(heard_now: float) -> list[Event]:
        return list(due(scribe.world, signs, DecisionContext(now, RULES), heard_now, deadlines))

    assert (look(2.0), look(50.0)) == ([], [])
    signs.hear_service("s", 51.0, ServiceLoad(heard_s_ago=0.0))
    assert [len(look(second)) for second in (58.0, 59.5)] == [0, 1]


def test_everything_that_may_be_due_was_due_once() -> None:
    """These seeds reach every event of `due` that needs no full memory."""
    found: set[str] = set()
    for seed in range(8):
        fleet = Fleet(seed)
        for _ in range(STEPS):
            fleet.step()
            fleet.record_due()
        found |= {kind.__name__ for kind in fleet.found}
    assert found >= {
        "TaskTimedOut", "TaskAttemptFailed", "CoordinatorMassSilenceNoticed", "CoordinatorMassSilenceEnded",
        "WorkerLost", "WorkerLeft", "ServiceDeregistered", "ServiceHealthChanged",
        "NodeLost", "NodeRemoved", "ContainerFailed", "ContainerStarting",
    }  # fmt: skip


class Looked(dict[str, float]):
    """Signs of one table that count how often they are read."""

    times = 0

    def get(self, *args: object) -> object:  # type: ignore[override]
        self.times += 1
        return super().get(*args)  # type: ignore[call-overload]


def test_nothing_is_looked_at_before_its_time() -> None:
    """However many are alive: a look at which nothing is due reads no sign, and one at which one is due reads one."""
    scribe = write(*(worker(f"w{number}") for number in range(50)), *(service(f"s{number}") for number in range(50)))
    scribe.commit(*(submitted(f"t{number}") for number in range(50)))
    scribe.commit(*(started(f"t{number}", f"c{number}.1.1", worker_id=f"w{number}") for number in range(50)))
    signs = Signs()
    signs.begin(0.0)
    tables = signs.leases, signs.workers, signs.services = Looked(), Looked(), Looked()
    deadlines, rules = Deadlines(scribe.world), Rules()
    now = scribe.world.time + 1.0

    def look(heard_now: float) -> tuple[int, int]:
        before = sum(table.times for table in tables)
        events = list(due(scribe.world, signs, DecisionContext(now, rules), heard_now, deadlines))
        return len(events), sum(table.times for table in tables) - before

    assert look(1.0)[0] == 0
    signs.leases |= {f"c{number}.1.1": 20.0 for number in range(1, 50)}
    assert [look(second) for second in (1.5, 10.0, 20.0, 29.0)] == [(0, 0)] * 4
    assert look(30.5) == (1, 50)  # each lease is looked at again once in its time
    assert look(31.0) == (1, 1)
    assert look(49.0)[0] == 1


def test_what_a_mass_silence_spares_is_looked_at_when_it_ends() -> None:
    """Not at each look until then, however many are silent; and all that is silent then is found."""
    fleet = Fleet(0)
    fleet.fold(*(worker(f"w{number}") for number in range(50)), *(service(f"s{number}") for number in range(50)))
    fleet.heard += 20.0
    fleet.record_due_of(CoordinatorMassSilenceNoticed)
    fleet.check()
    kinds = [fleet.deadlines.services, fleet.deadlines.workers]
    assert [kind.now(fleet.heard + 1.0, fleet.time) for kind in kinds] == [(), ()]
    for number in range(40):
        fleet.signs.services[f"s{number}"] = fleet.signs.workers[f"w{number}"] = fleet.heard
    fleet.record_due_of(CoordinatorMassSilenceEnded)
    fleet.check()
    lost = list(due(fleet.world, fleet.signs, fleet.context(), fleet.heard, fleet.deadlines))
    assert len(lost) == 20


def test_what_left_the_world_is_looked_for_once() -> None:
    """What ended long ago is forgotten by the world, while its deadline may still come."""
    world, signs = World(), Signs()
    deadlines = Deadlines(world)
    silences = [one.due for one in deadlines.silences.values()]
    kinds = [deadlines.holders, deadlines.workers, deadlines.services, deadlines.nodes, deadlines.containers, *silences]
    for kind in kinds:
        kind.changed("gone")
    assert list(due(world, signs, DecisionContext(BEGIN, RULES), 1e6, deadlines)) == []
    assert [kind.now(1e9, 1e9) for kind in kinds] == [()] * len(kinds)


def test_one_thing_has_one_deadline() -> None:
    """An earlier one replaces it, a later one waits for the earlier, and what begins needs none if it has one."""
    kept = Due(())
    for time in (50.0, 40.0, 60.0):
        kept.later("a", (time, time))
    assert kept.now(39.0, 39.0) == ()
    assert kept.now(40.0, 0.0) == ("a",)
    assert kept.now(40.0, 0.0) == ("a",)
    kept.later("a", (70.0, 80.0))
    assert kept.now(65.0, 39.0) == ()
    assert kept.now(70.0, 39.0) == ("a",)
    kept.later("a", NEVER)
    kept.began("b")
    assert kept.now(75.0, 30.0) == ("b",)
    kept.later("b", (90.0, inf))
    kept.began("b")
    assert kept.now(89.0, 30.0) == ()
