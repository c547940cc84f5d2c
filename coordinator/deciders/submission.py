"""
What a submitted task carries, and whether a repeat says the same. Pure.

Everything that submits a task makes its event here: a command, a schedule, a requeue.
"""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.task import SubmitTask
from coordinator.commands.validation import AMOUNT_MAX, check_number, check_resources, check_text
from coordinator.deciders import dependencies
from coordinator.deciders.first_start import first_start
from coordinator.deciders.queue import PRIORITY_MOST, priority_of
from coordinator.deciders.retries import check_policy
from coordinator.deciders.spend import check_spend
from coordinator.deciders.time_limits import LEAST_S, MOST_S, checked_limits
from events.defaults import is_plain_from
from events.errors import NotFound, Refused, shown
from events.ids import checked
from events.resources import NONE
from events.task import TaskSubmitted
from projections.queue import name_of
from projections.task import checksum, content_of, digest_of
from projections.worker_filters import condition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.deciders.rules import DecisionContext, Rules
    from events.task import Payload, Prefer, Scalar
    from projections.task import EndedTask, KeyedTask, Task
    from projections.world import World

ATTRIBUTES_MAX = 16
ATTRIBUTES_BYTES_MAX = 1024
PREFER_MOST_S = 3600.0
_CONTENT = (
    "task_name", "task_type", "priority", "timeout_s", "max_retries", "resources", "idempotency_key", "queue",
    "fairness_key", "retry", "requeued_from", "after", "time_limits",
    "attributes", "worker_filter", "prefer", "pin_version", "spend", "request",
)  # fmt: skip
"""What the repeat of a submit must say again, besides the payload."""
_SHA256_DIGITS = 64
_checked_again = lru_cache(maxsize=1024)(checked)
"""For identifiers that come again and again."""


def submission(world: World, command: SubmitTask, context: DecisionContext) -> TaskSubmitted:
    """
    Return the event of a new task.

    Raises:
        Refused: the command is malformed.
    """
    rules, queue, priority = context.rules, command.queue, command.priority
    if queue:
        queue = name_of(checked(queue, "queue"))
    if isinstance(priority, str):
        known = world.tasks.get(command.task_id)
        priority = priority_of(world, queue, priority) if known is None else known.priority
    check_text("task_name", command.task_name, 128, least=1)
    if command.task_type:
        check_text("task_type", command.task_type, 128)
    if command.idempotency_key:
        check_text("idempotency_key", command.idempotency_key, 256)
    if command.program:
        _checked_again(command.program, "program")
    if priority:
        check_number("priority", priority, -PRIORITY_MOST, PRIORITY_MOST)
    if command.resources is not NONE:
        check_resources("resources", command.resources, may_name=True)
    check_payload("payload", command.payload, rules)
    if command.timeout_s is not None:
        check_number("timeout_s", command.timeout_s, LEAST_S, MOST_S)
    if command.max_retries is not None:
        check_number("max_retries", command.max_retries, 0, 1000)
    event = TaskSubmitted(
        task_id=command.task_id,
        task_name=command.task_name,
        task_type=command.task_type,
        priority=priority,
        timeout_s=command.timeout_s,
        max_retries=rules.max_retries if command.max_retries is None else command.max_retries,
        resources=command.resources,
        payload=command.payload,
        idempotency_key=command.idempotency_key,
        program=command.program,
        traced=bool(context.traceparent),
    )
    return event if _is_plain(command) else _with_rare(world, event, command, queue, context.now)


_is_plain = is_plain_from("queue", SubmitTask)
"""Whether it has none of the fields from there on; most have none."""


def _with_rare(world: World, event: TaskSubmitted, command: SubmitTask, queue: str, now: float) -> TaskSubmitted:
    if command.fairness_key:
        check_text("fairness_key", command.fairness_key, 128)
    _check_rare(command)
    return msgspec.structs.replace(
        event,
        queue=queue,
        fairness_key=command.fairness_key,
        retry=command.retry,
        requeued_from=command.requeued_from,
        after=command.after,
        not_before=first_start(command, now),
        delay_s=command.delay_s,
        time_limits=None if command.time_limits is None else checked_limits(command.time_limits),
        attributes=command.attributes,
        worker_filter=command.worker_filter,
        prefer=command.prefer,
        prefers_worker="" if command.prefer is None else _preferred(world, command.prefer),
        pin_version=command.pin_version,
        spend=command.spend,
        request=command.request,
    )


def _check_rare(command: SubmitTask) -> None:
    """Check the fields that few tasks have."""
    if command.retry is not None:
        check_policy(command.retry)
    if command.requeued_from:
        checked(command.requeued_from, "requeued_from")
    if command.attributes:
        check_attributes(command.attributes)
    if command.after is not None:
        dependencies.check_after(command.task_id, command.after)
    if command.worker_filter:
        _check_filter("worker_filter", command.worker_filter)
    if command.spend is not None:
        check_spend(command.spend)


def _check_filter(name: str, text: str) -> None:
    """
    Accept a filter over workers.

    Raises:
        Refused: it is no condition on workers; the message says where and why.
    """
    try:
        condition(text)
    except Refused as error:
        raise Refused(f"{name}: {error.message}", reason="bad_filter") from None


