"""
The lease: who should write now. It is a hint and must never be the safety: two writers are kept apart by the journal.

One key in a bucket whose messages have a time to live. The holder publishes it again every `renew_s`, naming the
revision before, and the server forgets it `ttl_s` after the last time. What counts for us is when the last renewal that
was granted was *sent*, by our own monotonic clock: the server cannot have forgotten us earlier than `ttl_s` after that.

    acquire or take_back → hold, until it is lost → … → release
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.bus.jetstream import NO_MESSAGE, WRONG_LAST_SEQUENCE, ApiError, key_stream, key_subject
from coordinator.bus.streams import ensure_stream, stored_message
from coordinator.bus.subscription import Message
from coordinator.clock import SystemClock
from coordinator.ids import Ids, TimeOrderedIds
from events.errors import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.bus.connection import Bus
    from events.subjects import Subjects

TTL_S = 12
RENEW_S = 2.0
FRESH_S = 6.0
STOP_S = 9.6
POLL_S = 0.5
RETRY_S = 0.25
ANSWER_TIMEOUT_S = 2.0
RELEASED_S = 1
"""How long the mark of a released lease is kept; the shortest time to live there is."""

log = structlog.get_logger(__name__)


class Holding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What stands in the lease: the instance, named alike over restarts, and its process."""

    holder: str
    process: str


_UNREADABLE = Holding(holder="(unreadable)", process="")
_decode = msgspec.json.Decoder(Holding).decode


def lease_config(subjects: Subjects, *, replicas: int = 1) -> dict[str, Any]:
    """Say how the bucket's stream is to be: the last value of each key, with a time to live of its own."""
    return {
        "name": key_stream(subjects.bucket_lease),
        "subjects": [key_subject(subjects.bucket_lease, ">")],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "deny_delete": True,
    }


