"""The door of the read model: every verb, pages, waiting, and input that is not a question."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.bus.subscription import Message
from coordinator.commands.reads import VERBS, decode_question
from coordinator.errors import CoordinationError, NotFound, Refused, Unavailable
from coordinator.follower.read_door import ReadDoor, ReadLimits
from coordinator.journal.memory import MemoryJournal
from events.base import START
from events.subjects import Subjects
from projections.projector import Projector
from projections.store.memory import MemoryStore
from projections.store.port import KINDS, Store
from projections.task import Task
from tests.journals import a_bit_of_everything, events_of, folded, leading, states_of

if TYPE_CHECKING:
    from coordinator.bus.connection import Bus


class Wire:
    """A stand-in for the bus that keeps what is sent."""

    def __init__(self, limit_bytes: int = 1024 * 1024) -> None:
        self.max_payload_bytes = limit_bytes
        self.sent: list[tuple[str, Any]] = []

    def send(self, subject: str, data: bytes) -> bool:
        if len(data) > self.max_payload_bytes:
            raise Refused("too large", reason="too_large")
        self.sent.append((subject, msgspec.json.decode(data)))
        return True


def door(store: Store | None, limits: ReadLimits | None = None, wire: Wire | None = None) -> ReadDoor:
    return ReadDoor(cast("Bus", wire if wire is not None else Wire()), Subjects(), lambda: store, limits)


@pytest.fixture
async def journal() -> MemoryJournal:
    journal = MemoryJournal()
    async with leading(journal) as engine:
        await a_bit_of_everything(engine)
    return journal


@pytest.fixture
async def store(journal: MemoryJournal) -> MemoryStore:
    """A store with some rows of each kind."""
    made = MemoryStore()
    projector = Projector(journal, made)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(projector.run())
        await made.wait_for((await folded(journal)).position, 5)
        task.cancel()
    return made


async def ask(door: ReadDoor, verb: str, **question: Any) -> Any:
    """Ask as a client does: JSON in, JSON out; a refusal is one that the question declares."""
    try:
        told = await door.ask(verb, msgspec.json.encode(question))
    except CoordinationError as error:
        assert error.reason in VERBS[verb].REFUSALS | VERBS[verb].ALWAYS  # noqa: PT017  # it is raised again
        raise
    return msgspec.json.decode(msgspec.json.encode(told))


async def test_containers_are_counted(store: MemoryStore, journal: MemoryJournal) -> None:
    """`count` is of every container, evicted or not; other kinds are refused."""
    containers = list((await folded(journal)).containers.values())
    counts = await ask(door(store), "count", kind="container", at_least="1.0")
    assert sum(counts["by_status"].values()) == len(containers)
    assert counts["sums"]["starts"] == sum(one.starts for one in containers)
    with pytest.raises(Refused, match="not valid for count"):
        await ask(door(store), "count", kind="task")


async def test_one_thing_of_every_kind(store: MemoryStore, journal: MemoryJournal) -> None:
    """`get` returns the state as it was folded."""
    for kind, states in states_of(await folded(journal)).items():
        assert states, kind
        for entity_id, state in states.items():
            assert await ask(door(store), "get", kind=kind, id=entity_id) == msgspec.json.decode(state)


async def test_what_never_was_is_not_found(store: MemoryStore) -> None:
    """The message names kind and id."""
    with pytest.raises(NotFound, match="task 'nobody'"):
        await ask(door(store), "get", kind="task", id="nobody")


async def test_a_list_is_paged_through_its_cursor(store: MemoryStore) -> None:
    """`next` leads to the next page, and is null on the last one."""
    seen, before = [], None
    while True:
        page = await ask(door(store), "list", kind="task", limit=5, before=before)
        seen += [item["task_id"] for item in page["items"]]
        before = page["next"]
        if before is None:
            break
    assert sorted(seen) == sorted(f"a-task-{number}" for number in range(12))
    completed = await ask(door(store), "list", kind="task", status="completed", name="work-0", tenant="default")
    assert completed["items"]
    assert all(msgspec.convert(item, Task).status.value == "completed" for item in completed["items"])
    assert await ask(door(store), "list", kind="task", tenant="nobody") == {"items": [], "next": None}


async def test_events_are_paged_and_go_on_where_new_ones_come(store: MemoryStore) -> None:
    """Pages have all events once; after the last one `next` is the store's position, also when nothing matched."""
    seen, after = [], str(START)
    while True:
        page = await ask(door(store), "events", limit=7, after=after)
        seen += page["events"]
        after = page["next"]
        if not page["more"]:
            break
    assert seen == [msgspec.json.decode(body) for _, body in await events_of(store)]
    end = str(store.position().position)
    assert after == end
    rare = await ask(door(store), "events", type="pool.released")
    assert [one["type"] for one in rare["events"]] == ["pool.released"]
    assert rare["next"] == end
    assert await ask(door(store), "events", type="robot", subject="x") == {"events": [], "next": end, "more": False}
    ahead = await ask(door(store), "events", after="999999.0")
    assert ahead == {"events": [], "next": "999999.0", "more": False}


