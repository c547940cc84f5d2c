"""
The answers of the examples, as a running coordinator gave them: only for people, never read to answer anything.

A test sends each request to a coordinator again and compares; `tests/examples.py` has the order.
"""

from __future__ import annotations

from typing import Any

PAYLOAD = {
    "encoding": "json",
    "data": "[1,2]",
    "digest": "49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
}

RESULT = {"encoding": "json", "data": "3", "digest": "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"}

TASK_RUNNING: dict[str, Any] = {
    "task_id": "task_1",
    "task_name": "add",
    "status": "running",
    "submitted": [20, 0],
    "submitted_at": 1795967531.633,
    "latest": [21, 0],
    "tenant": "default",
    "source": "planning",
    "priority": 5,
    "max_retries": 3,
    "payload": {
        "encoding": "json",
        "digest": "49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
        "data": "[1,2]",
    },
    "payload_digest": "json:49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
    "attempt": 1,
    "lease": "claim_1.1.1",
    "claim_id": "claim_1",
    "worker_id": "worker_1",
    "started_at": 1795967531.635,
}

TASK_COMPLETED: dict[str, Any] = {
    "task_id": "task_1",
    "task_name": "add",
    "status": "completed",
    "submitted": [20, 0],
    "submitted_at": 1795967531.633,
    "latest": [21, 0],
    "tenant": "default",
    "source": "planning",
    "priority": 5,
    "max_retries": 3,
    "payload_digest": "json:49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
    "attempt": 1,
    "lease": "claim_1.1.1",
    "claim_id": "claim_1",
    "worker_id": "worker_1",
    "started_at": 1795967531.635,
    "ended_at": 1795967531.638,
    "ended": [23, 0],
    "ended_by": "planning",
    "execution_time_s": 0.2,
    "result": {
        "encoding": "json",
        "digest": "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce",
        "data": "3",
    },
    "progress": 0.5,
    "progress_message": "5 of 10 pages",
}

TASK_CANCELLED: dict[str, Any] = {
    "task_id": "task_4",
    "task_name": "add",
    "status": "cancelled",
    "submitted": [32, 0],
    "submitted_at": 1795967531.65,
    "tenant": "default",
    "source": "planning",
    "max_retries": 3,
    "ended_at": 1795967531.651,
    "ended": [33, 0],
    "ended_by": "planning",
    "error": "not needed any more",
}

TASK_FAILED: dict[str, Any] = {
    "task_id": "task_5",
    "task_name": "add",
    "status": "failed",
    "submitted": [38, 0],
    "submitted_at": 1795967531.655,
    "latest": [39, 0],
    "tenant": "default",
    "source": "planning",
    "payload_digest": "json:49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
    "attempt": 1,
    "failures": 1,
    "lease": "direct.1",
    "claim_id": "direct",
    "worker_id": "direct",
    "started_at": 1795967531.656,
    "ended_at": 1795967531.656,
    "ended": [39, 1],
    "ended_by": "planning",
    "error": "the page was not found",
    "error_type": "web.NotFound",
    "attempts": [
        {
            "attempt": 1,
            "worker_id": "direct",
            "started_at": 1795967531.656,
            "ended_at": 1795967531.656,
            "reason": "failed",
            "error": "the page was not found",
            "error_type": "web.NotFound",
        }
    ],
}

DEAD_LETTER: dict[str, Any] = {
    "task": TASK_FAILED,
    "submitted": {"task_id": "task_5", "task_name": "add", "payload": PAYLOAD},
    "traceback": "Traceback (most recent call last): ...",
}

_CONTAINER: dict[str, Any] = {
    "container_id": "container_1",
    "agent_id": "agent_1",
    "agent_type": "task_agent",
    "node_id": "node_1",
    "created": [7, 0],
    "created_at": 1795967531.61,
    "tenant": "default",
    "resources": {"cpu_millis": 500, "memory_bytes": 268435456},
    "command": ["python", "-m", "coordinator.agent"],
    "stop_grace_s": 10.0,
    "generation": "9.0",
    "starts": 1,
    "starting_at": 1795967531.614,
    "source": "planning",
}

