"""
The sections of the settings: every key with its default, its bounds, and its description.

Nothing is read here: see `load`. Defaults for decisions and the engine are defined in `Rules` and `Limits`, nowhere
else. Names from the requirements are unchanged; in all others the unit is the last word. Times are in seconds.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from coordinator.commands.node import SYNC_TIMEOUT_LEASES, SYNCS_A_LEASE
from coordinator.deciders.rules import Limits, Rules
from coordinator.settings.fields import (
    DAY_S,
    LOOPBACK,
    Amounts,
    AnyCase,
    Command,
    ExitCodes,
    Identifier,
    Image,
    Labels,
    Location,
    Networks,
    NodeFilter,
    NodeId,
    PolicyName,
    Replicas,
    Section,
    Strategy,
    Urls,
    apart,
    number,
    number_or_none,
    plain,
)
from coordinator.settings.runtimes import DockerSettings, OciSettings
from events.agents import AgentType
from events.container import AS_ALL, RestartPolicy
from events.resources import Resources

_RULES = Rules()
_LIMITS = Limits()
_AGENT = AgentType()
"""The default values."""

TURN_BYTES_MOST = 900 * 1024
"""A commit with its headers must fit into one message; nats.conf allows 1 MB."""


class RestartSettings(Section):
    """What happens after a container of this type has failed."""

    attempts: int | None = number_or_none(0, 1000, "failures within interval_s after which it is restarted")
    interval_s: float = number(AS_ALL.interval_s, 0.0, DAY_S, "seconds that failures are counted for, from the first")
    mode: Literal["fail", "delay"] = plain(
        AS_ALL.mode, "after one failure more: fail is not to restart it, delay is to wait for the end of the interval"
    )
    delay_s: float | None = number_or_none(0.0, DAY_S, "pause before the first restart")
    delay_max_s: float | None = number_or_none(0.0, DAY_S, "longest pause before a restart")
    reset_s: float | None = number_or_none(0.0, DAY_S, "after such a run the pause is the first one again")
    finished_codes: ExitCodes = plain((), "exit codes from 1 to 255 that are no failures")

    def policy(self) -> RestartPolicy:
        """Return it as decisions use it; the usual one is always the same, so that it takes no room in events."""
        found = RestartPolicy(**dict(self))
        return AS_ALL if found == AS_ALL else found


class AgentSettings(Section):
    """One agent type: what a container of this type runs."""

    image: Image = plain(
        "", "image, for nodes whose runtime is docker or oci; nodes of processes run the command without it"
    )
    command: Command = plain((), "program and arguments; may be empty with an image that has a command of its own")
    limits: Amounts = plain(
        Amounts(), "most that one container of this type may ask for, and gets where it asks for nothing"
    )
    when_cut_off: Literal["stop", "keep"] = plain(
        _AGENT.when_cut_off, "whether its node stops or keeps it when the node is cut off from the coordinator"
    )
    stop_grace_s: float = number(_AGENT.stop_grace_s, 0.0, 3600.0, "time from SIGTERM to SIGKILL when it is stopped")

    move: Literal["anywhere", "never"] = plain(
        "anywhere", "where it starts again: on any node, or never on another one than before"
    )
    node_filter: NodeFilter = plain("", 'condition on the nodes that may run it, such as labels.zone == "eu"')
    restart: RestartSettings = plain(RestartSettings(), "what happens after a container of this type has failed")

    def agent_type(self) -> AgentType:
        """Return it as decisions use it."""
        return AgentType(
            command=self.command,
            image=self.image,
            when_cut_off=self.when_cut_off,
            stop_grace_s=self.stop_grace_s,
            limits=Resources.parse(self.limits.given()),
            restart=self.restart.policy(),
            moves=self.move != "never",
            node_filter=self.node_filter,
        )


class ContainerSettings(Section):
    """Containers: number, size, timeouts and restarts."""

    max_containers: int = number(_RULES.max_containers, 1, 100_000, "containers that may exist at a time")
    default_timeout: float = number(300.0, 0.05, DAY_S, "seconds that a call waits for a container to start or stop")
    health_check_interval: float = number(
        30.0, 0.05, DAY_S, "no effect yet: seconds between two health checks of a container"
    )
    resource_limits: Amounts = plain(
        Amounts(), "most that any container may ask for, and gets where it asks for nothing"
    )
    start_timeout_s: float = number(
        _RULES.container_start_timeout_s,
        0.05,
        DAY_S,
        "a container that is not running this long after its start has failed",
    )
    restart_backoff_s: float = number(
        _RULES.restart_backoff_s, 0.0, 3600.0, "pause before the first restart; it doubles with each restart"
    )
    restart_backoff_max_s: float = number(_RULES.restart_backoff_max_s, 0.0, DAY_S, "longest pause before a restart")
    restart_reset_s: float = number(
        _RULES.restart_reset_s, 0.0, DAY_S, "after running this long, the count of restarts starts at 0 again"
    )

    IN_ORDER = (
        ("restart_backoff_s", "restart_backoff_max_s", 1, "the longest pause must not be shorter than the first"),
    )


class SchedulerSettings(Section):
    """Tasks: number, retries, leases and claims."""

    max_concurrent_tasks: int = number(_RULES.max_concurrent_tasks, 1, 1_000_000, "tasks that may run at a time")
    task_timeout_check_interval: float = number(
        30.0, 0.05, 3600.0, "seconds at most between two checks of deadlines; matters only below engine.tick_s"
    )
    default_strategy: Strategy = plain(
        _RULES.default_strategy, "order in which tasks are claimed, until a policy is set by command"
    )
    custom_policy: PolicyName = plain(
        "", "your own policy, as module:Class; it is live with the strategy custom, in a process of its own"
    )
    policy_window: int = number(_RULES.policy_window, 1, 1000, "ready tasks that your own policy chooses from")
    policy_deadline_s: float = number(
        _RULES.policy_deadline_s, 0.001, 1.0, "how long your own policy may take; the writer waits meanwhile"
    )
    priority_ageing_s: float = number(
        _RULES.priority_ageing_s,
        0.0,
        366 * DAY_S,
        "a task that has waited this much longer counts as one priority higher; 0: age does not count",
    )
    max_retries: int = number(_RULES.max_retries, 0, 1000, "retries of a task that does not set its own limit")
    poison_after: int = number(
        _RULES.poison_after, 1, 1000, "a task fails, whatever retries are left, after this many workers ended with it"
    )
    retry_backoff_s: float = number(
        _RULES.retry_backoff_s, 0.0, 3600.0, "longest pause before the first retry; it doubles with each retry"
    )
    retry_backoff_max_s: float = number(_RULES.retry_backoff_max_s, 0.0, DAY_S, "longest pause before a retry")
    cancel_grace_s: float = number(
        _RULES.cancel_grace_s, 0.0, DAY_S, "time that a running task has to end after it was cancelled"
    )
    lease_s: float = number(_RULES.lease_s, 0.05, DAY_S, "an attempt expires if no heartbeat names it for this long")
    worker_timeout_s: float = number(
        _RULES.worker_timeout_s, 0.05, DAY_S, "a worker without a heartbeat for this long is lost"
    )
    max_pending_tasks: int = number(_RULES.max_pending_tasks, 1, 10_000_000, "tasks that may be pending at a time")
    max_pending_bytes: int = number(
        _RULES.max_pending_bytes,
        1024 * 1024,
        8 * 1024 * 1024 * 1024,
        "bytes of the payloads of tasks that have not ended, without those of up to 256 characters; a source has half "
        "of what others leave",
    )
    payload_bytes_max: int = number(
        _RULES.payload_bytes_max, 1024, 256 * 1024, "largest payload or result kept in the journal itself"
    )
    claim_slots_max: int = number(_RULES.claim_slots_max, 1, 10_000, "tasks that one claim may request")
    claim_wait_max_s: float = number(_RULES.claim_wait_max_s, 0.0, 3600.0, "how long a claim may wait for tasks")

    @model_validator(mode="after")
    def _check_custom(self) -> Self:
        if self.default_strategy == "custom" and not self.custom_policy:
            raise apart("scheduler.default_strategy is custom: name the class in scheduler.custom_policy")
        return self

    IN_ORDER = (
        ("retry_backoff_s", "retry_backoff_max_s", 1, "the longest pause must not be shorter than the first"),
        (
            "lease_s",
            "worker_timeout_s",
            0.5,
            "a worker sends three heartbeats per lease and must not be lost between two",
        ),
    )


class EngineSettings(Section):
    """The writer's turn: its size, its queues, and how long ended objects stay in memory."""

    turn_commands: int = number(_LIMITS.turn_commands, 1, 100_000, "commands in one turn")
    turn_bytes: int = number(
        _LIMITS.turn_bytes, 64 * 1024, TURN_BYTES_MOST, "bytes of one commit; a server's max_payload is 1 MB"
    )
    intake_max: int = number(
        _LIMITS.intake_max, 1, 1_000_000, "commands that may wait for a turn, and questions; further ones are refused"
    )
    waiting_max: int = number(
        _LIMITS.waiting_max, 1, 1_000_000, "claims that may wait, and questions; a source has half of what others leave"
    )
    wait_max_s: float = number(_LIMITS.wait_max_s, 0.05, 3600.0, "how long a question may wait")
    tick_s: float = number(_LIMITS.tick_s, 0.01, 60.0, "interval between two checks of deadlines and timeouts")
    blind_after_s: float = number(
        _LIMITS.blind_after_s,
        0.1,
        3600.0,
        "after a standstill longer than this, nothing counts as silent because of the standstill",
    )
    retention_s: float = number(
        _LIMITS.retention_s, 0.0, 365 * DAY_S, "how long ended objects stay in memory; the store keeps them longer"
    )
    ended_kept: int = number(
        _LIMITS.ended_kept, 0, 10_000_000, "ended objects of one kind kept in memory; the oldest are evicted first"
    )
    remembered_max: int = number(
        _RULES.remembered_max,
        1000,
        1_000_000_000,
        "ended tasks, commands and idempotency keys remembered to recognize repeats; when full, no task is accepted",
    )
    text_chars_max: int = number(
        _RULES.text_chars_max, 64, 65_536, "characters of a reason, message or other short text"
    )
    niceness: int = number(
        -10, -20, 0, "nice value of the process: lower gets CPU before others; needs root, and is left out without it"
    )