async def test_answers_are_cut_to_a_size(store: MemoryStore) -> None:
    """A page that would be too large is shorter than its limit and says `more`; the next pages lose nothing."""
    small = door(store, ReadLimits(answer_bytes=1500))
    page = await ask(small, "list", kind="task", limit=1000)
    assert 0 < len(page["items"]) < 12
    assert page["next"] is not None
    events = await ask(small, "events", limit=1000)
    assert events["more"]
    assert events["next"] == events["events"][-1]["id"]


async def test_position_and_wait_say_how_far_the_store_is(store: MemoryStore) -> None:
    """`wait` answers at once for a position that is there, and `behind` for one that does not arrive."""
    position = str(store.position().position)
    assert await ask(door(store), "position") == position
    assert await door(store).ask("position", b"") == position
    assert await ask(door(store), "wait", position=position) == position
    with pytest.raises(Unavailable, match=f"at {position}") as caught:
        await ask(door(store), "wait", position="99999.0", timeout_s=0.01)
    assert caught.value.reason == "behind"


async def test_an_older_state_is_never_given_to_who_asks_for_a_newer() -> None:
    """With `at_least` a question waits for its position and sees it, or fails because the store is behind."""
    journal, store = MemoryJournal(), MemoryStore()
    asking = door(store, ReadLimits(at_least_wait_s=0.02))
    questions: dict[str, dict[str, str]] = {"get": {"kind": "task", "id": "x"}, "list": {"kind": "task"}, "events": {}}
    for verb, question in questions.items():
        with pytest.raises(Unavailable) as caught:
            await ask(asking, verb, at_least="1.0", **question)
        assert caught.value.reason == "behind"
    patient = door(store, ReadLimits(at_least_wait_s=5))
    async with asyncio.TaskGroup() as tasks:
        projecting = tasks.create_task(Projector(journal, store).run())
        async with leading(journal) as engine:
            for name in "abcdef":
                await a_bit_of_everything(engine, name, tasks=4)
                got = await ask(patient, "get", kind="node", id=f"{name}-node", at_least=str(engine.committed))
                assert got["node_id"] == f"{name}-node"
        projecting.cancel()


async def test_no_store_is_told_as_passing() -> None:
    """While the store is being opened, questions are refused with a time to ask again."""
    with pytest.raises(Unavailable) as caught:
        await ask(door(None), "position")
    assert caught.value.reason == "starting"


