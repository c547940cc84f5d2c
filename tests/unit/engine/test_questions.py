"""Answers from the world, and refused questions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from coordinator.commands.caller import Caller
from coordinator.commands.cluster import GetStats, ListInboxes
from coordinator.commands.command import Command
from coordinator.commands.container import GetContainer, ListContainers
from coordinator.commands.hold import GetHold, ListHolds
from coordinator.commands.node import GetNode, ListNodes
from coordinator.commands.pool import GetPool
from coordinator.commands.service import (
    FindServices,
    GetHealthHistory,
    GetService,
    ReportCheck,
    ReportNotChecked,
    ServiceLoad,
)
from coordinator.commands.session import GetSession
from coordinator.commands.task import FindTasks, GetTask, ListTasks
from coordinator.commands.worker import ListWorkers
from coordinator.deciders.signs import Signs
from coordinator.engine import questions
from coordinator.engine.budget import TURN_BYTES, TURN_S, Budget
from coordinator.engine.intake import Asked
from coordinator.engine.questions import ask
from coordinator.engine.waiting_questions import GIVE_UP_AT_ONCE, Waiting
from events.container import ContainerStatus
from events.errors import NotFound, Refused, Unavailable
from events.hold import HoldPlaced
from events.inbox import InboxRead
from events.node import NodeDraining, NodeRemoved
from events.pool import PoolAllocated, PoolDefined, PoolRequested
from events.service import ServiceDeregistered, ServiceStatus
from events.session import SessionBound
from events.task import TaskStatus
from events.task_pause import TaskPaused
from projections.world import World
from tests.specification import Scribe, fold, write
from tests.unit.deciders.facts import (
    HOSTILE_IDS,
    INFINITY,
    NAN,
    a_container,
    completed,
    created,
    health,
    lost,
    node,
    payload,
    resources,
    service,
    started,
    starting,
    submit,
    submitted,
    worker,
)
from tests.unit.engine.engine_rig import Hands


def answered(world: World, question: Command, *, signs: Signs | None = None, heard_now: float = 0.0) -> Any:
    value = ask(world, signs if signs is not None else Signs(), question, heard_now)
    return list(value) if isinstance(value, Iterator) else value


# --- one thing --------------------------------------------------------------------------------------------------------

ONE = {
    "task": GetTask(task_id="x"),
    "container": GetContainer(container_id="x"),
    "service": GetService(service_id="x"),
    "pool": GetPool(pool_id="x"),
    "session": GetSession(session_id="x"),
}


def test_each_thing_is_told_as_it_stands() -> None:
    """By its id."""
    pool = PoolDefined(pool_id="x", capacity=resources(cpu=1))
    facts = (submitted("x"), node(), created("x"), service("x"), pool, SessionBound(session_id="x", container_id="x"))
    world = fold(*facts)
    tables = (world.tasks, world.containers, world.pools, world.sessions)
    questions = (ONE["task"], ONE["container"], ONE["pool"], ONE["session"])
    for table, question in zip(tables, questions, strict=True):
        assert answered(world, question) is table["x"]  # type: ignore[index]  # each is a table of things by id
    assert answered(world, ONE["service"]).service is world.services["x"]


@pytest.mark.parametrize(("kind", "question"), ONE.items())
def test_what_is_not_there_is_not_found(kind: str, question: Command) -> None:
    """The error names kind and id."""
    with pytest.raises(NotFound, match=f"{kind} 'x'"):
        answered(fold(), question)


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_one_asks_by_ids(bad: str) -> None:
    """A malformed id is refused before the look-up."""
    for question in (GetTask(task_id=bad), GetService(service_id=bad), GetHealthHistory(service_id=bad)):
        with pytest.raises(Refused, match="is not an identifier"):
            answered(fold(), question)


def test_what_is_no_question_is_not_answered() -> None:
    """Other commands are decided, not answered."""
    with pytest.raises(Refused, match="SubmitTask is not a question"):
        answered(fold(), submit())


# --- lists ------------------------------------------------------------------------------------------------------------


def test_lists_are_newest_first_and_no_longer_than_asked() -> None:
    """Of tasks, containers, workers and nodes."""
    names = ["a", "b", "c"]
    facts = [make(name) for name in names for make in (submitted, worker, node)]
    world = fold(*facts, *(created(name, node_id="a") for name in names))
    for question in (ListTasks(limit=2), ListContainers(limit=2), ListWorkers(limit=2), ListNodes(limit=2)):
        listed = answered(world, question)
        assert [getattr(one, f"{question.KIND}_id") for one in listed] == ["c", "b"]


def test_tasks_are_listed_by_status() -> None:
    """Or all of them."""
    world = fold(submitted("a"), submitted("b"), started("a"), completed("a"), submitted("c"))
    assert [task.task_id for task in answered(world, ListTasks(status=TaskStatus.PENDING))] == ["c", "b"]
    assert len(answered(world, ListTasks())) == 3


def found(world: World, where: str = "true", **others: Any) -> tuple[list[str], str]:
    answer = answered(world, FindTasks(where=where, **others))
    return [task.task_id for task in answer.tasks], answer.next


def test_tasks_are_found_by_a_filter() -> None:
    """Newest first, without what is large; of a status, or those that are paused."""
    facts = (submitted("a", payload=payload()), submitted("b", priority=5), submitted("c"), submitted("d", priority=5))
    world = fold(*facts, started("a"), TaskPaused(task_id="b", reason="r"))
    assert found(world) == (["d", "c", "b", "a"], "")
    assert found(world, "priority == 5") == (["d", "b"], "")
    assert found(world, 'status == "running"') == (["a"], "")
    assert found(world, "true", status=TaskStatus.RUNNING) == (["a"], "")
    assert found(world, "priority == 5", paused=True) == (["b"], "")
    assert found(world, "priority == 9") == ([], "")
    assert found(fold()) == ([], "")
    assert answered(world, FindTasks(where='task_id == "a"')).tasks[0].payload is None
    with pytest.raises(Refused, match="did you mean priority"):
        found(world, "prority == 5")
    with pytest.raises(Refused, match="use 1 to 1000"):
        found(world, limit=0)


def test_a_search_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the page is full, or when enough tasks were looked at: each is found once, and the last page says so."""
    world = fold(*(submitted(f"t{number}", priority=number % 2) for number in range(10)))
    assert found(world, "priority == 1", limit=2) == (["t9", "t7"], "t7")
    assert found(world, "priority == 1", limit=2, after="t7") == (["t5", "t3"], "t3")
    assert found(world, "priority == 1", limit=2, after="t3") == (["t1"], "")
    assert found(world, "priority == 0", limit=1, after="t1") == (["t0"], "")
    monkeypatch.setattr(questions, "MOST_LOOKED_AT", 6)
    assert found(world, 'task_id == "t0"', limit=1) == ([], "t4")
    assert found(world, f'task_id == "t0"{" " * 100}', limit=1) == ([], "t7")
    monkeypatch.setattr(questions, "MOST_LOOKED_AT", 3)
    assert found(world, "priority == 1") == (["t9", "t7"], "t7")
    assert found(world, 'task_id == "t0"') == ([], "t7")
    assert found(world, 'task_id == "t0"', after="t3") == (["t0"], "")
    with pytest.raises(Refused, match="is not among the first") as caught:
        found(world, after="gone")
    assert caught.value.reason == "bad_cursor"


