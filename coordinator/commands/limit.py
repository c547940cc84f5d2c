"""Commands and questions about limits: how many tasks with something in common may run, start and wait."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import LIMIT
from events.limit import Terms
from projections.limit import Limit

KEYS_SHOWN = 100


class KeyView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    One key of a limit: what its tasks have in common, how many of them run and are pending, and how many may start now.

    `may_start` is null where nothing limits it. `opens_in_s` is when time alone gives it room again, in seconds.
    """

    value: str
    running: int = 0
    pending: int = 0
    may_start: int | None = None
    opens_in_s: float | None = None


class LimitView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A limit, and the keys that it limits now."""

    limit: Limit
    running: int = 0
    pending: int = 0
    keys: list[KeyView] = []
    """Those with tasks that have not ended, at most 100, those with most tasks first."""


class DefineLimit(Command[Limit], frozen=True, kw_only=True, gc=False):
    """
    Create a limit, or replace its terms; tasks that are pending or running already are counted by it, too.

    An amount is refused that is above that of its `parent`, or of the settings. With `cancel_running`, a task that is
    submitted while its key is busy cancels the oldest that run until it may start, and takes the place of those that
    wait, as with `replace_waiting`: at most 100 of them.
    """

    KIND, VERB = "limit", "define"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_filter", "bad_limit", "bad_number", "bad_text", "too_many"})
    EXAMPLE = Example(
        {"limit_id": "per_customer", "terms": {"by": "attributes.customer", "running": 2}, "reason": "fair use"}, LIMIT
    )

    limit_id: str
    terms: Terms
    reason: str = ""


class DeleteLimit(Command[None], frozen=True, kw_only=True, gc=False):
    """Delete a limit; deleting one that does not exist changes nothing."""

    KIND, VERB = "limit", "delete"
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "limit_in_use"})
    EXAMPLE = Example({"limit_id": "unused"})

    limit_id: str
    reason: str = ""


class GetLimit(Question[LimitView], frozen=True, kw_only=True, gc=False):
    """Get one limit with its busiest keys."""

    KIND, VERB = "limit", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"limit_id": "per_customer"}, {"limit": LIMIT})

    limit_id: str


class ListLimits(Question[list[LimitView]], frozen=True, kw_only=True, gc=False):
    """List the limits by name, without their keys. With `after`, the list begins after that name."""

    KIND, VERB = "limit", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [{"limit": LIMIT}])

    limit: int = 100
    after: str = ""
