"""
Legal histories by seed: journals as a coordinator might have written them, with events of every kind.

`write_history(seed, commits)` returns the scribe that wrote one; the same seed always gives the same. Each event is
drawn from what the world allows at that point, over few ids and with small limits, so that things come back, end, are
evicted and are created again.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from events.after import After
from events.agents import AgentsChanged, AgentType
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms, Stop, Unit
from events.cancel_ladder import Escalation, TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStatus,
    ContainerStopped,
    ContainerStopping,
)
from events.coordinator import (
    CoordinatorCommandRefused,
    CoordinatorMassSilenceEnded,
    CoordinatorMassSilenceNoticed,
    CoordinatorPlacementRefused,
    CoordinatorStarted,
    CoordinatorStopped,
    CoordinatorTurn,
    Watched,
)
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.idempotency import IdempotencyForgotten
from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused
from events.limit import LimitDefined, LimitDeleted, Terms
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.pool import (
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.prices import Price, PricesSet
from events.queue import (
    DEFAULT,
    Comparison,
    FairShare,
    OtherDecision,
    Policy,
    QueueBlocked,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicyFailed,
    QueuePolicySet,
    QueuePromoted,
    QueueResumed,
    QueueRolledBack,
    QueueRouted,
    QueueShadowReported,
    QueueShadowSet,
    Route,
)
from events.resources import NONE, Resources
from events.retry import RetryPolicy
from events.schedule import (
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
    ScheduleStatus,
    TaskContent,
    Timing,
)
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered, ServiceStatus
from events.session import SessionBound, SessionClosed
from events.spend import Reservation, Spend, Spent
from events.task import (
    Debounce,
    Gang,
    Payload,
    Prefer,
    Scalar,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
    TaskUsage,
)
from events.task_pause import TaskPaused, TaskResumed
from events.time_limits import TimeLimits
from events.version import VersionReinstated, VersionRetired
from events.worker import WorkerDraining, WorkerLeft, WorkerLost, WorkerRegistered
from projections.blockage import shape_id
from projections.budget import span_at
from projections.container import Container, Desired
from projections.keyed import all_keys_of
from projections.node import NodeStatus
from projections.queue import name_of
from projections.ready import shape_of
from projections.worker import WorkerStatus
from tests.specification import BEGIN, Said, Scribe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from events.base import Event
    from projections.task import Task
    from projections.world import World

_C = ContainerStatus
_LIMITS = (
    *(None, None, None, TimeLimits(heartbeat_s=5.0), TimeLimits(start_within_s=30.0)),
    *(TimeLimits(finish_within_s=90.0), TimeLimits(start_within_s=20.0, finish_within_s=50.0, heartbeat_s=1.0)),
)
_PAYLOADS = (
    None,
    Payload(encoding="text", data="x" * 256, digest="0" * 64),
    Payload(encoding="text", data="é" * 257, digest="1" * 64),
)
_FILTERS = (
    *('task_name == "name1"', 'task_name != "name2" && priority > 0', 'task_type == "x" || tenant == "acme"'),
    *("attributes.b >= 2", 'queue in ["default", "q1"] && fairness_key == ""', "has(attributes.a)", "true"),
)
_ATTRIBUTES: tuple[dict[str, Scalar], ...] = ({}, {"a": "x"}, {"a": 1, "b": True}, {"a": 1.0, "b": 2.5})
_SIZES = (Resources(), Resources(cpu_millis=500), Resources(memory_bytes=1 << 30, gpus=1))
_NAMED = Resources(cpu_millis=500, named={"licences": 2})
_EU = 'labels.zone == "eu"'


def write_history(seed: int, commits: int) -> Scribe:
    """Write *commits* records: mostly commits of one to six events, now and then a claim."""
    return Historian(seed).write(commits)


class Historian:
    """Draws the next event from those that are possible."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.scribe = Scribe()
        self._tasks_made = 0
        self._fired: set[str] = set()

    @property
    def world(self) -> World:
        return self.scribe.world

    def write(self, commits: int) -> Scribe:
        """Write that many more records."""
        for _ in range(commits):
            if self.random.random() < 0.03:
                self.scribe.claim(generation=self.random.randint(1, 3), holder=f"h{self.random.randint(1, 2)}")
            else:
                self.scribe.commit_each(self._commit(), at=self._time())
        return self.scribe

    def _time(self) -> float:
        step = self.random.choices((0.0, 0.000001, 0.5, 7.0, 90.0, 700.0), (2, 2, 12, 8, 2, 1))[0]
        return max(self.world.time, BEGIN) + step

    def _commit(self) -> Iterator[Said]:
        for _ in range(self.random.randint(1, 6)):
            event = None
            while event is None:
                event = self.random.choices(_HAPPENINGS, _WEIGHTS)[0](self)
            commandid = f"cmd{self.random.randint(1, 40)}" if self.random.random() < 0.2 else ""
            tenant = self.random.choice(("acme", "blue"))
            yield Said(event, None, tenant, self.random.choice(("ann", "bob")), commandid)

    def pick(self, ids: str, count: int) -> str:
        """Draw one of *count* ids of a kind."""
        return f"{ids}{self.random.randint(1, count)}"

    def _is_owned(self) -> bool:
        """Draw whether the event says so: those of older releases do not."""
        return self.random.random() < 0.7

    # --- tasks --------------------------------------------------------------------------------------------------------

    def submit(self) -> Event | None:
        task_id = f"t{self.random.randint(1, self._tasks_made + 1)}"
        if self.random.random() < 0.1:
            task_id = f"once{self._tasks_made}"
        if task_id in self.world.tasks:
            return None
        self._tasks_made += 1
        gang = self._gang()
        living = [one for one in self.world.tasks.values() if not one.is_ended]
        waits_for = tuple(one.task_id for one in self.random.sample(living, min(len(living), 2)))
        if self.random.random() < 0.7:
            waits_for = ()
        return TaskSubmitted(
            task_id=task_id,
            task_name=self.pick("name", 3),
            task_type=self.random.choice(("", "x")),
            priority=self.random.randint(-2, 2),
            timeout_s=self.random.choice((None, 0.5, 60.0)),
            max_retries=self.random.randint(0, 3),
            resources=_NAMED if self._tasks_made % 7 == 0 else self.random.choice(_SIZES),
            idempotency_key=self.random.choice(("", "", self.pick("key", 9))),
            program=self.random.choice(("", self.pick("program", 3))),
            payload=_PAYLOADS[self._tasks_made % len(_PAYLOADS)],
            not_before=self.random.choice((None, None, None, self.world.time + 7.0)),
            time_limits=self.random.choice(_LIMITS),
            queue=self.random.choice(("", *(name_of(one) for one in self.world.queues))),
            fairness_key=self.random.choice(("", self.pick("customer", 2))),
            retry=self.random.choice((None, None, RetryPolicy(when_exhausted="pause"), RetryPolicy(factor=3.0))),
            requeued_from=self.random.choice(("", "", "t0")),
            worker_filter=("", "", _EU, "labels.gpu >= 16", "")[self._tasks_made % 5],
            prefer={1: Prefer(filter=_EU), 4: Prefer(sticky_to="t0")}.get(self._tasks_made % 6),
            prefers_worker="w1" if self._tasks_made % 6 == 4 else "",
            after=After(tasks=waits_for) if waits_for else None,
            waits_for=waits_for,
            attributes=self.random.choice(_ATTRIBUTES),
            debounce=self.random.choice((None, None, None, Debounce(since=1.0, until=self.world.time + 7.0))),
            pin_version=self._tasks_made % 4 != 2,
            rule="r" if self._tasks_made % 3 else "",
            rule_filter=("", 'agent_type in ["x"]', "")[self._tasks_made % 3],
            spend=self.random.choice((None, Spend(model="m", input_tokens=20, output_tokens=10))),
            gang=gang,
            gang_until=0.0 if gang is None else self.world.time + 9.0,
        )

    def _gang(self) -> Gang | None:
        """Return a gang that lacks a task, of every few tasks."""
        gang = Gang(gang_id=f"g{self._tasks_made % 2}", size=2, deadline_s=9.0)
        known = map(self.world.indexes.gangs.of.get, (f"acme/{gang.gang_id}", f"blue/{gang.gang_id}"))
        is_full = any(members is not None and len(members.pending) >= gang.size for members in known)
        return None if self._tasks_made % 3 or is_full else gang

    def unblock_task(self) -> Event | None:
        waiting = [one for one in self.world.tasks.values() if one.waiting_for]
        if not waiting:
            return None
        task = self.random.choice(waiting)
        return TaskUnblocked(task_id=task.task_id, predecessor=self.random.choice(task.waiting_for))

    def _some_task(self, *statuses: TaskStatus) -> Task | None:
        tasks = [task for task in self.world.tasks.values() if not statuses or task.status in statuses]
        return self.random.choice(tasks) if tasks else None

    def start_task(self) -> Event | None:
        task = self._some_task(TaskStatus.PENDING)
        if task is None or task.waiting_for or task.is_paused:
            return None
        attempt, claim_id = task.attempt + 1, self.pick("claim", 12)
        return TaskStarted(
            task_id=task.task_id,
            worker_id=self.pick("w", 4),
            claim_id=claim_id,
            attempt=attempt,
            lease=f"{claim_id}.{attempt}",
            build_id=self.random.choice(("", "b1", "b2", "b3")),
            reserved=None if task.spend is None else self._reservation(),
        )

    def _reservation(self) -> Reservation:
        return self.random.choice((Reservation(tokens=30), Reservation(tokens=30, money_micros=70, prices="v1")))

    def _reported(self, task: Task) -> dict[str, Any]:
        """Return what an attempt is said to have used, and to have spent."""
        if task.spend is None:
            return {}
        tokens = self.random.choice((0, 5, 30, 45))
        usage = self.random.choice((None, TaskUsage(input_tokens=tokens)))
        return {"usage": usage, "spent": Spent(tokens=tokens, money_micros=self.random.choice((0, 70, 90)))}

    def end_attempt(self) -> Event | None:
        task = self._some_task(TaskStatus.RUNNING)
        if task is None:
            return None
        task_id, lease = task.task_id, task.lease
        pause_s = self.random.choice((0.0, 0.0, 0.5, 30.0, 2000.0))
        reported = self._reported(task)
        return self.random.choice((
            TaskAttemptFailed(
                task_id=task_id,
                lease=lease,
                error="e",
                reason=self.random.choice(("failed", "lease_expired", "released")),
                retry_at=self.world.time + pause_s,
                attempt=self.random.choice((0, task.attempt)),
                error_type=self.random.choice(("", "ValueError")),
                **reported,
            ),
            TaskCompleted(task_id=task_id, lease=lease, execution_time_s=1.0, **reported),
            TaskFailed(task_id=task_id, lease=lease, error="e", reason="failed", attempt=task.attempt, **reported),
            TaskPaused(
                task_id=task_id,
                reason="retries_exhausted",
                lease=lease,
                cause="failed",
                error="e",
                attempt=task.attempt,
                worker_ended=self.random.random() < 0.5,
                **reported,
            ),
            TaskTimedOut(task_id=task_id, lease=lease, ran_for_s=2.0, limit_s=1.0, **reported),
            TaskProgressed(
                task_id=task_id,
                lease=lease,
                progress=self.random.random(),
                message="m",
                checkpoint=self.random.choice((None, *_PAYLOADS)),
                **reported,
            ),
            TaskExtended(task_id=task_id, lease=lease, by_s=self.random.choice((0.5, 60.0))),
        ))  # fmt: skip

    def pause_or_resume_task(self) -> Event | None:
        task = self._some_task(TaskStatus.PENDING)
        if task is None:
            return None
        if not task.is_paused:
            return TaskPaused(task_id=task.task_id, reason="r")
        payload = self.random.choice((None, *_PAYLOADS))
        return TaskResumed(
            task_id=task.task_id,
            payload=payload,
            more_retries=self.random.randint(0, 2),
            move_to=self.random.choice((None, None, "", "b2")),
        )

    def cancel_task(self) -> Event | None:
        task = self._some_task(TaskStatus.PENDING, TaskStatus.RUNNING)
        if task is None:
            return None
        return TaskCancelled(
            task_id=task.task_id, reason="r", **self._reported(task) if task.status is TaskStatus.RUNNING else {}
        )

    def step_to_cancel(self) -> Event | None:
        task = self._some_task(TaskStatus.RUNNING)
        if task is None:
            return None
        task_id, lease = task.task_id, task.lease
        if task.cancelling is None or self.random.random() < 0.3:
            return TaskCancelAsked(
                task_id=task_id,
                grace_s=self.random.choice((0.5, 5.0, 100.0)),
                reason="r",
                escalate=self.random.choice(list(Escalation)),
            )
        return self.random.choice((
            TaskCancelTold(task_id=task_id, lease=lease),
            TaskCancelForced(task_id=task_id, lease=lease, how=self.random.choice(("raised", "container"))),
        ))  # fmt: skip

    def refuse_report(self) -> Event | None:
        task = self._some_task()
        if task is None:
            return None
        lease = self.pick("late", 2)
        return TaskReportRefused(task_id=task.task_id, lease=lease, outcome="completed", worker_id="w1")

    # --- workers, nodes, containers -----------------------------------------------------------------------------------

    def change_worker(self) -> Event | None:
        worker_id = self.pick("w", 4)
        worker = self.world.workers.get(worker_id)
        status = worker.status if worker is not None else None
        possible: list[Event] = [
            WorkerRegistered(
                worker_id=worker_id,
                slots=self.random.choice((None, 1, 8)),
                owned=self._is_owned(),
                labels={"zone": "eu", "gpu": 16} if worker_id.endswith(("1", "3")) else {},
                build_id="b1" if worker_id.endswith("2") else "",
            )
        ]
        if status is WorkerStatus.ACTIVE:
            possible.append(WorkerDraining(worker_id=worker_id, reason="r"))
        if status in {WorkerStatus.ACTIVE, WorkerStatus.DRAINING}:
            possible.append(WorkerLost(worker_id=worker_id, silent_for_s=61.0, limit_s=60.0))
        if status not in {None, WorkerStatus.LEFT}:
            possible.append(WorkerLeft(worker_id=worker_id, reason="r"))
        return self.random.choice(possible)

    def change_node(self) -> Event | None:
        node_id = self.pick("n", 3)
        node = self.world.nodes.get(node_id)
        possible: list[Event] = [NodeRegistered(node_id=node_id, capacity=self.random.choice(_SIZES))]
        if node is not None and not node.is_ended:
            possible.append(NodeUncordoned(node_id=node_id) if node.cordoned else NodeCordoned(node_id=node_id))
            possible += [NodeDraining(node_id=node_id, until=self.world.time + 60.0), NodeRemoving(node_id=node_id)]
            if node.draining_until is not None:
                possible.append(NodeDrained(node_id=node_id))
            if node.status is NodeStatus.LOST:
                possible.append(NodeReturned(node_id=node_id))
            else:
                possible.append(NodeLost(node_id=node_id, silent_for_s=23.0, limit_s=22.5))
            possible.append(NodeRemoved(node_id=node_id, reason="r"))
        return self.random.choice(possible)

    def change_container(self) -> Event | None:
        container_id = self.pick("c", 6)
        container = self.world.containers.get(container_id)
        if container is None:
            return ContainerCreated(
                container_id=container_id, agent_id="a", agent_type="t", node_id=self.pick("n", 3),
                resources=self.random.choice(_SIZES), session_id=self.random.choice(("", "s1")),
                owned=self._is_owned(),
            )  # fmt: skip
        possible = self._possible(container)
        return self.random.choice(possible) if possible else None

    def _possible(self, container: Container) -> list[Event]:
        container_id, status = container.container_id, container.status
        stopping = ContainerStopping(
            container_id=container_id, force=self.random.random() < 0.5, destroy=self.random.random() < 0.5
        )
        moves = ContainerStopping(container_id=container_id, move=True)
        failed = ContainerFailed(
            container_id=container_id, generation=container.generation, reason="r", restart_at=self.world.time + 1
        )
        starting = ContainerStarting(container_id=container_id, node_id=self.pick("n", 3))
        stopped = ContainerStopped(container_id=container_id, exit_code=self.random.choice((None, 0, 1)))
        gone = ContainerDestroyed(container_id=container_id)
        started = ContainerStarted(container_id=container_id, generation=container.generation, pid=7)
        resuming, pausing = ContainerResuming(container_id=container_id), ContainerPausing(container_id=container_id)
        paused, resumed = ContainerPaused(container_id=container_id), ContainerResumed(container_id=container_id)
        to_pause = [paused, paused, resuming] if container.desired is Desired.PAUSED else [pausing, pausing]
        by_status: dict[ContainerStatus, list[Event]] = {
            _C.CREATED: [starting, gone],
            _C.STARTING: [*[started] * 4, stopping, stopped, failed],
            _C.RUNNING: [*to_pause * 3, stopping, moves, stopped, failed],
            _C.PAUSED: [resuming, resumed, resumed, stopping, moves, stopped, failed],
            _C.STOPPING: [stopping, stopped, gone],
            _C.STOPPED: [starting, gone, *([stopped, resuming] if container.is_moving else [])],
            _C.ERROR: [starting, stopped, gone],
            _C.DESTROYED: [],
        }  # fmt: skip
        return by_status[status]

    # --- services, sessions, pools, the coordinator -------------------------------------------------------------------

    def change_service(self) -> Event | None:
        service_id = self.pick("v", 6)
        service = self.world.services.get(service_id)
        possible: list[Event] = [
            ServiceRegistered(
                service_id=service_id,
                service_name=self.pick("svc", 2),
                service_type="t",
                host="h",
                port=1,
                status=self.random.choice(list(ServiceStatus)),
            )
        ]
        if service is not None and not service.is_ended:
            others = [status for status in ServiceStatus if status is not service.status]
            to = self.random.choice(others)
            possible += [
                ServiceHealthChanged(service_id=service_id, status=to, previous=service.status, rule="r"),
                ServiceDeregistered(service_id=service_id),
            ]
        return self.random.choice(possible)

    def change_schedule(self) -> Event | None:
        schedule_id = self.pick("schedule", 4)
        schedule, now = self.world.schedules.get(schedule_id), int(self.world.time)
        then = self.random.choice((None, now + 1, now + 60, now + 600))
        if schedule is None or schedule.is_ended or self.random.random() < 0.2:
            return ScheduleDefined(
                schedule_id=schedule_id,
                timing=Timing(every_s=60, jitter_s=self.random.choice((0.0, 30.0))),
                task=TaskContent(task_name="n", payload=self.random.choice(_PAYLOADS)),
                next_slot=then,
            )
        slot = max(schedule.last_slot or 0, now) + 1
        # A task is of one schedule, and its id is not used again.
        new = [one for one in self.world.tasks if one.startswith("once") and one not in self._fired]
        task_id = new[0] if new else "none"
        self._fired.update(new[:1])
        is_paused = schedule.status is ScheduleStatus.PAUSED
        return self.random.choice((
            ScheduleFired(schedule_id=schedule_id, slot=slot, task_id=task_id, next_slot=then),
            ScheduleFired(schedule_id=schedule_id, slot=slot, task_id=task_id, next_slot=then),
            ScheduleFired(schedule_id=schedule_id, slot=1, task_id="b", next_slot=then, is_backfill=True),
            ScheduleQueued(schedule_id=schedule_id, slot=slot, next_slot=then),
            ScheduleSkipped(schedule_id=schedule_id, slot=slot, through=slot, reason="overlap", next_slot=then),
            ScheduleResumed(schedule_id=schedule_id, next_slot=then) if is_paused
            else SchedulePaused(schedule_id=schedule_id),
            ScheduleDeleted(schedule_id=schedule_id),
        ))  # fmt: skip

    def change_session(self) -> Event | None:
        session_id = self.pick("s", 3)
        session = self.world.sessions.get(session_id)
        possible: list[Event] = [
            SessionBound(session_id=session_id, container_id=self.pick("c", 6), owned=self._is_owned())
        ]
        if session is not None and not session.is_ended:
            possible.append(SessionClosed(session_id=session_id, reason="r"))
        return self.random.choice(possible)

    def change_pool(self) -> Event | None:
        pool_id, request_id = self.pick("p", 2), self.pick("r", 4)
        pool = self.world.pools.get(pool_id)
        if pool is None or self.random.random() < 0.2:
            parts = {"a": self.random.choice(_SIZES), "b": self.random.choice(_SIZES)} if self._is_owned() else {}
            capacity = parts["a"] + parts["b"] if parts else self.random.choice(_SIZES)
            return PoolDefined(pool_id=pool_id, capacity=capacity, owned=self._is_owned(), parts=parts)
        of: dict[str, Any] = {"pool_id": pool_id, "request_id": request_id}
        waits, holds = request_id in pool.waiting, request_id in pool.allocations
        if (waits or holds) and self.random.random() < 0.3:
            bound = self.world.indexes.in_pools.owners
            free = [one for one in self.world.tasks if f"task:{one}" not in bound]
            return PoolBound(**of, owner=f"task:{self.random.choice(free)}") if free else None
        if holds:
            gone = (PoolReleased(**of), PoolPreempted(**of, by="r9", waits=self._is_owned()), PoolMoved(**of, part="b"))
            return self.random.choice(gone)
        known = pool.waiting.get(request_id)
        share = self.random.choice(_SIZES) if known is None else known.resources
        part, owner = self.random.choice(("", "a", "b")), "" if known is None else known.owner
        granted = PoolAllocated(**of, resources=share, owned=self._is_owned(), part=part, owner=owner)
        if known is not None:
            return self.random.choice((granted, PoolWithdrawn(**of, reason="timed_out")))
        asked = PoolRequested(**of, resources=share, owned=self._is_owned(), until=self.world.time + 9.0)
        return self.random.choice((granted, asked, asked))

    def change_hold(self) -> Event | None:
        hold_id = self.pick("h", 3)
        if hold_id in self.world.holds:
            return self.random.choice((HoldLifted(hold_id=hold_id), HoldExpired(hold_id=hold_id)))
        return HoldPlaced(
            hold_id=hold_id,
            where=self.random.choice(_FILTERS),
            queue=self.random.choice(("", "", DEFAULT, *self.world.queues)),
            expires_at=self.random.choice((None, self.world.time + 60.0)),
        )

    def change_queue(self) -> Event | None:
        queue_id = self.random.choice((DEFAULT, self.pick("q", 3)))
        weight = self.random.choice((0.5, 1.0, 3.0))
        if queue_id not in self.world.queues and queue_id != DEFAULT:
            return QueueDefined(queue_id=queue_id, weight=weight)
        fair = FairShare(
            by=self.random.choice(("tenant", "key")),
            cost=self.random.choice(("seconds", "tokens", "money")),
            half_life_s=self.random.choice((10.0, 300.0)),
            weights={"acme": 2.0},
        )
        policy = self.random.choice((
            None, Policy(), Policy(strategy="custom", custom="p:P"), Policy(strategy="priority", ageing_s=60.0),
            Policy(strategy="fair", fair=fair),
        ))  # fmt: skip
        possible: list[Event] = [
            QueueDefined(queue_id=queue_id, weight=weight),
            QueuePolicySet(queue_id=queue_id, policy=policy),
            QueuePolicyFailed(queue_id=queue_id, policy="p:P", why="late"),
            QueuePaused(queue_id=queue_id, reason="r"),
            QueueResumed(queue_id=queue_id),
            QueueRouted(
                queue_id=queue_id,
                route=self.random.choice(
                    (
                        None,
                        Route(current="b1"),
                        Route(current="", ramping="b2", percent=self.random.choice((0.5, 50.0))),
                    )
                ),
            ),
            self.blocked(),
            QueueShadowSet(queue_id=queue_id, policy=policy, against=Policy(strategy="priority")),
        ]
        known = self.world.queues.get(queue_id)
        if known is not None and known.shadow is not None:
            compared = Comparison(turns=2, decisions=3, regret_s=0.5, regret_squares=0.25)
            upto, shadow = self.world.position.sequence, known.shadow
            example = OtherDecision(sequence=upto, task_id="t1", worker_id="w1", other_task_id="t2")
            possible += [
                QueueShadowReported(
                    queue_id=queue_id, after=shadow.upto, upto=upto, compared=compared, examples=(example,)
                ),
                QueuePromoted(
                    queue_id=queue_id, policy=shadow.policy, decisions=3, regret_s=0, regret_high_s=0, regret_max=0
                ),
            ]
        if known is not None and known.promoted is not None:
            before = known.promoted
            rolled = QueueRolledBack(queue_id=queue_id, policy=before.before, by_settings=before.by_settings)
            possible += [rolled, rolled, rolled]
        if queue_id != DEFAULT and not any(
            task.queue == queue_id and not task.is_ended for task in self.world.tasks.values()
        ):
            possible.append(QueueDeleted(queue_id=queue_id))
        return self.random.choice(possible)

    def change_version(self) -> Event | None:
        build_id, versions = self.pick("b", 4), self.world.versions
        if build_id in versions and self.random.random() < 0.6:
            return VersionReinstated(build_id=build_id)
        free = [one for one in ("b1", "b2", "b3", "b4") if one not in versions and one != build_id]
        return VersionRetired(build_id=build_id, move_to=self.random.choice(("", *free)))

    def blocked(self) -> Event:
        """Say why a shape waits: that of a task, or one that has none any more."""
        pending = [task for task in self.world.tasks.values() if task.status is TaskStatus.PENDING]
        task = self.random.choice(pending) if pending else None
        world, shape = self.world, "gone"
        if task is not None:
            keys = all_keys_of(task, world.limits, world.budgets)
            shape = shape_id(shape_of(task, keys, world.indexes.builds.of(task)))
        return QueueBlocked(
            queue_id=DEFAULT if task is None else task.queue or DEFAULT,
            shape=shape,
            task_name="work",
            since=self.world.time - self.random.choice((0.0, 5.0)),
            cause=self.random.choice(("", "workers_busy", "key_full")),
            held_by={"default": 2, "other": 1},
            waiting={"default": 3},
        )

    def change_limit(self) -> Event | None:
        limit_id = self.pick("l", 3)
        if limit_id in self.world.limits and self.random.random() < 0.3:
            return LimitDeleted(limit_id=limit_id)
        by = self.random.choice(("all", "tenant", "queue", "task_name", "fairness_key", "attributes.a", "attributes.b"))
        rate: dict[str, Any] = self.random.choice(({}, {"starts": 2, "per_s": 7.0}, {"cooldown_s": 90.0}))
        return LimitDefined(
            limit_id=limit_id,
            terms=Terms(
                by=by, running=self.random.choice((None, 1, 2)), retries_only=self.random.random() < 0.2, **rate
            ),
        )

    def change_budget(self) -> Event | None:
        budget_id = self.pick("b", 3)
        known = self.world.budgets.get(budget_id)
        if known is not None and self.random.random() < 0.2:
            return BudgetRemoved(budget_id=budget_id)
        if known is not None and self.random.random() < 0.5:
            start = span_at(known.terms.window, self.world.time).start
            amount = self.random.choice((5, 10))
            return BudgetCorrected(budget_id=budget_id, key=self.random.choice(("", "x")), window=start, amount=amount)
        floor: dict[str, Any] = self.random.choice(({}, {"floor": 40, "floor_for": "priority >= 1"}))
        terms = BudgetTerms(
            cap=self.random.choice((50, 100, 200)),
            unit=self.random.choice(list(Unit)),
            by=self.random.choice(("all", "tenant", "program", "attributes.a")),
            where=self.random.choice(("", 'queue == "q1"')),
            window=self.random.choice(("30s", "1d", "month", "none")),
            stop=self.random.choice(list(Stop)),
            **floor,
        )
        return BudgetDefined(budget_id=budget_id, terms=terms)

    def set_prices(self) -> Event | None:
        models = self.random.choice(({}, {"m": Price(input_micros=5, output_micros=7)}))
        return PricesSet(version=self.pick("v", 99), models=models)

    def change_agents(self) -> Event | None:
        agents = self.random.choice(({}, {"a": AgentType(command=("a",))}, {"b": AgentType(image="b")}))
        return AgentsChanged(digest=self.pick("d", 99), agents=agents)

    def change_inbox(self) -> Event | None:
        domain = self.pick("domain", 3)
        known = self.world.inboxes.get(domain)
        created, sequence = (known.stream_created, known.sequence) if known is not None else ("once", 0)
        return self.random.choice((
            InboxRecorded(domain=domain, type="order.placed", event_id=self.pick("e", 99), data=Raw(b"[1]")),
            InboxRefused(domain=domain, sequence=sequence + 1, index=0, reason="unreadable", message="no JSON"),
            InboxRead(domain=domain, stream_created=created, sequence=sequence + 3, index=self.random.randint(0, 2)),
            InboxGap(
                domain=domain,
                stream_created=self.random.choice((created, "again")),
                from_sequence=sequence + 1,
                to_sequence=sequence + 5,
                why="removed",
            ),
        ))  # fmt: skip

    def forget_keys(self) -> Event | None:
        through = self.world.time - self.random.choice((0.0, 700.0, 90_000.0))
        return IdempotencyForgotten(tenant=self.random.choice(("acme", "blue")), through=through)

    def rounds(self) -> dict[str, float]:
        """Return how far some workers are in the rotation: it only grows."""
        known = self.world.workers.values()
        some = self.random.sample(sorted(one.worker_id for one in known), min(2, len(known)))
        return {one: self.world.workers[one].rounds + self.random.randint(1, 8) / 4 for one in some}

    def change_coordinator(self) -> Event | None:
        return self.random.choice((
            CoordinatorStarted(
                instance="i",
                version="0",
                retention_s=self.random.choice((20.0, 200.0, 1e6)),
                ended_kept=self.random.choice((0, 3, 12, 1000)),
            ),
            CoordinatorStopped(instance="i"),
            CoordinatorTurn(
                instance="i",
                now=self.world.time,
                claims=(),
                policy="schedule",
                policy_version=1,
                placed=2,
                rounds=self.rounds(),
            ),
            CoordinatorCommandRefused(
                instance="i", command="task.claim", reason="worker_draining", message="no", count=3
            ),
            CoordinatorPlacementRefused(container_id="c1", resources=NONE, reason="no_room", nodes={"n1": "is lost"}),
            CoordinatorMassSilenceNoticed(
                instance="i", kind=self.random.choice(list(Watched)), silent=20, alive=100, limit_s=90.0, most=0.15
            ),
            CoordinatorMassSilenceEnded(
                instance="i", kind=self.random.choice(list(Watched)), silent=20, accepted=self.random.random() < 0.5
            ),
        ))  # fmt: skip


_HAPPENINGS: tuple[Callable[[Historian], Event | None], ...] = (
    Historian.submit,
    Historian.start_task,
    Historian.end_attempt,
    Historian.cancel_task,
    Historian.pause_or_resume_task,
    Historian.unblock_task,
    Historian.step_to_cancel,
    Historian.refuse_report,
    Historian.change_worker,
    Historian.change_node,
    Historian.change_container,
    Historian.change_service,
    Historian.change_session,
    Historian.change_schedule,
    Historian.change_pool,
    Historian.change_queue,
    Historian.change_hold,
    Historian.change_limit,
    Historian.change_version,
    Historian.change_budget,
    Historian.set_prices,
    Historian.change_agents,
    Historian.change_inbox,
    Historian.change_coordinator,
    Historian.forget_keys,
)
_WEIGHTS = (16, 14, 11, 1, 4, 3, 4, 3, 2, 2, 10, 4, 2, 3, 3, 2, 3, 1, 0.7, 1, 0.3, 0.3, 2, 0.5, 0.5)