def test_holds_are_told_with_how_many_tasks_they_keep() -> None:
    """Each task is counted for the hold that was placed first; one that is not in force is not found."""
    facts = (submitted("a"), submitted("b"), HoldPlaced(hold_id="h", where='task_id == "a"'))
    world = fold(*facts, HoldPlaced(hold_id="all", where="true"), submitted("c"))
    assert [(view.hold_id, view.tasks) for view in answered(world, ListHolds())] == [("h", 1), ("all", 2)]
    assert [view.hold_id for view in answered(world, ListHolds(after="h"))] == ["all"]
    assert answered(world, GetHold(hold_id="all")).hold is world.holds["all"]
    with pytest.raises(NotFound, match="hold 'x' not found"):
        answered(world, GetHold(hold_id="x"))


def test_a_node_is_told_with_what_is_held_and_free() -> None:
    """Cores are overcommitted; a lost or removed node has nothing free, whatever it offers."""
    facts = (node(), created(resources=resources(cpu=1500, memory=96)), starting(), created("l"))
    view = answered(fold(*facts), GetNode(node_id="n"))
    assert (view.held, view.free) == (resources(cpu=1500, memory=96), resources(cpu=2500, memory=4000, gpus=1))
    assert (view.containers, view.staying) == ({"created": 1, "starting": 1}, {})
    for end in (lost(), NodeRemoved(node_id="n")):
        assert answered(fold(*facts, end), GetNode(node_id="n")).free == resources()
    drains = answered(fold(*facts, NodeDraining(node_id="n", until=5000.0)), GetNode(node_id="n"))
    assert drains.staying == {"k": "finds no room on another node"}
    with pytest.raises(NotFound, match="node 'm' not found"):
        answered(fold(*facts), GetNode(node_id="m"))


