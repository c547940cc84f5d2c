"""Witnesses of the journal's end: how far the read model and the feed have seen it, and its chain there."""

from __future__ import annotations

import base64
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from coordinator.bus.jetstream import NO_MESSAGE, NO_STREAM, ApiError
from coordinator.bus.streams import stored_message, stream_info
from coordinator.bus.subscription import Message
from events.errors import Unavailable
from projections.source import chain_after

if TYPE_CHECKING:
    from pathlib import Path

    from coordinator.bus.connection import Bus
    from coordinator.journal.stream import NatsJournal
    from events.subjects import Subjects
    from projections.world import World

ANSWER_TIMEOUT_S = 5.0
_STORE_PATIENCE_S = 2.0

_message_id = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})\.[0-9]{1,9}").fullmatch


class Seen(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    A high-water mark: the journal had the record *sequence* in *generation*; *chain* is the hash of all up to there.

    An empty chain is unknown. *by* names the witness, for people; *created* is the stream's creation time.
    *beside* is the chain of a read model in the same home that belongs to another stream.
    """

    sequence: int
    generation: int
    chain: str = ""
    created: str = ""
    stream: str = ""
    by: str = ""
    beside: str = ""


def seen_by_store(path: Path) -> Seen | None:
    """Return how far the read model at *path* has seen the journal; None if there is none, or it is unreadable."""
    if not path.is_file():
        return None
    import sqlite3

    from projections.store.sqlite import GET_MARK

    with suppress(sqlite3.Error):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_STORE_PATIENCE_S)
        try:
            rows = connection.execute(GET_MARK).fetchall()
        finally:
            connection.close()
        if rows:
            sequence, _, chain, _, generation, *_ = rows[0]
            return Seen(sequence=sequence, generation=generation, chain=chain, by=f"the read model {path.name}")
    return None


def is_of_another(store: Seen, mark: Seen | None, stream: str) -> bool:
    """
    Return whether a read model belongs to another stream than *stream*, judged by the *mark* in the same home.

    The read model does not name its stream. It belongs to another one if the mark did, and until it has moved on.
    """
    if mark is None:
        return False
    return mark.stream not in ("", stream) or (store.chain != "" and store.chain == mark.beside)


async def chain_at(journal: NatsJournal, world: World, sequence: int) -> str:
    """Return the chain of the journal after slot *sequence*, checked when *world* was folded; '' if unknown."""
    if sequence == world.position.sequence:
        return world.chain.hex()
    record = await journal.slot(sequence)
    if record is not None and record.kind == "commit" and record.chain is not None:
        return chain_after(bytes.fromhex(record.chain), sequence, record.body).hex()
    # A claim carries no chain; the commit after it does.
    behind = await journal.slot(sequence + 1)
    return behind.chain or "" if behind is not None and behind.kind == "commit" else ""


async def seen_by_feed(bus: Bus, subjects: Subjects) -> Seen | None:
    """
    Return the journal record of the last event in the feed; None if there is no feed, or it is empty.

    Raises:
        Unavailable: JetStream does not answer, for example during a leader election: the feed may exist.
    """
    name = subjects.stream_events
    try:
        info = await stream_info(bus, name, timeout_s=ANSWER_TIMEOUT_S)
        last = {"seq": info["state"]["last_seq"]}
        if not info["state"]["messages"]:
            return None
        stored = await stored_message(bus, name, last, timeout_s=ANSWER_TIMEOUT_S)
    except ApiError as error:
        if error.err_code in (NO_STREAM, NO_MESSAGE):
            return None
        raise Unavailable(f"{name}: {error.message}") from error
    headers = Message("", "", b"", base64.b64decode(stored.get("hdrs", "")))
    match = _message_id(headers.header(b"Nats-Msg-Id") or "")
    return Seen(sequence=int(match[2]), generation=int(match[1]), by=f"the feed {name}") if match is not None else None
