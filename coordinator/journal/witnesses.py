"""What others know of where the journal ended: the read model, the feed, the chain."""

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
    The journal held *sequence*, in *generation*, and *chain* was the hash of all up to there.

    An empty chain is not known. *by* says in words who has seen it; *created* when the stream was made, as it says.
    *beside* is the chain of a read model in the same home that is of another stream.
    """

    sequence: int
    generation: int
    chain: str = ""
    created: str = ""
    stream: str = ""
    by: str = ""
    beside: str = ""


def seen_by_store(path: Path) -> Seen | None:
    """Say how far the read model at *path* has taken the journal in; None where there is none that can be read."""
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
    Say whether a read model is of another stream than *stream*, as the *mark* in the same home tells.

    It does not say so itself. It is when the mark was of another one, and stays so until it has moved on.
    """
    if mark is None:
        return False
    return mark.stream not in ("", stream) or (store.chain != "" and store.chain == mark.beside)


async def chain_at(journal: NatsJournal, world: World, sequence: int) -> str:
    """Give the hash of the journal up to slot *sequence*, as it was checked by folding *world*; empty where unknown."""
    if sequence == world.position.sequence:
        return world.chain.hex()
    record = await journal.slot(sequence)
    if record is not None and record.kind == "commit" and record.chain is not None:
        return chain_after(bytes.fromhex(record.chain), sequence, record.body).hex()
    # A claim does not say what stood before it; the commit behind it does.
    behind = await journal.slot(sequence + 1)
    return behind.chain or "" if behind is not None and behind.kind == "commit" else ""


async def seen_by_feed(bus: Bus, subjects: Subjects) -> Seen | None:
    """
    Say of which journal record the last event in the feed is; None where there is no feed, or nothing in it.

    Raises:
        Unavailable: JetStream does not say, as while its servers choose who leads: that is not the same as no feed.
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
