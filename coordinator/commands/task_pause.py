"""Commands that pause and resume tasks that wait."""

from __future__ import annotations

from coordinator.commands.command import Command, Example
from coordinator.commands.examples import PAYLOAD
from events.task import Payload


class PauseTask(Command[None], frozen=True, kw_only=True, gc=False):
    """Pause a pending task: no worker gets it until it is resumed."""

    KIND, VERB, REMEMBERED = "task", "pause", True
    REFUSALS = frozenset({"already_ended", "bad_text", "not_found", "not_pending"})
    EXAMPLE = Example({"task_id": "task_3", "reason": "the shop is closed"})

    task_id: str
    reason: str = ""


class ResumeTask(Command[None], frozen=True, kw_only=True, gc=False):
    """
    Resume a paused task, at choice with another payload, and with `more_retries` than it had.

    One that was paused because no retry was left is tried once at least, and then counts on: with `more_retries` of 2,
    it is tried twice before it is paused again. With `move_to` it goes on at workers with this build id, wherever it
    began; '' means at any, as by the route of its queue.
    """

    KIND, VERB, REMEMBERED = "task", "resume", True
    REFUSALS = frozenset({
        "already_ended", "bad_number", "bad_payload", "bad_text", "bad_version", "not_found", "not_paused",
        "payload_too_large", "queue_full", "unknown_version",
    })  # fmt: skip
    EXAMPLE = Example({"task_id": "task_3", "payload": PAYLOAD, "more_retries": 2, "reason": "it is open again"})

    task_id: str
    payload: Payload | None = None
    more_retries: int = 0
    reason: str = ""
    move_to: str | None = None
