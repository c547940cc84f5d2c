"""Whatever happens to containers and nodes, in any order: no node ever holds more than it offers."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.commands.command import Command
from coordinator.commands.container import DestroyContainer, StartContainer, StopContainer
from coordinator.commands.node import CordonNode, DrainNode, ObservedContainer, SyncNode, UncordonNode
from coordinator.deciders.drain import on_node
from coordinator.deciders.due import due
from coordinator.deciders.node import orders
from coordinator.deciders.placement import free_on
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from events.container import ContainerStatus
from projections.world import World
from tests.specification import Given, given
from tests.unit.deciders.facts import create, node, resources

NODES = ["n1", "n2"]
RULES = Rules(cpu_overcommit=1.0, restart_backoff_s=1.0)
NODE_IDS = st.sampled_from(NODES)
CONTAINER_IDS = st.sampled_from([f"k{number}" for number in range(6)])
STATES = st.sampled_from(["running", "paused", "exited", "failed", "absent"])


class Cluster(RuleBasedStateMachine):
    """Two nodes and up to six containers get random commands, reports, losses and restarts."""

    @initialize()
    def begin(self) -> None:
        self.given: Given = given(*(node(one, capacity=resources(cpu=4, memory=4, gpus=1)) for one in NODES))
        self.signs = Signs()
        self.heard_now = 0.0

    @property
    def world(self) -> World:
        return self.given.world

    @rule(container_id=CONTAINER_IDS, cpu=st.integers(0, 4), memory=st.integers(0, 4), gpus=st.integers(0, 1))
    def create(self, container_id: str, cpu: int, memory: int, gpus: int) -> None:
        self._order(create(container_id, resources=resources(cpu, memory, gpus)))

    @rule(container_id=CONTAINER_IDS, order=st.sampled_from([StartContainer, StopContainer, DestroyContainer]))
    def command(self, container_id: str, order: Any) -> None:
        self._order(order(container_id=container_id))

    @rule(node_id=NODE_IDS, order=st.sampled_from([CordonNode, UncordonNode, DrainNode]))
    def cordon(self, node_id: str, order: Any) -> None:
        self._order(order(node_id=node_id))

    @rule(node_id=NODE_IDS, states=st.lists(STATES, min_size=6, max_size=6))
    def sync(self, node_id: str, states: list[str]) -> None:
        wanted = orders(self.world, node_id, RULES).containers
        observed = tuple(
            ObservedContainer(container_id=one.container_id, generation=one.generation, state=state, exit_code=1)
            for one, state in zip(wanted, states, strict=False)
            if state != "absent"
        )
        self.signs.nodes[node_id] = self.heard_now
        self._order(SyncNode(node_id=node_id, observed=observed, orders_id="the last"))

    @rule(seconds=st.sampled_from([0.5, 2.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.heard_now += seconds
        context = DecisionContext(self.world.time + seconds, RULES)
        for event in due(self.world, self.signs, context, self.heard_now):
            self.given.scribe.commit(event)

    @invariant()
    def nothing_is_oversold(self) -> None:
        for one in self.world.nodes.values():
            free = free_on(self.world, one, RULES)
            assert min(free.cpu_millis, free.memory_bytes, free.gpus) >= 0, f"{one.node_id} lacks {free}"

    @invariant()
    def what_stands_is_on_a_node_and_once(self) -> None:
        placed = [one for there in self.world.indexes.containers_on.values() for one in there]
        standing = [one.container_id for one in self.world.containers.values() if not one.is_ended]
        assert sorted(placed) == sorted(standing)
        for container in self.world.containers.values():
            assert container.node_id in NODES
            assert (container.restart_at is not None) is (container.status is ContainerStatus.ERROR)

    @invariant()
    def a_drained_node_has_nothing(self) -> None:
        for one in self.world.nodes.values():
            assert not one.drained or not on_node(self.world, one.node_id)

    def _order(self, command: Command) -> None:
        decided = self.given.when(command, rules=RULES)
        if decided.events:
            decided.fold()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