_STARTED: dict[str, Any] = {**_CONTAINER, "pid": 4711, "started_at": 1795967531.617}

CONTAINER_STARTING = {**_CONTAINER, "status": "starting", "desired": "running", "reason": "requested"}

CONTAINER_RUNNING = {**_STARTED, "status": "running", "desired": "running"}

CONTAINER_PAUSING = {**_STARTED, "status": "running", "desired": "paused"}

CONTAINER_RESUMING = {**_STARTED, "status": "paused", "desired": "running"}

CONTAINER_STOPPING = {**_STARTED, "status": "stopping", "reason": "maintenance"}

CONTAINER_DESTROYED = {
    **_CONTAINER,
    "started_at": 1795967531.617,
    "status": "destroyed",
    "desired": "destroyed",
    "exit_code": 0,
    "reason": "maintenance",
    "ended_at": 1795967531.631,
    "ended": [18, 0],
}

NODE: dict[str, Any] = {
    "node_id": "node_1",
    "status": "ready",
    "registered": [4, 0],
    "registered_at": 1795967531.604,
    "capacity": {"cpu_millis": 4000, "memory_bytes": 8589934592},
    "runtime": "process",
}

ORDERS: dict[str, Any] = {
    "containers": [
        {
            "container_id": "container_1",
            "generation": "9.0",
            "desired": "running",
            "agent_type": "task_agent",
            "command": ["python", "-m", "coordinator.agent"],
            "resources": {"cpu_millis": 500, "memory_bytes": 268435456},
            "stop_grace_s": 10.0,
        }
    ],
    "node_lease_s": 15.0,
    "epoch": [1, 1],
    "orders_id": "1-1-12",
}

SESSION: dict[str, Any] = {
    "session_id": "session_1",
    "container_id": "container_1",
    "bound": [8, 0],
    "bound_at": 1795967531.612,
    "tenant": "default",
    "source": "planning",
}

WORKER: dict[str, Any] = {
    "worker_id": "worker_1",
    "status": "active",
    "registered": [19, 0],
    "registered_at": 1795967531.632,
    "tenant": "default",
    "slots": 4,
    "handles": ["add"],
    "registration": "start_1",
    "source": "planning",
}

SERVICE_FOUND: dict[str, Any] = {
    "service": {
        "service_id": "service_1",
        "service_name": "search",
        "service_type": "api",
        "host": "127.0.0.1",
        "port": 8080,
        "status": "healthy",
        "registered": [36, 0],
        "registered_at": 1795967531.656,
        "tenant": "default",
        "source": "planning",
        "health_rule": "registered",
        "changed_at": 1795967531.656,
    },
    "reported": {"heard_s_ago": 0.002, "load": 0.25, "connections": 3},
    "check_ms": 12.5,
    "not_checked": "the resolver does not answer",
}

CHECKS: list[dict[str, Any]] = [
    {
        "at": 1795967531.659,
        "ok": False,
        "check": "http",
        "status": "healthy",
        "detail": "the resolver does not answer",
        "number": 2,
        "could_not": True,
    },
    {"at": 1795967531.658, "ok": True, "check": "http", "status": "healthy", "latency_ms": 12.5, "number": 1},
]

CHECKS_KEPT: list[dict[str, Any]] = [{**one, "reign": "1.1"} for one in CHECKS]

SCHEDULE: dict[str, Any] = {
    "schedule_id": "nightly",
    "status": "active",
    "defined": [37, 0],
    "defined_at": 1795967531.66,
    "timing": {"cron": "30 2 * * *", "time_zone": "Europe/Berlin"},
    "latest": [37, 0],
    "task": {"task_name": "add", "max_retries": 3},
    "next_slot": 1796002200,
    "source": "planning",
    "tenant": "default",
}

SCHEDULE_FIRED: dict[str, Any] = {**SCHEDULE, "fired": 1}