class NodeSettings(Section):
    """This machine as a node: its capacity and its container runtime."""

    node_id: NodeId = plain("", "name of the node; empty derives one from the host name")
    runtime: Annotated[Literal["process", "docker", "oci", "fake"], AnyCase] = plain(
        "process", "the runtime of containers; fake only pretends to run them"
    )
    labels: Labels = plain(
        {}, "labels of the node, which the node_filter of agent types may ask for; in a variable zone=eu,disk=ssd"
    )
    isolation: Annotated[Literal["none", "available", "limits"], AnyCase] = plain(
        "none",
        "limits of memory, CPU and processes for containers: none; the available ones; or all, else it does not start",
    )
    docker: DockerSettings = plain(DockerSettings(), "Docker, for containers with runtime docker")
    oci: OciSettings = plain(OciSettings(), "the OCI runtime, for containers with runtime oci")
    capacity: Amounts = plain(Amounts(), "capacity of the node, instead of that of the machine")
    cpu_overcommit: float = number(_RULES.cpu_overcommit, 0.1, 100.0, "how many times each core may be allocated")
    node_lease_s: float = number(
        _RULES.node_lease_s, 1.0, 3600.0, "a node whose lease was not renewed for this long is cut off"
    )
    sync_interval_s: float = number(
        1.0, 0.02, 60.0, "interval between two comparisons of the observed with the desired state"
    )
    container_creds: Location | None = plain(None, "file of NATS credentials passed to containers")
    niceness: int = number(
        5,
        0,
        19,
        "nice value of the agent and its containers: higher yields CPU to a coordinator and NATS beside them",
    )

    @model_validator(mode="after")
    def _check_lease(self) -> Self:
        timeout_s = SYNC_TIMEOUT_LEASES * self.node_lease_s
        needed_s = SYNCS_A_LEASE * (self.sync_interval_s + timeout_s)
        if needed_s > self.node_lease_s:
            least_s = self.sync_interval_s / (1 / SYNCS_A_LEASE - SYNC_TIMEOUT_LEASES)
            raise apart(
                f"node.node_lease_s is {self.node_lease_s:.10g}: use at least {math.ceil(least_s * 100) / 100:.10g}, "
                f"because one lost message must not cut the node off, and {SYNCS_A_LEASE} syncs take "
                f"{SYNCS_A_LEASE} × (node.sync_interval_s ({self.sync_interval_s:.10g}) + a time-out of "
                f"{SYNC_TIMEOUT_LEASES:g} × node.node_lease_s ({timeout_s:.10g})) = {needed_s:.10g} s"
            )
        return self


