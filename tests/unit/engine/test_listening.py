"""Signs of life, time and hints in the engine."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.container import (
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.commands.service import (
    FindServices,
    GetHealthHistory,
    GetService,
    HeartbeatService,
    ReportCheck,
    ServiceLoad,
)
from coordinator.commands.task import CancelTask
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.rules import Limits, Rules
from coordinator.errors import Refused
from events.node import NodeLost
from events.service import ServiceDeregistered, ServiceHealthChanged, ServiceStatus
from events.task import TaskAttemptFailed, TaskStatus, TaskTimedOut
from events.worker import WorkerLost
from projections.node import NodeStatus
from projections.worker import WorkerStatus
from tests.unit.deciders.facts import (
    NAN,
    URL,
    claim,
    complete,
    create,
    register_node,
    register_service,
    resources,
    submit,
)
from tests.unit.engine.engine_rig import PATIENCE_S, TICK_S, Rig, leading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG_AGO_S = 10_000.0


async def an_old_writer(rig: Rig) -> None:
    """Let the writer lead for long, so that an entity that was never heard counts as silent."""
    rig.hands.turn(LONG_AGO_S)
    await rig.settle()


async def test_what_has_just_registered_is_not_silent() -> None:
    """A registration is a sign of life: worker, service and node have their full limit from then on."""
    async with leading() as rig:
        await an_old_writer(rig)
        await rig.order(RegisterWorker(worker_id="w"))
        await rig.order(register_service())
        await rig.order(register_node())
        rig.hands.turn(20.0)
        await rig.settle()
        assert rig.world.workers["w"].status is WorkerStatus.ACTIVE
        assert rig.world.services["s"].status is ServiceStatus.HEALTHY
        assert rig.world.nodes["n"].status is NodeStatus.READY


async def test_the_silent_are_given_up_with_the_evidence() -> None:
    """Due events need no command."""
    async with leading() as rig:
        await rig.order(RegisterWorker(worker_id="w"))
        await rig.order(register_service())
        await rig.order(register_node())
        rig.hands.turn(100.0)
        await rig.settle()
        lost, offline, gone = rig.events()[-3:]
        assert lost == WorkerLost(worker_id="w", silent_for_s=100.0, limit_s=60.0)
        assert isinstance(offline, ServiceHealthChanged)
        assert (offline.status, offline.silent_for_s, offline.limit_s) == (ServiceStatus.OFFLINE, 100.0, 90.0)
        assert gone == NodeLost(node_id="n", silent_for_s=100.0, limit_s=22.5)
        assert {one.actor for one in rig.commits()[-1]} == {"coordinator"}


async def test_each_task_of_a_claim_lives_by_itself() -> None:
    """The end of one does not end the lease of the other, and a heartbeat that leaves one out does not renew it."""
    async with leading() as rig:
        await an_old_writer(rig)
        for name in ("a", "b", "c"):
            await rig.order(submit(name))
        a, b, c = await rig.order(claim(slots=3))
        await rig.order(complete(a.lease, "a"))
        rig.hands.turn(29.0)
        await rig.settle()
        assert rig.world.tasks["b"].status is TaskStatus.RUNNING
        rig.engine.listening.hear_worker("w", (b.lease,), 0.0)
        rig.hands.turn(2.0)
        await rig.settle()
        assert rig.world.tasks["b"].status is TaskStatus.RUNNING
        lapsed = rig.events()[-1]
        assert isinstance(lapsed, TaskAttemptFailed)
        assert (lapsed.task_id, lapsed.lease, lapsed.silent_for_s) == ("c", c.lease, 31.0)


async def test_a_lapsed_lease_goes_to_who_waits() -> None:
    """After its pause; the late report of the first worker is refused."""
    async with leading(rules=Rules(retry_backoff_s=1.0)) as rig:
        await rig.order(submit())
        (task,) = await rig.order(claim())
        rig.hands.turn(31.0)
        await rig.settle()
        told = rig.ask(claim("d", "v", wait_s=30.0))
        await rig.settle()
        assert not told.yet
        rig.hands.turn(1.0)
        (again,) = await told.outcome()
        assert (again.worker_id, again.attempt, again.failures) == ("v", 2, 1)
        assert (await rig.ask(complete(task.lease)).error()).code == "stale_lease"
        await rig.order(complete(again.lease))


async def test_an_attempt_that_takes_too_long_times_out() -> None:
    """By commit time, without a command; its worker gets the hint that its lease is lost."""
    async with leading(rules=Rules(lease_s=1e6)) as rig:
        await rig.order(submit(timeout_s=5.0))
        (task,) = await rig.order(claim())
        rig.hands.turn(6.0)
        await rig.settle()
        assert rig.events()[-1] == TaskTimedOut(task_id="t", lease=task.lease, ran_for_s=6.0, limit_s=5.0, attempt=1)
        assert rig.notices == [("worker", "w", {"lost": [task.lease]})]
        assert (await rig.ask(complete(task.lease)).error()).reason == "already_ended"


async def test_what_time_owes_is_committed_in_as_many_commits_as_it_takes() -> None:
    """All of it, although no commit can hold it."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=3000), rules=Rules(mass_silence_share=1.0)) as rig:
        names = [f"w{number}" for number in range(40)]
        for name in names:
            await rig.order(RegisterWorker(worker_id=name))
        rig.hands.turn(61.0)
        for _ in range(12):
            await rig.settle()
        assert {one.status for one in rig.world.workers.values()} == {WorkerStatus.LOST}
        assert [event.subject for event in rig.events() if isinstance(event, WorkerLost)] == names
        assert max(len(record.body) for record in rig.records()) <= 3000


