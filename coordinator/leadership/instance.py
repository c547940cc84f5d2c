"""The configuration of one coordinator instance, which follows the journal on standby and leads when it can."""

from __future__ import annotations

import msgspec

from coordinator.bus.connection import CONNECT_TIMEOUT_S
from coordinator.deciders.rules import Limits, Rules
from coordinator.doors.inbox import InboxLimits
from coordinator.leadership.lease import FRESH_S, RENEW_S, TTL_S
from coordinator.security.authorization import AccessRules


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance reaches NATS, and its rules and limits."""

    url: str
    name: str
    version: str
    namespace: str = "coordination"
    creds: str | None = None
    tls_ca: str | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    replicas: int = 1
    rules: Rules = msgspec.field(default_factory=Rules)
    limits: Limits = msgspec.field(default_factory=Limits)
    inbox: InboxLimits = msgspec.field(default_factory=InboxLimits)
    access: AccessRules | None = None
    lease_ttl_s: int = TTL_S
    lease_renew_s: float = RENEW_S
    lease_fresh_s: float = FRESH_S
    lease_stop_s: float | None = None
    """None: 0.8 of `lease_ttl_s`."""
    seen_file: str = ""
    """File of the high-water mark; '': the mark is kept in memory only."""
    nats_store: str = ""
    """Directory where a nats-server of this machine has its store, which is asked why it cannot write; may be ''."""
    store_file: str = ""
    """File of a read model, which is a second witness of how far the journal was seen."""
    archive: str = ""
    """Directory of the archive, read only if the newest snapshot is of an older release."""
