"""Who may send which command, for which tenant, how many and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from coordinator.commands import COMMANDS
from coordinator.commands.caller import Caller
from coordinator.commands.cluster import GetStats
from coordinator.commands.container import StopContainer
from coordinator.commands.inbox import Item
from coordinator.commands.node import RegisterNode, SyncNode
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.schedule import DefineSchedule
from coordinator.commands.service import DeregisterService, FindServices
from coordinator.commands.session import BindSession
from coordinator.commands.task import CancelTask, GetTask, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.deciders.rules import Limits
from coordinator.engine.refusals import PAUSE_S
from coordinator.errors import Forbidden, Refused, Unavailable
from coordinator.security.authorization import (
    FREE,
    QUEUE_RETRY_S,
    AccessRules,
    Bucket,
    Quota,
    Rule,
    check,
    poured,
    rule_of,
    verdict,
)
from coordinator.security.gatekeeper import MOST_KEPT, Access
from coordinator.security.permissions import commands_of
from events.cancel_ladder import Escalation
from events.container import ContainerDestroyed
from events.coordinator import CoordinatorCommandRefused, CoordinatorStarted
from events.inbox import InboxRefused
from events.pool import PoolAllocated, PoolDefined, PoolReleased, PoolRequested
from events.schedule import ScheduleDefined, ScheduleDeleted, TaskContent, Timing
from events.service import ServiceDeregistered
from events.session import SessionBound, SessionClosed
from events.task import Payload, TaskStatus
from events.worker import WorkerLeft, WorkerLost
from projections.world import World
from tests.specification import BEGIN, fold, said, write
from tests.unit.deciders.facts import (
    claim,
    complete,
    completed,
    create,
    created,
    fail,
    payload,
    register_service,
    resources,
    service,
    started,
    submit,
    submitted,
    worker,
)
from tests.unit.engine.engine_rig import TICK_S, leading

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.commands.command import Command
    from events.base import Event

TASKS = Rule(may=frozenset({SubmitTask, CancelTask}), tenants=frozenset({"blue"}))
RULES = AccessRules(default=Rule(may=frozenset({GetStats})), sources={"execution": TASKS})


def judged(rules: AccessRules, command: Command, source: str = "execution", tenant: str = "blue") -> None:
    check(World(), verdict(rules, source, tenant, type(command)), command)


def test_a_source_may_what_its_rule_names() -> None:
    """A source may send only the commands of its rule; the message names them and the roles that may send this one."""
    judged(RULES, submit())
    with pytest.raises(
        Forbidden, match=r"execution may not send node.register, only task.cancel, task.submit: use cred"
    ) as no:
        judged(RULES, RegisterNode(node_id="n", capacity=submit().resources, runtime="fake"))
    assert no.value.code == no.value.reason == "forbidden"
    assert "admin or node" in no.value.message


def test_a_cancellation_stops_a_container_only_for_who_may_stop_it() -> None:
    """Else a permission to cancel would be one to stop."""
    judged(RULES, CancelTask(task_id="t", grace_s=1.0))
    escalating = CancelTask(task_id="t", grace_s=1.0, escalate=Escalation.CONTAINER)
    with pytest.raises(Forbidden, match=r"'t' may stop a container, which needs container\.stop"):
        judged(RULES, escalating)
    both = Rule(may=frozenset({CancelTask, StopContainer}))
    for rule in (both, Rule()):
        judged(AccessRules(sources={"execution": rule}), escalating)


def test_a_source_acts_for_its_tenants_alone() -> None:
    """A tenant that the rule does not list is forbidden, by name."""
    with pytest.raises(Forbidden, match="execution may not act for tenant 'red': its tenants are blue"):
        judged(RULES, submit(), tenant="red")
    nobody = AccessRules(default=Rule(tenants=frozenset()))
    with pytest.raises(Forbidden, match="its tenants are none"):
        judged(nobody, submit())


def test_who_is_not_named_goes_by_the_default() -> None:
    """A source without a rule has the default rule, which may allow nothing."""
    judged(RULES, GetStats(), source="somebody")
    with pytest.raises(Forbidden, match=r"somebody may not send task\.get, only coordinator\.stats"):
        judged(RULES, GetTask(task_id="t"), source="somebody")
    with pytest.raises(Forbidden, match=r"may not send task\.get, only nothing"):
        judged(AccessRules(default=Rule(may=frozenset())), GetTask(task_id="t"), source="somebody")


@pytest.mark.parametrize("source", ["worker-w1", "worker", "node-n1", "agents-n1", "follower", "monitor", "admin"])
def test_a_role_in_a_name_brings_what_the_role_may(source: str) -> None:
    """A strict default rule must not stop the cluster's own processes."""
    rules = AccessRules(default=Rule(may=frozenset()))
    assert rule_of(rules, source).may == commands_of(source.partition("-")[0])


