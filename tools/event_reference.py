# ruff: noqa: INP001  # a folder of programs, not a package
"""
Write docs/events.md, docs/states.md and docs/reasons.md from the code: `python -m tools.event_reference`.

With `--check` it only compares.

Fields, types and defaults come from `events.codec.EVENTS`, the examples from the golden files, the diagrams from the
LEGAL tables, and the event of each transition from the reducers. Only the text about when an event is recorded is
written here, in RECORDED. It writes no other file.
"""

from __future__ import annotations

import json
import sys
import typing
from enum import Enum
from itertools import product
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from events import codec
from events.base import Event, Position, type_of
from events.errors import Corrupt
from events.reasons import REASONS
from events.service import ServiceRegistered, ServiceStatus
from projections import container, node, service, task, worker
from projections.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/golden/events"

RECORDED: dict[str, str] = {
    "container.created": "when `create_container` finds a node with room. With a session id, `session.bound` follows.",
    "container.starting": "when `start_container` is called on a container that is not running, or the restart delay "
    "of a failed one is over (`reason` is then `restart`), or it has stopped to be moved (`moved`).",
    "container.started": "when the node agent first reports the generation as running.",
    "container.pausing": "when `pause_container` is called on a running container.",
    "container.paused": "when the node agent reports the container as paused.",
    "container.resuming": "when `resume_container` is called on a container that is paused or pausing.",
    "container.resumed": "when the node agent reports the paused container as running again.",
    "container.stopping": "when `stop_container` or `destroy_container` is called on a running container; again "
    "when a stop in progress is forced or becomes a removal. With `move`, when its node drains.",
    "container.stopped": "when the node agent reports the requested stop, or an exit by itself with code 0; also "
    "when `stop_container` cancels the restart of a failed container.",
    "container.failed": "when it ends in any other way than by itself with code 0, cannot be launched, is not running "
    "within `container.start_timeout_s`, its node no longer has it, or its node is lost. With the causes `requested`, "
    "`cut_off` and `superseded` it is not counted as a failure, and `restart_at` is now.",
    "container.destroyed": "when `destroy_container` is called on a container that is not running, or the node agent "
    "reports a requested removal as done. Sessions it served are closed in the same commit.",
    "service.registered": "when `register_service` has a new id, changed facts, or the id of an offline service.",
    "service.deregistered": "when `deregister_service` is called, or the service was OFFLINE for longer than "
    "`registry.deregister_after_s`.",
    "service.health_changed": "when there is no heartbeat for longer than `registry.heartbeat_timeout`, heartbeats "
    "return, or checks agree: the first one, later `registry.check_rise` or `registry.check_fall` in a row.",
    "service.heartbeat": "not in the journal: the instance publishes it on the heartbeat stream.",
    "task.submitted": "when `submit_task` is accepted and is not a repeat.",
    "task.unblocked": "when the end of a task decides that one which waits for it may begin.",
    "task.started": "when a waiting claim gets the task; also, together with the event that ends it, when a result "
    "is reported for a task that is not claimed (lease `direct.<attempt>`).",
    "task.progressed": "when the lease holder reports progress that differs from the last one.",
    "task.completed": "when the lease holder reports success, or anyone does for a task that is not claimed.",
    "task.attempt_failed": "when an attempt fails while retries are left, its lease expires, or it is released.",
    "task.failed": "when an attempt fails and no retry is left, or the report says not to retry.",
    "task.paused": "when `pause_task` is called on a pending task, or an attempt fails, no retry is left, and the "
    "retry policy of the task says `pause`.",
    "task.resumed": "when `resume_task` is called on a paused task.",
    "task.cancelled": "when `cancel_task` is called on a task that waits or has no grace; else when the attempt ends "
    "after it was asked to, at most 1 s after its grace; also when the tasks that it waits for cannot end so any more.",
    "task.cancel_asked": "when `cancel_task` is called on a running task, and again when it makes the time shorter.",
    "task.cancel_told": "when the worker reports that it told the handler; once for each attempt.",
    "task.cancel_forced": "when the worker reports how it forces the end after the grace, or the coordinator stops the "
    "container.",
    "task.extended": "when the lease holder asks for more time than the task's `timeout_s`.",
    "task.timed_out": "when a task has exceeded its `timeout_s`, `start_within_s` or `finish_within_s`.",
    "task.report_refused": "when a report names a lease that is not held; once for consecutive reports of one lease.",
    "worker.registered": "when `register_worker` has something new, or a claim comes from a worker id that is unknown, "
    "lost or has left.",
    "worker.draining": "when `drain_worker` is called on an active worker; the SDK does so when it stops.",
    "worker.left": "when `leave_worker` is called; the tasks it still held are released in the same commit.",
    "worker.lost": "when a worker without tasks has sent no heartbeat for longer than `scheduler.worker_timeout_s`.",
    "worker.heartbeat": "not in the journal: the worker publishes it on the heartbeat stream.",
    "node.registered": "when a node agent registers with a new id, or a changed capacity, runtime or label.",
    "node.cordoned": "when `cordon_node` is called.",
    "node.uncordoned": "when `uncordon_node` is called on a cordoned node.",
    "node.draining": "when `drain_node` is called.",
    "node.drained": "when nothing runs any more on a node that drains.",
    "node.removing": "when `remove_node` is called with `force` on a node that has containers.",
    "node.lost": "when the agent has not synced for 1.5 × `node.node_lease_s`.",
    "node.returned": "when the agent of a lost node registers or syncs again.",
    "node.removed": "when `remove_node` is called on a node without containers, one to be removed by force is lost, or "
    "one was lost for longer than `registry.deregister_after_s`.",
    "node.heartbeat": "never, and not sent by the agent of this release: its sync is its sign of life.",
    "pool.defined": "when the capacity of a pool is set or changed.",
    "queue.routed": "when `route_queue` names other versions than before.",
    "version.retired": "when `retire_version` names a version that is not retired, or another `move_to`.",
    "version.reinstated": "when `reinstate_version` names a version that is retired.",
    "budget.defined": "when `define_budget` names a new budget or other terms.",
    "budget.corrected": "when `correct_budget` is called with an amount other than 0.",
    "budget.removed": "when `remove_budget` is called on a budget that exists.",
    "agents.changed": "when an operator replaced the catalogue, or the first leader wrote down that of its settings.",
    "prices.set": "when `set_prices` is called with a new version of the price table.",
    "pool.requested": "when a request that may wait does not fit.",
    "pool.allocated": "when a request fits and is granted, at once or after it waited.",
    "pool.bound": "when a task is submitted that names a request.",
    "pool.moved": "when `move_share` puts a share into another part.",
    "pool.released": "when the resources of a request are released, or its owner has ended.",
    "pool.preempted": "when a request with a higher priority takes the share.",
    "pool.withdrawn": "when a request that waits is released, times out, or its owner has ended.",
    "limit.defined": "when `define_limit` names a new limit or other terms.",
    "limit.deleted": "when `delete_limit` is called on a limit that is the parent of none.",
    "queue.defined": "when `define_queue` names a new queue or another weight.",
    "queue.policy_set": "when `set_policy` says another policy; also in the first commit of a reign whose settings do, "
    "unless the policy came by a command.",
    "queue.policy_failed": "in the commit of the turn in which the custom policy gave no answer that could be used.",
    "queue.shadow_set": "when `set_shadow` names another candidate or other bounds than before, or none any more.",
    "queue.shadow_reported": "when `report_shadow` goes on where the last report of the candidate ended.",
    "queue.promoted": "when `promote_policy` is called while the regret of the candidate is not above its bound.",
    "queue.rolled_back": "when `roll_back_policy` is called on a queue whose policy was promoted.",
    "queue.paused": "when `pause_queue` is called on a queue that is not paused, or with another reason.",
    "queue.blocked": "when a look at what waits, every `engine.tick_s`, finds another reason than was recorded; and "
    "every 10 s while it lasts.",
    "queue.resumed": "when `resume_queue` is called on a paused queue.",
    "hold.placed": "when `hold_tasks` names a new hold.",
    "hold.lifted": "when `lift_hold` is called on a hold in force.",
    "hold.expired": "when the time of a hold is over.",
    "queue.deleted": "when `delete_queue` is called on a queue without tasks that have not ended.",
    "idempotency.forgotten": "when `engine.remembered_max` is reached: the oldest keys of the tenant with the most.",
    "schedule.defined": "when a schedule is created or changed.",
    "schedule.fired": "when the task of a slot is submitted.",
    "schedule.queued": "when a slot is due and the task before it has not ended, with `overlap` queue.",
    "schedule.skipped": "when slots are left out.",
    "schedule.paused": "when a schedule is paused.",
    "schedule.resumed": "when a paused schedule is resumed.",
    "schedule.deleted": "when a schedule is deleted.",
    "session.bound": "when `bind_session` names a different container, or a container is created for the session.",
    "session.closed": "when `close_session` is called, or the container that served the session is destroyed.",
    "inbox.recorded": "when an event of a kind that is not the coordinator's own is read from the domain's inbox.",
    "inbox.refused": "when a message of the inbox cannot be read, is not a known command, or is refused.",
    "inbox.read": "last in the commit of each turn that read messages of that inbox.",
    "inbox.gap": "when messages of the inbox were deleted before they were read, or its stream was created again.",
    "coordinator.started": "first in the first commit of each reign.",
    "coordinator.stopped": "last in the last commit of a reign that ended cleanly.",
    "coordinator.mass_silence_noticed": "when more than `registry.mass_silence_share` of the active members of a kind, "
    "and at least `registry.mass_silence_least`, are silent when the first of them is overdue.",
    "coordinator.mass_silence_ended": "when the silent share is at or below that limit, or `accept_silence` is called.",
    "coordinator.command_refused": "in the commit before the answer, when a command is forbidden, exceeds a quota or "
    "another limit, or is a refused claim; later ones of the same source and reason are counted for 10 s.",
    "coordinator.placement_refused": "when `create_container` or `start_container` finds no node with room, limited in "
    "the same way; once for each failure of a container whose restart finds none.",
    "coordinator.turn": "with every turn that places tasks, after the `task.started` events of that turn.",
}

