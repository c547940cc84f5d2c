"""
Hash the messages and stored data of a run, byte for byte, to compare two versions of the code seed by seed.

A refactoring keeps every digest. A change of wording keeps every *masked* digest: texts for people, and hashes that
cover them, are replaced before hashing.
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
"""JSON fields with text for people or with a code; only text is masked."""
MASKED_HEADERS = (b"Chain", b"Nats-Service-Error")
"""The chain covers every text in the journal; the other contains an error message."""
MASK = "…"
HEADS = {False: "digests of all bytes", True: "digests with free texts masked"}
"""The first line of a file of digests."""

_is_code = re.compile(r"[a-z0-9]*(?:[_.:-][a-z0-9]+)*").fullmatch


class Digest(NamedTuple):
    """The digest of one seed; `failure` has the broken promise, if any."""

    seed: int
    value: str
    failure: str = ""


class Recorder:
    """Hashes the parts of a run in order, each with its length first."""

    def __init__(self, *, masked: bool) -> None:
        self._hash = hashlib.sha256()
        self._masked = masked

    def said(self, subject: str, headers: bytes, data: bytes) -> None:
        """Add a message that reached the server."""
        self._take(subject.encode())
        self._take(mask_headers(headers) if self._masked else headers)
        self._take(mask_body(data) if self._masked else data)

    def kept(self, sim: Sim) -> None:
        """Add the journal and the read model at the end of a run, and the faults that fired."""
        for record in records(sim):
            self.said(f"{record.sequence} {record.kind} {record.message_id}", b"", record.body)
        for kind, rows in sorted(sim.store._rows.items()):
            for entity_id, row in sorted(rows.items()):
                self.said(f"{kind} {entity_id}", b"", row.state.encode())
        self._take(repr(sorted(sim.dice.fired.items())).encode())

    def hexdigest(self) -> str:
        """Return the digest of everything added."""
        return self._hash.hexdigest()

    def _take(self, part: bytes) -> None:
        self._hash.update(b"%d:%b," % (len(part), part))


def mask_body(data: bytes) -> bytes:
    """Replace the free texts of a JSON body; return anything else unchanged."""
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
    """Run the plan of *seed* and hash it; return a broken promise with the digest."""
    sim = Sim(plan_of(seed))
    recorder = Recorder(masked=masked)
    sim.broker.heard = recorder.said
    failure = ""
    try:
        with sim.remembering():
            run_seeded(sim.run(), sim.random)
            check(sim)
    except Exception as error:  # noqa: BLE001  # every seed needs its line
        failure = f"{type(error).__name__}: {error}"[:2000]
    recorder.kept(sim)
    return Digest(seed, recorder.hexdigest(), failure)


def digests_of(seeds: Iterable[int], *, masked: bool) -> Iterator[Digest]:
    """Hash seeds on all cores, and yield their digests in order."""
    os.environ["PYTHONHASHSEED"] = "0"  # for the processes started here: it fixes the iteration order of sets of text
    pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn"), initializer=quiet)
    try:
        yield from pool.map(partial(digest_of, masked=masked), seeds, chunksize=2)
    finally:
        pool.shutdown(cancel_futures=True)


def write(path: Path, found: Iterable[Digest], *, masked: bool) -> None:
    """Write a line that says how the digests were made, and a line `<seed> <sha256>` for each."""
    path.write_text(HEADS[masked] + "\n" + "".join(f"{one.seed} {one.value}\n" for one in found))


def read(path: Path, *, masked: bool) -> dict[int, str]:
    """
    Read a file that `write` wrote.

    Raises:
        ValueError: it has other digests than *masked* says, or a line of another form; the message has its number.
    """
    found: dict[int, str] = {}
    head, *lines = path.read_text().splitlines() or [""]
    if head != HEADS[masked]:
        msg = f"{path} begins with {head[:80]!r}, not with {HEADS[masked]!r}: use --mask for both files or for neither"
        raise ValueError(msg)
    for number, line in enumerate(lines, 2):
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
