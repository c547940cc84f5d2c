"""How failed containers are restarted by the policy of their type: how often, when, and when not any more."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.commands.container import StartContainer
from coordinator.commands.node import ObservedContainer, SyncNode
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.deciders.supervision import failed
from events.container import ContainerFailed, ContainerStarting, ContainerStatus, ContainerStopped, RestartPolicy
from events.node import NodeCordoned, NodeDraining, NodeRemoved
from events.resources import Resources
from tests.specification import Scribe, given, write
from tests.unit.deciders.facts import BEGIN, at, crashed, created, lost, node, running, starting, stopped

RULES = Rules(restart_backoff_s=1.0, restart_backoff_max_s=8.0, restart_reset_s=100.0)


class Life:
    """A container that fails again and again, by commit time; each failure is `after_s` after its start."""

    def __init__(self, **policy: Any) -> None:
        self.scribe: Scribe = write(node(), created(restart=RestartPolicy(**policy)), starting())
        self.now = BEGIN
        self.failures: list[ContainerFailed] = []

    def context(self) -> DecisionContext:
        return DecisionContext(self.now, RULES)

    def fail(self, after_s: float = 0.0, cause: str = "exited", *, runs: bool = True) -> ContainerFailed:
        """Let it run, fail after a while, and be restarted as soon as it may."""
        if runs:
            self.scribe.commit(at(self.now - BEGIN, running(generation=self.generation)))
        self.now += after_s
        failure = failed(self.container, "exited", self.context(), exit_code=1, cause=cause)
        self.scribe.commit(at(self.now - BEGIN, failure))
        self.failures.append(failure)
        if failure.restart_at is not None:
            self.now = failure.restart_at
            (start,) = self.due()
            self.scribe.commit(at(self.now - BEGIN, start))
        return failure

    def due(self) -> list[Any]:
        signs = Signs()
        signs.begin(0.0)
        return list(due(self.scribe.world, signs, self.context(), 0.0))

    @property
    def container(self) -> Any:
        return self.scribe.world.containers["k"]

    @property
    def generation(self) -> str:
        return str(self.container.generation)


def pauses(life: Life, failures: int) -> list[float]:
    """Return the pauses after so many failures, each right after the start."""
    found = []
    for _ in range(failures):
        before = life.now
        restart_at = life.fail().restart_at
        assert restart_at is not None
        found.append(restart_at - before)
    return found


def test_without_a_policy_it_is_restarted_without_end() -> None:
    """The pauses are those of all containers, and nothing is counted."""
    life = Life()
    assert pauses(life, 6) == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert (life.container.recent_failures, life.container.counted_from) == (0, None)


def test_a_type_has_pauses_of_its_own() -> None:
    """They double up to its own maximum, which is never below the first one."""
    assert pauses(Life(delay_s=0.25, delay_max_s=0.5), 4) == [0.25, 0.5, 0.5, 0.5]
    assert pauses(Life(delay_s=30.0), 3) == [30.0, 30.0, 30.0]
    assert pauses(Life(delay_s=0.0), 3) == [0.0, 0.0, 0.0]


def test_a_type_says_what_a_long_run_is() -> None:
    """After that the pause is the first one again."""
    life = Life(reset_s=5.0)
    pauses(life, 3)
    ended = life.now + 4.9
    assert life.fail(4.9).restart_at == ended + 8.0
    ended = life.now + 5.0
    assert life.fail(5.0).restart_at == ended + 1.0


def test_after_so_many_failures_it_is_given_up() -> None:
    """It stays in ERROR, says why, and nothing is due any more."""
    life = Life(attempts=3, interval_s=600.0)
    assert pauses(life, 3) == [1.0, 2.0, 4.0]
    last = life.fail()
    assert (last.restart_at, last.failures, last.counted_from) == (None, 4, BEGIN)
    assert last.reason == "exited; failure 4 within 7 s, and 3 may be"
    life.now += 1e6
    assert (life.container.status, life.due()) == (ContainerStatus.ERROR, [])


def test_none_may_be() -> None:
    """With 0 attempts a container is not restarted at all."""
    assert Life(attempts=0).fail().restart_at is None


def test_a_failure_after_the_interval_is_the_first_of_another() -> None:
    """The interval begins with the first failure."""
    life = Life(attempts=2, interval_s=60.0, delay_s=0.0)
    assert [life.fail(after_s).failures for after_s in (0.0, 59.9, 0.1, 30.0, 29.9)] == [1, 2, 1, 2, 3]
    assert [one.restart_at is None for one in life.failures] == [False, False, False, False, True]


def test_with_delay_it_waits_for_the_end_of_the_interval() -> None:
    """Then the next failure is the first again: it never ends, but it is seldom."""
    life = Life(attempts=1, interval_s=60.0, mode="delay", delay_s=0.0)
    first, second = life.fail(), life.fail(10.0)
    assert (first.restart_at, second.restart_at) == (BEGIN, BEGIN + 60.0)
    assert second.reason == "exited; failure 2 within 10 s, and 1 may be"
    assert life.fail().failures == 1


def test_an_end_without_fault_is_not_counted() -> None:
    """Nor is it the one that is too many; a start that does not succeed is a failure."""
    life = Life(attempts=1, delay_s=0.0)
    life.fail()
    assert life.fail(cause="requested").failures == 1
    assert life.fail(cause="cut_off").restart_at is not None
    assert life.fail(cause="cut_off", runs=False).restart_at is not None  # its node was lost while it started
    assert life.fail(cause="", runs=False).restart_at is None


def test_who_starts_it_starts_the_count_over() -> None:
    """A container that was given up is started by a command, and counts from 1."""
    facts = [
        *(node(), created(restart=RestartPolicy(attempts=1)), starting(), running()),
        crashed(restart_at=None, failures=2, counted_from=BEGIN),
    ]
    decided = given(*facts).when(StartContainer(container_id="k"))
    decided.then(ContainerStarting(container_id="k", node_id="n", reason="requested"))
    after = decided.world.containers["k"]
    assert (after.recent_failures, after.counted_from) == (0, None)


def test_a_restart_keeps_the_count() -> None:
    """Else no container would ever be given up."""
    facts = (
        *(node(), created(restart=RestartPolicy(attempts=5)), starting(), running()),
        *(crashed(failures=2, counted_from=BEGIN), starting(reason="restart", restarts=1)),
    )
    container = write(*facts).world.containers["k"]
    assert (container.recent_failures, container.counted_from) == (2, BEGIN)


@pytest.mark.parametrize(("code", "cause", "ends"), [(3, "exited", True), (4, "exited", False), (3, "crashed", False)])
def test_exit_codes_that_are_no_failures(code: int, cause: str, ends: bool) -> None:
    """A container that ends by itself with one of them has finished, and is told with it."""
    facts = (node(), created(restart=RestartPolicy(finished_codes=(3,))), starting(), running())
    seen = ObservedContainer(container_id="k", generation="3.0", state="exited", exit_code=code, cause=cause)
    decided = given(*facts).when(SyncNode(node_id="n", observed=(seen,)))
    stopped = ContainerStopped(container_id="k", exit_code=3)
    assert [event == stopped for event in decided.events] == [ends]


# --- containers that do not move --------------------------------------------------------------------------------------

STAYS = created(moves=False)


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (lost(), "is lost"),
        (NodeCordoned(node_id="n"), ""),
        (NodeDraining(node_id="n", until=BEGIN + 1e6, reason=""), "is draining"),
        (node(runtime="docker"), "has runtime docker, which needs image"),
        (node(capacity=Resources(memory_bytes=1)), "has too few free resources (memory: asked"),
    ],
    ids=["lost", "cordoned", "drains", "runtime", "room"],
)
def test_what_does_not_move_waits_for_its_node(fact: Any, why: str) -> None:
    """Though another node has room; a start says why, and a restart stays due."""
    asked = Resources(memory_bytes=4096)
    facts = (node(), created(moves=False, resources=asked), starting(), running(), stopped(), fact, node("other"))
    decided = given(*facts).when(StartContainer(container_id="k"))
    if why:
        assert decided.error is not None
        assert decided.error.reason == "no_room"
        assert f"node n {why}" in decided.error.message
        assert "agent type 'task_agent' does not move" in decided.error.message
        assert "other" not in decided.error.message
    else:
        decided.then(starting())


def test_what_does_not_move_waits_for_a_node_that_was_removed() -> None:
    """It does not start elsewhere then either: whoever wants that creates it anew."""
    facts = (node(), STAYS, starting(), running(), stopped(), lost(), NodeRemoved(node_id="n"), node("other"))
    error = given(*facts).when(StartContainer(container_id="k")).error
    assert error is not None
    assert "node n is removed" in error.message


def test_what_never_ran_may_start_anywhere() -> None:
    """There is nothing of it on the node where it was placed."""
    facts = (node(), STAYS, lost(), node("other"))
    given(*facts).when(StartContainer(container_id="k")).then(starting(node_id="other"))