async def test_a_lease_outlives_the_end_of_a_task_that_had_one_of_that_name() -> None:
    """A repeated claim leads to the same lease names: the current holder of such a lease keeps it."""
    async with leading(rules=Rules(lease_s=3.0, worker_timeout_s=60.0, retry_backoff_s=3600.0)) as rig:
        await rig.order(submit("a"))
        (first,) = await rig.order(claim())
        await rig.order(submit("b"))
        rig.hands.turn(3.1)
        await rig.settle()
        (second,) = await rig.order(claim())
        assert (first.task_id, second.task_id, second.lease) == ("a", "b", first.lease)
        await rig.order(CancelTask(task_id="a"))
        rig.hands.turn(2.0)
        await rig.settle()
        assert rig.world.tasks["b"].status is TaskStatus.RUNNING
        assert rig.notices == []


async def test_a_lease_begins_when_its_commit_is_kept() -> None:
    """The worker cannot know its lease before the commit: a commit that takes longer than a lease does not end it."""
    async with leading(rules=Rules(lease_s=30.0, worker_timeout_s=600.0)) as rig:
        await rig.order(submit())
        rig.network.gate.clear()
        told = rig.ask(claim())
        async with asyncio.timeout(PATIENCE_S):
            while rig.world.tasks["t"].status is not TaskStatus.RUNNING:  # noqa: ASYNC110  # the engine tells nobody
                await asyncio.sleep(TICK_S)
        rig.hands.turn(100.0)
        rig.let_go()
        (task,) = await told.outcome()
        rig.hands.turn(29.0)
        await rig.settle()
        await rig.order(complete(task.lease))


async def test_after_a_standstill_everything_has_its_whole_time_again() -> None:
    """After a standstill the writer declares nothing silent until one full period has passed."""
    async with leading(blind_after_s=2.0) as rig:
        await rig.order(RegisterWorker(worker_id="w"))
        await rig.order(submit())
        (task,) = await rig.order(claim())
        rig.hands.turn(600.0)
        await rig.settle()
        await rig.order(complete(task.lease))
        assert rig.world.workers["w"].status is WorkerStatus.ACTIVE


