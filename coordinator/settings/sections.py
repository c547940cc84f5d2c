"""
The sections of the settings: every key with its default, its bounds, and what it is.

Nothing is read here: see `load`. What decisions and the engine go by has its default in `Rules` and `Limits`, nowhere
else. The requirements' names are kept as they are; in ours, the unit is the last word. Times are in seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from coordinator.deciders.rules import AgentType, Limits, Rules
from coordinator.settings.fields import (
    DAY_S,
    LOOPBACK,
    Amounts,
    AnyCase,
    Command,
    Image,
    Location,
    Networks,
    NodeId,
    Replicas,
    Section,
    Strategy,
    Urls,
    number,
    plain,
)

_RULES = Rules()
_LIMITS = Limits()
"""Where the default values stand."""

TURN_BYTES_MOST = 900 * 1024
"""A commit and its headers must fit into one message: nats.conf allows 1 MB."""


class AgentSettings(Section):
    """One entry of the catalogue: what runs when a container of this agent type starts."""

    image: Image = plain("", "image, for runtimes that have some")
    command: Command = plain((), "program and arguments; empty runs what the image says")
    limits: Amounts = plain(Amounts(), "most that one container of this type may ask for")
    when_cut_off: Literal["stop", "keep"] = plain(
        "stop", "what becomes of it when its node hears nothing from the coordinator"
    )
    stop_grace_s: float = number(10.0, 0.0, 3600.0, "from asking it to end to killing it")

    def agent_type(self) -> AgentType:
        """Give what decisions need of it."""
        return AgentType(
            command=self.command, image=self.image, when_cut_off=self.when_cut_off, stop_grace_s=self.stop_grace_s
        )


class ContainerSettings(Section):
    """Containers: how many, how big, how patiently."""

    max_containers: int = number(_RULES.max_containers, 1, 100_000, "containers that may stand at a time")
    default_timeout: float = number(300.0, 0.05, DAY_S, "seconds that a call to start or stop a container waits for it")
    health_check_interval: float = number(30.0, 0.05, DAY_S, "seconds between two looks at a container's health")
    resource_limits: Amounts = plain(Amounts(), "most that one container may ask for")
    start_timeout_s: float = number(
        _RULES.container_start_timeout_s,
        0.05,
        DAY_S,
        "a container that does not run so long after its start has failed",
    )
    restart_backoff_s: float = number(
        _RULES.restart_backoff_s, 0.0, 3600.0, "pause before the first restart; it doubles each time"
    )
    restart_backoff_max_s: float = number(_RULES.restart_backoff_max_s, 0.0, DAY_S, "longest pause before a restart")
    restart_reset_s: float = number(
        _RULES.restart_reset_s, 0.0, DAY_S, "after running so long, restarts count from none again"
    )

    IN_ORDER = (("restart_backoff_s", "restart_backoff_max_s", 1, "the longest pause is no shorter than the first"),)


class SchedulerSettings(Section):
    """Tasks: how many, how often, how long they are lent to a worker."""

    max_concurrent_tasks: int = number(_RULES.max_concurrent_tasks, 1, 1_000_000, "tasks that may run at a time")
    task_timeout_check_interval: float = number(30.0, 0.05, 3600.0, "seconds at most between two looks at deadlines")
    default_strategy: Strategy = plain(_RULES.default_strategy, "order of tasks for claims that name none")
    max_retries: int = number(_RULES.max_retries, 0, 1000, "further attempts for tasks that say nothing of it")
    retry_backoff_s: float = number(
        _RULES.retry_backoff_s, 0.0, 3600.0, "pause before the first retry at most; it doubles each time"
    )
    retry_backoff_max_s: float = number(_RULES.retry_backoff_max_s, 0.0, DAY_S, "longest pause before a retry")
    lease_s: float = number(_RULES.lease_s, 0.05, DAY_S, "an attempt that no heartbeat names for so long is given up")
    worker_timeout_s: float = number(_RULES.worker_timeout_s, 0.05, DAY_S, "a worker silent so long is lost")
    max_pending_tasks: int = number(_RULES.max_pending_tasks, 1, 10_000_000, "tasks that may wait at a time")
    payload_bytes_max: int = number(
        _RULES.payload_bytes_max, 1024, 256 * 1024, "largest payload or result kept in the journal itself"
    )
    claim_slots_max: int = number(_RULES.claim_slots_max, 1, 10_000, "tasks that one claim may ask for")
    claim_wait_max_s: float = number(_RULES.claim_wait_max_s, 0.0, 3600.0, "how long a claim may wait for tasks")

    IN_ORDER = (
        ("retry_backoff_s", "retry_backoff_max_s", 1, "the longest pause is no shorter than the first"),
        ("lease_s", "worker_timeout_s", 0.5, "a worker beats three times in a lease and must not be lost between"),
    )


class EngineSettings(Section):
    """The writer's turn: how much it takes at once, how long it remembers."""

    turn_commands: int = number(_LIMITS.turn_commands, 1, 100_000, "commands in one turn")
    turn_bytes: int = number(
        _LIMITS.turn_bytes, 64 * 1024, TURN_BYTES_MOST, "bytes of one commit; a server's max_payload is 1 MB"
    )
    intake_max: int = number(
        _LIMITS.intake_max, 1, 1_000_000, "commands that may wait for a turn; further ones are turned away"
    )
    waiting_max: int = number(
        _LIMITS.waiting_max, 1, 1_000_000, "questions that may wait for their answer to become true"
    )
    wait_max_s: float = number(_LIMITS.wait_max_s, 0.05, 3600.0, "how long a question may wait")
    tick_s: float = number(_LIMITS.tick_s, 0.01, 60.0, "between two looks at what time has brought due")
    blind_after_s: float = number(
        _LIMITS.blind_after_s,
        0.1,
        3600.0,
        "after standing still for longer it calls nobody silent who may have been heard meanwhile",
    )
    query_wait_s: float = number(5.0, 0.05, 300.0, "how long a query waits for the turn it is to see")
    retention_s: float = number(
        _LIMITS.retention_s, 0.0, 365 * DAY_S, "what ended longer ago leaves memory; the store keeps it"
    )
    ended_kept: int = number(
        _LIMITS.ended_kept, 0, 10_000_000, "ended things of one kind in memory; older ones leave it"
    )
    text_chars_max: int = number(
        _RULES.text_chars_max, 64, 65_536, "characters of a reason, message or other short text"
    )