def test_a_name_that_is_given_a_rule_goes_by_that_alone() -> None:
    """Even one named like a role; the coordinator itself may do everything; no domain has such a name."""
    assert rule_of(AccessRules(sources={"worker-w1": TASKS}), "worker-w1").may is TASKS.may
    assert rule_of(AccessRules(sources={"domain-x": TASKS}), "domain-x") is TASKS
    assert rule_of(RULES, "coordinator").may is None
    assert rule_of(RULES, "domain-x") is RULES.default


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        ("worker-w1", claim(worker_id="w1"), claim(worker_id="w2")),
        ("worker-w1", complete(), complete(worker_id="w2")),
        ("node-n1", SyncNode(node_id="n1"), SyncNode(node_id="n2")),
    ],
)
def test_a_worker_or_node_speaks_for_itself_alone(source: str, good: Command, bad: Command) -> None:
    """Its credentials are those of one id."""
    judged(RULES, good, source=source)
    with pytest.raises(Forbidden, match=r"_id is '.2': these credentials are only for '.1'"):
        judged(RULES, bad, source=source)


@pytest.mark.parametrize("source", ["worker-w1", "agents-n1"])
def test_a_quota_for_a_worker_takes_no_other_limit_away(source: str) -> None:
    """It still acts only as itself, and reports only on what it was given."""
    rules = AccessRules(sources={source: Rule(quota=Quota(max_workers=5))})
    assert rule_of(rules, source).quota.max_workers == 5
    with pytest.raises(Forbidden, match="lease of task 't' is missing"):
        judged(rules, complete("", worker_id="w1"), source=source)
    if source == "worker-w1":
        with pytest.raises(Forbidden, match="only for 'w1'"):
            judged(rules, RegisterWorker(worker_id="w2"), source=source)


@pytest.mark.parametrize("source", ["worker-w", "agents-n1"])
async def test_who_executes_tasks_reports_only_on_what_it_was_given(source: str) -> None:
    """A pending task belongs to nobody yet: whoever only executes tasks cannot end it for everybody else."""
    async with leading(access=AccessRules()) as rig:
        await rig.order(submit(task_id="t"), actor="execution")
        for report in (complete("", task_id="t"), fail("", task_id="t", retry=False)):
            with pytest.raises(Forbidden, match=r"lease of task 't' is missing: these credentials are only for whom"):
                await rig.order(report, actor=source)
        assert not rig.world.tasks["t"].is_ended
        await rig.order(RegisterWorker(worker_id="w"), actor=source)
        (given,) = await rig.order(claim(), actor=source)
        await rig.order(complete(given.lease, task_id="t"), actor=source)
        await rig.order(submit(task_id="t2"), actor="execution")
        await rig.order(complete("", task_id="t2"), actor="execution")
        assert {task.status for task in rig.world.tasks.values()} == {TaskStatus.COMPLETED}


