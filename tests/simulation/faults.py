"""The faults of a run: the plan drawn from the seed, and the dice that decide when a fault strikes."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

NETWORK = (
    "message_lost", "message_late", "message_repeated", "message_reordered", "announcement_lost", "disconnected",
    "partitioned", "node_cut_off", "connection_cut", "answers_late", "lease_down",
    "old_leader",
)  # fmt: skip
JOURNAL = ("commit_refused", "ack_lost", "commit_late", "disk_slow")
PROCESSES = (
    "coordinator_killed", "coordinator_crashed", "coordinator_stopped", "coordinator_resigned",
    "coordinator_without_power", "worker_killed", "worker_stopped", "node_killed", "node_stopped", "follower_crashed",
    "client_killed", "server_restarted",
)  # fmt: skip
MACHINES = ("clock_jumped_ahead", "clock_jumped_back", "container_exited", "start_failed", "machine_restarted",
            "store_busy")  # fmt: skip
LONG_STOPS = ("slept", "switched_off_for_hours", "suspended")
"""
Hours pass in which nothing runs, once in a run: then the coordinators go on, or they have been ended by it, or only the
wall clocks know, as of a machine that was suspended.
"""
DRAWN = (*NETWORK, *JOURNAL, *PROCESSES, *MACHINES)
KINDS = (*DRAWN, "many_silent", *LONG_STOPS)
"""Every kind of fault; one that never fires over many seeds fails the run."""
LONG_STOP_S = 3 * 3600.0
LONG_STOP_EVERY, LONG_STOP_AT = 17, 5
"""Which seeds have one."""
ENDS_REIGNS = (
    "partitioned", "connection_cut", "answers_late", "lease_down", "coordinator_killed", "coordinator_crashed",
    "coordinator_stopped", "coordinator_resigned", "coordinator_without_power", "server_restarted",
)  # fmt: skip
"""A new writer waits before it calls anything silent: half of the plans with a mass silence have none of these."""

OUTCOMES = (
    "stale_refused", "cancelled", "repeated", "repeated_after_eviction", "withdrawn", "forbidden", "over_quota",
    "memory_full", "switched_off", "snapshot_used", "paused", "resumed", "requeued", "task_forbidden",
)  # fmt: skip
"""Effects that users see, counted with the faults."""
EVENTS = (
    "compared.leader", "compared.standby", "container.destroyed", "container.failed", "container.paused",
    "container.resumed", "coordinator.command_refused", "coordinator.mass_silence_ended",
    "coordinator.mass_silence_noticed", "coordinator.stopped", "fed", "fitted", "idempotency.forgotten", "inbox.read",
    "inbox.recorded", "inbox.refused", "lost_after_mass_silence", "moved", "node.drained", "node.draining", "node.lost",
    "node.removed", "node.removing", "node.returned", "pool.allocated",
    "pool.bound", "pool.preempted", "pool.requested", "pool.withdrawn",
    "queue.routed", "queue.shadow_reported",
    "schedule.deleted", "schedule.fired", "schedule.paused", "schedule.queued", "schedule.skipped",
    "service.health_changed", "task.attempt_failed", "task.cancelled", "task.extended", "task.failed",
    "task.progressed", "task.paused", "task.report_refused", "task.resumed", "task.timed_out", "caught_up",
    "version.reinstated", "version.retired", "versioned", "worker.left", "worker.lost",
)  # fmt: skip
"""Events that must occur over many seeds; otherwise the runs cover too little."""

ONCE_EVERY_S = {
    "partitioned": 14.0, "node_cut_off": 12.0, "connection_cut": 8.0, "answers_late": 10.0, "old_leader": 10.0,
    "disconnected": 12.0, "coordinator_killed": 16.0, "coordinator_crashed": 12.0, "coordinator_stopped": 16.0,
    "coordinator_resigned": 30.0, "coordinator_without_power": 25.0, "worker_killed": 10.0, "worker_stopped": 10.0,
    "node_killed": 20.0, "node_stopped": 20.0, "follower_crashed": 8.0, "client_killed": 20.0, "server_restarted": 40.0,
    "clock_jumped_ahead": 14.0, "clock_jumped_back": 14.0, "container_exited": 10.0, "start_failed": 15.0,
    "machine_restarted": 40.0, "lease_down": 15.0, "many_silent": 3.0,
    **dict.fromkeys(LONG_STOPS, 2.0),
}  # fmt: skip
"""How often the scheduled faults strike; the others are drawn for each message."""

CHANCE = {
    "message_lost": 0.01, "message_late": 0.01, "message_repeated": 0.01, "message_reordered": 0.02,
    "announcement_lost": 0.5,
    "commit_refused": 0.03, "ack_lost": 0.03, "commit_late": 0.02, "disk_slow": 0.01, "store_busy": 0.02,
}  # fmt: skip


MOST_WRONG_S = 250.0
"""Wall clocks are wrong by less than half the time that the fold remembers commands: see ADR 0009."""
HARD_SHORT_S = 30.0
MOST_WRONG_SHORT_S = 5.0
SHORT_SHARE = 0.1
"""Share of the plans in which things are forgotten within the run."""
EVICTS_SHARE = 0.45
"""Share of the other plans in which ended tasks are evicted."""


LEAST_STEPS, LEAST_FAULTS = 5000, 3
"""What each run has at least."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """
    Everything that defines a run; a smaller plan with the same failure is easier to read.

    In safety mode faults continue to the end; in liveness mode they stop after *faulty_s*, and everything must end.
    Faults go on until there were *least_faults* of them and *least_steps* steps.
    *intensity* multiplies how often each kind of fault strikes; a kind that it lacks never does.
    """

    seed: int
    is_lively: bool
    faulty_s: float
    intensity: dict[str, float]
    coordinators: int = 2
    clients: int = 2
    tasks: int = 20
    workers: int = 3
    nodes: int = 2
    domains: int = 2
    containers: int = 3
    replicated: bool = False
    ended_kept: int = 10_000
    retention_s: float = 1e6
    hard_s: float = 600.0
    """How long everything is remembered; shorter than in production, so that a run sees that it is forgotten."""
    remembered_max: int = 10_000_000
    has_queues: bool = False
    """Whether an operator changes queues and policies."""
    has_holds: bool = False
    """Whether an operator holds tasks that meet a filter."""
    has_drains: bool = False
    """Whether an operator drains and removes nodes."""
    has_limits: bool = False
    """Whether an operator changes limits."""
    has_budgets: bool = False
    """Whether tasks say what they may spend, and somebody changes budgets and prices."""
    has_shares: bool = False
    """Whether some users request shares of the pool `tasks`, and wait for them."""
    has_gangs: bool = False
    """Whether some tasks begin together or not at all."""
    has_lists: bool = False
    """Whether some users list all tasks, from writers that make few items of a list in a turn."""
    has_labels: bool = False
    """Whether tasks ask for certain workers, and for amounts with names."""
    has_versions: bool = False
    """Whether workers have build ids, and an operator routes and retires them."""
    has_agents: bool = False
    """Whether the coordinators have different settings of agents, and somebody changes the catalogue."""
    has_shadows: bool = False
    """Whether candidate policies are compared, promoted and rolled back."""
    has_access: bool = False
    """Whether some users have rules and quotas."""
    stop_grace_s: float = 2.0
    has_snapshots: bool = False
    has_feed: bool = False
    has_checks: bool = False
    has_mass_silence: bool = False
    """Whether two of a kind are enough for a mass silence, if they are more than half of it."""
    least_steps: int = 0
    least_faults: int = 0

    @property
    def has_hours(self) -> bool:
        """Return whether hours pass in which nothing runs."""
        return any(kind in self.intensity for kind in LONG_STOPS)

    @property
    def forgets(self) -> bool:
        """Return whether what is remembered is forgotten within the run."""
        return self.hard_s <= HARD_SHORT_S

    @property
    def most_wrong_s(self) -> float:
        """Return by how much wall clocks may be wrong."""
        return MOST_WRONG_SHORT_S if self.forgets else MOST_WRONG_S


def plan_of(seed: int) -> Plan:
    """Draw the plan of *seed*: no, some or many faults of each kind."""
    random = Random(f"plan {seed}")
    is_lively = seed % 2 == 0
    has_mass_silence = seed % 4 == 3
    intensity = {kind: random.choice((0.0, 0.5, 1.0, 1.0, 2.0)) for kind in DRAWN}
    intensity["many_silent"] = 1.0 if has_mass_silence else 0.0
    if seed % LONG_STOP_EVERY == LONG_STOP_AT:
        intensity[LONG_STOPS[seed // LONG_STOP_EVERY // 2 % len(LONG_STOPS)]] = 1.0
    if seed % 8 == 3:
        intensity |= dict.fromkeys(ENDS_REIGNS, 0.0)
    has_agents = seed % 5 == 2
    has_drains = seed % 5 == 2 and seed % 3 != 2
    if has_agents and not has_drains:
        intensity |= {"container_exited": 16.0, "start_failed": 4.0}
    forgets = random.random() < SHORT_SHARE
    evicts = forgets or random.random() < EVICTS_SHARE
    return Plan(
        seed=seed,
        is_lively=is_lively,
        faulty_s=random.choice((8.0, 10.0, 12.0, 16.0) if is_lively else (18.0, 20.0, 22.0)),
        intensity={kind: drawn for kind, drawn in intensity.items() if drawn},
        coordinators=random.choice((2, 2, 3)),
        replicated=random.random() < 0.5,
        ended_kept=random.choice((0, 3, 3, 6)) if evicts else 10_000,
        retention_s=random.choice((1.0, 1e6, 1e6)) if evicts else 1e6,
        hard_s=HARD_SHORT_S if forgets else 600.0,
        remembered_max=random.choice((12, 20)) if forgets else 10_000_000,
        tasks=10 if forgets else 20,
        has_queues=seed % 3 == 1,
        has_holds=seed % 7 == 6,
        has_drains=has_drains,
        has_limits=seed % 3 == 2,
        has_budgets=seed % 9 == 8 or seed % 11 == 8,
        has_shares=seed % 7 == 4 and seed % 3 != 2,  # their tasks, replaced by a limit, would fill a commit
        has_gangs=seed % 13 == 6 and seed % 3 != 2,  # limits would let tasks of a gang take the place of others
        has_lists=seed % 21 == 18,
        has_labels=seed % 7 == 6,
        has_versions=seed % 5 == 4 and seed % 7 != 6,  # of its version and with its labels there may be no worker
        has_agents=has_agents,
        has_shadows=seed % 21 == 19 and not forgets,  # a part of those with queues
        has_access=random.random() < 0.25,
        stop_grace_s=random.choice((2.0, 15.0)),
        has_snapshots=random.random() < 0.3,
        has_feed=random.random() < 0.2,
        has_checks=random.random() < 0.2,
        has_mass_silence=has_mass_silence,
        least_steps=LEAST_STEPS,
        least_faults=LEAST_FAULTS,
    )


class Dice:
    """Decides whether faults strike, until `until_s` (loop time); `fired` counts those that did."""

    def __init__(self, random: Random, plan: Plan) -> None:
        self.random = random
        self.fired: Counter[str] = Counter()
        self.on = True
        self._chance = {kind: CHANCE[kind] * plan.intensity.get(kind, 0.0) for kind in CHANCE}
        self._intensity = plan.intensity

    def strikes(self, kind: str) -> bool:
        """Draw whether *kind* strikes now."""
        if not self.on or self.random.random() >= self._chance[kind]:
            return False
        self.fired[kind] += 1
        return True

    def pause_s(self, kind: str) -> float | None:
        """Draw the time until *kind* strikes next; None if it never does."""
        intensity = self._intensity.get(kind, 0.0)
        return self.random.expovariate(intensity / ONCE_EVERY_S[kind]) if intensity else None

    def kinds_by_themselves(self) -> Iterable[str]:
        """Return the kinds of scheduled faults in this run."""
        return [kind for kind in ONCE_EVERY_S if self._intensity.get(kind)]