class LeadershipSettings(Section):
    """The writer's lease."""

    ttl_s: int = number(12, 2, 3600, "without renewal, the server deletes the lease after this time")
    renew_s: float = number(2.0, 0.5, 1800.0, "interval between two renewals")
    stop_after_s: float = number(9.6, 0.5, 3600.0, "a writer stops when its last renewal is older than this")
    fresh_s: float = number(
        6.0, 0.5, 3600.0, "a writer answers without a commit only if its last renewal is younger than this"
    )

    IN_ORDER = (
        ("renew_s", "fresh_s", 1, "the next renewal must come before the last one is too old for answers"),
        ("fresh_s", "stop_after_s", 1, "a writer must stop answering before it stops writing"),
        ("stop_after_s", "ttl_s", 1, "a writer must stop before the server deletes its lease"),
        ("renew_s", "ttl_s", 2, "a lease must be renewed at least twice before it expires"),
    )


class NatsSettings(Section):
    """The connection to NATS."""

    url: Urls = Field(default="", repr=False, description="URL of NATS; empty starts a local server")
    creds: Location | None = plain(None, "file of credentials")
    auth: Location | None = plain(
        None, "directory of 'coordinator auth'; each process uses the credentials of its role"
    )
    tls_ca: Location | None = plain(None, "file of certificates to trust")
    replicas: Replicas = number(1, 1, 5, "copies of each stream: 1, 3 or 5")
    connect_timeout_s: float = number(5.0, 0.05, 300.0, "how long a program waits at its start until a server answers")


