"""
The door of the read model: takes questions on `….read.<source>.<verb>` and answers them from the store.

Question and answer are one JSON object each. Followers share the questions: each question goes to one of them.

| verb       | question                                              | `ok` of the answer                           |
| ---------- | ----------------------------------------------------- | -------------------------------------------- |
| `get`      | `kind`, `id`                                          | the state                                    |
| `list`     | `kind`, `status`, `tenant`, `name`, `limit`, `before` | `{items, next}`: states, newest first        |
| `dead`     | `name`, `tenant`, `error_type`, `since`, `limit`, `before` | `{items, next}`: dead tasks     |
| `dead_letter` | `id`                                               | a dead task, its content and traceback       |
| `count`    | `kind`: container                                     | `{by_status, sums}` of all that ever existed  |
| `events`   | `subject`, `type`, `after`, `limit`                   | `{events, next, more}`: CloudEvents in order |
| `checks`   | `id`, `limit`                                         | outcomes of a service's checks, and changes  |
| `position` | nothing                                               | the position                                 |
| `wait`     | `position`, `timeout_s`                               | the position, once that asked for is reached |
| `lag`      | nothing                                               | how far store and feed are behind; see `lag` |

    {"kind": "task", "id": "task_01J…", "at_least": "1042.3"}
    {"ok": {"task_id": …}, "position": "1043.0"} | {"error": {"code", "message", "reason", "retry_after_s"}}

Only `kind`, `id` and `position` are required. `kind` is task, container, service, worker, node, pool, session or
schedule; `type` is a kind, or the beginning of an event type that contains the whole kind. With `at_least`, `get`,
`list`, `count` and `events` wait a moment for that position and otherwise fail as `unavailable`, reason `behind`: they
never answer from an older state. To continue a list, pass `next` of the last answer as `before`; to continue events,
pass it as `after`. `next` of a list is null at its end; `next` of events is where new ones will appear. Answers may be
shorter than `limit`. Of a read model that is bounded, `events` answers with `begins` too: earlier events were removed;
after a position before it they are refused.

This door reads and never writes. Its input is untrusted: everything that is not a question is refused.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
import structlog

from coordinator.commands.reads import (
    CheckOutcomes,
    CountAll,
    DeadTasks,
    Events,
    Get,
    GetDead,
    HowFarBehind,
    List,
    ListDead,
    Wait,
    WhichPosition,
    bounded,
    decode_question,
)
from coordinator.commands.wire import encode_answer
from coordinator.follower.dead_letters import dead_letter, list_dead
from coordinator.health.history import changes_in
from coordinator.task_groups import task_group
from events.base import START, Position
from events.errors import CoordinationError, NotFound, Refused, Unavailable
from events.ids import checked
from events.subjects import may_answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from coordinator.bus.connection import Bus
    from coordinator.bus.subscription import Message
    from coordinator.commands.reads import Lag
    from coordinator.commands.service import CheckOutcome
    from coordinator.health.history import CheckHistory
    from events.subjects import Subjects
    from projections.store.port import Store

log = structlog.get_logger(__name__)

QUEUE = "followers"
ANSWER_BYTES = 256
"""Bytes of an answer beside its items."""


class ReadLimits(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits of the door; times in seconds."""

    at_once: int = 256
    """Questions answered at a time; further ones are refused with a time to ask again."""
    at_once_bytes: int = 16 * 1024 * 1024
    """The bytes of these questions; the first is answered whatever it has."""
    answer_bytes: int = 256 * 1024
    """Size at which a list or page ends, at the latest where a message is full."""
    listed_max: int = 1000
    at_least_wait_s: float = 1.0
    wait_max_s: float = 30.0


