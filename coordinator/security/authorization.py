"""
Who may send which command, for which tenant, and how many: decided from rules and the world alone. Pure.

NATS authenticates the sender, by the source in the subject; this module decides what that source may do. A forbidden
command changes nothing (the engine records that it was refused), so a replay, which folds events and never decides,
does not need the rules.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.commands import COMMANDS
from coordinator.commands.command import Command
from coordinator.commands.container import CreateContainer, StopContainer
from coordinator.commands.pool import AllocatePool, DefinePool, ReleasePool
from coordinator.commands.schedule import DefineSchedule
from coordinator.commands.service import RegisterService
from coordinator.commands.session import BindSession
from coordinator.commands.task import CancelTask, ClaimTasks, CompleteTask, FailTask, SubmitTask
from coordinator.commands.worker import RegisterWorker
from coordinator.security.permissions import COMMANDS_OF, ROLES, commands_of
from events.cancel_ladder import Escalation
from events.errors import Forbidden, Refused, Unavailable, shown
from events.pool import TASKS
from projections.pool import request_of
from projections.task import SMALL_CHARS, bytes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from events.task import Payload
    from projections.indexes import Indexes, Owned
    from projections.world import World

QUEUE_RETRY_S = 5.0
_NAMES = {command: name for name, command in COMMANDS.items()}


class Quota(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Limits of a source or a tenant; None means no limit."""

    max_pending_tasks: int | None = None
    max_pending_bytes: int | None = None
    max_services: int | None = None
    max_containers: int | None = None
    max_sessions: int | None = None
    max_workers: int | None = None
    max_pools: int | None = None
    max_allocations: int | None = None
    max_schedules: int | None = None
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
_NAME_SHARES = frozenset({ReleasePool, SubmitTask})
"""The commands that name a share of a pool, which must be the source's own."""
_OVER_ALL = frozenset({"admin", "coordinator"})
"""The roles that may also release what another source holds."""


