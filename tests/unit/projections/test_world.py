"""The world follows from the records alone: in order, without gaps, nothing unreadable; old entries are evicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from events import codec
from events.base import START, Event, Position
from events.coordinator import CoordinatorStarted, CoordinatorStopped, CoordinatorTurn
from events.errors import Corrupt
from events.idempotency import IdempotencyForgotten
from events.node import NodeHeartbeat
from events.service import ServiceDeregistered, ServiceHeartbeat, ServiceRegistered, ServiceStatus
from events.session import SessionBound, SessionClosed
from events.task import (
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
    TaskStatus,
    TaskSubmitted,
)
from events.worker import WorkerHeartbeat, WorkerLeft, WorkerRegistered
from projections.memory import HARD_S, Memory
from projections.snapshot import Snapshot
from projections.source import GENESIS, Record, chain_after
from projections.task import EndedTask, KeyedTask, checksum, content_of
from projections.upgrade import FOLD_VERSION
from projections.world import OUTCOMES, World
from tests.specification import BEGIN, Scribe, fold, journal_record, said, write
from tests.unit.projections.histories import write_history

if TYPE_CHECKING:
    from collections.abc import Callable

CLAIM = b'{"generation":2,"holder":"h","time":"2026-11-23T17:15:00.000000Z"}'
MOON = b'{"type":"moon.risen","specversion":"1.0","id":"1.0","source":"s","subject":"m","time":"%s","dataversion":1}'
AT = codec.rfc3339(BEGIN).encode()


def submit(task_id: str, key: str = "") -> TaskSubmitted:
    return TaskSubmitted(task_id=task_id, task_name="n", idempotency_key=key)


def cancelled(*task_ids: str) -> list[Event]:
    """Each task comes and goes."""
    return [event for task_id in task_ids for event in (submit(task_id), TaskCancelled(task_id=task_id))]


def leads(*, retention_s: float = 1e9, ended_kept: int = 1_000_000) -> CoordinatorStarted:
    return CoordinatorStarted(instance="i", version="0", retention_s=retention_s, ended_kept=ended_kept)


def body_of(*events: Event, time: str = "1970-01-01T00:16:40Z") -> bytes:
    return codec.join(
        codec.encode(codec.envelope(event, position=Position(1, index), time=time, source="s"))
        for index, event in enumerate(events)
    )


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_new_world_is_before_the_first_record() -> None:
    """A new world is at the start of the journal, without a chain, a leader or entities."""
    world = World()
    assert (world.position, world.time, world.chain) == (START, 0.0, GENESIS)
    assert (world.generation, world.epoch, world.holder, world.leader, world.unfoldable) == (0, 0, "", "", "")
    assert not any([world.containers, world.services, world.tasks, world.workers, world.nodes, world.pools])
    assert not any([world.sessions, world.memory.count, world.totals])


def test_folding_a_commit_gives_its_events_and_moves_the_world_behind_them() -> None:
    """Position, time and chain are those of the commit; its events are returned."""
    world = World()
    body = body_of(submit("a"), submit("b"))
    given_back = world.apply_record(journal_record(body, after=world))
    assert given_back == codec.decode(body)
    assert (world.position, world.time) == (Position(1, 1), BEGIN)
    assert world.chain == chain_after(GENESIS, 1, body)
    assert [task.submitted for task in world.tasks.values()] == [Position(1, 0), Position(1, 1)]


def test_the_chain_runs_through_commits_and_claims() -> None:
    """Each record's hash covers all before it, whatever its kind."""
    world, chain = World(), GENESIS
    for sequence, body in enumerate([body_of(submit("a")), CLAIM, body_of(submit("b")), CLAIM], start=1):
        kind = "claim" if body is CLAIM else "commit"
        record = Record(sequence=sequence, kind=kind, body=body, chain=chain.hex() if kind == "commit" else None)  # type: ignore[arg-type]  # one of the two
        world.apply_record(record)
        chain = chain_after(chain, sequence, body)
        assert world.chain == chain


@pytest.mark.parametrize("sequence", [-1, 0, 1, 2, 4, 100])
@pytest.mark.parametrize("kind", ["commit", "claim"])
def test_a_gap_or_repetition_is_corrupt(sequence: int, kind: str) -> None:
    """After record 2 only record 3 is accepted."""
    world = write(submit("a"), submit("b")).world
    before = world.digest()
    record = Record(sequence=sequence, kind=kind, body=CLAIM, chain=world.chain.hex())  # type: ignore[arg-type]  # one of the two
    with pytest.raises(Corrupt, match=rf"record {sequence} came after 2: records are missing or repeated"):
        world.apply_record(record)
    assert world.digest() == before


