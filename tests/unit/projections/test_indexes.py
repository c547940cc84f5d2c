"""Indexes return tasks in order, once each, when they are due; and never hold much more than what is live."""

from __future__ import annotations

import pytest

from events.base import Event
from events.container import ContainerCreated, ContainerDestroyed, ContainerStarting
from events.pool import PoolAllocated, PoolDefined, PoolReleased
from events.resources import Resources
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceRegistered, ServiceStatus
from events.session import SessionBound, SessionClosed
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskReportRefused,
    TaskStarted,
    TaskSubmitted,
)
from events.task_pause import TaskPaused, TaskResumed
from events.worker import WorkerLeft, WorkerRegistered
from projections.indexes import Indexes
from projections.ready import ORDERINGS, ShapeKey, priority_key, walk
from projections.world import World
from tests.specification import BEGIN, Scribe, fold, said, write
from tests.unit.projections.index_content import SPARE, assert_bounded, content_from, content_of

KEY = ShapeKey("n", "", Resources())


def submit(task_id: str, *, name: str = "n", timeout_s: float | None = None, priority: int = 0) -> TaskSubmitted:
    return TaskSubmitted(task_id=task_id, task_name=name, timeout_s=timeout_s, priority=priority)


def start(task_id: str, attempt: int = 1, worker_id: str = "w") -> TaskStarted:
    lease = f"{task_id}.{attempt}"
    return TaskStarted(task_id=task_id, worker_id=worker_id, claim_id=f"c{worker_id}", attempt=attempt, lease=lease)


def fail(task_id: str, retry_at: float, attempt: int = 1) -> TaskAttemptFailed:
    lease = f"{task_id}.{attempt}"
    return TaskAttemptFailed(task_id=task_id, lease=lease, error="e", reason="failed", retry_at=retry_at)


def ready(world: World, ordering: str = "fifo") -> list[str]:
    return [one.task_id for shape in world.indexes.lanes.usual.shapes.values() for _, one in shape.ordered(ordering)]


# --- ready and parked -------------------------------------------------------------------------------------------------


def test_a_retry_keeps_its_place_in_the_queue() -> None:
    """A requeued task was submitted first and goes first; waiting again does not lower its place."""
    world = fold(submit("a"), submit("b"), start("a"), fail("a", retry_at=0.0))
    assert ready(world) == ["a", "b"]
    assert world.indexes.ready == 2


@pytest.mark.parametrize("by_clock", [True, False], ids=["as the writer turns", "by the next commit"])
def test_a_parked_task_is_ready_when_its_time_has_come(by_clock: bool) -> None:
    """Not before `retry_at`, and from then on, whether the time comes from a turn or from a commit."""
    scribe = write(submit("a"), start("a"), fail("a", retry_at=BEGIN + 50), submit("b"))
    indexes = scribe.world.indexes

    def tell(now: float) -> None:
        if by_clock:
            indexes.advance(now)
        else:
            scribe.commit(said(submit(f"x{now}", name="other"), at=now))

    def waiting() -> list[str]:
        return [one.task_id for _, one in indexes.lanes.usual.shapes[KEY].ordered("fifo")]

    assert (waiting(), set(indexes.parked_members)) == (["b"], {"a"})
    tell(BEGIN + 49.999)
    assert waiting() == ["b"]
    tell(BEGIN + 50)
    assert waiting() == ["a", "b"]
    assert not indexes.parked
    assert not indexes.parked_members


def test_parked_tasks_come_in_the_order_of_their_time() -> None:
    """Many at once, each when it is due."""
    scribe = write(*(submit(f"t{number}") for number in range(5)), *(start(f"t{number}") for number in range(5)))
    for number in range(5):
        scribe.commit(fail(f"t{number}", retry_at=BEGIN + 1000 - 10 * number))
    for number in range(5):
        scribe.world.indexes.advance(BEGIN + 960 + 10 * number)
        assert set(scribe.world.indexes.parked_members) == {f"t{left}" for left in range(4 - number)}


