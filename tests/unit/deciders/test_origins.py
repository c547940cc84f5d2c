"""Where events come from: their tenant, their trace and their cause, as the writer records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.session import BindSession
from coordinator.deciders.origins import NO_ORIGIN, ORIGINS
from coordinator.engine.turn import Turn
from events import codec
from events.container import ContainerDestroyed
from events.node import NodeCordoned, NodeRemoved, NodeReturned
from events.pool import PoolAllocated, PoolDefined, PoolReleased, PoolRequested
from events.resources import NONE as NOTHING
from events.schedule import ScheduleDefined, ScheduleFired, TaskContent, Timing
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.session import SessionBound, SessionClosed
from events.task import Occurrence, TaskCancelled, TaskProgressed, TaskReportRefused
from events.worker import WorkerDraining, WorkerLeft, WorkerLost
from projections.source import Record
from projections.world import World
from tests.specification import given
from tests.unit.deciders.facts import (
    BEGIN,
    attempt_failed,
    completed,
    crashed,
    create,
    created,
    failed,
    health,
    lost,
    no_room,
    node,
    register_service,
    resources,
    running,
    service,
    started,
    starting,
    stopped,
    stopping,
    submit,
    submitted,
    worker,
)

if TYPE_CHECKING:
    from events.base import Envelope, Event

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BLUE = Caller(actor="shop", tenant="blue", traceparent=TRACE)
OPERATOR = Caller(actor="operator", traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-00")
COORDINATOR = Caller(actor="coordinator")
UNHEALTHY, HEALTHY, OFFLINE = ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY, ServiceStatus.OFFLINE


@pytest.mark.parametrize("trace", ["", TRACE])
def test_what_a_command_creates_has_the_trace_of_the_command(trace: str) -> None:
    """The event that creates it says so; a repeat with another trace changes nothing."""
    traced = bool(trace)
    again = "00-" + "3" * 32 + "-" + "4" * 16 + "-00"
    bound = SessionBound(session_id="u", container_id="k", traced=traced, owned=True)
    closed = SessionClosed(session_id="u")
    for facts, command, events in (
        ((), submit(), (submitted(traced=traced),)),
        ((), register_service(), (service(traced=traced),)),
        ((node(),), create(session_id="u"), (created(session_id="u", traced=traced), bound)),
        ((node(), created()), BindSession(session_id="u", container_id="k"), (bound,)),
        ((node(), created(), bound, closed), BindSession(session_id="u", container_id="k"), (bound,)),
    ):
        given(*facts).when(command, traceparent=trace).then(*events)
        given(*facts, *events).when(command, traceparent=again).then_nothing()


class Writer:
    """Records events like the engine: each call is one commit, of the events of one command."""

    def __init__(self) -> None:
        self.world = World()
        self.records: list[Record] = []

    def writes(self, *events: Event, caller: Caller = COORDINATOR) -> tuple[Envelope, ...]:
        """Commit *events*; return them as written."""
        turn = Turn(self.world, now=BEGIN + len(self.records), bytes_max=100_000)
        turn.record(events, caller)
        before, body = turn.seal()
        self.records.append(Record(sequence=turn.sequence, kind="commit", body=body, chain=before.hex()))
        return tuple(codec.decode(body))

    def write(self, event: Event, caller: Caller = COORDINATOR) -> Envelope:
        """Commit one event; return it as written."""
        return self.writes(event, caller=caller)[0]

    def cause(self, event: Event) -> str:
        """Commit one event; return its cause."""
        return self.write(event).causationid

    def check(self) -> None:
        """Check that other folds are the same, one that began with a snapshot too."""
        for begun in range(len(self.records)):
            world = World()
            for number, record in enumerate(self.records):
                world = World.restore(world.snapshot()) if number == begun else world
                world.apply_record(record)
            assert world.digest() == self.world.digest()


@pytest.fixture
def writer() -> Any:
    one = Writer()
    yield one
    one.check()


def origin(world: World, event: Event) -> tuple[str, str, str]:
    find = ORIGINS.get(type(event))
    return NO_ORIGIN if find is None else find(world, event, {})


def origins(*envelopes: Envelope) -> list[tuple[str, str, str]]:
    return [(one.tenant, one.traceparent, one.causationid) for one in envelopes]


def test_a_task_keeps_its_tenant_and_trace_to_its_end(writer: Writer) -> None:
    """In every event about it, whoever sends the command; each names the one before as its cause."""
    writer.write(worker(), caller=OPERATOR)
    written = [
        writer.write(submitted(traced=True), caller=BLUE),
        writer.write(started()),
        writer.write(TaskProgressed(task_id="t", lease="c.1.1", progress=0.5)),
        writer.write(attempt_failed()),
        writer.write(started(lease="c.2.2")),
        writer.write(TaskReportRefused(task_id="t", lease="c.1.1", outcome="completed", worker_id="v")),
        writer.write(completed(lease="c.2.2"), caller=OPERATOR),
        writer.write(TaskReportRefused(task_id="t", lease="c.9.9", outcome="completed", worker_id="v")),
    ]
    assert origins(*written) == [
        ("blue", TRACE, cause) for cause in ("", "2.0", "3.0", "3.0", "5.0", "6.0", "6.0", "8.0")
    ]
    assert written[6].actor == "operator"
    assert (writer.world.tasks["t"].traceparent, writer.world.latest) == (TRACE, {})


def test_a_task_without_a_trace_has_none(writer: Writer) -> None:
    """Its state is no larger, and an event about it has the trace of the command, if that has one."""
    writer.write(submitted(), caller=Caller(actor="shop", tenant="blue"))
    assert origins(writer.write(TaskCancelled(task_id="t"), caller=OPERATOR)) == [("blue", OPERATOR.traceparent, "1.0")]
    assert writer.world.tasks["t"].traceparent == ""


def test_events_of_older_releases_leave_no_trace(writer: Writer) -> None:
    """Their states are what they always were: only an event that says so makes its trace that of the thing."""
    writer.write(submitted(), caller=BLUE)
    writer.write(created(), caller=BLUE)
    writer.write(service(), caller=BLUE)
    writer.write(SessionBound(session_id="u", container_id="k"), caller=BLUE)
    world = writer.world
    for one in (world.tasks["t"], world.containers["k"], world.services["s"], world.sessions["u"]):
        assert one.traceparent == ""
    assert origins(writer.write(started())) == [("blue", "", "1.0")]


def test_causes_in_one_command(writer: Writer) -> None:
    """An attempt that starts and ends at once; placements of a turn; the end of a worker and that of its attempts."""
    writer.write(worker())
    writer.writes(submitted(), submitted("u"), submitted("v"))
    assert [one.causationid for one in writer.writes(started(), completed())] == ["2.0", "3.0"]
    placed = writer.writes(started("u", lease="c.2.1"), started("v", lease="c.3.1"))
    assert [one.causationid for one in placed] == ["2.1", "2.2"]
    left = writer.writes(WorkerLeft(worker_id="w"), attempt_failed("u", lease="c.2.1"))
    assert [one.causationid for one in left] == ["1.0", "5.0"]
    assert writer.cause(failed("v", lease="c.3.1")) == "5.0"


def test_a_worker(writer: Writer) -> None:
    """Its events have its tenant; after its end, the next one comes from that end."""
    writer.write(worker(), caller=BLUE)
    drained = writer.write(WorkerDraining(worker_id="w"), caller=OPERATOR)
    assert origins(drained) == [("blue", OPERATOR.traceparent, "1.0")]
    assert writer.cause(WorkerLost(worker_id="w", silent_for_s=9.0, limit_s=5.0)) == "2.0"
    assert writer.cause(WorkerLeft(worker_id="w")) == "3.0"
    assert writer.cause(worker()) == ""


def test_the_attempt_of_a_worker_that_is_not_known(writer: Writer) -> None:
    """It fails because it was started."""
    writer.write(submitted())
    writer.write(started())
    assert writer.cause(attempt_failed()) == "2.0"


def test_a_container_its_session_and_what_is_in_it(writer: Writer) -> None:
    """All have its tenant and trace but what registers by itself; their causes lead to the operator's command."""
    writer.write(node())
    made = writer.writes(
        created(session_id="u", traced=True), SessionBound(session_id="u", container_id="k", traced=True), caller=BLUE
    )
    assert origins(*made) == [("blue", TRACE, ""), ("blue", TRACE, "2.0")]
    assert origins(writer.write(starting())) == [("blue", TRACE, "2.0")]
    assert writer.cause(running()) == "3.0"
    registered = writer.writes(service(container_id="k"), worker(container_id="k"), caller=Caller(actor="agent"))
    assert origins(*registered) == [("default", "", "4.0")] * 2
    stop = writer.writes(
        stopping(destroy=True),
        WorkerDraining(worker_id="w", reason="container_stopping"),
        ServiceDeregistered(service_id="s", reason="container_stopping"),
        caller=OPERATOR,
    )
    assert [one.causationid for one in stop] == ["4.0", "6.0", "6.0"]
    end = writer.writes(
        ContainerDestroyed(container_id="k"),
        SessionClosed(session_id="u", reason="its container was destroyed"),
        WorkerLeft(worker_id="w", reason="container_destroyed"),
    )
    assert [one.causationid for one in end] == ["6.0", "7.0", "7.0"]
    assert origins(end[1])[0][:2] == ("blue", TRACE)
    # What did not fit into the commit follows later.
    assert writer.cause(worker(container_id="k")) == "7.0"
    assert writer.cause(WorkerLeft(worker_id="w", reason="container_destroyed")) == "7.0"


