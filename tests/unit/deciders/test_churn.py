"""What has ended stays in memory for ten minutes: a source cannot fill it, nor take the room of others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from coordinator.commands.session import BindSession
from coordinator.commands.worker import RegisterWorker
from events.container import ContainerDestroyed
from events.coordinator import CoordinatorStarted
from events.errors import Unavailable
from events.service import ServiceDeregistered
from events.session import SessionBound, SessionClosed
from events.worker import WorkerLeft
from tests.specification import Said, given, said
from tests.unit.deciders.facts import claim, create, created, node, register_node, register_service, service, worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.commands.command import Command
    from events.base import Event

LEADS = CoordinatorStarted(instance="i", version="0", retention_s=1e6, ended_kept=0)

KINDS: dict[str, tuple[Callable[[str], Event], Callable[[str], Event], Callable[[str], Command]]] = {
    "containers": (created, lambda one: ContainerDestroyed(container_id=one), create),
    "services": (service, lambda one: ServiceDeregistered(service_id=one), register_service),
    "sessions": (
        lambda one: SessionBound(session_id=one, container_id="k", owned=True),
        lambda one: SessionClosed(session_id=one),
        lambda one: BindSession(session_id=one, container_id="k"),
    ),
    "sessions of containers": (
        lambda one: SessionBound(session_id=one, container_id="k", owned=True),
        lambda one: SessionClosed(session_id=one),
        lambda one: create(f"in-{one}", session_id=one),
    ),
    "workers": (worker, lambda one: WorkerLeft(worker_id=one), lambda one: RegisterWorker(worker_id=one)),
    "claiming workers": (worker, lambda one: WorkerLeft(worker_id=one), lambda one: claim(worker_id=one)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_has_half_of_the_room_for_what_has_ended(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another source may still create; an id that is used again takes no more room; after ten minutes there is some."""
    monkeypatch.setattr("coordinator.deciders.rules.ENDED_SPARE", 3)
    begins, ends, command = KINDS[kind]
    facts: list[Any] = [LEADS, node(), created("k")]
    for one in ("a", "b", "c"):
        facts += [said(begins(one), actor="ann"), ends(one)]
    then: Callable[..., Any] = given(*facts).when
    why = f"3 {kind.partition(' of ')[0].split()[-1]} of ann and 0 of others have ended and are kept for ten minutes"
    error = then(command("d"), actor="ann").then_refused("memory_full", why)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s == 5.0
    assert then(command("d"), actor="bob").events
    if kind not in {"containers", "sessions of containers"}:
        assert then(command("a"), actor="ann").events
    assert given(*facts[:-2]).when(command("d"), actor="ann").events
    now = given(*facts, said(LEADS, at=5000.0))
    assert now.when(command("d"), actor="ann").events


def test_what_nobody_owns_takes_room_from_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older releases did not record whose it was: of four places for what has ended, three are taken."""
    monkeypatch.setattr("coordinator.deciders.rules.ENDED_SPARE", 2)
    facts: list[Event | Said] = [LEADS]
    for one in ("a", "b", "c"):
        facts += [worker(one, owned=False), WorkerLeft(worker_id=one)]
    assert given(*facts).when(RegisterWorker(worker_id="d")).events
    facts += [worker("e"), WorkerLeft(worker_id="e")]
    given(*facts).when(RegisterWorker(worker_id="d")).then_refused("memory_full", "1 workers of tester and 3 of others")


def test_there_are_not_more_nodes_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known one may change."""
    monkeypatch.setattr("coordinator.deciders.node.MOST_NODES", 1)
    given(node()).when(register_node("another")).then_refused("too_many", "there are 1 nodes")
    given(node()).when(register_node(labels={"a": "b"})).then(node(labels={"a": "b"}))