def test_time_never_runs_back() -> None:
    """A turn with an earlier time does not park anything again."""
    indexes = fold(submit("a"), start("a"), fail("a", retry_at=BEGIN + 50)).indexes
    indexes.advance(BEGIN + 60)
    indexes.advance(BEGIN)
    assert indexes.now == BEGIN + 60
    assert not indexes.parked_members


@pytest.mark.parametrize("retry_at", [0.0, BEGIN + 500], ids=["ready", "parked"])
def test_a_refused_report_about_a_waiting_task_does_not_give_it_twice(retry_at: float) -> None:
    """The task keeps its place, once, and is returned with its new value."""
    scribe = write(submit("a"), submit("b"), start("b"), fail("b", retry_at=retry_at), submit("c"))
    assert ready(scribe.world, "priority") == (["a", "b", "c"] if not retry_at else ["a", "c"])
    for number in range(3):
        refused = TaskReportRefused(task_id="b", lease=f"l{number}", outcome="completed", worker_id="w")
        scribe.commit(refused)
    scribe.world.indexes.advance(BEGIN + 500)
    for ordering in ORDERINGS:
        assert ready(scribe.world, ordering) == ["a", "b", "c"]
    (shape,) = scribe.world.indexes.lanes.usual.shapes.values()
    assert shape.members["b"] == scribe.world.tasks["b"]
    assert shape.members["b"].refused_lease == "l2"
    assert content_of(scribe.world.indexes) == content_from(scribe.world)


def test_an_id_that_comes_back_is_another_task() -> None:
    """A heap entry left by an earlier task with that id does not move the new one to its place."""
    scribe = write(submit("first", priority=9), submit("x", priority=5), submit("y", priority=1))
    assert ready(scribe.world, "priority") == ["first", "x", "y"]
    assert ready(scribe.world) == ["first", "x", "y"]
    scribe.commit(TaskCancelled(task_id="x"))
    scribe.world.retention_s = 0.0
    scribe.commit(said(submit("z"), at=BEGIN + 100))
    assert "x" not in scribe.world.tasks
    scribe.commit(submit("x", priority=5))
    assert ready(scribe.world) == ["first", "y", "z", "x"]
    assert ready(scribe.world, "priority") == ["first", "x", "y", "z"]


def test_the_deadline_of_an_earlier_task_is_not_that_of_the_next_with_its_id() -> None:
    """A stale deadline with the same id and attempt is ignored."""
    scribe = write(submit("first", timeout_s=1.0), start("first"), submit("x", timeout_s=10.0), start("x"))
    scribe.commit(TaskCompleted(task_id="x", lease="x.1"))
    scribe.world.ended_kept = 0
    scribe.commit(submit("z"))
    scribe.commit(submit("x", timeout_s=500.0))
    scribe.commit(start("x"))
    assert list(scribe.world.indexes.overdue(BEGIN + 100)) == ["first"]
    assert list(scribe.world.indexes.overdue(BEGIN + 1000)) == ["first", "x"]


# --- running ----------------------------------------------------------------------------------------------------------


def test_what_a_worker_holds_and_a_claim_got_is_known_while_it_runs() -> None:
    """Tasks are found by worker and by claim, and no longer after the last has ended."""
    scribe = write(submit("a"), submit("b"), start("a"), start("b"))
    indexes = scribe.world.indexes
    assert {who: list(held) for who, held in indexes.held.items()} == {"w": ["a", "b"]}
    assert {claim_id: list(got) for claim_id, got in indexes.claims.items()} == {"cw": ["a", "b"]}
    scribe.commit(TaskCompleted(task_id="a", lease="a.1"))
    assert (list(indexes.held["w"]), list(indexes.claims["cw"])) == (["b"], ["b"])
    scribe.commit(fail("b", retry_at=0.0))
    assert (indexes.held, indexes.claims) == ({}, {})