def test_sessions_alone(writer: Writer) -> None:
    """One that is bound later was caused by its command; one that outlived its container ends because of that."""
    writer.write(node())
    writer.write(created())
    bound = writer.write(SessionBound(session_id="u", container_id="k", traced=True), caller=BLUE)
    assert origins(bound) == [("blue", TRACE, "")]
    assert origins(writer.write(SessionClosed(session_id="u"), caller=OPERATOR)) == [("blue", TRACE, "3.0")]
    writer.write(SessionBound(session_id="v", container_id="k"))
    writer.write(ContainerDestroyed(container_id="k"))
    assert writer.cause(SessionClosed(session_id="v")) == "6.0"


def test_a_service(writer: Writer) -> None:
    """Each change of its health comes from the one before; a new registration begins again."""
    writer.write(service(traced=True), caller=BLUE)
    assert origins(writer.write(health(UNHEALTHY, HEALTHY))) == [("blue", TRACE, "1.0")]
    assert writer.cause(health(HEALTHY, UNHEALTHY)) == "2.0"
    assert writer.cause(service()) == ""
    assert writer.cause(health(UNHEALTHY, HEALTHY)) == "4.0"
    assert writer.cause(ServiceDeregistered(service_id="s", reason="container_of_ours_is_unknown")) == "5.0"