class ClientSettings(Section):
    """Clients that call the coordinator over NATS."""

    # The writer deduplicates commands for ten minutes: one sent again later could be executed twice.
    call_timeout_s: float = number(30.0, 0.05, 300.0, "timeout of a call")
    program: Identifier | None = plain(
        None, "name of this program, whose tasks `get_next_task` returns; none means its main file on this machine"
    )
    tenant: Identifier = plain("default", "tenant of the commands of this program and of the command line")
    attempt_timeout_s: float = number(2.0, 0.02, 300.0, "an attempt without answer is sent again after this time")
    discovery_refresh_s: float = number(
        5.0, 0.1, 3600.0, "interval between two reads of the loads, when services are chosen by load"
    )
    discovery_stale_s: float = number(
        10.0, 2.0, 3600.0, "without news for this long, discovery asks the coordinator instead of its own list"
    )
    discovery_services_max: int = number(
        20_000, 1, 1_000_000, "with more services than this, each discovery asks the coordinator"
    )

    IN_ORDER = (("attempt_timeout_s", "call_timeout_s", 1, "a call consists of one or more attempts"),)


class LogSettings(Section):
    """Logging: level and format."""

    level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = plain(
        "info", "log events below this level are dropped"
    )
    format: Annotated[Literal["auto", "console", "json"], AnyCase] = plain(
        "auto", "auto means console on a terminal, otherwise json"
    )


class FeedSettings(Section):
    """The feed: every event singly, on a stream that others subscribe to."""

    mode: Literal["publish", "none"] = plain("publish", "whether followers publish the feed")
    max_age_s: float = number(DAY_S, 60.0, 365 * DAY_S, "events are removed from the feed after this time")
    max_bytes: int = number(
        2 * 1024**3, 1024 * 1024, 2**50, "above this size the oldest events are removed from the feed"
    )
    window_events: int = number(1000, 1, 2000, "events sent before one acknowledgement is awaited")
    ack_timeout_s: float = number(10.0, 0.1, 300.0, "how long such a window waits for its acknowledgement")
    stand_by_s: float = number(2.0, 0.05, 3600.0, "interval at which a follower on standby checks the feed, about")


