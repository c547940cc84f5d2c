"""Odd values in every parameter of every facade: each is carried unchanged, or refused with the parameter's name."""

from __future__ import annotations

import asyncio
import inspect
import math
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from coordinator.app.subscribe import EventFilter
from coordinator.commands.acting import acting
from coordinator.commands.node import RegisterNode
from coordinator.commands.payloads import value_of
from coordinator.commands.shadow import ReportShadow
from coordinator.commands.worker import RegisterWorker
from coordinator.container import AgentContainer, ContainerConfig, ContainerManager, ResourceLimits, ResourceManager
from coordinator.deciders.rules import Rules
from coordinator.errors import CoordinationError
from coordinator.registry import HealthChecker, ServiceDiscovery, ServiceRegistry
from coordinator.scheduler import (
    PolicyType,
    ResourceAllocator,
    Schedules,
    SchedulingPolicy,
    SchedulingStrategy,
    TaskBudgets,
    TaskHolds,
    TaskLimits,
    TaskQueues,
    TaskScheduler,
    TaskVersions,
)
from coordinator.worker.handlers import handler_of
from coordinator.worker.worker import Worker
from events import codec
from events.queue import Comparison
from events.resources import Resources
from events.retry import RetryPolicy
from events.task import Payload, Prefer
from tests.facades import opened_here
from tests.oddities import VALUES, is_same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.facades import Here

PATIENCE_S = 10.0
MANY = Rules(max_containers=10_000)
BIG = Resources(cpu_millis=2**52, memory_bytes=2**52, gpus=2**52)


class Place(NamedTuple):
    """A parameter, or a part of one: `call` hands a value in; `field` of the events that it records must have it."""

    name: str
    call: Callable[[Here, Any], Awaitable[Any]]
    says: tuple[str, ...]
    """One of these is in the message of a refusal."""
    field: str = ""
    inside: Callable[[Any], Any] = lambda value: value
    """What of the value the field has."""


Valid = dict[str, Any]


async def nothing(_: Here) -> Valid:
    return {}


async def a_task_waits(here: Here) -> Valid:
    await a_task(here)
    return {}


async def a_service_is_there(here: Here) -> Valid:
    await ServiceRegistry(here.app).register_service("s", "t", "localhost", 80, service_id="s")
    return {}


async def a_task(here: Here) -> Valid:
    return {"task_id": await TaskScheduler(here.app).submit_task("n", task_type="pending")}


async def a_paused_task(here: Here) -> Valid:
    task = await a_task(here)
    await TaskScheduler(here.app).pause_task(task["task_id"])
    return task


async def a_claimed_task(here: Here) -> Valid:
    scheduler = TaskScheduler(here.app)
    await scheduler.submit_task("n")
    task = await scheduler.get_next_task("w")
    assert task is not None
    return {"task_id": task.task_id}


async def an_ended_task(here: Here) -> Valid:
    made = await a_task(here)
    await TaskScheduler(here.app).complete_task(made["task_id"])
    return made


async def a_schedule(here: Here) -> Valid:
    await Schedules(here.app).define_schedule("s", "n", every=600)
    return {"schedule_id": "s"}


async def a_hold(here: Here) -> Valid:
    return {"hold_id": await TaskHolds(here.app).place_hold("false", hold_id="h")}


async def a_budget(here: Here) -> Valid:
    await TaskBudgets(here.app).define_budget("b", 1)
    return {"budget": "b"}


async def a_limit(here: Here) -> Valid:
    await TaskLimits(here.app).define_limit("l", running=1)
    return {"limit": "l"}


async def a_version(here: Here) -> Valid:
    await here.app.execute(RegisterWorker(worker_id="v", build_id="b1"))
    return {"build_id": "b1"}


async def a_retired_version(here: Here) -> Valid:
    await a_version(here)
    await TaskVersions(here.app).retire_version("b1")
    return {"build_id": "b1"}


async def a_routed_queue(here: Here) -> Valid:
    await a_version(here)
    await TaskVersions(here.app).route_queue("b1")
    return {}


async def a_queue(here: Here) -> Valid:
    await TaskQueues(here.app).define_queue("q")
    return {"queue": "q"}