_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_at": "seconds since 1970", "_bytes": "bytes"}
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", msgspec.Raw: "any JSON"}


def render_events() -> str:
    """Return the event reference."""
    lines = [_EVENTS_HEAD.format(count=len(codec.EVENTS), envelope=_pretty(_golden("task.submitted")))]
    kinds = list(dict.fromkeys(name.partition(".")[0] for name in codec.EVENTS))
    lines += [f"- [{kind}](#{kind}): {_links(kind)}" for kind in kinds]
    values: dict[str, type[msgspec.Struct]] = {}
    for kind in kinds:
        events = {name: event for name, event in codec.EVENTS.items() if name.startswith(f"{kind}.")}
        module = sys.modules[next(iter(events.values())).__module__]
        lines += ["", f"## {kind}", "", str(module.__doc__).strip()]
        for name, event in events.items():
            lines += _event(name, event, values)
    lines += ["", "## Values inside events"]
    done: set[str] = set()
    while left := [name for name in sorted(values) if name not in done]:
        done.add(left[0])
        lines += ["", f"### {left[0]}", "", _prose(values[left[0]]), "", *_table(values[left[0]], values)]
    return "\n".join(lines) + "\n"


def _event(name: str, event: type[Event], values: dict[str, type[msgspec.Struct]]) -> Iterator[str]:
    yield from ("", f"### {name}", "", _prose(event), "", f"Recorded {RECORDED[name]}", "")
    yield from _table(event, values)
    yield from ("", f"Version {event.VERSION}; about `{event.SUBJECT}`.", "", "```json")
    yield from (_pretty(_golden(name)["data"]), "```")