async def test_a_short_standstill_changes_nothing() -> None:
    """Otherwise a machine that is busy now and then would never declare anything lost."""
    async with leading(blind_after_s=2.0) as rig:
        await rig.order(RegisterWorker(worker_id="w"))
        for _ in range(61):
            rig.hands.turn(1.0)
            await rig.settle()
        assert rig.world.workers["w"].status is WorkerStatus.LOST


# --- workers ----------------------------------------------------------------------------------------------------------


async def test_a_worker_is_told_which_of_its_leases_are_lost() -> None:
    """When it names them in a heartbeat, and at once when a task is cancelled."""
    async with leading() as rig:
        await rig.order(submit("a"))
        await rig.order(submit("b"))
        a, b = await rig.order(claim(slots=2))
        rig.engine.listening.hear_worker("w", (a.lease, b.lease), 0.5)
        assert rig.notices == []
        await rig.order(CancelTask(task_id="a"))
        assert rig.notices == [("worker", "w", {"lost": [a.lease]})]
        rig.notices.clear()
        rig.engine.listening.hear_worker("w", (a.lease, b.lease), 0.5)
        assert rig.notices == [("worker", "w", {"lost": [a.lease]})]


async def test_a_worker_that_was_replaced_is_told_so() -> None:
    """What still runs there keeps its lease, but it is no sign of life of the one that took over."""
    async with leading(rules=Rules(lease_s=30.0)) as rig:
        await rig.order(RegisterWorker(worker_id="w", registration="first"))
        await rig.order(submit())
        (task,) = await rig.order(claim(registration="first"))
        rig.engine.listening.hear_worker("w", (task.lease,), 0.5, "first")
        rig.hands.turn(20.0)
        await rig.order(RegisterWorker(worker_id="w", registration="second"))
        assert rig.notices == []
        for _ in range(2):
            rig.hands.turn(15.0)
            rig.engine.listening.hear_worker("w", (task.lease,), 0.5, "first")
            assert rig.notices.pop() == ("worker", "w", {"lost": [], "replaced": "first"})
        await rig.settle()
        assert rig.world.tasks["t"].status is TaskStatus.RUNNING
        assert await rig.order(RegisterWorker(worker_id="w", registration="third"))
        rig.engine.listening.hear_worker("w", (), 0.5, "third")
        assert rig.notices == []


async def test_the_heartbeat_of_a_service_that_was_replaced_is_dropped() -> None:
    """It neither keeps the service of the other program alive nor reports its load."""

    async def status_after(registration: str) -> ServiceStatus:
        rig.engine.listening.hear_service("s", ServiceLoad(heard_s_ago=0.0, load=0.5), registration)
        await rig.settle()
        return rig.world.services["s"].status

    async with leading(rules=Rules(heartbeat_timeout_s=90.0)) as rig:
        for name in ("first", "second"):
            await rig.order(register_service(registration=name))
        rig.hands.turn(91.0)
        assert await status_after("first") is ServiceStatus.OFFLINE
        assert await status_after("first") is ServiceStatus.OFFLINE
        assert await status_after("second") is ServiceStatus.HEALTHY


async def test_calling_off_what_nobody_holds_tells_nobody() -> None:
    """Even if someone held it once."""
    async with leading() as rig:
        await rig.order(submit())
        await rig.order(CancelTask(task_id="t"))
        assert rig.notices == []


async def test_a_writer_that_may_not_lead_calls_no_lease_lost() -> None:
    """It does not know the leases of the next writer, and a worker would drop a good attempt."""
    fresh = False
    async with leading(is_fresh=lambda: fresh) as rig:
        rig.engine.listening.hear_worker("w", ("of.another.1",), 0.0)
        assert rig.notices == []
        fresh = True
        rig.engine.listening.hear_worker("w", ("of.another.1",), 0.0)
        assert len(rig.notices) == 1
        rig.engine.resign("enough")
        await rig.run
        rig.engine.listening.hear_worker("w", ("of.another.1",), 0.0)
        assert len(rig.notices) == 1


