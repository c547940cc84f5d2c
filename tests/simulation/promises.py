"""What every run must keep, each by a name, so that a failure stays the same failure while it is made smaller."""

from __future__ import annotations

from enum import Enum


class Promise(Enum):
    """One invariant of the system."""

    ACKNOWLEDGED = "what was acknowledged is in the journal"
    ONE_ANSWER = "a request is answered in one way"
    ONCE = "a command is carried out once"
    ONE_END = "a task has one end"
    LEASE = "only the holder of a lease is believed"
    CAPACITY = "no more is held than there is"
    ONE_CONTAINER = "of a container one generation runs, once"
    REPLAY = "a replay comes to what was live"
    STORE = "the read model is what a replay gives"
    INBOX = "each message of an inbox has its effect once, in order"
    GRACE = "nobody is given up before his time"
    CLAIM = "a commit names the claim that it is under"
    IN_TIME = "all ends within its bound once faults stop"
    REPEATABLE = "a seed gives one run"


class Violation(AssertionError):
    """A promise was broken"""

    def __init__(self, promise: Promise, what: str) -> None:
        super().__init__(f"{promise.value}: {what}")
        self.promise = promise
