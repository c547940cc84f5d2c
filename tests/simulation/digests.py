"""
Hashes what a run said and kept, byte for byte, so that two versions of the code can be compared seed by seed.

A change that must not change behaviour leaves every digest as it is. A change of wording alone leaves every *masked*
digest as it is: texts for people are replaced before hashing, and so are hashes that cover them.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from tests.simulation.check import check, records
from tests.simulation.cluster import Sim
from tests.simulation.faults import plan_of
from tests.simulation.loop import run_seeded
from tests.simulation.play import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FREE_TEXTS = frozenset({"message", "error", "reason", "detail"})
"""JSON fields that hold words for people, or a code; only words are masked."""
MASKED_HEADERS = (b"Chain", b"Nats-Service-Error")
"""The chain covers every text in the journal; the other holds the message of an error."""
MASK = "…"

_is_code = re.compile(r"[a-z0-9]*(?:[_.:-][a-z0-9]+)*").fullmatch


class Digest(NamedTuple):
    """What one seed came to; `failure` says what went wrong when it broke a promise."""

    seed: int
    value: str
    failure: str = ""


class Recorder:
    """Hashes the parts of a run in the order they come, each with its length before it."""

    def __init__(self, *, masked: bool) -> None:
        self._hash = hashlib.sha256()
        self._masked = masked

    def said(self, subject: str, headers: bytes, data: bytes) -> None:
        """Take a message that reached the server."""
        self._take(subject.encode())
        self._take(mask_headers(headers) if self._masked else headers)
        self._take(mask_body(data) if self._masked else data)

    def kept(self, sim: Sim) -> None:
        """Take the journal and the read model at the end of a run, and the faults that struck."""
        for record in records(sim):
            self.said(f"{record.sequence} {record.kind} {record.message_id}", b"", record.body)
        for kind, rows in sorted(sim.store._rows.items()):
            for entity_id, row in sorted(rows.items()):
                self.said(f"{kind} {entity_id}", b"", row.state.encode())
        self._take(repr(sorted(sim.dice.fired.items())).encode())

    def hexdigest(self) -> str:
        """Give the digest of all that was taken."""
        return self._hash.hexdigest()

    def _take(self, part: bytes) -> None:
        self._hash.update(b"%d:%b," % (len(part), part))


def mask_body(data: bytes) -> bytes:
    """Replace the free texts of a JSON body; whatever is not JSON stays as it is."""
    if not data.startswith((b"[", b"{")):
        return data
    try:
        return msgspec.json.encode(_mask(msgspec.json.decode(data)))
    except msgspec.DecodeError:
        return data


def mask_headers(headers: bytes) -> bytes:
    """Replace the values of `MASKED_HEADERS` in a block of headers."""
    lines = headers.split(b"\r\n")
    return b"\r\n".join(
        name + b": " + MASK.encode() if (name := line.partition(b":")[0]) in MASKED_HEADERS else line for line in lines
    )


def digest_of(seed: int, *, masked: bool) -> Digest:
    """Play the plan of *seed* and hash it; a broken promise is told beside the digest."""
    sim = Sim(plan_of(seed))
    recorder = Recorder(masked=masked)
    sim.broker.heard = recorder.said
    failure = ""
    try:
        run_seeded(sim.run(), sim.random)
        check(sim)
    except Exception as error:  # noqa: BLE001  # whatever it is, the seed's line must not be missing
        failure = f"{type(error).__name__}: {error}"[:2000]
    recorder.kept(sim)
    return Digest(seed, recorder.hexdigest(), failure)


def digests_of(seeds: Iterable[int], *, masked: bool) -> Iterator[Digest]:
    """Hash seeds on all cores, and give their digests in the order of the seeds."""
    os.environ["PYTHONHASHSEED"] = "0"  # of the processes that are started here: sets of text are walked in its order
    pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn"), initializer=quiet)
    try:
        yield from pool.map(partial(digest_of, masked=masked), seeds, chunksize=2)
    finally:
        pool.shutdown(cancel_futures=True)


def read(path: Path) -> dict[int, str]:
    """
    Read a file of lines `<seed> <sha256>`.

    Raises:
        ValueError: a line is of another form; it says which.
    """
    found: dict[int, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = re.fullmatch(r"(\d+) ([0-9a-f]{64})", line)
        if match is None:
            msg = f"{path}:{number}: {line[:80]!r} is not '<seed> <sha256>'"
            raise ValueError(msg)
        found[int(match[1])] = match[2]
    return found


def _mask(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _mask(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_mask(inner) for inner in value]
    if name in FREE_TEXTS and isinstance(value, str) and _is_code(value) is None:
        return MASK
    return value