async def a_compared_queue(here: Here) -> Valid:
    queues = TaskQueues(here.app)
    await queues.define_queue("q")
    await queues.set_shadow(SchedulingPolicy(PolicyType.PRIORITY), queue="q", min_decisions=1)
    shadow = (await queues.get_queue("q")).queue.shadow
    assert shadow is not None
    await here.app.execute(RegisterWorker(worker_id=f"v{shadow.upto}"))
    compared = Comparison(turns=10, decisions=10, decision_squares=10)
    report = ReportShadow(queue_id="q", after=shadow.upto, upto=shadow.upto + 1, compared=compared)
    await here.app.execute(report)
    return {"queue": "q"}


async def a_promoted_queue(here: Here) -> Valid:
    await a_compared_queue(here)
    await TaskQueues(here.app).promote_policy("q")
    return {"queue": "q"}


async def a_paused_queue(here: Here) -> Valid:
    await TaskQueues(here.app).define_queue("q")
    await TaskQueues(here.app).pause_queue("q")
    return {"queue": "q"}


async def a_service(here: Here) -> Valid:
    return {"service_id": await ServiceRegistry(here.app).register_service("s", "t", "localhost", 80)}


async def a_container(here: Here) -> Valid:
    return {"container_id": await ContainerManager(here.app).create_container(config())}


async def a_pool(here: Here, facade: Any = ResourceAllocator) -> Valid:
    await facade(here.app).initialize({"cpu": 2**40, "memory": 2**53, "gpu": 2**53})
    return {}


async def a_request(here: Here) -> Valid:
    await a_pool(here)
    await ResourceAllocator(here.app).request_resources("r", {"cpu": 1})
    return {"request_id": "r"}


def config(**given: Any) -> ContainerConfig:
    return ContainerConfig(**{"agent_id": "a", "agent_type": "task_agent"} | given)


class Method(NamedTuple):
    """A method: its valid arguments, what must exist before, and the event's fields of parameters with other names."""

    valid: Valid = {}  # never changed
    before: Callable[[Here], Awaitable[Valid]] = nothing
    fields: dict[str, str] = {}


SUBMITTED = {"request": "", "timeout": "timeout_s", "resources": "", "prefer": "", "not_before": "", "delay": "delay_s"}
LIMITED = {
    "limit": "limit_id",
    **dict.fromkeys(
        ("by", "where", "running", "starts", "per", "pending", "cooldown", "debounce", "debounce_most"), ""
    ),
    **dict.fromkeys(("when_busy", "parent", "retries_only"), ""),
}
BUDGETED = {
    "budget": "budget_id",
    **dict.fromkeys(("cap", "unit", "by", "where", "window", "floor", "floor_for", "stop"), ""),
}
PAST = datetime(2026, 1, 1, tzinfo=UTC)
DEFINED = {
    **dict.fromkeys(("task_name", "task_type", "priority", "timeout", "max_retries", "payload", "resources"), ""),
    **dict.fromkeys(("cron", "every", "time_zone", "jitter", "start", "end"), ""),
    **dict.fromkeys(("start_within", "finish_within", "heartbeat"), ""),
}
SUBMITTED |= dict.fromkeys(("start_within", "finish_within", "heartbeat"), "")

