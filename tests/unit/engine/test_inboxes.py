"""From inboxes to commits: each event takes effect once, in order; the commit records how far the inbox is read."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from coordinator.commands.inbox import Item
from coordinator.commands.task import SubmitTask
from coordinator.deciders.dispatch import DECIDERS
from coordinator.deciders.rules import Limits
from coordinator.doors.inbox_messages import Incoming, items_of
from coordinator.engine.inboxes import InboxPlace
from coordinator.engine.turn import FoldFailed
from coordinator.journal.memory import MemoryStream
from events.errors import Unavailable
from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused
from events.task import TaskFailed, TaskReportRefused, TaskStatus, TaskSubmitted
from projections.world import World
from tests.unit.deciders.facts import claim, payload, submit
from tests.unit.engine.engine_rig import PATIENCE_S, TICK_S, Hands, Rig, leading

if TYPE_CHECKING:
    from collections.abc import Iterable

    from events.base import Envelope, Position

CREATED = "2026-11-23T17:00:00Z"


def message(sequence: int, type_: str, *datas: Any, domain: str = "execution", **attributes: str) -> list[Item]:
    """Return the items of one message: a batch if there are several *datas*."""
    kind, _, event = type_.partition(".")
    whole = [
        {"specversion": "1.0", "id": f"{sequence}.{n}", "source": "/x", "type": type_, "data": data, **attributes}
        for n, data in enumerate(datas)
    ]
    body = msgspec.json.encode(whole if len(whole) > 1 else whole[0])
    return items_of(Incoming(domain=domain, kind=kind, event=event, sequence=sequence, body=body))


def put(rig: Rig, items: Iterable[Item], domain: str = "execution") -> None:
    """Pass items to the engine, as a reader does."""
    rig.engine.inboxes.put(domain, CREATED, items)


async def until_read(rig: Rig, sequence: int, domain: str = "execution") -> None:
    """Wait until the inbox is read up to this place."""
    async with asyncio.timeout(PATIENCE_S):
        while domain not in rig.world.inboxes or rig.world.inboxes[domain].sequence < sequence:  # noqa: ASYNC110
            await asyncio.sleep(TICK_S)
    await rig.settle()


async def test_what_came_in_stands_with_how_far_it_is_read_in_one_commit() -> None:
    """In the order of the inbox, with the domain as actor; the position comes last, with the coordinator as actor."""
    async with leading() as rig:
        put(rig, message(4, "task.submitted", {"task_id": "a", "task_name": "n"}, tenant="acme", traceparent="00-1"))
        put(rig, message(5, "order.placed", 1, 2))
        put(rig, message(6, "task.completed", {"task_id": "nobody"}))
        await until_read(rig, 6)
        (commit,) = [commit for commit in rig.commits() if any(isinstance(one.data, InboxRead) for one in commit)]
        assert [one.type for one in commit] == [
            "task.submitted", "inbox.recorded", "inbox.recorded", "inbox.refused", "inbox.read",
        ]  # fmt: skip
        assert [one.actor for one in commit] == ["execution"] * 4 + ["coordinator"]
        assert (commit[0].tenant, commit[0].traceparent) == ("acme", "00-1")
        assert commit[-1].data == InboxRead(domain="execution", stream_created=CREATED, sequence=6, index=0)
        refused = commit[3].data
        assert isinstance(refused, InboxRefused)
        assert (refused.reason, refused.sequence, refused.index) == ("not_found", 6, 0)
        inbox = rig.world.inboxes["execution"]
        assert (inbox.recorded, inbox.refused, inbox.missed) == (2, 1, 0)


async def test_what_changes_nothing_still_moves_the_position() -> None:
    """A repeated command, and a message without meaning."""
    async with leading() as rig:
        await rig.order(submit())
        put(rig, message(1, "task.submitted", {"task_id": "t", "task_name": rig.world.tasks["t"].task_name}))
        put(rig, items_of(Incoming(domain="execution", kind="a", event="b", sequence=2, body=b"[]")))
        await until_read(rig, 2)
        assert rig.types()[-1] == ["inbox.read"]


async def test_what_is_on_record_of_a_refused_order_stands_before_the_refusal() -> None:
    """A report under a lease that is not held is recorded twice: for the task, and for the domain."""
    async with leading() as rig:
        await rig.order(submit())
        await rig.order(claim())
        put(rig, message(1, "task.completed", {"task_id": "t", "lease": "another.1"}))
        await until_read(rig, 1)
        told, refused, _ = rig.commits()[-1]
        assert isinstance(told.data, TaskReportRefused)
        assert isinstance(refused.data, InboxRefused)
        assert (refused.data.reason, told.actor) == ("stale_lease", "execution")


async def test_an_order_that_crashes_its_decider_is_refused_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The writer never stops for one message."""

    def crash(*_: object) -> None:
        raise ZeroDivisionError("planted")

    async with leading() as rig:
        with monkeypatch.context() as patched:
            patched.setitem(DECIDERS, SubmitTask, crash)  # type: ignore[misc]  # a dict, and typed as one
            put(rig, message(1, "task.submitted", {"task_name": "n"}))
            put(rig, message(2, "order.placed", 1))
            await until_read(rig, 2)
        assert rig.types()[-1] == ["inbox.refused", "inbox.recorded", "inbox.read"]
        refused = rig.commits()[-1][0].data
        assert isinstance(refused, InboxRefused)
        assert refused.reason == "internal"
        assert "planted" in refused.message