@pytest.mark.parametrize("limit", [0, -1, 10_001, NAN, INFINITY])
@pytest.mark.parametrize("question", [ListTasks, ListContainers, ListWorkers, ListNodes, FindServices])
def test_a_list_has_a_length(question: Any, limit: float) -> None:
    """The refusal names the number and the range."""
    with pytest.raises(Refused, match="use 1 to 1000"):
        answered(fold(), question(limit=limit))


def test_lists_are_read_page_by_page() -> None:
    """Each item once, whatever is listed; what came in the meantime is not in the pages that follow."""
    names = list("abcde")
    facts = [make(name) for name in names for make in (submitted, worker, node)]
    inboxes = [InboxRead(domain=name, stream_created="c", sequence=1, index=0) for name in names]
    scribe = write(*facts, *inboxes, *(created(name, node_id="a") for name in names))
    for kind, question in (
        ("task", ListTasks(limit=2)),
        ("task", ListTasks(limit=2, status=TaskStatus.PENDING)),
        ("container", ListContainers(limit=2)),
        ("worker", ListWorkers(limit=2)),
        ("node", ListNodes(limit=2)),
        ("domain", ListInboxes(limit=2)),
    ):
        pages, after = [], ""
        while page := answered(scribe.world, msgspec.structs.replace(question, after=after)):
            pages.append([getattr(one, "domain" if kind == "domain" else f"{kind}_id") for one in page])
            after = pages[-1][-1]
            if kind == "task" and len(pages) == 1:
                scribe.commit(submitted(f"late-{len(scribe.world.tasks)}"))
        assert [one for page in pages for one in page if not one.startswith("late")] == (
            names if kind == "domain" else names[::-1]
        ), question


@pytest.mark.parametrize("after", ["gone", "u"])
def test_a_page_begins_after_what_is_listed(after: str) -> None:
    """A task that does not exist, or has another status, is no place in the list; the refusal says what to do."""
    world = fold(submitted("t"), submitted("u"), started("u"))
    with pytest.raises(Refused, match="begin again without after, or ask a follower") as refused:
        answered(world, ListTasks(status=TaskStatus.PENDING, after=after))
    assert refused.value.reason == "bad_cursor"