@pytest.mark.parametrize("chain", [None, "", "0" * 64, GENESIS.hex().upper() + " ", "g" * 64])
def test_a_commit_that_does_not_carry_the_chain_is_corrupt(chain: str | None) -> None:
    """A missing, malformed or different hash: the journal before it is not the one that its writer saw."""
    world = fold(submit("a"))
    record = msgspec.structs.replace(journal_record(body_of(submit("b")), after=world), chain=chain)
    with pytest.raises(Corrupt, match=r"hashes to \w+: the journal was changed") as corrupt:
        world.apply_record(record)
    assert f"carries the chain {chain}" in corrupt.value.message
    assert world.chain.hex() in corrupt.value.message
    assert "b" not in world.tasks


def test_a_commit_without_events_is_corrupt() -> None:
    """No coordinator writes one."""
    world = World()
    with pytest.raises(Corrupt, match="commit 1 contains no event"):
        world.apply_record(journal_record(b"[]", after=world))


@pytest.mark.parametrize("body", [b"", b"{}", b"[", b"[{}]", b"\xff"])
def test_an_unreadable_commit_is_corrupt(body: bytes) -> None:
    """Any unreadable commit stops the fold with an error."""
    world = World()
    with pytest.raises(Corrupt, match="the commit is not a JSON array"):
        world.apply_record(journal_record(body, after=world))


@pytest.mark.parametrize("time", ["", "yesterday", "1970-01-01T00:16:40", "1970-01-01"])
def test_a_commit_without_a_time_is_corrupt(time: str) -> None:
    """Retention and deadlines depend on it."""
    world = World()
    with pytest.raises(Corrupt, match="is not RFC 3339"):
        world.apply_record(journal_record(body_of(submit("a"), time=time), after=world))


@pytest.mark.parametrize(
    "event",
    [ServiceHeartbeat(service_id="s"), WorkerHeartbeat(worker_id="w"), NodeHeartbeat(node_id="n")],
    ids=["service", "worker", "node"],
)
def test_a_heartbeat_in_the_journal_is_corrupt(event: Event) -> None:
    """Signs of life are never folded."""
    world = World()
    with pytest.raises(Corrupt, match=r"event 1\.0 is \w+\.heartbeat, a type that is never written into the journal"):
        world.apply_record(journal_record(body_of(event), after=world))


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_claim_begins_a_reign() -> None:
    """Its sequence is the epoch; its body keeps this form for ever."""
    world = fold(submit("a"))
    assert world.apply_record(Record(sequence=2, kind="claim", body=CLAIM)) == []
    assert (world.generation, world.epoch, world.holder) == (2, 2, "h")
    assert (world.position, world.time) == (Position(2, 0), BEGIN)
    scribe = Scribe(world)
    assert scribe.claim(generation=2, holder="k").body == CLAIM.replace(b'"h"', b'"k"').replace(
        b"2026-11-23T17:15:00.000000Z", AT
    )
    assert (world.epoch, world.holder) == (3, "k")


def test_a_generation_never_falls() -> None:
    """A claim of a writer that had not seen the restore does not undo it."""
    scribe = Scribe()
    for generation, expected in ((1, 1), (3, 3), (2, 3), (4, 4)):
        scribe.claim(generation=generation)
        assert scribe.world.generation == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b"nonsense", b"\xff", b'{"generation":1}', CLAIM.replace(b"2", b'"2"', 1),
        CLAIM.replace(b"generation", b"generatiom"), CLAIM.replace(b'"h"', b'"\xff"'), CLAIM[:-1], b"[" * 50_000,
    ],
    ids=range(12),
)  # fmt: skip
def test_an_unreadable_claim_is_corrupt(body: bytes) -> None:
    """A claim without generation, holder or time is Corrupt."""
    world = World()
    with pytest.raises(Corrupt, match="claim 1 is unreadable") as corrupt:
        world.apply_record(Record(sequence=1, kind="claim", body=body))
    assert world.epoch == 0
    assert len(corrupt.value.message) < 500


# --- the coordinator about itself -------------------------------------------------------------------------------------