async def test_a_load_that_is_no_number_does_not_get_into_the_journal() -> None:
    """NaN could be written but not decoded."""
    async with leading() as rig:
        told = rig.ask(claim(wait_s=30.0, strategy="least_loaded"))
        await rig.settle()
        rig.engine.listening.hear_worker("w", (), NAN)
        await rig.order(submit())
        assert (await told.outcome())[0].task_id == "t"
        assert b"null" not in rig.records()[-1].body


# --- services ---------------------------------------------------------------------------------------------------------


async def test_heartbeats_keep_a_service_alive_without_a_word_on_record() -> None:
    """The last reported load is part of the answer."""
    async with leading() as rig:
        await rig.order(register_service())
        before = len(rig.commits())
        for _ in range(5):
            rig.hands.turn(60.0)
            rig.engine.listening.hear_service("s", ServiceLoad(heard_s_ago=0.0, load=0.5, connections=3))
            await rig.settle()
        assert len(rig.commits()) == before
        rig.hands.turn(2.5)
        (view,) = rig.engine.ask_now(FindServices())
        assert view.reported == ServiceLoad(heard_s_ago=2.5, load=0.5, connections=3)


@pytest.mark.parametrize("by_order", [False, True])
async def test_a_silent_service_comes_back_by_its_heartbeat(by_order: bool) -> None:
    """A heartbeat on the stream and a heartbeat command both do it; the reported load is kept."""
    async with leading() as rig:
        await rig.order(register_service())
        rig.hands.turn(91.0)
        await rig.settle()
        assert rig.world.services["s"].status is ServiceStatus.OFFLINE
        load = ServiceLoad(heard_s_ago=0.0, load=0.25, connections=7, response_time_ms=3.0)
        if by_order:
            await rig.order(HeartbeatService(service_id="s", load=0.25, connections=7, response_time_ms=3.0))
        else:
            rig.engine.listening.hear_service("s", load)
        view = await rig.order(GetService(service_id="s"))
        assert (view.service.status, view.reported) == (ServiceStatus.HEALTHY, load)


async def test_a_heartbeat_that_is_refused_leaves_no_sign() -> None:
    """A load of NaN must not decide which service is found."""
    async with leading() as rig:
        await rig.order(register_service())
        error = await rig.ask(HeartbeatService(service_id="s", load=NAN)).error()
        assert isinstance(error, Refused)
        assert rig.engine.ask_now(GetService(service_id="s")).reported is None
        await rig.ask(HeartbeatService(service_id="nobody")).error()
        assert set(rig.engine.signs.services) == {"s"}


async def test_health_follows_reported_checks() -> None:
    """The first decides, then two in a row do; followers are told of each check with what it led to."""
    async with leading() as rig:
        await rig.order(register_service(health_check_url=URL))
        for ok in (True, False, True, False, False, True, True):
            await rig.order(ReportCheck(service_id="s", ok=ok, check="http", latency_ms=1.5))
            await rig.settle()
        told = [body for kind, about, body in rig.notices if (kind, about) == ("check", "s")]
        assert [one["status"] for one in told] == [*["healthy"] * 4, *["unhealthy"] * 2, "healthy"]
        assert [one["number"] for one in told] == [1, 2, 3, 4, 5, 6, 7]
        assert {one["reign"] for one in told} == {"1.1"}
        history = await rig.order(GetHealthHistory(service_id="s"))
        assert [(one.status.value, one.number, one.is_change) for one in history] == [("healthy", 7, False)]
        assert sum(isinstance(event, ServiceHealthChanged) for event in rig.events()) == 3


async def test_a_service_that_passes_its_checks_is_not_silent() -> None:
    """A passed check replaces the heartbeats, or the service would alternate between offline and healthy."""
    async with leading() as rig:
        await rig.order(register_service())
        for _ in range(6):
            rig.hands.turn(60.0)
            await rig.order(ReportCheck(service_id="s", ok=True, check="custom"))
            await rig.settle()
        assert not any(isinstance(event, ServiceHealthChanged) for event in rig.events())


