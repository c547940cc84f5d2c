"""
Every command and every question, one file per kind, by its name on the wire and by its subject.

The type on the wire is made from the class name (`SubmitTask` → `submit_task`).
"""

from __future__ import annotations

import re

from coordinator.commands import (
    agents,
    budget,
    cancel_ladder,
    cluster,
    container,
    explain,
    hold,
    limit,
    node,
    pool,
    prices,
    queue,
    schedule,
    service,
    session,
    shadow,
    task,
    task_pause,
    version,
    worker,
)
from coordinator.commands.command import Command

KINDS = (
    *(
        task,
        cancel_ladder,
        explain,
        task_pause,
        queue,
        shadow,
        hold,
        limit,
        version,
        budget,
        prices,
        agents,
        schedule,
        worker,
        service,
        container,
        session,
        node,
        pool,
    ),
    cluster,
)


def command_type(command: type[Command]) -> str:
    """Return the type of a command on the wire: `SubmitTask` → `submit_task`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", command.__name__).lower()


COMMANDS: dict[str, type[Command]] = {
    command_type(found): found
    for kind in KINDS
    for found in vars(kind).values()
    if isinstance(found, type) and issubclass(found, Command) and found.KIND
}
"""Every command by its type on the wire."""

BY_SUBJECT: dict[tuple[str, str], type[Command]] = {(one.KIND, one.VERB): one for one in COMMANDS.values()}
"""Every command by the kind and verb of its subject."""