RUNS: list[dict[str, Any]] = [
    {
        "slot": 1796002200,
        "fires_at": 1796002200.0,
        "local": "2026-11-30T02:30:00+01:00",
        "zone": "CET",
        "is_dst": False,
    },
    {
        "slot": 1796088600,
        "fires_at": 1796088600.0,
        "local": "2026-12-01T02:30:00+01:00",
        "zone": "CET",
        "is_dst": False,
    },
]

POOL_EMPTY: dict[str, Any] = {
    "pool_id": "pool_1",
    "capacity": {"cpu_millis": 8000, "gpus": 2},
    "defined": [37, 0],
    "allocations": {},
    "source": "planning",
    "tenant": "default",
}

POOL: dict[str, Any] = {
    "pool_id": "pool_1",
    "capacity": {"cpu_millis": 8000, "gpus": 2},
    "defined": [37, 0],
    "allocations": {
        "request_1": {
            "request_id": "request_1",
            "resources": {"gpus": 1},
            "allocated_at": 1795967531.664,
            "source": "planning",
            "tenant": "default",
        }
    },
    "source": "planning",
    "tenant": "default",
}

INBOX: dict[str, Any] = {
    "domain": "planning",
    "stream_created": "2026-11-29T15:52:10.93563196Z",
    "sequence": 1,
    "read_at": 1795967531.578,
    "recorded": 1,
}

STATS: dict[str, Any] = {
    "containers": {"destroyed": 1},
    "services": {"healthy": 1},
    "tasks": {"pending": 2, "running": 0, "completed": 1, "failed": 0, "cancelled": 1, "timeout": 0},
    "workers": {"left": 1},
    "nodes": {"ready": 1},
    "totals": {"tasks_placed": 4, "tasks_completed": 1, "tasks_cancelled": 1},
    "container_starts": 1,
    "container_failures": 0,
    "epoch": "1.1",
    "position": "39.0",
    "leader": "coordinator_01m8m03eg6jd6zxd0xpdy5esnh",
    "mass_silence": {},
}

EVENT_PAGE: dict[str, Any] = {
    "events": [
        {
            "type": "task.cancelled",
            "specversion": "1.0",
            "id": "33.0",
            "source": "/coordination/1",
            "subject": "task_4",
            "time": "2026-11-29T15:52:11.651042Z",
            "dataversion": 1,
            "data": {"task_id": "task_4", "reason": "not needed any more"},
            "tenant": "default",
            "actor": "planning",
            "causationid": "32.0",
        }
    ],
    "next": "39.0",
    "more": False,
}

COUNTS: dict[str, Any] = {"by_status": {"destroyed": 1}, "sums": {"starts": 1, "failures": 0}}

LAG: dict[str, Any] = {
    "journal": 39,
    "store": {"through": 39, "behind": 0, "behind_s": 0.0, "state": "", "reason": ""},
    "feed": {"through": 39, "behind": 0, "behind_s": 0.0, "state": "feeding", "reason": ""},
    "size": {"bytes": 476536, "bytes_a_day": None, "free_bytes": 82369208320},
}

QUEUE: dict[str, Any] = {"queue_id": "reports", "defined": [40, 0], "weight": 2.0}

QUEUE_ROUTED: dict[str, Any] = {**QUEUE, "route": {"current": "b1", "ramping": "b2", "percent": 10.0}}

VERSION: dict[str, Any] = {
    "build_id": "b1",
    "retired": [41, 0],
    "retired_at": 1795967531.66,
    "move_to": "b2",
    "retired_by": "planning",
    "reason": "it loses letters",
}

LIMIT: dict[str, Any] = {
    "limit_id": "per_customer",
    "defined": [41, 0],
    "defined_at": 1795967531.65,
    "terms": {"by": "attributes.customer", "running": 2},
    "defined_by": "planning",
    "reason": "fair use",
}

BUDGET: dict[str, Any] = {
    "budget_id": "team",
    "defined": [42, 0],
    "defined_at": 1795967531.65,
    "terms": {"by": "tenant", "cap": 1_000_000},
    "defined_by": "planning",
    "reason": "trial",
}

