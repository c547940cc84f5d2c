"""
The meaning of every golden file: the value of its bytes, by the name of the file.

A golden file holds one event as it was once published, and is never changed. So:

- A new event type or version gets an example here, `<type>.v<version>`, with every field set to a value other than its
  default; `python -m tests.golden` then writes its file.
- A new field (with a default) leaves the old example as it is and gets one of its own, `<type>.v<version>.<n>`.
- A raised version changes the old example to what the upcaster must make of it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Raw

from events import codec
from events.after import After, AfterJoin, AfterOn, Otherwise
from events.agents import AgentsChanged, AgentType
from events.base import Position
from events.budget import BudgetCorrected, BudgetDefined, BudgetRemoved, BudgetTerms, Stop, Unit
from events.cancel_ladder import Escalation, TaskCancelAsked, TaskCancelForced, TaskCancelTold
from events.container import (
    ContainerCreated,
    ContainerDestroyed,
    ContainerFailed,
    ContainerPaused,
    ContainerPausing,
    ContainerResumed,
    ContainerResuming,
    ContainerStarted,
    ContainerStarting,
    ContainerStopped,
    ContainerStopping,
    RestartPolicy,
    Secret,
)
from events.coordinator import (
    ClaimFilter,
    CoordinatorCommandRefused,
    CoordinatorMassSilenceEnded,
    CoordinatorMassSilenceNoticed,
    CoordinatorPlacementRefused,
    CoordinatorStarted,
    CoordinatorStopped,
    CoordinatorTurn,
    WaitingClaim,
    Watched,
)
from events.hold import HoldExpired, HoldLifted, HoldPlaced
from events.idempotency import IdempotencyForgotten
from events.inbox import InboxGap, InboxRead, InboxRecorded, InboxRefused
from events.limit import LimitDefined, LimitDeleted, Terms, WhenBusy
from events.node import (
    NodeCordoned,
    NodeDrained,
    NodeDraining,
    NodeHeartbeat,
    NodeLost,
    NodeRegistered,
    NodeRemoved,
    NodeRemoving,
    NodeReturned,
    NodeUncordoned,
)
from events.pool import (
    Placing,
    PoolAllocated,
    PoolBound,
    PoolDefined,
    PoolMoved,
    PoolPreempted,
    PoolReleased,
    PoolRequested,
    PoolWithdrawn,
)
from events.prices import Price, PricesSet
from events.queue import (
    Comparison,
    FairShare,
    OtherDecision,
    Policy,
    QueueBlocked,
    QueueDefined,
    QueueDeleted,
    QueuePaused,
    QueuePolicyFailed,
    QueuePolicySet,
    QueuePromoted,
    QueueResumed,
    QueueRolledBack,
    QueueRouted,
    QueueShadowReported,
    QueueShadowSet,
    Route,
)
from events.resources import Resources
from events.retry import RetryPolicy
from events.schedule import (
    Catchup,
    Overlap,
    ScheduleDefined,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleQueued,
    ScheduleResumed,
    ScheduleSkipped,
    TaskContent,
    Timing,
)
from events.service import (
    ServiceDeregistered,
    ServiceHealthChanged,
    ServiceHeartbeat,
    ServiceRegistered,
    ServiceStatus,
)
from events.session import SessionBound, SessionClosed
from events.spend import Reservation, Spend, Spent
from events.task import (
    Debounce,
    Gang,
    Occurrence,
    Payload,
    Prefer,
    TaskAttemptFailed,
    TaskCancelled,
    TaskCompleted,
    TaskExtended,
    TaskFailed,
    TaskProgressed,
    TaskReportRefused,
    TaskStarted,
    TaskSubmitted,
    TaskTimedOut,
    TaskUnblocked,
    TaskUsage,
)
from events.task_pause import TaskPaused, TaskResumed
from events.time_limits import TimeLimits
from events.version import VersionReinstated, VersionRetired
from events.worker import WorkerDraining, WorkerHeartbeat, WorkerLeft, WorkerLost, WorkerRegistered

if TYPE_CHECKING:
    from events.base import Envelope, Event

_MUCH = Resources(cpu_millis=1500, memory_bytes=2 * 1024**3, gpus=1)
_NAMED = Resources(cpu_millis=500, named={"licences": 2})
_USAGE = TaskUsage(input_tokens=900, cached_tokens=400, output_tokens=120, reasoning_tokens=60, money_micros=1850)
_SPENT = Spent(tokens=1480, money_micros=4520)
_RESTART = RestartPolicy(
    attempts=5, interval_s=300.0, mode="delay", delay_s=0.5, delay_max_s=30.0, reset_s=60.0, finished_codes=(3,)
)
_PRICE = Price(input_micros=1_250_000, output_micros=10_000_000, cached_micros=125_000, reasoning_micros=9_000_000)
_SPENDS = Spend(model="gpt-5", input_tokens=8000, output_tokens=2000, money_micros=5000)
_INLINE = Payload(encoding="json", digest=sha256(b"x").hexdigest(), data='{"größe":[1,2.5,null]}', ref="obj_1")
_RETRY = RetryPolicy(
    backoff="linear",
    first_s=2.5,
    most_s=60.0,
    factor=3.0,
    jitter=0.25,
    non_retryable=("ValueError", "service.Gone"),
    when_exhausted="pause",
)

_ALL_OF_A_POLICY = Policy(
    strategy="priority",
    ageing_s=60.0,
    priority_weights={"urgent": 9},
    fair=FairShare(by="key", cost="tokens", half_life_s=60.0, weights={"acme": 3.0}),
    custom="policies:Cheapest",
)
"""No policy has all of this; each part has a form on the wire."""

EXAMPLES: dict[str, Event] = {
    # containers
    "container.created.v1": ContainerCreated(
        container_id="ctr_1",
        agent_id="agent_1",
        agent_type="task_agent",
        node_id="node_1",
        resources=_MUCH,
        image="registry.example/agent:1",
        command=("python", "-m", "agent"),
        environment={"MODE": "fast", "TOKEN": Secret(secret="agent-token")},
        session_id="session_1",
        when_cut_off="keep",
        stop_grace_s=2.5,
    ),
    "container.created.v2": ContainerCreated(
        container_id="ctr_1",
        agent_id="agent_1",
        agent_type="task_agent",
        node_id="node_1",
        resources=_MUCH,
        image="registry.example/agent:1",
        command=("python", "-m", "agent"),
        environment={"MODE": "fast", "TOKEN": Secret(secret="agent-token")},
        session_id="session_1",
        when_cut_off="keep",
        stop_grace_s=2.5,
        traced=True,
    ),
    "container.created.v2.2": ContainerCreated(
        container_id="ctr_1",
        agent_id="agent_1",
        agent_type="task_agent",
        node_id="node_1",
        resources=_MUCH,
        image="registry.example/agent:1",
        command=("python", "-m", "agent"),
        environment={"MODE": "fast", "TOKEN": Secret(secret="agent-token")},
        session_id="session_1",
        when_cut_off="keep",
        stop_grace_s=2.5,
        traced=True,
        owned=True,
    ),
    "container.created.v3": ContainerCreated(
        container_id="ctr_1",
        agent_id="agent_1",
        agent_type="task_agent",
        node_id="node_1",
        command=("python", "-m", "agent"),
        limits=Resources(cpu_millis=4000, memory_bytes=8 * 1024**3, gpus=1),
        restart=_RESTART,
        moves=False,
        node_filter='labels.zone == "eu"',
    ),
    "container.starting.v1": ContainerStarting(container_id="ctr_1", node_id="node_2", reason="restart", restarts=3),
    "container.started.v1": ContainerStarted(container_id="ctr_1", generation="1042.0", pid=4321),
    "container.pausing.v1": ContainerPausing(container_id="ctr_1"),
    "container.paused.v1": ContainerPaused(container_id="ctr_1"),
    "container.resuming.v1": ContainerResuming(container_id="ctr_1"),
    "container.resumed.v1": ContainerResumed(container_id="ctr_1"),
    "container.stopping.v1": ContainerStopping(container_id="ctr_1", force=True, destroy=True, reason="destroy"),
    "container.stopping.v2": ContainerStopping(container_id="ctr_1", reason="node node_1 is draining", move=True),
    "container.stopped.v1": ContainerStopped(container_id="ctr_1", exit_code=143),
    "container.failed.v1": ContainerFailed(
        container_id="ctr_1", generation="1042.0", reason="exited", exit_code=1, restart_at=1_795_455_300.25
    ),
    "container.failed.v2": ContainerFailed(
        container_id="ctr_1",
        generation="1042.0",
        reason="exited",
        exit_code=0,
        restart_at=1_795_455_300.25,
        cause="cut_off",
    ),
    "container.failed.v3": ContainerFailed(
        container_id="ctr_1",
        generation="1042.0",
        reason="exited; failure 6 within 240 s, and 5 may be",
        exit_code=1,
        restart_at=1_795_455_300.25,
        cause="exited",
        failures=6,
        counted_from=1_795_455_000.25,
    ),
    "container.destroyed.v1": ContainerDestroyed(container_id="ctr_1"),
    # services
    "service.registered.v1": ServiceRegistered(
        service_id="svc_1",
        service_name="search",
        service_type="http",
        host="10.0.0.7",
        port=8080,
        status=ServiceStatus.UNKNOWN,
        health_check_url="http://10.0.0.7:8080/health",
        tags=("gpu", "eu"),
        metadata={"release": "7"},
        weight=5,
        container_id="ctr_1",
        worker_id="wrk_1",
    ),
    "service.registered.v2": ServiceRegistered(
        service_id="svc_1",
        service_name="search",
        service_type="http",
        host="10.0.0.7",
        port=8080,
        status=ServiceStatus.UNKNOWN,
        health_check_url="http://10.0.0.7:8080/health",
        tags=("gpu", "eu"),
        metadata={"release": "7"},
        weight=5,
        container_id="ctr_1",
        worker_id="wrk_1",
        registration="registration_1",
    ),
    "service.registered.v2.2": ServiceRegistered(
        service_id="svc_1",
        service_name="search",
        service_type="http",
        host="10.0.0.7",
        port=8080,
        status=ServiceStatus.UNHEALTHY,
        metadata={"release": "8"},
        keeps_health=True,
    ),
    "service.registered.v2.3": ServiceRegistered(
        service_id="svc_1",
        service_name="search",
        service_type="http",
        host="10.0.0.7",
        port=8080,
        status=ServiceStatus.UNKNOWN,
        health_check_url="http://10.0.0.7:8080/health",
        tags=("gpu", "eu"),
        metadata={"release": "7"},
        weight=5,
        container_id="ctr_1",
        worker_id="wrk_1",
        registration="registration_1",
        keeps_health=True,
        traced=True,
    ),
    "service.deregistered.v1": ServiceDeregistered(service_id="svc_1", reason="offline for too long"),
    "service.health_changed.v1": ServiceHealthChanged(
        service_id="svc_1",
        status=ServiceStatus.OFFLINE,
        previous=ServiceStatus.HEALTHY,
        rule="heartbeat_timeout",
        detail="no word",
        silent_for_s=91.5,
        limit_s=90.0,
    ),
    "service.heartbeat.v1": ServiceHeartbeat(service_id="svc_1", load=0.75, connections=12, response_time_ms=3.25),
    "service.heartbeat.v1.2": ServiceHeartbeat(service_id="svc_1", load=0.75, registration="registration_1"),
    # tasks
    "task.submitted.v1": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        task_type="text",
        priority=-7,
        timeout_s=12.5,
        max_retries=2,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order/42",
    ),
    "task.submitted.v2": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        task_type="text",
        priority=-7,
        timeout_s=12.5,
        max_retries=2,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order/42",
        program="report-0f3c9a1b2d4e",
    ),
    "task.submitted.v2.2": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        task_type="text",
        priority=-7,
        timeout_s=12.5,
        max_retries=2,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order/42",
        program="report-0f3c9a1b2d4e",
        traced=True,
    ),
    "task.submitted.v3": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        task_type="text",
        priority=-7,
        timeout_s=12.5,
        max_retries=2,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order/42",
        program="report-0f3c9a1b2d4e",
        traced=True,
        queue="reports",
        fairness_key="customer-7",
    ),
    "task.submitted.v3.9": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        attributes={"customer": "acme", "pages": 12, "share": 0.5, "urgent": True},
        debounce=Debounce(since=1_795_886_130.5, until=1_795_886_135.5),
    ),
    "task.submitted.v3.2": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        task_type="batch",
        priority=5,
        timeout_s=12.5,
        max_retries=3,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order-7",
        program="report-0f3c9a1b2d4e",
        traced=True,
        retry=_RETRY,
        requeued_from="task_0",
    ),
    "task.submitted.v3.30": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        not_before=1_795_455_300.5,
        delay_s=90.5,
    ),
    "task.submitted.v3.31": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        time_limits=TimeLimits(start_within_s=60.5, finish_within_s=600.5, heartbeat_s=15.5),
    ),
    "task.submitted.v3.80": TaskSubmitted(task_id="task_1", task_name="summarize", request="req_1"),
    "task.submitted.v3.90": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        gang=Gang(gang_id="train_1", size=4, deadline_s=90.5),
        gang_until=1_795_455_390.5,
    ),
    "task.submitted.v3.50": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        resources=_NAMED,
        attributes={"customer": "acme", "pages": 12, "urgent": True, "score": 0.5},
        worker_filter='labels.zone == "eu" && labels.gpu_memory >= 16',
    ),
    "task.submitted.v3.51": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        prefer=Prefer(filter='labels.rack == "r7"', for_s=30.5),
    ),
    "task.submitted.v3.52": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        prefer=Prefer(sticky_to="task_0"),
        prefers_worker="wrk_1",
    ),
    "task.submitted.v3.60": TaskSubmitted(task_id="task_1", task_name="summarize", pin_version=False),
    "task.submitted.v3.61": TaskSubmitted(
        task_id="task_1", task_name="summarize", rule="reports", rule_filter='agent_type in ["summarizer"]'
    ),
    "task.started.v1": TaskStarted(
        task_id="task_1", worker_id="wrk_1", claim_id="claim_1", attempt=2, lease="claim_1.2"
    ),
    "task.submitted.v3.70": TaskSubmitted(
        task_id="task_1",
        task_name="summarize",
        spend=_SPENDS,
    ),
    "task.report_refused.v2": TaskReportRefused(
        task_id="task_1", lease="claim_1.2", outcome="completed", worker_id="wrk_1", usage=_USAGE, spent=_SPENT
    ),
    "task.started.v2": TaskStarted(
        task_id="task_1", worker_id="wrk_1", claim_id="claim_1", attempt=2, lease="claim_1.2", build_id="b1"
    ),
    "task.started.v2.70": TaskStarted(
        task_id="task_1",
        worker_id="wrk_1",
        claim_id="claim_1",
        attempt=2,
        lease="claim_1.2",
        reserved=Reservation(tokens=10_000, money_micros=35_000, prices="2026-11", price=_PRICE),
    ),
    "task.progressed.v2.60": TaskProgressed(
        task_id="task_1", lease="claim_1.2", progress=0.5, usage=_USAGE, spent=_SPENT
    ),
    "task.progressed.v1": TaskProgressed(task_id="task_1", lease="claim_1.2", progress=0.5, message="half of it"),
    "task.progressed.v2": TaskProgressed(
        task_id="task_1", lease="claim_1.2", progress=0.5, message="half of it", checkpoint=_INLINE
    ),
    "task.completed.v1": TaskCompleted(task_id="task_1", lease="claim_1.2", execution_time_s=1.5, result=_INLINE),
    "task.completed.v2": TaskCompleted(
        task_id="task_1", lease="claim_1.2", execution_time_s=1.5, result=_INLINE, usage=_USAGE
    ),
    "task.completed.v2.60": TaskCompleted(task_id="task_1", lease="claim_1.2", usage=_USAGE, spent=_SPENT),
    "task.attempt_failed.v3.60": TaskAttemptFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="TooMany: 429",
        reason="failed",
        retry_at=1_795_455_300.5,
        attempt=2,
        usage=_USAGE,
        spent=_SPENT,
    ),
    "task.failed.v2.60": TaskFailed(
        task_id="task_1", lease="claim_1.2", error="no", reason="failed", attempt=2, usage=_USAGE, spent=_SPENT
    ),
    "task.cancelled.v2": TaskCancelled(
        task_id="task_1", reason="too dear", how="ended", lease="claim_1.2", usage=_USAGE, spent=_SPENT
    ),
    "task.timed_out.v2.60": TaskTimedOut(
        task_id="task_1", lease="claim_1.2", ran_for_s=12.5, limit_s=12.0, attempt=2, usage=_USAGE, spent=_SPENT
    ),
    "task.attempt_failed.v1": TaskAttemptFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="ValueError: no",
        reason="lease_expired",
        retry_at=1_795_455_300.5,
        silent_for_s=31.0,
        limit_s=30.0,
    ),
    "task.attempt_failed.v2": TaskAttemptFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="worker wrk_1 did not renew its lease",
        reason="lease_expired",
        retry_at=1_795_455_300.5,
        silent_for_s=31.0,
        limit_s=30.0,
        worker_ended=True,
    ),
    "task.attempt_failed.v3": TaskAttemptFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="worker wrk_1 did not renew its lease",
        reason="lease_expired",
        retry_at=1_795_455_300.5,
        silent_for_s=31.0,
        limit_s=30.0,
        worker_ended=True,
        usage=_USAGE,
    ),
    "task.attempt_failed.v3.2": TaskAttemptFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="TooMany: 429",
        reason="failed",
        retry_at=1_795_455_300.5,
        attempt=2,
        error_type="service.TooMany",
        retry_after_s=30.0,
        traceback="Traceback (most recent call last):\n…\nservice.TooMany: 429\n",
    ),
    "task.failed.v1": TaskFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="ValueError: no",
        reason="failed",
        silent_for_s=31.0,
        limit_s=30.0,
    ),
    "task.submitted.v3.3": TaskSubmitted(
        task_id="task_1",
        task_name="ocr.page",
        task_type="batch",
        priority=5,
        timeout_s=12.5,
        max_retries=3,
        resources=_MUCH,
        payload=_INLINE,
        idempotency_key="order-17",
        program="host.user.main",
        traced=True,
        after=After(tasks=("task_0", "task_9"), on=AfterOn.END, join=AfterJoin.ANY, otherwise=Otherwise.RUN),
        waits_for=("task_9",),
    ),
    "task.unblocked.v1": TaskUnblocked(task_id="task_1", predecessor="task_9", otherwise=True),
    "task.unblocked.v1.50": TaskUnblocked(task_id="task_1", predecessor="task_9", prefers_worker="wrk_1"),
    "task.cancelled.v1.3": TaskCancelled(
        task_id="task_1",
        reason="it was to run after task task_9, which ended as failed",
        how="predecessor",
        lease="claim_1.2",
        error="ValueError: 7",
        predecessor="task_9",
        usage=_USAGE,
    ),
    "task.failed.v2": TaskFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="ValueError: no",
        reason="failed",
        silent_for_s=31.0,
        limit_s=30.0,
        usage=_USAGE,
    ),
    "task.failed.v2.2": TaskFailed(
        task_id="task_1",
        lease="claim_1.2",
        error="ValueError: no",
        reason="non_retryable",
        attempt=2,
        error_type="ValueError",
        traceback="Traceback (most recent call last):\n…\nValueError: no\n",
    ),
    "task.cancelled.v1": TaskCancelled(task_id="task_1", reason="not needed any more"),
    "task.cancelled.v1.2": TaskCancelled(
        task_id="task_1", reason="not needed any more", how="failed", lease="claim_1.2", error="ValueError: 7"
    ),
    "task.cancel_asked.v1": TaskCancelAsked(
        task_id="task_1", grace_s=2.5, reason="not needed any more", escalate=Escalation.CONTAINER
    ),
    "task.cancel_told.v1": TaskCancelTold(task_id="task_1", lease="claim_1.2"),
    "task.cancel_forced.v1": TaskCancelForced(task_id="task_1", lease="claim_1.2", how="raised"),
    "task.timed_out.v1": TaskTimedOut(task_id="task_1", lease="claim_1.2", ran_for_s=12.75, limit_s=12.5),
    "task.timed_out.v2": TaskTimedOut(task_id="task_1", lease="claim_1.2", ran_for_s=12.75, limit_s=12.5, attempt=2),
    "task.paused.v1": TaskPaused(
        task_id="task_1",
        reason="retries_exhausted",
        lease="claim_1.2",
        cause="lease_expired",
        error="worker wrk_1 did not renew its lease",
        attempt=2,
        error_type="OSError",
        traceback="Traceback (most recent call last):\n…\nOSError: no\n",
        silent_for_s=31.0,
        limit_s=30.0,
        worker_ended=True,
        usage=_USAGE,
        spent=_SPENT,
    ),
    "task.resumed.v1.60": TaskResumed(task_id="task_1", reason="the other build is gone", move_to="b2"),
    "task.resumed.v1": TaskResumed(task_id="task_1", reason="it is open again", payload=_INLINE, more_retries=2),
    "task.timed_out.v2.2": TaskTimedOut(
        task_id="task_1", lease="", ran_for_s=60.75, limit_s=60.5, exceeded="start_within_s"
    ),
    "task.extended.v1": TaskExtended(task_id="task_1", lease="claim_1.2", by_s=30.5),
    "task.report_refused.v1": TaskReportRefused(
        task_id="task_1", lease="claim_1.1", outcome="completed", worker_id="wrk_1"
    ),
    "task.submitted.v3.32": TaskSubmitted(
        task_id="nightly-20261129T013000Z",
        task_name="summarize",
        occurrence=Occurrence(schedule_id="nightly", slot=1_795_915_800, source="acme"),
    ),
    # schedules
    "schedule.defined.v1": ScheduleDefined(
        schedule_id="nightly",
        timing=Timing(
            cron="30 2 * * *",
            every_s=600,
            time_zone="Europe/Berlin",
            jitter_s=30.5,
            start=1_795_800_000.5,
            end=1_796_800_000.5,
        ),
        task=TaskContent(
            task_name="summarize",
            task_type="text",
            priority=-7,
            timeout_s=12.5,
            max_retries=2,
            resources=_MUCH,
            payload=_INLINE,
            program="report-0f3c9a1b2d4e",
            time_limits=TimeLimits(start_within_s=60.5, finish_within_s=600.5, heartbeat_s=15.5),
            spend=_SPENDS,
            queue="reports",
            fairness_key="customer-7",
            retry=_RETRY,
            attributes={"customer": "acme"},
        ),
        next_slot=1_795_915_800,
        catchup=Catchup.ALL,
        catchup_most=7,
        overlap=Overlap.QUEUE,
    ),
    "schedule.fired.v1": ScheduleFired(
        schedule_id="nightly",
        slot=1_795_915_800,
        task_id="nightly-20261129T013000Z",
        next_slot=1_796_002_200,
        is_backfill=True,
    ),
    "schedule.defined.v1.50": ScheduleDefined(
        schedule_id="nightly",
        timing=Timing(every_s=60, start=1_795_915_800.5),
        task=TaskContent(task_name="summarize", resources=_NAMED, worker_filter='labels.zone == "eu"'),
        next_slot=1_795_915_800,
    ),
    "schedule.defined.v1.60": ScheduleDefined(
        schedule_id="nightly",
        timing=Timing(every_s=60, start=1_795_915_800.5),
        task=TaskContent(task_name="summarize", pin_version=False),
        next_slot=1_795_915_800,
    ),
    "schedule.queued.v1": ScheduleQueued(schedule_id="nightly", slot=1_795_915_800, next_slot=1_796_002_200),
    "schedule.skipped.v1": ScheduleSkipped(
        schedule_id="nightly", slot=1_795_829_400, through=1_795_915_800, reason="missed", next_slot=1_796_002_200
    ),
    "schedule.paused.v1": SchedulePaused(schedule_id="nightly", reason="maintenance"),
    "schedule.resumed.v1": ScheduleResumed(schedule_id="nightly", next_slot=1_796_002_200),
    "schedule.deleted.v1": ScheduleDeleted(schedule_id="nightly", reason="not needed any more"),
    # workers
    "worker.registered.v1": WorkerRegistered(
        worker_id="wrk_1", slots=4, resources=_MUCH, handles=("summarize", "translate"), container_id="ctr_1"
    ),
    "worker.registered.v2": WorkerRegistered(
        worker_id="wrk_1",
        slots=4,
        resources=_MUCH,
        handles=("summarize", "translate"),
        container_id="ctr_1",
        registration="registration_1",
    ),
    "worker.registered.v2.2": WorkerRegistered(
        worker_id="wrk_1",
        slots=4,
        resources=_MUCH,
        handles=("summarize", "translate"),
        container_id="ctr_1",
        registration="registration_1",
        owned=True,
    ),
    "worker.registered.v3": WorkerRegistered(
        worker_id="wrk_1",
        slots=4,
        resources=_NAMED,
        handles=("summarize", "translate"),
        container_id="ctr_1",
        registration="registration_1",
        labels={"zone": "eu", "gpu_memory": 24, "spot": False, "price": 1.5},
    ),
    "worker.registered.v3.60": WorkerRegistered(worker_id="wrk_1", slots=4, build_id="b1"),
    "worker.draining.v1": WorkerDraining(worker_id="wrk_1", reason="maintenance"),
    "worker.left.v1": WorkerLeft(worker_id="wrk_1", reason="stopped"),
    "worker.lost.v1": WorkerLost(worker_id="wrk_1", silent_for_s=61.5, limit_s=60.0),
    "worker.heartbeat.v1": WorkerHeartbeat(worker_id="wrk_1", leases=("claim_1.2", "claim_2.1"), load=0.5),
    "worker.heartbeat.v1.2": WorkerHeartbeat(
        worker_id="wrk_1", leases=("claim_1.2",), load=0.5, registration="registration_1"
    ),
    # nodes
    "node.registered.v1": NodeRegistered(node_id="node_1", capacity=_MUCH, runtime="process", labels={"zone": "eu-1"}),
    "node.cordoned.v1": NodeCordoned(node_id="node_1", reason="maintenance"),
    "node.uncordoned.v1": NodeUncordoned(node_id="node_1"),
    "node.draining.v1": NodeDraining(node_id="node_1", until=1795968131.604, reason="new kernel"),
    "node.drained.v1": NodeDrained(node_id="node_1"),
    "node.removing.v1": NodeRemoving(node_id="node_1"),
    "node.lost.v1": NodeLost(node_id="node_1", silent_for_s=23.5, limit_s=22.5),
    "node.returned.v1": NodeReturned(node_id="node_1"),
    "node.removed.v1": NodeRemoved(node_id="node_1", reason="retired"),
    "node.heartbeat.v1": NodeHeartbeat(node_id="node_1", used=_MUCH, containers=3),
    # pools
    "pool.defined.v1": PoolDefined(pool_id="pool_1", capacity=_MUCH),
    "pool.defined.v2": PoolDefined(pool_id="pool_1", capacity=_MUCH, owned=True),
    "pool.allocated.v1": PoolAllocated(pool_id="pool_1", request_id="req_1", resources=_MUCH, priority=9),
    "pool.allocated.v2": PoolAllocated(pool_id="pool_1", request_id="req_1", resources=_MUCH, priority=9, owned=True),
    "pool.defined.v3": PoolDefined(
        pool_id="tasks",
        capacity=Resources(cpu_millis=12_000, gpus=2),
        owned=True,
        parts={"node_1": Resources(cpu_millis=8000, gpus=2), "node_2": Resources(cpu_millis=4000)},
        placing=Placing.SPREAD,
        quotas={"tenant:*": Resources(gpus=1), "source:planning": Resources(cpu_millis=6000)},
    ),
    "pool.requested.v1": PoolRequested(
        pool_id="tasks",
        request_id="req_1",
        resources=_MUCH,
        priority=9,
        owned=True,
        owner="worker:worker_1",
        until=1_795_886_130.5,
        preempts=True,
        movable=True,
    ),
    "pool.allocated.v3": PoolAllocated(
        pool_id="tasks",
        request_id="req_1",
        resources=_MUCH,
        priority=9,
        owned=True,
        part="node_1",
        owner="worker:worker_1",
        movable=True,
    ),
    "pool.bound.v1": PoolBound(pool_id="tasks", request_id="req_1", owner="task:task_1"),
    "pool.moved.v1": PoolMoved(pool_id="tasks", request_id="req_1", part="node_2"),
    "pool.preempted.v1": PoolPreempted(
        pool_id="tasks", request_id="req_1", by="req_2", waits=True, worker_id="worker_1", lease="claim_1.1.1"
    ),
    "pool.withdrawn.v1": PoolWithdrawn(pool_id="tasks", request_id="req_1", reason="timed_out"),
    "pool.released.v1": PoolReleased(pool_id="pool_1", request_id="req_1", reason="finished"),
    # queues
    "queue.defined.v1": QueueDefined(queue_id="reports", weight=2.5),
    "queue.policy_set.v1": QueuePolicySet(
        queue_id="reports",
        policy=Policy(
            strategy="fair",
            ageing_s=30.0,
            priority_weights={"urgent": 9},
            fair=FairShare(by="key", cost="tokens", half_life_s=60.0, weights={"customer-7": 3.0}),
        ),
        reason="the large customer pays for more",
        by_settings=True,
    ),
    "queue.policy_failed.v1": QueuePolicyFailed(
        queue_id="default", policy="policies:Cheapest", why="late", detail="no answer within 20 ms", times=2
    ),
    "queue.policy_set.v1.2": QueuePolicySet(
        queue_id="default", policy=Policy(strategy="custom", custom="policies:Cheapest"), reason="a trial"
    ),
    "queue.shadow_set.v1": QueueShadowSet(
        queue_id="reports",
        policy=Policy(strategy="priority", ageing_s=60.0),
        against=Policy(strategy="fifo"),
        regret_max=0.5,
        min_decisions=500,
        reason="urgent ones wait",
    ),
    "queue.shadow_reported.v1": QueueShadowReported(
        queue_id="reports",
        after=41,
        upto=97,
        compared=Comparison(
            turns=12,
            skipped=3,
            decisions=30,
            differing=4,
            regret_s=2.5,
            regret_squares=1.5,
            regret_by_decisions=6.5,
            decision_squares=90,
        ),
        examples=(
            OtherDecision(
                sequence=97, task_id="task_1", worker_id="worker_1", other_task_id="task_2", other_worker_id="worker_2"
            ),
        ),
    ),
    "queue.promoted.v1": QueuePromoted(
        queue_id="reports",
        policy=Policy(strategy="priority", ageing_s=60.0),
        before=Policy(strategy="fair", fair=FairShare(by="key")),
        decisions=1200,
        regret_s=-0.25,
        regret_high_s=0.125,
        regret_max=0.5,
        reason="urgent ones begin sooner",
    ),
    "queue.rolled_back.v1": QueueRolledBack(
        queue_id="default", policy=Policy(strategy="priority"), by_settings=True, reason="reports are late"
    ),
    "queue.shadow_set.v1.2": QueueShadowSet(
        queue_id="reports", policy=_ALL_OF_A_POLICY, against=_ALL_OF_A_POLICY, regret_max=0.5
    ),
    "queue.promoted.v1.2": QueuePromoted(
        queue_id="reports",
        policy=_ALL_OF_A_POLICY,
        before=_ALL_OF_A_POLICY,
        decisions=1200,
        regret_s=-0.25,
        regret_high_s=0.125,
        regret_max=0.5,
    ),
    "queue.rolled_back.v1.2": QueueRolledBack(queue_id="reports", policy=_ALL_OF_A_POLICY),
    "queue.paused.v1": QueuePaused(queue_id="reports", reason="the model is down"),
    "queue.blocked.v1": QueueBlocked(
        queue_id="reports",
        shape="5f2c9f0d9e1b7a34",
        task_name="render",
        since=1753005600.25,
        cause="key_full",
        key="per_customer:acme",
        holders=("task_1", "task_2"),
        held_by={"acme": 2},
        waiting={"acme": 12, "": 3},
    ),
    "queue.resumed.v1": QueueResumed(queue_id="reports", reason="it is back"),
    "queue.deleted.v1": QueueDeleted(queue_id="reports", reason="not needed any more"),
    "queue.routed.v1": QueueRouted(
        queue_id="reports", route=Route(current="b1", ramping="b2", percent=12.5), reason="carefully"
    ),
    # versions of workers
    "version.retired.v1": VersionRetired(build_id="b1", move_to="b2", reason="it loses letters"),
    "version.reinstated.v1": VersionReinstated(build_id="b1", reason="it was not the letters"),
    # holds
    "hold.placed.v1": HoldPlaced(
        hold_id="acme",
        where='task_name == "report" && attributes.customer == "acme"',
        queue="reports",
        reason="acme asked for it",
        expires_at=1_795_889_731.75,
    ),
    "hold.lifted.v1": HoldLifted(hold_id="acme", reason="they are ready"),
    "hold.expired.v1": HoldExpired(hold_id="acme"),
    # limits
    "budget.defined.v1": BudgetDefined(
        budget_id="team",
        terms=BudgetTerms(
            cap=1_000_000,
            unit=Unit.MONEY,
            by="tenant",
            where='queue == "reports"',
            window="5h",
            floor=200_000,
            floor_for="priority >= 8",
            stop=Stop.KILL,
        ),
        reason="trial",
    ),
    "budget.corrected.v1": BudgetCorrected(
        budget_id="team", key="acme", window=1_795_910_400, amount=-1200, of_floor=True, reason="late bill"
    ),
    "budget.removed.v1": BudgetRemoved(budget_id="team", reason="not needed any more"),
    "agents.changed.v1": AgentsChanged(
        digest="5c8f0ce1a0b8a3d65c8f0ce1a0b8a3d65c8f0ce1a0b8a3d65c8f0ce1a0b8a3d6",
        agents={
            "reviewer": AgentType(
                command=("python", "-m", "reviewer"),
                image="images.example/reviewer:1.2",
                when_cut_off="keep",
                stop_grace_s=3.0,
                limits=Resources(cpu_millis=500),
                restart=_RESTART,
                moves=False,
                node_filter='labels.zone == "eu"',
            )
        },
        reason="reviewers",
    ),
    "prices.set.v1": PricesSet(version="2026-11", models={"gpt-5": _PRICE}, reason="new prices"),
    "limit.defined.v1": LimitDefined(
        limit_id="per_customer",
        terms=Terms(
            by="attributes.customer",
            where='queue == "reports"',
            running=2,
            starts=60,
            per_s=60.0,
            pending=1000,
            cooldown_s=1.5,
            debounce_s=2.0,
            debounce_most_s=30.0,
            when_busy=WhenBusy.RETURN_EXISTING,
            parent="everyone",
            retries_only=True,
        ),
        reason="the model allows so much",
    ),
    "limit.deleted.v1": LimitDeleted(limit_id="per_customer", reason="not needed any more"),
    # sessions
    "session.bound.v1": SessionBound(session_id="session_1", container_id="ctr_1"),
    "session.bound.v2": SessionBound(session_id="session_1", container_id="ctr_1", traced=True),
    "session.bound.v2.2": SessionBound(session_id="session_1", container_id="ctr_1", traced=True, owned=True),
    "session.closed.v1": SessionClosed(session_id="session_1", reason="its container was destroyed"),
    # idempotency keys
    "idempotency.forgotten.v1": IdempotencyForgotten(tenant="acme", through=1_795_886_130.5),
    # inboxes
    "inbox.recorded.v1": InboxRecorded(
        domain="monitoring",
        type="alert.raised",
        event_id="alert_7",
        event_source="/monitoring/eu",
        about="disk_3",
        event_time="2026-11-23T17:14:59.5+01:00",
        data=Raw(b'{"level":9.5,"gr\xc3\xb6\xc3\x9fe":[-0.25,null,18446744073709551615]}'),
    ),
    "inbox.refused.v1": InboxRefused(
        domain="execution",
        sequence=41,
        index=2,
        reason="bad_request",
        message="submit_task: data has a field 'prio' that is not known: did you mean 'priority'?",
        type="task.submitted",
        event_id="evt_1",
        digest=sha256(b"x").hexdigest(),
        begins='[{"specversion":"1.0"',
    ),
    "inbox.read.v1": InboxRead(
        domain="execution", stream_created="2026-11-23T17:00:00.123456789Z", sequence=40, index=3
    ),
    "inbox.gap.v1": InboxGap(
        domain="execution",
        stream_created="2026-11-23T17:00:00.123456789Z",
        from_sequence=41,
        to_sequence=99,
        why="removed",
    ),
    # the coordinator itself
    "coordinator.started.v1": CoordinatorStarted(
        instance="coord_1", version="0.1.0", retention_s=3600.0, ended_kept=10_000
    ),
    "coordinator.stopped.v1": CoordinatorStopped(instance="coord_1", reason="asked to"),
    "coordinator.turn.v1": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_1", "wrk_1", 4, "fifo"), WaitingClaim("claim_2", "wrk_2", 1, "least_loaded")),
        policy="schedule",
        policy_version=1,
        placed=2,
        loads={"wrk_2": 0.25},
    ),
    "coordinator.turn.v1.2": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_1", "wrk_1", 4, "fifo"),),
        policy="schedule",
        policy_version=1,
        placed=2,
        filters={"claim_1": ClaimFilter(programs=("report-0f3c9a1b2d4e",), task_names=("summarize",))},
    ),
    "coordinator.turn.v2": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_1", "wrk_1", 4, "weighted_round_robin"),),
        policy="schedule",
        policy_version=2,
        placed=1,
        rounds={"wrk_1": 17.25},
    ),
    "coordinator.turn.v3": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_3", "wrk_1", 4, "weighted_round_robin"),),
        policy="schedule",
        policy_version=2,
        placed=1,
        loads={"wrk_2": 0.0},
        filters={"claim_3": ClaimFilter(task_names=("summarize",))},
        rounds={"wrk_1": 17.25},
        containers={"ctr_1": "running"},
        fresh=True,
        went=("claim_1",),
        claims_digest="1f0c9e6a52d4b870",
    ),
    "coordinator.turn.v4": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_3", "wrk_1", 4, ""),),
        policy="schedule",
        policy_version=3,
        placed=1,
        loads={"wrk_2": 0.0},
        filters={"claim_3": ClaimFilter(task_names=("summarize",))},
        rounds={"wrk_1": 17.25},
        containers={"ctr_1": "running"},
        fresh=True,
        went=("claim_1",),
        claims_digest="1f0c9e6a52d4b870",
        chosen={"claim_3": ("task_1",)},
        chosen_by="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ),
    "coordinator.command_refused.v1": CoordinatorCommandRefused(
        instance="coord_1",
        command="task.submit",
        reason="quota",
        message="1000 tasks of source domain-billing are pending, the most it may have: submit later",
        about="task_1",
        count=250,
    ),
    "coordinator.placement_refused.v1": CoordinatorPlacementRefused(
        container_id="ctr_1",
        resources=Resources(cpu_millis=2000, memory_bytes=1024, gpus=1),
        reason="no_room",
        nodes={"node_1": "has too few free resources (cpu: asked 2000m, free 500m)", "node_2": "is lost"},
        others=1,
        count=3,
    ),
    "coordinator.turn.v1.3": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_1", "wrk_1", 4, "fifo"), WaitingClaim("claim_2", "wrk_2", 1, "fifo")),
        policy="schedule",
        policy_version=2,
        placed=1,
        containers={"ctr_1": "running", "ctr_2": "pausing"},
    ),
    "coordinator.turn.v4.2": CoordinatorTurn(
        instance="coord_1",
        now=1_795_455_300.123456,
        claims=(WaitingClaim("claim_1", "wrk_1", 4, "fifo"),),
        policy="schedule",
        policy_version=3,
        placed=1,
        claims_digest="1f0c9e6a52d4b870",
        kept=2,
    ),
    "coordinator.mass_silence_noticed.v1": CoordinatorMassSilenceNoticed(
        instance="coord_1", kind=Watched.SERVICE, silent=40, alive=100, limit_s=90.0, most=0.15
    ),
    "coordinator.mass_silence_ended.v1": CoordinatorMassSilenceEnded(
        instance="coord_1", kind=Watched.SERVICE, silent=38, accepted=True, reason="rack 7 burned down"
    ),
}


def enveloped(event: Event) -> Envelope:
    """Put *event* into an envelope of which every attribute is set."""
    return codec.envelope(
        event,
        position=Position(1042, 3),
        time="2026-11-23T17:15:00.123456Z",
        source="/coordination/1",
        tenant="acme",
        actor="communication",
        commandid="cmd_1",
        causationid="1041.0",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