def _links(kind: str) -> str:
    names = [name for name in codec.EVENTS if name.startswith(f"{kind}.")]
    return " · ".join(f"[{name.partition('.')[2]}](#{name.replace('.', '')})" for name in names)


def _prose(value: type) -> str:
    """Return a docstring with each paragraph on one line."""
    paragraphs = str(value.__doc__).strip().split("\n\n")
    return "\n\n".join(" ".join(line.strip() for line in one.splitlines()) for one in paragraphs)


def _table(value: type[msgspec.Struct], values: dict[str, type[msgspec.Struct]]) -> Iterator[str]:
    yield "| field | type | default |"
    yield "| --- | --- | --- |"
    hints = typing.get_type_hints(value)
    for field in msgspec.structs.fields(value):
        unit = next((unit for ending, unit in _UNITS.items() if field.name.endswith(ending)), "")
        written = _type(hints[field.name], values) + (f", {unit}" if unit else "")
        yield f"| `{field.name}` | {written} | {_default(field)} |"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    made = field.default_factory
    value = field.default if made is msgspec.NODEFAULT else made()
    return f"`{msgspec.json.encode(value).decode()}`"


def _type(hint: Any, values: dict[str, type[msgspec.Struct]]) -> str:
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is UnionType or origin is typing.Union:
        kinds = [_type(one, values) for one in of if one is not NoneType]
        return " or ".join([*kinds, *(["null"] if NoneType in of else [])])
    if origin is tuple:
        return f"list of {_type(of[0], values)}"
    if origin is dict:
        return f"object of {_type(of[1], values)}"
    if issubclass(hint, Enum):
        return " ".join(f"`{one.value}`" for one in hint)
    values[hint.__name__] = hint
    link = f"[{hint.__name__}](#{hint.__name__.lower()})"
    return f"{link}, written as an array" if hint.__struct_config__.array_like else link