def test_a_pause_of_a_container(writer: Writer) -> None:
    """It takes a service out of discovery."""
    for event in (node(), created(), starting(), running(), service(container_id="k")):
        writer.write(event)
    paused = ServiceHealthChanged(service_id="s", status=OFFLINE, previous=HEALTHY, rule="container_paused")
    assert writer.cause(paused) == "4.0"


def test_a_lost_node(writer: Writer) -> None:
    """Its containers fail because of it; a failure of their own comes from their start."""
    for event in (node(), created(), starting(), running()):
        writer.write(event)
    assert [writer.cause(one) for one in (lost(), crashed())] == ["1.0", "5.0"]
    assert writer.cause(no_room("k", resources())[0]) == "6.0"
    assert writer.cause(starting()) == "6.0"
    returned = writer.writes(NodeReturned(node_id="n"), crashed(generation="8.0"))
    assert [one.causationid for one in returned] == ["5.0", "8.0"]
    assert writer.cause(NodeCordoned(node_id="n")) == "9.0"
    assert writer.cause(starting()) == "9.1"
    assert writer.cause(crashed(generation="11.0")) == "11.0"
    assert writer.cause(NodeRemoved(node_id="n")) == "10.0"


def test_a_container_of_which_only_the_state_is_known() -> None:
    """As after the restore of an older release's snapshot: its generation or its end is the cause."""
    writer = Writer()
    for event in (node(), created(), starting(), running()):
        writer.write(event)
    writer.world.latest.clear()
    assert origin(writer.world, stopping())[2] == "3.0"
    assert origin(writer.world, crashed())[2] == "3.0"
    writer.writes(stopping(), stopped(), ContainerDestroyed(container_id="k"))
    assert origin(writer.world, worker(container_id="k"))[2] == "5.2"


def test_a_lost_node_of_which_only_the_state_is_known() -> None:
    """Then the start of the container is the nearest cause that is known."""
    writer = Writer()
    for event in (node(), created(), starting(), lost()):
        writer.write(event)
    del writer.world.latest["node/n"]
    assert origin(writer.world, crashed())[2] == "3.0"


@pytest.mark.parametrize(
    "event",
    [
        PoolDefined(pool_id="p", capacity=NOTHING),
        completed(),
        running(),
        health(UNHEALTHY, HEALTHY),
        WorkerLeft(worker_id="w"),
        lost(),
        SessionClosed(session_id="u"),
        no_room("k", resources())[0],
    ],
)
def test_what_is_about_nothing_known_comes_from_its_command(event: Event) -> None:
    """As is an event about a pool, or about a thing that does not exist."""
    assert origin(World(), event) == NO_ORIGIN


def test_what_happens_to_a_share_happens_to_the_tenant_that_asked_for_it() -> None:
    """Although the coordinator decides it later; a new share comes from its command."""
    writer = Writer()
    writer.write(PoolDefined(pool_id="p", capacity=resources(cpu=4)))
    allocated = PoolAllocated(pool_id="p", request_id="r", owned=True)
    assert origin(writer.world, allocated) == NO_ORIGIN
    writer.write(PoolRequested(pool_id="p", request_id="r", owned=True), BLUE)
    assert origin(writer.world, allocated) == ("blue", "", "")
    writer.write(allocated)
    assert origin(writer.world, PoolReleased(pool_id="p", request_id="r")) == ("blue", "", "")
    assert origin(World(), PoolReleased(pool_id="p", request_id="r")) == NO_ORIGIN


def test_the_task_of_a_slot_comes_from_its_schedule() -> None:
    """It has the tenant of the schedule, and its last event as the cause; other tasks come from their command."""
    writer = Writer()
    content = TaskContent(task_name="work")
    writer.write(ScheduleDefined(schedule_id="s", timing=Timing(every_s=60), task=content), BLUE)
    task = submitted(occurrence=Occurrence(schedule_id="s", slot=60))
    assert origin(writer.world, task) == ("blue", "", "1.0")
    fired = ScheduleFired(schedule_id="s", slot=60, task_id="t")
    assert origin(writer.world, fired) == ("blue", "", "1.0")
    assert origin(writer.world, submitted()) == NO_ORIGIN
    assert origin(World(), task) == NO_ORIGIN