class Lease:
    """
    One process's part in the lease.

    Args:
        bus: an unbuffered connection.
        subjects: names the bucket.
        holder: name of this instance, the same after a restart.
        ttl_s: seconds until the server forgets a silent holder; longer than a change of the NATS leader takes (8 s).
        renew_s: seconds between renewals.
        stop_s: seconds after the last granted renewal at which `must_stop`; 0.8 of *ttl_s* where None.
        replicas: of the bucket, 1 or 3.
        clock: gives monotonic seconds that go on while the machine sleeps.
        ids: makes the name of this process.
    """

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        holder: str,
        *,
        ttl_s: int = TTL_S,
        renew_s: float = RENEW_S,
        stop_s: float | None = None,
        replicas: int = 1,
        clock: Callable[[], float] | None = None,
        ids: Ids | None = None,
    ) -> None:
        if ttl_s < 1 or not 0 < renew_s <= ttl_s / 2:
            msg = (
                f"a lease of {ttl_s} s renewed every {renew_s} s would end by itself: renew at least twice in its time"
            )
            raise Refused(msg, reason="bad_lease")
        self.ttl_s = ttl_s
        self.renew_s = renew_s
        self.stop_s = stop_s if stop_s is not None else ttl_s * STOP_S / TTL_S
        self.granted_at: float | None = None
        """When the last renewal that was granted was sent, by the clock; None while we do not hold the lease."""
        self._bus = bus
        self._config = lease_config(subjects, replicas=replicas)
        self._subject = key_subject(subjects.bucket_lease, "writer")
        self._clock = clock if clock is not None else SystemClock().heard
        self._ours = Holding(holder=holder, process=(ids or TimeOrderedIds()).new("process"))
        self._revision = 0
        self._unanswered_at: float | None = None
        self._is_unreadable = False

    async def prepare(self) -> None:
        """
        Create the bucket, or make sure that it is as it should be.

        Raises:
            Refused: it exists with another configuration.
            Unavailable: JetStream does not answer.
        """
        await ensure_stream(self._bus, self._config)

    def is_fresh(self, within_s: float = FRESH_S) -> bool:
        """Say whether the last granted renewal was sent less than *within_s* ago: nobody else can hold the lease."""
        return self.granted_at is not None and self._clock() - self.granted_at < within_s

    def must_stop(self) -> bool:
        """Say whether it was sent over *stop_s* ago, or is lost: stop writing, whatever else seems right."""
        return self.granted_at is None or self._clock() - self.granted_at > self.stop_s

    async def current(self) -> Holding | None:
        """
        Read who holds the lease; None when nobody does.

        Raises:
            Unavailable: JetStream does not answer.
        """
        return (await self._look())[1]

    async def acquire(self, timeout_s: float) -> bool:
        """Wait until nobody holds the lease and take it; say whether that came about within *timeout_s*."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self._try_to_take(lambda held: held is None):
            if asyncio.get_running_loop().time() + POLL_S > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def take_back(self, previous_holder: str) -> bool:
        """
        Take the lease at once if *previous_holder* holds it, or nobody; say whether it is ours now.

        Only for a process that is certain that no other of that name runs, by the lock on the store they share.
        """
        return await self._try_to_take(lambda held: held is None or held.holder == previous_holder)

    async def hold(self) -> None:
        """Renew the lease, and return when it is lost: another has it, or nothing was granted for *stop_s*."""
        failed = 0
        while not self.must_stop():
            await asyncio.sleep(RETRY_S if failed else self.renew_s)
            try:
                if not await self._put(self._revision):
                    held = await self.current()
                    self._lost(f"{held.holder} has it" if held else "it ran out")
                    return
                failed = 0
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    log.warning("lease_not_renewed", reason=error.message)
        self._lost("no renewal was granted in time")

    async def release(self) -> None:
        """Give the lease up, so that another may take it at once; what fails runs out by itself."""
        if self.granted_at is None:
            return
        self.granted_at = None
        headers = {"KV-Operation": "DEL", "Nats-TTL": f"{RELEASED_S}s", **_expecting(self._revision)}
        try:
            await self._bus.js_publish(self._subject, b"", headers, timeout_s=ANSWER_TIMEOUT_S)
            log.info("lease_released", holder=self._ours.holder)
        except (ApiError, Unavailable) as error:
            log.warning("lease_not_released", reason=error.message)

    async def _try_to_take(self, may: Callable[[Holding | None], bool]) -> bool:
        try:
            revision, held = await self._look()
            self._is_unreadable = False
            if not (held == self._ours or may(held)) or not await self._put(revision):
                return False
        except Unavailable as error:
            if not self._is_unreadable:  # while NATS is away it is tried twice a second
                log.warning("lease_not_readable", reason=error.message)
            self._is_unreadable = True
            return False
        log.info("lease_taken", holder=self._ours.holder, revision=self._revision)
        return True

    async def _put(self, expected: int) -> bool:
        """Publish our name if the key still has revision *expected*; say whether it is ours now."""
        sent_at = self._clock()
        headers = {"Nats-TTL": f"{self.ttl_s}s", **_expecting(expected)}
        try:
            ack = await self._bus.js_publish(
                self._subject, msgspec.json.encode(self._ours), headers, timeout_s=ANSWER_TIMEOUT_S
            )
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise Unavailable(error.message) from error
            # An attempt that got no answer may have been granted; when, only its sending tells.
            revision, held = await self._look()
            if held != self._ours:
                self._unanswered_at = None
                return False
            if revision < expected:
                # A replica cut off from the others still shows us in an older state: that grants nothing.
                msg = f"the lease is shown at revision {revision}, and {expected} was granted: a replica lags"
                raise Unavailable(msg, reason="stale_replica") from error
            sent_at = self._unanswered_at if self._unanswered_at is not None else sent_at
        except Unavailable:
            self._unanswered_at = sent_at if self._unanswered_at is None else self._unanswered_at
            await self._bus.probe(ANSWER_TIMEOUT_S / 2)
            raise
        else:
            revision = ack.sequence
        self._revision, self.granted_at, self._unanswered_at = revision, sent_at, None
        return True

    async def _look(self) -> tuple[int, Holding | None]:
        """Read the key from the stream leader: its revision (0 when there is nothing), and who holds it."""
        name, which = str(self._config["name"]), {"last_by_subj": self._subject}
        try:
            stored = await stored_message(self._bus, name, which, timeout_s=ANSWER_TIMEOUT_S)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return 0, None
            raise Unavailable(error.message) from error
        headers = Message("", "", b"", base64.b64decode(stored.get("hdrs", "")))
        # Released, deleted by hand, or expired in a bucket that leaves marks.
        if headers.header(b"KV-Operation") is not None or headers.header(b"Nats-Marker-Reason") is not None:
            return stored["seq"], None
        try:
            return stored["seq"], _decode(base64.b64decode(stored.get("data", "")))
        except msgspec.DecodeError:
            return stored["seq"], _UNREADABLE

    def _lost(self, reason: str) -> None:
        self.granted_at = None
        log.warning("lease_lost", holder=self._ours.holder, reason=reason)


def _expecting(revision: int) -> dict[str, str]:
    return {"Nats-Expected-Last-Subject-Sequence": str(revision)}
