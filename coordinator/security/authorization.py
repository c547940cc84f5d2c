"""
Who may order what, for which tenant, and how much of it: decided from rules and the world alone. Pure.

NATS vouches for who somebody is, by the source in the subject; this says what that source may do. What it says no to
changes nothing and is not recorded, so that a replay, which folds events and never decides, needs to know none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from coordinator.commands.service import RegisterService
from coordinator.commands.task import SubmitTask
from coordinator.security.permissions import COMMANDS_OF, ROLES, commands_of
from events.errors import Forbidden, Refused, Unavailable, shown

if TYPE_CHECKING:
    from projections.world import World

QUEUE_RETRY_S = 5.0
_NAMES = {command: name for name, command in COMMANDS.items()}


class Quota(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How much a source or a tenant may have or do at a time; None where there is no bound."""

    max_pending_tasks: int | None = None
    max_services: int | None = None
    submits_per_s: float | None = None
    submit_burst: int = 1
    """So many submits may come at once after a pause."""


FREE = Quota()


class Rule(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one source may: commands and tenants, None for all; `own` binds a field of commands to one value."""

    may: frozenset[type[Command]] | None = None
    tenants: frozenset[str] | None = None
    quota: Quota = FREE
    own: tuple[str, str] | None = None


class AccessRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of sources by name, that of all others, and the quotas of tenants."""

    default: Rule = Rule()
    sources: dict[str, Rule] = {}
    tenants: dict[str, Quota] = {}


_OWN_FIELD = {"worker": "worker_id", "node": "node_id"}


def rule_of(rules: AccessRules, source: str) -> Rule:
    """Say which rule holds for *source*: its own, that of the role which its name tells, or that of all others."""
    named = rules.sources.get(source)
    if named is not None:
        return named
    role, _, name = source.partition("-")
    if role not in ROLES or role == "domain":
        return rules.default
    field = _OWN_FIELD.get(role)
    own = (field, name) if field is not None and name else None
    return Rule(may=commands_of(role) if role != "coordinator" else None, own=own)


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What holds for a source, a tenant and a kind of command: `why` it is forbidden, else what is to be looked at."""

    why: str = ""
    own: tuple[str, str] | None = None
    quotas: tuple[tuple[str, str, Quota], ...] = ()
    """Whose (`source` or `tenant`), the name, and the quota."""


def verdict(rules: AccessRules, source: str, tenant: str, command: type[Command]) -> Verdict:
    """Judge all commands of one kind that *source* gives for *tenant*."""
    rule = rule_of(rules, source)
    if rule.may is not None and command not in rule.may:
        return Verdict(why=_not_among(source, command, rule.may))
    if rule.tenants is not None and tenant not in rule.tenants:
        right = ", ".join(sorted(rule.tenants)) or "none"
        return Verdict(why=f"{source} may not act for tenant {tenant!r}: its tenants are {right}")
    quotas: tuple[tuple[str, str, Quota], ...] = ()
    if command is SubmitTask or command is RegisterService:
        both = ("source", source, rule.quota), ("tenant", tenant, rules.tenants.get(tenant, FREE))
        quotas = tuple(one for one in both if one[2] != FREE)
    return Verdict(own=rule.own, quotas=quotas)


def _not_among(source: str, command: type[Command], may: frozenset[type[Command]]) -> str:
    able = ", ".join(sorted(f"{one.KIND}.{one.VERB}" for one in may)) or "nothing"
    allowed = [role for role, names in COMMANDS_OF.items() if _NAMES[command] in names and role != "coordinator"]
    return f"{source} may not {command.KIND}.{command.VERB}, but {able}: use credentials of {' or '.join(allowed)}"


def check(world: World, found: Verdict, command: Command) -> None:
    """
    Let *command* pass, or say why not.

    Raises:
        Forbidden: whoever asks may not do this. Refused: a quota is used up; the same may pass later.
    """
    if found.why:
        raise Forbidden(found.why)
    if found.own is not None:
        field, name = found.own
        given = getattr(command, field, name)
        if given not in (name, ""):
            raise Forbidden(f"{field} is {shown(given)}: these credentials are those of {name!r} alone")
    if found.quotas and isinstance(command, SubmitTask) and command.task_id not in world.tasks:
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
            msg = f"{quota.max_pending_tasks} tasks of {whose} {name} are pending, as many as it may have: submit later"
            raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


def _check_services(world: World, found: Verdict) -> None:
    indexes = world.indexes
    for whose, name, quota in found.quotas:
        counts = indexes.services_by_source if whose == "source" else indexes.services_by_tenant
        if quota.max_services is not None and counts.get(name, 0) >= quota.max_services:
            msg = f"{whose} {name} has {quota.max_services} services, as many as it may have: deregister one first"
            raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


# --- rates ------------------------------------------------------------------------------------------------------------


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What is left of a burst, as of a commit time."""

    left: float
    at: float


def poured(bucket: Bucket | None, quota: Quota, now: float) -> Bucket:
    """Say what the bucket of *quota* holds at *now*; a full one where there was none."""
    assert quota.submits_per_s is not None
    if bucket is None:
        return Bucket(float(quota.submit_burst), now)
    grown = bucket.left + max(0.0, now - bucket.at) * quota.submits_per_s
    return Bucket(min(float(quota.submit_burst), grown), max(now, bucket.at))


def too_fast(whose: str, name: str, quota: Quota, bucket: Bucket) -> Unavailable:
    """Say that *name* submits faster than its quota allows, and when it may go on."""
    assert quota.submits_per_s is not None
    wait_s = (1.0 - bucket.left) / quota.submits_per_s
    msg = f"{whose} {name} submits faster than {quota.submits_per_s:g} tasks a second: go on in {wait_s:.2g} s"
    return Unavailable(msg, reason="rate_limited", retry_after_s=wait_s)