def _preferred(world: World, prefer: Prefer) -> str:
    """
    Return the worker that ran the task to stick to, '' if there is none.

    Raises:
        Refused: it is two preferences or none, or no condition on workers. NotFound: the task to stick to is not known.
    """
    if bool(prefer.filter) is bool(prefer.sticky_to):
        msg = f"prefer has filter {shown(prefer.filter)} and sticky_to {shown(prefer.sticky_to)}: give one of them"
        raise Refused(msg, reason="bad_filter")
    check_number("prefer.for_s", prefer.for_s, 0.0, PREFER_MOST_S)
    if prefer.filter:
        _check_filter("prefer.filter", prefer.filter)
        return ""
    if not world.knows_task(checked(prefer.sticky_to, "prefer.sticky_to")):
        msg = f"prefer.sticky_to names {prefer.sticky_to!r}, a task that does not exist: submit it first"
        raise NotFound(msg, reason="unknown_predecessor")
    return dependencies.ran_on(world, prefer.sticky_to)


def same_key(world: World, keyed: KeyedTask, command: SubmitTask, event: TaskSubmitted) -> None:
    """Accept a repeat of the command that first used the idempotency key, even if its task was evicted."""
    taken = f"idempotency_key {command.idempotency_key!r}"
    if keyed.task_id in world.tasks:
        same_task(world.tasks[keyed.task_id], command, event, taken)
    elif keyed.payload != checksum(digest_of(event.payload)):
        msg = f"{taken} is already used by a task with another payload: use a new one"
        raise Refused(msg, reason="id_taken")


def same_content(ended: EndedTask, command: SubmitTask, event: TaskSubmitted) -> None:
    """Accept a repeat of the command that submitted a task which ended and was evicted."""
    other_retries = command.max_retries is not None and event.max_retries != ended.max_retries
    if other_retries or ended.content != content_of(event, digest_of(event.payload)):
        msg = f"task_id {command.task_id!r} is already used by an ended task with another content: use a new one"
        raise Refused(msg, reason="id_taken")


def same_task(task: Task, command: SubmitTask, event: TaskSubmitted, taken: str) -> None:
    """Accept a repeat of the command that submitted *task*; an ended task keeps only the digest of its payload."""
    differs = [name for name in _CONTENT if getattr(task, name) != getattr(event, name)]
    if task.not_before is not None or event.not_before is not None:
        name = "not_before" if task.delay_s is None and event.delay_s is None else "delay_s"
        differs += [name] if getattr(task, name) != getattr(event, name) else []
    if command.max_retries is None and "max_retries" in differs:
        differs.remove("max_retries")  # a command that leaves it to the settings does not ask for another number
    if task.payload_digest != digest_of(event.payload):
        differs.append("payload")
    if differs:
        msg = f"{taken} is already used by a task with another {', '.join(differs)}: use a new one"
        raise Refused(msg, reason="id_taken")


def check_attributes(attributes: Mapping[str, Scalar]) -> None:
    """
    Accept the attributes of a task.

    Raises:
        Refused: they are too many or too long, or a name or a value is none.
    """
    size = check_scalars("attributes", attributes, ATTRIBUTES_MAX, ATTRIBUTES_BYTES_MAX)
    if size > ATTRIBUTES_BYTES_MAX:
        msg = f"attributes has {size} bytes: use at most {ATTRIBUTES_BYTES_MAX}; put more into the payload"
        raise Refused(msg, reason="bad_attributes")


def check_scalars(what: str, given: Mapping[str, Scalar], most: int, text_most: int) -> int:
    """
    Accept names with a text, a number or a truth value each, and return their size in bytes.

    Raises:
        Refused: they are too many, or a name or a value is none.
    """
    if len(given) > most:
        msg = f"{what} has {len(given)} names: use at most {most}"
        raise Refused(msg, reason="too_many")
    size = 0
    for name, value in given.items():
        if not (name.isidentifier() and name.isascii()):
            msg = f"{what}: {shown(name)} is not a name: use letters, digits and _, and no digit first"
            raise Refused(msg, reason="bad_text")
        if isinstance(value, str):
            check_text(f"{what}.{name}", value, text_most)
        elif not isfinite(value) or abs(value) > AMOUNT_MAX:
            check_number(f"{what}.{name}", value, -AMOUNT_MAX, AMOUNT_MAX)
        size += len(name.encode()) + len(str(value).encode(errors="replace"))
    return size


def check_payload(name: str, payload: Payload | None, rules: Rules) -> None:
    """
    Accept a payload that may be stored inline in the journal.

    Raises:
        Refused: it is too large or elsewhere, its encoding is unknown, or its digest is not a SHA-256 digest.
    """
    if payload is None:
        return
    if payload.encoding not in ("json", "text", "base64"):
        msg = f"{name}.encoding {payload.encoding[:40]!r} is not known: use json, text or base64"
        raise Refused(msg, reason="bad_payload")
    size = len(payload.data) if payload.data.isascii() else len(payload.data.encode(errors="replace"))
    if size > rules.payload_bytes_max:
        msg = (
            f"{name} has {size} bytes: use at most {rules.payload_bytes_max}; store more elsewhere and pass its address"
        )
        raise Refused(msg, reason="payload_too_large")
    if not _is_sha256(payload.digest):
        msg = f"{name}.digest {payload.digest[:80]!r} is not a SHA-256 digest: use 64 hexadecimal digits"
        raise Refused(msg, reason="bad_payload")
    if payload.ref:
        # It is part of the contract, but there is no object store yet: whoever got the task could not read it.
        msg = f"{name}.ref {shown(payload.ref)} has no effect yet: send the data itself, or its address as the data"
        raise Refused(msg, reason="bad_payload")


def _is_sha256(digest: str) -> bool:
    """Return whether these are 64 hexadecimal digits; a pattern takes four times as long to say so."""
    try:
        # `fromhex` allows spaces; of this length there is no room for any.
        return len(digest) == _SHA256_DIGITS and len(bytes.fromhex(digest)) == _SHA256_DIGITS // 2
    except ValueError:
        return False
