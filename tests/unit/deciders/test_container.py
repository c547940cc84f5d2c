"""Deciders of the container and session commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.command import Command
from coordinator.commands.container import (
    DestroyContainer,
    PauseContainer,
    ResumeContainer,
    StartContainer,
    StopContainer,
)
from coordinator.commands.session import BindSession, CloseSession
from coordinator.deciders.rules import Rules
from events.agents import AgentType
from events.container import (
    ContainerDestroyed,
    ContainerPausing,
    ContainerResuming,
    ContainerStopped,
    ContainerStopping,
    Secret,
)
from events.coordinator import CoordinatorPlacementRefused
from events.node import NodeCordoned, NodeRemoved
from events.resources import NONE
from events.session import SessionBound, SessionClosed
from tests.specification import given
from tests.unit.deciders.facts import (
    ABSURD,
    CAPACITY,
    HOSTILE_IDS,
    HOSTILE_TEXTS,
    a_container,
    crashed,
    create,
    created,
    lived,
    lost,
    no_room,
    node,
    resources,
    running,
    starting,
    stopped,
    stopping,
)

if TYPE_CHECKING:
    from events.resources import Resources

GONE = ContainerDestroyed(container_id="k")
CORDONED = NodeCordoned(node_id="n")
START, PAUSE, RESUME, STOP, DESTROY = (
    StartContainer(container_id="k"),
    PauseContainer(container_id="k"),
    ResumeContainer(container_id="k"),
    StopContainer(container_id="k"),
    DestroyContainer(container_id="k"),
)
EVERY_STATUS = ["created", "starting", "running", "paused", "stopping", "destroying", "stopped", "error"]
FULL = resources(cpu=4000, memory=4096)
"""The whole capacity of the node in these tests, with its cores overcommitted four times."""
NOTHING_FREE = "has too few free resources (cpu: asked 4000m, free 0m; memory: asked 4096 bytes, free 0 bytes)"


# --- creating ---------------------------------------------------------------------------------------------------------


def test_a_container_is_placed_with_what_its_agent_type_says() -> None:
    """The event records the catalogue entry, so a later change of the catalogue does not change this container."""
    rules = Rules(agents={"task_agent": AgentType(command=("run",), image="agent:1", when_cut_off="keep")})
    order = create(resources=resources(cpu=2000), environment={"ENV": "production", "KEY": Secret(secret="key")})
    wanted = created(
        resources=resources(cpu=2000),
        environment={"ENV": "production", "KEY": Secret(secret="key")},
        command=("run",),
        image="agent:1",
        when_cut_off="keep",
    )
    given(node()).when(order, rules=rules).then(wanted).then_answers("k")


def test_a_container_goes_where_there_is_room_and_least_to_do() -> None:
    """Equal nodes are ordered by name, so the same world leads to the same placement."""
    two = (node("n1"), node("n2"))
    given(*two).when(create()).then(created(node_id="n1"))
    given(*two, created("a", node_id="n1")).when(create()).then(created(node_id="n2"))
    crowded = (*two, created("a", node_id="n1"), created("b", node_id="n1"), created("c", node_id="n2", resources=FULL))
    given(*crowded).when(create(resources=resources(cpu=1))).then(created(node_id="n1", resources=resources(cpu=1)))


def test_cores_are_overcommitted_and_memory_is_not() -> None:
    """The overcommit is 4 unless the rules set another value."""
    given(node()).when(create(resources=FULL)).then(created(resources=FULL))
    lacks = no_room("k", FULL, n="has too few free resources (cpu: asked 4000m, free 1000m)")
    given(node()).when(create(resources=FULL), rules=Rules(cpu_overcommit=1.0)).then_refused("no_room", facts=lacks)


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        (resources(cpu=4001), "cpu: asked 4001m, free 4000m"),
        (resources(memory=4097), "memory: asked 4097 bytes, free 4096 bytes"),
        (resources(gpus=2), "gpu: asked 2, free 1"),
    ],
)
def test_where_there_is_no_room_the_refusal_says_what_is_lacking(asked: Resources, lacking: str) -> None:
    """The refusal states the lacking resources of each node; so does the fact that is recorded."""
    why = f"has too few free resources ({lacking})"
    given(node()).when(create(resources=asked)).then_refused(
        "no_room", f"node n {why}", facts=no_room("k", asked, n=why)
    )


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ((node(), lost()), "is lost"),
        ((node(), CORDONED), "is cordoned"),
        ((node(), NodeRemoved(node_id="n")), "is removed"),
        (
            (node(), created("other", resources=FULL)),
            "has too few free resources (cpu: asked 1m, free 0m)",
        ),
    ],
)
def test_where_there_is_no_node_the_refusal_says_why(facts: tuple[Any, ...], why: str) -> None:
    """Lost, cordoned, removed and full nodes get no containers."""
    asked = resources(cpu=1)
    expected = no_room("k", asked, n=why)
    given(*facts).when(create(resources=asked)).then_refused("no_room", f"'k': node n {why}", facts=expected)


def test_a_refusal_names_five_nodes() -> None:
    """However many there are; the fact says how many others have no room."""
    asked = resources(cpu=1)
    facts = [fact for number in range(7) for fact in (node(f"n{number}"), lost(f"n{number}"))]
    expected = no_room("k", asked, others=2, **{f"n{number}": "is lost" for number in range(5)})
    given(*facts).when(create(resources=asked)).then_refused("no_room", "node n4 is lost", facts=expected)
    given().when(create(resources=asked)).then_refused("no_room", "no node is registered", facts=no_room("k", asked))


IMAGE, PROGRAM, BOTH = AgentType(image="agent:1"), AgentType(command=("run",)), AgentType(image="a", command=("run",))


@pytest.mark.parametrize(
    ("runtime", "agent"),
    [
        *((runtime, agent) for runtime in ("fake", "of_tomorrow") for agent in (IMAGE, PROGRAM, BOTH)),
        ("process", PROGRAM),
        ("process", BOTH),
        ("docker", IMAGE),
        ("docker", BOTH),
    ],
)
def test_a_node_gets_what_its_runtime_can_run(runtime: str, agent: AgentType) -> None:
    """A process needs a command and Docker an image; a runtime that is not known here gets everything."""
    wanted = created(image=agent.image, command=agent.command)
    given(node(runtime=runtime)).when(create(), rules=Rules(agents={"task_agent": agent})).then(wanted)


def never(**nodes: str) -> tuple[CoordinatorPlacementRefused, ...]:
    return (CoordinatorPlacementRefused(container_id="k", resources=NONE, reason="no_runtime", nodes=nodes),)


@pytest.mark.parametrize(
    ("runtime", "agent", "why", "remedy"),
    [
        ("process", IMAGE, "needs command, and agent type 'task_agent' has only its image", "command|docker"),
        ("docker", PROGRAM, "needs image, and agent type 'task_agent' has only its command", "image|process"),
        ("docker", AgentType(), "needs image, and agent type 'task_agent' has neither command nor image", ""),
    ],
)
def test_what_no_node_can_run_has_a_reason_of_its_own(runtime: str, agent: AgentType, why: str, remedy: str) -> None:
    """However much room there is; the refusal says what to set, and which nodes could run it as it is."""
    why = f"has runtime {runtime}, which {why}"
    lacks, _, other = remedy.partition("|")
    does = f": set the {lacks or 'command or image'} of agent type 'task_agent' before the container is created"
    told = f"no node can run container 'k': node n {why}{does}"
    whole = f"{told}, or add a node with runtime {other}" if other else told
    rules = Rules(agents={"task_agent": agent})
    given(node(runtime=runtime)).when(create(), rules=rules).then_refused("no_runtime", whole, facts=never(n=why))
    gone = (node("old"), NodeRemoved(node_id="old"))
    given(*gone, node(runtime=runtime)).when(create(), rules=rules).then_refused(
        "no_runtime", whole, facts=never(n=why)
    )
    away = (node(runtime=runtime), lost())
    given(*away).when(create(), rules=rules).then_refused("no_runtime", whole, facts=never(n=why))


def test_as_long_as_one_node_could_run_it_there_is_no_room() -> None:
    """It may return, or get room; such nodes are named first."""
    rules = Rules(agents={"task_agent": IMAGE})
    unfit = "has runtime process, which needs command, and agent type 'task_agent' has only its image"
    facts = (node(runtime="process"), node("d", runtime="docker"), lost("d"))
    expected = no_room("k", NONE, d="is lost", n=unfit)
    given(*facts).when(create(), rules=rules).then_refused(
        "no_room", f"'k': node d is lost; node n {unfit}", facts=expected
    )


def test_a_container_starts_elsewhere_when_its_node_has_another_runtime_now() -> None:
    """The node was registered again; what the container needs is what it was created with."""
    before = (*lived(starting(), running(), stopping(), stopped()), node(runtime="docker"))
    given(*before, node("other", runtime="process")).when(START).then(starting(node_id="other"))
    why = "has runtime docker, which needs image, and agent type 'task_agent' has only its command"
    given(*before, node("other", runtime="docker")).when(START).then_refused(
        "no_runtime", "'k'", facts=never(n=why, other=why)
    )


def test_what_has_stopped_takes_no_room() -> None:
    """Only containers that are created or may run hold resources."""
    facts = (node(), created(resources=FULL), starting(), running(), stopping())
    given(*facts).when(create("new", resources=FULL)).then_refused(
        "no_room", facts=no_room("new", FULL, n=NOTHING_FREE)
    )
    given(*facts, stopped()).when(create("new", resources=FULL)).then(created("new", resources=FULL))


def test_only_so_many_containers_stand() -> None:
    """Destroyed containers do not count."""
    rules = Rules(max_containers=1)
    given(node(), created()).when(create("new"), rules=rules).then_refused("too_many_containers", "max_containers")
    given(node(), created(), GONE).when(create("new"), rules=rules).then(created("new"))


@pytest.mark.parametrize("status", EVERY_STATUS)
def test_creating_the_same_container_again_is_already_so(status: str) -> None:
    """A repeat is recognized in any status of the container, even if the node is full."""
    given(*a_container(status)).when(create(), rules=Rules(max_containers=0)).then_nothing().then_answers("k")


@pytest.mark.parametrize(
    "difference",
    [
        {"agent_id": "b"},
        {"agent_type": "other"},
        {"resources": resources(cpu=1)},
        {"environment": {"A": "b"}},
        {"session_id": "z"},
    ],
)
def test_another_container_under_the_same_id_is_refused(difference: dict[str, Any]) -> None:
    """The refusal names the id."""
    rules = Rules(agents={"task_agent": AgentType(), "other": AgentType()})
    given(node(), created()).when(create(**difference), rules=rules).then_refused("id_taken", "'k'")


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_names_of_containers_are_ids(bad: str) -> None:
    """Ids and names become labels, paths and environment variables, so they are checked."""
    given(node()).when(create(bad)).then_refused("bad_id", "container_id")
    given(node()).when(create(agent_id=bad)).then_refused("bad_id", "agent_id")
    given(node()).when(create(agent_type=bad)).then_refused("bad_id", "agent_type")
    given(node()).when(create(environment={bad: "x"})).then_refused("bad_id", "environment name")
    given(node()).when(create(environment={"A": Secret(secret=bad)})).then_refused("bad_id", "secret of")
    if bad:
        given(node()).when(create(session_id=bad)).then_refused("bad_id", "session_id")


@pytest.mark.parametrize(
    ("environment", "reason", "named"),
    [
        ({"A": "x\0y"}, "bad_environment", "NUL"),
        ({"A": "x" * 32_769}, "bad_environment", "32769"),
        ({"A": "\1" * 30_000}, "bad_environment", "180008 bytes as JSON"),
        ({f"A{n}": "" for n in range(257)}, "too_many", "257 entries"),
    ],
)
def test_an_environment_is_what_a_system_takes(environment: dict[str, str], reason: str, named: str) -> None:
    """The refusal says what is wrong."""
    given(node()).when(create(environment=environment)).then_refused(reason, named)


def test_an_unknown_agent_type_is_refused() -> None:
    """The refusal names the known agent types."""
    given(node()).when(create(agent_type="shell")).then_refused("unknown_agent_type", "'shell'", "task_agent")


@pytest.mark.parametrize("asked", ABSURD)
def test_a_container_cannot_ask_for_less_than_nothing(asked: object) -> None:
    """A negative amount would add room to the node."""
    given(node()).when(create(resources=asked)).then_refused("bad_number", "resources.")


def test_a_container_may_serve_a_session_from_the_start() -> None:
    """One commit records both events."""
    bound = SessionBound(session_id="z", container_id="k", owned=True)
    given(node()).when(create(session_id="z")).then(created(session_id="z"), bound)


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["created", "stopped", "error"])
def test_what_does_not_run_is_started(status: str) -> None:
    """A requested start resets the count of restarts."""
    decided = given(*a_container(status)).when(START).then(starting())
    decided.then_answers(decided.world.containers["k"])


@pytest.mark.parametrize("status", ["starting", "running"])
def test_what_runs_is_already_started(status: str) -> None:
    """The answer is the state of the container."""
    world = given(*a_container(status))
    world.when(START).then_nothing().then_answers(world.world.containers["k"])


@pytest.mark.parametrize(
    ("facts", "instead"),
    [
        (a_container("paused"), "resume it"),
        (a_container("stopping"), "when it has stopped"),
        (a_container("destroying"), "when it has stopped"),
        ((node(), created(), GONE), "create a new one"),
    ],
)
def test_what_cannot_be_started_is_told_what_to_do_instead(facts: tuple[Any, ...], instead: str) -> None:
    """The refusal names the status."""
    given(*facts).when(START).then_refused("not_startable", "'k' is ", instead)


def test_a_container_starts_on_its_own_node_even_a_cordoned_one() -> None:
    """A cordoned node gets no new containers, but may restart its own."""
    given(node(), node("other"), created(), CORDONED).when(START).then(starting())


@pytest.mark.parametrize(
    "trouble",
    [
        (lost(),),
        (NodeRemoved(node_id="n"),),
        (created("big", resources=FULL),),
    ],
)
def test_a_container_starts_elsewhere_when_its_node_cannot(trouble: tuple[Any, ...]) -> None:
    """It starts on a node with room; its resources move with it."""
    before = (node(), node("other"), created(resources=FULL), starting(), running(), stopping(), stopped())
    world = given(*before, *trouble).when(START).then(starting(node_id="other")).world
    assert (world.containers["k"].node_id, list(world.indexes.containers_on["other"])) == ("other", ["k"])


def test_a_container_whose_node_has_left_the_world_starts_elsewhere() -> None:
    """A removed node is evicted in the end; its containers are not."""
    world = given(node("other"), created(node_id="evicted"))
    world.when(START).then(starting(node_id="other"))


def test_a_container_with_no_room_anywhere_is_not_started() -> None:
    """The container does not change."""
    before = (node(), created(resources=FULL), starting(), running(), stopping(), stopped())
    given(*before, created("big", resources=FULL)).when(START).then_refused(
        "no_room", "'k'", "too few free resources", facts=no_room("k", FULL, n=NOTHING_FREE)
    )


def test_what_a_created_container_holds_is_its_own() -> None:
    """A container that fills its node starts there: its own resources count as free."""
    given(node(), created(resources=FULL)).when(START).then(starting())


# --- stopping and destroying ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["starting", "running", "paused"])
@pytest.mark.parametrize("force", [False, True])
def test_what_may_run_is_told_to_stop(status: str, force: bool) -> None:
    """A stop is graceful or forced."""
    order = StopContainer(container_id="k", force=force, reason="upgrade")
    given(*a_container(status)).when(order).then(stopping(force=force, reason="upgrade"))


@pytest.mark.parametrize("facts", [a_container("created"), a_container("stopped"), (node(), created(), GONE)])
def test_what_does_not_run_is_already_stopped(facts: tuple[Any, ...]) -> None:
    """The answer is the state of the container."""
    world = given(*facts)
    world.when(STOP).then_nothing().then_answers(world.world.containers["k"])


def test_a_failed_container_that_is_stopped_does_not_start_again() -> None:
    """A failed container is STOPPED at once, with the exit code of its failure."""
    world = given(*lived(starting(), running(), crashed(exit_code=3))).when(STOP).then(stopped(exit_code=3)).world
    assert (world.containers["k"].restart_at, world.containers["k"].desired.value) == (None, "stopped")


def test_a_gentle_stop_under_way_can_be_forced_and_not_undone() -> None:
    """A forced stop cannot become graceful."""
    force = StopContainer(container_id="k", force=True)
    given(*a_container("stopping")).when(STOP).then_nothing()
    given(*a_container("stopping")).when(force).then(stopping(force=True))
    given(*a_container("running"), stopping(force=True)).when(STOP).then_nothing()
    given(*a_container("running"), stopping(force=True)).when(force).then_nothing()


def test_forcing_the_stop_of_what_is_to_be_destroyed_still_destroys_it() -> None:
    """A stop does not undo a destroy in progress."""
    force = StopContainer(container_id="k", force=True)
    given(*a_container("destroying")).when(STOP).then_nothing()
    given(*a_container("destroying")).when(force).then(stopping(force=True, destroy=True))


@pytest.mark.parametrize("status", ["created", "stopped", "error"])
def test_what_does_not_run_is_destroyed_at_once(status: str) -> None:
    """Only the end of the container is recorded."""
    decided = given(*a_container(status)).when(DESTROY).then(GONE)
    decided.then_answers(decided.world.containers["k"])


@pytest.mark.parametrize("status", ["starting", "running", "paused", "stopping"])
def test_what_may_run_is_stopped_before_it_is_destroyed(status: str) -> None:
    """The node removes the container after it has stopped."""
    given(*a_container(status)).when(DESTROY).then(stopping(destroy=True, reason="destroy"))


def test_destroying_again_is_already_so() -> None:
    """A repeat changes nothing unless it is forced now."""
    force = DestroyContainer(container_id="k", force=True)
    given(node(), created(), GONE).when(DESTROY).then_nothing()
    given(*a_container("destroying")).when(DESTROY).then_nothing()
    forced = ContainerStopping(container_id="k", force=True, destroy=True, reason="destroy")
    given(*a_container("destroying")).when(force).then(forced)
    given(*a_container("running"), forced).when(force).then_nothing()


def test_destroying_does_not_make_a_forced_stop_gentle() -> None:
    """A forced stop stays forced."""
    world = given(*a_container("running"), stopping(force=True))
    world.when(DESTROY).then(stopping(force=True, destroy=True, reason="destroy"))


def test_the_sessions_of_a_container_end_with_it() -> None:
    """Sessions bound at creation or later end; the sessions of other containers stay."""
    facts = (
        node(),
        created(session_id="first"),
        SessionBound(session_id="first", container_id="k", owned=True),
        SessionBound(session_id="later", container_id="k", owned=True),
        SessionBound(session_id="over", container_id="k", owned=True),
        SessionClosed(session_id="over"),
        created("other"),
        SessionBound(session_id="elsewhere", container_id="other", owned=True),
    )
    why = "its container was destroyed"
    ends = [SessionClosed(session_id=name, reason=why) for name in ("first", "later")]
    given(*facts).when(DESTROY).then(GONE, *ends)


def test_a_session_that_has_moved_on_does_not_end() -> None:
    """A session that was bound to another container stays open."""
    moved = (
        SessionBound(session_id="z", container_id="k", owned=True),
        SessionBound(session_id="z", container_id="other", owned=True),
    )
    given(node(), created(session_id="z"), created("other"), *moved).when(DESTROY).then(GONE)


# --- pausing ----------------------------------------------------------------------------------------------------------


def test_a_running_container_is_paused_and_resumed() -> None:
    """A repeat of either changes nothing."""
    pausing, resuming = ContainerPausing(container_id="k"), ContainerResuming(container_id="k")
    given(*a_container("running")).when(PAUSE).then(pausing)
    given(*a_container("running"), pausing).when(PAUSE).then_nothing()
    given(*a_container("running"), pausing).when(RESUME).then(resuming)
    given(*a_container("paused")).when(PAUSE).then_nothing()
    given(*a_container("paused")).when(RESUME).then(resuming)
    given(*a_container("running")).when(RESUME).then_nothing()


def test_what_failed_while_paused_is_resumed_while_it_starts_again() -> None:
    """A restart leads back to PAUSED; a resume before that leads to RUNNING."""
    again = (crashed(), starting(reason="restart", restarts=1))
    given(*a_container("paused"), *again).when(RESUME).then(ContainerResuming(container_id="k"))
    given(*a_container("paused"), *again, ContainerResuming(container_id="k")).when(RESUME).then_nothing()


@pytest.mark.parametrize("status", ["created", "starting", "stopping", "destroying", "stopped", "error"])
def test_only_what_runs_can_be_paused(status: str) -> None:
    """The refusal names the status."""
    given(*a_container(status)).when(PAUSE).then_refused("not_running", status.replace("destroying", "stopping"))


@pytest.mark.parametrize("status", ["created", "stopping", "destroying", "stopped"])
def test_only_what_is_paused_can_be_resumed(status: str) -> None:
    """The refusal names the status."""
    given(*a_container(status)).when(RESUME).then_refused("not_paused", status.replace("destroying", "stopping"))


# --- every order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [START, STOP, PAUSE, RESUME, DESTROY, BindSession(session_id="z", container_id="k")])
def test_a_container_that_never_was_is_not_found(order: Command) -> None:
    """The error names it."""
    given(node()).when(order).then_refused("not_found", "'k'", code="not_found")


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_reasons_are_printable(text: str) -> None:
    """Texts enter the journal, so they are checked."""
    facts = a_container("running")
    given(*facts).when(StopContainer(container_id="k", reason=text)).then_refused("bad_text", "reason")
    given(*facts).when(CloseSession(session_id="z", reason=text)).then_refused("bad_text", "reason")


# --- sessions ---------------------------------------------------------------------------------------------------------

BIND = BindSession(session_id="z", container_id="k")
BOUND = SessionBound(session_id="z", container_id="k", owned=True)
CLOSED = SessionClosed(session_id="z")


def test_a_session_is_bound_once() -> None:
    """A session may be bound to another container, and again after its end."""
    facts = (node(), created(), created("other"))
    given(*facts).when(BIND).then(BOUND).then_answers(None)
    given(*facts, BOUND).when(BIND).then_nothing()
    given(*facts, SessionBound(session_id="z", container_id="other", owned=True)).when(BIND).then(BOUND)
    given(*facts, BOUND, CLOSED).when(BIND).then(BOUND)


def test_a_session_is_not_bound_to_what_is_gone() -> None:
    """The refusal states that the container is destroyed."""
    given(node(), created(), GONE).when(BIND).then_refused("not_standing", "'k' is destroyed")


def test_a_session_is_closed_once() -> None:
    """An unknown session is not found."""
    order = CloseSession(session_id="z")
    given(node(), created(), BOUND).when(order).then(CLOSED)
    given(node(), created(), BOUND, CLOSED).when(order).then_nothing()
    given().when(order).then_refused("not_found", "'z'", code="not_found")


@pytest.mark.parametrize("bad", HOSTILE_IDS)
def test_sessions_need_ids(bad: str) -> None:
    """Every command checks its ids."""
    facts = (node(), created())
    given(*facts).when(BindSession(session_id=bad, container_id="k")).then_refused("bad_id", "session_id")
    given(*facts).when(BindSession(session_id="z", container_id=bad)).then_refused("bad_id", "container_id")
    given(*facts).when(CloseSession(session_id=bad)).then_refused("bad_id", "session_id")


def test_the_node_of_these_tests_is_what_they_say() -> None:
    """The capacity is one core, overcommitted in `FULL`."""
    assert CAPACITY.cpu_millis * Rules().cpu_overcommit == FULL.cpu_millis
    assert ContainerStopped(container_id="k") == stopped()


# --- limits -----------------------------------------------------------------------------------------------------------


def test_an_environment_has_a_size_in_all() -> None:
    """The limit is on names and values together, because the environment is sent in the orders of the node."""
    environment: dict[str, Any] = {f"NAME_{number}": "x" * 1000 for number in range(40)}
    given(node()).when(create(environment=environment)).then_refused("bad_environment", "in total", "32768")


def test_there_are_not_more_sessions_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit per cluster and one per container, because all sessions of a container end in one commit."""
    facts = (*a_container("running"), SessionBound(session_id="a", container_id="k", owned=True))
    bind = BindSession(session_id="b", container_id="k")
    given(*facts).when(bind).then(SessionBound(session_id="b", container_id="k", owned=True))
    monkeypatch.setattr("coordinator.deciders.session.SESSIONS_A_CONTAINER", 1)
    given(*facts).when(bind).then_refused("too_many", "serves 1")
    monkeypatch.setattr("coordinator.deciders.container.MOST_SESSIONS", 1)
    given(*facts).when(bind).then_refused("too_many", "there are 1 sessions")
    given(*facts).when(create("m", session_id="b")).then_refused("too_many", "there are 1 sessions")
    moved = SessionBound(session_id="a", container_id="m", owned=True)
    given(node(), *facts).when(create("m", session_id="a")).then(created("m", session_id="a"), moved)
