"""
A tap on the messages between clients and coordinators, to compare them with the journal.

It sees every request and every answer, from any coordinator, including answers too late for their client. The journal
shows whether an answer was wrong.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from coordinator.bus.connection import Bus
from coordinator.commands.payloads import value_of
from coordinator.commands.wire import decode_answers
from coordinator.journal.stream import NatsJournal
from events import codec
from events.coordinator import EpochClaim
from events.subjects import Subjects
from events.task import TaskSubmitted
from projections.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.subscription import Message

SUBJECTS = Subjects()
_UNDECIDED = "unavailable"
"""Clients retry on these errors: they are not answers."""


class Tap:
    """Every request for a task, and the answers to it on the wire; open it with `tap`."""

    def __init__(self) -> None:
        self.verdicts: dict[bytes, set[str]] = defaultdict(set)
        """Answers by encoded command: `ok`, or the code of a refusal."""
        self.accepted: dict[str, str] = {}
        """Every task reported as taken, and the reign that reported it."""
        self._asked: dict[str, list[dict[str, Any]]] = {}

    def request(self, message: Message) -> None:
        """Record a request and its reply subject."""
        if message.subject.endswith(".task.submit"):
            self._asked[message.reply] = msgspec.json.decode(message.data)

    def answer(self, message: Message) -> None:
        """Record the answer to a request."""
        commands = self._asked.get(message.subject)
        if commands is None or message.status:
            return
        answers = decode_answers(message.data)
        if len(answers) != len(commands):  # the whole batch was refused
            answers = answers[:1] * len(commands)
        for command, answer in zip(commands, answers, strict=True):
            verdict = "ok" if answer.error is None else answer.error.code
            if verdict == _UNDECIDED:
                continue
            self.verdicts[msgspec.json.encode(command)].add(verdict)
            if verdict == "ok":
                self.accepted[command["data"]["task_id"]] = answer.epoch

    @property
    def differing(self) -> int:
        """Return the number of requests answered in two ways."""
        return sum(len(verdicts) > 1 for verdicts in self.verdicts.values())


@asynccontextmanager
async def tap(url: str) -> AsyncIterator[Tap]:
    """Listen while the block runs."""
    made = Tap()
    async with Bus.open(url, name="tap") as bus:
        await bus.subscribe(SUBJECTS.rpc_all, made.request)
        await bus.subscribe("_INBOX.>", made.answer)
        await bus.flush()
        yield made


class Reign(NamedTuple):
    """One claim and its holder."""

    sequence: int
    holder: str


class Record(NamedTuple):
    """The contents of the journal, after verification of its chain."""

    reigns: list[Reign]
    submitted: dict[str, int]
    """By task: which of its two payloads was taken."""
    submitted_twice: int
    commits_of_the_past: int
    """Commits of a reign after the claim of a later one."""
    events: int


async def record_of(url: str) -> Record:
    """
    Read the whole journal.

    Raises:
        Corrupt: its chain is broken.
    """
    world, reigns, submitted, twice, past, events = World(), list[Reign](), dict[str, int](), 0, 0, 0
    async with Bus.open(url, name="judge") as bus:
        journal = NatsJournal(bus, SUBJECTS)
        async for records in journal.read(0, (await journal.bounds()).last):
            for one in records:
                world.apply_record(one)
                if one.kind == "claim":
                    claim = msgspec.json.decode(one.body, type=EpochClaim)
                    reigns.append(Reign(one.sequence, claim.holder))
                    continue
                past += (one.message_id or "").split(".")[1] != str(reigns[-1].sequence)
                for envelope in codec.decode(one.body):
                    event = envelope.data
                    events += 1
                    if isinstance(event, TaskSubmitted):
                        twice += event.task_id in submitted
                        submitted[event.task_id] = value_of(event.payload)["side"] if event.payload else 0
    return Record(reigns, submitted, twice, past, events)


async def feed_lacks(url: str, within_s: float) -> int:
    """Return the number of journal events missing or repeated in the feed after at most *within_s* seconds."""
    async with Bus.open(url, name="judge") as bus:
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            info = await bus.js_request(f"STREAM.INFO.{SUBJECTS.stream_events}", timeout_s=10)
            lacks = (await record_of(url)).events - int(info["state"]["messages"])
            if lacks == 0 or asyncio.get_running_loop().time() > deadline:
                return lacks
            await asyncio.sleep(0.5)


def broken_promises(calls_taken: dict[str, int], tapped: Tap | None, record: Record) -> dict[str, int]:
    """Count broken promises by name; all are 0 if every promise was kept."""
    broken = {
        "lost": len(calls_taken.keys() - record.submitted.keys()),
        "taken_twice": sum(side == -1 for side in calls_taken.values()) + record.submitted_twice,
        "another_was_taken": sum(
            record.submitted.get(task_id, side) != side for task_id, side in calls_taken.items() if side != -1
        ),
        "commits_of_a_past_reign": record.commits_of_the_past,
    }
    if tapped is not None:
        broken["answered_in_two_ways"] = tapped.differing
        broken["accepted_and_not_in_the_journal"] = len(tapped.accepted.keys() - record.submitted.keys())
    return broken