METHODS: dict[type[Any], dict[str, Method]] = {
    TaskScheduler: {
        "submit_task": Method({"task_name": "n"}, fields=SUBMITTED),
        "plan_task": Method({"task_name": "n"}),
        "explain_task": Method({}, a_task),
        "get_next_task": Method({"worker_id": "w", "task_names": ["n"]}, a_task_waits, {"wait_s": ""}),
        "complete_task": Method({}, a_task, {"execution_time": "execution_time_s", "task_id": "", "lease": ""}),
        "fail_task": Method({"error": "e", "retry": False}, a_task, {"lease": "", "retry": ""}),
        "report_progress": Method({"progress": 0.5}, a_claimed_task),
        "extend_task": Method({"by": 5.0}, a_claimed_task, {"by": "by_s"}),
        "pause_task": Method({}, a_task),
        "resume_task": Method({}, a_paused_task),
        "cancel_task": Method({}, a_task),
        "get_task": Method({}, a_task),
        "wait_for_task": Method({}, an_ended_task),
        "list_tasks": Method(),
        "cancel_tasks": Method({"where": "false"}),
    },
    TaskHolds: {
        "place_hold": Method({"where": "false"}, fields={"expires_in": ""}),
        "lift_hold": Method({}, a_hold),
        "get_hold": Method({}, a_hold),
    },
    TaskBudgets: {
        "define_budget": Method({"budget": "b", "cap": 1}, fields=BUDGETED),
        "correct_budget": Method({"amount": 1}, a_budget, {"budget": "budget_id", "at": ""}),
        "remove_budget": Method({}, a_budget, {"budget": ""}),
        "get_budget": Method({}, a_budget),
        "set_prices": Method({"version": "v1", "models": {}}),
    },
    TaskLimits: {
        "define_limit": Method({"limit": "l", "running": 1}, fields=LIMITED),
        "delete_limit": Method({}, a_limit, {"limit": ""}),
        "get_limit": Method({}, a_limit),
    },
    TaskVersions: {
        "route_queue": Method({"current": None}, a_routed_queue, dict.fromkeys(("current", "ramping", "percent"), "")),
        "retire_version": Method({}, a_version),
        "reinstate_version": Method({}, a_retired_version, {"build_id": ""}),
    },
    TaskQueues: {
        "define_queue": Method({"queue": "q"}, fields={"queue": "queue_id"}),
        "set_policy": Method({"policy": None}, fields={"queue": "queue_id", "policy": ""}),
        "set_shadow": Method({"policy": None}, fields={"queue": "queue_id", "policy": ""}),
        "promote_policy": Method({}, a_compared_queue, {"queue": "queue_id"}),
        "roll_back_policy": Method({}, a_promoted_queue, {"queue": "queue_id"}),
        "pause_queue": Method({}, a_queue, {"queue": "queue_id"}),
        "resume_queue": Method({}, a_paused_queue, {"queue": "queue_id"}),
        "delete_queue": Method({}, a_queue, {"queue": "queue_id"}),
        "get_queue": Method({}, a_queue),
    },
    Schedules: {
        "define_schedule": Method({"schedule_id": "s", "task_name": "n", "every": 600}, fields=DEFINED),
        "pause_schedule": Method({}, a_schedule),
        "resume_schedule": Method({}, a_schedule),
        "delete_schedule": Method({}, a_schedule),
        "backfill_schedule": Method({"since": PAST, "until": PAST}, a_schedule, {"since": "", "until": ""}),
        "get_schedule": Method({}, a_schedule),
        "list_schedules": Method(),
        "next_runs": Method({}, a_schedule),
    },
    ServiceRegistry: {
        "register_service": Method({"service_name": "s", "service_type": "t", "host": "localhost", "port": 80}),
        "deregister_service": Method({}, a_service),
        "find_services": Method({"service_name": "s"}),
        "get_service": Method({}, a_service),
        "update_heartbeat": Method({}, a_service),
    },
    ServiceDiscovery: {
        "discover_service": Method({"service_name": "s"}, a_service_is_there, {"service_name": ""}),
        "discover_service_with_failover": Method({"service_name": "s"}, a_service_is_there, {"service_name": ""}),
        "report_result": Method({"service_id": "s", "ok": True}),
        "get_service_stats": Method({"service_name": "s"}),
    },
    HealthChecker: {
        "register_custom_health_check": Method({"service_name": "s", "check": lambda _: True}),
        "check_service": Method({"service_id": "s"}),
        "get_health_history": Method({"service_id": "s"}),
    },
    ContainerManager: {
        "create_container": Method({"config": config()}),
        "start_container": Method({}, a_container),
        "stop_container": Method({}, a_container),
        "pause_container": Method({}, a_container),
        "resume_container": Method({}, a_container),
        "destroy_container": Method({}, a_container),
        "get_container": Method({}, a_container),
        "get_container_status": Method({}, a_container),
        "list_containers": Method(),
        "get_container_logs": Method({"container_id": "none"}),
        "follow_logs": Method({"container_id": "none"}),
        "get_resource_usage": Method({"container_id": "none"}),
    },
    AgentContainer: {
        "stop": Method(),
        "destroy": Method(),
        "get_logs": Method(),
        "follow_logs": Method(),
    },
    ResourceManager: {
        "initialize": Method({"capacity": {}}, fields=dict.fromkeys(("capacity", "parts", "quotas"), "")),
        "allocate_resources": Method(
            {"request_id": "r", "limits": ResourceLimits()}, lambda h: a_pool(h, ResourceManager)
        ),
        "release_resources": Method({"request_id": "r"}),
    },
    ResourceAllocator: {
        "initialize": Method({"capacity": {}}, fields=dict.fromkeys(("capacity", "parts", "quotas"), "")),
        "request_resources": Method(
            {"request_id": "r", "resources": {}}, a_pool, {"wait": "", "preempt": "", "owner": "", "movable": ""}
        ),
        "release_resources": Method({}, a_request),
        "optimize_allocations": Method({}, a_pool),
    },
}
"""Every public method that takes something."""


