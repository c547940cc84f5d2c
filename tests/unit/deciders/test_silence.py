"""In a mass silence nothing is declared lost until heartbeats return or the silence is accepted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from coordinator.commands.cluster import AcceptSilence
from coordinator.deciders.due import due
from coordinator.deciders.rules import DecisionContext, Rules
from coordinator.deciders.signs import Signs
from coordinator.deciders.silence import accept, is_held, patience_s
from coordinator.engine.questions import stats
from events.coordinator import CoordinatorMassSilenceEnded, CoordinatorMassSilenceNoticed, CoordinatorStarted, Watched
from events.node import NodeLost
from events.service import ServiceHealthChanged, ServiceStatus
from events.worker import WorkerLost
from projections.world import World
from tests.specification import given, said, write
from tests.unit.deciders.facts import BEGIN, URL, a_container, node, service, worker

if TYPE_CHECKING:
    from events.base import Event
    from tests.specification import Scribe

RULES = Rules()
LEADS = CoordinatorStarted(instance="i", version="0", retention_s=3600.0, ended_kept=10_000)
HUNDRED = [f"n{number:03}" for number in range(100)]
MADE = {Watched.SERVICE: service, Watched.WORKER: worker, Watched.NODE: node}
GIVEN_UP = {Watched.SERVICE: ServiceHealthChanged, Watched.WORKER: WorkerLost, Watched.NODE: NodeLost}


class Fleet:
    """A hundred entities of one kind, all heard just now; those in `silent` send no more heartbeats."""

    def __init__(self, kind: Watched, rules: Rules = RULES, count: int = 100) -> None:
        self.kind, self.rules = kind, rules
        self.names = HUNDRED[:count]
        self.scribe: Scribe = write(LEADS, *(MADE[kind](name) for name in self.names))
        self.events: list[Event] = []
        self.began = self.scribe.world.time + 1.0
        self.signs = Signs()
        self.heard = {
            Watched.SERVICE: self.signs.services,
            Watched.WORKER: self.signs.workers,
            Watched.NODE: self.signs.nodes,
        }[kind]
        self.limit_s = patience_s(kind, rules)
        self.now = 0.0
        self.silent: set[str] = set()
        self.heard |= dict.fromkeys(self.names, 0.0)

    @property
    def world(self) -> World:
        return self.scribe.world

    @property
    def time(self) -> float:
        """The commit time, which runs as fast as the monotonic clock."""
        return self.began + self.now

    def tell(self, event: Event) -> None:
        """Write and fold *event*."""
        self.scribe.commit(said(event, at=self.time))
        self.events.append(event)

    def wait(self, limits: float) -> Counter[type[Event]]:
        """Let this many times the limit pass, in small steps; fold and count the due events."""
        given_up: Counter[type[Event]] = Counter()
        for _ in range(round(limits * 20)):
            self.now += self.limit_s / 20
            self.heard |= {name: self.now for name in self.names if name not in self.silent}
            for event in due(self.world, self.signs, DecisionContext(self.time, self.rules), self.now):
                self.tell(event)
                given_up[type(event)] += 1
        return given_up


@pytest.mark.parametrize("kind", Watched)
def test_many_that_fall_silent_at_once_are_kept(kind: Watched) -> None:
    """A fifth is silent: this is recorded once, with its numbers, and none is declared lost however long it lasts."""
    fleet = Fleet(kind)
    fleet.silent = set(fleet.names[:20])
    due = fleet.wait(5)
    assert due == {CoordinatorMassSilenceNoticed: 1}
    assert fleet.events[-1] == CoordinatorMassSilenceNoticed(
        instance="i", kind=kind, silent=20, alive=100, limit_s=fleet.limit_s, most=0.15
    )
    assert is_held(fleet.world, kind)
    assert stats(fleet.world).mass_silence == {kind.value: 20}


@pytest.mark.parametrize("kind", Watched)
def test_a_few_are_given_up(kind: Watched) -> None:
    """Fifteen of a hundred are not more than the share: they are lost."""
    fleet = Fleet(kind)
    fleet.silent = set(fleet.names[:15])
    assert fleet.wait(2) == {GIVEN_UP[kind]: 15}


@pytest.mark.parametrize("kind", Watched)
def test_small_numbers_are_given_up_whatever_share_they_are(kind: Watched) -> None:
    """Nine of nine: fewer than ten are not a mass silence."""
    fleet = Fleet(kind, count=9)
    fleet.silent = set(fleet.names)
    assert fleet.wait(2) == {GIVEN_UP[kind]: 9}


@pytest.mark.parametrize("kind", Watched)
def test_it_ends_when_signs_return(kind: Watched) -> None:
    """Entities that are heard again were never lost; the few others are lost then."""
    fleet = Fleet(kind)
    fleet.silent = set(fleet.names[:40])
    fleet.wait(3)
    fleet.silent = set(fleet.names[:5])
    assert fleet.wait(2) == {CoordinatorMassSilenceEnded: 1, GIVEN_UP[kind]: 5}
    assert not is_held(fleet.world, kind)
    assert stats(fleet.world).mass_silence == {}


@pytest.mark.parametrize("kind", Watched)
def test_it_ends_when_somebody_says_that_they_are_gone(kind: Watched) -> None:
    """All silent entities are lost, those below their limit when they exceed it."""
    fleet = Fleet(kind)
    fleet.silent = set(fleet.names[:20])
    fleet.wait(1.5)
    fleet.silent |= set(fleet.names[20:30])
    fleet.wait(0.8)
    accepted = CoordinatorMassSilenceEnded(instance="i", kind=kind, silent=20, accepted=True, reason="fire")
    assert accept(fleet.world, AcceptSilence(kind=kind, reason="fire"), DecisionContext(fleet.time, RULES)) == (
        accepted,
    )
    fleet.tell(accepted)
    assert fleet.wait(0.9) == {GIVEN_UP[kind]: 30}
    assert stats(fleet.world).mass_silence == {}


@pytest.mark.parametrize("kind", Watched)
def test_a_new_writer_goes_on_holding(kind: Watched) -> None:
    """A new writer has heard nothing yet: the silence neither ends nor leads to losses."""
    fleet = Fleet(kind)
    fleet.silent = set(fleet.names[:20])
    fleet.wait(2)
    fleet.heard.clear()
    fleet.signs.begin(fleet.now)
    assert fleet.wait(3) == {}
    assert is_held(fleet.world, kind)


def test_what_was_accepted_holds_for_one_limit_alone() -> None:
    """The next mass silence is recorded again."""
    fleet = Fleet(Watched.WORKER)
    fleet.silent = set(fleet.names[:20])
    fleet.wait(1.5)
    ended = CoordinatorMassSilenceEnded(instance="i", kind=Watched.WORKER, silent=20, accepted=True)
    fleet.tell(ended)
    assert fleet.wait(1.5) == {WorkerLost: 20}
    fleet.silent |= set(fleet.names[20:50])
    assert fleet.wait(2) == {CoordinatorMassSilenceNoticed: 1}


def test_what_is_not_noticed_cannot_be_accepted() -> None:
    """Without a mass silence it is refused; a repeat changes nothing."""
    order = AcceptSilence(kind=Watched.NODE)
    given(LEADS).when(order).then_refused("not_found", "mass silence of nodes")
    noticed = CoordinatorMassSilenceNoticed(instance="i", kind=Watched.NODE, silent=9, alive=9, limit_s=1.0, most=0.1)
    ended = CoordinatorMassSilenceEnded(instance="i", kind=Watched.NODE, silent=9, accepted=True)
    given(LEADS, noticed).when(order).then(ended)
    given(LEADS, noticed, said(ended, at=BEGIN + 9)).when(order).then_nothing()
    given(LEADS, noticed).when(AcceptSilence(kind=Watched.NODE, reason="x" * 1025)).then_refused("bad_text", "reason")


def test_services_that_are_checked_do_not_count() -> None:
    """A hundred services whose checks stopped do not count against services with heartbeats."""
    scribe = write(LEADS, service("s"), *(service(name, health_check_url=URL) for name in HUNDRED))
    signs = Signs()
    signs.begin(0.0)
    events = list(due(scribe.world, signs, DecisionContext(BEGIN + 200.0, RULES), 200.0))
    changed = {event.service_id: event.status for event in events if isinstance(event, ServiceHealthChanged)}
    assert changed == {"s": ServiceStatus.OFFLINE} | dict.fromkeys(HUNDRED, ServiceStatus.UNKNOWN)


def test_workers_in_paused_containers_do_not_count() -> None:
    """They are silent because somebody paused them."""
    inside = [worker(f"w{number}", container_id="k") for number in range(50)]
    scribe = write(LEADS, *a_container("paused"), *inside, *(worker(f"v{number}") for number in range(50)))
    signs = Signs()
    signs.begin(0.0)
    signs.nodes["n"] = 100.0
    signs.workers |= {f"v{number}": 100.0 for number in range(50)}
    assert list(due(scribe.world, signs, DecisionContext(BEGIN + 200.0, RULES), 100.0)) == []


def test_a_share_of_one_turns_it_off() -> None:
    """Then every silent entity is lost."""
    fleet = Fleet(Watched.WORKER, Rules(mass_silence_share=1.0))
    fleet.silent = set(fleet.names)
    assert fleet.wait(2) == {WorkerLost: 100}
