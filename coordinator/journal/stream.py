"""
The journal on NATS JetStream.

One stream holds only commits and claims; it is created with `stream_config` and never changed or deleted here. Reads
that a decision depends on ask the stream leader. For formats and fences see `coordinator.journal.slots`, for how
records are read `coordinator.journal.reader`.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Literal

from coordinator.bus.jetstream import (
    NANOSECONDS,
    NO_MESSAGE,
    NO_STREAM,
    NOTHING_STORED,
    UNDECIDED,
    WRONG_LAST_SEQUENCE,
    ApiError,
)
from coordinator.bus.pull_consumer import PullLimits
from coordinator.bus.streams import ensure_stream, stored_message
from coordinator.bus.subscription import Message
from coordinator.ids import Ids
from coordinator.journal.reader import STALE_LEADER_S, JournalReader
from coordinator.journal.slots import NO_JOURNAL, Draft, Epoch, Outcome, SlotWriter, Stored, Undecided, WrongLast
from events.errors import Corrupt, Refused, Unavailable
from projections.source import Bounds, Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from coordinator.bus.connection import Bus
    from events.subjects import Subjects

DUPLICATE_WINDOW_S = 120
ANSWER_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 1.0

HEADER_BYTES = 1024
"""The largest size of the headers of a commit."""


def stream_config(
    subjects: Subjects, *, replicas: int = 1, duplicate_window_s: float = DUPLICATE_WINDOW_S
) -> dict[str, Any]:
    """Return the configuration of the journal's stream: keep everything; no publisher can remove or replace it."""
    return {
        "name": subjects.stream_journal,
        "subjects": [subjects.journal, subjects.epoch],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "duplicate_window": int(duplicate_window_s * NANOSECONDS),
        "deny_delete": True,
        # Only the archive's credential may purge. It keeps the last claim: without it no commit is accepted until the
        # next claim.
        "deny_purge": False,
        "allow_rollup_hdrs": False,
        "allow_direct": False,  # a direct read may come from a replica that lags
        "compression": "none",
    }


class NatsJournal:
    """
    See `Journal`. The writer's *bus* is unbuffered; readers use another one.

    Only a process that may write calls `prepare`; a follower waits until the stream exists.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        *,
        replicas: int = 1,
        duplicate_window_s: float = DUPLICATE_WINDOW_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        read_limits: PullLimits | None = None,
        ids: Ids | None = None,
    ) -> None:
        doubt_s = STALE_LEADER_S if replicas > 1 else 0.0
        self.trouble = ""
        """Why NATS, which answers, does not store a record now; '' while it does."""
        self._bus = bus
        self._subjects = subjects
        self._stream = subjects.stream_journal
        self._config = stream_config(subjects, replicas=replicas, duplicate_window_s=duplicate_window_s)
        self._answer_timeout_s = answer_timeout_s
        self._writer = SlotWriter(self, doubt_s=doubt_s, ids=ids)
        self._reader = JournalReader(bus, subjects, read_limits or PullLimits(), self.slot, doubt_s=doubt_s)

    async def prepare(self) -> None:
        """
        Create the stream, or check its configuration if it exists.

        Raises:
            Refused: it has another configuration; the message names each difference.
            Unavailable: JetStream does not answer.
        """
        await ensure_stream(self._bus, self._config)

    async def claim(self, body: bytes) -> int:
        """See `Journal.claim`."""
        return await self._writer.claim(body)

    async def commit(self, sequence: int, epoch: Epoch, chain_before: bytes, body: bytes) -> None:
        """See `Journal.commit`."""
        await self._writer.commit(sequence, epoch, chain_before, body)

    async def bounds(self) -> Bounds:
        """See `CommitSource.bounds`."""
        return await self._reader.bounds()

    async def look(self) -> tuple[Bounds, str]:
        """Return the first and the last slot, and the time the stream was created."""
        return await self._reader.look()

    def read(self, after: int, until: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.read`."""
        return self._reader.read(after, until)

    def follow(self, after: int) -> AsyncIterator[list[Record]]:
        """See `CommitSource.follow`."""
        return self._reader.follow(after)

    async def slot(self, sequence: int) -> Record | None:
        """Read one slot from the stream leader."""
        return await self._get({"seq": sequence})

    async def last_claim(self) -> Record | None:
        """Read the last claim from the stream leader."""
        return await self._get({"last_by_subj": self._subjects.epoch})

    async def publish_once(self, draft: Draft) -> Outcome:
        """Send *draft* once and return the outcome."""
        if not self._bus.connected:
            await self._bus.until_connected(PROBE_TIMEOUT_S)
        subject = self._subjects.epoch if draft.kind == "claim" else self._subjects.journal
        try:
            ack = await self._bus.js_publish(
                subject, draft.body, self._headers(draft), timeout_s=self._answer_timeout_s
            )
        except ApiError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                return WrongLast()
            if error.err_code in UNDECIDED or error.may_pass:
                self.trouble = error.message if error.may_pass else ""
                return Undecided(error.message)
            msg = f"JetStream refuses {draft.kind} {draft.message_id} for the journal: {error.message}"
            raise Refused(msg, reason="journal_refused") from error
        except Unavailable as error:
            answers = error.reason == "timeout" and await self._bus.probe(PROBE_TIMEOUT_S)
            self.trouble = NOTHING_STORED if answers else ""
            return Undecided(error.message)
        self.trouble = ""
        if ack.stream != self._stream:
            msg = (
                f"{subject} is stored by stream {ack.stream}, not {self._stream}: another stream takes the journal's "
                "subjects; remove it"
            )
            raise Corrupt(msg)
        return Stored(ack.sequence, ack.duplicate)

    def _headers(self, draft: Draft) -> dict[str, str]:
        if draft.kind == "claim":
            return {
                "Nats-Msg-Id": draft.message_id,
                "Nats-Expected-Last-Subject-Sequence": str(draft.last_claim),
            }
        return {
            "Nats-Msg-Id": draft.message_id,
            "Nats-Expected-Last-Sequence": str(draft.last),
            "Nats-Expected-Last-Subject-Sequence-Subject": self._subjects.epoch,
            "Nats-Expected-Last-Subject-Sequence": str(draft.last_claim),
            "Content-Type": "application/cloudevents-batch+json",
            "Chain": draft.chain or "",
        }

    async def _get(self, which: dict[str, Any]) -> Record | None:
        try:
            stored = await stored_message(self._bus, self._stream, which, timeout_s=self._answer_timeout_s)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return None
            reason = NO_JOURNAL if error.err_code == NO_STREAM else None
            raise Unavailable(f"{self._stream}: {error.message}", reason=reason) from error
        kind: Literal["commit", "claim"] = "claim" if stored["subject"] == self._subjects.epoch else "commit"
        headers = Message("", "", b"", base64.b64decode(stored.get("hdrs", "")))
        return Record(
            sequence=stored["seq"],
            kind=kind,
            body=base64.b64decode(stored.get("data", "")),
            chain=headers.header(b"Chain"),
            message_id=headers.header(b"Nats-Msg-Id"),
        )


def check_max_payload(server_bytes: int, turn_bytes: int) -> None:
    """
    Check that the server accepts the largest possible commit.

    Raises:
        Refused: it does not.
    """
    if server_bytes < turn_bytes + HEADER_BYTES:
        msg = (
            f"the server accepts messages of up to {server_bytes} bytes, but a commit may have {turn_bytes} and "
            f"{HEADER_BYTES} of headers: raise max_payload in its configuration, or lower engine.turn_bytes"
        )
        raise Refused(msg, reason="payload_limit")