ASK_A_FOLLOWER = frozenset({"list_dead_tasks", "requeue_task", "requeue_tasks"})
"""Methods that need what there is not here; see `test_dead_tasks`."""


def opened(kind: type[Any], here: Here) -> Any:
    if kind is ServiceDiscovery:
        return ServiceDiscovery(ServiceRegistry(here.app))
    if kind is HealthChecker:
        return HealthChecker(ServiceRegistry(here.app))
    if kind is AgentContainer:
        return AgentContainer("none", config(), here.app)
    return kind(here.app)


def call_of(kind: type[Any], name: str, parameter: str, wrap: Callable[[Any], Any] = lambda value: value) -> Any:
    method = METHODS[kind][name]

    async def call(here: Here, value: Any) -> Any:
        valid = method.valid | await method.before(here)
        done = getattr(opened(kind, here), name)(**valid | {parameter: wrap(value)})
        if inspect.isasyncgen(done):
            return [one async for one in done]
        return await done if inspect.isawaitable(done) else done

    return call


def parameters() -> Iterator[Place]:
    for kind, methods in METHODS.items():
        for name, method in methods.items():
            for parameter in list(inspect.signature(getattr(kind, name)).parameters)[1:]:
                field = method.fields.get(parameter, parameter)
                says = {parameter, field, parameter.removesuffix("_id"), *ALSO.get(parameter, ())} - {""}
                yield Place(f"{kind.__name__}.{name}({parameter})", call_of(kind, name, parameter), tuple(says), field)


ALSO = {
    "resources": ("cpu", "memory", "gpu", "resource"),
    "capacity": ("resource",),
    "worker_filter": ("filter",),
    "wait_s": ("wait",),
    "task_names": ("task_name",),
    "queues": ("queue",),
    "where": ("filter",),
    "expires_in": ("for_s",),
    "service_name": ("of service ''",),
    "lines": ("container",),
    "previous": ("container",),
    "force": ("container",),
    "limit": ("service",),
}


def parts() -> Iterator[Place]:
    """Yield what is inside of a parameter."""
    registers = partial(call_of, ServiceRegistry, "register_service")
    creates = partial(call_of, ContainerManager, "create_container", "config")
    submits = partial(call_of, TaskScheduler, "submit_task")
    yield Place("tags[…]", registers("tags", entry("a", of=list)), ("tags",), "tags", entry("a", of=tuple))
    for where, wrap in (("[A]", entry("A")), (" key", as_text_key)):
        yield Place(f"metadata{where}", registers("metadata", wrap), ("metadata",), "metadata", wrap)
        call = creates(configured("environment", wrap))
        yield Place(f"environment{where}", call, ("environment",), "environment", wrap)
    yield Place("secret", creates(configured("environment", lambda v: {"A": {"secret": v}})), ("environment",))
    for name in ("agent_id", "agent_type", "session_id", "environment", "resources"):
        says = (name, name.removesuffix("_id"), "resource")
        yield Place(f"config.{name}", creates(configured(name)), says, "" if name == "resources" else name)
    for name in ("cpu", "memory", "gpu"):
        for at, call in (
            ("submit", submits("resources", entry(name))),
            ("create", creates(configured("resources", entry(name)))),
            ("initialize", call_of(ResourceAllocator, "initialize", "capacity", entry(name))),
            ("request", call_of(ResourceAllocator, "request_resources", "resources", entry(name))),
            ("limits", call_of(ResourceManager, "allocate_resources", "limits", limited(name))),
        ):
            field = "capacity" if at == "initialize" else "resources"
            yield Place(f"{at} {name}", call, (name, "no node"), field, partial(Amount, name))
    yield Place("resources key", submits("resources", as_key), ("resource",))
    for where, wrap in (
        ("list", entry(1, of=list)),
        ("tuple", entry(1, of=tuple)),
        ("dict", entry("a")),
        ("key", as_key),
    ):
        yield Place(f"payload {where}", submits("payload", wrap), ("payload",), "payload", wrap)
    for name in RetryPolicy.__struct_fields__:
        held = policy(name, tuple if name == "non_retryable" else lambda value: value)
        yield Place(f"retry.{name}", submits("retry", policy(name)), ("retry", name), "retry", held)
    for name in Prefer.__struct_fields__:
        yield Place(f"prefer.{name}", submits("prefer", preference(name)), ("prefer", name))
    claims = call_of(TaskScheduler, "get_next_task", "task_names", entry("n", of=list))
    yield Place("task_names[…]", claims, ("task_names", "task_name"))