BAD = [
    ("get", b'{"kind":"task"}'),
    ("get", b'{"kind":"tasks","id":"x"}'),
    ("get", b'{"kind":"task","id":"a.b"}'),
    ("get", b'{"kind":"task","id":"*"}'),
    ("get", b'{"kind":"task","id":""}'),
    ("get", b'{"kind":"task","id":"\xff"}'),
    ("get", b'{"kind":"task","id":"x","at_least":"1"}'),
    ("get", b'{"kind":"task","id":"x","at_least":"1.0\\n"}'),
    ("get", b'{"kind":"task","id":"x","at_least":"%b.0"}' % (b"9" * 5000)),
    ("get", b'{"kind":"task","id":"x","at_least":"-1.0"}'),
    ("get", '{"kind":"task","id":"x","at_least":"١.٠"}'.encode()),
    ("list", b'{"kind":"task","limit":0}'),
    ("list", b'{"kind":"task","limit":1001}'),
    ("list", b'{"kind":"task","limit":%b}' % (b"9" * 400)),
    ("list", b'{"kind":"task","limit":1e400}'),
    ("list", b'{"kind":"task","limit":"5"}'),
    ("list", b'{"kind":"task","status":"%b"}' % (b"x" * 2000)),
    ("list", b'{"kind":"task","where":"1=1"}'),
    ("list", b'{"kind":["task"]}'),
    ("events", b'{"limit":-1}'),
    ("events", b'{"after":"1.0.0"}'),
    ("events", b'{"subject":' + b"[" * 100_000),
    ("wait", b"{}"),
    ("wait", b'{"position":"1.0","timeout_s":31}'),
    ("wait", b'{"position":"1.0","timeout_s":-1}'),
    ("wait", b'{"position":"1.0","timeout_s":NaN}'),
    ("position", b"[]"),
    ("position", b'{"%b":1}' % (b"x" * 100_000)),
    ("position", b"\x00"),
    ("position", b"[" * 100_000),
    ("drop", b"{}"),
    ("", b"{}"),
]


@pytest.mark.parametrize(("verb", "body"), BAD, ids=lambda part: ascii(part[:40]))
async def test_what_is_no_question_is_refused(store: MemoryStore, verb: str, body: bytes) -> None:
    """The refusal says what would be right, in a message of bounded length."""
    with pytest.raises(Refused) as caught:
        await door(store).ask(verb, body)
    assert caught.value.reason.startswith("bad_")
    assert len(caught.value.message) < 1000


@given(st.sampled_from(sorted(VERBS)), st.binary(max_size=200))
def test_any_bytes_are_a_question_or_refused(verb: str, body: bytes) -> None:
    """Untrusted input has no other effect than a refusal."""
    with suppress(Refused):
        decode_question(verb, body)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
_fields = (
    "kind",
    "id",
    "at_least",
    "status",
    "tenant",
    "name",
    "limit",
    "before",
    "subject",
    "type",
    "after",
    "position",
)


@given(
    st.sampled_from(["get", "list", "events", "position"]),
    st.dictionaries(st.sampled_from(_fields), _json | st.sampled_from([*KINDS, "1.0", "7"]), max_size=5),
)
def test_any_json_is_answered_or_refused_in_the_familys_words(verb: str, question: dict[str, Any]) -> None:
    """No question, however odd, fails in another way."""
    asking = door(MemoryStore(), ReadLimits(at_least_wait_s=0.0))
    try:
        asyncio.run(asking.ask(verb, msgspec.json.encode(question)))
    except CoordinationError as error:
        assert error.code in ("refused", "not_found", "unavailable")  # noqa: PT017 - which one is not foretold


# --- messages ---------------------------------------------------------------------------------------------------------


async def through(wire: Wire, store: Store | None, messages: list[Message], limits: ReadLimits | None = None) -> None:
    """Pass messages to the door, and wait for the tasks it starts."""
    asking = door(store, limits, wire)
    async with asyncio.TaskGroup() as asking._tasks:
        for message in messages:
            asking.take(message)


def message(verb: str, body: bytes = b"{}", reply: str = "_INBOX.x") -> Message:
    return Message(Subjects().read("tester", verb), reply, body)


async def test_every_message_is_answered_in_one_form(store: MemoryStore) -> None:
    """The answer has `ok` or `error`, with the position it was given at."""
    wire = Wire()
    await through(wire, store, [message("position"), message("get", b'{"kind":"task","id":"x"}')])
    position = str(store.position().position)
    answers = {"ok" in answer: answer for _, answer in wire.sent}
    assert answers[True]["ok"] == answers[True]["position"] == position
    assert answers[False]["error"]["code"] == "not_found"
    assert answers[False]["position"] == position