def test_lists_are_not_read_to_any_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies far behind is for followers to read."""
    monkeypatch.setattr(questions, "MOST_PASSED", 2)
    world = fold(*(submitted(name) for name in "abcd"))
    assert [task.task_id for task in answered(world, ListTasks(after="c"))] == ["b", "a"]
    with pytest.raises(Refused, match="not among the first 2"):
        answered(world, ListTasks(after="b"))


def test_the_requests_that_wait_are_on_the_first_page() -> None:
    """They are shown once."""
    allocated = [PoolAllocated(pool_id="p", request_id=name, resources=resources(cpu=1)) for name in "ab"]
    waits = PoolRequested(pool_id="p", request_id="w", resources=resources(cpu=9))
    world = fold(PoolDefined(pool_id="p", capacity=resources(cpu=9)), *allocated, waits)
    assert list(answered(world, GetPool(pool_id="p", limit=1)).waiting) == ["w"]
    assert not answered(world, GetPool(pool_id="p", limit=1, after="a")).waiting


def test_a_pool_is_shown_whole_or_page_by_page() -> None:
    """The pages have the allocations in the order in which they were made."""
    allocated = [PoolAllocated(pool_id="p", request_id=name, resources=resources(cpu=1)) for name in "abc"]
    world = fold(PoolDefined(pool_id="p", capacity=resources(cpu=9)), *allocated)
    assert list(answered(world, GetPool(pool_id="p")).allocations) == ["a", "b", "c"]
    assert list(answered(world, GetPool(pool_id="p", limit=2)).allocations) == ["a", "b"]
    rest = answered(world, GetPool(pool_id="p", after="b"))
    assert (list(rest.allocations), rest.capacity) == (["c"], resources(cpu=9))
    with pytest.raises(Refused, match="use 1 to 1000"):
        answered(world, GetPool(pool_id="p", limit=0))


# --- services ---------------------------------------------------------------------------------------------------------

SERVICES = (
    service("a"),
    service("b", tags=("eu",)),
    service("c", service_name="store", service_type="database"),
    health(ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY, "b"),
    service("gone"),
    ServiceDeregistered(service_id="gone"),
)


@pytest.mark.parametrize(
    ("question", "found"),
    [
        (FindServices(), ["a", "b", "c"]),
        (FindServices(service_name="agents"), ["a", "b"]),
        (FindServices(service_name="nobody"), []),
        (FindServices(service_type="database"), ["c"]),
        (FindServices(status=ServiceStatus.HEALTHY), ["a", "c"]),
        (FindServices(service_name="agents", status=ServiceStatus.UNHEALTHY), ["b"]),
        (FindServices(tag="eu"), ["b"]),
        (FindServices(tag="us"), []),
        (FindServices(limit=1), ["a"]),
    ],
)
def test_services_are_found_by_what_they_are(question: FindServices, found: list[str]) -> None:
    """A deregistered service is never found."""
    assert sorted(view.service.service_id for view in answered(fold(*SERVICES), question)) == found


def test_services_can_be_read_page_by_page() -> None:
    """Services come in the order of their ids, each once, in whatever order they registered."""
    world = fold(*(service(name) for name in ("d", "b", "e", "a", "c")))
    pages, after = [], ""
    while page := [view.service.service_id for view in answered(world, FindServices(limit=2, after=after))]:
        pages.append(page)
        after = page[-1]
    assert pages == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("narrow", [{"status": ServiceStatus.HEALTHY}, {"service_name": "agents"}])
def test_some_services_can_be_read_page_by_page(narrow: Any) -> None:
    """Those of a status or a name, in order."""
    world = fold(*(service(name) for name in ("d", "b", "a")), service("c", service_name="store"), *UNHEALTHY)
    pages, after = [], ""
    while page := [one.service.service_id for one in answered(world, FindServices(limit=1, after=after, **narrow))]:
        pages += page
        after = page[-1]
    assert pages == (["a", "c", "d"] if "status" in narrow else ["a", "b", "d"])
    assert answered(world, FindServices(status=ServiceStatus.OFFLINE, after="")) == []


UNHEALTHY = (health(ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY, "b"),)


def test_a_service_is_shown_with_its_last_heartbeat() -> None:
    """With the age of the report; a service without a report has none."""
    signs = Signs()
    signs.hear_service("a", 100.0, ServiceLoad(heard_s_ago=0.0, load=0.5, connections=3, response_time_ms=1.5))
    world = fold(*SERVICES)
    view = answered(world, GetService(service_id="a"), signs=signs, heard_now=102.5)
    assert view.reported == ServiceLoad(heard_s_ago=2.5, load=0.5, connections=3, response_time_ms=1.5)
    assert answered(world, GetService(service_id="b"), signs=signs).reported is None


def test_the_history_of_health_is_the_last_check_and_the_last_change() -> None:
    """A follower has those before; not found for a service that is not registered."""
    signs = Signs()
    world = fold(*SERVICES)
    assert answered(world, GetHealthHistory(service_id="a"), signs=signs) == []
    scribe = write(*SERVICES, health(ServiceStatus.UNHEALTHY, ServiceStatus.HEALTHY, "a"))
    for number in range(3):
        signs.keep_check(ReportCheck(service_id="a", ok=True, check=f"c{number}"), 5000.0, ServiceStatus.UNHEALTHY)
    history = answered(scribe.world, GetHealthHistory(service_id="a"), signs=signs)
    assert [(one.check, one.ok, one.is_change, one.number) for one in history] == [
        ("c2", True, False, 3),
        ("told", False, True, 0),
    ]
    assert len(answered(scribe.world, GetHealthHistory(service_id="a", limit=1), signs=signs)) == 1
    (change,) = answered(scribe.world, GetHealthHistory(service_id="a"))
    assert change.is_change
    signs.keep_check(ReportCheck(service_id="a", ok=False, check="c"), change.at, ServiceStatus.UNHEALTHY)
    (check,) = answered(scribe.world, GetHealthHistory(service_id="a"), signs=signs)
    assert check.check == "c", "the check that changed it stands for the change"
    with pytest.raises(NotFound):
        answered(world, GetHealthHistory(service_id="gone"), signs=signs)


def test_a_service_is_shown_with_how_long_its_checks_take() -> None:
    """None before the first that passed."""
    signs = Signs()
    signs.keep_check(ReportCheck(service_id="a", ok=True, check="http", latency_ms=2.5), 1.0, ServiceStatus.HEALTHY)
    world = fold(*SERVICES)
    assert answered(world, GetService(service_id="a"), signs=signs).check_ms == 2.5
    assert answered(world, GetService(service_id="b"), signs=signs).check_ms is None


def test_a_service_is_shown_with_why_it_could_not_be_checked() -> None:
    """Until a check is made, or it registers otherwise; the history has it first."""
    signs, world = Signs(), fold(*SERVICES)
    at = world.services["a"].registered_at
    signs.keep_check(ReportCheck(service_id="a", ok=True, check="http"), at, ServiceStatus.HEALTHY)
    signs.accepted(ReportNotChecked(service_id="a", check="http", detail="no route"), 1.0, at - 1, world)
    assert answered(world, GetService(service_id="a"), signs=signs).not_checked == ""
    signs.accepted(ReportNotChecked(service_id="a", check="http", detail="no route"), 1.0, at, world)
    assert answered(world, GetService(service_id="a"), signs=signs).not_checked == "no route"
    history = answered(world, GetHealthHistory(service_id="a"), signs=signs)
    assert [(one.could_not, one.number) for one in history] == [(True, 3), (False, 1)]
    signs.keep_check(ReportCheck(service_id="a", ok=True, check="http"), at, ServiceStatus.HEALTHY)
    assert answered(world, GetService(service_id="a"), signs=signs).not_checked == ""


def test_the_counts_are_of_what_there_is() -> None:
    """Counts by status, with totals over the lifetime of the cluster; deregistered services are not counted."""
    scribe = Scribe()
    scribe.claim(generation=2)
    for fact in (*SERVICES, submitted(), started(), completed(), worker(), node(), created(), starting()):
        scribe.commit(fact)
    scribe.commit(PoolDefined(pool_id="p", capacity=resources(cpu=1)))
    scribe.commit(PoolAllocated(pool_id="p", request_id="r", resources=resources(cpu=1)))
    told = answered(scribe.world, GetStats())
    assert told.services == {"healthy": 2, "unhealthy": 1}
    assert {status: count for status, count in told.tasks.items() if count} == {"completed": 1}
    assert (told.workers, told.nodes, told.containers) == ({"active": 1}, {"ready": 1}, {"starting": 1})
    assert (told.totals, told.container_starts, told.container_failures) == ({"tasks_completed": 1}, 1, 0)
    assert (told.epoch, told.position, told.leader) == ("2.1", str(scribe.world.position), "")


# --- waiting ----------------------------------------------------------------------------------------------------------


class Line:
    """Questions that wait, over a journal that can be written on."""

    def __init__(self, *facts: Any, most: int = 10, wait_max_s: float = 60.0) -> None:
        self.scribe = write(*facts)
        self.told: list[Any] = []
        self.again: list[Asked] = []
        self.hands = Hands()
        self.budget = Budget(self.hands)
        self.waiting = Waiting(
            self.scribe.world, most=most, wait_max_s=wait_max_s, ask_again=self.again.append, budget=self.budget
        )

    def ask(self, question: Command) -> Asked:
        def reply(value: Any, error: Any) -> None:
            self.told.append(error if error is not None else value)

        asked = Asked(question, Caller(actor="tester"), reply)
        self.waiting.add(asked)
        return asked

    def happens(self, *facts: Any) -> None:
        for fact in facts:
            self.scribe.commit(fact)
            self.waiting.look({fact.subject})


WAIT = GetTask(task_id="t", wait_s=60.0)
UNLESS = (ContainerStatus.CREATED, ContainerStatus.STARTING)


@pytest.mark.parametrize(
    ("facts", "question", "waits"),
    [
        ((submitted(),), WAIT, True),
        ((submitted(),), GetTask(task_id="t"), False),
        ((submitted(),), GetTask(task_id="t", wait_s=NAN), False),
        ((submitted(), started(), completed()), WAIT, False),
        (a_container("starting"), GetContainer(container_id="k", unless=UNLESS, wait_s=1.0), True),
        (a_container("starting"), GetContainer(container_id="k", unless=UNLESS), False),
        (a_container("running"), GetContainer(container_id="k", unless=UNLESS, wait_s=1.0), False),
        ((service(),), GetService(service_id="s"), False),
    ],
)
def test_a_question_waits_only_for_what_is_not_yet_so(facts: Any, question: Command, waits: bool) -> None:
    """For a task until it has ended, for a container until it has left each of the statuses named."""
    world = fold(*facts)
    assert Waiting.must_wait(question, answered(world, question)) is waits


async def test_whoever_waits_is_told_when_it_has_come() -> None:
    """Every waiting question is answered; other events of the task do not end the wait."""
    line = Line(submitted())
    line.ask(WAIT)
    line.ask(WAIT)
    assert line.waiting.touched("t")
    line.happens(started())
    assert line.told == []
    line.happens(completed())
    assert [task.status for task in line.told] == [TaskStatus.COMPLETED] * 2
    assert not line.waiting.touched("t")


async def test_a_task_and_a_container_of_one_name_do_not_answer_for_each_other() -> None:
    """Each question waits for its own."""
    line = Line(submitted("k"), *a_container("starting"))
    line.ask(GetTask(task_id="k", wait_s=60.0))
    line.ask(GetContainer(container_id="k", unless=UNLESS, wait_s=60.0))
    line.happens(started("k"), completed("k"))
    assert [one.status for one in line.told] == [TaskStatus.COMPLETED]
    assert line.waiting.touched("k")
    line.waiting.refuse_all(Unavailable("over"))


async def test_what_left_the_world_while_someone_waited_is_not_found() -> None:
    """Rather than waiting for it to the end."""
    line = Line(submitted())
    line.ask(WAIT)
    del line.scribe.world.tasks["t"]
    line.waiting.look({"t"})
    (error,) = line.told
    assert isinstance(error, NotFound)


async def test_a_wait_that_is_over_is_asked_again_without_waiting() -> None:
    """The world may contain events that are not committed yet, so the next turn answers."""
    line = Line(submitted(), submitted("u"), wait_max_s=0.02)
    line.ask(WAIT)
    asked = line.ask(GetTask(task_id="t", wait_s=60.0))
    line.ask(GetTask(task_id="u", wait_s=0.01))
    await asyncio.sleep(0.1)
    assert line.told == []
    assert [one.command for one in line.again] == [GetTask(task_id="u"), GetTask(task_id="t"), GetTask(task_id="t")]
    assert line.again[-1].reply is asked.reply
    assert not line.waiting.touched("t")


async def test_an_event_on_the_way_does_not_make_the_wait_longer() -> None:
    """The time runs from when it was asked."""
    line = Line(submitted())
    line.ask(GetTask(task_id="t", wait_s=0.05))
    await asyncio.sleep(0.03)
    line.happens(started())
    await asyncio.sleep(0.04)
    assert len(line.again) == 1


async def test_an_event_that_ends_no_wait_costs_those_who_wait_nothing() -> None:
    """A task may move many times while thousands wait for its end."""
    line = Line(submitted(), most=20_000)
    looked = []

    def must_wait(question: Command, value: Any) -> bool:
        looked.append((question, value))
        return True

    for _ in range(10_000):
        line.ask(WAIT)
    line.waiting.must_wait = must_wait  # type: ignore[method-assign]  # it counts
    line.happens(started())
    assert len(looked) == 1
    line.waiting.refuse_all(Unavailable("over"))


async def test_many_who_give_up_at_once_do_so_a_few_at_a_time() -> None:
    """Other callbacks of the loop run in between; each question is asked again once."""
    line = Line(submitted(), most=10_000, wait_max_s=0.01)
    for _ in range(1000):
        line.ask(WAIT)
    steps, longest = 0, 0
    async with asyncio.timeout(5):
        while len(line.again) < 1000:
            before = len(line.again)
            await asyncio.sleep(0)
            steps, longest = steps + 1, max(longest, len(line.again) - before)
    assert longest <= GIVE_UP_AT_ONCE
    assert not line.waiting


async def test_whom_the_budget_does_not_reach_is_told_in_the_next_turn() -> None:
    """Thousands may wait for the same task."""
    line = Line(submitted())
    for _ in range(3):
        line.ask(WAIT)
    line.budget.note_bytes(TURN_BYTES - 1)
    told = line.told.append

    def reply(value: Any, error: Any) -> None:
        told((value, error))
        line.hands.turn(2 * TURN_S)

    slow = Asked(WAIT, Caller(actor="tester"), reply)
    line.waiting.add(slow)
    line.happens(started(), completed())
    assert (len(line.told), line.again) == (4, [])
    for _ in range(3):
        line.waiting.add(Asked(GetTask(task_id="u", wait_s=60.0), Caller(actor="tester"), reply))
    line.happens(submitted("u"), started("u"), completed("u"))
    assert (len(line.told), [one.command for one in line.again]) == (4, [GetTask(task_id="u")] * 3)
    line.budget.refill()
    assert not line.budget.is_spent


async def test_the_ends_of_answered_waits_are_not_kept() -> None:
    """However many wait long and are answered soon."""
    line = Line(submitted(), submitted("u"), most=10_000)
    line.ask(GetTask(task_id="u", wait_s=60.0))
    for _ in range(500):
        line.ask(WAIT)
    line.happens(started(), completed())
    assert len(line.told) == 500
    assert len(line.waiting._ends) < 100
    line.waiting.refuse_all(Unavailable("over"))


async def test_only_so_many_wait() -> None:
    """The next question is refused with a time to retry, until one of the waiting ones is answered."""
    line = Line(submitted(), submitted("u"), most=1)
    line.ask(WAIT)
    line.ask(GetTask(task_id="u", wait_s=60.0))
    (error,) = line.told
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after_s) == ("overloaded", 1.0)
    line.happens(started(), completed())
    line.ask(GetTask(task_id="u", wait_s=60.0))
    assert line.waiting.touched("u")
    line.waiting.refuse_all(Unavailable("over"))


async def test_a_source_that_waits_for_much_leaves_room_for_others() -> None:
    """It has half of what the others leave; what was answered makes room again."""
    line = Line(submitted(), submitted("u"), most=10)
    for _ in range(10):
        line.ask(WAIT)
    assert {error.reason for error in line.told} == {"overloaded"}
    assert "5 questions of tester are waiting, half of what others leave of engine.waiting_max" in line.told[0].message
    assert len(line.told) == 5
    for actor in ("ann", "bob"):
        line.waiting.add(Asked(GetTask(task_id="u", wait_s=60.0), Caller(actor=actor), lambda *_: None))
    line.told.clear()
    line.happens(started(), completed())
    assert [one.status for one in line.told] == [TaskStatus.COMPLETED] * 5
    line.ask(GetTask(task_id="u", wait_s=60.0))
    assert len(line.told) == 5
    line.waiting.refuse_all(Unavailable("over"))
    assert not line.waiting._of_source


async def test_everyone_who_waits_can_be_refused() -> None:
    """Each question is answered once, and no timer is left."""
    line = Line(submitted())
    line.ask(GetTask(task_id="t", wait_s=0.01))
    line.ask(WAIT)
    over = Unavailable("over")
    line.waiting.refuse_all(over)
    await asyncio.sleep(0.03)
    assert (line.told, line.again) == ([over, over], [])