class NodeSettings(Section):
    """This machine as a node: what it offers and what runs containers on it."""

    node_id: NodeId = plain("", "name of the node; empty makes one from the host's")
    runtime: Annotated[Literal["process", "docker", "fake"], AnyCase] = plain("process", "what runs containers")
    capacity: Amounts = plain(Amounts(), "what the node offers, instead of what is found")
    cpu_overcommit: float = number(_RULES.cpu_overcommit, 0.1, 100.0, "times that each core is given away")
    node_lease_s: float = number(
        _RULES.node_lease_s, 0.2, 3600.0, "a node that was granted nothing for so long is cut off"
    )
    sync_interval_s: float = number(1.0, 0.02, 60.0, "between two comparisons of what is with what should be")
    container_creds: Location | None = plain(None, "file of NATS credentials that containers are given")

    IN_ORDER = (("sync_interval_s", "node_lease_s", 3, "one lost message must not cut the node off"),)


class LeadershipSettings(Section):
    """The writer's lease."""

    ttl_s: int = number(12, 2, 3600, "after so long without renewal the server forgets who held the lease")
    renew_s: float = number(2.0, 0.5, 1800.0, "between two renewals")
    stop_after_s: float = number(9.6, 0.5, 3600.0, "a writer whose last granted renewal is older stops")
    fresh_s: float = number(6.0, 0.5, 3600.0, "a writer answers without a commit only after a younger renewal")

    IN_ORDER = (
        ("renew_s", "fresh_s", 1, "the next renewal comes before the last is too old to answer by"),
        ("fresh_s", "stop_after_s", 1, "a writer stops answering before it stops writing"),
        ("stop_after_s", "ttl_s", 1, "a writer stops before the server forgets that it led"),
        ("renew_s", "ttl_s", 2, "a lease is renewed at least twice in its time"),
    )


class NatsSettings(Section):
    """The NATS to use, and how."""

    url: Urls = Field(default="", repr=False, description="where NATS is; empty for a server of our own")
    creds: Location | None = plain(None, "file of credentials")
    auth: Location | None = plain(None, "directory of 'coordinator auth': each process takes its role's from there")
    tls_ca: Location | None = plain(None, "file of certificates to trust")
    replicas: Replicas = number(1, 1, 5, "copies of each stream: 1, 3 or 5")
    connect_timeout_s: float = number(5.0, 0.05, 300.0, "one attempt to connect takes no longer")