def test_overdue_are_those_whose_time_is_up_earliest_first() -> None:
    """At its deadline a task is overdue; a task without a limit never is; an ended one no longer is."""
    scribe = Scribe()
    for task_id, timeout_s in (("slow", 100.0), ("quick", 10.0), ("free", None), ("done", 1.0)):
        scribe.commit(said(submit(task_id, timeout_s=timeout_s), at=BEGIN))
        scribe.commit(said(start(task_id), at=BEGIN))
    indexes = scribe.world.indexes
    scribe.commit(TaskCompleted(task_id="done", lease="done.1"))
    assert list(indexes.overdue(BEGIN + 9.999)) == []
    assert list(indexes.overdue(BEGIN + 10)) == ["quick"]
    assert list(indexes.overdue(BEGIN + 1e6)) == ["quick", "slow"]
    assert list(indexes.overdue(BEGIN + 10)) == ["quick"]


def test_deadlines_of_what_has_ended_are_pruned() -> None:
    """Stale entries go at once at the top; elsewhere before they are the majority."""
    scribe = write(submit("long", timeout_s=1e6), start("long"))
    for number in range(200):
        task_id = f"t{number}"
        scribe.commit(submit(task_id, timeout_s=1e7 + number), start(task_id))
        scribe.commit(TaskCompleted(task_id=task_id, lease=f"{task_id}.1"))
        assert len(scribe.world.indexes.deadlines) <= 2 + SPARE
    scribe.commit(TaskCompleted(task_id="long", lease="long.1"))
    assert scribe.world.indexes.deadlines == []


# --- services and containers ------------------------------------------------------------------------------------------


def service(service_id: str, name: str, status: ServiceStatus = ServiceStatus.HEALTHY) -> ServiceRegistered:
    return ServiceRegistered(
        service_id=service_id, service_name=name, service_type="t", host="h", port=1, status=status
    )


def test_services_are_found_by_name_and_status_while_they_are_registered() -> None:
    """A change of health or name moves them; a deregistered one is not found any more, nor is an empty name."""
    scribe = write(service("a", "x"), service("b", "x", ServiceStatus.UNKNOWN), service("c", "y"))

    def found() -> dict[str, dict[ServiceStatus, set[str]]]:
        groups: dict[str, dict[ServiceStatus, set[str]]] = content_of(scribe.world.indexes)["services"]
        return groups

    healthy, unknown, offline = ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN, ServiceStatus.OFFLINE
    assert found() == {"x": {healthy: {"a"}, unknown: {"b"}}, "y": {healthy: {"c"}}}
    scribe.commit(ServiceHealthChanged(service_id="a", status=offline, previous=healthy, rule="r"))
    assert found() == {"x": {offline: {"a"}, unknown: {"b"}}, "y": {healthy: {"c"}}}
    scribe.commit(service("c", "x"))
    assert found() == {"x": {offline: {"a"}, unknown: {"b"}, healthy: {"c"}}}
    for service_id in "abc":
        scribe.commit(ServiceDeregistered(service_id=service_id))
    assert scribe.world.indexes.services == {}
    scribe.commit(service("a", "x"))
    assert found() == {"x": {healthy: {"a"}}}


def test_containers_are_known_by_their_node_while_they_stand() -> None:
    """Starting elsewhere moves them; a destroyed one is on no node, though it is counted until it is evicted."""

    def created(container_id: str) -> ContainerCreated:
        return ContainerCreated(container_id=container_id, agent_id="a", agent_type="t", node_id="n1")

    scribe = write(created("c"), created("d"))
    indexes = scribe.world.indexes
    assert {node_id: set(there) for node_id, there in indexes.containers_on.items()} == {"n1": {"c", "d"}}
    scribe.commit(ContainerStarting(container_id="c", node_id="n2"))
    scribe.commit(ContainerDestroyed(container_id="d"))
    assert {node_id: set(there) for node_id, there in indexes.containers_on.items()} == {"n2": {"c"}}
    counts = content_of(indexes)["container counts"]
    assert {status.value: count for status, count in counts.items()} == {"starting": 1, "destroyed": 1}
    scribe.world.ended_kept = 0
    scribe.commit(said(submit("a"), at=BEGIN + 1000))
    assert "d" not in scribe.world.containers
    assert {status.value for status in content_of(indexes)["container counts"]} == {"starting"}