class TestQuotas:
    """How much of everything."""

    RULES = AccessRules(
        sources={"execution": Rule(quota=Quota(max_pending_tasks=2, max_services=1))},
        tenants={"blue": Quota(max_pending_tasks=3, max_services=2)},
    )

    def refused(self, world: World, command: Command, source: str = "execution", tenant: str = "blue") -> str:
        try:
            check(world, verdict(self.RULES, source, tenant, type(command)), command)
        except Refused as error:
            return error.message if (error.reason, error.code) == ("quota", "refused") else "another error"
        return ""

    def test_pending_tasks_of_a_source(self) -> None:
        """Pending tasks are limited; running tasks do not count, and a repeated submit is not another task."""
        two = [said(submitted(one), actor="execution", tenant="x") for one in ("a", "b")]
        world = fold(*two)
        assert "2 tasks of source execution are pending" in self.refused(world, submit("c"))
        assert not self.refused(world, submit("a"))
        assert not self.refused(world, submit("c"), source="other")
        assert not self.refused(fold(*two, started("a")), submit("c"))

    def test_a_repeat_about_an_evicted_task_takes_nothing(self) -> None:
        """It is no further task, neither for the quota nor for the rate."""
        leads = CoordinatorStarted(instance="i", version="0", retention_s=0.0, ended_kept=0)
        facts = (leads, submitted("gone"), started("gone"), completed("gone"))
        world = fold(*facts, *(said(submitted(one), actor="execution", tenant="x") for one in ("a", "b")))
        assert "gone" not in world.tasks
        assert not self.refused(world, submit("gone"))
        access = Access(AccessRules(default=Rule(quota=Quota(submits_per_s=0.001, submit_burst=1))), world)
        found = access.check(Caller(actor="execution"), submit("gone"))
        assert found is not None
        for _ in range(5):
            access.meter(submit("gone"), found, BEGIN)
        access.meter(submit("new"), found, BEGIN)
        with pytest.raises(Unavailable):
            access.meter(submit("other"), found, BEGIN)

    def test_pending_tasks_of_a_tenant(self) -> None:
        """Whoever submitted them."""
        world = fold(*(said(submitted(one), actor=one, tenant="blue") for one in ("a", "b", "c")))
        assert "3 tasks of tenant blue are pending" in self.refused(world, submit("d"))
        assert not self.refused(world, submit("d"), tenant="red")

    def test_bytes_of_payloads(self) -> None:
        """Of a source and of a tenant, of tasks that have not ended; small ones and repeats do not count."""
        rules = AccessRules(
            sources={"execution": Rule(quota=Quota(max_pending_bytes=2000))},
            tenants={"blue": Quota(max_pending_bytes=3000)},
        )

        def refused(world: World, command: Command, source: str = "execution") -> str:
            try:
                check(world, verdict(rules, source, "blue", SubmitTask), command)
            except Refused as error:
                return error.message if error.reason == "quota" else "another error"
            return ""

        def large(size: int) -> Payload:
            return payload("x" * size, encoding="text")

        one = said(submitted("a", payload=large(1500)), actor="execution", tenant="blue")
        world = fold(one, said(submitted("b", payload=large(1000)), actor="other", tenant="blue"))
        assert not refused(world, submit("c", payload=large(500)))
        assert not refused(world, submit("c", payload=large(256)))
        assert not refused(world, submit("a", payload=large(1500)))
        assert "source execution has 1500 bytes" in refused(world, submit("c", payload=large(501)))
        assert not refused(world, submit("c", payload=large(500)), source="other")
        assert "tenant blue has 2500 bytes" in refused(world, submit("c", payload=large(501)), source="other")
        assert not refused(fold(one, started("a"), completed("a")), submit("c", payload=large(2000)))

    def test_services(self) -> None:
        """Of a source and of a tenant; registering one again is no further one."""
        world = fold(said(service("a"), actor="execution", tenant="x"))
        assert "source execution has 1 services, of at most 1: deregister one first" in self.refused(
            world, register_service("b")
        )
        assert not self.refused(world, register_service("a"))
        world = fold(*(said(service(one), actor=one, tenant="blue") for one in ("a", "b")))
        assert "tenant blue has 2 services" in self.refused(world, register_service("c"), source="other")
        assert not self.refused(world, DeregisterService(service_id="a"))

    def test_without_bounds_nothing_is_counted(self) -> None:
        """A quota of nothing is no quota."""
        assert verdict(AccessRules(), "execution", "blue", SubmitTask).quotas == ()
        only_rate = AccessRules(default=Rule(quota=Quota(submits_per_s=1.0)))
        check(World(), verdict(only_rate, "a", "b", SubmitTask), submit())
        check(World(), verdict(only_rate, "a", "b", type(register_service())), register_service())


class Kind(NamedTuple):
    """A kind of thing that is counted: its limit, what creates the thing *one*, what is recorded then, and its end."""

    limit: str
    plural: str
    create: Callable[[str], Command]
    created: Callable[[str], Event]
    ended: Callable[[str], Event] | None