def _golden(name: str) -> dict[str, Any]:
    path = GOLDEN / f"{name}.v{codec.EVENTS[name].VERSION}.json"
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _pretty(value: object) -> str:
    """Format JSON on one line if it is short, else one line for each key."""
    short = json.dumps(value, ensure_ascii=False)
    if len(short) <= 110 or not isinstance(value, dict):  # noqa: PLR2004  # characters in a line of the page
        return short
    inner = [f"  {json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in value.items()]
    return "{\n" + ",\n".join(inner) + "\n}"


_EVENTS_HEAD = """\
# Events

<!-- Written by `python -m tools.event_reference` from the code and the golden files; do not edit. -->

All {count} event types of this release. An event is a fact: it is never changed, and every version ever written stays
readable. In the journal and on the heartbeat stream it is a [CloudEvent 1.0](https://cloudevents.io) in JSON:

```json
{envelope}
```

| attribute | description |
| --- | --- |
| `id` | position: `<journal sequence>.<index in the commit>`; any text for a heartbeat |
| `type`, `dataversion` | the event's type and the version of its `data` |
| `source` | `/coordination/<generation>`; a restore from a backup raises the generation |
| `subject` | id of the thing the event is about, the same as in `data` |
| `time` | commit time, RFC 3339 in UTC, the same for all events of a commit; it never goes back |
| `tenant` | tenant of the thing the event is about: of the command that created or registered it; else of the command |
| `actor` | sender of the command, `coordinator` if none; it comes from the subject |
| `commandid` | id of the command, for commands that are deduplicated by it |
| `causationid` | id of the event that caused this one; none if only a command did |
| `traceparent` | W3C trace context, likewise |

The cause of an event is the event before it about the same thing, or the one about another thing that led to it, such
as the end of its container. So `causationid` leads from an effect back to the event of the command whose `actor` began
it.

Attributes without a value are omitted. A missing field of `data` has its default. Readers must ignore unknown fields
and accept unknown types. Ids are 1 to 64 characters of `A-Z a-z 0-9 _ -`. The examples are the golden files: every
field has a value other than its default. Which event leads to which state: [states](states.md).
"""


# --- states -----------------------------------------------------------------------------------------------------------


class Machine(NamedTuple):
    """One kind with a table of legal transitions."""

    kind: str
    legal: dict[Any, frozenset[Any]]
    evolve: Callable[[Any, Any, Stamp], Any]
    about: str


MACHINES = (
    Machine(
        "container",
        container.LEGAL,
        container.evolve,
        "`container.pausing` and `container.resuming` change only the desired state. A container holds its resources "
        f"on its node while it is {', '.join(sorted(one.name for one in container.HOLDING))}.",
    ),
    Machine(
        "service",
        service.LEGAL,
        service.evolve,
        "Health may change from any status to any other; the event has the reason.",
    ),
    Machine("task", task.LEGAL, task.evolve, "Each start is an attempt under a lease. Exactly one event ends a task."),
    Machine("worker", worker.LEGAL, worker.evolve, "A worker that is lost or has left returns by registering."),
    Machine("node", node.LEGAL, node.evolve, "A cordoned node that is lost returns as cordoned."),
)

OFFERED = frozenset({ServiceStatus.HEALTHY, ServiceStatus.UNKNOWN})
"""Statuses that a registration can have; the event type allows more."""

_BEGIN = _END = "[*]"
_STAMP = Stamp(Position(1, 0), 1.0)


def render_states() -> str:
    """Return the state diagrams."""
    lines = [_STATES_HEAD]
    for machine in MACHINES:
        lines += ["", f"## {machine.kind}", "", machine.about, "", "```mermaid", "stateDiagram-v2"]
        for (before, after), names in _steps(machine).items():
            lines.append(f"    {before} --> {after}" + (f": {', '.join(names)}" if names else ""))
        lines += ["```"]
    return "\n".join(lines) + "\n"


def _steps(machine: Machine) -> dict[tuple[str, str], list[str]]:
    """Return every legal transition with the events that cause it in a reachable state."""
    names = [name for name in codec.EVENTS if name.startswith(f"{machine.kind}.") and name not in codec.HEARTBEATS]
    events = [event for name in names for event in _variants(_example(name)) if _is_recorded(event)]
    taken: dict[tuple[str, str], list[str]] = {}
    waiting, seen = [None], set[object]()
    while waiting:
        state: Any = waiting.pop()
        for event in events:
            after = _after(machine, state, event)
            if after is None:
                continue
            by = taken.setdefault((_BEGIN if state is None else state.status.name, after.status.name), [])
            by.append(type_of(type(event)).partition(".")[2])
            marks = (getattr(after, name) for name in after.__struct_fields__ if _has_choices(after, name))
            mark = (*marks, after.is_ended, bool(getattr(after, "waiting_for", ())))
            if mark not in seen:
                seen.add(mark)
                waiting.append(after)
    steps = [step for step in taken if step[0] == _BEGIN]
    order = _ordered(machine.legal)
    steps += [(before.name, after.name) for before in order for after in _ordered(machine.legal[before])]
    ends = [(status.name, _END) for status in order if not machine.legal[status]]
    return {step: sorted(set(taken.get(step, ()))) for step in (*steps, *ends)}


def _example(name: str) -> Event:
    return codec.decode(codec.join([json.dumps(_golden(name)).encode()]))[0].data


def _has_choices(value: Any, name: str) -> bool:
    """Return True if a field has few values and affects the possible transitions."""
    return isinstance(getattr(value, name), Enum | bool) or name == "attempt"


def _variants(event: Event) -> Iterator[Event]:
    """Yield *event* with every combination of values of the fields that have few."""
    choices: dict[str, list[Any]] = {}
    for name in event.__struct_fields__:
        held = getattr(event, name)
        if _has_choices(event, name):
            choices[name] = [*type(held)] if isinstance(held, Enum) else [False, True] if held is True else [1, 2]
    for chosen in product(*choices.values()):
        yield msgspec.structs.replace(event, **dict(zip(choices, chosen, strict=True)))


def _is_recorded(event: Event) -> bool:
    return not isinstance(event, ServiceRegistered) or event.status in OFFERED


def _after(machine: Machine, state: Any, event: Event) -> Any:
    """Fold one event; return None if it is illegal in this state."""
    try:
        return machine.evolve(state, event, _STAMP)
    except Corrupt:
        return None


def _ordered(statuses: Collection[Enum]) -> list[Enum]:
    """Return statuses in the order of their enum; the order of a set is not stable."""
    return [one for kind in {type(status) for status in statuses} for one in kind if one in statuses]


_STATES_HEAD = """\
# States

<!-- Written by `python -m tools.event_reference` from the LEGAL tables and the reducers; do not edit. -->

The transitions that the reducers in `projections/` allow, with the [events](events.md) that cause them. An event that
would cause any other transition makes the journal `Corrupt`. Pools have no states; a session is bound until closed."""


# --- writing ----------------------------------------------------------------------------------------------------------


def render_reasons() -> str:
    """Return the table of reason codes."""
    rows = "".join(f"| `{code}` | {meaning} |\n" for code, meaning in sorted(REASONS.items()))
    return f"{_REASONS_HEAD}\n| reason | meaning |\n| --- | --- |\n{rows}"


_REASONS_HEAD = """\
# Reasons

<!-- Written by `python -m tools.event_reference` from events/reasons.py; do not edit. -->

The `reason` of an [error](protocol.md#commands-and-questions) says what exactly was wrong, within its `code`; an error
without a more exact reason has its code as reason. The `reason` of an [event](events.md) is one of these, or the text
that an operator, a program or a runtime gave. A reason is never renamed or given another meaning.
"""

PAGES: dict[str, Callable[[], str]] = {
    "docs/events.md": render_events,
    "docs/states.md": render_states,
    "docs/reasons.md": render_reasons,
}


def outdated() -> list[str]:
    """Return the pages that are out of date."""
    return [
        page for page, render in PAGES.items() if not (ROOT / page).is_file() or (ROOT / page).read_text() != render()
    ]


def main(argv: list[str]) -> int:
    """Write the pages, or with `--check` only report which are out of date."""
    stale = outdated()
    if "--check" in argv:
        sys.stdout.writelines(f"{page} is out of date: run python -m tools.event_reference\n" for page in stale)
        return 1 if stale else 0
    for page in stale:
        (ROOT / page).write_text(PAGES[page]())
        sys.stdout.write(f"wrote {page}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