async def test_a_check_of_what_is_not_registered_is_not_kept() -> None:
    """It is not found."""
    async with leading() as rig:
        error = await rig.ask(ReportCheck(service_id="nobody", ok=True, check="http")).error()
        assert (error.code, rig.engine.signs.checks) == ("not_found", {})


# --- nodes and containers ---------------------------------------------------------------------------------------------


async def seen(rig: Rig, state: str, **others: Any) -> Any:
    """Let node `n` report container `k`, of the generation that was last started."""
    generation = rig.world.containers["k"].generation
    one = ObservedContainer(container_id="k", generation=generation, state=state, **others)
    return await rig.order(SyncNode(node_id="n", observed=() if state == "absent" else (one,)))


def status_of(rig: Rig, node_id: str) -> NodeStatus:
    return rig.world.nodes[node_id].status


async def test_a_node_is_told_at_once_that_something_changed_for_it() -> None:
    """It is only a hint: the node gets its orders at its next sync."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        orders: list[Any] = [
            (StartContainer(container_id="k"), "running"),
            (PauseContainer(container_id="k"), "paused"),
            (ResumeContainer(container_id="k"), "running"),
            (StopContainer(container_id="k"), "exited"),
        ]
        for number, (order, state) in enumerate(orders):
            assert len(rig.notices) == number
            await rig.order(order)
            await seen(rig, state, exit_code=0)
        await rig.order(DestroyContainer(container_id="k"))
        assert rig.notices == [("node", "n", {"lost": []})] * 5


@asynccontextmanager
async def with_worker_in_container() -> AsyncIterator[Rig]:
    """Lead with container `k` that runs, a service and a worker in it, and a task that this worker holds."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        await rig.order(StartContainer(container_id="k"))
        await seen(rig, "running", pid=1)
        await rig.order(register_service(container_id="k"))
        await rig.order(RegisterWorker(worker_id="w", container_id="k"))
        await rig.order(submit())
        await rig.order(claim())
        yield rig