WORK = TaskContent(task_name="work")
POOL = PoolDefined(pool_id="p", capacity=resources(cpu=9))
KINDS = [
    Kind(
        "max_services",
        "services",
        register_service,
        service,
        lambda one: ServiceDeregistered(service_id=one),
    ),
    Kind(
        "max_containers",
        "containers",
        create,
        created,
        lambda one: ContainerDestroyed(container_id=one),
    ),
    Kind(
        "max_sessions",
        "sessions",
        lambda one: BindSession(session_id=one, container_id="k"),
        lambda one: SessionBound(session_id=one, container_id="k", owned=True),
        lambda one: SessionClosed(session_id=one),
    ),
    Kind(
        "max_sessions",
        "sessions",
        lambda one: create(f"in-{one}", session_id=one),
        lambda one: SessionBound(session_id=one, container_id=f"in-{one}", owned=True),
        lambda one: SessionClosed(session_id=one),
    ),
    Kind(
        "max_workers",
        "workers",
        lambda one: RegisterWorker(worker_id=one),
        worker,
        lambda one: WorkerLeft(worker_id=one),
    ),
    Kind(
        "max_workers",
        "workers",
        lambda one: claim(worker_id=one),
        worker,
        lambda one: WorkerLost(worker_id=one, silent_for_s=61.0, limit_s=60.0),
    ),
    Kind(
        "max_pools",
        "pools",
        lambda one: DefinePool(pool_id=one, capacity=POOL.capacity),
        lambda one: PoolDefined(pool_id=one, capacity=POOL.capacity, owned=True),
        None,
    ),
    Kind(
        "max_schedules",
        "schedules",
        lambda one: DefineSchedule(schedule_id=one, task=WORK, every_s=60),
        lambda one: ScheduleDefined(schedule_id=one, timing=Timing(every_s=60), task=WORK),
        lambda one: ScheduleDeleted(schedule_id=one),
    ),
    Kind(
        "max_allocations",
        "shares of pools",
        lambda one: AllocatePool(pool_id="p", request_id=one, resources=resources(cpu=1)),
        lambda one: PoolAllocated(pool_id="p", request_id=one, owned=True),
        lambda one: PoolReleased(pool_id="p", request_id=one),
    ),
]


class TestCounts:
    """How many of each kind one source, and one tenant, may have."""

    def refused(self, world: World, command: Command, source: str, tenant: str, **quotas: Quota) -> str:
        rules = AccessRules(
            sources={"ann": Rule(quota=quotas.get("ann", FREE))}, tenants={"blue": quotas.get("blue", FREE)}
        )
        try:
            check(world, verdict(rules, source, tenant, type(command)), command)
        except Refused as error:
            is_told = (error.reason, error.code, error.retry_after_s) == ("quota", "refused", QUEUE_RETRY_S)
            return error.message if is_told else f"another error: {error}"
        return ""

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.limit} {type(kind.create('x')).__name__}")
    @pytest.mark.parametrize("whose", ["source ann", "tenant blue"])
    def test_the_third_is_refused_until_one_ends(self, kind: Kind, whose: str) -> None:
        """By name and number; a repeat of the others is not, nor is another source's; what has ended makes room."""
        name = whose.split()[1]
        scribe = write(POOL, *(said(kind.created(one), actor="ann", tenant="blue") for one in "ab"))

        def refused(one: str, source: str = "ann", tenant: str = "blue") -> str:
            quota = {name: Quota(**{kind.limit: 2})}
            return self.refused(scribe.world, kind.create(one), source, tenant, **quota)

        assert f"{whose} has 2 {kind.plural}, of at most 2: " in refused("c")
        assert not refused("a")
        assert not refused("c", "bob", "red")
        if kind.ended is None:
            return
        scribe.commit(kind.ended("a"))
        assert not refused("c")
        scribe.commit(said(kind.created("c"), actor="ann", tenant="blue"))
        assert refused("d")

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.limit} {type(kind.create('x')).__name__}")
    def test_a_quota_of_another_kind_costs_nothing(self, kind: Kind) -> None:
        """Only what bounds this command is looked up for it."""
        others = {one.limit: 0 for one in KINDS if one.limit not in (kind.limit, "max_containers", "max_sessions")}
        rules = AccessRules(default=Rule(quota=Quota(**others)))
        assert not verdict(rules, "ann", "blue", type(kind.create("x"))).quotas

    @pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[4]], ids=lambda kind: kind.plural)
    def test_what_is_taken_over_counts_for_who_takes_it(self, kind: Kind) -> None:
        """Else a source could have more than its quota: all that others registered before."""
        both = [said(kind.created(one), actor=actor, tenant="blue") for one, actor in (("a", "ann"), ("b", "bob"))]
        quota = Quota(**{kind.limit: 1})
        assert "source ann has 1" in self.refused(fold(*both), kind.create("b"), "ann", "blue", ann=quota)
        assert not self.refused(fold(*both), kind.create("b"), "bob", "blue", ann=quota)

    def test_what_an_older_release_recorded_is_nobodys(self) -> None:
        """It takes no place, and its owner's repeat is not refused for want of one."""
        old = (said(worker(one, owned=False), actor="ann", tenant="blue") for one in "ab")
        world, quota = fold(*old), Quota(max_workers=0)
        assert not self.refused(world, RegisterWorker(worker_id="a"), "ann", "blue", ann=quota)
        assert not self.refused(world, RegisterWorker(worker_id="c"), "ann", "blue", ann=Quota(max_workers=1))
        assert "source ann has 0 workers, of at most 0" in self.refused(
            world, RegisterWorker(worker_id="c"), "ann", "blue", ann=quota
        )

    def test_a_share_of_a_pool_that_is_not_there_is_not_counted(self) -> None:
        """The decider says what is wrong."""
        asked = AllocatePool(pool_id="nowhere", request_id="r", resources=resources(cpu=1))
        assert not self.refused(World(), asked, "ann", "blue", ann=Quota(max_allocations=0))