class ReadDoor:
    """Answers from the store that *store* returns at the time, None while it is not open."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        store: Callable[[], Store | None],
        limits: ReadLimits | None = None,
        *,
        lag: Callable[[], Awaitable[Lag]] | None = None,
        checks: CheckHistory | None = None,
    ) -> None:
        self._bus = bus
        self._subjects = subjects
        self._store = store
        self._lag = lag
        self._checks = checks
        self._limits = limits if limits is not None else ReadLimits()
        self._answering: set[asyncio.Task[None]] = set()
        self._answering_bytes = 0
        self._forged = 0
        self._tasks: asyncio.TaskGroup

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Answer questions while the block runs."""
        async with task_group() as self._tasks:
            subscription = await self._bus.subscribe(self._subjects.read_all, self.take, queue=QUEUE)
            try:
                await self._bus.flush()
                yield
            finally:
                await subscription.unsubscribe()
                for task in self._answering:
                    task.cancel()

    def take(self, message: Message) -> None:
        """Answer one message in its own task; called from the connection's read loop."""
        if not self._may_reply(message.reply):
            return
        size, limits = len(message.data), self._limits
        is_full = self._answering and self._answering_bytes + size > limits.at_once_bytes
        if is_full or len(self._answering) >= limits.at_once:
            msg = (
                f"this follower already answers {len(self._answering)} questions of {self._answering_bytes} bytes, and "
                f"its limits are {limits.at_once} and {limits.at_once_bytes}: ask again shortly"
            )
            self._send(message.reply, None, Unavailable(msg, reason="overloaded", retry_after_s=0.5))
            return
        task = self._tasks.create_task(self._answer(message))
        self._answering.add(task)
        self._answering_bytes += size
        task.add_done_callback(partial(self._answered, size))

    def _answered(self, size: int, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._answering_bytes -= size

    async def ask(self, verb: str, body: bytes) -> Any:
        """
        Answer one question; values that are JSON already are returned as they are.

        Raises:
            Refused: it is not a question, or a value is out of bounds.
            NotFound: the thing it names does not exist.
            Unavailable: the store is not open, is not readable, or has not reached the position asked for.
        """
        question = decode_question(verb, body)
        if isinstance(question, HowFarBehind) and self._lag is not None:
            return await self._lag()
        store = self._store()
        if store is None:
            raise Unavailable("the read model is being opened: ask again shortly", reason="starting", retry_after_s=1.0)
        match question:
            case CheckOutcomes():
                return await self._check_outcomes(store, question)
            case Get() | List() | ListDead() | GetDead() | CountAll() | Events():
                if question.at_least is not None:
                    await store.wait_for(Position.parse(question.at_least), self._limits.at_least_wait_s)
                return await self._read(store, question)
            case Wait():
                timeout_s = bounded("timeout_s", question.timeout_s, 0, self._limits.wait_max_s)
                await store.wait_for(Position.parse(question.position), timeout_s)
                return str(store.position().position)
            case WhichPosition():
                return str(store.position().position)
            case HowFarBehind():
                raise Unavailable("this follower has no access to the journal: ask another one", reason="no_journal")
        assert_never(question)

    async def _read(self, store: Store, question: Get | List | ListDead | GetDead | CountAll | Events) -> Any:
        match question:
            case Get():
                found = await store.get(question.kind, checked(question.id))
                if found is None:
                    raise NotFound(f"{question.kind} {question.id!r} not found: {_why_not_found(store)}")
                return msgspec.Raw(found.state)
            case List():
                return await self._list(store, question)
            case ListDead():
                limit = int(bounded("limit", question.limit, 1, self._limits.listed_max))
                dead, more = await list_dead(store, question, limit, self._limits.answer_bytes)
                items = dead[: self._fitting(one.encoded for one in dead)]
                left = more or len(items) < len(dead)
                return DeadTasks(items=[one.told for one in items], next=str(items[-1].cursor) if left else None)
            case GetDead():
                found = await store.get("task", checked(question.id))
                if found is None:
                    raise NotFound(f"task {question.id!r} not found: {_why_not_found(store)}")
                return await dead_letter(store, found)
            case CountAll():
                return await store.count(question.kind)
            case Events():
                return await self._events(store, question)
        assert_never(question)

    async def _check_outcomes(self, store: Store, question: CheckOutcomes) -> list[CheckOutcome]:
        """Return the outcomes of a service's checks, and the changes of its health before the oldest of them."""
        limit = int(bounded("limit", question.limit, 1, self._limits.listed_max))
        service_id = checked(question.id)
        kept = await self._checks.last(service_id, limit) if self._checks is not None else []
        found = await store.events(
            subject=service_id,
            type_prefix="service.health_changed",
            limit=limit,
            limit_bytes=self._limits.answer_bytes,
            newest_first=True,
        )
        changes = changes_in(event.body for event in found.items)
        told = [*kept, *(one for one in changes if not kept or one.at < kept[-1].at)][:limit]
        return told[: self._fitting(map(msgspec.json.encode, told))]

    async def _list(self, store: Store, question: List) -> dict[str, Any]:
        things = await store.list(
            question.kind,
            status=question.status,
            tenant=question.tenant,
            name=question.name,
            limit=int(bounded("limit", question.limit, 1, self._limits.listed_max)),
            before=None if question.before is None else Position.parse(question.before),
            limit_bytes=self._limits.answer_bytes,
        )
        items = things.items[: self._fitting(thing.state.encode() for thing in things.items)]
        return {
            "items": [msgspec.Raw(thing.state) for thing in items],
            "next": str(items[-1].cursor) if things.more or len(items) < len(things.items) else None,
        }

    async def _events(self, store: Store, question: Events) -> dict[str, Any]:
        after = START if question.after is None else Position.parse(question.after)
        # Taken before reading: the read sees everything up to this position, whatever is written during it.
        known = store.position().position
        found = await store.events(
            subject=question.subject,
            type_prefix=question.type,
            after=after,
            limit=int(bounded("limit", question.limit, 1, self._limits.listed_max)),
            limit_bytes=self._limits.answer_bytes,
        )
        begins = store.begins()  # taken after reading: nothing that was removed before it may be missed in silence
        if question.after is not None and after < begins:
            msg = (
                f"the events after {after} are removed from the read model, which begins at {begins}: read the journal"
            )
            raise Refused(msg, reason="bad_position")
        items = found.items[: self._fitting(one.body for one in found.items)]
        more = found.more or len(items) < len(found.items)
        last = items[-1].position if items else after
        return {
            "events": [msgspec.Raw(one.body) for one in items],
            "next": str(last if more else max(last, known)),
            "more": more,
            **({"begins": str(begins)} if begins > START else {}),
        }

    def _fitting(self, parts: Iterable[bytes]) -> int:
        """Return how many of these parts of an answer fit into a message; at least one."""
        left = self._bus.max_payload_bytes - ANSWER_BYTES
        count = 0
        for part in parts:
            left -= len(part) + 1
            if left < 0:
                break
            count += 1
        return max(1, count)

    async def _answer(self, message: Message) -> None:
        verb = message.subject.rpartition(".")[2]
        value: Any = None
        failure: CoordinationError | None = None
        try:
            value = await self.ask(verb, message.data)
        except CoordinationError as error:
            failure = error
        except Exception as error:  # one question must never close the door: log it and refuse the question
            log.exception("question_crashed", verb=verb)
            failure = Refused(f"the follower failed to answer this question: {error}", reason="internal")
        self._send(message.reply, value, failure)

    def _send(self, reply: str, value: Any, error: CoordinationError | None) -> None:
        store = self._store()
        position = "" if store is None else str(store.position().position)
        try:
            self._bus.send(reply, encode_answer(value, error, "", position))
        except Refused as too_large:
            self._bus.send(reply, encode_answer(None, too_large, "", position))

    def _may_reply(self, reply: str) -> bool:
        """Return whether *reply* may be answered: a forged one could make us write to the journal or to JetStream."""
        may = may_answer(reply)
        if reply and not may:
            self._forged += 1
            if self._forged & (self._forged - 1) == 0:  # the 1st, 2nd, 4th, 8th …: a flood must not fill the log
                log.warning("forged_reply_rejected", reply=reply[:200], count=self._forged)
        return may


def _why_not_found(store: Store) -> str:
    begins = store.begins()
    return "it never existed" if begins == START else f"it never existed, or ended before {begins} and was removed"
