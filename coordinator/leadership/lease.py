"""
The writer's lease: which instance should write now.

It is only a hint: the fences of the journal keep two writers apart. The lease is one key in a bucket whose messages
have a time to live. The holder publishes it again every `renew_s`, naming the previous revision, and the server
deletes it `ttl_s` after the last time. The holder counts from when it *sent* the last granted renewal, by its own
monotonic clock: the server cannot delete the key before `ttl_s` after that.

    acquire or take_back → hold, until it is lost → … → release
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from coordinator.bus.jetstream import NO_MESSAGE, NOTHING_STORED, WRONG_LAST_SEQUENCE, ApiError, key_stream, key_subject
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
"""How long the delete marker of a released lease is kept; the shortest time to live that NATS allows."""

log = structlog.get_logger(__name__)


class Holding(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The value of the lease: the name of the instance, the same after a restart, and its process."""

    holder: str
    process: str


_UNREADABLE = Holding(holder="(unreadable)", process="")
_decode = msgspec.json.Decoder(Holding).decode


def lease_config(subjects: Subjects, *, replicas: int = 1) -> dict[str, Any]:
    """Return the configuration of the bucket's stream: the last value of each key, each with its own time to live."""
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
    The lease as one process sees it.

    Args:
        bus: an unbuffered connection.
        subjects: names the bucket.
        holder: name of this instance, the same after a restart.
        ttl_s: seconds after which an unrenewed lease expires; longer than a NATS leader election takes (8 s).
        renew_s: seconds between renewals.
        stop_s: seconds after the last granted renewal from which on `must_stop` is true; None: 0.8 of *ttl_s*.
        replicas: of the bucket, 1 or 3.
        clock: returns monotonic seconds that also advance while the machine sleeps.
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
                f"a lease of {ttl_s} s that is renewed every {renew_s} s would expire: renew it at least twice in its "
                "time, and let it last 1 s or longer"
            )
            raise Refused(msg, reason="bad_lease")
        self.ttl_s = ttl_s
        self.renew_s = renew_s
        self.stop_s = stop_s if stop_s is not None else ttl_s * STOP_S / TTL_S
        self.granted_at: float | None = None
        """When the last granted renewal was sent, by the clock; None while we do not hold the lease."""
        self.trouble = ""
        """Why NATS, which answers, does not store the lease now; '' while it does."""
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
        Create the bucket, or check its configuration if it exists.

        Raises:
            Refused: it has another configuration.
            Unavailable: JetStream does not answer.
        """
        await ensure_stream(self._bus, self._config)

    def is_fresh(self, within_s: float = FRESH_S) -> bool:
        """Return whether the last granted renewal was sent less than *within_s* ago, so no other can hold the lease."""
        return self.granted_at is not None and self._clock() - self.granted_at < within_s

    def must_stop(self) -> bool:
        """Return whether the writer must stop: the lease is lost, or was last renewed more than *stop_s* ago."""
        return self.granted_at is None or self._clock() - self.granted_at > self.stop_s

    async def current(self) -> Holding | None:
        """
        Return the holder of the lease; None if there is none.

        Raises:
            Unavailable: JetStream does not answer.
        """
        return (await self._look())[1]

    async def acquire(self, timeout_s: float) -> bool:
        """Wait until the lease is free and take it; return False if that does not succeed within *timeout_s*."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self._try_to_take(lambda held: held is None):
            if asyncio.get_running_loop().time() + POLL_S > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def take_back(self, previous_holder: str) -> bool:
        """
        Take the lease at once if *previous_holder* holds it or it is free; return whether it is ours now.

        Only for a process that holds the lock of the shared store, so no other process of that name can run.
        """
        return await self._try_to_take(lambda held: held is None or held.holder == previous_holder)

    async def hold(self) -> None:
        """Renew the lease; return when it is lost: another has it, or no renewal was granted for *stop_s*."""
        failed = 0
        while not self.must_stop():
            await asyncio.sleep(RETRY_S if failed else self.renew_s)
            try:
                if not await self._put(self._revision):
                    held = await self.current()
                    self._lost(f"{held.holder} holds it now" if held else "it expired")
                    return
                failed = 0
            except Unavailable as error:
                failed += 1
                if failed == 1:
                    log.warning("lease_renewal_failed", reason=error.message)
        self._lost(f"no renewal was granted for {self.stop_s:g} s")

    async def release(self) -> None:
        """Release the lease, so that another can take it at once; if that fails, it expires."""
        if self.granted_at is None:
            return
        self.granted_at = None
        headers = {"KV-Operation": "DEL", "Nats-TTL": f"{RELEASED_S}s", **_expecting(self._revision)}
        try:
            await self._bus.js_publish(self._subject, b"", headers, timeout_s=ANSWER_TIMEOUT_S)
            log.info("lease_released", holder=self._ours.holder)
        except (ApiError, Unavailable) as error:
            log.warning("lease_release_failed", reason=error.message)

    async def _try_to_take(self, may: Callable[[Holding | None], bool]) -> bool:
        try:
            revision, held = await self._look()
            is_free = held == self._ours or may(held)
            if not is_free:
                self.trouble = ""  # another instance holds it: what kept this one from it is over
            is_ours = is_free and await self._put(revision)
            self._is_unreadable = False
            if not is_ours:
                return False
        except Unavailable as error:
            if not self._is_unreadable:  # logged once: while NATS does not answer it is tried twice a second
                log.warning("lease_read_failed", reason=error.message)
            self._is_unreadable = True
            return False
        log.info("lease_taken", holder=self._ours.holder, revision=self._revision)
        return True

    async def _put(self, expected: int) -> bool:
        """Publish our name if the key still has revision *expected*; return whether the lease is ours now."""
        sent_at = self._clock()
        headers = {"Nats-TTL": f"{self.ttl_s}s", **_expecting(expected)}
        try:
            ack = await self._bus.js_publish(
                self._subject, msgspec.json.encode(self._ours), headers, timeout_s=ANSWER_TIMEOUT_S
            )
        except ApiError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                self.trouble = error.message
                raise Unavailable(error.message) from error
            # An earlier attempt without an answer may have been granted: then count from when it was sent.
            revision, held = await self._look()
            if held != self._ours:
                self._unanswered_at = None
                return False
            if revision < expected:
                # A replica cut off from the others still shows an older state with us as holder: that grants nothing.
                msg = f"the lease has revision {revision}, but {expected} was granted before: a replica lags"
                raise Unavailable(msg, reason="stale_replica") from error
            sent_at = self._unanswered_at if self._unanswered_at is not None else sent_at
        except Unavailable as error:
            self._unanswered_at = sent_at if self._unanswered_at is None else self._unanswered_at
            answers = await self._bus.probe(ANSWER_TIMEOUT_S / 2)
            self.trouble = NOTHING_STORED if answers and error.reason == "timeout" else ""
            raise
        else:
            revision = ack.sequence
        self.trouble = ""
        self._revision, self.granted_at, self._unanswered_at = revision, sent_at, None
        return True

    async def _look(self) -> tuple[int, Holding | None]:
        """Read the key from the stream leader; return its revision (0 if it does not exist) and its holder."""
        name, which = str(self._config["name"]), {"last_by_subj": self._subject}
        try:
            stored = await stored_message(self._bus, name, which, timeout_s=ANSWER_TIMEOUT_S)
        except ApiError as error:
            if error.err_code == NO_MESSAGE:
                return 0, None
            raise Unavailable(error.message) from error
        headers = Message("", "", b"", base64.b64decode(stored.get("hdrs", "")))
        # Released, deleted by hand, or expired in a bucket that leaves delete markers.
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
