"""The numbers that decisions depend on, as one value made from the settings; deciders never see a settings file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from coordinator.commands.validation import check_text
from events.errors import Refused

if TYPE_CHECKING:
    from events.task import Payload


_is_sha256 = re.compile(r"[0-9a-fA-F]{64}").fullmatch


class AgentType(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of the catalogue of agents: what runs when a container of this type starts."""

    command: tuple[str, ...] = ()
    image: str = ""
    when_cut_off: str = "stop"
    stop_grace_s: float = 10.0


class Rules(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits and times of decisions; durations in seconds."""

    agents: dict[str, AgentType] = msgspec.field(
        default_factory=lambda: {"task_agent": AgentType(command=("python", "-m", "coordinator.agent"))}
    )
    max_containers: int = 100
    max_services: int = 10_000
    max_pending_tasks: int = 1_000_000
    max_concurrent_tasks: int = 100_000
    max_retries: int = 3
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
    claim_slots_max: int = 1000
    claim_wait_max_s: float = 60.0
    payload_bytes_max: int = 64 * 1024
    text_chars_max: int = 1024
    cpu_overcommit: float = 4.0


class Context(msgspec.Struct, frozen=True, gc=False):
    """What a decider may know beside the world and the order: commit time, rules, and whose order it is."""

    now: float
    rules: Rules
    tenant: str = ""
    actor: str = ""


def doubled(first_s: float, times: int, most_s: float) -> float:
    """Say how long to pause after *times* pauses that each doubled the one before, at most *most_s*."""
    # A power beyond what a float holds would raise, and what crash-loops for days gets there.
    return min(first_s * 2.0 ** min(times, 64), most_s)


def check_payload(name: str, payload: Payload | None, rules: Rules) -> None:
    """
    Accept a payload that may stand inline in the journal.

    Raises:
        Refused: it is too large, its encoding is unknown, or its digest is none.
    """
    if payload is None:
        return
    if payload.encoding not in ("json", "text", "base64"):
        msg = f"{name}.encoding {payload.encoding[:40]!r} is not known: use json, text or base64"
        raise Refused(msg, reason="bad_payload")
    size = len(payload.data) if payload.data.isascii() else len(payload.data.encode(errors="replace"))
    if size > rules.payload_bytes_max:
        msg = f"{name} has {size} bytes: at most {rules.payload_bytes_max} fit inline"
        raise Refused(msg, reason="payload_too_large")
    if not _is_sha256(payload.digest):
        msg = f"{name}.digest {payload.digest[:80]!r} is not a SHA-256 digest of 64 hexadecimal digits"
        raise Refused(msg, reason="bad_payload")
    check_text(f"{name}.ref", payload.ref, rules.text_chars_max)