def rule_of(rules: AccessRules, source: str) -> Rule:
    """
    Return the rule of *source*: its own, that of the role in its name, or the default.

    One of its own changes nothing about whom its role acts as: a worker that has a quota is no other worker for that.
    """
    named = rules.sources.get(source)
    role, _, name = source.partition("-")
    if role not in ROLES or role == "domain":
        return rules.default if named is None else named
    field = _OWN_FIELD.get(role)
    own = (field, name) if field is not None and name else None
    needs_lease = role in _NEED_LEASE
    if named is not None:
        return msgspec.structs.replace(named, own=own, needs_lease=needs_lease)
    may = commands_of(role) if role != "coordinator" else None
    return Rule(may=may, own=own, needs_lease=needs_lease)


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The verdict for a source, a tenant and a command type: `why` it is forbidden, or what must be checked."""

    why: str = ""
    own: tuple[str, str] | None = None
    needs_lease: bool = False
    only_of: str = ""
    """The source that a share of a pool must belong to."""
    may_stop: bool = True
    """Whether a cancellation may stop a container."""
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
    both = ("source", source, rule.quota), ("tenant", tenant, rules.tenants.get(tenant, FREE))
    limits = _LIMITS_OF.get(command, ())
    quotas = tuple(one for one in both if any(getattr(one[2], limit) is not None for limit in limits))
    needs_lease = rule.needs_lease and command in (CompleteTask, FailTask)
    only_of = source if command in _NAME_SHARES and source.partition("-")[0] not in _OVER_ALL else ""
    may_stop = command is not CancelTask or rule.may is None or StopContainer in rule.may
    return Verdict(own=rule.own, needs_lease=needs_lease, only_of=only_of, quotas=quotas, may_stop=may_stop)


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
    if not found.may_stop and isinstance(command, CancelTask) and command.escalate is Escalation.CONTAINER:
        task = shown(command.task_id)
        msg = f"cancelling task {task} may stop a container, which needs container.stop: do not escalate"
        raise Forbidden(msg)
    if found.only_of:
        if isinstance(command, ReleasePool):
            _check_owner(world, found.only_of, command.pool_id, command.request_id)
        elif isinstance(command, SubmitTask) and command.request:
            _check_owner(world, found.only_of, TASKS, command.request)
    if not found.quotas:
        return
    if isinstance(command, SubmitTask):
        if not world.knows_task(command.task_id):
            _check_pending(world, found, command)
        return
    creates = _CREATES[type(command)]
    for whose, name, quota in found.quotas:
        for kind in creates(world, command, whose, name):
            _check_count(world.indexes, kind, whose, name, quota)


def _check_owner(world: World, source: str, pool_id: str, request_id: str) -> None:
    pool = world.pools.get(pool_id)
    share = None if pool is None else request_of(pool, request_id)
    # Nobody is recorded as the owner of what an older release allocated.
    if share is not None and share.source not in ("", source):
        held = f"the share {shown(request_id)} of pool {shown(pool_id)} belongs to {share.source}"
        raise Forbidden(f"{held}, not to {source}: only its owner or an administrator may release or use it")


def _check_pending(world: World, found: Verdict, command: SubmitTask) -> None:
    indexes = world.indexes
    for whose, name, quota in found.quotas:
        counts = indexes.pending_by_source if whose == "source" else indexes.pending_by_tenant
        if quota.max_pending_tasks is not None and counts.get(name, 0) >= quota.max_pending_tasks:
            msg = f"{quota.max_pending_tasks} tasks of {whose} {name} are pending, the most it may have: submit later"
            raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)
        if quota.max_pending_bytes is not None and command.payload is not None:
            _check_bytes(indexes, command.payload, whose, name, quota.max_pending_bytes)


def _check_bytes(indexes: Indexes, payload: Payload, whose: str, name: str, most: int) -> None:
    if len(payload.data) <= SMALL_CHARS:
        return
    owned, size = indexes.owned_payload_bytes, bytes_of(payload)
    held = (owned.by_source if whose == "source" else owned.by_tenant).get(name, 0)
    if held + size > most:
        msg = (
            f"{whose} {name} has {held} bytes of payloads in tasks that have not ended, of at most {most}, and this "
            f"one has {size}: submit later"
        )
        raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


# --- counts -----------------------------------------------------------------------------------------------------------


class _Kind(msgspec.Struct, frozen=True, gc=False):
    """A kind of thing of which a source or a tenant may have so many."""

    limit: str
    """The field of `Quota`."""
    plural: str
    instead: str
    owned: Callable[[Indexes], Owned]


_SERVICES = _Kind("max_services", "services", "deregister one first", attrgetter("owned_services"))
_CONTAINERS = _Kind("max_containers", "containers", "destroy one first", attrgetter("owned_containers"))
_SESSIONS = _Kind("max_sessions", "sessions", "close one first", attrgetter("owned_sessions"))
_WORKERS = _Kind("max_workers", "workers", "stop one first", attrgetter("owned_workers"))
_POOLS = _Kind("max_pools", "pools", "use one of them", attrgetter("owned_pools"))
_SCHEDULES = _Kind("max_schedules", "schedules", "delete one first", attrgetter("owned_schedules"))
_SHARES = _Kind("max_allocations", "shares of pools", "release one first", attrgetter("owned_allocations"))


def _check_count(indexes: Indexes, kind: _Kind, whose: str, name: str, quota: Quota) -> None:
    most: int | None = getattr(quota, kind.limit)
    if most is None:
        return
    owned = kind.owned(indexes)
    count = (owned.by_source if whose == "source" else owned.by_tenant).get(name, 0)
    if count >= most:
        msg = f"{whose} {name} has {count} {kind.plural}, of at most {most}: {kind.instead}"
        raise Refused(msg, reason="quota", retry_after_s=QUEUE_RETRY_S)


def _is_new(known: Any, whose: str, name: str) -> bool:
    """Return whether what is registered again counts for another source or tenant than before, or did not live."""
    if known is None or known.is_ended:
        return True
    owner = known.source if whose == "source" else known.tenant
    return bool(owner) and owner != name


def _new_service(world: World, command: RegisterService, whose: str, name: str) -> tuple[_Kind, ...]:
    return (_SERVICES,) if _is_new(world.services.get(command.service_id), whose, name) else ()


def _new_container(world: World, command: CreateContainer, whose: str, name: str) -> tuple[_Kind, ...]:
    if command.container_id in world.containers:
        return ()
    is_bound = command.session_id and _is_new(world.sessions.get(command.session_id), whose, name)
    return (_CONTAINERS, _SESSIONS) if is_bound else (_CONTAINERS,)


def _new_session(world: World, command: BindSession, whose: str, name: str) -> tuple[_Kind, ...]:
    return (_SESSIONS,) if _is_new(world.sessions.get(command.session_id), whose, name) else ()


def _new_worker(world: World, command: RegisterWorker, whose: str, name: str) -> tuple[_Kind, ...]:
    return (_WORKERS,) if _is_new(world.workers.get(command.worker_id), whose, name) else ()


def _claiming_worker(world: World, command: ClaimTasks, *_: str) -> tuple[_Kind, ...]:
    """A claim registers a worker that is not, and changes nothing about one that is."""
    known = world.workers.get(command.worker_id)
    return (_WORKERS,) if known is None or known.is_ended else ()


def _new_pool(world: World, command: DefinePool, *_: str) -> tuple[_Kind, ...]:
    return () if command.pool_id in world.pools else (_POOLS,)


def _new_share(world: World, command: AllocatePool, *_: str) -> tuple[_Kind, ...]:
    pool = world.pools.get(command.pool_id)
    return () if pool is None or request_of(pool, command.request_id) is not None else (_SHARES,)


def _new_schedule(world: World, command: DefineSchedule, whose: str, name: str) -> tuple[_Kind, ...]:
    return (_SCHEDULES,) if _is_new(world.schedules.get(command.schedule_id), whose, name) else ()


_CREATES: dict[type[Command], Callable[[World, Any, str, str], tuple[_Kind, ...]]] = {
    RegisterService: _new_service,
    CreateContainer: _new_container,
    BindSession: _new_session,
    RegisterWorker: _new_worker,
    ClaimTasks: _claiming_worker,
    DefinePool: _new_pool,
    AllocatePool: _new_share,
    DefineSchedule: _new_schedule,
}
"""What a command would add to what the named source or tenant has."""

_LIMITS_OF: dict[type[Command], tuple[str, ...]] = {
    SubmitTask: ("max_pending_tasks", "max_pending_bytes", "submits_per_s"),
    RegisterService: ("max_services",),
    CreateContainer: ("max_containers", "max_sessions"),
    BindSession: ("max_sessions",),
    RegisterWorker: ("max_workers",),
    ClaimTasks: ("max_workers",),
    DefinePool: ("max_pools",),
    AllocatePool: ("max_allocations",),
    DefineSchedule: ("max_schedules",),
}
"""The limits that a command may reach: without any of them, nothing is looked up for it."""


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