async def pass_time(rig: Rig, seconds: int, state: str) -> None:
    for _ in range(seconds // 10):
        rig.hands.turn(10.0)
        await seen(rig, state)
        await rig.settle()


async def test_a_pause_may_last_longer_than_leases_and_limits() -> None:
    """Nothing in the container is given up, and all of it has its whole time again when it continues."""
    async with with_worker_in_container() as rig:
        await rig.order(PauseContainer(container_id="k"))
        assert rig.engine.ask_now(FindServices(status=ServiceStatus.HEALTHY)) == []
        await pass_time(rig, 200, "paused")
        await rig.order(ResumeContainer(container_id="k"))
        await pass_time(rig, 10, "running")
        assert status_of(rig, "n") is NodeStatus.READY
        (view,) = rig.engine.ask_now(FindServices(status=ServiceStatus.HEALTHY))
        assert view.service.health_rule == "container_resumed"
        await pass_time(rig, 20, "running")
        assert (await rig.order(complete())) is None
        changes = [event.rule for event in rig.events() if isinstance(event, ServiceHealthChanged)]
        assert changes == ["container_paused", "container_resumed"]
        assert not any(isinstance(event, WorkerLost | TaskAttemptFailed) for event in rig.events())


async def test_a_pause_that_is_taken_back_at_once_leaves_no_trace() -> None:
    """The node may have paused it for a moment that it did not report."""
    async with with_worker_in_container() as rig:
        await rig.order(PauseContainer(container_id="k"))
        await pass_time(rig, 20, "busy")
        await rig.order(ResumeContainer(container_id="k"))
        await pass_time(rig, 20, "running")
        assert rig.world.tasks["t"].status is TaskStatus.RUNNING
        assert rig.world.services["s"].status is ServiceStatus.HEALTHY


async def test_a_container_that_ends_takes_all_with_it_in_one_commit() -> None:
    """No moment exists in which one of them is known to be gone and another is not."""
    async with with_worker_in_container() as rig:
        await seen(rig, "exited", exit_code=1)
        assert rig.types()[-1] == [
            "container.failed",
            "worker.left",
            "service.deregistered",
            "task.attempt_failed",
        ]


async def test_a_report_that_comes_late_does_not_say_what_is_gone() -> None:
    """Only a report made after the last orders does; else resources of a container started since would seem free."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        first = await rig.order(SyncNode(node_id="n"))
        await rig.order(StartContainer(container_id="k"))
        late = SyncNode(node_id="n", orders_id=first.orders_id)
        second = await seen(rig, "running", pid=1)
        assert first.orders_id != second.orders_id
        await rig.order(SyncNode(node_id="n"))
        third = await rig.order(late)
        assert rig.world.containers["k"].status.value == "running"
        await rig.order(SyncNode(node_id="n", orders_id=third.orders_id))
        assert rig.world.containers["k"].status.value == "error"


async def test_a_crashed_container_is_started_again_with_growing_pauses() -> None:
    """1, 2, 4 seconds, by itself."""
    async with leading() as rig:
        await rig.order(register_node())
        await rig.order(create())
        await rig.order(StartContainer(container_id="k"))
        for pause_s in (1.0, 2.0, 4.0):
            await seen(rig, "running", pid=1)
            await seen(rig, "exited", exit_code=1)
            rig.hands.turn(pause_s - 0.1)
            await seen(rig, "exited", exit_code=1)
            await rig.settle()
            assert rig.world.containers["k"].status.value == "error"
            rig.hands.turn(0.2)
            await rig.settle()
            assert rig.world.containers["k"].status.value == "starting"


async def test_when_a_node_dies_its_containers_run_elsewhere() -> None:
    """After 1.5 leases; when the node returns, its orders remove them."""
    async with leading() as rig:
        for name in ("n", "other"):
            await rig.order(register_node(name, capacity=resources(cpu=1000)))
        await rig.order(create())
        await rig.order(StartContainer(container_id="k"))
        old = await seen(rig, "running", pid=1)
        for _ in range(30):
            rig.hands.turn(1.0)
            await rig.order(SyncNode(node_id="other"))
        await rig.settle()
        assert status_of(rig, "n") is NodeStatus.LOST
        orders = await rig.order(SyncNode(node_id="other"))
        assert [one.container_id for one in orders.containers] == ["k"]
        assert orders.containers[0].generation != old.containers[0].generation
        assert (await rig.order(SyncNode(node_id="n"))).containers == ()
        assert status_of(rig, "n") is NodeStatus.READY


async def test_signs_of_what_nobody_knows_are_forgotten() -> None:
    """The number of made-up names does not matter."""
    async with leading() as rig:
        for number in range(50):
            rig.engine.listening.hear_worker(f"made-up-{number}", (), 0.0)
            rig.engine.listening.hear_service(f"made-up-{number}", ServiceLoad(heard_s_ago=0.0))
        rig.hands.turn(1.0)
        await rig.settle()
        assert (rig.engine.signs.workers, rig.engine.signs.services, rig.engine.signs.loads) == ({}, {}, {})


@pytest.mark.parametrize("url", [URL, ""])
async def test_a_service_that_fails_its_checks_makes_no_events_until_it_is_taken_off(url: str) -> None:
    """It is UNHEALTHY from the second failed check on; a check of a service without a URL is a custom one."""
    async with leading() as rig:
        await rig.order(register_service(health_check_url=url))
        await rig.order(ReportCheck(service_id="s", ok=True, check="http"))
        for _ in range(130):
            rig.hands.turn(30.0)
            told = rig.ask(ReportCheck(service_id="s", ok=False, check="http"))
            await rig.settle()
            if rig.world.services["s"].is_ended:
                break
            await told.outcome()
        changes = [event.status for event in rig.events() if isinstance(event, ServiceHealthChanged)]
        if url:
            assert changes == [ServiceStatus.HEALTHY, ServiceStatus.UNHEALTHY]
        else:
            assert changes == [ServiceStatus.UNHEALTHY, ServiceStatus.OFFLINE]
        assert sum(isinstance(event, ServiceDeregistered) for event in rig.events()) == 1
