"""Commands and questions about versions of workers, which their build ids name."""

from __future__ import annotations

import msgspec

from coordinator.commands.command import PAGES, Command, Example, Question
from coordinator.commands.examples import VERSION
from projections.version import Version


class VersionView(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    A version: its workers that are registered, and how many of them are heard; '' are the workers without a build id.

    `running` attempts run at its workers; `pending` tasks began on it and wait to go on. `current_in` are the queues
    whose tasks begin on it, `ramping_in` those of which a share does, in per cent.
    """

    build_id: str
    workers: int = 0
    heard: int = 0
    running: int = 0
    pending: int = 0
    current_in: list[str] = []
    ramping_in: dict[str, float] = {}
    retired: Version | None = None


class RetireVersion(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Start no more tasks at the workers with a build id; attempts that run go on.

    The tasks that began on it go on at workers with the build id `move_to`; without one, as tasks do that have not
    begun: where the route of their queue says, or anywhere. It is refused while a queue is routed to it, or if no
    worker that is registered has the build id `move_to`, unless `without_workers` is true.
    """

    KIND, VERB, REMEMBERED = "version", "retire", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text", "bad_version", "too_many", "unknown_version", "version_in_use"})
    EXAMPLE = Example({"build_id": "b1", "move_to": "b2", "reason": "it loses letters"})

    build_id: str
    move_to: str = ""
    without_workers: bool = False
    reason: str = ""


class ReinstateVersion(Command[None], frozen=True, kw_only=True, gc=False):
    """Let the workers of a retired version have tasks again, first those that began on it and have not ended."""

    KIND, VERB, REMEMBERED = "version", "reinstate", True
    FOR = frozenset()
    REFUSALS = frozenset({"bad_text"})
    EXAMPLE = Example({"build_id": "b1", "reason": "it was not the letters"})

    build_id: str
    reason: str = ""


class ListVersions(Question[list[VersionView]], frozen=True, kw_only=True, gc=False):
    """List the versions that workers have, tasks began on, or queues are routed to, and those that are retired."""

    KIND, VERB = "version", "list"
    INSTEAD = PAGES
    REFUSALS = frozenset({"bad_cursor", "bad_number"})
    EXAMPLE = Example(
        {"limit": 10},
        [
            {"build_id": "b1", "workers": 1, "heard": 1, "retired": VERSION},
            {"build_id": "b2", "workers": 1, "heard": 1},
        ],
    )

    limit: int = 100
    after: str = ""