class ClientSettings(Section):
    """The remote side of the doors."""

    # The writer remembers orders for ten minutes: one resent later than that could happen twice.
    call_timeout_s: float = number(30.0, 0.05, 300.0, "a call gives up after so long")
    attempt_timeout_s: float = number(2.0, 0.02, 300.0, "an attempt without answer is sent again after so long")
    discovery_refresh_s: float = number(5.0, 0.1, 3600.0, "between two looks at the loads of services chosen by load")
    discovery_stale_s: float = number(10.0, 2.0, 3600.0, "services not heard of for so long are asked for, not assumed")
    discovery_services_max: int = number(20_000, 1, 1_000_000, "with more services each discovery asks the coordinator")

    IN_ORDER = (("attempt_timeout_s", "call_timeout_s", 1, "a call consists of attempts"),)


class LogSettings(Section):
    """What is logged, and how it looks."""

    level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = plain(
        "info", "lines below it are dropped"
    )
    format: Annotated[Literal["auto", "console", "json"], AnyCase] = plain(
        "auto", "auto is console on a terminal, else json"
    )


class FeedSettings(Section):
    """The feed: every event singly, on a stream that others subscribe to."""

    mode: Literal["publish", "none"] = plain("publish", "whether followers keep the feed")
    max_age_s: float = number(DAY_S, 60.0, 365 * DAY_S, "events leave the feed after so long")
    max_bytes: int = number(2 * 1024**3, 1024 * 1024, 2**50, "above this size the oldest events leave the feed")
    window_events: int = number(1000, 1, 2000, "events sent together, for one acknowledgement")
    ack_timeout_s: float = number(10.0, 0.1, 300.0, "how long such a window may wait for its acknowledgement")
    stand_by_s: float = number(2.0, 0.05, 3600.0, "about how often a follower beside the one that feeds looks at it")


class FollowerSettings(Section):
    """The read process: what follows the journal and decides nothing."""

    archive: Location | None = plain(None, "directory of the archive, for what has left the journal")
    snapshot_events: int = number(100_000, 0, 10**9, "a snapshot is written each so many events; 0 writes none")
    snapshot_pause_s: float = number(30.0, 0.0, DAY_S, "seconds at least between two snapshots")
    snapshots_kept: int = number(3, 1, 50, "snapshots kept; older ones are removed")
    niceness: int = number(5, 0, 19, "how far it stands back when the processors are busy; what it lags it catches up")
    creds: Location | None = plain(None, "file of credentials, instead of those of nats")


class InboxSettings(Section):
    """The inboxes of other domains; what bounds a stream is applied when `coordinator inbox add` makes it."""

    max_bytes: int = number(1024**3, 1024**2, 1024**4, "bytes that one inbox keeps; the oldest messages go first")
    max_age_s: float = number(7 * DAY_S, 60.0, 365 * DAY_S, "messages older than this are gone, read or not")
    max_msg_size_bytes: int = number(512 * 1024, 1024, 960 * 1024, "largest message that an inbox takes")
    waiting_max: int = number(
        _LIMITS.inbox_max, 100, 1_000_000, "events read from one inbox that may wait for the writer"
    )
    discover_s: float = number(2.0, 0.05, 3600.0, "between two looks for new inboxes")


class RegistrySettings(Section):
    """Services: when one counts as healthy, silent, gone."""

    cleanup_interval: float = number(60.0, 0.05, DAY_S, "seconds at most between two looks for services to forget")
    health_check_interval: float = number(30.0, 0.05, DAY_S, "seconds between two checks of a service")
    heartbeat_timeout: float = number(
        _RULES.heartbeat_timeout_s, 0.05, DAY_S, "seconds of silence after which a service is offline"
    )
    max_services: int = number(_RULES.max_services, 1, 1_000_000, "services that may be registered at a time")
    health_check_networks: Networks = plain(LOOPBACK, "networks that health checks may connect to")
    health_check_timeout_s: float = number(2.0, 0.05, 300.0, "one check of a service takes no longer")
    health_checks_at_once: int = number(100, 1, 10_000, "checks under way at a time; further ones wait")
    check_rise: int = number(
        _RULES.check_rise, 1, 100, "checks in a row that must pass before a service is healthy again"
    )
    check_fall: int = number(_RULES.check_fall, 1, 100, "checks in a row that must fail before a service is unhealthy")
    deregister_after_s: float = number(
        _RULES.deregister_after_s, 0.0, 30 * DAY_S, "a service offline so long is deregistered"
    )

    mass_silence_share: float = number(
        _RULES.mass_silence_share,
        0.0,
        1.0,
        "if a larger share of services, workers or nodes falls silent at once, none is given up",
    )
    mass_silence_least: int = number(
        _RULES.mass_silence_least, 1, 1_000_000, "fewer that fall silent are given up, whatever share they are"
    )

    IN_ORDER = (("health_check_timeout_s", "health_check_interval", 1, "a check ends before the next begins"),)