@pytest.mark.parametrize(
    "reply", ["", "coordination.journal", "coordination.rpc.x.task.submit", "$JS.API.STREAM.DELETE.X"]
)
async def test_nobody_has_us_write_elsewhere(store: MemoryStore, reply: str) -> None:
    """An answer goes only to an inbox, never to a subject of the cluster or of JetStream, where it could act."""
    wire = Wire()
    await through(wire, store, [message("position", reply=reply)])
    assert wire.sent == []


async def test_more_questions_than_allowed_are_told_to_come_again(store: MemoryStore) -> None:
    """The number of questions at a time is bounded; further ones are refused at once."""
    wire = Wire()
    slow = b'{"position":"99999.0","timeout_s":0.05}'
    await through(wire, store, [message("wait", slow) for _ in range(10)], ReadLimits(at_once=4))
    reasons = [answer["error"]["reason"] for _, answer in wire.sent]
    assert reasons == ["overloaded"] * 6 + ["behind"] * 4
    assert wire.sent[0][1]["error"]["retry_after_s"] > 0


async def test_questions_answered_at_a_time_have_a_limit_in_bytes(store: MemoryStore) -> None:
    """One of a megabyte waits as long as a small one; room comes back, and the first is answered whatever it has."""
    wire = Wire()
    slow = b'{"position":"99999.0","timeout_s":0.05' + b" " * 1000 + b"}"
    limits = ReadLimits(at_once_bytes=2500)
    await through(wire, store, [message("wait", slow) for _ in range(5)], limits)
    assert [answer["error"]["reason"] for _, answer in wire.sent] == ["overloaded"] * 3 + ["behind"] * 2
    asking = door(store, ReadLimits(at_once_bytes=10), wire)
    for _ in range(2):
        async with asyncio.TaskGroup() as asking._tasks:
            asking.take(message("wait", slow))
    assert [answer["error"]["reason"] for _, answer in wire.sent[5:]] == ["behind"] * 2


async def test_an_answer_too_large_to_send_is_said_to_be(store: MemoryStore) -> None:
    """An answer that is too large is replaced by a refusal."""
    wire = Wire(limit_bytes=150)
    await through(wire, store, [message("list", b'{"kind":"task"}')])
    assert [answer["error"]["reason"] for _, answer in wire.sent] == ["too_large"]


async def test_pages_end_where_a_message_is_full(store: MemoryStore) -> None:
    """As on a server of small messages: the next page begins where this one ends, and all are answered."""
    narrow = door(store, wire=Wire(limit_bytes=2_500))
    whole = await ask(door(store), "list", kind="task")
    items: list[Any] = []
    pages = 0
    page: dict[str, Any] = {"next": None}
    while pages == 0 or page["next"]:
        page = await ask(narrow, "list", kind="task", **({"before": page["next"]} if page["next"] else {}))
        assert len(msgspec.json.encode(page)) < 2_500
        items += page["items"]
        pages += 1
    assert pages > 1
    assert items == whole["items"]
    events: list[Any] = []
    page, pages = {"next": None, "more": True}, 0
    while page["more"]:
        page = await ask(narrow, "events", **({"after": page["next"]} if page["next"] else {}))
        events += page["events"]
        pages += 1
    assert pages > 2
    assert events == (await ask(door(store), "events"))["events"]


async def test_a_question_that_crashes_the_store_is_answered_and_closes_nothing(store: MemoryStore) -> None:
    """A defect in the store costs one answer and does not close the door."""

    class Broken(MemoryStore):
        async def get(self, kind: str, entity_id: str) -> Any:
            raise ZeroDivisionError(kind, entity_id)

    wire = Wire()
    await through(wire, Broken(), [message("get", b'{"kind":"task","id":"x"}'), message("position")])
    reasons = [answer["error"]["reason"] if "error" in answer else "ok" for _, answer in wire.sent]
    assert sorted(reasons) == ["internal", "ok"]


def test_every_verb_is_told_in_the_file() -> None:
    """The table at the top of the file names each verb and each of its fields."""
    text = sys.modules[ReadDoor.__module__].__doc__
    assert text is not None
    for verb, question in VERBS.items():
        assert f"`{verb}`" in text
        for field in question.__struct_fields__:
            assert f"`{field}`" in text
