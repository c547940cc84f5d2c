"""
Events about versions of workers, which their build ids name: one that is retired runs no more tasks.

Which version new tasks of a queue begin on is an event of the queue, see `queue.routed`.
"""

from __future__ import annotations

from events.base import Event


class VersionEvent(Event, frozen=True, kw_only=True, gc=False):
    """An event about one version."""

    SUBJECT = "build_id"

    build_id: str


class VersionRetired(VersionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """
    From here on no task starts at a worker with this build id; attempts that run go on.

    The tasks that began on it go on at workers with the build id `move_to`; if that is '', as tasks do that have not
    begun.
    """

    move_to: str = ""
    reason: str = ""


class VersionReinstated(VersionEvent, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The version is not retired any more: tasks that began on it, and have not ended, go on at its workers again."""

    reason: str = ""