def entry(first: Any, *, of: type[Any] = dict) -> Callable[[Any], Any]:
    """Return what puts a value into a dict under that key, or into a list or tuple after that item."""
    return lambda value: {first: value} if of is dict else of((first, value))


def configured(name: str, wrap: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], ContainerConfig]:
    return lambda value: config(**{name: wrap(value)})


def policy(name: str, wrap: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], RetryPolicy]:
    return lambda value: RetryPolicy(**{name: wrap(value)})


def preference(name: str) -> Callable[[Any], Prefer]:
    usual = {"filter": "labels.x"} if name == "for_s" else {}
    return lambda value: Prefer(**(usual | {name: value}))


def limited(name: str) -> Callable[[Any], ResourceLimits]:
    return lambda value: ResourceLimits(**{f"{name}_limit": value})


def as_key(value: Any) -> dict[Any, Any]:
    """Return a dict with that key; a value that cannot be one is another case of no key at all."""
    try:
        return {value: 1}
    except Exception:  # noqa: BLE001  # it has no hash
        return {1: 1}


def as_text_key(value: Any) -> dict[Any, Any]:
    """Return a dict of text with that key; see `as_key`."""
    return dict.fromkeys(as_key(value), "a")


class Amount(NamedTuple):
    """What was asked for of one resource."""

    name: str
    value: Any

    def is_in(self, resources: Resources) -> bool:
        """Return whether the amounts are what was asked for, up to the next whole unit; text is parsed elsewhere."""
        unit, held = {
            "cpu": (1000, resources.cpu_millis),
            "memory": (1, resources.memory_bytes),
            "gpu": (1, resources.gpus),
        }[self.name]
        if isinstance(self.value, str):
            return True
        exact = (
            Fraction(str(float.__repr__(self.value))) if isinstance(self.value, float) else int.__index__(self.value)
        )
        return math.ceil(Fraction(exact) * unit) == held


def local(name: str, says: tuple[str, ...], made: Callable[[Any], Any]) -> Place:
    """Return a place that needs no coordinator."""

    async def call(_: Here, value: Any) -> Any:
        return made(value)

    return Place(name, call, says)


def others() -> Iterator[Place]:
    """Yield what is used without a coordinator, and constructors."""
    yield local("EventFilter", ("pattern", "kinds", "matches no event"), EventFilter)
    yield local("EventFilter[…]", ("pattern", "matches no event"), lambda v: EventFilter([v]))
    yield local("acting tenant", ("tenant",), lambda v: acting(tenant=v).__enter__())
    yield local("acting traceparent", ("traceparent",), lambda v: acting(traceparent=v).__enter__())
    yield local("@task name", ("name of a task",), lambda v: handler_of(v, lambda payload: payload))
    yield local("@task function", ("handler",), lambda v: handler_of("n", v))
    registry = ServiceRegistry()
    yield local("HealthChecker registry", ("registry",), HealthChecker)
    yield local("HealthChecker interval_s", ("interval_s",), lambda v: HealthChecker(registry, interval_s=v))
    yield local("HealthChecker timeout_s", ("timeout_s",), lambda v: HealthChecker(registry, timeout_s=v))
    yield local("ServiceDiscovery", ("registry",), ServiceDiscovery)
    yield local("AgentContainer id", ("container_id",), lambda v: AgentContainer(v, config()))
    yield local("AgentContainer config", ("config",), lambda v: AgentContainer("c", v))
    says = {"creds": ("creds", "credentials"), "resources": ("resource",)}
    for name in list(inspect.signature(Worker).parameters):
        if name != "beat_beside":
            yield local(f"Worker {name}", says.get(name, (name,)), partial(worker_with, name))


def worker_with(name: str, value: Any) -> Worker:
    valid: dict[str, Any] = {"name": "w", "url": "nats://h:1"}
    return Worker(**valid | {name: value})