async def test_a_repeat_of_an_order_that_makes_nothing_is_known_by_its_event() -> None:
    """The same event in another message does not fail the next attempt too."""
    async with leading() as rig:
        await rig.order(submit(max_retries=5))
        for sequence in (1, 2):
            (item,) = message(9, "task.failed", {"task_id": "t", "error": "e"})
            put(rig, [msgspec.structs.replace(item, sequence=sequence)])
            await until_read(rig, sequence)
        assert rig.world.tasks["t"].attempt == 1
        assert not any(isinstance(event, InboxRefused) for event in rig.events())
        put(rig, message(10, "task.failed", {"task_id": "t", "error": "e", "retry": False}))
        await until_read(rig, 10)
        assert isinstance(rig.events()[-2], TaskFailed)
        assert rig.world.tasks["t"].status is TaskStatus.FAILED


async def test_what_does_not_fit_waits_and_the_position_does_not_pass_it() -> None:
    """A message may be split: each commit records exactly how much of it is taken."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=8_000)) as rig:
        put(rig, message(1, "order.placed", *("x" * 400 for _ in range(20))))
        put(rig, message(2, "order.placed", *("x" * 400 for _ in range(20))))
        await until_read(rig, 2)
        taken = 0
        places = []
        for commit in rig.commits():
            taken += sum(isinstance(one.data, InboxRecorded) for one in commit)
            read = [one.data for one in commit if isinstance(one.data, InboxRead)]
            places += [(taken, (one.sequence, one.index)) for one in read]
        assert len(places) > 4
        assert places == [(count, divmod(count, 20)) for count, _ in places]
        assert places[-1] == (40, (2, 0))


async def test_what_fits_into_no_turn_is_refused() -> None:
    """It gets an empty turn first; then the next item follows."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=8_000)) as rig:
        put(rig, message(1, "order.placed", "x"))
        put(rig, message(2, "order.placed", "x" * 9_000))
        put(rig, message(3, "order.placed", "x"))
        await until_read(rig, 3)
        kinds = [event for event in rig.events() if isinstance(event, InboxRecorded | InboxRefused)]
        assert [type(event).__name__ for event in kinds] == ["InboxRecorded", "InboxRefused", "InboxRecorded"]