BUDGET_VIEW: dict[str, Any] = {
    "budget": BUDGET,
    "window_start": 1_795_910_400,
    "window_end": 1_795_996_800.0,
    "spent": 1200,
}
BUDGET_KEYS = [{"value": "acme", "spent": 1200, "left": 998_800, "corrected": 1200}]

QUEUE_PAUSED: dict[str, Any] = {
    "queue_id": "default",
    "defined": [2, 1],
    "policy": {"ageing_s": 60.0},
    "policy_by_settings": True,
    "paused_at": 1795967531.65,
    "paused_by": "planning",
    "reason": "the model is down",
}

QUEUE_FAIR: dict[str, Any] = {
    "queue_id": "default",
    "defined": [2, 1],
    "policy": {"strategy": "fair", "fair": {"weights": {"acme": 3.0}}},
}

_PRIORITY: dict[str, Any] = {"strategy": "priority", "ageing_s": 60.0}
COMPARED: dict[str, Any] = {
    "turns": 420,
    "skipped": 37,
    "decisions": 1260,
    "differing": 210,
    "regret_s": 12.5,
    "regret_squares": 88.2,
    "regret_by_decisions": 40.1,
    "decision_squares": 4100,
}

SHADOW_REPORT: dict[str, Any] = {
    "queue_id": "default",
    "after": 41,
    "upto": 43,
    "compared": COMPARED,
    "examples": [
        {
            "sequence": 43,
            "task_id": "task_1",
            "worker_id": "worker_1",
            "other_task_id": "task_2",
            "other_worker_id": "worker_1",
        }
    ],
}

QUEUE_SHADOWED: dict[str, Any] = {
    **QUEUE_FAIR,
    "shadow": {
        "policy": _PRIORITY,
        "against": QUEUE_FAIR["policy"],
        "set": [41, 0],
        "since": 1795967531.66,
        "set_by": "planning",
        "reason": "urgent tasks wait",
        "regret_max": 0.5,
        "min_decisions": 1000,
        "upto": 41,
    },
}

QUEUE_PROMOTED: dict[str, Any] = {
    **QUEUE_FAIR,
    "policy": _PRIORITY,
    "promoted": {"at": 1795967531.67, "before": QUEUE_FAIR["policy"]},
}

QUEUE_ROLLED_BACK: dict[str, Any] = QUEUE_FAIR

TASK_OFFERED: dict[str, Any] = {
    "task_id": "task_1",
    "task_name": "add",
    "status": "pending",
    "submitted": [20, 0],
    "submitted_at": 1795967531.633,
    "tenant": "default",
    "source": "planning",
    "priority": 5,
    "max_retries": 3,
    "payload_digest": "json:49a64717d5d4cb19952e6eac2946415cf6879adacf9908e7d872332d32c6e684",
}

TASK_EXPLAINED: dict[str, Any] = {
    "task_id": "task_4",
    "status": "cancelled",
    "summary": "cancelled before it began, told by planning: not needed any more",
    "for_s": 0.1,
    "waited": {"not_claimed": 0.1},
}

TASK_PLANNED: dict[str, Any] = {
    "task_id": "task_9",
    "status": "pending",
    "summary": "1 workers have room for it, and none has claimed it yet",
    "for_s": 0.0,
    "reasons": [
        {
            "code": "not_claimed",
            "tier": "itself",
            "text": "1 workers have room for it, and none has claimed it yet",
        }
    ],
    "policy": "fifo",
    "ahead": 0,
    "starts_in_s": 0.0,
    "starts_from_s": 0.0,
    "starts_until_s": 0.05,
    "workers": [{"worker_id": "worker_1", "fits": True}],
    "worker_counts": {"fits": 1},
}

HOLD: dict[str, Any] = {
    "hold_id": "acme",
    "where": 'task_name == "report" && attributes.customer == "acme"',
    "placed": [41, 0],
    "placed_at": 1795967531.7,
    "placed_by": "planning",
    "reason": "acme asked for it",
}