def policies() -> Iterator[Place]:
    """Yield what scheduling policies take."""
    policy = SchedulingPolicy
    yield local("SchedulingPolicy", ("policy_type",), policy)
    yield local("configure", ("option",), policy().configure)
    for option in ("priority_weights", "worker_weights"):
        for where, wrap in (("", lambda v: v), ("[a]", entry("a")), (" key", as_key)):
            yield local(f"{option}{where}", (option,), configures(option, wrap))
    yield local("update_worker_load load", ("load",), lambda v: policy().update_worker_load("w", v))
    yield local("update_worker_load worker_id", ("worker_id",), lambda v: policy().update_worker_load(v, 0.5))
    for kind in SchedulingStrategy:
        chosen = policy(PolicyType(kind.value))
        yield local(f"{kind.name} tasks", ("available_tasks",), partial(chosen.select_task, available_workers=["w"]))
        yield local(f"{kind.name} for workers", ("available_workers",), partial(chosen.select_task, [{}]))
        yield local(f"{kind.name} workers", ("available_workers",), partial(chosen.select_worker, {}))
        yield local(f"{kind.name} priority", ("priority",), ranks(chosen))
        for part in ("load", "weight", "worker_id"):
            yield local(f"{kind.name} {part}", (part,), chooses(chosen, part))


def configures(option: str, wrap: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda value: SchedulingPolicy().configure({option: wrap(value)})


def ranks(policy: SchedulingPolicy) -> Callable[[Any], Any]:
    return lambda value: policy.select_task([{"priority": value}, {"priority": 1}], ["w"])


def chooses(policy: SchedulingPolicy, part: str) -> Callable[[Any], Any]:
    return lambda value: policy.select_worker({}, [{"worker_id": "w", part: value}, {"worker_id": "x"}])


PLACES = [*parameters(), *parts(), *others(), *policies()]


def test_every_parameter_is_a_place() -> None:
    """A facade's method that takes something is in the table."""
    for kind, methods in METHODS.items():
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            takes = list(inspect.signature(member).parameters)[1:]
            if takes and not name.startswith("_") and name not in {"execute", *ASK_A_FOLLOWER}:
                assert name in methods, f"{kind.__name__}.{name}"
    assert len(PLACES) * len(VALUES) > 5000


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_odd_values(place: Place) -> None:
    """Each value is carried unchanged, or refused with the name of the parameter; none is a fault of ours."""
    wrong: dict[str, str] = {}
    async with opened_here(MANY, container={"default_timeout": 0.05}) as here:
        await here.rig.order(RegisterNode(node_id="n1", capacity=BIG, runtime="fake"))
        for name, make in VALUES.items():
            given, spare = make(), make()
            before = len(here.rig.records())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await place.call(here, given)
            except CoordinationError as error:
                if error.reason == "internal" or not any(one in error.message for one in place.says):
                    wrong[name] = f"{error.reason}: {error.message[:200]}"
            except Exception as error:  # noqa: BLE001  # it is what is looked for
                wrong[name] = f"{type(error).__name__}: {error}"[:200]
            else:
                if changed := changes(here, before, place, name, given, spare):
                    wrong[name] = changed
    assert wrong == {}


def changes(here: Here, before: int, place: Place, name: str, given: Any, spare: Any) -> str:
    """Return what the events say other than what was given; '' if nothing."""
    if given is None or not place.field or name in ("generator", "iterator"):
        return ""
    recorded = [
        envelope.data
        for record in here.rig.records()[before:]
        if record.kind == "commit"
        for envelope in codec.decode(record.body)
    ]
    found = [getattr(event, place.field) for event in recorded if hasattr(event, place.field)]
    if not found:
        return ""
    carried = value_of(found[-1]) if isinstance(found[-1], Payload) else found[-1]
    wanted = place.inside(given if name != "unshown" else spare)
    if isinstance(wanted, Amount):
        return "" if wanted.is_in(carried) else f"changed to {carried}"
    if place.name.endswith("fail_task(error)") and isinstance(carried, str) and carried.endswith(" characters)"):
        return "" if wanted.startswith(carried.rpartition("…")[0]) else "cut elsewhere"
    if place.name.endswith("fail_task(traceback)") and isinstance(carried, str) and carried.startswith("("):
        return "" if wanted.endswith(carried.partition("…")[2]) else "cut elsewhere"
    if isinstance(wanted, set | frozenset):
        wanted, carried = sorted(wanted), sorted(carried)
    return "" if is_same(wanted, carried) else f"changed to {carried!r}"[:200]