async def test_what_cannot_be_decided_now_is_not_refused_for_good() -> None:
    """It waits, with what came after it, and is taken when it can be; turns do not chase each other for it."""
    decide = DECIDERS[SubmitTask]
    full = True

    def submit_if_there_is_room(world: Any, command: Any, context: Any) -> Any:
        if full:
            raise Unavailable("the memory is full", reason="memory_full")
        return decide(world, command, context)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(DECIDERS, SubmitTask, submit_if_there_is_room)  # type: ignore[misc]  # a dict, and typed as one
        async with leading() as rig:
            put(rig, message(1, "order.placed", 1))
            put(rig, message(2, "task.submitted", {"task_id": "a", "task_name": "n"}))
            put(rig, message(3, "order.placed", 2))
            await until_read(rig, 1)
            turns = rig.engine.turns
            await asyncio.sleep(10 * TICK_S)
            assert rig.engine.turns - turns <= 15
            assert rig.world.inboxes["execution"].sequence == 1
            full = False
            await until_read(rig, 3)
            assert "a" in rig.world.tasks
            inbox = rig.world.inboxes["execution"]
            assert (inbox.recorded, inbox.refused) == (2, 0)


async def test_two_inboxes_and_rpc_share_a_turn() -> None:
    """However many items wait in one inbox, those of the others are in the same or the next commit."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=64_000, inbox_max=100_000)) as rig:
        held = await rig.hold()
        for sequence in range(1, 501):
            put(rig, message(sequence, "order.placed", "x" * 100))
        put(rig, message(1, "task.submitted", {"task_id": "other", "task_name": "n"}, domain="other"), "other")
        asked = [rig.ask(submit(f"t{n}")) for n in range(300)]
        rig.let_go()
        await held.outcome()
        for told in asked:
            await told.outcome()
        await until_read(rig, 500)
        commits = [{one.actor for one in commit} for commit in rig.commits()]
        crowded = [n for n, actors in enumerate(commits) if "execution" in actors]
        assert {"tester", "execution", "other"} <= commits[crowded[0]] | commits[crowded[0] + 1]
        assert sum("tester" in commits[n] for n in crowded) > 2


async def test_a_large_order_is_not_kept_out_by_a_flood() -> None:
    """A command from RPC that does not fit next to inbox items comes first in the next turn."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=16_000, inbox_max=100_000)) as rig:
        held = await rig.hold()
        for sequence in range(1, 501):
            put(rig, message(sequence, "order.placed", "x" * 100))
        large = rig.ask(submit("large", payload=payload("x" * 12_000)))
        rig.let_go()
        await held.outcome()
        assert await large.outcome() == "large"
        await until_read(rig, 500)
        commits = rig.types()
        taken = next(n for n, types in enumerate(commits) if "task.submitted" in types)
        assert any("inbox.recorded" in types for types in commits[taken + 1 :])


async def test_a_flood_from_an_inbox_stops_neither_placing_nor_time() -> None:
    """Half of each turn is reserved for placements and due events."""
    async with leading(limits=Limits(tick_s=TICK_S, turn_bytes=16_000, inbox_max=100_000)) as rig:
        held = await rig.hold()
        waiting = rig.ask(claim(wait_s=5.0))
        for sequence in range(1, 301):
            put(rig, message(sequence, "task.submitted", {"task_id": f"t{sequence}", "task_name": "n"}))
        rig.let_go()
        await held.outcome()
        assert len(await waiting.outcome()) == 1
        await until_read(rig, 300)
        commits = rig.types()
        started = next(n for n, types in enumerate(commits) if "task.started" in types)
        assert sum("task.submitted" in types for types in commits[started + 1 :]) > 5


async def test_a_reader_waits_until_there_is_room() -> None:
    """The number of waiting items is bounded, however slow the journal is."""
    async with leading(limits=Limits(tick_s=TICK_S, inbox_max=10)) as rig:
        await rig.hold()
        inboxes = rig.engine.inboxes
        put(rig, message(1, "order.placed", *range(9)))
        await asyncio.wait_for(inboxes.room("execution"), PATIENCE_S)
        put(rig, message(2, "order.placed", 1))
        waiting = asyncio.ensure_future(inboxes.room("execution"))
        await asyncio.sleep(4 * TICK_S)
        assert not waiting.done()
        assert inboxes.reached("execution") == InboxPlace(CREATED, 2, 0)
        rig.let_go()
        await asyncio.wait_for(waiting, PATIENCE_S)
        await until_read(rig, 2)