class TestShares:
    """Who may release a share of a pool."""

    WORLD = (POOL, said(PoolAllocated(pool_id="p", request_id="r", owned=True), actor="ann"))
    RELEASE = ReleasePool(pool_id="p", request_id="r")

    @pytest.mark.parametrize("source", ["ann", "admin", "admin-eve", "coordinator"])
    def test_its_owner_and_an_administrator_release_it(self, source: str) -> None:
        """A rule of its own changes nothing of that."""
        for rules in (AccessRules(), AccessRules(sources={source: Rule()})):
            check(fold(*self.WORLD), verdict(rules, source, "", ReleasePool), self.RELEASE)

    @pytest.mark.parametrize("source", ["bob", "local-ann", "adminx"])
    def test_nobody_else_does(self, source: str) -> None:
        """The message says whose it is and who may."""
        found = verdict(AccessRules(), source, "", ReleasePool)
        with pytest.raises(
            Forbidden, match=f"'r' of pool 'p' belongs to ann, not to {source}: only its owner or an ad"
        ):
            check(fold(*self.WORLD), found, self.RELEASE)

    def test_what_has_no_owner_is_released_by_anybody(self) -> None:
        """That is what earlier releases allocated; and to release nothing is no error."""
        old = said(PoolAllocated(pool_id="p", request_id="r"), actor="ann")
        for facts in ((POOL, old), (POOL,), ()):
            check(fold(*facts), verdict(AccessRules(), "bob", "", ReleasePool), self.RELEASE)

    def test_a_task_names_only_a_request_of_its_own_source(self) -> None:
        """Whether that holds a share or waits for one; of another pool, and none at all, is no matter of this rule."""
        pool = PoolDefined(pool_id="tasks", capacity=resources(cpu=9))
        for event in (
            PoolAllocated(pool_id="tasks", request_id="r", owned=True),
            PoolRequested(pool_id="tasks", request_id="r", owned=True),
        ):
            world = fold(pool, said(event, actor="ann"))
            command = submit(request="r")
            with pytest.raises(Forbidden, match="'r' of pool 'tasks' belongs to ann, not to bob"):
                check(world, verdict(AccessRules(), "bob", "", SubmitTask), command)
            for source in ("ann", "admin"):
                check(world, verdict(AccessRules(), source, "", SubmitTask), command)
            check(world, verdict(AccessRules(), "bob", "", SubmitTask), submit())
            check(World(), verdict(AccessRules(), "bob", "", SubmitTask), command)
            release = ReleasePool(pool_id="tasks", request_id="r")
            with pytest.raises(Forbidden, match="belongs to ann"):
                check(world, verdict(AccessRules(), "bob", "", ReleasePool), release)

    def test_a_request_that_waits_takes_the_place_of_a_share(self) -> None:
        """Its repeat takes no further one."""
        asked = AllocatePool(pool_id="p", request_id="r", resources=resources(cpu=1))
        waits = said(PoolRequested(pool_id="p", request_id="r", owned=True), actor="ann")
        rules = AccessRules(sources={"ann": Rule(quota=Quota(max_allocations=1))})
        check(fold(POOL, waits), verdict(rules, "ann", "", AllocatePool), asked)
        other = AllocatePool(pool_id="p", request_id="s", resources=resources(cpu=1))
        with pytest.raises(Refused, match="ann has 1 shares of pools, of at most 1"):
            check(fold(POOL, waits), verdict(rules, "ann", "", AllocatePool), other)

    async def test_in_the_writer(self) -> None:
        """The share stays, that it was refused is recorded, and the owner can still release it."""
        async with leading(access=AccessRules()) as rig:
            await rig.order(DefinePool(pool_id="p", capacity=POOL.capacity), actor="admin")
            await rig.order(AllocatePool(pool_id="p", request_id="r", resources=resources(cpu=1)), actor="ann")
            with pytest.raises(Forbidden):
                await rig.order(self.RELEASE, actor="bob")
            assert set(rig.world.pools["p"].allocations) == {"r"}
            assert await rig.order(self.RELEASE, actor="ann") is True
            assert not rig.world.pools["p"].allocations
            (refused,) = [event for event in rig.events() if isinstance(event, CoordinatorCommandRefused)]
            assert (refused.command, refused.reason) == ("pool.release", "forbidden")