def test_who_leads_is_known_until_it_says_that_it_stops() -> None:
    """With the limits of eviction."""
    scribe = write(leads(retention_s=7.0, ended_kept=3))
    world = scribe.world
    assert (world.leader, world.retention_s, world.ended_kept) == ("i", 7.0, 3)
    scribe.commit(CoordinatorStopped(instance="i"))
    assert (world.leader, world.retention_s, world.ended_kept) == ("", 7.0, 3)


def test_totals_count_over_the_whole_life_of_the_cluster() -> None:
    """Ends by status, and placements; totals stay when the tasks are evicted."""
    turn = CoordinatorTurn(instance="i", now=1.0, claims=(), policy="schedule", policy_version=1, placed=3)
    started = TaskStarted(task_id="c", worker_id="w", claim_id="c", attempt=1, lease="c.1")
    done = TaskCompleted(task_id="c", lease="c.1")
    world = fold(leads(ended_kept=0), *cancelled("a", "b"), submit("c"), started, done, turn, turn)
    assert world.totals == {"tasks_cancelled": 2, "tasks_completed": 1, "tasks_placed": 6}
    assert world.tasks == {}


def rotated(**rounds: float) -> CoordinatorTurn:
    return CoordinatorTurn(
        instance="i", now=1.0, claims=(), policy="schedule", policy_version=2, placed=1, rounds=rounds
    )


def test_how_far_each_worker_is_in_the_rotation_leaves_with_it() -> None:
    """It is a part of the worker: a new registration keeps it, and nothing of an evicted worker is left."""
    scribe = write(WorkerRegistered(worker_id="v"), WorkerRegistered(worker_id="w"), rotated(v=1.5, w=2.0))
    scribe.commit(rotated(v=3.5))
    scribe.commit(WorkerRegistered(worker_id="v", slots=2))
    world = scribe.world
    assert ({one.worker_id: one.rounds for one in world.workers.values()}, world.indexes.round) == (
        {"v": 3.5, "w": 2.0},
        3.5,
    )
    world.ended_kept = 0
    scribe.commit(WorkerLeft(worker_id="v"))
    scribe.commit(said(WorkerRegistered(worker_id="x"), at=world.time + HARD_S + 1.0))
    assert "v" not in world.workers
    assert (world.indexes.rounds, world.indexes.round) == ({"w": 2.0}, 2.0)
    assert World.restore(world.snapshot()).indexes.rounds == {"w": 2.0}


@pytest.mark.parametrize("rounds", [{"x": 1.0}, {"w": 2.0}, {"w": 1.0}, {"w": float("nan")}])
def test_a_rotation_that_goes_back_is_corrupt(rounds: dict[str, float]) -> None:
    """So is one of a worker that was never registered: no coordinator writes either."""
    with pytest.raises(Corrupt, match="rounds only grow"):
        fold(WorkerRegistered(worker_id="w"), rotated(w=2.0), rotated(**rounds))


def test_an_unknown_event_makes_a_world_that_cannot_be_decided_upon() -> None:
    """The first is named with its position; known events are still folded."""
    world = fold(submit("a"))
    raw = MOON % AT
    later = raw.replace(b"risen", b"set")
    for body in (codec.join([body_of(submit("b"))[1:-1], raw]), codec.join([later]), body_of(submit("c"))):
        assert len(world.apply_record(journal_record(body, after=world))) >= 1
    assert world.unfoldable == "moon.risen at 2.1"
    assert set(world.tasks) == {"a", "b", "c"}
    assert World.restore(world.snapshot()).unfoldable == "moon.risen at 2.1"


def test_a_newer_version_of_a_known_event_is_not_folded_either() -> None:
    """It must not be folded as an event of this release."""
    world = World()
    newer = body_of(submit("a")).replace(b'"dataversion":1', b'"dataversion":9')
    world.apply_record(journal_record(newer, after=world))
    assert world.unfoldable == "task.submitted at 1.0"
    assert world.tasks == {}


# --- eviction ---------------------------------------------------------------------------------------------------------

SERVICE = ServiceRegistered(
    service_id="v", service_name="s", service_type="t", host="h", port=1, status=ServiceStatus.HEALTHY
)


def test_an_ended_thing_leaves_when_it_is_older_than_retention() -> None:
    """At exactly its retention it is still there; the next commit after that evicts it."""
    scribe = write(leads(retention_s=10.0), *cancelled("a"), submit("alive"))
    ended_at = scribe.world.tasks["a"].ended_at
    assert ended_at is not None
    scribe.commit(said(submit("b"), at=ended_at + 10.0))
    assert "a" in scribe.world.tasks
    scribe.commit(said(submit("c"), at=ended_at + 10.000001))
    assert set(scribe.world.tasks) == {"alive", "b", "c"}


