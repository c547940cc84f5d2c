"""The promises that every run must keep; each has a name, which identifies a failure while it is shrunk."""

from __future__ import annotations

from enum import Enum


class Promise(Enum):
    """One invariant of the system."""

    ACKNOWLEDGED = "acknowledged commands are in the journal"
    ONE_ANSWER = "a request has one answer"
    ONCE = "a command is executed once"
    ONE_END = "a task has one end"
    TASK_PAUSED = "a paused task is given to no worker until it is resumed"
    RETRIES = "a task is retried as often as it may be, and no sooner"
    LEASE = "only the lease holder can report on a task"
    CAPACITY = "allocations never exceed capacity"
    FIT = "a task starts only at a worker that meets its filter and has what it needs by name"
    PREFERS = "a task that prefers a worker starts at another one only after its time, or without such a worker"
    VERSION = "a task that began on a version of workers goes on there, or where the tasks of that one were moved"
    RAMP = "a task begins on the version that the route of its queue says for its id"
    SHADOW = "no candidate policy is promoted above its bound of regret, and none has a regret beside itself"
    ONE_CONTAINER = "one generation of a container runs, once"
    EXPLAINED = "each placement follows from the journal before it and what its turn recorded"
    AGENTS = "a container runs what the catalogue said when it was created, and restarts as its policy says"
    REPLAY = "a replay gives the live world"
    STORE = "the read model equals a replay"
    INBOX = "each inbox message has its effect once, in order"
    GRACE = "nothing is declared lost before its limit"
    DUE = "what is due is found"
    CLAIM = "a commit names the claim of its writer"
    IN_TIME = "everything ends within its bound after faults stop"
    REMEMBERED = "a repeat gets its first answer, also after the task was evicted"
    LISTED = "a list shows what there was when it was asked for, however long it takes to make"
    NEWEST = "an answer is not older than one that was received before it was asked for"
    FRESH = "what is not committed is answered only by an instance that knows that it leads"
    WITHDRAWN = "no slot is lent to a withdrawn claim"
    FORBIDDEN = "what is forbidden changes nothing"
    QUOTA = "no source has more than its quota"
    REASON = "only what ends by itself with 0 has finished"
    FEED = "the feed is the journal, event by event"
    NOT_BEFORE = "no attempt starts before the time of its task"
    ONCE_A_SLOT = "each slot of a schedule is fired once, in order, and none is lost"
    CAUGHT_UP = "of the slots that a long stop missed as many are fired as the schedule wants, and none overlaps"
    PAUSED = "no task of a paused queue starts"
    HOLD = "no task that meets a hold in force starts, and a hold ends no sooner than it should"
    LIMIT = "no key of a limit has more than it may have"
    GANG = "the tasks of a gang begin in one commit or not at all, and end at its deadline, not before"
    BUDGET = "no attempt begins that a budget cannot pay, and its sums are those of the events"
    POOL = "who waits for a share of a pool is served in order, loses none without need, and a task runs with its share"
    DRAIN = "nothing starts on a node that is to become empty, and one that drained or was removed has nothing"
    AFTER = "a task begins when what it waits for has come about, not before, and it waits no longer"
    WAITED = "what a task waited for is what the events say, all of it"
    CANCELLED = "a task that was asked to end has ended 1 s after its grace"
    DECLARED = "an operation is refused only for a reason that it declares"
    NO_CRASH = "no callback raises"
    REPEATABLE = "a seed gives one run"


class Violation(AssertionError):
    """A promise was broken"""

    def __init__(self, promise: Promise, what: str) -> None:
        super().__init__(f"{promise.value}: {what}")
        self.promise = promise
