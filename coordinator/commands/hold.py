"""Commands and questions about holds: conditions on tasks that keep them from the workers."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import HOLD
from projections.hold import Hold

HOLD_S_MAX = 3653 * 86_400.0
"""The longest time of a hold: ten years."""


class HoldView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A hold, and how many tasks it keeps that would be ready without it.

    A task that meets several holds is counted for the one of them that was placed first.
    """

    hold: Hold
    tasks: int = 0

    @property
    def hold_id(self) -> str:
        """The id of the hold."""
        return self.hold.hold_id


class HoldTasks(Command[str], frozen=True, kw_only=True, gc=False):
    """
    Give no pending task that meets the filter `where` to a worker, now or when it is submitted later.

    Those that run go on. With `queue` only tasks of this queue meet it. It ends when it is lifted, or after `for_s`
    seconds. The caller makes the id; the answer is this id. There are at most 100 holds.
    """

    KIND, VERB, REMEMBERED = "hold", "place", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_filter", "bad_number", "bad_text", "id_taken", "too_many", "unknown_queue"})
    EXAMPLE = Example(
        {
            "hold_id": "acme",
            "where": 'task_name == "report" && attributes.customer == "acme"',
            "reason": "acme asked for it",
        },
        "acme",
    )

    hold_id: str
    where: str
    queue: str = ""
    reason: str = ""
    for_s: float | None = None


class LiftHold(Command[None], frozen=True, kw_only=True, gc=False):
    """Lift a hold: its tasks that meet no other hold are given to workers again."""

    KIND, VERB, REMEMBERED = "hold", "lift", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "not_found"})
    EXAMPLE = Example({"hold_id": "acme", "reason": "they are ready"})

    hold_id: str
    reason: str = ""


class GetHold(Question[HoldView], frozen=True, kw_only=True, gc=False):
    """Get a hold in force, and how many tasks it keeps."""

    KIND, VERB = "hold", "get"
    REFUSALS = frozenset({"not_found"})
    EXAMPLE = Example({"hold_id": "acme"}, {"hold": HOLD})

    hold_id: str


class ListHolds(Question[list[HoldView]], frozen=True, kw_only=True, gc=False):
    """List the holds in force, by the order of placing. With `after`, the list begins after that hold."""

    KIND, VERB = "hold", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example({"limit": 10}, [{"hold": HOLD}])

    limit: int = 100
    after: str = ""