def test_an_ended_thing_leaves_when_enough_newer_ones_have_ended() -> None:
    """The newest `ended_kept` of a kind stay, by the time they ended."""
    scribe = write(leads(ended_kept=2), submit("a"), submit("b"), submit("c"), submit("d"))
    for task_id in "cadb":
        scribe.commit(TaskCancelled(task_id=task_id))
    assert set(scribe.world.tasks) == {"d", "b"}


def test_many_that_end_in_one_commit_leave_together_when_they_are_too_many() -> None:
    """Eviction happens after a commit is closed, in the order of the ends within it."""
    scribe = write(leads(ended_kept=1))
    scribe.commit(submit("a"), submit("b"), TaskCancelled(task_id="b"), TaskCancelled(task_id="a"))
    assert set(scribe.world.tasks) == {"a"}


def test_each_kind_is_counted_by_itself() -> None:
    """Ended tasks do not evict services."""
    scribe = write(leads(ended_kept=1), SERVICE, ServiceDeregistered(service_id="v"), *cancelled("a", "b"))
    assert set(scribe.world.services) == {"v"}
    assert set(scribe.world.tasks) == {"b"}


def test_a_new_leader_with_other_limits_lets_go_at_once() -> None:
    """The limits are recorded, so every replay evicts the same entities."""
    scribe = write(leads(), *cancelled("a", "b", "c"))
    assert len(scribe.world.tasks) == 3
    scribe.commit(leads(ended_kept=1))
    assert set(scribe.world.tasks) == {"c"}


@pytest.mark.parametrize(
    ("made", "ended", "back", "table", "entity_id"),
    [
        (SERVICE, ServiceDeregistered(service_id="v"), SERVICE, "services", "v"),
        (
            WorkerRegistered(worker_id="w"), WorkerLeft(worker_id="w"), WorkerRegistered(worker_id="w"), "workers", "w",
        ),
        (
            SessionBound(session_id="s", container_id="c"), SessionClosed(session_id="s"),
            SessionBound(session_id="s", container_id="d"), "sessions", "s",
        ),
    ],
    ids=["service", "worker", "session"],
)  # fmt: skip
def test_what_came_back_is_not_let_go(made: Event, ended: Event, back: Event, table: str, entity_id: str) -> None:
    """Its old end does not count; a new one counts from when it happened."""
    scribe = write(leads(retention_s=100.0), made, ended, back)
    scribe.commit(said(submit("x"), at=BEGIN + 1000))
    assert entity_id in getattr(scribe.world, table)
    scribe.commit(ended)
    scribe.commit(said(submit("y"), at=BEGIN + 1050))
    assert entity_id in getattr(scribe.world, table)
    scribe.commit(said(submit("z"), at=BEGIN + 2000))
    assert entity_id not in getattr(scribe.world, table)


@pytest.mark.parametrize("cut", range(1, 12))
def test_eviction_is_the_same_after_a_restore(cut: int) -> None:
    """Entities that ended before or after the snapshot are evicted at the same record as without one."""
    scribe = write(leads(retention_s=1000.0, ended_kept=2), *cancelled("a", "b", "c"), SERVICE, submit("d"))
    scribe.commit(said(TaskCancelled(task_id="d"), at=BEGIN + 900))
    scribe.commit(said(submit("e"), at=BEGIN + 1900))
    scribe.commit(said(submit("f"), at=BEGIN + 1901))
    world = World()
    digests = []
    for record in scribe.records:
        world.apply_record(record)
        digests.append(world.digest())
    restored = World()
    for number, record in enumerate(scribe.records):
        if number == cut:
            restored = World.restore(restored.snapshot())
        restored.apply_record(record)
        assert restored.digest() == digests[number]
    assert set(restored.tasks) == {"e", "f"}


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_a_command_is_remembered_for_ten_minutes_of_commit_time() -> None:
    """Commands of one minute leave together, at the latest a minute after that."""
    scribe = Scribe()
    scribe.commit(said(submit("a"), at=BEGIN, commandid="one"), said(submit("b"), commandid="two"))
    scribe.commit(said(submit("c"), at=BEGIN + 70, commandid="three"))
    assert [known(scribe, name) for name in ("one", "two", "three", "four")] == [True, True, True, False]
    scribe.commit(said(submit("d"), at=BEGIN + 600))
    assert known(scribe, "one")
    scribe.commit(said(submit("e"), at=BEGIN + 661))
    assert [known(scribe, name) for name in ("one", "two", "three")] == [False, False, True]