# --- what is whose ----------------------------------------------------------------------------------------------------


def test_who_owns_how_many_is_known_until_they_end() -> None:
    """Of each kind; what comes back under another source is that one's; older events name no source."""
    made: list[tuple[str, Event, Event]] = [
        (
            "owned_containers",
            ContainerCreated(container_id="x", agent_id="a", agent_type="t", node_id="n", owned=True),
            ContainerDestroyed(container_id="x"),
        ),
        (
            "owned_sessions",
            SessionBound(session_id="x", container_id="k", owned=True),
            SessionClosed(session_id="x"),
        ),
        ("owned_workers", WorkerRegistered(worker_id="x", owned=True), WorkerLeft(worker_id="x")),
        ("owned_services", service("x", "n"), ServiceDeregistered(service_id="x")),
        (
            "owned_allocations",
            PoolAllocated(pool_id="p", request_id="x", owned=True),
            PoolReleased(pool_id="p", request_id="x"),
        ),
    ]
    for name, begins, ends in made:
        scribe = write(PoolDefined(pool_id="p", capacity=Resources()), said(begins, actor="ann", tenant="blue"))
        owned = getattr(scribe.world.indexes, name)
        assert (owned.by_source, owned.by_tenant) == ({"ann": 1}, {"blue": 1}), name
        if name in {"owned_sessions", "owned_workers", "owned_services"}:
            scribe.commit(said(begins, actor="bob", tenant="red"))
            assert (owned.by_source, owned.by_tenant) == ({"bob": 1}, {"red": 1}), name
        scribe.commit(ends)
        assert (owned.by_source, owned.by_tenant) == ({}, {}), name


def test_a_pool_is_counted_for_who_defined_it() -> None:
    """For ever, as a pool is never removed; a new capacity is no further pool."""
    defined = PoolDefined(pool_id="p", capacity=Resources(), owned=True)
    more = PoolDefined(pool_id="p", capacity=Resources(gpus=1), owned=True)
    owned = fold(said(defined, actor="ann", tenant="blue"), said(more, actor="bob", tenant="red")).indexes.owned_pools
    assert (owned.by_source, owned.by_tenant) == ({"ann": 1}, {"blue": 1})


def test_what_older_releases_recorded_is_nobodys() -> None:
    """Their events do not say that it belongs to the source of the command; of the tenant they always did."""
    world = fold(
        *(
            said(one, actor="ann", tenant="blue")
            for one in (
                ContainerCreated(container_id="k", agent_id="a", agent_type="t", node_id="n"),
                SessionBound(session_id="z", container_id="k"),
                WorkerRegistered(worker_id="w"),
                PoolDefined(pool_id="p", capacity=Resources()),
                PoolAllocated(pool_id="p", request_id="r"),
            )
        )
    )
    indexes = world.indexes
    for owned in (indexes.owned_containers, indexes.owned_sessions, indexes.owned_workers):
        assert (owned.by_source, owned.by_tenant) == ({}, {"blue": 1})
    for owned in (indexes.owned_pools, indexes.owned_allocations):
        assert (owned.by_source, owned.by_tenant) == ({}, {})


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_heaps_stay_small_however_often_tasks_come_and_go() -> None:
    """A long-waiting task at the top must not keep a thousand stale entries below it."""
    scribe = write(submit("old", priority=1000))
    ready(scribe.world)
    ready(scribe.world, "priority")
    for number in range(1000):
        task_id = f"t{number}"
        scribe.commit(submit(task_id), TaskCancelled(task_id=task_id))
        assert_bounded(scribe.world.indexes)
    assert ready(scribe.world) == ["old"]