async def test_a_gap_moves_the_position_behind_it() -> None:
    """Messages that were gone before they were read are recorded, and reading continues after them."""
    gap = InboxGap(domain="execution", stream_created=CREATED, from_sequence=3, to_sequence=9, why="removed")
    async with leading() as rig:
        put(rig, [*message(2, "order.placed", 1), Item(sequence=9, event=gap)])
        await until_read(rig, 9)
        assert rig.types()[-1] == ["inbox.recorded", "inbox.gap", "inbox.read"]
        assert rig.world.inboxes["execution"].missed == 7
        put(rig, message(10, "order.placed", 1))
        await until_read(rig, 10)


async def test_whoever_leads_next_goes_on_where_the_journal_says() -> None:
    """Items that were taken but not committed are read again, and nothing else."""
    items = message(1, "task.submitted", *({"task_name": "n"} for _ in range(20)))
    async with leading() as rig:
        assert rig.engine.inboxes.reached("execution") == InboxPlace("", 0, 0)
        put(rig, items[:7])
        await rig.settle()
        rig.network.gate.clear()
        put(rig, items[7:])
        async with asyncio.timeout(PATIENCE_S):
            while rig.world.inboxes["execution"].sequence < 1:  # noqa: ASYNC110  # it tells nobody of what it folds
                await asyncio.sleep(0)
        rig.run.cancel()
        await asyncio.wait([rig.run])
    async with leading(stream=rig.stream, hands=rig.hands) as rig:
        assert rig.engine.inboxes.reached("execution") == InboxPlace(CREATED, 0, 7)
        put(rig, items[7:])
        await until_read(rig, 1)
        assert sum(isinstance(event, TaskSubmitted) for event in rig.events()) == 20


# --- what the fold cannot take ----------------------------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the fold fail on one task, as a mistake of ours in a reducer would."""
    apply = World.apply

    def failing(self: World, envelope: Envelope, position: Position, time: float) -> None:
        if isinstance(envelope.data, TaskSubmitted) and envelope.data.task_id == "poison":
            raise ZeroDivisionError
        apply(self, envelope, position, time)

    monkeypatch.setattr(World, "apply", failing)


@pytest.mark.usefixtures("poison")
async def test_an_item_that_the_fold_cannot_take_ends_one_reign_and_no_more() -> None:
    """The writer stops and names the item; the next writer records it as refused and continues after it."""
    stream, hands = MemoryStream(), Hands()
    items = [
        *message(1, "task.submitted", {"task_id": "a", "task_name": "n"}),
        *message(2, "task.submitted", {"task_id": "poison", "task_name": "n"}),
        *message(3, "task.submitted", {"task_id": "b", "task_name": "n"}),
    ]
    async with leading(stream=stream, hands=hands) as rig:
        put(rig, items)
        with pytest.raises(FoldFailed) as failed:
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
    assert failed.value.culprit == f"execution {CREATED} 2.0"
    async with leading(stream=stream, hands=hands, spoiled={failed.value.culprit}) as rig:
        put(rig, items)
        await until_read(rig, 3)
        assert set(rig.world.tasks) == {"a", "b"}
        (refused,) = [one for one in rig.events() if isinstance(one, InboxRefused)]
        assert (refused.sequence, refused.index, refused.reason) == (2, 0, "internal")


@pytest.mark.usefixtures("poison")
async def test_an_order_that_the_fold_cannot_take_is_refused_for_good() -> None:
    """The caller must not send the command to the next writer again."""
    async with leading() as rig:
        told = rig.ask(submit("poison", task_name="n"), command_id="c1")
        with pytest.raises(FoldFailed) as failed:
            await asyncio.wait_for(asyncio.shield(rig.run), PATIENCE_S)
        assert failed.value.culprit == "tester c1"
        assert (await told.error()).reason == "internal"
