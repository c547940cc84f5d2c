"""The catalogue of agents: what a container of each type runs, and the most that it gets."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.agents import ApplyAgents
from coordinator.commands.container import CreateContainer, StartContainer
from coordinator.deciders.agents import BYTES_MOST, MOST_AGENTS, WORD_CHARS_MOST, WORDS_MOST, due
from coordinator.deciders.rules import BUILT_IN, Rules
from events.agents import AgentsChanged, AgentType
from events.container import ContainerCreated, RestartPolicy
from events.node import NodeRegistered
from events.resources import NONE, Resources
from projections.agents import changes, digest_of
from projections.container import Container
from tests.specification import BEGIN, fold, given
from tests.unit.deciders.facts import HOSTILE_IDS, HOSTILE_TEXTS

REVIEWER = AgentType(command=("review",))
WRITER = AgentType(image="writer:1", limits=Resources(cpu_millis=2000, memory_bytes=2**30))
SMALL = Resources(cpu_millis=100, memory_bytes=2**20)


def changed(reason: str = "", **agents: AgentType) -> AgentsChanged:
    return AgentsChanged(digest=digest_of(agents), agents=agents, reason=reason)


def apply(**agents: AgentType) -> ApplyAgents:
    return ApplyAgents(agents=agents)


def create(agent_type: str, resources: Resources = NONE) -> CreateContainer:
    return CreateContainer(container_id="c", agent_id="a", agent_type=agent_type, resources=resources)


def node() -> NodeRegistered:
    capacity = Resources(cpu_millis=64_000, memory_bytes=2**36, gpus=8)
    return NodeRegistered(node_id="n", capacity=capacity, runtime="fake")


def container(command: CreateContainer, *facts: AgentsChanged, rules: Rules | None = None) -> Container:
    """Return the container that a command creates."""
    return given(*facts, node()).when(command, rules=rules).fold().containers["c"]


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_a_catalogue_is_replaced_as_a_whole() -> None:
    """The answer is the catalogue in force; the same one again changes nothing."""
    first = changed("why", reviewer=REVIEWER)
    decided = given().when(ApplyAgents(agents={"reviewer": REVIEWER}, reason="why")).then(first)
    decided.then_answers(decided.world.agents)
    assert (decided.world.agents.changed_by, decided.world.agents.changed_at) == ("tester", BEGIN)
    given(first).when(apply(reviewer=REVIEWER)).then_nothing()
    after = given(first).when(apply(writer=WRITER)).then(changed(writer=WRITER)).world
    assert after.agents.agents == {"writer": WRITER}


def test_an_empty_catalogue_can_be_applied() -> None:
    """Then no container can be created."""
    given(changed(reviewer=REVIEWER)).when(apply()).then(changed())
    given(changed(), node()).when(create("task_agent")).then_refused("unknown_agent_type", "it has none")


def test_it_is_only_replaced_if_it_is_the_one_that_was_looked_at() -> None:
    """Who changes it at the same time is not overwritten; without one in the journal, that of the settings counts."""
    known = changed(reviewer=REVIEWER)
    good = ApplyAgents(agents={"writer": WRITER}, digest_was=known.digest)
    given(known).when(good).then(changed(writer=WRITER))
    given(changed(other=REVIEWER)).when(good).then_refused("changed_meanwhile", known.digest)
    given().when(ApplyAgents(agents={"writer": WRITER}, digest_was=digest_of(BUILT_IN))).then(changed(writer=WRITER))


@pytest.mark.parametrize(
    ("agent", "reason", "said"),
    [
        (AgentType(), "bad_agent", "no command and no image"),
        (AgentType(command=("x",) * (WORDS_MOST + 1)), "bad_agent", f"{WORDS_MOST + 1} words"),
        (AgentType(command=("x", "")), "bad_agent", "the word ''"),
        (AgentType(command=("x", "a\0b")), "bad_agent", "without NUL"),
        (AgentType(command=("x" * (WORD_CHARS_MOST + 1),)), "bad_agent", f"1 to {WORD_CHARS_MOST}"),
        (AgentType(image="a b"), "bad_agent", "the image 'a b'"),
        (AgentType(image="a\nb"), "bad_agent", "the image"),
        (AgentType(image="a" * 513), "bad_agent", "at most 512"),
        (AgentType(command=("x",), when_cut_off="explode"), "bad_agent", "use stop or keep"),
        (AgentType(command=("x",), stop_grace_s=-1.0), "bad_number", "stop_grace_s of agent type a"),
        (AgentType(command=("x",), stop_grace_s=float("nan")), "bad_number", "stop_grace_s of agent type a"),
        (AgentType(command=("x",), limits=Resources(cpu_millis=-1)), "bad_number", "limits of agent type a"),
        (AgentType(command=("x",), node_filter="labels.zone =="), "bad_agent", "has a node_filter that is none"),
        (AgentType(command=("x",), node_filter="zone == 1"), "bad_agent", "labels"),
        (AgentType(command=("x",), limits=Resources(named={"seats": 1})), "bad_resources", "seats"),
    ],
)
def test_odd_agents_are_refused(agent: AgentType, reason: str, said: str) -> None:
    """Each is named, with the value and what is right; nothing of the catalogue is taken."""
    given().when(apply(good=REVIEWER, a=agent)).then_refused(reason, said)


def test_too_much_is_refused() -> None:
    """In number and in bytes: an event has the catalogue as a whole."""
    many = {f"a{number}": REVIEWER for number in range(MOST_AGENTS + 1)}
    given().when(ApplyAgents(agents=many)).then_refused("too_many", f"at most {MOST_AGENTS}")
    long = AgentType(command=("x" * WORD_CHARS_MOST,) * (BYTES_MOST // WORD_CHARS_MOST))
    given().when(apply(a=long)).then_refused("bad_agent", f"at most {BYTES_MOST}")


@pytest.mark.parametrize("odd", HOSTILE_IDS)
def test_names_are_ids(odd: Any) -> None:
    """Of any other value it is said what is wrong."""
    given().when(ApplyAgents(agents={odd: REVIEWER})).then_refused("bad_id")


@pytest.mark.parametrize("odd", HOSTILE_TEXTS)
def test_reasons_are_texts(odd: Any) -> None:
    """Of any other value it is said what is wrong."""
    given().when(ApplyAgents(agents={}, reason=odd)).then_refused("bad_text")


# --- the settings -----------------------------------------------------------------------------------------------------


def test_the_first_leader_writes_down_what_its_settings_name() -> None:
    """Only if they name any: the built-in type needs no event."""
    world, rules = fold(), Rules(agents={**BUILT_IN, "reviewer": REVIEWER})
    world.leader = "first"
    assert list(due(world, rules)) == [
        AgentsChanged(digest=digest_of(rules.agents), agents=rules.agents, reason="the settings of first")
    ]
    assert list(due(world, Rules())) == []


def test_a_leader_with_other_settings_changes_nothing() -> None:
    """Neither by its begin, nor when it decides: the journal holds the truth."""
    rules = Rules(agents={"task_agent": AgentType(command=("other",))})
    known = changed(reviewer=REVIEWER)
    assert list(due(fold(known), rules)) == []
    assert container(create("reviewer"), known, rules=rules).command == ("review",)
    for odd, said in (("task_agent", "use one of reviewer"), ("revewer", "did you mean reviewer?")):
        given(known, node()).when(create(odd), rules=rules).then_refused("unknown_agent_type", said)


def test_changes_are_named() -> None:
    """In the order of the names."""
    before = {"b": REVIEWER, "a": REVIEWER, "same": WRITER}
    after = {"c": REVIEWER, "a": WRITER, "same": WRITER}
    assert changes(before, after) == {"a": "changed", "b": "removed", "c": "added"}


def test_a_container_keeps_what_it_was_created_with() -> None:
    """A repeat of its creation is one, whatever the catalogue says by then."""
    assert container(create("reviewer"), changed(reviewer=REVIEWER)).command == ("review",)
    created = ContainerCreated(container_id="c", agent_id="a", agent_type="reviewer", node_id="n", command=("review",))
    given(node(), created, changed(reviewer=AgentType(command=("new",)))).when(create("reviewer")).then_nothing()
    given(node(), created, changed()).when(create("reviewer")).then_nothing()


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_container_may_not_ask_for_more_than_its_type_may_have() -> None:
    """What it asks for is its limit; the bound and where it stands are named."""
    assert container(create("writer", WRITER.limits), changed(writer=WRITER)).limits == NONE
    small = given(changed(writer=WRITER), node())
    small.when(create("writer", Resources(cpu_millis=2001))).then_refused(
        "over_limit", "cpu_millis is 2001: use at most 2000, as limits of agent type writer"
    )
    small.when(create("writer", Resources(memory_bytes=2**30 + 1))).then_refused("over_limit", "memory_bytes")


def test_without_a_request_the_limits_of_the_type_apply() -> None:
    """They bound what it gets, and reserve nothing; a GPU is only given to who asks."""
    rules = Rules(resource_limits=Resources(cpu_millis=1000, memory_bytes=2**33, gpus=1))
    known = changed(writer=WRITER, reviewer=REVIEWER)
    modest = container(create("writer"), known, rules=rules)
    assert (modest.resources, modest.limits) == (NONE, Resources(cpu_millis=1000, memory_bytes=2**30))
    assert container(create("writer", SMALL), known, rules=rules).limits == NONE
    half = container(create("reviewer", Resources(cpu_millis=5)), known, rules=rules)
    assert half.limits == Resources(cpu_millis=5, memory_bytes=2**33)
    greedy = given(known, node()).when(create("reviewer", Resources(gpus=2)), rules=rules)
    greedy.then_refused("over_limit", "use at most 1, as container.resource_limits says")


# --- nodes ------------------------------------------------------------------------------------------------------------

IN_EU = AgentType(command=("x",), node_filter='labels.zone == "eu"')


def labelled(node_id: str, **labels: str) -> NodeRegistered:
    return NodeRegistered(node_id=node_id, capacity=Resources(memory_bytes=2**36), runtime="fake", labels=labels)


def test_a_container_goes_only_where_its_filter_is_met() -> None:
    """Whatever else a node has; and it stays with what it was created with."""
    facts = (changed(a=IN_EU), labelled("b", zone="eu"), labelled("c", zone="us"), labelled("d"))
    made = given(*facts).when(create("a")).fold().containers["c"]
    assert (made.node_id, made.node_filter) == ("b", IN_EU.node_filter)
    either = AgentType(command=("x",), node_filter='runtime == "fake" && node_id != "b" && labels.zone in ["eu", "us"]')
    assert given(changed(a=either), *facts[1:]).when(create("a")).fold().containers["c"].node_id == "c"


def test_that_no_node_meets_it_is_another_reason_than_no_room() -> None:
    """It does not pass by itself: what each node lacks is said, and what to do."""
    error = given(changed(a=IN_EU), labelled("c", zone="us"), labelled("d")).when(create("a")).error
    assert error is not None
    assert error.reason == "no_node"
    assert 'node c does not meet labels.zone == "eu"; node d does not meet' in error.message
    assert "label a node with node.labels, or change the node_filter of agent type 'a'" in error.message
    full = given(changed(a=IN_EU), labelled("c", zone="us"), labelled("b", zone="eu"))
    much = create("a", Resources(memory_bytes=2**37))
    assert getattr(full.when(much).error, "reason", "") == "no_room"


def test_a_node_that_lost_its_label_keeps_nothing_that_starts_again() -> None:
    """What runs there runs on; its next start is on a node that meets the filter."""
    facts = (changed(a=IN_EU), labelled("b", zone="eu"))
    created = given(*facts).when(create("a")).events[0]
    assert isinstance(created, ContainerCreated)
    moved = given(*facts, created, labelled("b", zone="us"), labelled("e", zone="eu"))
    assert moved.when(StartContainer(container_id="c")).fold().containers["c"].node_id == "e"


# --- restarts: their policy is part of a type -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "reason", "said"),
    [
        (RestartPolicy(mode="never"), "bad_agent", "use fail or delay"),
        (RestartPolicy(finished_codes=(256,)), "bad_agent", "from 1 to 255"),
        (RestartPolicy(finished_codes=(0,)), "bad_agent", "from 1 to 255"),
        (RestartPolicy(finished_codes=(1,) * 257), "bad_agent", "from 1 to 255"),
        (RestartPolicy(attempts=-1), "bad_number", "restart.attempts of agent type a"),
        (RestartPolicy(attempts=1001), "bad_number", "restart.attempts of agent type a"),
        (RestartPolicy(interval_s=float("nan")), "bad_number", "restart.interval_s of agent type a"),
        (RestartPolicy(delay_s=-1.0), "bad_number", "restart.delay_s of agent type a"),
        (RestartPolicy(delay_max_s=1e9), "bad_number", "restart.delay_max_s of agent type a"),
        (RestartPolicy(reset_s=-0.5), "bad_number", "restart.reset_s of agent type a"),
    ],
)
def test_odd_restart_policies_are_refused(policy: RestartPolicy, reason: str, said: str) -> None:
    """Each is named, with the value and what is right."""
    given().when(apply(a=AgentType(command=("x",), restart=policy))).then_refused(reason, said)


def test_a_container_is_restarted_by_the_policy_of_its_type() -> None:
    """As it was when the container was created."""
    policy = RestartPolicy(attempts=3, delay_s=0.5, finished_codes=(3, 4))
    known = changed(a=AgentType(command=("x",), restart=policy))
    given(known, node()).when(apply(a=AgentType(command=("x",), restart=policy))).then_nothing()
    assert container(create("a"), known).restart == policy
