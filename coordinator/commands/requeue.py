"""How a task that failed is done again: as a new task with the same content, whose id follows from the old one's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

from coordinator.commands.task import SubmitTask

if TYPE_CHECKING:
    from events.task import TaskSubmitted

_ID_CHARS_MAX = 64
_BASE_CHARS = 46
_NOT_REPEATED = frozenset({
    "task_id", "idempotency_key", "requeued_from", "after", "not_before", "delay_s", "request", "gang",
})  # fmt: skip
_numbered = re.compile(r"(.+)-r([0-9]{1,6})").fullmatch
_COPIED = tuple(name for name in SubmitTask.__struct_fields__ if name not in _NOT_REPEATED)


def requeued_id(task_id: str, requeued_from: str = "") -> str:
    """
    Return the id of the task that does *task_id* again: `<id>-r1`, and `<id>-r2` for the one that does that again.

    It follows from its arguments, so a repeat makes no second task. Of an id that would be too long, the beginning and
    a check sum stay.
    """
    base, number = task_id, 1
    if requeued_from and (match := _numbered(task_id)):
        base, number = match[1], int(match[2]) + 1
    made = f"{base}-r{number}"
    if len(made) > _ID_CHARS_MAX:
        made = f"{base[:_BASE_CHARS]}-{crc32(base.encode()):08x}-r{number}"
    return made


def submission_again(event: TaskSubmitted, *, has_begun: bool = True) -> SubmitTask:
    """
    Return the command that submits the content of *event* again; without its idempotency key, which is taken.

    A task that has not begun, since its gang did not, waits for the others of the gang again.
    """
    content = {name: value for name in _COPIED if (value := getattr(event, name, None)) is not None}
    if event.prefer is not None and event.prefer.sticky_to:
        del content["prefer"]  # what it stuck to may be forgotten by now
    task_id = requeued_id(event.task_id, event.requeued_from)
    gang = None if has_begun else event.gang
    return SubmitTask(**content, task_id=task_id, requeued_from=event.task_id, gang=gang)