def known(scribe: Scribe, commandid: str) -> bool:
    return scribe.world.outcome_of("tester", commandid) is not None


def test_what_a_failed_attempt_led_to_is_remembered_with_its_command() -> None:
    """A repeat gets the answer of the first time, whatever became of the task."""
    start = TaskStarted(task_id="a", worker_id="w", claim_id="c", attempt=1, lease="c.1")
    retried = TaskAttemptFailed(task_id="a", lease="c.1", error="e", reason="failed", retry_at=BEGIN)
    failed = TaskFailed(task_id="b", lease="c.1", error="e", reason="failed")
    world = fold(
        submit("a"), start, said(retried, commandid="one"), submit("b"),
        said(msgspec.structs.replace(start, task_id="b"), commandid="two"), said(failed, commandid="two"),
    )  # fmt: skip
    assert [world.outcome_of("tester", one) for one in ("one", "two")] == [
        OUTCOMES[TaskAttemptFailed],
        OUTCOMES[TaskFailed],
    ]


def test_a_command_is_remembered_by_an_unknown_event_too() -> None:
    """The command is still known, even if its event is not."""
    world = World()
    raw = (MOON % AT)[:-1] + b',"commandid":"one"}'
    world.apply_record(journal_record(codec.join([raw]), after=world))
    assert world.outcome_of("", "one") is not None


def test_an_idempotency_key_names_the_task_of_its_tenant() -> None:
    """The same key of another tenant is a different key; an empty key is not a key."""
    world = fold(
        said(submit("a", "k"), tenant="acme"), said(submit("b", "k"), tenant="blue"), said(submit("d"), tenant="acme")
    )
    assert [world.keyed_task(tenant, "k") for tenant in ("acme", "blue", "default")] == [
        KeyedTask("a", checksum("")), KeyedTask("b", checksum("")), None,
    ]  # fmt: skip
    assert world.keyed_task("acme", "") is None
    assert world.key_holds_until("acme", "k") == BEGIN + 7 * 86_400.0
    assert world.key_holds_until("default", "k") is None


def test_an_idempotency_key_outlives_its_task_and_is_forgotten_after_a_week() -> None:
    """Seven days of commit time, independent of the task's eviction; keys of one hour leave together."""
    week_s = 7 * 86_400.0
    scribe = write(leads(ended_kept=0), said(submit("a", "k"), at=BEGIN), TaskCancelled(task_id="a"))
    assert scribe.world.tasks == {}
    scribe.commit(said(submit("b"), at=BEGIN + week_s))
    assert scribe.world.keyed_task("default", "k") is not None
    scribe.commit(said(submit("c"), at=BEGIN + week_s + 3600))
    assert scribe.world.keyed_task("default", "k") is None


def test_keys_of_a_tenant_are_forgotten_by_an_event() -> None:
    """The others keep theirs."""
    scribe = Scribe()
    scribe.commit(said(submit("a", "k"), at=BEGIN, tenant="acme"), said(submit("b", "k"), tenant="blue"))
    scribe.commit(said(submit("c"), at=BEGIN + 7200))
    scribe.commit(IdempotencyForgotten(tenant="acme", through=BEGIN + 3600))
    assert scribe.world.keyed_task("acme", "k") is None
    assert scribe.world.keyed_task("blue", "k") is not None


def test_an_evicted_task_is_remembered_by_what_its_repeats_need() -> None:
    """Its status, its lease, and what it was submitted with; a task that ended long ago is not."""
    scribe = write(leads(retention_s=30.0), submit("a"), submit("b"), TaskCancelled(task_id="a"))
    scribe.commit(said(submit("c"), at=BEGIN + 100))
    found = scribe.world.ended_task("a")
    assert found == EndedTask(TaskStatus.CANCELLED, content_of(submit("a"), ""), checksum(""), 0)
    assert scribe.world.ended_task("b") is None
    scribe.commit(TaskCancelled(task_id="b"))
    scribe.commit(said(submit("d"), at=BEGIN + 10_000))
    assert (scribe.world.ended_task("a"), scribe.world.ended_task("b"), set(scribe.world.tasks)) == (
        None,
        None,
        {"c", "d"},
    )