class TestRates:
    """How fast."""

    QUOTA = Quota(submits_per_s=2.0, submit_burst=3)

    def test_a_bucket_fills_up_to_its_burst(self) -> None:
        """And never empties by a clock that stands still or runs back."""
        assert poured(None, self.QUOTA, 5.0) == Bucket(3.0, 5.0)
        assert poured(Bucket(0.0, 5.0), self.QUOTA, 5.5) == Bucket(1.0, 5.5)
        assert poured(Bucket(0.0, 5.0), self.QUOTA, 99.0) == Bucket(3.0, 99.0)
        assert poured(Bucket(1.0, 5.0), self.QUOTA, 4.0) == Bucket(1.0, 5.0)

    def test_a_burst_passes_and_then_so_many_a_second(self) -> None:
        """A submit over the limit is told when to retry."""
        access, caller = Access(AccessRules(default=Rule(quota=self.QUOTA)), World()), Caller(actor="a")

        def submit_at(now: float, task_id: str) -> None:
            found = access.check(caller, submit(task_id))
            assert found is not None
            access.meter(submit(task_id), found, now)

        for task_id in "abc":
            submit_at(10.0, task_id)
        with pytest.raises(Unavailable, match=r"source a submits faster than 2 tasks a second: retry in 0\.5") as fast:
            submit_at(10.0, "d")
        assert (fast.value.reason, fast.value.retry_after_s) == ("rate_limited", 0.5)
        submit_at(10.5, "d")
        with pytest.raises(Unavailable):
            submit_at(10.5, "e")

    def test_a_tenant_and_its_sources_share_a_rate(self) -> None:
        """A submit over the tenant's limit does not count against the source either."""
        rules = AccessRules(default=Rule(quota=self.QUOTA), tenants={"blue": Quota(submits_per_s=1.0, submit_burst=1)})
        access = Access(rules, World())
        caller = Caller(actor="a", tenant="blue")
        found = access.check(caller, submit())
        assert found is not None
        access.meter(submit("a"), found, 10.0)
        with pytest.raises(Unavailable, match="tenant blue"):
            access.meter(submit("b"), found, 10.0)
        other = access.check(Caller(actor="a"), submit())
        assert other is not None
        access.meter(submit("c"), other, 10.0)
        access.meter(submit("d"), other, 10.0)
        with pytest.raises(Unavailable, match="source a"):
            access.meter(submit("e"), other, 10.0)


def test_what_is_kept_of_callers_is_bounded() -> None:
    """Callers choose tenant names, so their number is unbounded."""
    access = Access(AccessRules(default=Rule(quota=Quota(submits_per_s=1.0))), World())
    for number in range(MOST_KEPT + 10):
        caller = Caller(actor=f"a{number}")
        found = access.check(caller, submit())
        assert found is not None
        access.meter(submit(), found, 1.0)
    assert len(access._verdicts) <= MOST_KEPT
    assert len(access._buckets) <= MOST_KEPT