class FollowerSettings(Section):
    """The follower process: it follows the journal and decides nothing."""

    archive: Location | None = plain(None, "directory of the archive, for records removed from the journal")
    snapshot_events: int = number(100_000, 0, 10**9, "events between two snapshots; 0 writes no snapshots")
    snapshot_pause_s: float = number(30.0, 0.0, DAY_S, "seconds at least between two snapshots")
    snapshots_kept: int = number(3, 1, 50, "number of snapshots kept; older ones are removed")
    keep_days: float = number(
        0.0, 0.0, 36_500.0, "events, and tasks that ended, leave the read model after so many days; 0 keeps all"
    )
    keep_events: int = number(0, 0, 10**12, "the read model keeps so many events, the newest; 0 keeps all")
    niceness: int = number(
        5, 0, 19, "nice value: higher yields CPU to other processes; the follower then lags and catches up later"
    )
    shadow_report_s: float = number(
        30.0, 0.5, DAY_S, "seconds between two reports of how a candidate policy compares with the live one"
    )
    creds: Location | None = plain(None, "file of credentials, instead of nats.creds")


class InboxSettings(Section):
    """The inboxes of other domains; limits of a stream apply when `coordinator inbox add` creates it."""

    max_bytes: int = number(
        1024**3, 1024**2, 1024**4, "bytes that one inbox holds; when it is full, the publisher is refused"
    )
    max_age_s: float = number(
        120.0, 0.0, 365 * DAY_S, "a message that was read is removed after this time; one that was not is kept"
    )
    max_msg_size_bytes: int = number(512 * 1024, 1024, 960 * 1024, "largest message that an inbox accepts")
    waiting_max: int = number(_LIMITS.inbox_max, 100, 1_000_000, "events of one inbox that may wait for the writer")
    discover_s: float = number(2.0, 0.05, 3600.0, "interval between two checks for new inboxes")


class RegistrySettings(Section):
    """Services: when one is healthy, offline, or deregistered."""

    cleanup_interval: float = number(
        60.0, 0.05, DAY_S, "seconds at most between two checks for expired services; matters only below engine.tick_s"
    )
    health_check_interval: float = number(
        30.0, 0.05, DAY_S, "seconds between two checks of a service, by its health URL or a custom check"
    )
    heartbeat_timeout: float = number(
        _RULES.heartbeat_timeout_s, 0.05, DAY_S, "seconds without a heartbeat after which a service is offline"
    )
    max_services: int = number(_RULES.max_services, 1, 1_000_000, "services that may be registered at a time")
    health_check_networks: Networks = plain(
        LOOPBACK, "networks that health checks may connect to; none where nats.url is set, unless they are listed"
    )
    health_check_timeout_s: float = number(2.0, 0.05, 300.0, "timeout of one health check")
    health_checks_at_once: int = number(100, 1, 10_000, "health checks that run at a time; further ones wait")
    check_rise: int = number(
        _RULES.check_rise, 1, 100, "checks in a row that must pass until a service is healthy again"
    )
    check_fall: int = number(_RULES.check_fall, 1, 100, "checks in a row that must fail until a service is unhealthy")
    deregister_after_s: float = number(
        _RULES.deregister_after_s, 0.0, 30 * DAY_S, "a service that is offline for this long is deregistered"
    )

    mass_silence_share: float = number(
        _RULES.mass_silence_share,
        0.0,
        1.0,
        "mass silence: if more than this share of services, workers or nodes goes silent at once, none is given up",
    )
    mass_silence_least: int = number(
        _RULES.mass_silence_least, 1, 1_000_000, "fewer than this are never a mass silence, whatever their share"
    )

    IN_ORDER = (("health_check_timeout_s", "health_check_interval", 1, "a check must end before the next one begins"),)