def test_tasks_are_still_in_order_after_a_heap_was_cleaned() -> None:
    """Live entries among the stale ones are kept, in order."""
    scribe = Scribe()
    for number in range(400):
        priority = number * 7 % 100
        scribe.commit(TaskSubmitted(task_id=f"t{number}", task_name="n", priority=priority))
    ready(scribe.world, "priority")
    for number in range(400):
        if number % 5:
            scribe.commit(TaskCancelled(task_id=f"t{number}"))
            assert_bounded(scribe.world.indexes)
    left = [task for task in scribe.world.tasks.values() if not task.is_ended]
    assert len(left) == 80
    assert ready(scribe.world, "priority") == [task.task_id for task in sorted(left, key=priority_key)]


def test_a_task_that_is_retried_for_ever_leaves_no_trail() -> None:
    """Each attempt has its own entries; those of earlier attempts are removed."""
    events: list[Event] = []
    for attempt in range(1, 300):
        events += [start("a", attempt), fail("a", retry_at=BEGIN + 1e6, attempt=attempt)]
    scribe = write(submit("old"), submit("a", timeout_s=1e6))
    ready(scribe.world)
    for event in events:
        scribe.commit(event)
        assert_bounded(scribe.world.indexes)
    assert set(scribe.world.indexes.parked_members) == {"a"}


def test_a_parked_task_that_was_called_off_does_not_come_back_at_its_time() -> None:
    """Entries of it that remain behind others in the heap are skipped."""
    scribe = write(submit("a"), submit("b"), start("a"), start("b"))
    scribe.commit(fail("a", retry_at=BEGIN + 50), fail("b", retry_at=BEGIN + 60), TaskCancelled(task_id="b"))
    indexes = scribe.world.indexes
    assert len(indexes.parked) == 2
    indexes.advance(BEGIN + 100)
    assert not indexes.parked
    assert ready(scribe.world) == ["a"]


def test_parked_tasks_that_are_called_off_leave_no_trail() -> None:
    """Their time may be far away; they are removed before it comes."""
    scribe = write(submit("soon"), start("soon"), fail("soon", retry_at=BEGIN + 1e5))
    for number in range(300):
        task_id = f"t{number}"
        scribe.commit(
            submit(task_id), start(task_id), fail(task_id, retry_at=BEGIN + 1e6), TaskCancelled(task_id=task_id)
        )
        assert_bounded(scribe.world.indexes)
    assert set(scribe.world.indexes.parked_members) == {"soon"}


def test_shapes_that_have_no_task_are_dropped_when_they_are_many() -> None:
    """A few are kept, because they come back; names made up for each task do not fill the memory."""
    scribe = Scribe()
    for number in range(600):
        scribe.commit(submit(f"t{number}", name=f"n{number}"))
    assert len(scribe.world.indexes.lanes.usual.shapes) == 600
    for number in range(600):
        scribe.commit(TaskCancelled(task_id=f"t{number}"))
        assert_bounded(scribe.world.indexes)
    assert len(scribe.world.indexes.lanes.usual.shapes) == 256
    assert scribe.world.indexes.ready == 0


def test_new_indexes_hold_nothing() -> None:
    """Every status is counted from the start."""
    indexes = Indexes()
    assert not any(indexes.tasks.values())
    assert content_of(indexes) == content_from(World())
    assert indexes.ready == 0
    assert list(walk(indexes.parked)) == []


def test_a_task_that_was_paused_and_resumed_is_ready_once() -> None:
    """The key that it had before its pause does not make it appear twice."""
    scribe = write(*(TaskSubmitted(task_id=name, task_name="n") for name in "abc"))
    world = scribe.world
    list(world.indexes.lanes.usual.in_order("fifo"))
    for _ in range(3):
        scribe.commit(TaskPaused(task_id="b", reason="r"))
        assert world.indexes.ready == 2
        scribe.commit(TaskResumed(task_id="b"))
    (shape,) = world.indexes.lanes.usual.shapes.values()
    for ordering in ("fifo", "priority"):
        assert [task.task_id for _, task in shape.ordered(ordering)] == ["a", "b", "c"]
