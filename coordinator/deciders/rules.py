"""
The limits and times of decisions and of the engine, as values; settings take their defaults from here.

Deciders and the engine never read a settings file. `Limits` of the engine are here because settings, which are on the
engine's own floor, must not import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from events.agents import AgentType
from events.base import Event
from events.errors import NotFound, Refused, Unavailable, shown
from events.resources import NONE, Resources
from projections.indexes import Owned
from projections.service import Service
from projections.worker import WorkerState
from projections.world import World

Thing = TypeVar("Thing")

BEATS_A_LEASE = 3.0
"""Workers send this many heartbeats per lease duration."""
BEATS_MISSED = 2.0
"""A worker counts as present if it was heard within this many heartbeat intervals."""

ANSWER_BYTES = 1024 * 1024
"""The most bytes of an answer within this process, if it is made as long as fits; a server's max_payload by default."""

ENDED_SPARE = 20_000
"""So many ended things of one kind a source may have in memory besides `ended_kept`: 30 a second for ten minutes."""

Events = tuple[Event, ...]


BUILT_IN = {"task_agent": AgentType(command=("python", "-m", "coordinator.agent"))}
"""The agent types without any settings."""


class TaskRule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    Which tasks some users may submit, and the agents and nodes that run them; a pattern has `*` for any text.

    Without `agent_types` and `nodes` every worker runs them; with both, a worker must meet both.
    """

    name: str
    users: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ("*",)
    task_names: tuple[str, ...] = ("*",)
    queues: tuple[str, ...] = ("*",)
    agent_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


class Rules(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits and times of decisions; durations in seconds."""

    agents: dict[str, AgentType] = msgspec.field(default_factory=BUILT_IN.copy)
    resource_limits: Resources = NONE
    max_containers: int = 100
    max_services: int = 10_000
    max_pending_tasks: int = 1_000_000
    max_pending_bytes: int = 256 * 1024 * 1024
    max_concurrent_tasks: int = 100_000
    max_retries: int = 3
    poison_after: int = 3
    cancel_grace_s: float = 10.0
    retry_backoff_s: float = 1.0
    retry_backoff_max_s: float = 60.0
    restart_backoff_s: float = 1.0
    restart_backoff_max_s: float = 300.0
    restart_reset_s: float = 600.0
    container_start_timeout_s: float = 30.0
    lease_s: float = 30.0
    worker_timeout_s: float = 60.0
    heartbeat_timeout_s: float = 90.0
    deregister_after_s: float = 3600.0
    mass_silence_share: float = 0.15
    mass_silence_least: int = 10
    node_lease_s: float = 15.0
    check_rise: int = 2
    check_fall: int = 2
    default_strategy: str = "fifo"
    priority_ageing_s: float = 60.0
    custom_policy: str = ""
    policy_window: int = 100
    policy_deadline_s: float = 0.02
    claim_slots_max: int = 1000
    claim_wait_max_s: float = 60.0
    payload_bytes_max: int = 64 * 1024
    text_chars_max: int = 1024
    remembered_max: int = 10_000_000
    cpu_overcommit: float = 4.0
    task_rules: tuple[TaskRule, ...] = ()
    """In this order; without any, everybody may submit everything."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the engine; times in seconds."""

    turn_commands: int = 2000
    turn_bytes: int = 512 * 1024
    intake_max: int = 20_000
    inbox_max: int = 4000
    waiting_max: int = 20_000
    wait_max_s: float = 60.0
    tick_s: float = 0.5
    blind_after_s: float = 2.0
    retention_s: float = 3600.0
    ended_kept: int = 10_000


class DecisionContext(msgspec.Struct, frozen=True, gc=False):
    """What a decider may use besides the world and the command: commit time, rules, and who sends it."""

    now: float
    rules: Rules
    tenant: str = ""
    actor: str = ""
    streak: int = 1
    """How many health checks in a row, with this one, had the reported outcome."""
    outcome: bytes = b""
    """What is remembered of the first time (`projections.world.OUTCOMES`), if this is a repeat of a command."""
    silent_s: float = math.inf
    """For how long the worker to register was not heard."""
    traceparent: str = ""
    answer_bytes: int = ANSWER_BYTES
    """The most bytes of an answer that is made as long as fits."""
    events_bytes: int = 128 * 1024
    """The most bytes of the events of a command of which the rest may wait for its repeat."""


def present_s(rules: Rules) -> float:
    """Return the silence in seconds up to which a worker counts as present."""
    return BEATS_MISSED * rules.lease_s / BEATS_A_LEASE


Decider = Callable[[World, Any, DecisionContext], Events]
"""Returns the events of a command; none when nothing has to change. Raises `CoordinationError` to refuse."""
Teller = Callable[[World, Any, DecisionContext, bool], Any]
"""Returns the answer for the caller after the events are folded; the flag is whether this command changed anything."""


def standing(table: Mapping[str, Thing], entity_id: str, kind: str) -> Thing:
    """
    Return the entity of an id, ended or not.

    Raises:
        NotFound: it does not exist, or ended long ago and was evicted from memory.
    """
    found = table.get(entity_id)
    if found is None:
        raise not_found(entity_id, kind)
    return found


def not_found(entity_id: str, kind: str) -> NotFound:
    """Return the error for an id that is not known."""
    return NotFound(f"{kind} {entity_id!r} not found: it does not exist or ended longer ago than engine.retention_s")


def check_churn(world: World, owned: Owned, things: str, context: DecisionContext) -> None:
    """
    Accept one more of the *things* that *owned* counts, as far as ended ones go, which stay in memory for ten minutes.

    Their number is bounded, and a source may have half of what the others leave of it.

    Raises:
        Unavailable: too many that this source created have ended since.
    """
    left = 2 * (world.ended_kept + ENDED_SPARE) - owned.ended
    mine = owned.ended_by_source.get(context.actor, 0)
    if mine >= left:
        msg = (
            f"{mine} {things} of {context.actor} and {owned.ended - mine} of others have ended and are kept for ten "
            "minutes, as many as may be: use ids again, or create fewer"
        )
        raise Unavailable(msg, reason="memory_full", retry_after_s=5.0)


def check_current(kind: str, entity_id: str, held: WorkerState | Service, registration: str) -> None:
    """
    Accept a command that names the current registration of a worker or a service, or none.

    Raises:
        Refused: another one has registered under this id since.
    """
    if registration and registration != held.registered_as:
        msg = (
            f"registration {shown(registration)} of {kind} {entity_id!r} was replaced: "
            "another program has registered under this id"
        )
        raise Refused(msg, reason="replaced")


def check_generation(world: World, container_id: str, generation: str) -> None:
    """
    Accept a program that runs in the current generation of its container, or does not know its generation.

    Raises:
        Refused: its container was started again since.
    """
    container = world.containers.get(container_id)
    if generation and container is not None and container.generation != generation:
        msg = (
            f"generation {shown(generation)} of container {container_id!r} was replaced by generation "
            f"{container.generation}: stop this program"
        )
        raise Refused(msg, reason="replaced")


def doubled(first_s: float, times: int, most_s: float) -> float:
    """Return the pause after *times* pauses, each of which doubled the previous one; at most *most_s*."""
    # A power too large for a float raises, and an entity that crash-loops for days reaches it.
    return min(first_s * 2.0 ** min(times, 64), most_s)