def test_other_ended_things_stay_for_as_long_as_a_repeat_may_come() -> None:
    """They are few, so they stay whole, whatever the limits say."""
    scribe = write(leads(retention_s=0.0, ended_kept=0), SERVICE, ServiceDeregistered(service_id="v"))
    scribe.commit(said(submit("a"), at=BEGIN + 600))
    assert "v" in scribe.world.services
    scribe.commit(said(submit("b"), at=BEGIN + 700))
    assert "v" not in scribe.world.services


def test_what_lives_has_a_digest_of_its_own() -> None:
    """It does not depend on what has ended, nor on what is remembered of it."""
    scribe = write(leads(retention_s=30.0), submit("a"), TaskCancelled(task_id="a"), submit("b"))
    before, other = scribe.world.digest_of_living(), write(leads(retention_s=30.0), submit("a")).world
    assert before != other.digest_of_living()
    del scribe.world.tasks["a"]
    scribe.world.memory = Memory()
    assert scribe.world.digest_of_living() == before


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_all_there_is() -> None:
    """Every attribute of a world except those derived from others."""
    derived = {"indexes", "_ended", "_folds"}
    assert set(vars(World())) - derived == set(Snapshot.__struct_fields__) - {"fold_version"}


def test_equal_worlds_give_equal_bytes_and_others_do_not() -> None:
    """So equal digests mean equal replays."""
    assert fold(submit("a")).snapshot() == fold(submit("a")).snapshot()
    assert fold(submit("a")).digest() == fold(submit("a")).digest()
    assert fold(submit("a")).digest() != fold(submit("b")).digest()
    assert fold(submit("a")).digest() != fold(said(submit("a"), tenant="acme")).digest()
    assert World().digest() != fold(submit("a")).digest()


def test_the_empty_world_can_be_restored() -> None:
    """An empty world is valid."""
    assert World.restore(World().snapshot()).digest() == World().digest()


def test_a_snapshot_of_another_fold_version_is_not_used() -> None:
    """The snapshot was folded by other rules and must be rebuilt."""
    data = msgspec.msgpack.decode(fold(submit("a")).snapshot())
    data["fold_version"] += 1
    with pytest.raises(
        Corrupt, match=f"was folded by version {FOLD_VERSION + 1}, this is version {FOLD_VERSION}: rebuild it"
    ):
        World.restore(msgspec.msgpack.encode(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("tasks"),
        lambda data: data.update(position="1.0"),
        lambda data: data.update(tasks={}),
        lambda data: data["tasks"][0].update(status="asleep"),
        lambda data: data["tasks"][0].pop("task_id"),
        lambda data: data.update(memory=[{"kind": "task"}]),
    ],
    ids=range(6),
)
def test_a_snapshot_with_something_else_in_it_is_corrupt(change: Callable[[dict[str, object]], object]) -> None:
    """Every field is checked."""
    data = msgspec.msgpack.decode(fold(submit("a")).snapshot())
    change(data)
    with pytest.raises(Corrupt, match=r"snapshot of \d+ bytes is unreadable"):
        World.restore(msgspec.msgpack.encode(data))


@given(st.binary(max_size=100))
@example(b"")
@example(b"\x91" * 5000)
@example(b'{"fold_version":1}')
def test_what_is_no_snapshot_is_corrupt(data: bytes) -> None:
    """Never another exception."""
    with pytest.raises(Corrupt, match=f"snapshot of {len(data)} bytes is unreadable"):
        World.restore(data)


SNAPSHOT = write_history(5, 60).world.snapshot()


@given(st.integers(0, len(SNAPSHOT) - 1))
def test_a_snapshot_cut_short_is_corrupt(length: int) -> None:
    """An upload that was interrupted is never restored in part."""
    with pytest.raises(Corrupt):
        World.restore(SNAPSHOT[:length])


def test_applying_and_sealing_by_hand_is_folding_a_record() -> None:
    """The writer folds events before there is a record; readers fold the record. Both get the same world."""
    scribe = Scribe()
    for events in (cancelled("a"), [submit("b")], cancelled("c", "d")):
        scribe.commit(*events)
    scribe.claim()
    world = World()
    for record in scribe.records:
        world.apply_record(record)
    assert world.snapshot() == scribe.world.snapshot()
