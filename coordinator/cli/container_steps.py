"""What can be done next with a container, by its state: the command line, what it does, and what it would lose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.cli.output import moment
from events.container import ContainerStatus, ExitCause
from projections.container import Desired

if TYPE_CHECKING:
    from projections.container import Container

RESTART = "restart"
"""The reason of a stop that is the first half of a restart."""

_S = ContainerStatus
_ALL = "its output, its files and the sessions bound to it"
_EARLIER = "the output and the files of the start before the last one"


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing to do: `run` is a command line; `loses` is '' if nothing is lost."""

    run: str
    does: str
    loses: str = ""


def next_steps(container: Container) -> list[Step]:
    """Return what to do about a container that does not run, what helps most first; [] for one that runs."""
    match container.status:
        case _S.CREATED:
            return [_step(container, "start", "starts it for the first time"), _destroy(container)]
        case _S.STARTING:
            return [
                _step(container, "logs", "shows what it has written since its start"),
                _step(container, "stop", "gives this start up"),
            ]
        case _S.PAUSED:
            return [_step(container, "resume", "lets it go on where it was frozen")]
        case _S.STOPPING:
            verb = "destroy" if container.desired is Desired.DESTROYED else "stop"
            does = "kills it now, instead of waiting for its grace"
            return [_step(container, f"{verb} --force", does, "what it would save on SIGTERM")]
        case _S.STOPPED:
            unfinished = container.reason == RESTART
            does = "finishes its restart, which began with this stop" if unfinished else "starts it again"
            return [_step(container, "start", does, _EARLIER), _destroy(container)]
        case _S.ERROR:
            return _after_error(container)
        case _S.DESTROYED:
            run = f"coordinator container create {container.agent_type}"
            return [Step(run=run, does="creates another one of its type")]
        case _S.RUNNING:
            return []


def _after_error(container: Container) -> list[Step]:
    at = moment(container.restart_at)
    by_itself = f" instead of {at}" if at else ""
    steps = [
        # The generation that failed is the last one until the next start, and the one before it then.
        _step(container, "logs", "shows what it wrote before it failed"),
        _step(container, "start", f"starts it now{by_itself}, and counts its restarts from 0", _EARLIER),
        _step(container, "stop", "gives it up, and keeps its output and its files"),
        _destroy(container),
    ]
    if container.cause == ExitCause.OOM:
        more = f"coordinator container create {container.agent_type} --memory AMOUNT"
        steps.insert(0, Step(run=more, does="creates one with more memory, which this one ran out of"))
    return steps


def _destroy(container: Container) -> Step:
    return _step(container, "destroy", "removes it for good", _ALL)


def _step(container: Container, verb: str, does: str, loses: str = "") -> Step:
    name, _, option = verb.partition(" ")
    words = ["coordinator container", name, container.container_id, option]
    return Step(run=" ".join(filter(None, words)), does=does, loses=loses)