class TestInTheWriter:
    """The rules at work in the engine."""

    RULES = AccessRules(
        default=Rule(may=frozenset()),
        sources={
            "execution": Rule(may=frozenset({SubmitTask}), quota=Quota(max_pending_tasks=1)),
            "fast": Rule(quota=Quota(submits_per_s=0.001, submit_burst=1)),
        },
    )

    async def test_what_is_forbidden_changes_nothing(self) -> None:
        """Commands and questions are checked alike; only that they were refused is in the journal, once."""
        async with leading(access=self.RULES) as rig:
            before = len(rig.events())
            for command in (CancelTask(task_id="t"), GetStats(), FindServices(), claim()):
                assert isinstance(await rig.ask(command, actor="execution").error(), Forbidden)
            with pytest.raises(Forbidden):
                rig.engine.ask_now(FindServices(), Caller(actor="execution"))
            assert rig.engine.ask_now(FindServices(), Caller(actor="monitor")) == []
            assert rig.engine.ask_now(FindServices()) == []
            (refused,) = rig.events()[before:]
            assert isinstance(refused, CoordinatorCommandRefused)
            assert (refused.command, refused.reason, refused.about) == ("task.cancel", "forbidden", "t")
            assert not any([rig.world.tasks, rig.world.workers, rig.world.services])
            rig.hands.turn(PAUSE_S)
            await rig.settle()
            later = rig.events()[-1]
            assert isinstance(later, CoordinatorCommandRefused)
            assert (len(rig.events()) - before, later.command, later.count) == (2, "service.find", 4)

    async def test_quotas_hold_within_one_turn(self) -> None:
        """A hundred at once get what one after the other would: exactly as many as may wait."""
        async with leading(access=self.RULES) as rig:
            told = [rig.ask(submit(f"t{number}"), actor="execution") for number in range(100)]
            errors = []
            for one in told:
                with_error = one.error if one is not told[0] else one.outcome
                errors.append(await with_error())
            assert errors[0] == "t0"
            assert {error.reason for error in errors[1:]} == {"quota"}
            assert len(rig.world.tasks) == 1

    async def test_a_rate_is_told_when_to_go_on(self) -> None:
        """It is unavailable, not refused: clients try again by themselves. A repeat costs nothing."""
        async with leading(access=self.RULES) as rig:
            await rig.order(submit("a"), actor="fast")
            await rig.order(submit("a"), actor="fast")
            error = await rig.ask(submit("b"), actor="fast").error()
            assert isinstance(error, Unavailable)
            assert error.retry_after_s is not None
            assert error.retry_after_s > 100

    async def test_what_waits_for_another_turn_is_metered_once(self) -> None:
        """A burst is as large as it is, however many turns it takes."""
        rules = AccessRules(sources={"fast": Rule(quota=Quota(submits_per_s=0.001, submit_burst=20))})
        async with leading(access=rules, limits=Limits(tick_s=TICK_S, turn_bytes=4000)) as rig:
            before = len(rig.commits())
            sizes = (1100, 2300)  # after a small one there is room for another, but not for a large one
            told = [
                rig.ask(submit(f"t{number}", payload=payload("x" * sizes[number % 2])), actor="fast")
                for number in range(21)
            ]
            assert [await one.outcome() for one in told[:20]] == [f"t{number}" for number in range(20)]
            assert (await told[20].error()).reason == "rate_limited"
            assert len(rig.commits()) > before + 3

    async def test_an_inbox_goes_by_the_same_rules(self) -> None:
        """A command that its domain may not send is recorded as refused, and the next ones are processed."""
        async with leading(access=self.RULES) as rig:
            items = [
                Item(sequence=1, command=CancelTask(task_id="t"), type="task.cancelled", event_id="1"),
                Item(sequence=2, command=submit("a"), type="task.submitted", event_id="2"),
            ]
            rig.engine.inboxes.put("execution", "2026-01-01T00:00:00Z", items)
            await rig.settle()
            assert set(rig.world.tasks) == {"a"}
            (refused,) = [event for event in rig.events() if isinstance(event, InboxRefused)]
            assert "may not send task.cancel" in refused.message


def test_a_role_needs_no_command_that_does_not_exist() -> None:
    """Roles name commands by their types; each is one."""
    assert commands_of("admin") == frozenset(COMMANDS.values())
    assert Quota() == FREE
