"""
Who may send which command, for which tenant, and how many: decided from rules and the world alone. Pure.

NATS authenticates the sender, by the source in the subject; this module decides what that source may do. A forbidden
command changes nothing (the engine records that it was refused), so a replay, which folds events and never decides,
does not need the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from coordinator.commands.service import RegisterService
from coordinator.commands.task import CompleteTask, FailTask, SubmitTask
from coordinator.security.permissions import COMMANDS_OF, ROLES, commands_of
from events.errors import Forbidden, Refused, Unavailable, shown

if TYPE_CHECKING:
    from projections.world import World

QUEUE_RETRY_S = 5.0
_NAMES = {command: name for name, command in COMMANDS.items()}


class Quota(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits of a source or a tenant; None means no limit."""

    max_pending_tasks: int | None = None
    max_services: int | None = None
    submits_per_s: float | None = None
    submit_burst: int = 100
    """How many submits may come at once after a pause."""


FREE = Quota()


class Rule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """
    What one source may do: commands and tenants, None for all; `own` restricts a field of commands to one value.

    One that `needs_lease` may report on the attempts it holds, not on tasks that nobody was given: see ADR 0003.
    """

    may: frozenset[type[Command]] | None = None
    tenants: frozenset[str] | None = None
    quota: Quota = FREE
    own: tuple[str, str] | None = None
    needs_lease: bool = False


class AccessRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of sources by name, the rule of all others, and the quotas of tenants."""

    default: Rule = Rule()
    sources: dict[str, Rule] = {}
    tenants: dict[str, Quota] = {}


_OWN_FIELD = {"worker": "worker_id", "node": "node_id"}
_NEED_LEASE = frozenset({"worker", "agents"})
"""The roles of those who execute tasks: what they report on was given to them."""


def rule_of(rules: AccessRules, source: str) -> Rule:
    """Return the rule of *source*: its own, that of the role in its name, or the default."""
    named = rules.sources.get(source)
    if named is not None:
        return named
    role, _, name = source.partition("-")
    if role not in ROLES or role == "domain":
        return rules.default
    field = _OWN_FIELD.get(role)
    own = (field, name) if field is not None and name else None
    may = commands_of(role) if role != "coordinator" else None
    return Rule(may=may, own=own, needs_lease=role in _NEED_LEASE)


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verdict for a source, a tenant and a command type: `why` it is forbidden, or what must be checked."""

    why: str = ""
    own: tuple[str, str] | None = None
    needs_lease: bool = False
    quotas: tuple[tuple[str, str, Quota], ...] = ()
    """Whose quota (`source` or `tenant`), the name, and the quota."""


def verdict(rules: AccessRules, source: str, tenant: str, command: type[Command]) -> Verdict:
    """Return the verdict for all commands of one type that *source* sends for *tenant*."""
    rule = rule_of(rules, source)
    if rule.may is not None and command not in rule.may:
        return Verdict(why=_not_among(source, command, rule.may))
    if rule.tenants is not None and tenant not in rule.tenants:
        allowed = ", ".join(sorted(rule.tenants)) or "none"
        return Verdict(why=f"{source} may not act for tenant {tenant!r}: its tenants are {allowed}")
    quotas: tuple[tuple[str, str, Quota], ...] = ()
    if command is SubmitTask or command is RegisterService:
        both = ("source", source, rule.quota), ("tenant", tenant, rules.tenants.get(tenant, FREE))
        quotas = tuple(one for one in both if one[2] != FREE)
    needs_lease = rule.needs_lease and command in (CompleteTask, FailTask)
    return Verdict(own=rule.own, needs_lease=needs_lease, quotas=quotas)


def _not_among(source: str, command: type[Command], may: frozenset[type[Command]]) -> str:
    able = ", ".join(sorted(f"{one.KIND}.{one.VERB}" for one in may)) or "nothing"
    allowed = [role for role, names in COMMANDS_OF.items() if _NAMES[command] in names and role != "coordinator"]
    name = f"{command.KIND}.{command.VERB}"
    return f"{source} may not send {name}, only {able}: use credentials of {' or '.join(allowed)}"


def check(world: World, found: Verdict, command: Command) -> None:
    """
    Check that *command* is allowed.

    Raises:
        Forbidden: the sender may not do this. Refused: a quota is used up; the same command may be allowed later.
    """
    if found.why:
        raise Forbidden(found.why)
    if found.own is not None:
        field, name = found.own
        given = getattr(command, field, name)
        if given not in (name, ""):
            raise Forbidden(f"{field} is {shown(given)}: these credentials are only for {name!r}")
    if found.needs_lease and isinstance(command, (CompleteTask, FailTask)) and not command.lease:
        task = shown(command.task_id)
        raise Forbidden(f"the lease of task {task} is missing: these credentials are only for whom it was given to")
    if found.quotas and isinstance(command, SubmitTask) and not world.knows_task(command.task_id):
        _check_pending(world, found)
    if found.quotas and isinstance(command, RegisterService):
        known = world.services.get(command.service_id)
        if known is None or known.is_ended:
            _check_services(world, found)


def _check_pending(world: World, found: Verdict) -> None:
    indexes = world.indexes
    for whose, name, quota in found.quotas:
        counts = indexes.pending_by_source if whose == "source" else indexes.pending_by_tenant
        if quota.max_pending_tasks is not None and counts.get(name, 0) >= quota.max_pending_tasks:
            msg = f"{quota.max_pending_tasks} tasks of {whose} {name} are pending, the most it may have: submit later"
            raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


def _check_services(world: World, found: Verdict) -> None:
    indexes = world.indexes
    for whose, name, quota in found.quotas:
        counts = indexes.services_by_source if whose == "source" else indexes.services_by_tenant
        if quota.max_services is not None and counts.get(name, 0) >= quota.max_services:
            msg = f"{whose} {name} has {quota.max_services} services, the most it may have: deregister one first"
            raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


# --- rates ------------------------------------------------------------------------------------------------------------


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """The submits left of a burst, as of a commit time."""

    left: float
    at: float


def poured(bucket: Bucket | None, quota: Quota, now: float) -> Bucket:
    """Return the bucket of *quota* refilled up to *now*; a full one if there was none."""
    assert quota.submits_per_s is not None
    if bucket is None:
        return Bucket(float(quota.submit_burst), now)
    grown = bucket.left + max(0.0, now - bucket.at) * quota.submits_per_s
    return Bucket(min(float(quota.submit_burst), grown), max(now, bucket.at))


def too_fast(whose: str, name: str, quota: Quota, bucket: Bucket) -> Unavailable:
    """Return the error that *name* submits faster than its quota allows, with the time to wait."""
    assert quota.submits_per_s is not None
    wait_s = (1.0 - bucket.left) / quota.submits_per_s
    msg = f"{whose} {name} submits faster than {quota.submits_per_s:g} tasks a second: retry in {wait_s:.2g} s"
    return Unavailable(msg, reason="rate_limited", retry_after_s=wait_s)
